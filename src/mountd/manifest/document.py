"""A TOML file as text and as values, which knows where each value stands in the text."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

import tomli

from mountd.manifest.problem import Lines, ManifestError, Problem
from mountd.manifest.spans import KeyPath, Span

if TYPE_CHECKING:  # as what else is loaded below, it is for those alone who have made a mistake
    from mountd.manifest.positions import Positions
    from mountd.manifest.syntax import SyntaxFault

_MOST_DOTS = 100  # in a line: a key of many parts costs tomli their square


class Document:
    """One file's text, and the values in it."""

    def __init__(self, file: str, content: bytes) -> None:
        """Raises ManifestError where it is not UTF-8, or no TOML."""
        self.file = file
        self.text = self._decoded(content.removeprefix(b"\xef\xbb\xbf"))  # a byte order mark
        self.values = self._parsed()

    def problem(
        self, path: KeyPath, message: str, hint: str | None = None, *, at_key: bool = False
    ) -> Problem:
        """A problem with the value at a key path, or the key; if there is none, with its table."""
        key, value = self._positions.nearest(path)
        return self._lines.problem(self.file, key if at_key else value, message, hint)

    def line_of(self, path: KeyPath) -> int:
        """The line in which a key path gets its value."""
        return self._lines.number(self._positions[path].value.start)

    def text_of_line(self, line: int) -> str:
        """A line of the text, from 1, without what is blank around it."""
        start, end = (self._lines.offset(each, 1) for each in (line, line + 1))
        return self.text[start:end].strip()

    @cached_property
    def _positions(self) -> "Positions":
        from mountd.manifest.positions import locate  # noqa: PLC0415

        return locate(self.text)

    @cached_property
    def _lines(self) -> Lines:
        return Lines(self.text)

    def _decoded(self, content: bytes) -> str:
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            before = content[: error.start].decode()
            text = before + content[error.start :].decode(errors="replace")
            span = Span(len(before), len(before) + 1)
            message = f"byte {content[error.start]:#04x} is not UTF-8, as TOML must be"
            raise ManifestError([Lines(text).problem(self.file, span, message)]) from None

    def _parsed(self) -> dict[str, Any]:
        fault = None
        if any(line.count(".") > _MOST_DOTS for line in self.text.split("\n")):
            from mountd.manifest.syntax import explain_parts  # noqa: PLC0415

            fault = explain_parts(self.text)
        try:
            if not fault:
                return tomli.loads(self.text)
        except (ValueError, RecursionError) as error:
            fault = self._explained(error)
        span, message, hint = fault
        raise ManifestError([self._lines.problem(self.file, span, message, hint)])

    def _explained(self, error: ValueError | RecursionError) -> "SyntaxFault":
        from mountd.manifest.syntax import explain_excess, explain_syntax  # noqa: PLC0415

        if not isinstance(error, tomli.TOMLDecodeError):
            return explain_excess(self.text)
        # its offset is into a text in which a line ends in \n alone
        offset = self._lines.offset(error.lineno, error.colno)
        return explain_syntax(self.text, error.msg, offset)
