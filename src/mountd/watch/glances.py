"""What is seen at a path, to be compared with what was seen there before.

Where a path leads to what somebody serves, `content` asks by a child, and the others raise
ServedError.
"""

import os
import stat
from collections.abc import Hashable
from typing import NamedTuple

from mountd.kernel.errands import ask
from mountd.kernel.files import openat2, see_folder, st_dev, statx
from mountd.kernel.served import NoChildError, ServedError, may_wait
from mountd.kernel.syscalls import Fd

_MOST_BYTES = 16 << 20


class Served(NamedTuple):
    """What was seen on a server, of which the kernel tells no events."""

    content: Hashable


SILENT = Served("no answer")


def content(path: str) -> Hashable:
    """What a file says, or which names a folder has, and who may write there; None for nothing.

    Not the times, for two saves may have the same.
    """
    try:
        found = ask(_content, path)
    except (TimeoutError, NoChildError):
        return SILENT
    return found


def _content(path: str) -> Hashable:
    found: Hashable
    try:
        with openat2(None, path, os.O_PATH, 0) as file:
            found = _content_of(file)
    except (FileNotFoundError, NotADirectoryError):
        found = None
    except OSError as error:
        found = error.errno
    return Served(found) if may_wait() else found


def _content_of(file: Fd) -> Hashable:
    see_folder(file)
    found = os.fstat(file.number)
    owner = found.st_mode, found.st_uid, found.st_gid
    itself = f"/proc/self/fd/{file.number}"
    if stat.S_ISDIR(found.st_mode):
        return owner, tuple(sorted(os.listdir(itself)))
    if not stat.S_ISREG(found.st_mode):
        return owner
    with open(os.open(itself, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        return owner, hash(stream.read(_MOST_BYTES))


def identity(path: str) -> tuple[int, int] | None:
    """Which file or folder it is, as st_dev and st_ino; None where there is none."""
    try:
        with openat2(None, path, os.O_PATH, 0) as file:
            found = statx(file)
    except OSError:
        return None
    return st_dev(found.device), found.inode


def stamp(path: str) -> Hashable:
    """Which file or folder it is, and when it, or who may write it, was last changed.

    None where there is none, or it can't be reached. Raises ServedError.
    """
    try:
        with openat2(None, path, os.O_PATH, 0) as file:
            see_folder(file)
            return _stamp(os.fstat(file.number))
    except OSError:
        return None


def quick_stamp(path: str) -> Hashable:
    """The same, at a tenth of the price, of a path on which nobody but root could put a server."""
    try:
        return _stamp(os.stat(path))
    except OSError:
        return None


def _stamp(found: os.stat_result) -> Hashable:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def end_of(path: str) -> str | None:
    """Where a path ends, links followed; None where there is nothing, or it can't be read."""
    try:
        with openat2(None, path, os.O_PATH, 0) as file:
            see_folder(file)
            itself = f"/proc/self/fd/{file.number}"
            return os.readlink(itself) if os.access(itself, os.R_OK) else None
    except (OSError, ServedError):
        return None
