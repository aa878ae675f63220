"""A filesystem as a mount of its own: fsopen(2), fsconfig(2), fsmount(2) (Linux 5.2).

The kernel's word on what it minds comes first. Often it has none here, but writes to its ring
buffer, which is not ours to read: then there is the errno, and what can be looked up.
"""

import os
import stat
from collections.abc import Sequence
from errno import EACCES, EBUSY, EINVAL, ENODATA, ENODEV, ENOENT, ENOMEDIUM, ENOTBLK, ENXIO, EPERM

from mountd.core.model import Fault
from mountd.core.served import has_server
from mountd.core.words import faults, filesystem_faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.mount_api import (
    FSCONFIG_CMD_CREATE,
    FSCONFIG_SET_FLAG,
    FSCONFIG_SET_STRING,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    fsconfig,
    fsmount,
    fsopen,
)
from mountd.kernel.paths import open_path
from mountd.kernel.served import ServedError, may_wait
from mountd.kernel.syscalls import Fd

_MESSAGE_BYTES = 8192


def make_filesystem(fs_type: str, source: str, options: Sequence[str]) -> Fd:
    """A detached mount of a filesystem: nosuid, nodev, not idmapped. It may block on a server.

    Where its device is mounted already the superblock is shared, and the kernel ignores most
    options without a word (another `ro` alone is EBUSY). Options are `key=value` or `key`; a value
    goes as a string of at most 255 bytes, never as a descriptor.
    Raises VolumeError, or OSError where there is no context to be had (EMFILE, ENOSYS).
    """
    _see_server(fs_type, source, options)
    with _open(fs_type) as context:
        if is_device := _takes_device(fs_type):
            source = _without_links(fs_type, source)
        for option in (f"source={source}", *options):
            _set(context, fs_type, option)
        try:
            fsconfig(context, FSCONFIG_CMD_CREATE)
            return fsmount(context, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
        except OSError as error:
            said = _said(context, fs_type, error)
            if is_device and (known := _trouble_of_device(fs_type, source, error, said)):
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
            raise VolumeError(filesystem_faults.no_filesystem_permitted(fs_type)) from error
        if error.errno != ENODEV:
            raise
        raise VolumeError(filesystem_faults.unknown_filesystem(fs_type)) from error


def _takes_device(fs_type: str) -> bool:
    """Whether its source is a block device: once it is open, its module is loaded and listed."""
    with open("/proc/filesystems", encoding="utf-8") as lines:
        return f"\t{fs_type}\n" in lines


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


def _set(context: Fd, fs_type: str, option: str) -> None:
    key, equals, value = option.partition("=")
    try:
        if equals:
            fsconfig(context, FSCONFIG_SET_STRING, key, value)
        else:
            fsconfig(context, FSCONFIG_SET_FLAG, key)
    except OSError as error:
        said = _said(context, fs_type, error)
        if error.errno == ENOENT:  # overlay opens the folders at once
            raise VolumeError(
                filesystem_faults.option_names_nothing(fs_type, option, said)
            ) from error
        fault = filesystem_faults.refused_option(fs_type, option, said, error.errno or 0)
        raise VolumeError(fault) from error


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


def _trouble_of_device(fs_type: str, path: str, error: OSError, said: str) -> Fault | None:
    """What is known to be wrong with a device; EIO and EINVAL are all that an empty one gives."""
    if error.errno == ENOTBLK:
        return filesystem_faults.not_a_device(fs_type, path)
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
