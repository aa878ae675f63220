"""Where each key path of a TOML document stands in its text.

The parser gives values and no positions. This scans the text a second time, once the parser has
accepted it, and so judges nothing: it only has to tell names, values and brackets apart.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import count

from mountd.core.named_tuple import NamedTuple
from mountd.manifest.spans import KeyPath, Span


class Position(NamedTuple):
    """Where a key path is named, and where it gets its value.

    A table's value is its header. One that no header defines has only its name, where that first
    occurs, and an element of an array has only its value: both spans are then the same.
    """

    key: Span
    value: Span


_Span = tuple[int, int]  # a third of a NamedTuple's price, and there may be a million


class _Node:
    """A key path, by the node above it and its own part; a copy of it would be as long as it is."""

    __slots__ = ("above", "below", "key", "newest", "part", "value")

    def __init__(self, above: "_Node | None" = None, part: str | int = "") -> None:
        self.above = above
        self.part = part
        self.below: dict[str | int, _Node] | None = None
        self.key: _Span | None = None
        self.value: _Span | None = None
        self.newest = -1
        """The last index of an array of tables."""

    def at(self, part: str | int) -> "_Node":
        """The node of one part more, made where it is new."""
        if self.below is None:
            self.below = {}
        if (node := self.below.get(part)) is None:
            node = self.below[part] = _Node(self, part)
        return node

    @property
    def path(self) -> KeyPath:
        parts: list[str | int] = []
        node = self
        while node.above:
            parts.append(node.part)
            node = node.above
        return tuple(reversed(parts))


class Positions(Mapping[KeyPath, Position]):
    """The position of every key path, in the order of the tree; nearly all that the text is long.

    What is held for each path doesn't grow with the path's length.
    """

    def __init__(self, root: _Node) -> None:
        self._root = root

    def __getitem__(self, path: KeyPath) -> Position:
        node = self._root
        for part in path:
            node = (node.below or {})[part]
        if not (node.key and node.value):
            raise KeyError(path)
        return Position(Span(*node.key), Span(*node.value))

    def nearest(self, path: KeyPath) -> Position:
        """The position of a path, or of the nearest table above it that has one."""
        key = value = (0, 0)
        node = self._root
        for part in path:
            if not (node.below and part in node.below):
                break
            node = node.below[part]
            if node.key and node.value:
                key, value = node.key, node.value
        return Position(Span(*key), Span(*value))

    def __iter__(self) -> Iterator[KeyPath]:
        return (node.path for node in self._nodes())

    def __len__(self) -> int:
        return sum(1 for _ in self._nodes())

    def named_from(self, offset: int) -> list[KeyPath]:
        """The paths that are named at this offset of the text, or behind it, in their order."""
        found = [(node.key[0], node) for node in self._nodes() if node.key]
        later = sorted((each for each in found if each[0] >= offset), key=lambda each: each[0])
        return [node.path for _, node in later]

    def last_header(self) -> KeyPath:
        """The table of the last header."""
        last, start = self._root, -1
        for node in self._nodes():
            key, value = node.key, node.value
            if key and value and start < value[0] < key[0]:
                last, start = node, value[0]
        return last.path

    def _nodes(self) -> Iterator[_Node]:
        todo = [self._root]
        while todo:
            node = todo.pop()
            if node.above:
                yield node
            if node.below:
                todo += reversed(node.below.values())


class _Container(NamedTuple):
    """An array or inline table whose closing bracket is still to come."""

    node: _Node
    key: _Span | None
    start: int
    indexes: Iterator[int] | None  # an array's; None in an inline table


# Separators are skipped: in valid TOML the order of tokens is enough.
_BETWEEN = re.compile(r"(?:[ \t\r\n,=]+|#[^\n]*)*")
_NAME = re.compile(r"""[ \t]*("[^"\\]*(?:\\.[^"\\]*)*"|'[^']*'|[A-Za-z0-9_-]+)[ \t]*(\.?)""")
_WORD = re.compile(r"[^\s,\]}#]+(?: [0-9][^\s,\]}#]*)?")  # a date may have a space in it
# What comes next in a string that isn't its text; one of many lines may end in up to two quotes of
# its own. No pattern here repeats a group over a whole string: that takes 80 bytes of stack for
# each escape, and possessive repeats, which take none, match wrongly before Python 3.11.4.
_IN_STRING = {
    '"': re.compile(r'\\.|["\n]', re.DOTALL),
    '"""': re.compile(r'\\.|"{3,5}', re.DOTALL),
    "'": re.compile(r"['\n]"),
    "'''": re.compile(r"'{3,5}"),
}
_ESCAPE = re.compile(r"\\(x..|u.{4}|U.{8}|.)")
_ESCAPED = dict(zip('btnfre"\\', '\b\t\n\f\r\x1b"\\', strict=True))


def locate(text: str) -> Positions:
    """The position of every key path in a text that a TOML parser has accepted."""
    root = table = _Node()
    unclosed: list[_Container] = []  # no recursion: the parser's limit is not Python's
    at = 0
    while (at := _match(_BETWEEN, text, at).end()) < len(text):
        inner = unclosed[-1] if unclosed else None
        key: _Span | None = None
        if inner and text[at] in "]}":
            node, key, start, _ = unclosed.pop()
            at += 1
        elif not inner and text[at] == "[":
            table, at = _header(text, at, root)
            continue
        else:
            if inner and inner.indexes:
                node = inner.node.at(next(inner.indexes))
            else:
                names, at = _names(text, at)
                node, key = _descend(inner.node if inner else table, names)
                at = _match(_BETWEEN, text, at).end()
            if text[at] in "[{":
                unclosed.append(_Container(node, key, at, count() if text[at] == "[" else None))
                at += 1
                continue
            start, at = at, _scalar_end(text, at)
        node.value = start, at
        node.key = key or node.value
    return Positions(root)


# As far as it goes without knowing what is a name and what a value.
_LEXEME = re.compile(r"""#[^\n]*|(?P<bracket>[\[\]{}])|(?P<newline>\n)|(?P<bare>[^"'#\[\]{}\n]+)""")


class Lexeme(NamedTuple):
    """A string, a bracket, a comment, a newline, or what is between these: `is_bare`.

    `depth`: how many brackets are open behind it. `starts_statement`: it is the first of one, or
    the line's that it would begin with.
    """

    span: Span
    depth: int
    is_bare: bool
    starts_statement: bool


def lexemes(text: str) -> Iterator[Lexeme]:
    """Those of a text that need be TOML only in part: up to where a string isn't closed."""
    at = depth = 0
    is_first = True
    while at < len(text):
        start, kind = at, None
        if text[at] in "\"'":
            at, is_closed = _string_end(text, at)
        else:
            found = _match(_LEXEME, text, at)
            at, is_closed, kind = found.end(), True, found.lastgroup
        if kind == "bracket":
            depth += 1 if text[start] in "[{" else -1
        yield Lexeme(Span(start, at), depth, kind == "bare", is_first)
        if not is_closed:
            return
        is_first = kind == "newline" and not depth


def _scalar_end(text: str, at: int) -> int:
    """Where a value ends that is no array and no table."""
    return _string_end(text, at)[0] if text[at] in "\"'" else _match(_WORD, text, at).end()


def _string_end(text: str, at: int) -> tuple[int, bool]:
    """Where a string ends that begins here; the end of its first quotes, False: it isn't closed."""
    quote = text[at] * 3 if text.startswith(text[at] * 3, at) else text[at]
    begin = end = at + len(quote)
    while found := _IN_STRING[quote].search(text, end):
        end = found.end()
        if found[0][0] == quote[0]:
            return end, True
        if found[0] == "\n":
            break
    return begin, False


def statement_start(text: str, at: int) -> int:
    """Where the statement begins at which a parser gave up, at this offset; before it is TOML."""
    start = 0
    for lexeme in lexemes(text):
        if lexeme.span.start >= at:
            break
        if lexeme.starts_statement:
            start = lexeme.span.start
    return start


def line_and_column(text: str, offset: int) -> tuple[int, int]:
    """The line and the column of an offset, both from 1; a column is a character."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _header(text: str, start: int, root: _Node) -> tuple[_Node, int]:
    """The table that a header opens, and the header's end."""
    brackets = 2 if text.startswith("[[", start) else 1
    names, at = _names(text, start + brackets)
    end = at + brackets
    node, key = _descend(root, names)
    value = start, end
    if brackets == 2:
        if not node.key:  # the array is where its first table is
            node.key, node.value = key, value
        node.newest += 1
        node = node.at(node.newest)
    node.key, node.value = key, value  # a definition, so it replaces a mere mention
    return node, end


def _descend(node: _Node, names: list[tuple[str, _Span]]) -> tuple[_Node, _Span]:
    """The node and the span of the last name; the tables on the way to it count as mentioned."""
    *parents, (last, key) = names
    for name, span in parents:
        node = node.at(name)
        if not node.key:
            node.key = node.value = span
        if node.newest >= 0:
            node = node.at(node.newest)
    return node.at(last), key


def _names(text: str, at: int) -> tuple[list[tuple[str, _Span]], int]:
    """The names of a dotted key, and the offset of what follows it."""
    names = []
    dot = "."
    while dot:
        match = _match(_NAME, text, at)
        names.append((_decoded(match[1]), match.span(1)))
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
