"""What lines are written for: its width, its colours, and where lines end."""

import os
from typing import Self

from mountd.core.named_tuple import NamedTuple
from mountd.core.words.printable import printable

_UNBROKEN = "\x00"  # stands for a space at which no line may end; printable text has none
_NARROWEST = 40


class Page(NamedTuple):
    """What lines are written for."""

    width: int = 80
    has_colour: bool = False

    @classmethod
    def of_terminal(cls) -> Self:
        """As wide as the terminal, coloured unless NO_COLOR or TERM=dumb ask for none."""
        is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return cls(max(os.get_terminal_size().columns or 80, _NARROWEST), not is_plain)


def wrapped(text: str, width: int) -> list[str]:
    """Lines of this width. People copy paths and what stands in backticks: those stay whole."""
    text = printable(text)
    if text and len(text) <= width and text[-1] != " ":
        return [text]
    from textwrap import wrap  # noqa: PLC0415 - 2 ms, for what is longer than a line

    words: list[str] = []
    for index, part in enumerate(text.split("`")):
        words.append(part if index % 2 == 0 else f"`{part.replace(' ', _UNBROKEN)}`")
    lines = wrap("".join(words), width, break_on_hyphens=False, break_long_words=False)
    return [line.replace(_UNBROKEN, " ") for line in lines]
