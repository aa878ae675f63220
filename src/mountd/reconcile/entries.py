"""The record's entries as JSON's values, and back; whatever we didn't write so is a ValueError."""

import os
import re
from functools import lru_cache
from json import JSONEncoder
from typing import Any, Literal, cast, get_args

from mountd.core.idmapping import Extents, Idmapping, kernel_text, parsed_text
from mountd.core.model import Fault, Ids, Reason, Refused
from mountd.core.mounts import Base, Managed

_encode = JSONEncoder().encode
_MOST_ID = (1 << 63) - 1
_MOST_OWNER = (1 << 32) - 1
FaultState = Literal["pending", "failed", "conflict"]
_STATES = get_args(FaultState)
_REASONS = frozenset(get_args(Reason))
_BASE_NAME = "[0-9a-f]{32}"
_EXTENT = r"(?a)\d{1,10} \d{1,10} \d{1,10}"


def to_json(managed: Managed) -> str:
    """A mount, as the record has it."""
    fields: dict[str, Any] = dict(zip(managed._fields, managed, strict=True))
    idmap = fields.pop("idmap")
    if refused := managed.refused:
        fields["refused"] = {
            "idmap": refused.idmap and [kernel_text(each).decode() for each in refused.idmap],
            **refused.fault._asdict(),
        }
    head = _encode(fields)
    return f'{head[:-1]}, "idmap": {_idmap_to_json(idmap)}}}'


@lru_cache(1024)  # volumes of one owner and one user have the same
def _idmap_to_json(idmap: Idmapping | None) -> str:
    return _encode(idmap and [kernel_text(extents).decode() for extents in idmap])


def managed_from(values: Any) -> dict[int, Managed]:
    """The mounts, by id. Raises ValueError, or LookupError where a field is missing."""
    found = {each.id: each for each in map(_managed, as_list(values))}
    if len(found) != len(values):
        raise ValueError("a mount is in it twice")
    return found


def bases_from(values: Any) -> dict[str, Base]:
    """The raw mounts of filesystems, by name. Raises ValueError."""
    return {name: _base(name, value) for name, value in as_dict(values).items()}


def as_dict(value: Any) -> dict[str, Any]:
    """An object, as it is. Raises ValueError."""
    if type(value) is not dict:
        raise ValueError("there is something else where an object should be")
    return value


def as_list(value: Any) -> list[Any]:
    """A list, as it is. Raises ValueError."""
    if type(value) is not list:
        raise ValueError("there is something else where a list should be")
    return value


def as_text(value: Any) -> str:
    """A text that the kernel could have told us. Raises ValueError."""
    if type(value) is not str or "\0" in value:
        raise ValueError("there is something else where a text should be")
    os.fsencode(value)  # or UnicodeEncodeError, a ValueError: surrogates of no byte
    return value


def as_path(value: Any) -> str:
    """An absolute path without `.`, `..` or empty names. Raises ValueError."""
    path = as_text(value)
    if not path.startswith("/") or (
        path != "/" and not {"", ".", ".."}.isdisjoint(path[1:].split("/"))
    ):
        raise ValueError("there is something else where a path should be")
    return path


def as_number(value: Any, least: int, most: int) -> int:
    """A whole number in this range. Raises ValueError."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"there is something else where a number up to {most} should be")
    return value


def _managed(value: Any) -> Managed:
    each = as_dict(value)
    uid, gid = as_list(each["owner"])
    return Managed(
        _id(each["id"]),
        as_text(each["volume"]),
        as_text(each["source"]),
        as_path(each["target"]),
        as_text(each["manifest"]),
        Ids(as_number(uid, 0, _MOST_OWNER), as_number(gid, 0, _MOST_OWNER)),
        _idmap(each["idmap"]),
        _base_name(each["filesystem"]) if each["filesystem"] != "" else "",
        tuple(map(_id, as_list(each["submounts"]))),
        None if each["refused"] is None else _refused(as_dict(each["refused"])),
        device=as_number(each["device"], 0, _MOST_ID),
        root=as_text(each["root"]),
    )


def _id(value: Any) -> int:
    return as_number(value, 1, _MOST_ID)


def _base(name: str, value: Any) -> Base:
    if type(value) is int:  # of a mountd that knew no more of it
        return Base(_id(value), _base_name(name))
    fields = as_dict(value)
    return Base(
        _id(fields["id"]),
        _base_name(name),
        as_text(fields["type"]),
        as_text(fields["source"]),
        tuple(map(as_text, as_list(fields.get("ignored", [])))),
    )


def _base_name(value: Any) -> str:
    """As `Filesystem.name` makes them: it becomes part of a path."""
    if type(value) is not str or not re.fullmatch(_BASE_NAME, value):
        raise ValueError("there is something else where a filesystem's name should be")
    return value


def _refused(fields: dict[str, Any]) -> Refused:
    state, code, hint = as_text(fields["state"]), as_text(fields["code"]), fields["hint"]
    if state not in _STATES or code not in _REASONS:
        raise ValueError("there is something else where a reason should be")
    fault = Fault(
        cast("FaultState", state),
        cast("Reason", code),
        as_text(fields["message"]),
        None if hint is None else as_text(hint),
        as_number(fields["errno"], 0, 4095),
        step=as_text(fields["step"]),
        object=as_text(fields["object"]),
    )
    return Refused(_idmap(fields["idmap"]), fault)


def _idmap(value: Any) -> Idmapping | None:
    if value is None:
        return None
    uids, gids = map(as_text, as_list(value))
    return Idmapping(_extents(uids), _extents(gids))


@lru_cache(1024)
def _extents(text: str) -> Extents:
    lines = text.splitlines()
    if not lines or not all(re.fullmatch(_EXTENT, each) for each in lines):
        raise ValueError("there is something else where an idmapping should be")
    return parsed_text(tuple(line.encode() for line in lines))
