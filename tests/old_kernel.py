"""Older kernels, for one command: what they lack is refused by a seccomp filter of this kernel.

A filter sees a call's registers only. What depends on memory or on the mount table is put to a
supervisor (seccomp_unotify(2)): what 6.12 ignores in statmount's request is taken out of it, and
move_mount(2) onto a detached tree is EINVAL before 6.15. Of what a kernel lacks in its filesystems
(6.1 can't idmap tmpfs) and of uname(2) nothing is changed.

    python old_kernel.py debian-12 mountd status
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import signal
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

CALLS = {"statmount": 457, "listmount": 458, "open_tree_attr": 467, "mount_setattr": 442}
MOVE_MOUNT, MOVE_MOUNT_BENEATH = 429, 0x200
STATX_MNT_ID_UNIQUE = 0x4000
STATMOUNT_OF_6_15 = 0x1000 | 0x2000 | 0x4000  # supported_mask, mnt_uidmap, mnt_gidmap
AUDIT_ARCH, SECCOMP, STATX = {
    "x86_64": (0xC000003E, 317, 332),
    "aarch64": (0xC00000B7, 277, 291),
}[os.uname().machine]


class Kernel(NamedTuple):
    """What a kernel hasn't got. `refused`: calls that a filter stops, as containers' filters do."""

    name: str
    lacks: tuple[str, ...]
    has_beneath: bool
    refused: tuple[str, ...] = ()

    def command(self, *words: str) -> list[str]:
        """The command that runs another one as if on this kernel."""
        return [sys.executable, __file__, self.name, *words]


DEBIAN_13 = Kernel("debian-13", ("open_tree_attr",), has_beneath=True)
DEBIAN_12 = Kernel("debian-12", ("open_tree_attr", "statmount", "listmount"), has_beneath=False)
NO_IDMAPPING = Kernel("no-idmapping", tuple(CALLS), has_beneath=False)  # Linux 5.10
FILTERED = Kernel("filtered", (), has_beneath=True, refused=tuple(CALLS))  # an old container's
_KERNELS = {each.name: each for each in (DEBIAN_13, DEBIAN_12, NO_IDMAPPING, FILTERED)}

_LOAD, _EQUAL, _HAS_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF_LD|W|ABS, JMP|JEQ|K, JSET, RET|K
_ERRNO, _ASK, _ALLOW = 0x00050000, 0x7FC00000, 0x7FFF0000  # SECCOMP_RET_*
_NEW_LISTENER = 8  # SECCOMP_FILTER_FLAG_*
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1  # SECCOMP_IOCTL_NOTIF_*, _USER_NOTIF_FLAG_*
_libc = ctypes.CDLL(None, use_errno=True)


def _program(kernel: Kernel) -> bytes:
    """For each call of interest: its number, a bit that an argument has, and what is answered."""
    rules: list[tuple[int, tuple[int, int] | None, int]] = []
    rules += [(CALLS[each], None, _ERRNO | errno.ENOSYS) for each in kernel.lacks]
    rules += [(CALLS[each], None, _ERRNO | errno.EPERM) for each in kernel.refused]
    if not kernel.has_beneath:
        rules.append((MOVE_MOUNT, (4, MOVE_MOUNT_BENEATH), _ERRNO | errno.EINVAL))
    if "open_tree_attr" in kernel.lacks:
        rules += [(MOVE_MOUNT, None, _ASK), (CALLS["statmount"], None, _ASK)]
    if "statmount" in kernel.lacks:
        # It would be ignored, and another id be the answer: whoever asks for it then is mistaken.
        rules.append((STATX, (3, STATX_MNT_ID_UNIQUE), _ERRNO | errno.EINVAL))
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, AUDIT_ARCH), (_RETURN, 0, 0, _ALLOW)]
    for number, bit, answer in rules:
        argument, mask = bit or (0, 0)
        test = [(_LOAD, 0, 0, 16 + 8 * argument), (_HAS_BIT, 0, 1, mask)] if bit else []
        code += [(_LOAD, 0, 0, 0), (_EQUAL, 0, len(test) + 1, number), *test]
        code.append((_RETURN, 0, 0, answer))
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *each) for each in code)


def _install(kernel: Kernel) -> int:
    """Put this process under the filter, and return the descriptor on which it asks."""
    program = _program(kernel)
    code = ctypes.create_string_buffer(program)
    filter_ = ctypes.create_string_buffer(
        struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    )
    _libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, without which only root may
    listener: int = _libc.syscall(SECCOMP, 1, _NEW_LISTENER, filter_)
    assert listener >= 0, os.strerror(ctypes.get_errno())
    return listener


def _answer(listener: int) -> None:
    """Have the call go on, after a change to what it asks for, or refuse it."""
    asked = bytearray(80)
    fcntl.ioctl(listener, _RECEIVE, asked)
    id_, process, number, *arguments = struct.unpack_from("=QI4xi12x6Q", asked)
    error = 0
    if number == MOVE_MOUNT:
        error = 0 if _is_attached(process, ctypes.c_int(arguments[2]).value) else errno.EINVAL
    elif arguments[0]:
        with open(f"/proc/{process}/mem", "r+b", buffering=0) as memory:
            memory.seek(arguments[0] + 16)
            (mask,) = struct.unpack("=Q", memory.read(8))
            memory.seek(arguments[0] + 16)
            memory.write(struct.pack("=Q", mask & ~STATMOUNT_OF_6_15))
    said = struct.pack("=QqiI", id_, 0, -error, 0 if error else _CONTINUE)
    fcntl.ioctl(listener, _SEND, bytearray(said))


def _is_attached(process: int, folder: int) -> bool:
    """Whether the mount that a process's descriptor lies on is in its mount table."""
    if folder < 0:
        return True
    with open(f"/proc/{process}/fdinfo/{folder}") as lines:
        (mount,) = [line.split()[1] for line in lines if line.startswith("mnt_id:")]
    with open(f"/proc/{process}/mountinfo", "rb") as table:
        return any(line.split()[0] == mount.encode() for line in table)


def _questions(listener: int) -> Iterator[None]:
    """One for each call that waits for an answer, until nobody is left to ask."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while poll.poll()[0][1] & select.POLLIN:
        yield


def main(name: str, *words: str) -> int:
    """Run a command as if on this kernel, and return how it ended."""
    kernel = _KERNELS[name]
    ours, its = os.pipe()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        _libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        os.write(its, b"%d\n" % _install(kernel))
        os.read(told, 1)  # until the listener is held
        os.execvp(words[0], words)
    os.close(its)  # so that a child that dies is not waited for
    process = os.pidfd_open(child)
    number = int(os.read(ours, 16))
    listener: int = _libc.syscall(438, process, number, 0)  # pidfd_getfd
    assert listener >= 0, os.strerror(ctypes.get_errno())
    os.write(tell, b".")
    for _ in _questions(listener):
        with contextlib.suppress(FileNotFoundError):  # killed while it waited
            _answer(listener)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
