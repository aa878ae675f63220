"""What we may do here: our capabilities, and the namespaces, filters and roots that we are in."""

import os
from collections.abc import Iterable
from fcntl import ioctl

from mountd.core.model import Fault
from mountd.core.mountinfo import parse_mountinfo
from mountd.core.words import idmap_faults
from mountd.kernel.files import statx
from mountd.kernel.observe import is_mounted, mountinfo
from mountd.kernel.served import ServedError
from mountd.kernel.syscalls import Fd

_NS_GET_USERNS = 0xB701  # ioctl_nsfs(2)
_INITIAL_USERNS = 0xEFFFFFFD  # its inode, fixed (linux/nsfs.h)
_SECCOMP_MODE_FILTER = "2"
_CAPABILITIES = {  # capabilities(7)
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SYS_ADMIN": 21,
    "CAP_SETFCAP": 31,
}


def missing_capabilities(names: Iterable[str]) -> list[str]:
    """Those of these capabilities that are not in effect."""
    effective = int(_status()["CapEff"], 16)
    return [name for name in names if not effective >> _CAPABILITIES[name] & 1]


def how_to_have(*names: str) -> str:
    """What gives a process like ours these capabilities: root that lacks them has been confined."""
    if os.geteuid():
        return "run it as root"
    return f"give the unit or the container {' and '.join(names)}"


def is_filtered() -> bool:
    """Whether a seccomp filter is in force."""
    return _status().get("Seccomp") == _SECCOMP_MODE_FILTER


def _status() -> dict[str, str]:
    with open("/proc/self/status", errors="replace") as lines:
        words = (line.partition(":") for line in lines)
        return {key: value.strip() for key, _, value in words}


def why_no_mount() -> Fault | None:
    """What stops us from mounting anything, if our privileges do."""
    if missing := missing_capabilities(["CAP_SYS_ADMIN"]):
        return idmap_faults.capability_missing(missing, how_to_have(*missing))
    try:
        with Fd(os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)) as namespace:
            Fd(ioctl(namespace.number, _NS_GET_USERNS)).close()
    except PermissionError:  # its owner is none of ours
        return idmap_faults.foreign_mount_namespace()
    return None


def is_in_chroot() -> bool:
    """Whether our root is certain not to be the mount namespace's."""
    root = statx(None, "/")
    if not root.is_mount_root:
        return True
    try:
        first = statx(None, "/proc/1/root/.")
    except (OSError, ServedError):  # or it lies in another mount namespace
        return False
    return first.mount != root.mount and is_mounted(first.mount)


def is_in_user_namespace() -> bool:
    """Whether our user namespace is another than the machine's first."""
    return os.stat("/proc/self/ns/user").st_ino != _INITIAL_USERNS


def shares_mounts_with_init() -> bool | None:
    """Whether pid 1 has our mount namespace; None where that can't be seen.

    Where its namespace can't be compared (EACCES without CAP_SYS_PTRACE if it has capabilities that
    we lack), its mount table often can: ids of mounts differ from one namespace to another. Where
    that can't be read either, a service's root tells: systemd makes that of a namespace of its own
    get what the machine mounts, and not the reverse.
    """
    try:
        return os.stat("/proc/1/ns/mnt").st_ino == os.stat("/proc/self/ns/mnt").st_ino
    except OSError:
        pass
    try:
        return _first_mount("1") == _first_mount("self")
    except OSError:
        return False if "NOTIFY_SOCKET" in os.environ and is_slave(mountinfo()) else None


def is_slave(table: str) -> bool:
    """Whether the root of a mount namespace, given as mountinfo's text, only receives mounts."""
    lines = parse_mountinfo(table)
    return any(
        tag.startswith("master:") for line in lines if line.mount.point == "/" for tag in line.tags
    )


def _first_mount(process: str) -> str:
    with open(f"/proc/{process}/mountinfo", errors="replace") as lines:
        return lines.readline().partition(" ")[0]
