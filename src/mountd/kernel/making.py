"""Making what is missing at a path's end, as the owner of the folder that it is made in.

What would stop that is foreseen where the kernel can say so beforehand, with the words of the run.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from errno import EACCES, EPERM, EROFS

from mountd.core.model import Fault, Ids, Kind
from mountd.core.words import faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.files import (
    RESOLVE_NO_SYMLINKS,
    STATX_ATTR_IMMUTABLE,
    Stat,
    faccessat2,
    openat2,
    see_folder,
    statx,
)
from mountd.kernel.paths import Spot, spot
from mountd.kernel.privileges import missing_capabilities
from mountd.kernel.process import setfsgid, setfsuid
from mountd.kernel.served import by_road
from mountd.kernel.syscalls import Fd
from mountd.kernel.trusted import ACL, DEFAULT_ACL, ROOT, has_acl

NAME_MAX = 255


def made(path: str, kind: Kind, planned: Sequence[str] | None = None) -> Spot:
    """Find a path's end, and make it and the folders above it where they are missing.

    Of a target nothing is made but what was `planned`, for that alone was looked at and told.
    """
    found = spot(path)
    if found.there:
        return found
    with found:
        if planned is not None and not {*planned}.issuperset(found.missing):
            raise VolumeError(faults.moved_meanwhile(path))
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


def why_not_makeable(found: Spot) -> Fault | None:
    """What would stop `make`, as far as the kernel tells it beforehand: nothing is changed.

    As whom a run would make it, root alone can ask.
    """
    if any(len(os.fsencode(name)) > NAME_MAX for name in found.names):
        return faults.name_too_long(found.whole_path, NAME_MAX)
    see_folder(found.folder)
    folder = statx(found.folder)
    if os.fstatvfs(found.folder.number).f_flag & os.ST_RDONLY:  # the mount, or its filesystem
        return faults.read_only_above(found.path)
    if os.geteuid() != ROOT:
        return None
    try:
        with _acting_as(folder, found.path):
            faccessat2(found.folder, "", os.W_OK | os.X_OK)
    except VolumeError as error:
        return error.fault
    except OSError:  # it can't be asked here, or a filter forbids it: the run meets what there is
        return None
    return None


def _open_up(folder: Fd, name: str) -> None:
    """Make what was made just now 0755, which the folder's default ACL may have kept it from.

    Where all can write, somebody may have put another file of root's in its place: only one that is
    empty is touched. Some filesystems have no modes of their own, and stay as they are.
    """
    if not has_acl(folder, DEFAULT_ACL):
        return
    with suppress(OSError), openat2(folder, name, os.O_PATH, RESOLVE_NO_SYMLINKS) as new:
        path = f"/proc/self/fd/{new.number}"
        found = os.fstat(new.number)
        is_folder = stat.S_ISDIR(found.st_mode)
        if found.st_uid == ROOT and (os.listdir(path) if is_folder else found.st_size):
            return
        if has_acl(new):
            os.removexattr(path, ACL)
        os.chmod(path, stat.S_IMODE(found.st_mode) & stat.S_ISGID | 0o755)  # noqa: S103


@contextmanager
def _acting_as(owner: Stat, path: str) -> Iterator[None]:
    """Have this thread, and no other, make files as the owner of `path` does (setfsuid(2)).

    Raises VolumeError where it can't, before anything is made, and where that owner isn't let.
    """
    try:
        if not (setfsgid(owner.gid) and setfsuid(owner.uid)):
            missing = missing_capabilities(["CAP_SETUID", "CAP_SETGID"])
            raise VolumeError(faults.not_as_owner(path, Ids(owner.uid, owner.gid), missing))
        try:
            yield
        except OSError as error:
            if fault := _why_refused(error, owner, path):
                raise VolumeError(fault) from error
            raise
    finally:
        setfsuid(ROOT)
        setfsgid(ROOT)


def _why_refused(error: OSError, owner: Stat, path: str) -> Fault | None:
    if error.errno == EROFS:
        return faults.read_only_above(path)
    if error.errno == EPERM and owner.attributes & STATX_ATTR_IMMUTABLE:
        return faults.immutable(path)
    if error.errno == EACCES:
        return faults.not_writable_by_owner(path, owner.uid)
    return None
