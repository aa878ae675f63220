"""The calls that walk a path or ask about a file: openat2(2), statx(2), faccessat2(2).

Where they might have to wait for a server they raise ServedError, or take an errand (`served`).
"""

import ctypes
import os
import sys
from contextlib import ExitStack, suppress
from ctypes import c_char_p, c_int, c_size_t, c_uint, c_void_p
from errno import EAGAIN, EINVAL, ELOOP, ENOTDIR, EXDEV
from stat import S_ISDIR, S_ISLNK
from struct import Struct

from mountd.core.named_tuple import NamedTuple
from mountd.kernel.binding import AT_FDCWD, bind
from mountd.kernel.served import (
    ServedError,
    by_road,
    is_own,
    is_proc,
    is_registered,
    may_wait,
    see_entry,
    see_mount,
    see_path,
    server_of,
)
from mountd.kernel.statmount import HAS_STATMOUNT
from mountd.kernel.syscalls import (
    AT_EACCESS,
    AT_EMPTY_PATH,
    AT_NO_AUTOMOUNT,
    AT_STATX_DONT_SYNC,
    AT_SYMLINK_NOFOLLOW,
    NUMBERS,
    Fd,
)

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
STATX_ATTR_AUTOMOUNT = 0x1000
STATX_ATTR_MOUNT_ROOT = 0x2000
_openat2 = bind("openat2", 437, c_int, c_char_p, c_void_p, c_size_t)
_faccessat2 = bind("faccessat2", 439, c_int, c_char_p, c_int, c_int)
_statx = bind("statx", NUMBERS["statx"], c_int, c_char_p, c_int, c_uint, c_void_p)


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
        try:
            return Fd(_openat2(number, os.fsencode(path), how, _OPEN_HOW.size))
        except BlockingIOError:
            continue
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
            name = todo.pop()
            see_folder(here, name)
            inner = _step(here, name)
            found = stat_at(inner.number, "", AT_STATX_DONT_SYNC)
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
        mode = stat_at(here.number, "", AT_STATX_DONT_SYNC).mode
        if flags & os.O_DIRECTORY and not S_ISDIR(mode):
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


def see_folder(folder: Fd, name: str = "") -> None:
    """Raise ServedError where what is open lies on a mount that is served, unless we may wait.

    Also where such a mount is at `name` in it, and already its root asks the server.
    """
    if may_wait():
        return
    if folder.server is ...:
        folder.server = server_of(stat_at(folder.number, "", AT_STATX_DONT_SYNC).mount)
    if folder.server is not None:
        raise ServedError(os.readlink(f"/proc/self/fd/{folder.number}"), folder.server)
    see_entry(folder.number, name)


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

    @property
    def is_automount(self) -> bool:
        """Whether a filesystem of its own is mounted there once it is opened: an export in another.

        Of autofs the kernel doesn't tell that.
        """
        return bool(self.attributes & STATX_ATTR_AUTOMOUNT)


@by_road
def statx(folder: Fd | None, path: str = "", *, flags: int = 0) -> Stat:
    """Stat `path` in `folder`, `folder` itself, or an absolute path; a final link isn't followed.

    AT_STATX_DONT_SYNC never waits for a server, but may answer 0:0 for an owner not yet asked for;
    AT_STATX_FORCE_SYNC always asks it.
    """
    number = folder.number if folder else AT_FDCWD
    if may_wait():
        return stat_at(number, path, flags)
    if folder is None or "/" in path:
        with _reach(folder, path, os.O_PATH | os.O_NOFOLLOW, 0) as file:
            return _known_stat(file.number, "", flags)
    if path:
        see_folder(folder, path)
    return _known_stat(number, path, flags)


def _known_stat(number: int, path: str, flags: int) -> Stat:
    """What the kernel knows without asking a server, which for other filesystems is all."""
    found = stat_at(number, path, AT_STATX_DONT_SYNC)
    if not flags & AT_STATX_DONT_SYNC:
        see_mount(found.mount, path or f"descriptor {number}")
        if is_own(found.mount):
            return stat_at(number, path, flags)
    return found


def stat_at(number: int, path: str, flags: int) -> Stat:
    """What statx(2) tells from a descriptor, or AT_FDCWD, on; a final link isn't followed.

    Nor is an automount triggered at the end, as it isn't by stat(2).
    """
    buffer = _STATX_BUFFER()
    flags |= AT_NO_AUTOMOUNT | (AT_SYMLINK_NOFOLLOW if path else AT_EMPTY_PATH)
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
