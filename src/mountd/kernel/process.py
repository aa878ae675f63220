"""The calls about a process itself: setresuid(2), setfsuid(2), setgroups(2) and their like."""

import ctypes
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from ctypes import c_int, c_long, c_size_t, c_uint, c_void_p
from signal import SIGKILL

from mountd.kernel.binding import bind
from mountd.kernel.syscalls import (
    NUMBERS,
)

_prctl = bind("prctl", NUMBERS["prctl"], c_int, c_long, c_long, c_long, c_long)
_close_range = bind("close_range", 436, c_uint, c_uint, c_uint)
_setgroups = bind("setgroups", NUMBERS["setgroups"], c_size_t, c_void_p)
_setresuid = bind("setresuid", NUMBERS["setresuid"], c_uint, c_uint, c_uint)
_setresgid = bind("setresgid", NUMBERS["setresgid"], c_uint, c_uint, c_uint)
_setfsuid = bind("setfsuid", NUMBERS["setfsuid"], c_uint)
_setfsgid = bind("setfsgid", NUMBERS["setfsgid"], c_uint)


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
