"""Our mount namespace's identity, and whether another one may still be there (namespaces(7))."""

import os
import re
from contextlib import suppress
from fcntl import ioctl
from struct import Struct

from mountd.core.named_tuple import NamedTuple

_NS_GET_MNTNS_ID = 0x8008B705  # _IOR(0xb7, 5, __u64), Linux 6.11
_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO
_NUMBER = Struct("=Q")
_NAME = r"(?a)mnt:\[\d{1,20}\]"


class MountNamespace(NamedTuple):
    """A mount namespace: `mnt:[4026531841]`, an inode number that is used again; `id` is not."""

    name: str
    id: int | None = None
    """Unique within a boot. None where the kernel doesn't tell it: before 6.11."""

    @property
    def number(self) -> str:
        """The inode number in the name."""
        return self.name.removeprefix("mnt:[").removesuffix("]")

    def is_same(self, other: "MountNamespace") -> bool:
        """Whether both are one, as far as can be told."""
        return self.name == other.name and (None in (self.id, other.id) or self.id == other.id)


def our_namespace() -> MountNamespace:
    """The mount namespace of this process."""
    file = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        told = bytearray(_NUMBER.size)
        number = None
        with suppress(OSError):  # ENOTTY: an older kernel
            ioctl(file, _NS_GET_MNTNS_ID, told)
            (number,) = _NUMBER.unpack(told)
    finally:
        os.close(file)
    return MountNamespace(os.readlink("/proc/self/ns/mnt"), number)


def may_exist(name: str) -> bool:
    """Whether the namespace of this name may still be there; it costs a look at every process.

    It isn't where no process is in it and it is mounted nowhere, which can be seen from the first
    pid namespace alone.
    """
    if not re.fullmatch(_NAME, name):
        return False
    if os.readlink("/proc/self/ns/pid") != _FIRST_PID_NAMESPACE:
        return True
    for process in os.listdir("/proc"):
        if process.isdecimal():
            with suppress(OSError):  # it has ended
                if os.readlink(f"/proc/{process}/ns/mnt") == name:
                    return True
    with open("/proc/self/mountinfo", "rb") as file:
        return f" {name} ".encode() in file.read()
