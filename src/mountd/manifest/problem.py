"""What is wrong with a manifest, where, and how a person is told."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

from mountd.core.named_tuple import NamedTuple
from mountd.core.words.printable import printable_lines, with_hint
from mountd.manifest.spans import Span

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
    is_silent: bool = False
    """It can't be read now, for its server doesn't answer."""

    @property
    def lines(self) -> list[str]:
        """As a person reads it: beside the caret the hint needs no word."""
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file or "mountd"
        error = f"{place}: error: {self.message}"
        if not self.excerpt:
            return with_hint(error, self.hint)
        hint = f" {self.hint}" if self.hint else ""
        return [error, *f"{self.excerpt}{hint}".split("\n", 1)]

    def __str__(self) -> str:
        return printable_lines(self.lines)


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
        super().__init__()

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))

    @property
    def is_missing(self) -> bool:
        """Whether there is no manifest, rather than a wrong one."""
        return all(each.is_missing for each in self.problems)

    @property
    def is_silent(self) -> bool:
        """Whether it can't be read now, whatever it may say."""
        return any(each.is_silent for each in self.problems)


class Lines:
    """A text by its lines: where each begins is looked up once, however much is wrong with it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts = [0, *accumulate(len(line) + 1 for line in text.split("\n"))]

    def offset(self, line: int, column: int) -> int:
        """Where this column of this line is, both from 1."""
        return min(self._starts[line - 1] + column - 1, len(self._text))

    def number(self, offset: int) -> int:
        """The line that an offset is in, from 1."""
        return bisect_right(self._starts, offset)

    def problem(self, file: str, span: Span, message: str, hint: str | None = None) -> Problem:
        """A problem with its line and a caret below the characters that are wrong.

        Of a long line only what is round the caret is shown, or looked at.
        """
        start, stop = span
        line = bisect_right(self._starts, start)
        begin, end = self._starts[line - 1], self._starts[line] - 1
        if self._text.endswith("\r", begin, end):
            end -= 1
        at = start - begin
        cut = max(0, min(at - 10, end - begin - _WIDEST))
        shown = self._text[begin + cut : min(begin + cut + _WIDEST, end)].replace("\t", " ")
        if not shown.isprintable():
            shown = "".join(each if each.isprintable() else "�" for each in shown)
        carets = "^" * max(1, min(stop - start, len(shown) - at + cut))
        excerpt = f"{line:5} | {shown}\n      | {' ' * (at - cut)}{carets}"
        return Problem(file, line, at + 1, message, hint, excerpt)
