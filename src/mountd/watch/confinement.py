"""Whether nobody else sees what we mount, and which directives usually are to blame.

A unit in a mount namespace of its own runs well and mounts well, and no other process sees it.
"""

from mountd.core.named_tuple import NamedTuple
from mountd.kernel.privileges import shares_mounts_with_init

_USUAL = (
    "PrivateTmp", "PrivateMounts", "PrivateDevices", "ProtectSystem", "ProtectHome",
    "ReadOnlyPaths", "BindPaths",
)  # fmt: skip
"""What usually gives a unit a mount namespace (systemd's exec_needs_mount_namespace())."""


class Confinement(NamedTuple):
    """That we are confined, and what to do about it."""

    message: str
    hint: str


def find_confinement() -> Confinement | None:
    """Why nobody else sees what we mount; None where pid 1 does, or where that can't be told."""
    if shares_mounts_with_init() is not False:
        return None
    unit = service_of(_text_of("/proc/self/cgroup"))  # which a kernel without cgroups doesn't have
    if not unit:
        return Confinement(
            "this mount namespace isn't pid 1's: nobody outside it would see the mounts",
            "run mountd outside it, or by `nsenter --target 1 --mount`",
        )
    return Confinement(
        f"{unit} runs in a mount namespace of its own: nobody else would see its mounts",
        f"take out of the unit what gives it one, usually {'=, '.join(_USUAL)}=:"
        f" `systemctl show --property={','.join(_USUAL)} {unit}` says what each is,"
        f" `systemctl cat {unit}` where it is set",
    )


def service_of(cgroup: str) -> str | None:
    """The service that a process is in, by the text of its /proc/PID/cgroup."""
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "name=systemd"):
            for name in reversed(path.split("/")):
                if name.endswith(".service"):
                    return name.removeprefix("_")  # which keeps it off cgroup's names
    return None


def _text_of(file: str) -> str:
    try:
        with open(file, errors="replace") as unit:
            return unit.read()
    except OSError:
        return ""
