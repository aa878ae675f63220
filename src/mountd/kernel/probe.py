"""What this kernel, and a filesystem on it, can do: found by trying, never by version or errno.

That a call is there is seen from how it turns down arguments that no kernel takes. What a version
says is only why one isn't: the kernel is too old, or a seccomp filter stops it.
"""

import ctypes
import os
from errno import EAGAIN, EINVAL, ENOSPC, ENOSYS, EPERM
from functools import cache
from itertools import takewhile
from typing import Literal

from mountd.core.model import Fault
from mountd.core.named_tuple import NamedTuple
from mountd.core.words import idmap_faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.binding import AT_FDCWD
from mountd.kernel.files import statx
from mountd.kernel.limits import hint_on, limits_on
from mountd.kernel.locked import why_not_cloned
from mountd.kernel.mount_api import (
    FSCONFIG_CMD_CREATE,
    MOUNT_ATTR_IDMAP,
    MOVE_MOUNT_BENEATH,
    MOVE_MOUNT_F_EMPTY_PATH,
    fsconfig,
    fsmount,
    fsopen,
    mount_setattr,
    open_tree,
    open_tree_attr,
)
from mountd.kernel.observe import observe_mount
from mountd.kernel.privileges import (
    how_to_have,
    is_filtered,
    is_in_chroot,
    missing_capabilities,
    why_no_mount,
)
from mountd.kernel.statmount import HAS_STATMOUNT
from mountd.kernel.syscalls import AT_STATX_DONT_SYNC, Fd

_ALL = 0xFFFFFFFF
_TMPFS_IDMAPPED = (6, 3)
Standing = Literal["there", "too-old", "missing", "filtered", "untold"]
"""`missing`: though the version should have it; `untold`: only root is answered."""


class Call(NamedTuple):
    """A call by number, the version that brought it, and arguments that no kernel takes."""

    number: int
    since: tuple[int, int]
    nonsense: tuple[int | bytes | None, ...]
    absent: tuple[int, ...] = (ENOSYS,)
    needs_privilege: bool = False


CALLS = {
    "open_tree": Call(428, (5, 2), (-1, b"", _ALL)),
    "move_mount": Call(429, (5, 2), (-1, b"", -1, b"", _ALL), needs_privilege=True),
    "fsopen": Call(430, (5, 2), (b"tmpfs", 0xFFFF), needs_privilege=True),
    "openat2": Call(437, (5, 6), (AT_FDCWD, b"/", None, 0)),
    "mount_setattr": Call(442, (5, 12), (-1, b"", 0, None, 0)),
    "MOVE_MOUNT_BENEATH": Call(
        429,
        (6, 5),
        (-1, b"", -1, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_BENEATH),
        absent=(ENOSYS, EINVAL),  # where it is known, the descriptors are what is refused
        needs_privilege=True,
    ),
    "statmount": Call(457, (6, 8), (None, None, 0, 1)),
    "listmount": Call(458, (6, 8), (None, None, 0, 1)),
    "open_tree_attr": Call(467, (6, 15), (-1, b"", _ALL, None, 0)),
}
"""What mountd uses of the mount API, oldest first. Nothing changes by the nonsense of any."""


@cache
def standing(name: str) -> Standing:
    """Whether a call of CALLS can be made here, and if not, why."""
    call = CALLS[name]
    error = _answer(call)
    if error in call.absent:
        if kernel_version() < call.since:
            return "too-old"
        return "filtered" if is_filtered() else "missing"
    if error == EPERM:
        return "untold" if call.needs_privilege and why_no_mount() else "filtered"
    return "there"


def _answer(call: Call) -> int:
    """The errno with which it is turned down."""
    syscall = ctypes.CDLL(None, use_errno=True)["syscall"]
    arguments = (ctypes.c_long(each) if isinstance(each, int) else each for each in call.nonsense)
    syscall(ctypes.c_long(call.number), *arguments)
    return ctypes.get_errno()


def has_mount_setattr() -> bool:
    """Whether mounts can be idmapped, and flagged all at once (Linux 5.12)."""
    return standing("mount_setattr") == "there"


def has_beneath() -> bool:
    """Whether a mount can be put beneath another (Linux 6.5).

    To the unprivileged the kernel doesn't tell, but it has it if it has what came in 6.8.
    """
    return HAS_STATMOUNT or standing("MOVE_MOUNT_BENEATH") == "there"


def has_open_tree_attr() -> bool:
    """Whether a clone of an idmapped mount can have another map (Linux 6.15)."""
    return standing("open_tree_attr") == "there"


def why_absent(name: str, what: str) -> Fault | None:
    """Why a call can't be made here, None if it can; `what` needs it, in the plural."""
    match standing(name):
        case "too-old":
            return idmap_faults.kernel_too_old(kernel_version(), what, CALLS[name].since)
        case "missing":
            return idmap_faults.call_missing(kernel_version(), name)
        case "filtered":
            return idmap_faults.call_filtered(name)
        case "untold":
            return why_no_mount()
        case "there":
            return None


def why_no_idmap(source: Fd, fs_type: str, userns: Fd) -> Fault | None:
    """Why this namespace's map can't be put on a clone of this source; None where it can.

    It is tried, on a clone that is never attached. Raises VolumeError for a source that can't be
    cloned at all, OSError for what is no matter of idmapping (EMFILE).
    """
    if fault := why_absent("mount_setattr", "idmapped mounts"):
        return fault
    try:
        _idmapped_clone(source, userns).close()
    except OSError as error:
        return _why_not_cloned(source) or _why_not_idmapped(error, source, fs_type, userns)
    return None


def _idmapped_clone(source: Fd, userns: Fd) -> Fd:
    if has_open_tree_attr():  # takes an idmapped source too
        idmap = MOUNT_ATTR_IDMAP
        return open_tree_attr(source, set_=idmap, clear=idmap, userns=userns)
    clone = open_tree(source)
    try:
        mount_setattr(clone, set_=MOUNT_ATTR_IDMAP, userns=userns)
    except BaseException:
        clone.close()
        raise
    return clone


def _why_not_cloned(source: Fd) -> Fault | None:
    try:
        open_tree(source).close()
    except OSError as error:
        if error.errno == EINVAL:
            raise VolumeError(why_not_cloned(source, _path_of(source), recursive=False)) from error
        if error.errno not in (ENOSYS, EPERM):
            raise
        fault = why_absent("open_tree", "bind mounts by descriptor") or why_no_mount()
        if not fault:
            raise
        return fault
    return None


def _why_not_idmapped(error: OSError, source: Fd, fs_type: str, userns: Fd) -> Fault:
    if error.errno == EPERM:
        if not has_open_tree_attr() and _is_idmapped(source):
            return idmap_faults.source_is_idmapped(_path_of(source))
        return idmap_faults.foreign_filesystem(fs_type)
    if error.errno != EINVAL:
        raise error
    if _control(userns) == EINVAL and kernel_version() >= _TMPFS_IDMAPPED:
        raise OSError(EINVAL, "no filesystem takes this idmapping's user namespace")
    return idmap_faults.filesystem_refuses(fs_type, kernel_version())


def _control(userns: Fd) -> int:
    """The errno of the same on a filesystem that is known to take it: a tmpfs of our own.

    Before Linux 6.3 that refuses too (EINVAL), and then tells nothing: no filesystem that needs no
    device took idmappings.
    """
    try:
        with fsopen("tmpfs") as context:
            fsconfig(context, FSCONFIG_CMD_CREATE)
            with fsmount(context, 0) as mount:
                mount_setattr(mount, set_=MOUNT_ATTR_IDMAP, userns=userns)
    except OSError as error:
        return error.errno or 0
    return 0


def _path_of(source: Fd) -> str:
    return os.readlink(f"/proc/self/fd/{source.number}")


def _is_idmapped(source: Fd) -> bool:
    try:
        return observe_mount(statx(source, flags=AT_STATX_DONT_SYNC).mount).is_idmapped
    except FileNotFoundError:
        return False


def why_no_namespace(error: OSError) -> Fault:
    """Why `make_user_namespace` raised this UserNamespaceError, as far as can be seen."""
    if error.errno == ENOSPC:
        return idmap_faults.namespaces_used_up(limits_on("user namespaces")[0])
    if error.errno == EAGAIN:
        return idmap_faults.no_process(hint_on("threads"))
    if error.errno == EPERM:
        if is_in_chroot():
            return idmap_faults.in_chroot()
        if missing := missing_capabilities(["CAP_SETUID", "CAP_SETGID", "CAP_SETFCAP"]):
            return idmap_faults.capability_missing(missing, how_to_have(*missing))
    return idmap_faults.no_namespace(error)


@cache
def kernel_version() -> tuple[int, int]:
    """As uname(2) says: (6, 18)."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(takewhile(str.isdigit, minor)))
