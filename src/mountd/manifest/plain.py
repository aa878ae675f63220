"""The short way in: what is plainly right in a file needs no judge, who costs most of a start.

A table whose keys are known, whose values are of the exact types, and that none of the models' own
predicates says anything about, is accepted here, with the values that the models would give it.
All else is for the models to judge: whatever isn't plain is not wrong for that.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from mountd.core.idmapping import (
    ID_COUNT,
    IDENTITY,
    Extent,
    Extents,
    Idmapping,
    normalised,
    refusals,
)
from mountd.core.targets import normalised_path
from mountd.manifest.merge import Tables
from mountd.manifest.values import (
    MOST_OPTIONS,
    NAME,
    normalised_subdir,
    why_no_fs_type,
    why_no_option,
    why_no_owner,
    why_no_path,
    why_no_subdir,
    why_no_target,
    why_no_user,
)

_Take = Callable[[Any], Any]
"""What becomes of a value. Raises _NotPlainError."""


class _NotPlainError(Exception):
    """It is for the models to judge."""


def plain_tables(values: Mapping[str, Any], reserved: Mapping[str, str]) -> Tables | None:
    """What a file's values say; None where they aren't plainly right."""
    defaults, volumes = values.get("defaults", {}), values.get("volumes", {})
    try:
        _see(values.keys() <= {"version", "defaults", "volumes"})
        _see(type(values.get("version", 1)) is int and values.get("version", 1) == 1)
        _see(type(volumes) is dict and all(map(_NAME.fullmatch, volumes)))
        keys = {
            **_KEYS,
            "source": _text,
            "target": _by(lambda it: why_no_target(it, reserved), normalised_path),
        }
        return Tables(
            _table(defaults, _KEYS),
            {name: _table(table, keys) for name, table in volumes.items()},
        )
    except _NotPlainError:
        return None


_NAME = re.compile(NAME)


def _see(is_plain: bool) -> None:
    if not is_plain:
        raise _NotPlainError


def _table(table: Any, keys: Mapping[str, _Take]) -> dict[str, Any]:
    _see(type(table) is dict and table.keys() <= keys.keys())
    return {key: keys[key](value) for key, value in table.items()}


def _text(value: Any) -> str:
    _see(type(value) is str)
    return str(value)


def _boolean(value: Any) -> bool:
    _see(type(value) is bool)
    return bool(value)


def _by(why: Callable[[str], str | None], normal: Callable[[str], str] = str) -> _Take:
    """Take a text that a predicate has nothing to say of, as it is normalised."""

    def take(value: Any) -> str:
        _see(type(value) is str and why(value) is None)
        return normal(value)

    return take


def _one_of(*words: str) -> _Take:
    def take(value: Any) -> str:
        _see(type(value) is str and value in words)
        return str(value)

    return take


def _number(most: int) -> _Take:
    def take(value: Any) -> int:
        _see(type(value) is int and 0 <= value <= most)
        return int(value)

    return take


def _list(take: _Take) -> _Take:
    def take_all(values: Any) -> list[Any]:
        _see(type(values) is list)
        return [take(each) for each in values]

    return take_all


def _options(values: Any) -> Any:
    options = _take_options(values)
    _see(len(options) <= MOST_OPTIONS)
    return options


_take_options = _list(_by(why_no_option))


def _user(value: Any) -> Any:
    return _take_user(str(_take_id(value)) if type(value) is int else value)


_take_id = _number(ID_COUNT - 1)
_take_user = _by(why_no_user)


def _idmap(value: Any) -> Any:
    if type(value) is not dict:
        return _take_word(value)
    lists = _table(value, {"uids": _extents, "gids": _extents})
    return Idmapping(lists.get("uids", IDENTITY), lists.get("gids", IDENTITY))


_take_word = _one_of("auto", "always", "never")


def _extents(tables: Any) -> Extents:
    extents = [_extent(each) for each in _take_list(tables)]
    _see(not refusals(tuple(extents)))
    return normalised(extents)


_take_list = _list(lambda table: table)


def _extent(table: Any) -> Extent:
    numbers = _table(table, _EXTENT)
    _see(len(numbers) == len(_EXTENT))
    return Extent(**numbers)


_EXTENT = {"stored": _take_id, "seen": _take_id, "count": _number(ID_COUNT)}
_KEYS: dict[str, _Take] = {
    "type": _by(why_no_fs_type),
    "options": _options,
    "subdir": _by(why_no_subdir, normalised_subdir),
    "user": _user,
    "owner": _by(why_no_owner),
    "accounts": _by(why_no_path, normalised_path),
    "idmap": _idmap,
    "fallback": _one_of("plain", "fail"),
    "atime": _one_of("relatime", "noatime", "strictatime"),
    **dict.fromkeys(
        ("recursive", "read_only", "noexec", "nosuid", "nodev", "create", "required", "enabled"),
        _boolean,
    ),
}
