"""Every way in which a volume falls short, as a person reads it: what is wrong, and what to do.

One function for each, so that all sentences can be read, and mended, in one sitting.
"""

import errno as _errno
from collections.abc import Sequence
from typing import Literal

from mountd.core.model import Fault, Ids, Kind, Reason


class VolumeError(Exception):
    """One volume can't be as desired; the others go on."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def no_source(path: str) -> Fault:
    return Fault(
        "pending", "no-source", f"there is no {path}", "the volume is mounted once it appears"
    )


def no_target(path: str) -> Fault:
    hint = "make it, or leave `create = false` out"
    return Fault("pending", "no-target", f"there is no {path}, and `create` is false", hint)


def not_writable_by_owner(folder: str, uid: int) -> Fault:
    hint = "make the target by hand, or let its owner write there"
    message = f"the target can't be made: {folder} belongs to uid {uid}, who may not write there"
    return Fault("failed", "no-target", message, hint, _errno.EACCES)


def no_user(name: str, file: str) -> Fault:
    add = f"`useradd {name}`" if file == "/etc/passwd" else "add it there"
    hint = f"{add}, or give `user` as a number"
    return Fault("pending", "no-user", f"there is no user `{name}` in {file}", hint)


def no_group(name: str, file: str) -> Fault:
    add = f"`groupadd {name}`" if file == "/etc/group" else "add it there"
    hint = f"{add}, or give the group as a number"
    return Fault("pending", "no-group", f"there is no group `{name}` in {file}", hint)


def unsafe_link(path: str, why: str) -> Fault:
    hint = "write the path that the link leads to, or have root make the link where only root can"
    return Fault("failed", "unsafe-path", f"{path} is a link that {why}", hint)


def unsafe_file(why: str) -> Fault:
    hint = "see that root owns it and the folders above it, and that nobody else can write them"
    return Fault("failed", "unsafe-path", why, hint)


def not_a_file(path: str, kind: str) -> Fault:
    return Fault("failed", "io", f"{path} is {kind}, not a file", "put a file in its place")


def forbidden_target(path: str, why: str) -> Fault:
    return Fault(
        "failed",
        "unsafe-path",
        f"the target leads to {path}, which is {why}",
        "choose a folder of its own",
    )


def moved_meanwhile(path: str) -> Fault:
    hint = "a folder above it was renamed just now; run mountd again"
    return Fault("failed", "unsafe-path", f"{path} led elsewhere while it was being mounted", hint)


def covered_above(target: str) -> Fault:
    message = f"this volume's mount at {target} can't be reached: a mount covers a folder above it"
    return Fault(
        "conflict", "foreign-mount", message, f"`findmnt --target {target}` names it; unmount it"
    )


def just_mounted(target: str) -> Fault:
    message = f"something was mounted at {target} just now"
    return Fault("conflict", "foreign-mount", message, "run mountd again")


def waits_for(volume: str, why: Fault) -> Fault:
    message = f"volume `{volume}` has to be in place first: {why.message}"
    return Fault("pending", why.code, message, f"mend what stops `{volume}`")


def in_circle(volumes: tuple[str, ...]) -> Fault:
    names = ", ".join(f"`{each}`" for each in volumes)
    message = f"volumes {names} need each other in a circle, once links are followed"
    return Fault("conflict", "foreign-mount", message, "move one of their sources or targets")


def volume_below_recursive(point: str) -> Fault:
    message = f"a recursive volume in place would take the volume at {point} for its source's"
    hint = "leave `recursive` out, or choose another target for one of them"
    return Fault("conflict", "foreign-mount", message, hint)


def idmap_untrue(fs_type: str, wanted: Ids, found: Ids) -> Fault:
    return Fault(
        "failed",
        "idmap-untrue",
        f"{fs_type} took the idmapping, but shows the owner as {found} instead of {wanted}",
        "see who serves it and what it does with owners",
    )


def busy_below(target: str, point: str) -> Fault:
    message = f"the mount at {point} could not be taken off, and {target} would bury it"
    return Fault("conflict", "foreign-mount", message, "run mountd again once that is mended")


def unbindable(source: str) -> Fault:
    return Fault(
        "failed",
        "mount-refused",
        f"{source} lies on a mount of which there can't be a second one: it is unbindable, or in a"
        " container belongs to the host",
        f"`mount --make-private` what `findmnt --target {source}` shows",
        _errno.EINVAL,
    )


def wrong_source_kind(path: str, kind: str) -> Fault:
    hint = "name a folder or a file as the source"
    return Fault("failed", "wrong-kind", f"{path} is {kind}, which can't be mounted", hint)


def wrong_target_kind(target: str, kind: Kind) -> Fault:
    message = f"the source is a {kind}, and {target} is not"
    return Fault("failed", "wrong-kind", message, f"remove {target}, or choose another target")


def no_folder(target: str) -> Fault:
    message = f"{target} can't be made: something above it is not a folder"
    return Fault("failed", "wrong-kind", message, "choose another target")


def root_owned(owner: Ids, user_uid: int) -> Fault:
    other = owner.uid or user_uid
    return Fault(
        "failed",
        "root-owned",
        f"uid {other} is swapped with root: it could leave setuid files of root's on the source",
        "mount the source's filesystem nosuid, or set `read_only = true`, or, where you trust"
        f' uid {other} with root, say so with `owner = "{owner}"`',
    )


def source_is_idmapped(path: str) -> Fault:
    return Fault(
        "failed",
        "source-is-idmapped",
        f"the mount that {path} lies on is idmapped already, and this kernel can't give a clone of"
        " it another map: that needs Linux 6.15",
        "name the folder by a path outside that mount, or leave `user` out to keep its idmapping",
    )


def submount_refuses(point: str, why: Fault) -> Fault:
    return why._replace(message=f"{point}, below the source: {why.message}")


def submount_is_idmapped(point: str) -> Fault:
    message = f"the mount at {point}, below the source, is idmapped already, and not as the source"
    hint = "leave `recursive` out, and give what is mounted there a volume of its own"
    return Fault("failed", "source-is-idmapped", message, hint)


def link_in_subdir(subdir: str) -> Fault:
    message = f"there is a link in `subdir`, {subdir}, which could lead out of the filesystem"
    return Fault("failed", "unsafe-path", message, "name the folder that it leads to")


def no_subdir(subdir: str, fs_type: str, source: str) -> Fault:
    message = f"there is no {subdir} on the {fs_type} of {source}"
    return Fault("pending", "no-source", message, "the volume is mounted once it appears")


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
    if since and version < since:
        hint = f"{fs_type} needs Linux {_dotted(since)}"
        hint += " and a server that grants it" if has_server else ""
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
        f"{fs_type} refuses idmapped mounts (Linux {_dotted(version)})",
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
    message = f"this kernel ({_dotted(version)}) has no {call}, though of its version it should"
    hint = "what runs here as Linux may be a stand-in for it (gVisor, qemu-user)"
    return Fault("failed", "kernel-too-old", message, hint, _errno.ENOSYS)


def call_filtered(call: str) -> Fault:
    hint = f"have the container's runtime, or the unit's SystemCallFilter=, allow {call}"
    return Fault("failed", "seccomp", f"a seccomp filter stops {call}", hint, _errno.EPERM)


def capability_missing(*names: str) -> Fault:
    verb = "is" if len(names) == 1 else "are"
    message = f"not permitted: {_listed(names)} {verb} missing"
    hint = f"run mountd as root, and give the unit or the container {_listed(names)}"
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


def foreign_mount(target: str, fs_type: str, *, covers: bool) -> Fault:
    verb = "covers this volume's mount at" if covers else "is at"
    return Fault(
        "conflict",
        "foreign-mount",
        f"a mount that isn't mountd's ({fs_type}) {verb} {target}",
        f"`umount {target}`, or choose another target",
    )


def managed_elsewhere(target: str, volume: str, manifest: str) -> Fault:
    message = f"volume `{volume}` of {manifest} is mounted at {target}"
    hint = f"`mountd --manifest {manifest} unmount {volume}`, or choose another target"
    return Fault("conflict", "foreign-mount", message, hint)


def same_target(target: str, volume: str) -> Fault:
    message = f"the target leads to {target}, which is volume `{volume}`'s"
    return Fault("conflict", "foreign-mount", message, "give one of them another target")


def mount_below(point: str, fs_type: str) -> Fault:
    return Fault(
        "conflict",
        "foreign-mount",
        f"a mount lies below the target, at {point} ({fs_type}), and would be buried",
        f"`umount {point}`, or choose another target",
    )


def busy(target: str, holders: list[str]) -> Fault:
    who = ", ".join(holders[:5]) + (f" and {len(holders) - 5} more" if len(holders) > 5 else "")
    return Fault(
        "failed",
        "busy",
        f"{target} is in use" + (f" by {who}" if who else ""),
        "have them leave the folder and close its files, then run mountd again"
        if holders
        else f"some process has it open, or a namespace has a copy of it: `lsof +f -- {target}`",
        _errno.EBUSY,
    )


def not_moved(volume: str, point: str, why: Fault) -> Fault:
    message = f"what is mounted at {point} stays, for `{volume}` could not be mounted elsewhere"
    return Fault("failed", why.code, message, f"mend what stops `{volume}`", why.errno)


def busy_writers(target: str, writers: list[str]) -> Fault:
    who = f" ({', '.join(writers[:5])})" if writers else ""
    return Fault(
        "failed",
        "busy",
        f"{target} can't be made read-only while files on it are open for writing{who}",
        "have them closed, then run mountd again",
        _errno.EBUSY,
    )


def not_answering(source: str, target: str, seconds: float) -> Fault:
    return Fault(
        "failed",
        "not-answering",
        f"no answer within {seconds:g} s from {source} (or {target})",
        "see whether the server behind it (FUSE, NFS, virtiofs) is alive; mountd tries again",
    )


def filesystem_not_answering(fs_type: str, source: str, seconds: float) -> Fault:
    message = f"no answer within {seconds:g} s from the {fs_type} of {source}"
    hint = "see whether the server behind it is alive; mountd tries again"
    return Fault("failed", "not-answering", message, hint)


_CODES: dict[int, Reason] = {
    _errno.EMFILE: "limit",
    _errno.ENFILE: "limit",
    _errno.EROFS: "read-only-filesystem",
}


def from_kernel(error: OSError, trying: str) -> Fault:
    """What the kernel said to something that has no sentence of its own.

    `trying` completes "can't …"; the error's text names the call and its object.
    """
    code = _CODES.get(error.errno or 0, "io")
    if error.errno in (_errno.EPERM, _errno.EACCES):
        code = "not-privileged"
    hint = _HINTS.get(error.errno or 0)
    said = error.strerror or str(error)
    where = f" ({error.filename})" if error.filename else ""
    return Fault("failed", code, f"can't {trying}: {said}{where}", hint, error.errno or 0)


_HINTS = {
    _errno.EMFILE: "raise the limit on open files (`ulimit -n`, LimitNOFILE=)",
    _errno.ENFILE: "raise the sysctl fs.file-max",
    _errno.ENOTCONN: "the server behind it is gone: unmount it, and start the server again",
}


def unwritable_record(error: OSError) -> Fault:
    said = error.strerror or str(error)
    code = "limit" if error.errno == _errno.ENOSPC else _CODES.get(error.errno or 0, "io")
    hint = "nothing is mounted that can't be recorded; make room or mend the state directory"
    return Fault("failed", code, f"the record can't be written: {said}", hint, error.errno or 0)


def not_visible(error: OSError) -> Fault:
    said = error.strerror or str(error)
    hint = "run it as root to see what root would do"
    return Fault(
        "failed", "not-privileged", f"you may not look there: {said}", hint, error.errno or 0
    )


def unknown_filesystem(fs_type: str) -> Fault:
    return Fault(
        "failed",
        "mount-refused",
        f"this kernel knows no filesystem `{fs_type}`",
        f"`modprobe {fs_type}` says whether there is a module for it; /proc/filesystems lists"
        " those that need none",
        _errno.ENODEV,
    )


def no_filesystem_permitted(fs_type: str) -> Fault:
    message = f"the kernel doesn't let us mount {fs_type}: it takes CAP_SYS_ADMIN"
    hint = "run mountd as root, or give the container CAP_SYS_ADMIN"
    return Fault("failed", "not-privileged", message, hint, _errno.EPERM)


def refused_option(fs_type: str, option: str, said: str, errno: int) -> Fault:
    key, _, value = option.partition("=")
    longest = max(len(each.encode(errors="surrogateescape")) for each in (key, value))
    if longest > _MOST_OPTION_BYTES:
        hint = f"the kernel takes at most {_MOST_OPTION_BYTES} bytes of an option"
        if fs_type == "overlay":
            hint += "; give each folder an item `lowerdir+=…` of its own (Linux 6.8)"
    elif key in _MOUNT_WORDS:
        hint = (
            "that is about the mount, not the filesystem: volumes have the keys `nosuid`, `nodev`,"
            " `noexec`, `atime` and `required` for it"
        )
    elif "," in option:
        hint = "where the comma parts two options, make each an item of the list"
    else:
        hint = f"leave it out, or see what {fs_type} takes in its man page or mount(8)"
    message = f"{fs_type} refuses the option {_shown(option)}: {said}"
    return Fault("failed", "mount-refused", message, hint, errno)


_MOST_OPTION_BYTES = 255
_MOUNT_WORDS = {"defaults", "auto", "noauto", "user", "users", "nofail", "_netdev"} | {
    no + word
    for word in ("suid", "dev", "exec", "atime", "diratime", "relatime", "strictatime", "symfollow")
    for no in ("", "no")
}


def _shown(option: str) -> str:
    """An option as a message may have it, also in a journal that others read."""
    key, equals, value = option.partition("=")
    if equals and key in ("password", "pass", "password2", "secret"):
        value = "…"
    shown = key + equals + value
    return f"`{shown}`" if len(shown) <= 80 else f"`{shown[:79]}…`"


def option_names_nothing(fs_type: str, option: str, said: str) -> Fault:
    message = f"what {fs_type}'s option {_shown(option)} names isn't there: {said}"
    hint = "the volume is mounted once it appears"
    return Fault("pending", "no-source", message, hint, _errno.ENOENT)


def not_a_device_path(fs_type: str, source: str) -> Fault:
    message = f"{fs_type} lies on a device, and `{source}` is not the absolute path of one"
    hint = "for a UUID or a label write /dev/disk/by-uuid/… or /dev/disk/by-label/…"
    return Fault("failed", "mount-refused", message, hint)


def not_a_device(fs_type: str, source: str) -> Fault:
    return Fault(
        "failed",
        "wrong-kind",
        f"{source} is not a block device, which {fs_type} has to lie on",
        "for an image, make one by `losetup --find --show FILE`, and name that as the source",
        _errno.ENOTBLK,
    )


def empty_device(source: str) -> Fault:
    message = f"there is nothing behind {source}: it has no size"
    return Fault("pending", "no-source", message, "the volume is mounted once there is")


def read_only_device(fs_type: str, source: str) -> Fault:
    message = f"{source} is read-only, and {fs_type} would be mounted to be written"
    return Fault("failed", "read-only-filesystem", message, 'add "ro" to `options`', _errno.EACCES)


def busy_device(fs_type: str, source: str, said: str) -> Fault:
    return Fault(
        "failed",
        "busy",
        f"{fs_type} can't be mounted from {source}: {said}",
        f"`findmnt {source}` shows where it is mounted already, for which `options` must agree on"
        f" `ro`; `lsblk {source}` shows what else has it",
        _errno.EBUSY,
    )


def nothing_there(fs_type: str, source: str, said: str) -> Fault:
    message = f"{fs_type} finds nothing at `{source}`: {said}"
    return Fault("pending", "no-source", message, "the volume is mounted once it appears")


def refused_filesystem(
    fs_type: str, source: str, options: Sequence[str], said: str, errno: int, *, is_device: bool
) -> Fault:
    code = _CODES.get(errno, "io" if errno == _errno.EIO else "mount-refused")
    asks = ["`dmesg` may say more"]
    if errno in (_errno.EPERM, _errno.EACCES):
        code = "not-privileged"
        asks.insert(0, "a container may mount few filesystems, and no device on a nodev mount")
    elif is_device and errno in (_errno.EINVAL, _errno.EIO):
        asks.insert(0, f"`blkid {source}` says what is on it")
    elif fs_type == "virtiofs" and errno == _errno.EINVAL:  # so far only dmesg knows
        asks.insert(0, "see that the host shares something by this tag")
    given = f" with {' '.join(map(_shown, options))}" if options else ""
    message = f"{fs_type} can't be mounted from {source}{given}: {said}"
    return Fault("failed", code, message, "; ".join(asks), errno)


def mount_limit(target: str) -> Fault:
    # ENOSPC of move_mount has nothing to do with disks
    message = f"{target}: this mount namespace has as many mounts as the kernel allows"
    return Fault("failed", "limit", message, "raise the sysctl fs.mount-max", _errno.ENOSPC)


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


def namespaces_used_up(limit: int | None) -> Fault:
    """`limit` as the sysctl reads here; another may hold in a user namespace around ours."""
    if limit == 0:
        message = "the sysctl user.max_user_namespaces is 0, and an idmapping needs a namespace"
    else:
        message = "the kernel has no more user namespaces to give, and an idmapping needs one"
    hint = "raise the sysctl user.max_user_namespaces"
    if limit:
        hint += f", {limit} here, or that of the user namespace around"
    return Fault("failed", "limit", message, hint, _errno.ENOSPC)


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
