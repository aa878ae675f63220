"""What is seen at a path, to be compared with what was seen there before.

Where a path leads to what somebody serves, `content` asks by a child, and the others raise
ServedError.
"""

import os
import stat
from collections.abc import Hashable

from mountd.core.named_tuple import NamedTuple
from mountd.kernel.errands import ask
from mountd.kernel.files import openat2, see_folder, st_dev, statx
from mountd.kernel.served import NoChildError, ServedError, may_wait
from mountd.kernel.syscalls import AT_NO_AUTOMOUNT, AT_STATX_DONT_SYNC, AT_SYMLINK_NOFOLLOW, Fd
from mountd.kernel.trusted import is_roots

_MOST_BYTES = 16 << 20
_ITSELF = "/."


def itself(folder: str) -> str:
    """How to name a folder of which only the folder itself is looked at, not its names."""
    return folder.rstrip("/") + _ITSELF


def is_itself(path: str) -> bool:
    """Whether it names a folder so."""
    return path.endswith(_ITSELF)


class Served(NamedTuple):
    """What was seen on a server, of which the kernel tells no events."""

    content: Hashable


SILENT = Served("no answer")


def content(path: str) -> Hashable:
    """What a file says, or which names a folder has, and who may write there; None for nothing.

    Not the times, for two saves may have the same. Of a folder that is named by `itself`, only who
    may write there.
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
            found = _content_of(file, has_names=not is_itself(path))
    except (FileNotFoundError, NotADirectoryError):
        found = None
    except OSError as error:
        found = error.errno
    return Served(found) if may_wait() else found


def _content_of(file: Fd, *, has_names: bool) -> Hashable:
    see_folder(file)
    found = os.fstat(file.number)
    owner = found.st_mode, found.st_uid, found.st_gid
    if not has_names:
        return owner
    link = f"/proc/self/fd/{file.number}"
    if stat.S_ISDIR(found.st_mode):
        return owner, tuple(sorted(os.listdir(link)))
    if not stat.S_ISREG(found.st_mode):
        return owner
    with open(os.open(link, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        return owner, hash(stream.read(_MOST_BYTES))


def identity(path: str) -> tuple[int, int] | None:
    """Which file or folder it is, as st_dev and st_ino; None where there is none."""
    try:
        with openat2(None, path, os.O_PATH, 0) as file:
            found = statx(file)
    except OSError:
        return None
    return st_dev(found.device), found.inode


def quick_identity(path: str) -> tuple[int, int] | None:
    """The same, where the path's end is no link and `is_held_by_root`.

    What is mounted at its end isn't waited for, and no automount is triggered.
    """
    try:
        flags = AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT | AT_SYMLINK_NOFOLLOW
        found = statx(None, path, flags=flags)
    except OSError:
        return None
    return st_dev(found.device), found.inode


def is_held_by_root(path: str) -> bool:
    """Whether root alone can change where a path leads, or mount something on its way."""
    try:
        return is_roots(os.path.dirname(path)) and not os.path.islink(path)
    except ServedError:
        return False


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
            link = f"/proc/self/fd/{file.number}"
            return os.readlink(link) if os.access(link, os.R_OK) else None
    except (OSError, ServedError):
        return None
