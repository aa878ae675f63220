"""The calls of the mount API, by number through syscall(2), for glibc has wrappers for few of them.

Constants, structs and arguments have their names from the man pages: open_tree(2), move_mount(2),
fsopen(2), fsconfig(2), fsmount(2), mount_setattr(2), openat2(2), statx(2), umount2(2),
faccessat2(2), setgroups(2), setresuid(2), setfsuid(2), prctl(2), close_range(2). Descriptors are
close-on-exec. Each call raises OSError with `strerror` naming the call and its object.

Those that walk a path or ask for what a server tells raise ServedError where they might have to
wait for it, or take an errand (`served`).
"""

import ctypes
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_void_p
from errno import EAGAIN, EINVAL, ELOOP, ENOTDIR, EXDEV
from signal import SIGKILL
from stat import S_ISDIR, S_ISLNK
from struct import Struct
from types import EllipsisType
from typing import NamedTuple, Self

from mountd.kernel.binding import AT_FDCWD, bind
from mountd.kernel.served import (
    ServedError,
    by_road,
    is_own,
    is_proc,
    is_registered,
    may_wait,
    see_mount,
    see_path,
    server_of,
)
from mountd.kernel.statmount import HAS_STATMOUNT

AT_SYMLINK_NOFOLLOW = 0x100
AT_EACCESS = 0x200
AT_EMPTY_PATH = 0x1000
AT_STATX_DONT_SYNC = 0x4000
AT_STATX_FORCE_SYNC = 0x2000
AT_RECURSIVE = 0x8000

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC

MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_BENEATH = 0x200  # Linux 6.5

FSOPEN_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
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

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20  # Linux 5.12; EINVAL before

STATX_TYPE_MODE_UID_GID_INO = 0x01 | 0x02 | 0x08 | 0x10 | 0x100
STATX_MNT_ID = 0x1000
STATX_MNT_ID_UNIQUE = 0x4000  # Linux 6.8
STATX_ATTR_IMMUTABLE = 0x10
STATX_ATTR_APPEND = 0x20
STATX_ATTR_MOUNT_ROOT = 0x2000

_NUMBERS = {  # those of before 5.1 differ from one architecture to another
    "x86_64": {
        "setgroups": 116,
        "setresuid": 117,
        "setresgid": 119,
        "setfsuid": 122,
        "setfsgid": 123,
        "prctl": 157,
        "mount": 165,
        "umount2": 166,
        "statx": 332,
    },
}.get(
    os.uname().machine,
    {
        "setgroups": 159,
        "setresuid": 147,
        "setresgid": 149,
        "setfsuid": 151,
        "setfsgid": 152,
        "prctl": 167,
        "mount": 40,
        "umount2": 39,
        "statx": 291,
    },
)


_prctl = bind("prctl", _NUMBERS["prctl"], c_int, c_long, c_long, c_long, c_long)
_close_range = bind("close_range", 436, c_uint, c_uint, c_uint)
_open_tree = bind("open_tree", 428, c_int, c_char_p, c_uint)
_move_mount = bind("move_mount", 429, c_int, c_char_p, c_int, c_char_p, c_uint)
_fsopen = bind("fsopen", 430, c_void_p, c_uint)  # no c_char_p: what it takes is not a path
_fsconfig = bind("fsconfig", 431, c_int, c_uint, c_void_p, c_void_p, c_int)
_fsmount = bind("fsmount", 432, c_int, c_uint, c_uint)
_openat2 = bind("openat2", 437, c_int, c_char_p, c_void_p, c_size_t)
_faccessat2 = bind("faccessat2", 439, c_int, c_char_p, c_int, c_int)
_mount_setattr = bind("mount_setattr", 442, c_int, c_char_p, c_uint, c_void_p, c_size_t)
_open_tree_attr = bind("open_tree_attr", 467, c_int, c_char_p, c_uint, c_void_p, c_size_t)
_statx = bind("statx", _NUMBERS["statx"], c_int, c_char_p, c_int, c_uint, c_void_p)
_mount = bind("mount", _NUMBERS["mount"], c_void_p, c_char_p, c_void_p, c_long, c_void_p)
_umount2 = bind("umount2", _NUMBERS["umount2"], c_char_p, c_int)
_setgroups = bind("setgroups", _NUMBERS["setgroups"], c_size_t, c_void_p)
_setresuid = bind("setresuid", _NUMBERS["setresuid"], c_uint, c_uint, c_uint)
_setresgid = bind("setresgid", _NUMBERS["setresgid"], c_uint, c_uint, c_uint)
_setfsuid = bind("setfsuid", _NUMBERS["setfsuid"], c_uint)
_setfsgid = bind("setfsgid", _NUMBERS["setfsgid"], c_uint)


class Fd:
    """An open descriptor and its owner: closed at the end of the `with`, or by `close`.

    `server` is that of the filesystem it is on, if that has been looked up: see `see_folder`.
    """

    __slots__ = ("number", "server")

    def __init__(self, number: int) -> None:
        self.number = number
        self.server: int | EllipsisType | None = ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it, if that has not been done."""
        if self.number >= 0:
            number, self.number = self.number, -1
            os.close(number)


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
    see_folder(folder)
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
    see_folder(folder)
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
        see_folder(folder)
        see_mount(_look(folder.number, name, AT_STATX_DONT_SYNC).mount, name)
    _umount2(os.fsencode(f"/proc/self/fd/{folder.number}/{name}"), flags | UMOUNT_NOFOLLOW)


@by_road
def openat2(folder: Fd | None, path: str, flags: int, resolve: int) -> Fd:
    """Open a path from `folder`, or from the root where there is none, under RESOLVE_* rules.

    The mount that an O_PATH descriptor is on may be served: it is the way there that is not.
    """
    if may_wait():
        return _open(folder, path, flags, resolve)
    if flags & os.O_PATH:
        return _reach(folder, path, flags, resolve)
    walking = os.O_PATH | flags & (os.O_DIRECTORY | os.O_NOFOLLOW)
    with _reach(folder, path, walking, resolve) as file:
        see_folder(file)
        return _open(None, f"/proc/self/fd/{file.number}", flags & ~os.O_NOFOLLOW, 0)


def _open(folder: Fd | None, path: str, flags: int, resolve: int) -> Fd:
    """The call itself.

    Beneath a folder the kernel can't follow a `..` while anything is renamed or mounted on the
    whole machine, and answers EAGAIN (openat2(2)), as it does where RESOLVE_CACHED isn't enough.
    """
    how = _OPEN_HOW.pack(flags | os.O_CLOEXEC, 0, resolve)
    number = folder.number if folder else AT_FDCWD
    for _ in range(0 if resolve & RESOLVE_CACHED else _MOST_TRIES):
        with suppress(BlockingIOError):
            return Fd(_openat2(number, os.fsencode(path), how, _OPEN_HOW.size))
    return Fd(_openat2(number, os.fsencode(path), how, _OPEN_HOW.size))


_MOST_TRIES = 200  # each takes microseconds; whoever renames all the time meets some of them


def _reach(folder: Fd | None, path: str, flags: int, resolve: int) -> Fd:
    """An O_PATH descriptor, without a word to any server: of what is cached, or else step by step.

    RESOLVE_CACHED is EAGAIN where a filesystem would be asked, and where much is being mounted.
    """
    if folder:
        see_folder(folder)
    else:
        see_path(path)
    try:
        return _open(folder, path, flags, resolve | RESOLVE_CACHED)
    except OSError as error:
        if error.errno not in (EAGAIN, EINVAL):
            raise
    if resolve & RESOLVE_IN_ROOT:  # where links lead is for the kernel to say
        try:
            return _open(folder, path, flags, resolve | RESOLVE_NO_XDEV)
        except OSError as error:
            if error.errno != EXDEV:
                raise
            raise ServedError(path, -1) from error
    return _walk(folder, path, flags, resolve)


def _walk(folder: Fd | None, path: str, flags: int, resolve: int) -> Fd:
    """The same name by name, none of which is looked up on a mount that is served."""
    here, todo = _start(folder, path, resolve)
    links = 0
    try:
        while todo:
            see_folder(here)
            name = todo.pop()
            inner = _step(here, name)
            found = _look(inner.number, "", AT_STATX_DONT_SYNC)
            inner.server = server_of(found.mount)
            is_passed = bool(todo) or not flags & os.O_NOFOLLOW
            if S_ISLNK(found.mode) and is_passed and is_proc(found.mount):
                inner.close()
                inner = _open(here, name, os.O_PATH, resolve & _OF_LINKS)  # it isn't walked
            elif S_ISLNK(found.mode) and is_passed:
                with inner:
                    leads_to = os.readlink("", dir_fd=inner.number)
                links += 1
                if resolve & RESOLVE_NO_SYMLINKS or links > _MOST_LINKS:
                    raise OSError(ELOOP, f"openat2: {os.strerror(ELOOP)} ({path})")
                todo += _names(leads_to)
                if not leads_to.startswith("/"):
                    continue
                see_path("/" + "/".join(reversed(todo)))
                inner = _open(None, "/", os.O_PATH, 0)
            here.close()
            here = inner
        if flags & os.O_DIRECTORY and not S_ISDIR(_look(here.number, "", AT_STATX_DONT_SYNC).mode):
            raise NotADirectoryError(ENOTDIR, f"openat2: {os.strerror(ENOTDIR)} ({path})")
    except BaseException:
        here.close()
        raise
    return here


def _start(folder: Fd | None, path: str, resolve: int) -> tuple[Fd, list[str]]:
    """Where to begin, and the names from there on, the next one last: often only that is new."""
    above, _, name = path.rpartition("/")
    if above:
        with suppress(OSError):
            flags = os.O_PATH | os.O_DIRECTORY
            return _open(folder, above, flags, resolve | RESOLVE_CACHED), _names(name)
    return _open(folder, "." if folder else "/", os.O_PATH, 0), _names(path)


def _names(path: str) -> list[str]:
    return [each for each in reversed(path.split("/")) if each]  # a `.` follows a link before it


_OF_LINKS = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_MOST_LINKS = 40  # as the kernel's own walk (path_resolution(7))


def _step(here: Fd, name: str) -> Fd:
    """What a name in a folder leads to: a mount's root, where there is one, asks nobody."""
    flags = os.O_PATH | os.O_NOFOLLOW
    try:
        return _open(here, name, flags, RESOLVE_NO_XDEV)
    except OSError as error:
        if error.errno != EXDEV:
            raise
    return _open(here, name, flags, 0)


def see_folder(folder: Fd) -> None:
    """Raise ServedError where what is open lies on a mount that is served, unless we may wait."""
    if may_wait():
        return
    if folder.server is ...:
        folder.server = server_of(_look(folder.number, "", AT_STATX_DONT_SYNC).mount)
    if folder.server is not None:
        raise ServedError(os.readlink(f"/proc/self/fd/{folder.number}"), folder.server)


def register(tree: Fd, found: "Stat", fs_type: str) -> None:
    """Know whether a detached mount, of this root, is served: of it no table tells."""
    is_others = is_registered(found.mount, st_dev(found.device), fs_type)
    tree.server = found.device if is_others else None


_OPEN_HOW = Struct("=3Q")
FAR = 1000
"""Characters from which on a path may have PATH_MAX bytes, and is walked in pieces."""


def open_folder(base: Fd | None, path: str) -> Fd:
    """An O_PATH descriptor of the folder at a path that has no links, however long that is.

    The path is absolute, or goes on from `base`. Raises OSError as openat2(2) does. No call takes
    more than 4,095 bytes at once (PATH_MAX), but a user's rename can give a folder any path.
    """
    flags = os.O_PATH | os.O_DIRECTORY
    start = 0
    with ExitStack() as held:
        while len(path) - start >= FAR:
            end = path.rfind("/", start + 1, start + FAR)
            if end < 0:
                break  # a name that is too long, which the kernel says
            inner = openat2(base, path[start:end], flags, RESOLVE_NO_SYMLINKS)
            held.close()
            base, start = held.enter_context(inner), end + 1
        return openat2(base, path[start:] or ".", flags, RESOLVE_NO_SYMLINKS)


def faccessat2(file: Fd | None, path: str, mode: int) -> None:
    """Ask whether this thread may have `file` itself or an absolute path (Linux 5.8).

    By its fsuid and groups: EACCES where it may not; `mode` is made of os.R_OK, os.W_OK, os.X_OK.
    """
    flags = AT_EACCESS | (0 if path else AT_EMPTY_PATH)
    _faccessat2(file.number if file else AT_FDCWD, os.fsencode(path), mode, flags)


def die_with_parent() -> None:
    """Be killed when the thread ends that made this process (prctl(2), PR_SET_PDEATHSIG)."""
    _prctl(_PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)


_PR_SET_PDEATHSIG = 1


def close_all_but(kept: Iterable[int]) -> None:
    """Close every descriptor but these (close_range(2), Linux 5.9, or one by one)."""
    first = 0
    for number in (*sorted({*kept}), _MOST_DESCRIPTORS):
        if first < number:
            try:
                _close_range(first, number - 1, 0)
            except OSError:
                for each in map(int, os.listdir("/proc/self/fd")):
                    if first <= each < number:
                        with suppress(OSError):  # that of the listing
                            os.close(each)
        first = number + 1


_MOST_DESCRIPTORS = 1 << 31


def setgroups(groups: Collection[int]) -> None:
    """Give this thread, and no other, these supplementary groups; libc's gives them to all."""
    _setgroups(len(groups), (ctypes.c_uint32 * len(groups))(*groups))


def setresuid(uid: int) -> None:
    """Give this thread, and no other, this user id as its real, effective and saved one."""
    _setresuid(uid, uid, uid)


def setresgid(gid: int) -> None:
    """The same for its group."""
    _setresgid(gid, gid, gid)


def setfsuid(uid: int) -> bool:
    """Have this thread, and no other, look at files and make them as this user; whether it took.

    The call itself never fails: it answers with the id that was in force (setfsuid(2)).
    """
    _setfsuid(uid)
    return _setfsuid(uid) == uid


def setfsgid(gid: int) -> bool:
    """The same for its group."""
    _setfsgid(gid)
    return _setfsgid(gid) == gid


class Stat(NamedTuple):
    """What statx(2) tells of a file, and of the mount through which it was reached.

    `device` is equal where st_dev is; `mount` is the unique mount id, or where HAS_STATMOUNT is
    false the reusable one.
    """

    attributes: int
    uid: int
    gid: int
    mode: int
    inode: int
    device: int
    mount: int

    @property
    def is_mount_root(self) -> bool:
        """Whether it is where its mount begins."""
        return bool(self.attributes & STATX_ATTR_MOUNT_ROOT)


@by_road
def statx(folder: Fd | None, path: str = "", *, flags: int = 0) -> Stat:
    """Stat `path` in `folder`, `folder` itself, or an absolute path; a final link isn't followed.

    AT_STATX_DONT_SYNC never waits for a server, but may answer 0:0 for an owner not yet asked for;
    AT_STATX_FORCE_SYNC always asks it.
    """
    number = folder.number if folder else AT_FDCWD
    if may_wait():
        return _look(number, path, flags)
    if folder is None or "/" in path:
        with _reach(folder, path, os.O_PATH | os.O_NOFOLLOW, 0) as file:
            return _known_stat(file.number, "", flags)
    if path:
        see_folder(folder)
    return _known_stat(number, path, flags)


def _known_stat(number: int, path: str, flags: int) -> Stat:
    """What the kernel knows without asking a server, which for other filesystems is all."""
    found = _look(number, path, AT_STATX_DONT_SYNC)
    if not flags & AT_STATX_DONT_SYNC:
        see_mount(found.mount, path or f"descriptor {number}")
        if is_own(found.mount):
            return _look(number, path, flags)
    return found


def _look(number: int, path: str, flags: int) -> Stat:
    buffer = _STATX_BUFFER()
    flags |= AT_SYMLINK_NOFOLLOW if path else AT_EMPTY_PATH
    _statx(number, os.fsencode(path), flags, _STATX_MASK, buffer)
    return Stat._make(_STATX.unpack_from(buffer))


def look(base: Fd | None, path: str) -> Stat:
    """Stat a path as it is given to `open_folder`, of any length; no server is waited for."""
    if len(path) < FAR:
        return statx(base, path, flags=AT_STATX_DONT_SYNC)
    above, _, name = path.rpartition("/")
    with open_folder(base, above) as folder:
        return statx(folder, name, flags=AT_STATX_DONT_SYNC)


def st_dev(device: int) -> int:
    """A Stat's device as stat(2) has it."""
    major, minor = _DEVICE.unpack(device.to_bytes(8, sys.byteorder))
    return os.makedev(major, minor)


def reusable_mount_id(path: str) -> int:
    """The id that mountinfo gives the mount where a path ends, magic links followed."""
    buffer = _STATX_BUFFER()
    _statx(AT_FDCWD, os.fsencode(path), AT_STATX_DONT_SYNC, STATX_MNT_ID, buffer)
    return Stat._make(_STATX.unpack_from(buffer)).mount


_DEVICE = Struct("=II")
_STATX = Struct("=8xQ4xIIH2xQ96xQQ")
_STATX_MASK = STATX_TYPE_MODE_UID_GID_INO | (STATX_MNT_ID_UNIQUE if HAS_STATMOUNT else STATX_MNT_ID)
_STATX_BUFFER = ctypes.c_char * 256
