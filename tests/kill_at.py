"""Runs a command that is killed before the N-th of some system calls, whichever thread makes it.

strace(1) counts for each thread alone, so what a thread makes after another's can't be met by it.

    python kill_at.py 3 429,166 mountd reconcile
    python kill_at.py "3:mount -t tmpfs tmpfs /t" 429,166 mountd reconcile

The second one runs something at that moment instead, as another process might.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import NoReturn

_AUDIT_ARCH, SECCOMP, UMOUNT2, RENAMEAT, MKDIRAT = {
    "x86_64": (0xC000003E, 317, 166, 264, 258),
    "aarch64": (0xC00000B7, 277, 39, 38, 34),
}[os.uname().machine]
CHANGES = (429, UMOUNT2, RENAMEAT, MKDIRAT)  # 429: move_mount
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, JMP|JEQ|K, RET|K
_ASK, _ALLOW = 0x7FC00000, 0x7FFF0000  # SECCOMP_RET_*
_NEW_LISTENER = 8  # SECCOMP_FILTER_FLAG_*
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1  # SECCOMP_IOCTL_NOTIF_*, _USER_NOTIF_FLAG_*
_libc = ctypes.CDLL(None, use_errno=True)


def _install(calls: list[int]) -> int:
    """Have these calls of this process ask, on the descriptor that is returned."""
    code = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, _AUDIT_ARCH),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, 0),
    ]
    for call in calls:
        code += [(_EQUAL, 0, 1, call), (_RETURN, 0, 0, _ASK)]
    code.append((_RETURN, 0, 0, _ALLOW))
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in code))
    filter_ = struct.pack("@HP", len(code), ctypes.addressof(program))
    _libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    listener: int = _libc.syscall(SECCOMP, 1, _NEW_LISTENER, ctypes.create_string_buffer(filter_))
    assert listener >= 0, os.strerror(ctypes.get_errno())
    return listener


def main(when: str, calls: str, begin: Callable[[], NoReturn]) -> int:
    """Have a fork of ours begin, and return how it ended."""
    number, _, instead = when.partition(":")
    ours, its = os.pipe()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        os.write(its, b"%d\n" % _install([int(each) for each in calls.split(",")]))
        os.read(told, 1)  # until the listener is held
        begin()
    os.close(its)
    process = os.pidfd_open(child)
    listener: int = _libc.syscall(438, process, int(os.read(ours, 16)), 0)  # pidfd_getfd
    assert listener >= 0, os.strerror(ctypes.get_errno())
    os.write(tell, b".")
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    made = 0
    while poll.poll()[0][1] & select.POLLIN:
        with contextlib.suppress(FileNotFoundError):  # killed while it waited
            asked = bytearray(80)
            fcntl.ioctl(listener, _RECEIVE, asked)
            made += 1
            if made == int(number) and instead:
                subprocess.run(instead.split(), check=True)
            elif made == int(number):
                os.kill(child, signal.SIGKILL)
                break
            said = struct.pack("=QqiI", *struct.unpack_from("=Q", asked), 0, 0, _CONTINUE)
            fcntl.ioctl(listener, _SEND, bytearray(said))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    _, when, calls, *words = sys.argv
    sys.exit(main(when, calls, lambda: os.execvp(words[0], words)) % 256)
