"""A line on the terminal while nothing else comes; nothing where nobody watches."""

import os
from _thread import allocate_lock
from typing import TYPE_CHECKING, Self

from mountd.core.words.printable import printable
from mountd.report.console import tell

if TYPE_CHECKING:
    from threading import Timer

_SILENCE = 0.5
"""Seconds that need no word."""


class ProgressLine:
    """What a pass does, once it has been silent for half a second; it is gone in the end."""

    def __init__(self, text: str, *, is_quiet: bool) -> None:
        self._text = text
        self._lock = allocate_lock()
        self._width = 0
        self._timer: Timer | None = None
        self._is_shown = os.isatty(2) and not is_quiet

    def __enter__(self) -> Self:
        if self._is_shown:
            from threading import Timer  # noqa: PLC0415 - only a terminal waits for it

            self._timer = Timer(_SILENCE, self._show)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def say(self, text: str) -> None:
        """Have it say this from now on."""
        with self._lock:
            self._text = text
        if self._width:
            self._show()

    def end(self) -> None:
        """Make room for other lines."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
                self._timer = None
            self._write("")

    def _show(self) -> None:
        with self._lock:
            if self._timer:
                self._write(printable(f"mountd: {self._text}…"))

    def _write(self, line: str) -> None:
        if line or self._width:  # no control sequences: a terminal may know none
            tell(f"\r{line:{self._width}}" + ("" if line else "\r"))
            self._width = len(line)
