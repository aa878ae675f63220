"""Targets as text: which of them would take the machine down, and which lie below which."""

from collections.abc import Mapping
from functools import lru_cache

SYSTEM_FOLDERS = frozenset(
    f"/{name}"
    for name in (
        "",
        "bin",
        "boot",
        "dev",
        "etc",
        "proc",
        "root",
        "run",
        "sbin",
        "sys",
        "usr",
        "var",
    )
)
KERNEL_FOLDERS = ("/dev/", "/proc/", "/sys/")


def why_forbidden(target: str, reserved: Mapping[str, str]) -> str | None:
    """Why nothing may be mounted at this path, to complete "the target is …"; None where it may.

    `reserved` is what mountd itself needs, as `with_folders_above` has it.
    """
    if target in SYSTEM_FOLDERS or (target.startswith("/lib") and "/" not in target[1:]):
        return "a folder that the system needs as it is"
    if target.startswith(KERNEL_FOLDERS):
        return f"below {target[: target.index('/', 1)]}, which is the kernel's"
    return reserved.get(target)


def with_folders_above(reserved: Mapping[str, str]) -> dict[str, str]:
    """These paths, and the folders above them, which a mount would take them along with."""
    above = {
        folder: f"above {what}" for path, what in reserved.items() for folder in folders_above(path)
    }
    return {**above, **reserved}


def folders_above(path: str) -> tuple[str, ...]:
    """The folders that a path lies in, from the nearest up, without the root."""
    return _from(path[: path.rfind("/")])


@lru_cache(4096)  # many targets lie in few folders
def _from(folder: str) -> tuple[str, ...]:
    return (folder, *folders_above(folder)) if folder else ()
