"""A user namespace for an idmapping: mount_setattr(2) takes a map from nothing else.

No process stays in it. The child that clone(2) makes waits in libc, running nothing of Python,
until the maps are written and the namespace is open, and is killed then. It shares our memory, so
no page tables are copied, where fork takes 26 µs for each MiB.

A child that has ended would do on a host, but inside a user namespace the files in /proc of a
zombie belong to a root that is not ours (EACCES).
"""

import ctypes
import os
import signal
from errno import EACCES, EINVAL, EPERM
from functools import cache

from mountd.core.idmapping import Extent, Extents, Idmapping, identity, kernel_text
from mountd.kernel.syscalls import Fd

_CLONE_VM = 0x100
_CLONE_FILES = 0x400
_CLONE_NEWUSER = 0x10000000
_WCLONE = 0x80000000 - 2**32  # as a C int; a child without an exit signal is waited for by no other
_PTHREAD_MUTEX_ROBUST = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.clone.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_STACK_SIZE = 65536
_stack = ctypes.create_string_buffer(_STACK_SIZE)
_stack_top = (ctypes.addressof(_stack) + _STACK_SIZE) & ~15


def _robust_mutex() -> ctypes.Array[ctypes.c_char]:
    attributes, mutex = (ctypes.create_string_buffer(64) for _ in range(2))  # more than any libc's
    _libc.pthread_mutexattr_init(attributes)
    _libc.pthread_mutexattr_setrobust(attributes, _PTHREAD_MUTEX_ROBUST)
    _libc.pthread_mutex_init(mutex, attributes)
    return mutex


# What the child waits for. We hold it meanwhile, so that no two children run on one stack; robust,
# it comes free when we are killed, and the child ends too, instead of keeping our files open.
_mutex = _robust_mutex()
_wait = ctypes.cast(_libc["pthread_mutex_lock"], ctypes.c_void_p)


class UserNamespaceError(OSError):
    """No user namespace for a map.

    ENOSPC at the limit, EPERM unprivileged, in a chroot or for ids that our own namespace doesn't
    know, EINVAL for a map longer than the kernel takes.
    """


def make_user_namespace(idmap: Idmapping) -> Fd:
    """A user namespace whose maps are this idmapping's.

    Raises UserNamespaceError, also (EPERM) without CAP_SETUID, CAP_SETGID or, for a map that shows
    id 0, CAP_SETFCAP.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        _libc.pthread_mutex_lock(_mutex)
        try:
            return _made(idmap)
        finally:
            _libc.pthread_mutex_unlock(_mutex)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _made(idmap: Idmapping) -> Fd:
    child = _clone()
    try:
        for name, extents, own in zip(("uid_map", "gid_map"), idmap, _own_maps(), strict=True):
            # in one write: a second to the same map is refused
            with Fd(os.open(f"/proc/{child}/{name}", os.O_WRONLY | os.O_CLOEXEC)) as file:
                os.write(file.number, kernel_text(extents, own))
        return Fd(os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        if error.errno not in (EACCES, EPERM, EINVAL):
            raise
        raise UserNamespaceError(error.errno, f"a map can't be written: {error}") from error
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, _WCLONE)


def _clone() -> int:
    # No exit signal: waitpid(-1) in another thread doesn't meet the child. All signals are blocked,
    # or it would run our handlers in our memory.
    flags = _CLONE_NEWUSER | _CLONE_VM | _CLONE_FILES
    child: int = _libc.clone(_wait, _stack_top, flags, ctypes.addressof(_mutex))
    if child > 0:
        return child
    error = ctypes.get_errno()
    raise UserNamespaceError(error, f"clone: {os.strerror(error)}")


@cache
def known_ids() -> Idmapping:
    """The identity over the ids that our user namespace knows: on a host, over all."""
    return Idmapping(*map(identity, _own_maps()))


@cache
def _own_maps() -> Idmapping:
    """The same in the pieces of our namespace's own map: an extent of a map lies inside one."""
    return Idmapping(_pieces("/proc/self/uid_map"), _pieces("/proc/self/gid_map"))


def _pieces(path: str) -> Extents:
    with open(path, "rb") as file:
        lines = [tuple(map(int, line.split())) for line in file]
    return tuple(Extent(first, first, count) for first, _, count in sorted(lines))
