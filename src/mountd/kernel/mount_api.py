"""The calls of the mount API.

Constants, structs and arguments have their names from the man pages: open_tree(2), move_mount(2),
fsopen(2), fsconfig(2), fsmount(2), mount_setattr(2), mount(2), umount2(2).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_void_p
from struct import Struct

from mountd.kernel.binding import bind
from mountd.kernel.files import see_folder, stat_at
from mountd.kernel.served import (
    by_road,
    may_wait,
    see_mount,
)
from mountd.kernel.syscalls import (
    AT_EMPTY_PATH,
    AT_STATX_DONT_SYNC,
    NUMBERS,
    Fd,
)

AT_RECURSIVE = 0x8000

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC

MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_BENEATH = 0x200  # Linux 6.5

FSOPEN_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_CREATE_EXCL = 8
FSMOUNT_CLOEXEC = 1

MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_IDMAP = 0x100000

MS_REMOUNT = 32
MS_BIND = 4096
MS_PRIVATE = 1 << 18
SB_RDONLY = 1

UMOUNT_NOFOLLOW = 8
MNT_DETACH = 2
_open_tree = bind("open_tree", 428, c_int, c_char_p, c_uint)
_move_mount = bind("move_mount", 429, c_int, c_char_p, c_int, c_char_p, c_uint)
_fsopen = bind("fsopen", 430, c_void_p, c_uint)  # no c_char_p: what it takes is not a path
_fsconfig = bind("fsconfig", 431, c_int, c_uint, c_void_p, c_void_p, c_int)
_fsmount = bind("fsmount", 432, c_int, c_uint, c_uint)
_mount_setattr = bind("mount_setattr", 442, c_int, c_char_p, c_uint, c_void_p, c_size_t)
_open_tree_attr = bind("open_tree_attr", 467, c_int, c_char_p, c_uint, c_void_p, c_size_t)
_mount = bind("mount", NUMBERS["mount"], c_void_p, c_char_p, c_void_p, c_long, c_void_p)
_umount2 = bind("umount2", NUMBERS["umount2"], c_char_p, c_int)


def open_tree(folder: Fd, *, recursive: bool = False) -> Fd:
    """A detached clone of the mount that `folder` lies on, with `folder` as its root.

    `recursive`: with those of the mounts below it, here and in the calls below.
    """
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE * recursive
    return Fd(_open_tree(folder.number, b"", flags))


@by_road
def move_mount(tree: Fd, folder: Fd, name: str, *, beneath: bool = False) -> None:
    """Attach a detached mount at `name` in `folder`, which may not be a link (EINVAL).

    `beneath` what is mounted there, which goes on being what is seen (Linux 6.5).
    """
    see_folder(folder, name)
    flags = MOVE_MOUNT_F_EMPTY_PATH | (MOVE_MOUNT_BENEATH if beneath else 0)
    _move_mount(tree.number, b"", folder.number, os.fsencode(name), flags)


def mount_setattr(
    mount: Fd,
    *,
    set_: int,
    clear: int = 0,
    propagation: int = 0,
    userns: Fd | None = None,
    recursive: bool = False,
) -> None:
    """Change a mount's attributes, all of them or none; MOUNT_ATTR_IDMAP takes `userns`'s map."""
    attr = _MOUNT_ATTR.pack(set_, clear, propagation, userns.number if userns else 0)
    flags = AT_EMPTY_PATH | AT_RECURSIVE * recursive
    with _naming(set_, clear):
        _mount_setattr(mount.number, b"", flags, attr, _MOUNT_ATTR.size)


def open_tree_attr(
    folder: Fd, *, set_: int, clear: int = 0, userns: Fd | None = None, recursive: bool = False
) -> Fd:
    """A clone as open_tree makes it, with other attributes from the start (Linux 6.15).

    mount_setattr can't change the map of an idmapped mount, which a clone inherits; this can: set
    and clear MOUNT_ATTR_IDMAP for another map, clear it for raw ids.
    """
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE * recursive
    attr = _MOUNT_ATTR.pack(set_, clear, 0, userns.number if userns else 0)
    with _naming(set_, clear):
        return Fd(_open_tree_attr(folder.number, b"", flags, attr, _MOUNT_ATTR.size))


@contextmanager
def _naming(set_: int, clear: int) -> Iterator[None]:
    """Have an error say which attributes were to be set and to be cleared."""
    try:
        yield
    except OSError as error:
        parts = [
            f"{verb} {attributes_in_words(attributes)}"
            for verb, attributes in (("setting", set_), ("clearing", clear & ~set_))
            if attributes
        ]
        error.strerror = f"{error.strerror}, {' and '.join(parts)}" if parts else error.strerror
        raise


def attributes_in_words(attributes: int) -> str:
    """MOUNT_ATTR_* as mount(8) names the flags; what has no name there in hexadecimal digits."""
    words = []
    for mask, word in _ATTRIBUTES.items():
        if attributes & mask == mask:
            words.append(word)
            attributes &= ~mask
    return ",".join([*words, *([f"{attributes:#x}"] if attributes else [])])


_ATTRIBUTES = {
    MOUNT_ATTR_RDONLY: "ro",
    MOUNT_ATTR_NOSUID: "nosuid",
    MOUNT_ATTR_NODEV: "nodev",
    MOUNT_ATTR_NOEXEC: "noexec",
    MOUNT_ATTR__ATIME: "atime",  # all of its bits: only they can be cleared
    MOUNT_ATTR_NOATIME: "noatime",
    MOUNT_ATTR_STRICTATIME: "strictatime",
    MOUNT_ATTR_IDMAP: "idmap",
}


_MOUNT_ATTR = Struct("=4Q")


def fsopen(fs_type: str) -> Fd:
    """A context in which a filesystem of this type is configured; ENODEV where it isn't known."""
    return Fd(_fsopen(os.fsencode(fs_type), FSOPEN_CLOEXEC))


def fsconfig(context: Fd, command: int, key: str | None = None, value: str | None = None) -> None:
    """Set a parameter, or carry out a command; EINVAL for a key or value of over 255 bytes.

    What the kernel has to say beyond the errno is read from the context.
    """
    words = (None if word is None else os.fsencode(word) for word in (key, value))
    _fsconfig(context.number, command, *words, 0)


def fsmount(context: Fd, attributes: int) -> Fd:
    """A detached mount, with these MOUNT_ATTR_*, of the filesystem that a context has created."""
    return Fd(_fsmount(context.number, FSMOUNT_CLOEXEC, attributes))


@by_road
def remount(folder: Fd, name: str, attributes: int) -> None:
    """Give an attached mount these MOUNT_ATTR_* flags and make it private, without mount_setattr.

    That is mount(2) with MS_REMOUNT|MS_BIND: all there is before Linux 5.12.
    """
    see_folder(folder, name)
    path = os.fsencode(f"/proc/self/fd/{folder.number}/{name}")
    flags = attributes & ~MOUNT_ATTR__ATIME | _MS_OF_ATIME[attributes & MOUNT_ATTR__ATIME]
    _mount(None, path, None, MS_REMOUNT | MS_BIND | flags, None)
    _mount(None, path, None, MS_PRIVATE, None)


_MS_OF_ATIME = {
    0: 1 << 21,
    MOUNT_ATTR_NOATIME: 1 << 10,
    MOUNT_ATTR_STRICTATIME: 1 << 24,
}  # MS_RELATIME, MS_NOATIME, MS_STRICTATIME; the other flags have the same bits in both


@by_road
def umount2(folder: Fd, name: str, flags: int) -> None:
    """Take off the topmost mount at `name` in `folder`, whatever happens to the path above it.

    The last mount of a filesystem tells its server, and may wait for it (FUSE_DESTROY).
    """
    if not may_wait():
        see_folder(folder, name)
        see_mount(stat_at(folder.number, name, AT_STATX_DONT_SYNC).mount, name)
    _umount2(os.fsencode(f"/proc/self/fd/{folder.number}/{name}"), flags | UMOUNT_NOFOLLOW)


@by_road
def detach_again(tree: Fd) -> None:
    """Take off what was attached just now, lazily: by its own descriptor, by whatever path it lies.

    Should something else lie on it by now, that goes.
    """
    if not may_wait():
        see_mount(stat_at(tree.number, "", AT_STATX_DONT_SYNC).mount, "")
    _umount2(b"/proc/self/fd/%d" % tree.number, MNT_DETACH)
