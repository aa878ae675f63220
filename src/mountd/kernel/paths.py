"""Walking a path safely: by descriptor, from the root, through no link that a user could have made.

A link is followed only where root alone could have made it: it is root's, in a folder that only
root can write. Elsewhere it may be swapped at any moment, by someone who then has mountd act on
whatever he likes.
"""

import ctypes
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from errno import EACCES, EINVAL, ELOOP, ENOENT
from typing import Self

from mountd.core import faults
from mountd.core.faults import VolumeError
from mountd.core.model import Kind
from mountd.kernel.observe import observe_mount
from mountd.kernel.syscalls import (
    AT_STATX_DONT_SYNC,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    Fd,
    Stat,
    openat2,
    statx,
)

_libc = ctypes.CDLL(None)
ROOT = 0
_MOST_LINKS = 40  # as the kernel's own walk (path_resolution(7))
_LINK = (ELOOP, EACCES)
"""What openat2 says of a link: EACCES where fs.protected_symlinks forbids it (proc_sys_fs(5))."""


class UnsafeLinkError(OSError):
    """A link on the path that someone but root could have made. `filename` is the link."""


class NotAFileError(OSError):
    """Something else than a regular file; `strerror` is what, in words."""


class Spot:
    """Where a path leads: down `names` from an open folder whose own path, `path`, has no links.

    One name where the folder above the path's end exists; more, where folders are missing. `there`
    is what the path leads to, or None. The folder is closed at the end of the `with`.
    """

    __slots__ = ("folder", "names", "path", "there")

    def __init__(self, folder: Fd, path: str, names: tuple[str, ...], there: Stat | None) -> None:
        self.folder = folder
        self.path = path
        self.names = names
        self.there = there

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.close()

    @property
    def name(self) -> str:
        """The last name: what is, or would be, the path's own."""
        return self.names[-1]

    @property
    def whole_path(self) -> str:
        """The path, with every link resolved."""
        return "/".join((self.path.rstrip("/"), *self.names))


def spot(path: str) -> Spot:
    """Find an absolute, normalised path's end, which need not exist, and keep its folder open.

    Raises UnsafeLinkError, or OSError as openat2(2) does.
    """
    above, _, name = path.rpartition("/")
    try:
        folder = openat2(None, above or "/", os.O_PATH | os.O_DIRECTORY, RESOLVE_NO_SYMLINKS)
    except OSError as error:
        if error.errno not in (*_LINK, ENOENT):
            raise
    else:
        there = _stat(folder, name)
        if not there or not stat.S_ISLNK(there.mode):
            return Spot(folder, above or "/", (name,), there)
        folder.close()
    walk = _Walk(path)
    there = _stat(walk.folder, walk.rest[0]) if len(walk.rest) == 1 else None
    return Spot(walk.folder, walk.path, walk.rest, there)


def spot_below(root: Fd, path: str, rest: str) -> Spot:
    """Find `rest`, a relative path, from an open folder whose own path is `path`; no link is taken.

    It works in a mount that is detached, or covered. Raises OSError as openat2(2) does.
    """
    folder = openat2(root, ".", os.O_PATH | os.O_DIRECTORY, RESOLVE_NO_SYMLINKS)
    names = rest.split("/")
    while len(names) > 1:
        try:
            flags = os.O_PATH | os.O_DIRECTORY
            inner = openat2(folder, names[0], flags, RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH)
        except FileNotFoundError:
            return Spot(folder, path, tuple(names), None)
        except OSError:
            folder.close()
            raise
        folder.close()
        folder, path = inner, f"{path}/{names.pop(0)}"
    return Spot(folder, path, tuple(names), _stat(folder, names[0]))


def made(path: str, kind: Kind) -> Spot:
    """Find a path's end, and make it and the folders above it where they are missing."""
    found = spot(path)
    if found.there:
        return found
    with found:
        make(found, kind)
    return spot(path)


def make(found: Spot, kind: Kind) -> None:
    """Make what is missing at a path's end.

    Each is 0755 (our umask permitting) and belongs to whom the nearest existing folder belongs to,
    for it is made as that user: nothing has to be given away by name afterwards.
    """
    with ExitStack() as held, _acting_as(statx(found.folder), found.path):
        folder = found.folder
        for name in found.names[:-1]:
            os.mkdir(name, 0o755, dir_fd=folder.number)
            flags = os.O_PATH | os.O_DIRECTORY
            folder = held.enter_context(openat2(folder, name, flags, RESOLVE_NO_SYMLINKS))
        if kind == "folder":
            os.mkdir(found.name, 0o755, dir_fd=folder.number)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(found.name, flags, 0o755, dir_fd=folder.number))


@contextmanager
def _acting_as(owner: Stat, path: str) -> Iterator[None]:
    """Have this thread, and no other, make files as the owner of `path` does (setfsuid(2))."""
    _libc.setfsgid(owner.gid)
    _libc.setfsuid(owner.uid)
    try:
        yield
    except PermissionError as error:
        raise VolumeError(faults.not_writable_by_owner(path, owner.uid)) from error
    finally:
        _libc.setfsuid(ROOT)
        _libc.setfsgid(ROOT)


def open_path(path: str) -> tuple[Fd, str]:
    """An O_PATH descriptor of what an absolute path leads to, and its path without links."""
    try:
        return openat2(None, path, os.O_PATH, RESOLVE_NO_SYMLINKS), path
    except OSError as error:
        if error.errno not in _LINK:
            raise
    with spot(path) as found:
        if len(found.names) > 1:
            raise FileNotFoundError(ENOENT, f"openat2: {os.strerror(ENOENT)} ({found.whole_path})")
        end = openat2(found.folder, found.name or ".", os.O_PATH, RESOLVE_NO_SYMLINKS)
        return end, found.whole_path


def open_below(root: Fd, path: str) -> Fd:
    """An O_PATH descriptor of what a relative path leads to without leaving `root`.

    Raises UnsafeLinkError where there is a link on the way.
    """
    try:
        return openat2(root, path, os.O_PATH, RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH)
    except OSError as error:
        if error.errno != ELOOP:
            raise
        raise UnsafeLinkError(ELOOP, "is not followed here", path) from error


def is_plain_folder(path: str) -> bool:
    """Whether a path leads to a folder, through no link: the common case, for a third of `spot`."""
    try:
        openat2(None, path, os.O_PATH | os.O_DIRECTORY, RESOLVE_NO_SYMLINKS).close()
    except OSError:
        return False
    return True


def open_trusted(path: str) -> tuple[Fd, list[str]]:
    """Open a file for reading, and tell who but root could have written it: a sentence for each.

    A sticky folder's root-owned entry counts as root's alone, and so does a read-only mount.
    """
    walk = _Walk(path)
    with walk.folder as folder:
        name = walk.rest[0]
        try:
            found = statx(folder, name)
        except FileNotFoundError as error:
            error.filename = os.path.join(walk.path, name)
            raise
        if not stat.S_ISREG(found.mode):
            raise NotAFileError(EINVAL, kind_in_words(found.mode), path)
        file = openat2(folder, name, os.O_RDONLY | os.O_NONBLOCK, RESOLVE_NO_SYMLINKS)
        if (writers := _writers(file, found)) and not _is_read_only(found):
            walk.distrusts.append(f"{path} can be written by {writers}")
        return file, walk.distrusts


def kind_in_words(mode: int) -> str:
    """What a file is that is neither what one wants nor a link."""
    return _KINDS.get(stat.S_IFMT(mode), "a file")


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
}


def _writers(file: Fd, found: Stat) -> str | None:
    """Who may write this, other than its owner and the group root."""
    if found.mode & stat.S_IWOTH:
        return "everyone"
    if found.mode & stat.S_IWGRP:
        if found.gid != ROOT:
            return f"group {found.gid}"
        if _has_acl(file):  # then the group's bits are the most that anyone it names is granted
            return "those whom its ACL names"
    return None


def _has_acl(file: Fd) -> bool:
    try:
        os.getxattr(f"/proc/self/fd/{file.number}", "system.posix_acl_access")
    except OSError:
        return False
    return True


def _is_read_only(found: Stat) -> bool:
    """Whether it was reached through a read-only mount, or lies on a read-only filesystem."""
    mount = observe_mount(found.mount)
    return mount.flags.read_only or mount.is_fs_read_only


def _stat(folder: Fd, name: str) -> Stat | None:
    """What statx(2) tells of an entry, None where there is none; no server is waited for.

    Where it fails otherwise, the folder is closed, for nobody gets it.
    """
    try:
        return statx(folder, name, flags=AT_STATX_DONT_SYNC)
    except FileNotFoundError:
        return None
    except OSError:
        folder.close()
        raise


def open_in_root(root: Fd, path: str) -> Fd:
    """Open a file of another root filesystem for reading; links in it never lead out of it."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    return openat2(root, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


class _Walk:
    """The walk name by name: slower than one openat2(2), but it may follow root's links."""

    def __init__(self, path: str) -> None:
        self.path = "/"
        self.folder = openat2(None, "/", os.O_PATH, 0)
        self.rest: tuple[str, ...] = ()
        self.distrusts: list[str] = []
        try:
            self._walk([name for name in reversed(path.split("/")) if name])
        except BaseException:
            self.folder.close()
            raise

    def _walk(self, todo: list[str]) -> None:  # noqa: C901 - one loop, a case for each kind of name
        """Go down the names in `todo`, the next one last; a link's own names join them."""
        links = 0
        while todo:
            name = todo.pop()
            if name == "..":  # a link's; paths themselves have none
                self._enter("..", os.path.dirname(self.path))
                continue
            here = os.path.join(self.path, name)
            try:
                found = statx(self.folder, name)
            except FileNotFoundError:
                if ".." in todo:  # what would lie above nothing?
                    raise
                self.rest = (name, *reversed(todo))
                return
            why = self._distrust(found)
            if stat.S_ISLNK(found.mode):
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(ELOOP, f"openat2: {os.strerror(ELOOP)} ({here})")
                if why:
                    raise UnsafeLinkError(ELOOP, why, here)
                todo += self._names_in_link(name)
                continue
            if why:
                self.distrusts.append(f"{here} {why}")
            if todo:
                self._enter(name, here)
            else:
                self.rest = (name,)
        if not self.rest:  # the last link led up: to `..`, or to the root
            above, _, name = self.path.rpartition("/")
            self._enter("..", above or "/")
            self.rest = (name,)

    def _names_in_link(self, name: str) -> list[str]:
        """Where a link leads, the first name last; if it is absolute, the walk is at the root."""
        with openat2(self.folder, name, os.O_PATH | os.O_NOFOLLOW, RESOLVE_NO_MAGICLINKS) as link:
            leads_to = os.readlink("", dir_fd=link.number)
        if leads_to.startswith("/"):
            self._enter("/", "/")
        return [each for each in reversed(leads_to.split("/")) if each not in ("", ".")]

    def _distrust(self, entry: Stat) -> str | None:
        """Who but root could have put this entry here, or could swap it for another."""
        folder = statx(self.folder)
        if entry.uid != ROOT and not _is_read_only(entry):
            return f"belongs to uid {entry.uid}"
        if folder.uid != ROOT and not _is_read_only(folder):
            return f"lies in a folder of uid {folder.uid}"
        is_kept = folder.mode & stat.S_ISVTX and entry.uid == ROOT
        if (writers := _writers(self.folder, folder)) and not is_kept and not _is_read_only(folder):
            return f"lies in a folder that {writers} can write"
        return None

    def _enter(self, name: str, path: str) -> None:
        folder = None if name.startswith("/") else self.folder
        inner = openat2(folder, name, os.O_PATH | os.O_DIRECTORY, RESOLVE_NO_SYMLINKS)
        self.folder.close()
        self.folder, self.path = inner, path
