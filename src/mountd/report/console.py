"""The descriptors that a process is given, 0 to 2, whatever is behind them; text there is UTF-8.

They are written past Python's own streams, which speak the locale's charset, and at the end of the
process complain of what they could not write.
"""

import os
import select
from contextlib import suppress
from errno import EBADF
from select import PIPE_BUF


def open_closed() -> None:
    """Have descriptors 0 to 2, for no mount must get their numbers.

    One that was closed can still not be written, so that nothing is lost without a word.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)


def show(text: str) -> str | None:
    """Write to stdout. Returns a sentence if it is lost; that a reader goes (`| head`) is none."""
    try:
        _write(1, text)
    except BrokenPipeError:
        _give_up(1)
    except OSError as error:
        _give_up(1)
        why = "it is closed" if error.errno == EBADF else error.strerror
        return f"stdout can't be written: {why}"
    return None


def tell(text: str, *, may_wait: bool = True) -> None:
    """Write to stderr. That it is lost is no reason to stop halfway, nor to fail at the end.

    Raises BlockingIOError if nobody reads it and it may not wait for that.
    """
    try:
        _write(2, text, may_wait=may_wait)
    except BlockingIOError:
        raise
    except OSError:
        _give_up(2)


def see_room(descriptor: int, *, may_wait: bool) -> None:
    """Wait until something can be written. Raises BlockingIOError where that isn't so at once."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    if not poll.poll(None if may_wait else 0):
        raise BlockingIOError


def _write(number: int, text: str, *, may_wait: bool = True) -> None:
    rest = memoryview(text.encode("utf-8", "backslashreplace"))
    while rest:
        try:
            if not may_wait:
                see_room(number, may_wait=False)
            part = rest if may_wait else rest[:PIPE_BUF]  # which fits, where there is room
            rest = rest[os.write(number, part) :]
        except BlockingIOError:
            see_room(number, may_wait=may_wait)  # whoever shares it with us may have made it so


def _give_up(number: int) -> None:
    """What follows goes nowhere, and is no news."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
