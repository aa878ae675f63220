"""What is seen at a path, to be compared with what was seen there before."""

import os
import stat
from collections.abc import Hashable

_MOST_LINKS = 40
_MOST_BYTES = 16 << 20


def content(path: str) -> Hashable:
    """What a file says, or which names a folder has, and who may write there; None for nothing.

    Not the times, for two saves may have the same.
    """
    try:
        found = os.stat(path)
        owner = found.st_mode, found.st_uid, found.st_gid
        if stat.S_ISDIR(found.st_mode):
            return owner, tuple(sorted(os.listdir(path)))
        if not stat.S_ISREG(found.st_mode):
            return owner
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return owner, hash(file.read(_MOST_BYTES))
    except OSError as error:
        return None if isinstance(error, (FileNotFoundError, NotADirectoryError)) else error.errno


def identity(path: str) -> tuple[int, int] | None:
    """Which file or folder it is, as st_dev and st_ino; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def stamp(path: str) -> Hashable:
    """Which file it is, and when it was last written."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def trail(path: str) -> tuple[dict[str, str | None], str | None]:
    """What is in the way of a path, each with what `link_at` says of it, and where the path ends.

    These are the links that it goes by and, where it does not end anywhere, what is missing.
    """
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
        return os.readlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return ""
