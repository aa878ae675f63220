"""Why a volume can't have its idmapping: what the kernel, a filesystem or our privileges refuse."""

import errno as _errno
from collections.abc import Sequence
from typing import Literal

from mountd.core.model import Fault, Ids
from mountd.core.words.commands import shell
from mountd.core.words.faults import Limit, raising


def idmap_untrue(fs_type: str, wanted: Ids, found: Ids) -> Fault:
    return Fault(
        "failed",
        "idmap-untrue",
        f"{fs_type} took the idmapping, but shows the owner as {found} instead of {wanted}",
        "if its owner changed just now, the next pass notices; otherwise fix the server of that"
        " filesystem",
    )


def root_owned(other: int, owner: Ids, places: Sequence[str], trouble: str = "") -> Fault:
    """Uid `other` is the one of the two that isn't root; `places` show the files without nosuid.

    `trouble`: why it isn't known whether somebody here has that uid.
    """
    unknown = f", and who that is here can't be known ({trouble})" if trouble else ""
    return Fault(
        "failed",
        "root-owned",
        f"uid {other} is swapped with root{unknown}: it could leave setuid files of root's on the"
        f" source, and {_together(places)} {_show(places)} them without nosuid",
        f"have {_together(places)} mounted nosuid, or set `read_only = true`, or, where you trust"
        f' uid {other} with root, say so with `owner = "{owner}"`',
    )


def stays_on(why: Fault, trouble: Fault) -> Fault:
    """Of a mount that should have come off."""
    message = f"{why.message}; what is mounted can't be taken off: {trouble.message}"
    return why._replace(message=message, hint=trouble.hint or why.hint)


def accounts_shared(owner: int, user: int, places: Sequence[str]) -> str:
    """A note, for that is often what is wanted: both uids may be accounts of this machine."""
    return (
        f"uid {user} and uid {owner}, an account of this machine, could leave setuid files of each"
        f" other's on the source, and {_together(places)} {_show(places)} them without nosuid;"
        " if they shouldn't, mount the source's filesystem nosuid"
    )


def _together(places: Sequence[str]) -> str:
    more = len(places) - 3
    return _listed([*places[:3], f"{more} more"] if more > 0 else places)


def _show(places: Sequence[str]) -> str:
    return "shows" if len(places) == 1 else "show"


def source_is_idmapped(path: str) -> Fault:
    return Fault(
        "failed",
        "source-is-idmapped",
        f"the mount that {path} lies on is idmapped already, and this kernel can't give a clone of"
        " it another map: that needs Linux 6.15",
        "name the folder by a path outside that mount, or leave `user` out to keep its idmapping",
    )


def submount_refuses(point: str, why: Fault) -> Fault:
    hint = "leave `recursive` out" + (f", or {why.hint}" if why.hint else "")
    return why._replace(message=f"{point}, below the source: {why.message}", hint=hint)


def covered_submount_refuses(source: str, errno: int) -> Fault:
    message = f"a mount below {source}, which another one covers, can't be idmapped"
    hint = (
        f"{shell('findmnt', '--submounts', '--target', source)} lists them; leave `recursive` out,"
        " or unmount it"
    )
    return Fault("failed", "filesystem-refuses", message, hint, errno)


def automount_refuses(point: str, errno: int) -> Fault:
    message = f"the automount (autofs) at {point}, below the source, can't be idmapped"
    hint = "leave `recursive` out, and give what is mounted there a volume of its own"
    return Fault("failed", "filesystem-refuses", message, hint, errno)


def submount_is_idmapped(point: str) -> Fault:
    message = f"the mount at {point}, below the source, is idmapped already, and not as the source"
    hint = "leave `recursive` out, and give what is mounted there a volume of its own"
    return Fault("failed", "source-is-idmapped", message, hint)


_RAW_IDS = 'or mount it with raw ids by `idmap = "never"`'


_IDMAPPED_SINCE = {  # mount_setattr(2), and kernel sources
    "ext4": (5, 12),
    "xfs": (5, 12),
    "vfat": (5, 12),
    "btrfs": (5, 15),
    "ntfs3": (5, 15),
    "f2fs": (5, 18),
    "erofs": (5, 19),
    "squashfs": (6, 2),
    "tmpfs": (6, 3),
    "ceph": (6, 7),
    "hugetlbfs": (6, 9),
    "fuse": (6, 12),
    "fuseblk": (6, 12),
    "virtiofs": (6, 12),
}


def filesystem_refuses(fs_type: str, version: tuple[int, int]) -> Fault:
    since = _IDMAPPED_SINCE.get(fs_type.partition(".")[0])  # fuse.bindfs, as mountinfo has it
    has_server = since == _IDMAPPED_SINCE["fuse"]
    too_old = ""
    if since and version < since:
        too_old = ": this kernel is too old for it"
        hint = f"{fs_type} needs Linux {_dotted(since)}"
        hint += " and a server that grants it" if has_server else ""
    elif fs_type == "virtiofs":
        too_old = ": the host's server is too old, or doesn't grant it"
        hint = "its server has to grant it, as virtiofsd does from 1.13 on"
    elif has_server:
        hint = "its server has to grant it (FUSE_ALLOW_IDMAP, with default_permissions)"
    elif fs_type in ("ext2", "ext3"):
        hint = "mount the device as ext4, which reads it just as well"
    elif fs_type == "overlay":
        hint = "name the folder on the filesystem below, the overlay's lowerdir, as the source"
    else:
        hint = "keep the source on ext4, xfs, btrfs or tmpfs"
    return Fault(
        "failed",
        "filesystem-refuses",
        f"{fs_type} refuses idmapped mounts (Linux {_dotted(version)}){too_old}",
        f"{hint}, {_RAW_IDS}",
        _errno.EINVAL,
    )


def foreign_filesystem(fs_type: str) -> Fault:
    return Fault(
        "failed",
        "not-privileged",
        f"not permitted: this {fs_type} belongs to another user namespace, in a container the"
        " host's",
        f"idmap it there, {_RAW_IDS}",
        _errno.EPERM,
    )


def kernel_too_old(version: tuple[int, int], what: str, since: tuple[int, int]) -> Fault:
    """`what` is in the plural: "idmapped mounts"."""
    message = f"this kernel is too old: {_dotted(version)}, {what} need {_dotted(since)}"
    hint = f"boot Linux {_dotted(since)} or newer"
    return Fault("failed", "kernel-too-old", message, hint, _errno.ENOSYS)


def call_missing(version: tuple[int, int], call: str) -> Fault:
    message = f"this kernel ({_dotted(version)}) lacks {call}, although its version should have it"
    hint = "what runs here as Linux may be a stand-in for it (gVisor, qemu-user)"
    return Fault("failed", "kernel-too-old", message, hint, _errno.ENOSYS)


def call_filtered(call: str) -> Fault:
    hint = f"have the container's runtime, or the unit's SystemCallFilter=, allow {call}"
    return Fault("failed", "seccomp", f"a seccomp filter stops {call}", hint, _errno.EPERM)


def capability_missing(names: Sequence[str], hint: str) -> Fault:
    verb = "is" if len(names) == 1 else "are"
    message = f"not permitted: {_listed(names)} {verb} missing"
    return Fault("failed", "not-privileged", message, hint, _errno.EPERM)


def foreign_mount_namespace() -> Fault:
    message = "not permitted: the mount namespace belongs to another user namespace than ours"
    hint = "run mountd in a mount namespace of its own (`unshare --mount`)"
    return Fault("failed", "not-privileged", message, hint, _errno.EPERM)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def unknown_ids(kind: Literal["uid", "gid"], ids: str) -> Fault:
    """Where extents show ids that the user namespace around us doesn't have."""
    message = f"the idmapping shows {kind}s that this container's user namespace lacks: {ids}"
    hint = f"leave them out; /proc/self/{kind}_map lists those it has, as its maker gave them"
    return Fault("failed", "not-privileged", message, hint, _errno.EPERM)


def map_refused(kind: Literal["uid", "gid"], reason: str) -> Fault:
    message = f"the {kind} map, put together with the source's own, {reason}"
    hint = "name the folder by a path outside the idmapped mount that it lies on"
    return Fault("failed", "limit", message, hint, _errno.EINVAL)


def unknown_user(kind: Literal["uid", "gid"], id_: int) -> Fault:
    message = f"{kind} {id_} is not among the ids of this container's user namespace"
    hint = f"choose one that /proc/self/{kind}_map lists, or have the container given more ids"
    return Fault("failed", "no-user" if kind == "uid" else "no-group", message, hint)


def unknown_owner(kind: Literal["uid", "gid"], id_: int) -> Fault:
    return Fault(
        "failed",
        "not-privileged",
        f"the owner's {kind}, {id_}, is not among the ids of this container's user namespace: the"
        " source is the host's, and only there can it be idmapped",
        'idmap it on the host, or mount it with raw ids by `idmap = "never"`',
        _errno.EPERM,
    )


def namespaces_used_up(limit: Limit) -> Fault:
    """`limit` as the sysctl reads here; another may hold in a user namespace around ours."""
    if limit.value == 0:
        message = f"{limit.knob} is 0, and an idmapping needs a namespace"
        limit = limit._replace(value=None)
    else:
        message = "the kernel has no more user namespaces to give, and an idmapping needs one"
    hint = raising(limit)
    if limit.value:
        hint += " here, or that of the user namespace around"
    return Fault("failed", "limit", message, hint, _errno.ENOSPC)


def no_process(limit: str) -> Fault:
    """`limit`: what to raise."""
    message = "no process can be started, and an idmapping needs one for a moment"
    return Fault("failed", "limit", message, limit, _errno.EAGAIN)


def in_chroot() -> Fault:
    message = "no user namespace can be made for the idmapping inside a chroot"
    hint = "run mountd outside of it, or enter it by pivot_root(2) as containers do"
    return Fault("failed", "not-privileged", message, hint, _errno.EPERM)


def no_namespace(error: OSError) -> Fault:
    if error.errno == _errno.EINVAL:  # composed, or split at those of the namespace around us
        message = "the idmapping is longer than the kernel takes: 340 extents and 4,095 bytes"
        return Fault("failed", "limit", message, "give it fewer extents", _errno.EINVAL)
    message = f"no user namespace can be made for the idmapping: {error.strerror}"
    hint = "a chroot, a security module or a seccomp filter may forbid it"
    return Fault("failed", "not-privileged", message, hint, error.errno or 0)
