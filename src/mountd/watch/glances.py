"""What is seen at a path, to be compared with what was seen there before.

Where a path leads to what somebody serves, `content` asks by a child, and the others raise
ServedError.
"""

import os
import stat
from collections.abc import Hashable
from typing import NamedTuple

from mountd.kernel.paths import see
from mountd.kernel.patience import ask
from mountd.kernel.served import NoChildError, ServedError, may_wait
from mountd.kernel.syscalls import AT_STATX_DONT_SYNC, Fd, openat2, see_folder, st_dev, statx

_MOST_LINKS = 40
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
    """Which file it is, and when it was last written."""
    try:
        with openat2(None, path, os.O_PATH, 0) as file:
            see_folder(file)
            found = os.fstat(file.number)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def trail(path: str) -> tuple[dict[str, str | None], str | None]:
    """The symlinks and missing names along a path, and the path that it resolves to.

    The latter is None if it doesn't resolve. Of what is served nothing is listed.
    """
    try:
        see(path)
        return _trail(path)
    except ServedError:
        return {}, path


def _trail(path: str) -> tuple[dict[str, str | None], str | None]:
    passed: dict[str, str | None] = {}
    here, todo = "", [*reversed(path.split("/"))]
    links = 0
    while todo and links <= _MOST_LINKS:
        name = todo.pop()
        if name in ("", "."):
            continue
        if name == "..":
            here = here[: here.rfind("/")] if here else here
            continue
        step = f"{here}/{name}"
        link = link_at(step)
        if link == "":
            here = step
            continue
        passed[step] = link
        if link is None:
            return passed, None
        links += 1
        here = "" if link.startswith("/") else here
        todo += reversed(link.split("/"))
    return passed, None if todo else here or "/"


def link_at(path: str) -> str | None:
    """What a link says; nothing for what isn't one, None for what isn't there."""
    try:
        with openat2(None, path, os.O_PATH | os.O_NOFOLLOW, 0) as link:
            see_folder(link)
            return os.readlink("", dir_fd=link.number) if _is_link(link) else ""
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ServedError):
        return ""


def _is_link(file: Fd) -> bool:
    return stat.S_ISLNK(statx(file, flags=AT_STATX_DONT_SYNC).mode)
