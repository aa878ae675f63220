"""Where each key path of a TOML document stands in its text.

The parser gives values and no positions. This scans the text a second time, once the parser has
accepted it, and so judges nothing: it only has to tell names, values and brackets apart.
"""

import re
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

from mountd.core.printable import printable

KeyPath = tuple[str | int, ...]
"""Names from the root down; an int is an index into an array, or into an array of tables."""


class Span(NamedTuple):
    """Characters of the text, from `start` to before `end`."""

    start: int
    end: int


class Position(NamedTuple):
    """Where a key path is named, and where it gets its value.

    A table's value is its header. One that no header defines has only its name, where that first
    occurs, and an element of an array has only its value: both spans are then the same.
    """

    key: Span
    value: Span


class _Container(NamedTuple):
    """An array or inline table whose closing bracket is still to come."""

    path: KeyPath
    key: Span | None
    start: int
    indexes: Iterator[int] | None  # an array's; None in an inline table


# In an accepted text, what stands between two tokens tells nothing that their order does not.
_BETWEEN = re.compile(r"(?:[ \t\r\n,=]+|#[^\n]*)*")
_NAME = re.compile(r"""[ \t]*("[^"\\]*(?:\\.[^"\\]*)*"|'[^']*'|[A-Za-z0-9_-]+)[ \t]*(\.?)""")
# A string of many lines may end in up to two quotes of its own; a date may have a space in it.
_SCALAR = re.compile(
    r"""
      "{3} (?: [^"\\]+ | \\. | " )*? "{3,5}
    | '{3} .*? '{3,5}
    | " [^"\\]* (?: \\. [^"\\]* )* "
    | ' [^']* '
    | [^\s,\]}#]+ (?: [ ] [0-9] [^\s,\]}#]* )?
    """,
    re.DOTALL | re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(x..|u.{4}|U.{8}|.)")
_ESCAPED = dict(zip('btnfre"\\', '\b\t\n\f\r\x1b"\\', strict=True))


def locate(text: str) -> dict[KeyPath, Position]:
    """The position of every key path in a text that a TOML parser has accepted."""
    found: dict[KeyPath, Position] = {}
    newest: dict[KeyPath, int] = {}  # the last index of each array of tables
    table: KeyPath = ()
    unclosed: list[_Container] = []  # no recursion: the parser's limit is not Python's
    at = 0
    while (at := _match(_BETWEEN, text, at).end()) < len(text):
        inner = unclosed[-1] if unclosed else None
        key: Span | None = None
        if inner and text[at] in "]}":
            path, key, start, _ = unclosed.pop()
            at += 1
        elif not inner and text[at] == "[":
            table, at = _header(text, at, found, newest)
            continue
        else:
            if inner and inner.indexes:
                path = (*inner.path, next(inner.indexes))
            else:
                names, at = _names(text, at)
                path, key = _descend(inner.path if inner else table, names, found, newest)
                at = _match(_BETWEEN, text, at).end()
            if text[at] in "[{":
                unclosed.append(_Container(path, key, at, count() if text[at] == "[" else None))
                at += 1
                continue
            start, at = _match(_SCALAR, text, at).span()
        value = Span(start, at)
        found[path] = Position(key or value, value)
    return found


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """The line and the column of an offset, both from 1; a column is a character."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def dotted(path: KeyPath) -> str:
    """A key path as people write it: `volumes.cache.idmap.uids[1].count`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part.replace("-", "").replace("_", "")
            quoted = part if bare.isascii() and bare.isalnum() else f'"{part}"'
            text += f".{quoted}" if text else quoted
    return printable(text if len(text) <= 200 else f"{text[:199]}…")


def _header(
    text: str, start: int, found: dict[KeyPath, Position], newest: dict[KeyPath, int]
) -> tuple[KeyPath, int]:
    """The table that a header opens, and the header's end."""
    brackets = 2 if text.startswith("[[", start) else 1
    names, at = _names(text, start + brackets)
    end = at + brackets
    path, key = _descend((), names, found, newest)
    position = Position(key, Span(start, end))
    if brackets == 2:
        found.setdefault(path, position)  # the array is where its first table is
        newest[path] = newest.get(path, -1) + 1
        path = (*path, newest[path])
    found[path] = position  # a definition, so it replaces a mere mention
    return path, end


def _descend(
    path: KeyPath,
    names: list[tuple[str, Span]],
    found: dict[KeyPath, Position],
    newest: dict[KeyPath, int],
) -> tuple[KeyPath, Span]:
    """The path and the span of the last name; the tables on the way to it count as mentioned."""
    *parents, (last, key) = names
    for name, span in parents:
        path = (*path, name)
        found.setdefault(path, Position(span, span))
        if path in newest:
            path = (*path, newest[path])
    return (*path, last), key


def _names(text: str, at: int) -> tuple[list[tuple[str, Span]], int]:
    """The names of a dotted key, and the offset of what follows it."""
    names = []
    dot = "."
    while dot:
        match = _match(_NAME, text, at)
        names.append((_decoded(match[1]), Span(*match.span(1))))
        at, dot = match.end(), match[2]
    return names, at


def _decoded(name: str) -> str:
    if name[0] == '"':
        return _ESCAPE.sub(_unescaped, name[1:-1])
    return name.strip("'")


def _unescaped(escape: re.Match[str]) -> str:
    letter, digits = escape[1][0], escape[1][1:]
    return chr(int(digits, 16)) if digits else _ESCAPED[letter]


def _match(pattern: re.Pattern[str], text: str, at: int) -> re.Match[str]:
    match = pattern.match(text, at)
    assert match, f"no parser accepts this text at offset {at}"
    return match
