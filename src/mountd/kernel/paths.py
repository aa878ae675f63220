"""Walking a path safely: by descriptor, from the root, through no link that a user could have made.

A link is followed only where root alone could have put it: it is root's, in a folder that only root
can write, and so is every folder above. Elsewhere it may be swapped at any moment, by someone who
then has mountd act on whatever he likes. In a sticky folder too: into that anyone may rename a link
of root's out of a folder of her own. And what a user's FUSE server says of owners proves nothing.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from errno import EACCES, EINVAL, ELOOP, ENOENT
from typing import Self

from mountd.core.model import Ids, Kind
from mountd.core.mounts import TOO_DEEP
from mountd.core.words import faults
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
from mountd.kernel.observe import observe_mount, user_behind
from mountd.kernel.privileges import missing_capabilities
from mountd.kernel.process import setfsgid, setfsuid
from mountd.kernel.served import by_road
from mountd.kernel.syscalls import AT_STATX_DONT_SYNC, Fd

ROOT = 0
_PATH_MAX = 4096
_MOST_LINKS = 40  # as the kernel's own walk (path_resolution(7))
_LINK = (ELOOP, EACCES)
"""What openat2 says of a link: EACCES where fs.protected_symlinks forbids it (proc_sys_fs(5))."""


_ACL = "system.posix_acl_access"
_DEFAULT_ACL = "system.posix_acl_default"


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
        if error.errno not in (*_LINK, ENOENT) or len(path) > _PATH_MAX:
            raise
    else:
        there = _stat(folder, name)
        if not there or not stat.S_ISLNK(there.mode):
            return Spot(folder, above or "/", (name,), there)
        folder.close()
    walk = _Walk(path)
    there = _stat(walk.folder, walk.rest[0]) if len(walk.rest) == 1 else None
    return Spot(walk.folder, walk.path, walk.rest, there)


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


def made(path: str, kind: Kind) -> Spot:
    """Find a path's end, and make it and the folders above it where they are missing."""
    found = spot(path)
    if found.there:
        return found
    with found:
        make(found, kind)
    return spot(path)


@by_road
def make(found: Spot, kind: Kind) -> None:
    """Make what is missing at a path's end.

    Each is 0755 and belongs to whom the nearest existing folder belongs to, for it is made as that
    user: nothing has to be given away by name afterwards.
    """
    see_folder(found.folder)
    with ExitStack() as held, _acting_as(statx(found.folder), found.path):
        folder = found.folder
        for name in found.names[:-1]:
            os.mkdir(name, 0o755, dir_fd=folder.number)
            _open_up(folder, name)
            flags = os.O_PATH | os.O_DIRECTORY
            folder = held.enter_context(openat2(folder, name, flags, RESOLVE_NO_SYMLINKS))
        if kind == "folder":
            os.mkdir(found.name, 0o755, dir_fd=folder.number)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(found.name, flags, 0o755, dir_fd=folder.number))
        _open_up(folder, found.name)


def _open_up(folder: Fd, name: str) -> None:
    """Make what was made just now 0755, which the folder's default ACL may have kept it from.

    Where all can write, somebody may have put another file of root's in its place: only one that is
    empty is touched. Some filesystems have no modes of their own, and stay as they are.
    """
    if not has_acl(folder, _DEFAULT_ACL):
        return
    with suppress(OSError), openat2(folder, name, os.O_PATH, RESOLVE_NO_SYMLINKS) as new:
        path = f"/proc/self/fd/{new.number}"
        found = os.fstat(new.number)
        is_folder = stat.S_ISDIR(found.st_mode)
        if found.st_uid == ROOT and (os.listdir(path) if is_folder else found.st_size):
            return
        if has_acl(new):
            os.removexattr(path, _ACL)
        os.chmod(path, stat.S_IMODE(found.st_mode) & stat.S_ISGID | 0o755)  # noqa: S103


@contextmanager
def _acting_as(owner: Stat, path: str) -> Iterator[None]:
    """Have this thread, and no other, make files as the owner of `path` does (setfsuid(2)).

    Raises VolumeError where it can't, before anything is made.
    """
    try:
        if not (setfsgid(owner.gid) and setfsuid(owner.uid)):
            missing = missing_capabilities(["CAP_SETUID", "CAP_SETGID"])
            raise VolumeError(faults.not_as_owner(path, Ids(owner.uid, owner.gid), missing))
        try:
            yield
        except PermissionError as error:
            raise VolumeError(faults.not_writable_by_owner(path, owner.uid)) from error
    finally:
        setfsuid(ROOT)
        setfsgid(ROOT)


def see(path: str) -> None:
    """Raise ServedError where a path, its links followed, leads to what is served, or through it.

    What is done there by name then waits for nobody: as long as it is root alone who could mount
    something on the way.
    """
    with suppress(OSError), openat2(None, path, os.O_PATH, 0) as file:
        see_folder(file)


@by_road
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


def open_trusted(path: str, *, may_lead_through_sticky: bool) -> tuple[Fd, list[str]]:
    """Open a file for reading, and tell who but root could have written it: a sentence for each.

    A sticky folder's root-owned entry counts as root's alone, and so does a read-only mount; not
    what a link in a sticky folder leads to, if those are followed.
    """
    walk = _Walk(path, may_lead_through_sticky=may_lead_through_sticky)
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
        if (writers := _writers(file, found)) and not walk.is_read_only(found):
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
        if has_acl(file):  # then the group's bits are the most that anyone it names is granted
            return "those whom its ACL names"
    return None


def has_acl(file: Fd, which: str = _ACL) -> bool:
    """Whether a file has a POSIX ACL of its own (acl(5)), as far as we may see."""
    try:
        os.getxattr(f"/proc/self/fd/{file.number}", which)
    except OSError:
        return False
    return True


def why_no_proof(file: Fd) -> str | None:
    """Why an open file's owner and mode prove nothing: a user's server tells them."""
    return _of_server(statx(file, flags=AT_STATX_DONT_SYNC).mount)


def _of_server(mount: int) -> str | None:
    try:
        user = user_behind(mount)
    except FileNotFoundError:  # it was taken off just now: by whom, and what was it?
        return "lies on a mount that has gone meanwhile"
    if user is None:
        return None
    return f"lies on a FUSE mount of uid {user}, whose server may say anything"


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

    def __init__(self, path: str, *, may_lead_through_sticky: bool = False) -> None:
        self.path = "/"
        self.folder = openat2(None, "/", os.O_PATH, 0)
        self.rest: tuple[str, ...] = ()
        self.distrusts: list[str] = []
        self._follows_moved = may_lead_through_sticky
        self._has_followed_moved = False
        self._unsafe_above: str | None = None
        self._servers: dict[int, str | None] = {}
        try:
            # The root's own mount is the machine's, and in a chroot may be in no table.
            self._servers[statx(self.folder).mount] = None
            self._walk([name for name in reversed(path.split("/")) if name])
        except BaseException:
            self.folder.close()
            raise

    def _walk(self, todo: list[str]) -> None:
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
            unsafe = self._distrust(found, is_link_safe=True)
            why = self._distrust(found) if unsafe else None
            if stat.S_ISLNK(found.mode):
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(ELOOP, f"openat2: {os.strerror(ELOOP)} ({here})")
                if why := why if self._follows_moved else unsafe or self._unsafe_above:
                    raise UnsafeLinkError(ELOOP, why, here)
                self._has_followed_moved |= unsafe == _MOVED
                todo += self._names_in_link(name)
                continue
            self._keep_in_mind(found, here, why, unsafe)
            if todo:
                self._enter(name, here)
            else:
                self.rest = (name,)
        if not self.rest:  # the last link led up: to `..`, or to the root
            above, _, name = self.path.rpartition("/")
            self._enter("..", above or "/")
            self.rest = (name,)

    def _keep_in_mind(self, found: Stat, path: str, why: str | None, unsafe: str | None) -> None:
        if found.is_mount_root:
            self._unsafe_above = None
        if why:
            self.distrusts.append(f"{path} {why}")
        if unsafe and not self._unsafe_above:
            self._unsafe_above = f"lies below {path}, which {unsafe}"

    def _names_in_link(self, name: str) -> list[str]:
        """Where a link leads, the first name last; if it is absolute, the walk is at the root."""
        with openat2(self.folder, name, os.O_PATH | os.O_NOFOLLOW, RESOLVE_NO_MAGICLINKS) as link:
            leads_to = os.readlink("", dir_fd=link.number)
        if leads_to.startswith("/"):
            self._enter("/", "/")
        return [each for each in reversed(leads_to.split("/")) if each not in ("", ".")]

    def _distrust(self, entry: Stat, *, is_link_safe: bool = False) -> str | None:
        """Who but root could have put this entry here, or could swap it for another.

        `is_link_safe`: asked for the sake of links here or below, which a read-only mount doesn't
        make safer (its files may be written by another), nor being root's in a sticky folder. A
        mount does: whoever can write the folder that it lies on can't rename it.
        """
        folder = statx(self.folder)
        if why := self._of_server(entry):
            return why
        if entry.uid != ROOT and not self.is_read_only(entry, is_link_safe):
            return f"belongs to uid {entry.uid}"
        if is_link_safe and entry.is_mount_root:
            return None
        if why := self._of_server(folder):
            return why
        if folder.uid != ROOT and not self.is_read_only(folder, is_link_safe):
            return f"lies in a folder of uid {folder.uid}"
        writers = _writers(self.folder, folder)
        if not writers or self.is_read_only(folder, is_link_safe):
            return None
        if folder.mode & stat.S_ISVTX and entry.uid == ROOT:
            return _MOVED if is_link_safe and _is_movable(entry) else None
        return f"lies in a folder that {writers} can write"

    def is_read_only(self, found: Stat, fs_alone: bool = False) -> bool:
        """Whether it was reached through a read-only mount, or lies on a read-only filesystem."""
        if self._has_followed_moved:
            return False  # a user has chosen what it is
        mount = observe_mount(found.mount)
        return mount.is_fs_read_only or (mount.flags.read_only and not fs_alone)

    def _of_server(self, found: Stat) -> str | None:
        if found.mount not in self._servers:
            self._servers[found.mount] = _of_server(found.mount)
        return self._servers[found.mount]

    def _enter(self, name: str, path: str) -> None:
        folder = None if name.startswith("/") else self.folder
        inner = openat2(folder, name, os.O_PATH | os.O_DIRECTORY, RESOLVE_NO_SYMLINKS)
        self.folder.close()
        self.folder, self.path = inner, path


_MOVED = "lies in a sticky folder, into which a user may have moved it"


def _is_movable(entry: Stat) -> bool:
    """Whether a user may have renamed root's entry of a sticky folder into that from elsewhere.

    Not a folder that she can't write: to rename one into another takes that (fs/namei.c).
    """
    return not stat.S_ISDIR(entry.mode) or bool(entry.mode & (stat.S_IWGRP | stat.S_IWOTH))
