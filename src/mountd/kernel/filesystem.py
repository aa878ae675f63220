"""A filesystem as a mount of its own: fsopen(2), fsconfig(2), fsmount(2) (Linux 5.2).

The kernel's word on what it minds comes first. Often it has none here, but writes to its ring
buffer, which is not ours to read: then there is the errno, and what can be looked up.
"""

import os
import stat
from collections.abc import Sequence
from errno import (
    EACCES,
    EBUSY,
    EINVAL,
    ENODATA,
    ENODEV,
    ENOENT,
    ENOMEDIUM,
    ENOTBLK,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
)

from mountd.core.model import Fault
from mountd.core.named_tuple import NamedTuple
from mountd.core.served import has_server
from mountd.core.words import faults, filesystem_faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.mount_api import (
    FSCONFIG_CMD_CREATE,
    FSCONFIG_CMD_CREATE_EXCL,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_STRING,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    fsconfig,
    fsmount,
    fsopen,
)
from mountd.kernel.paths import open_path
from mountd.kernel.privileges import how_to_have
from mountd.kernel.served import ServedError, may_wait
from mountd.kernel.syscalls import Fd

_MESSAGE_BYTES = 8192


class Made(NamedTuple):
    """A detached mount of a filesystem."""

    mount: Fd
    is_shared: bool
    """Whether it was mounted already: then its options are those in force, whatever ours are."""


def make_filesystem(fs_type: str, source: str, options: Sequence[str]) -> Made:
    """A detached mount of a filesystem: nosuid, nodev, not idmapped. It may block on a server.

    Where its device is mounted already the superblock is shared, and the kernel ignores most
    options without a word (another `ro` alone is EBUSY); asked to create it exclusively, which
    Linux 6.6 can, it refuses that. Options are `key=value` or `key`; a value goes as a string of at
    most 255 bytes, never as a descriptor.
    Raises VolumeError, or OSError where there is no context to be had (EMFILE, ENOSYS).
    """
    _see_server(fs_type, source, options)
    try:
        return Made(_created(fs_type, source, options, FSCONFIG_CMD_CREATE_EXCL), is_shared=False)
    except OSError as error:
        if error.errno not in (EBUSY, EOPNOTSUPP):
            raise
        is_shared = error.errno == EBUSY
    return Made(_created(fs_type, source, options, FSCONFIG_CMD_CREATE), is_shared)


def device_of(fs_type: str, source: str) -> int | None:
    """The number of the block device that a filesystem lies on; None where it lies on none.

    Raises VolumeError where it should and there is none.
    """
    if not _takes_device(fs_type):
        return None
    path = _without_links(fs_type, source)
    found = os.stat(path)
    if not stat.S_ISBLK(found.st_mode):
        raise VolumeError(filesystem_faults.not_a_device(fs_type, path))
    return found.st_rdev


def try_options(fs_type: str, options: Sequence[str]) -> None:
    """Have the kernel look at options, as far as it does before it mounts anything.

    It isn't asked about a filesystem whose module it would have to load. Raises VolumeError.
    """
    if _is_known(fs_type):
        with _open(fs_type) as context:
            _set(context, fs_type, options)


def _created(fs_type: str, source: str, options: Sequence[str], command: int) -> Fd:
    """The mount. An exclusive creation raises OSError where it isn't the one, or can't be asked."""
    with _open(fs_type) as context:
        if is_device := _takes_device(fs_type):
            source = _without_links(fs_type, source)
        _set(context, fs_type, (f"source={source}", *options))
        try:
            fsconfig(context, command)
            return fsmount(context, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
        except OSError as error:
            if command == FSCONFIG_CMD_CREATE_EXCL and error.errno in (EBUSY, EOPNOTSUPP):
                raise
            said = _said(context, fs_type, error)
            if is_device and (known := _trouble_of_device(fs_type, source, options, error, said)):
                raise VolumeError(known) from error
            if error.errno in (ENXIO, ENODEV) or (error.errno == ENOENT and not is_device):
                raise VolumeError(filesystem_faults.nothing_there(fs_type, source, said)) from error
            fault = filesystem_faults.refused_filesystem(
                fs_type, source, options, said, error.errno or 0, is_device=is_device
            )
            raise VolumeError(fault) from error


def _see_server(fs_type: str, source: str, options: Sequence[str]) -> None:
    """Raise ServedError where the kernel may ask a server, unless we may wait for one.

    It walks by itself the paths that it is given; only those of devices lead nowhere else.
    """
    words = [each.removeprefix("/dev/") for each in (source, *options)]
    if not may_wait() and (has_server(fs_type) or any("/" in each for each in words)):
        raise ServedError(source, -1)


def _open(fs_type: str) -> Fd:
    try:
        return fsopen(fs_type)
    except OSError as error:
        if error.errno == EPERM:
            hint = how_to_have("CAP_SYS_ADMIN")
            raise VolumeError(filesystem_faults.no_filesystem_permitted(fs_type, hint)) from error
        if error.errno != ENODEV:
            raise
        raise VolumeError(filesystem_faults.unknown_filesystem(fs_type)) from error


def _takes_device(fs_type: str) -> bool:
    """Whether its source is a block device: once it is open, its module is loaded and listed."""
    with open("/proc/filesystems", encoding="utf-8") as lines:
        return f"\t{fs_type}\n" in lines


def _is_known(fs_type: str) -> bool:
    """Whether the kernel has it without loading a module; the name may have a subtype."""
    with open("/proc/filesystems", encoding="utf-8") as lines:
        return any(line.split("\t")[-1] == f"{fs_type.partition('.')[0]}\n" for line in lines)


def _without_links(fs_type: str, path: str) -> str:
    """A device's path as it is walked safely: the kernel itself would follow anyone's link."""
    if not path.startswith("/"):
        raise VolumeError(filesystem_faults.not_a_device_path(fs_type, path))
    try:
        device, path = open_path(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VolumeError(faults.no_source(path)) from error
    device.close()
    return path


def _set(context: Fd, fs_type: str, options: Sequence[str]) -> None:
    """Raises VolumeError with all options that are refused: one alone leaves the context good."""
    refused: list[tuple[str, str]] = []
    errno = 0
    for option in options:
        key, equals, value = option.partition("=")
        try:
            if equals:
                fsconfig(context, FSCONFIG_SET_STRING, key, value)
            else:
                fsconfig(context, FSCONFIG_SET_FLAG, key)
        except OSError as error:
            said = _said(context, fs_type, error)
            if error.errno == ENOENT:  # overlay opens the folders at once
                fault = filesystem_faults.option_names_nothing(fs_type, option, said)
                raise VolumeError(fault) from error
            refused.append((option, said))
            errno = errno or error.errno or 0
    if refused:
        raise VolumeError(filesystem_faults.refused_options(fs_type, refused, errno))


def _said(context: Fd, fs_type: str, error: OSError) -> str:
    """What the kernel said: its messages without level and filesystem, and the errno in words."""
    words = os.strerror(error.errno or 0)
    messages: dict[str, None] = {}  # some are there twice
    while True:
        try:
            message = os.fsdecode(os.read(context.number, _MESSAGE_BYTES))
        except OSError as end:
            if end.errno != ENODATA:
                raise
            break
        messages[message[2:].rstrip("\n").removeprefix(f"{fs_type}: ")] = None
    if not messages:
        return words
    said = "; ".join(messages)
    return said if error.errno == EINVAL else f"{said} ({words})"


def _trouble_of_device(
    fs_type: str, path: str, options: Sequence[str], error: OSError, said: str
) -> Fault | None:
    """What is known to be wrong with a device; EIO and EINVAL are all that an empty one gives."""
    if error.errno == ENOTBLK:
        return filesystem_faults.not_a_device(fs_type, path)
    if error.errno == EBUSY and "RO state" in said:  # fs/super.c, setup_bdev_super and its like
        return filesystem_faults.mounted_otherwise(path, is_read_only="ro" not in options)
    if error.errno == EBUSY:
        return filesystem_faults.busy_device(fs_type, path, said)
    if error.errno == ENOMEDIUM or _sysfs(path, "size") == "0":
        return filesystem_faults.empty_device(path)
    if error.errno == EACCES and _sysfs(path, "ro") == "1":
        return filesystem_faults.read_only_device(fs_type, path)
    return None


def _sysfs(path: str, attribute: str) -> str | None:
    """An attribute of a block device, None where it can't be known."""
    try:
        found = os.stat(path)
        if not stat.S_ISBLK(found.st_mode):
            return None
        number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        with open(f"/sys/dev/block/{number}/{attribute}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None
