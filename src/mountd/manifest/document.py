"""A TOML file as text and as values, which knows where each value stands in the text."""

import re
from functools import cached_property
from typing import Any

import tomli

from mountd.manifest.positions import KeyPath, Position, Span, line_and_column, locate
from mountd.manifest.problem import ManifestError, Problem, problem_at
from mountd.manifest.syntax import explain_syntax


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
        while path not in self._positions:
            path = path[:-1]
            if not path:
                return problem_at(self.file, self.text, Span(0, 0), message, hint)
        key, value = self._positions[path]
        return problem_at(self.file, self.text, key if at_key else value, message, hint)

    def line_of(self, path: KeyPath) -> int:
        """The line in which a key path gets its value."""
        return line_and_column(self.text, self._positions[path].value.start)[0]

    @cached_property
    def _positions(self) -> dict[KeyPath, Position]:
        return locate(self.text)

    def _decoded(self, content: bytes) -> str:
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            before = content[: error.start].decode()
            text = before + content[error.start :].decode(errors="replace")
            span = Span(len(before), len(before) + 1)
            message = f"byte {content[error.start]:#04x} is not UTF-8, as TOML must be"
            raise ManifestError([problem_at(self.file, text, span, message)]) from None

    def _parsed(self) -> dict[str, Any]:
        try:
            return tomli.loads(self.text)
        except tomli.TOMLDecodeError as error:
            # its offset is into a text in which a line ends in \n alone
            starts = [0, *(i + 1 for i, each in enumerate(self.text) if each == "\n")]
            offset = min(starts[error.lineno - 1] + error.colno - 1, len(self.text))
            span, message, hint = explain_syntax(self.text, error.msg, offset)
            message = f"not TOML: {message}"
        except (ValueError, RecursionError):
            offset, message = self._beyond()
            span, hint = Span(offset, offset + 1), None
        raise ManifestError([problem_at(self.file, self.text, span, message, hint)]) from None

    def _beyond(self) -> tuple[int, str]:
        """Where something is beyond what the parser takes, for it doesn't say; and what it is."""
        for pattern, what in _BEYOND:
            if found := pattern.search(self.text):
                return found.start(), f"{what} can't be read"
        return 0, "this is TOML that can't be read"


_BEYOND = (
    (re.compile(r"(?<![0-9_])[0-9][0-9_]{4000,}"), "a number of so many digits"),
    (re.compile(r"(?:[\[{][^\[{\]}]*){50,}"), "what is nested so deeply"),
    (re.compile(r"(?<![\w-])(?:[\w-]+\s*\.\s*){50,}"), "a key of so many parts"),
)
