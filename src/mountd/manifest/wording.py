"""pydantic's errors in the words of a person who writes TOML."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from mountd.core.idmapping import Refusal
from mountd.core.words.spelling import nearest
from mountd.manifest.document import Document
from mountd.manifest.fields import OURS
from mountd.manifest.problem import Problem
from mountd.manifest.schema import (
    DefaultsTable,
    ExtentTable,
    IdmapTable,
    ManifestTable,
    VolumeTable,
)
from mountd.manifest.spans import KeyPath, dotted
from mountd.manifest.values import MOST_OPTIONS, number_in_words

_TYPES: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    list: "an array",
    dict: "a table",
}
_WANTED = {
    "string_type": "a string",
    "bool_type": "true or false",
    "int_type": "an integer",
    "list_type": "an array",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "dict_type": "a table",
}


def problems_in(
    document: Document, errors: list[ErrorDetails], names: Mapping[str, str]
) -> Iterator[Problem]:
    """The problems that a validation found; `names`: what names in it stand for others."""
    speller = _Speller()
    for error in errors:
        loc = error["loc"]
        if names:
            loc = tuple(names.get(each, each) if isinstance(each, str) else each for each in loc)
        path = _real_path(document.values, loc)
        kind, context = error["type"], error.get("ctx", {})
        if kind == "extra_forbidden":
            message = f"unknown key `{dotted(path)}`"
            yield document.problem(path, message, speller.hint(path), at_key=True)
        elif kind == "string_pattern_mismatch":  # the one pattern is that of names
            message = f"`{dotted(path)}` is no name for a volume"
            hint = "at most 64 of A-Z, a-z, 0-9, `_` and `-`, the first a letter or digit"
            yield document.problem(path, message, hint, at_key=True)
        elif kind == OURS and context["refusals"]:
            yield from _refused_extents(document, path, context["refusals"])
        else:
            predicate = _predicate(path, kind, error["input"], context)
            yield document.problem(path, f"`{dotted(path)}` {predicate or error['msg']}")


def _predicate(path: KeyPath, kind: str, value: Any, context: Mapping[str, Any]) -> str | None:
    """What is wrong with a value, to follow its key's name."""
    if kind == OURS:
        return str(context["message"])
    if kind in ("missing", "too_long"):
        too_long = f"has {len(value)} options; {MOST_OPTIONS} at most are taken"
        return too_long if kind == "too_long" else "is missing"
    if kind == "string_type" and path[-1] == "user":
        return f"must be a string or an integer, not {_type_of(value)}"
    if kind in _WANTED:
        return f"must be {_WANTED[kind]}, not {_type_of(value)}"
    if kind == "literal_error":
        return f"must be {_choices(path, context)}"
    if path == ("version",):
        return "must be 1, the one version there is"
    if kind in ("greater_than_equal", "less_than", "less_than_equal"):
        ids = "1 to 4294967295" if path[-1] == "count" else "0 to 4294967294"
        return f"must be from {ids}, not {number_in_words(value)}"
    return None


_PUT_IN = frozenset(("[key]", "word", "table"))


def _real_path(values: Any, loc: tuple[str | int, ...]) -> KeyPath:
    """A path of pydantic's without what it puts in for unions and for keys; a missing key stays."""
    if _PUT_IN.isdisjoint(loc):
        return loc
    path: list[str | int] = []
    for part in loc:
        if isinstance(values, list):
            is_there = isinstance(part, int)
        else:
            is_there = isinstance(values, dict) and part in values
        if is_there:
            values = values[part]
        if is_there or (part is loc[-1] and part not in _PUT_IN):
            path.append(part)
    return tuple(path)


class _Speller:
    """Knows the nearest known key for one that isn't known."""

    def __init__(self) -> None:
        self._hints: dict[tuple[str, type[BaseModel]], str] = {}

    def hint(self, path: KeyPath) -> str:
        """What to say of the unknown key in which a path ends."""
        asked = str(path[-1]), _table_of(path)
        if asked not in self._hints and len(self._hints) < _MOST_NEAR:
            self._hints[asked] = self._hint(*asked)
        return self._hints.get(asked) or f"known here: {', '.join(_known_keys(asked[1]))}"

    def _hint(self, key: str, table: type[BaseModel]) -> str:
        near = nearest(key, _known_keys(table))
        return f"did you mean `{near}`?" if near else ""


_MOST_NEAR = 1000
"""Of so many keys the nearest is looked for: each takes longer than all else that is said of it."""


def _table_of(path: KeyPath) -> type[BaseModel]:
    """The model of the table in which a key is."""
    match path[:-1]:
        case ():
            return ManifestTable
        case ("defaults",):
            return DefaultsTable
        case ("volumes", _):
            return VolumeTable
        case (*_, "idmap"):
            return IdmapTable
    return ExtentTable


@cache
def _known_keys(table: type[BaseModel]) -> list[str]:
    return sorted(table.model_fields)


def _refused_extents(
    document: Document, path: KeyPath, refusals: tuple[Refusal, ...]
) -> Iterator[Problem]:
    for refusal in refusals:
        where, *others = [(*path, each) for each in refusal.extents] or [path]
        hint = f"`{dotted(others[0])}` is in line {document.line_of(others[0])}" if others else None
        yield document.problem(where, f"`{dotted(where)}` {refusal.reason}", hint)


def _choices(path: KeyPath, context: Mapping[str, Any]) -> str:
    choices = str(context["expected"]).replace("'", "`").replace(" or ", ", ").split(", ")
    if path[-1] == "idmap":
        choices.append("a table of extents")
    return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))


def _type_of(value: Any) -> str:
    return _TYPES.get(type(value), "a date or time")
