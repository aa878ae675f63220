"""Why the kernel clones a mount not at all, or not with other flags: it says EINVAL, or EPERM.

What a user namespace was given by mounts from outside stays together, as it is, for whoever is
root inside: mounts below hide what they cover, and flags keep what they forbid
(mount_namespaces(7)). The kernel tells neither, so it is found out once it has refused.
"""

from collections.abc import Iterable

from mountd.core.desired import DesiredMount
from mountd.core.model import Fault
from mountd.core.mountinfo import parse_mountinfo
from mountd.core.mounts import ObservedMount
from mountd.core.words import mount_faults
from mountd.kernel.files import reusable_mount_id, statx
from mountd.kernel.observe import descendants_of, mountinfo, observe_mount
from mountd.kernel.syscalls import AT_STATX_DONT_SYNC, Fd


def why_not_cloned(source: Fd, path: str, *, recursive: bool) -> Fault:
    """What is in the way where open_tree(2) said EINVAL."""
    lines = [*parse_mountinfo(mountinfo())]
    number = reusable_mount_id(f"/proc/self/fd/{source.number}")
    own = next((line for line in lines if line.mount.id == number), None)
    if own and "unbindable" in own.tags:
        return mount_faults.unbindable(path, own.mount.point)
    begin = f"{path.rstrip('/')}/"
    below = [each.mount.point for each in lines if each.mount.parent == number]
    below = sorted({each for each in below if each.startswith(begin)})
    if below and not recursive:
        return mount_faults.locked_below(path, below)
    return mount_faults.not_cloned(path)


def why_not_flagged(source: Fd, wanted: DesiredMount) -> Fault | None:
    """Which flags the source has that may not go, where mount_setattr(2) on its clone said EPERM.

    None: none that the volume wants otherwise.
    """
    mount = statx(source, flags=AT_STATX_DONT_SYNC).mount
    mounts = [observe_mount(mount)]
    if wanted.volume.recursive:
        mounts += descendants_of(mount)
    return _locked(wanted, mounts)


def why_not_adjusted(mount: int, wanted: DesiredMount) -> Fault | None:
    """The same of a mount of ours, which has the locks of what it is a clone of."""
    return _locked(wanted, [observe_mount(mount)])


def _locked(wanted: DesiredMount, mounts: Iterable[ObservedMount]) -> Fault | None:
    volume = wanted.volume
    has = [each.flags for each in mounts]
    keys = [
        key
        for key, wish, is_set in (
            ("read_only", volume.read_only, any(each.read_only for each in has)),
            ("nosuid", volume.nosuid, any(each.nosuid for each in has)),
            ("nodev", volume.nodev, any(each.nodev for each in has)),
            ("noexec", volume.noexec, any(each.noexec for each in has)),
        )
        if is_set and wish is False
    ]
    said = [f"{key} = false" for key in keys]
    if volume.atime and any(each.atime != volume.atime for each in has):
        said.append(f'atime = "{volume.atime}"')
    return mount_faults.locked_flags(wanted.source, said) if said else None
