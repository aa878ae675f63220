"""Paths that are walked name by name, so that no link is followed but one of root's own making."""

import os
import stat
from collections.abc import Container
from errno import EACCES, EINVAL, ELOOP

from mountd.kernel.files import (
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    Stat,
    openat2,
    statx,
)
from mountd.kernel.observe import observe_mount, user_behind
from mountd.kernel.syscalls import AT_STATX_DONT_SYNC, Fd

ROOT = 0
_MOST_LINKS = 40  # as the kernel's own walk (path_resolution(7))
LINK_ERRORS = (ELOOP, EACCES)
"""What openat2 says of a link: EACCES where fs.protected_symlinks forbids it (proc_sys_fs(5))."""


ACL = "system.posix_acl_access"
DEFAULT_ACL = "system.posix_acl_default"


class UnsafeLinkError(OSError):
    """A link on the path that someone but root could have made. `filename` is the link."""


def open_trusted(path: str, *, may_lead_through_sticky: bool) -> tuple[Fd, list[str]]:
    """Open a file for reading, and tell who but root could have written it: a sentence for each.

    A sticky folder's root-owned entry counts as root's alone, and so does a read-only mount; not
    what a link in a sticky folder leads to, if those are followed.
    """
    walk = Walk(path, may_lead_through_sticky=may_lead_through_sticky)
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


def is_roots(path: str) -> bool:
    """Whether root alone can change where a path leads, or mount something there.

    A user may mount FUSE on what is hers, whose server may never answer. Raises ServedError where
    there is a server already.
    """
    try:
        walk = Walk(path)
        with walk.folder as folder:
            try:
                last = statx(folder, walk.rest[0])
            except FileNotFoundError:  # what she can make is hers
                last = statx(folder)
    except OSError:
        return False
    is_hers = last.uid != ROOT or last.mode & (stat.S_IWGRP | stat.S_IWOTH)
    return not (is_hers or walk.distrusts)


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


def has_acl(file: Fd, which: str = ACL) -> bool:
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


class Walk:
    """The walk name by name: slower than one openat2(2), but it may follow root's links."""

    def __init__(
        self, path: str, *, may_lead_through_sticky: bool = False, ends: Container[str] = ()
    ) -> None:
        """It goes no further than to one of `ends`, paths without links, nor looks at it."""
        self.path = "/"
        self.folder = openat2(None, "/", os.O_PATH, 0)
        self.rest: tuple[str, ...] = ()
        self.distrusts: list[str] = []
        self._ends = ends
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
            if (found := self._entry(name, here, todo)) is None:
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

    def _entry(self, name: str, path: str, todo: list[str]) -> Stat | None:
        """What is at the next name; None where the walk ends before that."""
        if path not in self._ends:
            try:
                return statx(self.folder, name)
            except FileNotFoundError:
                if ".." in todo:  # what would lie above nothing?
                    raise
        self.rest = (name, *reversed(todo))
        return None

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


class NotAFileError(OSError):
    """Something else than a regular file; `strerror` is what, in words."""


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
