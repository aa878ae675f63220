"""What is wrong with a manifest, where, and how a person is told."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mountd.core.printable import printable
from mountd.manifest.positions import Span, line_and_column

_WIDEST = 70


class Problem(NamedTuple):
    """One error: `line` and `column` from 1, None where it is the file, or the run, as a whole.

    `file` is None where it is no file's.
    """

    file: str | None
    line: int | None
    column: int | None
    message: str
    hint: str | None = None
    excerpt: str = ""
    """The line itself, and below it a caret."""
    is_missing: bool = False
    """There is nothing that could be wrong."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file or "mountd"
        lines = [printable(f"{place}: error: {self.message}")]
        if self.excerpt:
            lines.append(self.excerpt + (f" {printable(self.hint)}" if self.hint else ""))
        elif self.hint:
            lines.append(printable(f"hint: {self.hint}"))
        return "\n".join(lines)


class ManifestError(Exception):
    """The manifest is missing or wrong: everything that is, by file and in the order of its text.

    `files` are those of the manifest, in their order.
    """

    def __init__(self, problems: Iterable[Problem], files: Sequence[str] = ()) -> None:
        order = {file: number for number, file in enumerate(files)}
        self.problems = sorted(
            problems,
            key=lambda each: (order.get(each.file or "", -1), each.line or 0, each.column or 0),
        )
        self.files = tuple(files)
        super().__init__("\n".join(map(str, self.problems)))

    @property
    def is_missing(self) -> bool:
        """Whether there is no manifest, rather than a wrong one."""
        return all(each.is_missing for each in self.problems)


def problem_at(file: str, text: str, span: Span, message: str, hint: str | None = None) -> Problem:
    """A problem with the line that it is in and a caret below the characters that are wrong."""
    line, column = line_and_column(text, span.start)
    begin = span.start - column + 1
    end = text.find("\n", begin)
    source = text[begin : end if end >= 0 else len(text)].rstrip("\r").replace("\t", " ")
    source = "".join(each if each.isprintable() else "�" for each in source)
    length = max(1, min(span.end, begin + len(source)) - span.start)
    cut = max(
        0, min(column - 1 - 10, len(source) - _WIDEST)
    )  # a long line: what is round the caret
    shown, at = source[cut : cut + _WIDEST], column - 1 - cut
    carets = "^" * max(1, min(length, len(shown) - at))
    excerpt = f"{line:5} | {shown}\n      | {' ' * at}{carets}"
    return Problem(file, line, column, message, hint, excerpt)
