"""A user namespace for an idmapping: mount_setattr(2) takes a map from nothing else.

No process lives in it. The child that clone(2) makes runs libc's `_exit` and nothing of Python; its
zombie's files in /proc still take the maps and give the namespace away. It shares our memory, so no
page tables are copied (58 µs, where fork takes 26 µs for each MiB).
"""

import ctypes
import os
import signal

from mountd.core.idmapping import Idmapping, kernel_text
from mountd.kernel.syscalls import Fd

_CLONE_VM = 0x100
_CLONE_FILES = 0x400
_CLONE_VFORK = 0x4000
_CLONE_NEWUSER = 0x10000000
_WCLONE = 0x80000000 - 2**32  # as a C int; a child without an exit signal is waited for by no other

# PyDLL keeps the GIL: two threads must not run their children on one stack at the same time.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.clone.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_exit = ctypes.cast(_libc["_exit"], ctypes.c_void_p)
_STACK_SIZE = 65536
_stack = ctypes.create_string_buffer(_STACK_SIZE)
_stack_top = (ctypes.addressof(_stack) + _STACK_SIZE) & ~15


class UserNamespaceError(OSError):
    """No user namespace for a map: ENOSPC at the limit, EPERM unprivileged or in a chroot."""


def make_user_namespace(idmap: Idmapping) -> Fd:
    """A user namespace whose maps are this idmapping's.

    Raises UserNamespaceError: without CAP_SETUID, CAP_SETGID or, for a map that holds id 0,
    CAP_SETFCAP, and in a chroot (EPERM).
    """
    child = _clone()
    try:
        for name, extents in (("uid_map", idmap.uids), ("gid_map", idmap.gids)):
            # in one write: a second to the same map is refused
            with Fd(os.open(f"/proc/{child}/{name}", os.O_WRONLY | os.O_CLOEXEC)) as file:
                os.write(file.number, kernel_text(extents))
        return Fd(os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError as error:
        raise UserNamespaceError(error.errno, f"a map can't be written: {error}") from error
    finally:
        os.waitpid(child, _WCLONE)


def _clone() -> int:
    # No exit signal: waitpid(-1) in another thread doesn't meet the child. Signals are blocked, or
    # it would run our handlers in our memory.
    flags = _CLONE_NEWUSER | _CLONE_VM | _CLONE_VFORK | _CLONE_FILES
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        child: int = _libc.clone(_exit, _stack_top, flags, None)
        error = ctypes.get_errno()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if child > 0:
        return child
    raise UserNamespaceError(error, f"clone: {os.strerror(error)}")
