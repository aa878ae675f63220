"""Why a filesystem can't be mounted for volumes with a `type`."""

import errno as _errno
from collections.abc import Sequence

from mountd.core.model import Fault
from mountd.core.words.commands import mountd, shell
from mountd.core.words.faults import CODES, MOUNTED_LATER


def link_in_subdir(subdir: str) -> Fault:
    message = f"there is a link in `subdir`, {subdir}, which could lead out of the filesystem"
    return Fault("failed", "unsafe-path", message, "name the folder that it leads to")


def no_subdir(subdir: str, fs_type: str, source: str) -> Fault:
    message = f"there is no {subdir} on the {fs_type} of {source}"
    return Fault("pending", "no-source", message, MOUNTED_LATER)


def filesystem_not_answering(fs_type: str, source: str, seconds: float) -> Fault:
    message = f"no answer within {seconds:g} s from the {fs_type} of {source}"
    hint = "see whether the server behind it is alive; the next pass asks again"
    return Fault("failed", "not-answering", message, hint)


def covered_filesystem(fs_type: str, source: str, point: str, cover: str) -> Fault:
    message = f"the {fs_type} of {source}, at {point}, is covered by another mount, at {cover}"
    hint = f"{shell('umount', '--lazy', cover)}, because mountd itself has its lock there"
    return Fault("conflict", "foreign-mount", message, hint)


def unknown_filesystem(fs_type: str) -> Fault:
    return Fault(
        "failed",
        "mount-refused",
        f"this kernel knows no filesystem `{fs_type}`",
        f"{shell('modprobe', fs_type)} says whether there is a module for it; /proc/filesystems"
        " lists those that need none",
        _errno.ENODEV,
    )


def no_filesystem_permitted(fs_type: str, hint: str) -> Fault:
    message = f"the kernel doesn't let us mount {fs_type}: it takes CAP_SYS_ADMIN"
    return Fault("failed", "not-privileged", message, hint, _errno.EPERM)


def refused_options(fs_type: str, refused: Sequence[tuple[str, str]], errno: int) -> Fault:
    """Each with what the kernel said of it; all of a volume's at once."""
    options = " and ".join(
        f"{'the option ' * (index == 0)}{_shown(option)}: {said}"
        for index, (option, said) in enumerate(refused)
    )
    hints = dict.fromkeys(_advice(fs_type, option) for option, _ in refused)
    return Fault("failed", "mount-refused", f"{fs_type} refuses {options}", "; ".join(hints), errno)


def _advice(fs_type: str, option: str) -> str:
    key, _, value = option.partition("=")
    longest = max(len(each.encode(errors="surrogateescape")) for each in (key, value))
    if longest > _MOST_OPTION_BYTES:
        hint = f"the kernel takes at most {_MOST_OPTION_BYTES} bytes of an option"
        if fs_type == "overlay":
            hint += "; give each folder an item `lowerdir+=…` of its own (Linux 6.8)"
        return hint
    if key in _MOUNT_WORDS:
        return (
            "that is about the mount, not the filesystem: volumes have the keys `nosuid`, `nodev`,"
            " `noexec`, `atime` and `required` for it"
        )
    if "," in option:
        return "where the comma parts two options, make each an item of the list"
    return f"leave it out, or see what {fs_type} takes in its man page or mount(8)"


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
    hint = MOUNTED_LATER
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
    return Fault("pending", "no-source", message, MOUNTED_LATER)


def read_only_device(fs_type: str, source: str) -> Fault:
    message = f"{source} is read-only, and {fs_type} would be mounted to be written"
    return Fault("failed", "read-only-filesystem", message, 'add "ro" to `options`', _errno.EACCES)


def mounted_otherwise(source: str, *, is_read_only: bool) -> Fault:
    """It is mounted already, and read-only there, or to be written, unlike here."""
    if is_read_only:
        message = f"{source} is mounted already, read-only, and `options` don't have `ro`"
        hint = f'add "ro" to `options`, or unmount what {shell("findmnt", source)} shows'
    else:
        message = f"{source} is mounted already, to be written, and `options` have `ro`"
        hint = "leave that out and say `read_only = true`, which is about this volume alone"
    return Fault("failed", "busy", message, hint, _errno.EBUSY)


def busy_device(fs_type: str, source: str, said: str) -> Fault:
    return Fault(
        "failed",
        "busy",
        f"{fs_type} can't be mounted from {source}: {said}",
        f"{shell('findmnt', source)} shows where it is mounted already; {shell('lsblk', source)},"
        " what else has it",
        _errno.EBUSY,
    )


def nothing_there(fs_type: str, source: str, said: str) -> Fault:
    message = f"{fs_type} finds nothing at `{source}`: {said}"
    return Fault("pending", "no-source", message, MOUNTED_LATER)


def refused_filesystem(
    fs_type: str, source: str, options: Sequence[str], said: str, errno: int, *, is_device: bool
) -> Fault:
    code = CODES.get(errno, "io" if errno == _errno.EIO else "mount-refused")
    asks = ["`dmesg` may say more"]
    if errno in (_errno.EPERM, _errno.EACCES):
        code = "not-privileged"
        asks.insert(0, "a container may mount few filesystems, and no device on a nodev mount")
    elif is_device and errno in (_errno.EINVAL, _errno.EIO):
        asks.insert(0, f"{shell('blkid', source)} says what is on it")
    elif fs_type == "virtiofs" and errno == _errno.EINVAL:  # so far only dmesg knows
        asks.insert(0, "check that the host shares something by this tag")
    given = f" with {' '.join(map(_shown, options))}" if options else ""
    message = f"{fs_type} can't be mounted from {source}{given}: {said}"
    return Fault("failed", code, message, "; ".join(asks), errno)


def not_in_force(source: str, keys: Sequence[str], volumes: Sequence[str]) -> str:
    """A note on options that the kernel has ignored, because it had mounted the device already."""
    shown = ", ".join(f"`{key}`" for key in keys)
    what, it = ("option {} isn't", "it") if len(keys) == 1 else ("options {} aren't", "them")
    return (
        f"the {what.format(shown)} among those in force, because {source} is mounted already:"
        f" {mountd('unmount', *volumes)} and then {mountd('reconcile')} put {it} in force,"
        " unless something else has it mounted"
    )
