"""Arguments in, exit status out."""

import gc
import os
import sys

from mountd.arguments import plain_arguments
from mountd.core.words.printable import printable_lines, with_hint
from mountd.exits import FAILED, INTERRUPTED, OK, USAGE
from mountd.report.console import open_closed, show, tell


def main() -> int:
    """Run the command that the arguments name; returns where there was none to run to its end."""
    gc.disable()  # a command ends before there is garbage to speak of
    os.umask(0o022)  # what `create` makes is 0755, whatever we were started with
    open_closed()
    try:
        if problem := _speak_utf8():
            return _misused(problem)
        if not (arguments := plain_arguments(sys.argv[1:])):
            # slow to import, as what follows is: who needs no more doesn't wait for it
            from mountd.usage import Answer, UsageError, judged_arguments  # noqa: PLC0415

            try:
                arguments = judged_arguments(sys.argv[1:])
            except UsageError as error:
                return _misused(str(error))
            except Answer as answer:
                return _show(str(answer))
        from mountd.commands import run  # noqa: PLC0415

        run(arguments)
    except MemoryError:
        _tell("mountd: out of memory; what was done so far is on record")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _misused(problem: str) -> int:
    _tell(f"mountd: {problem}", "`mountd --help` lists commands and options")
    if "--json" in sys.argv:
        from mountd.commands import usage_document  # noqa: PLC0415

        _show(usage_document(problem))
    return USAGE


def _speak_utf8() -> str | None:
    """Where the locale has another charset, start anew: paths in a manifest are UTF-8, and so ours.

    Python settles at its start how it spells the paths that it hands to the kernel. Returns a
    sentence where it can't be started anew.
    """
    if sys.getfilesystemencoding() == "utf-8" or "utf8" in sys._xoptions:  # noqa: SLF001
        return None
    try:
        with open("/proc/self/cmdline", "rb") as file:  # as it was, before the locale spoilt it
            python, *words = file.read().split(b"\0")[:-1]
        os.execv(sys.executable, [python, b"-X", b"utf8", *words])  # noqa: S606 - itself
    except OSError as error:
        return f"this locale isn't UTF-8, and Python can't be started anew: {error.strerror}"


def _show(text: str) -> int:
    """Write to stdout, and return the exit status."""
    if lost := show(text):
        _tell(f"mountd: error: {lost}")
        return FAILED
    return OK


def _tell(message: str, hint: str | None = None) -> None:
    tell(printable_lines(with_hint(message, hint)) + "\n")
