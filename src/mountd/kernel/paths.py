"""Walking a path safely: by descriptor, from the root, through no link that a user could have made.

A link is followed only where root alone could have put it: it is root's, in a folder that only root
can write, and so is every folder above. Elsewhere it may be swapped at any moment, by someone who
then has mountd act on whatever he likes. In a sticky folder too: into that anyone may rename a link
of root's out of a folder of her own. And what a user's FUSE server says of owners proves nothing.
"""

import os
import stat
from collections.abc import Container
from contextlib import suppress
from errno import ELOOP, ENOENT
from typing import Self

from mountd.core.mounts import AUTOMOUNT, TOO_DEEP, ObservedMount, mount_at
from mountd.core.words import faults, mount_faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.files import (
    FAR,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    Stat,
    open_folder,
    openat2,
    see_folder,
    statx,
)
from mountd.kernel.observe import observe, observe_mount
from mountd.kernel.served import ServedError, by_road, may_wait
from mountd.kernel.syscalls import AT_STATX_DONT_SYNC, Fd
from mountd.kernel.trusted import LINK_ERRORS, UnsafeLinkError, Walk

_PATH_MAX = 4096


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
    def missing(self) -> tuple[str, ...]:
        """The paths of what isn't there, the first above the others."""
        if self.there:
            return ()
        above = self.path.rstrip("/")
        return tuple(f"{above}/{'/'.join(self.names[: i + 1])}" for i in range(len(self.names)))

    @property
    def whole_path(self) -> str:
        """The path, with every link resolved."""
        return "/".join((self.path.rstrip("/"), *self.names))


@by_road
def spot(path: str) -> Spot:
    """Find an absolute, normalised path's end, which need not exist, and keep its folder open.

    It may be longer than PATH_MAX, for a mount's can. Raises UnsafeLinkError, or OSError as
    openat2(2) does.
    """
    above, _, name = path.rpartition("/")
    if path == TOO_DEEP:
        raise VolumeError(faults.too_deep())
    try:
        folder = open_folder(None, above or "/")
    except OSError as error:
        if error.errno not in (*LINK_ERRORS, ENOENT) or len(path) > _PATH_MAX:
            raise
    else:
        there = _stat(folder, name)
        if not there or not stat.S_ISLNK(there.mode):
            return Spot(folder, above or "/", (name,), there)
        folder.close()
    walk = Walk(path)
    there = _stat(walk.folder, walk.rest[0]) if len(walk.rest) == 1 else None
    return Spot(walk.folder, walk.path, walk.rest, there)


def whole_path(path: str) -> str:
    """A path with every link of root's resolved, as far as it leads; as it is where it may not."""
    with suppress(OSError, VolumeError), spot(path) as found:
        return found.whole_path
    return path


def path_as_far_as(ends: Container[str], path: str) -> str:
    """A path with root's links in it resolved that lead to one of `ends`, which isn't entered."""
    with suppress(OSError):
        walk = Walk(path, ends=ends)
        walk.folder.close()
        return "/".join((walk.path.rstrip("/"), *walk.rest))
    return path


@by_road
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


def see(path: str) -> None:
    """Raise ServedError where a path, its links followed, leads to what is served, or through it.

    What is done there by name then waits for nobody: as long as it is root alone who could mount
    something on the way.
    """
    with suppress(OSError), openat2(None, path, os.O_PATH, 0) as file:
        see_folder(file)


@by_road
def open_path(path: str) -> tuple[Fd, str]:
    """An O_PATH descriptor of what an absolute path leads to, and its path without links.

    An automount there is triggered, as by mount(8). Raises VolumeError where nothing is mounted
    then, and OSError as openat2(2) does.
    """
    if not may_wait():  # who meets one waits for somebody
        return _open_path(path)
    try:
        file, path = _open_path(path)
        if is_automount(file):
            file.close()
            file = openat2(None, path, os.O_PATH | os.O_DIRECTORY, RESOLVE_NO_SYMLINKS)
    except (PermissionError, UnsafeLinkError):
        raise
    except OSError as error:
        if there := automount_at(path):
            errno = error.errno or 0
            fault = mount_faults.automount_fails(path, there.point, errno, os.strerror(errno))
            raise VolumeError(fault) from error
        raise
    if is_automount(file) and (there := automount_at(path)):
        file.close()
        raise VolumeError(mount_faults.automount_is_empty(path, there.point))
    return file, path


def _open_path(path: str) -> tuple[Fd, str]:
    try:
        return openat2(None, path, os.O_PATH, RESOLVE_NO_SYMLINKS), path
    except OSError as error:
        if error.errno not in LINK_ERRORS:
            raise
    with spot(path) as found:
        if len(found.names) > 1:
            raise FileNotFoundError(ENOENT, f"openat2: {os.strerror(ENOENT)} ({found.whole_path})")
        end = openat2(found.folder, found.name or ".", os.O_PATH, RESOLVE_NO_SYMLINKS)
        return end, found.whole_path


def is_automount(file: Fd) -> bool:
    """Whether what is open is a place where something else is mounted once it is entered."""
    found = statx(file, flags=AT_STATX_DONT_SYNC)
    return found.is_automount or observe_mount(found.mount).fs_type == AUTOMOUNT


def automount_at(path: str) -> ObservedMount | None:
    """The automount on which a path without links lies, if nothing is mounted on it there."""
    found = mount_at(path, observe().mounts)
    return found if found and found.fs_type == AUTOMOUNT else None


def open_below(root: Fd, path: str) -> Fd:
    """An O_PATH descriptor of what a relative path leads to without leaving `root`.

    Raises UnsafeLinkError where there is a link on the way.
    """
    try:
        if len(path) < FAR:
            return openat2(root, path, os.O_PATH, RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH)
        above, _, name = path.rpartition("/")
        with open_folder(root, above) as folder:
            return openat2(folder, name, os.O_PATH, RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH)
    except OSError as error:
        if error.errno != ELOOP:
            raise
        raise UnsafeLinkError(ELOOP, "is not followed here", path) from error


def plain_folder(path: str) -> Fd | None:
    """The folder that a path leads to through no link: the common case, for a third of `spot`."""
    try:
        return openat2(None, path, os.O_PATH | os.O_DIRECTORY, RESOLVE_NO_SYMLINKS)
    except OSError:
        return None


def _stat(folder: Fd, name: str) -> Stat | None:
    """What statx(2) tells of an entry, None where there is none; no server is waited for.

    Where it fails otherwise, the folder is closed, for nobody gets it.
    """
    try:
        return statx(folder, name, flags=AT_STATX_DONT_SYNC)
    except FileNotFoundError:
        return None
    except (OSError, ServedError):  # what stays open can't be taken off
        folder.close()
        raise


def open_in_root(root: Fd, path: str) -> Fd:
    """Open a file of another root filesystem for reading; links in it never lead out of it."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    return openat2(root, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
