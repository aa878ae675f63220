"""Taking a mount of ours off, which umount2(2) knows by its place alone."""

import os
from collections.abc import Sequence
from contextlib import suppress
from errno import EBUSY, ENOENT, ENOTDIR

from mountd.core.model import Fault
from mountd.core.mounts import forest_of
from mountd.core.words import mount_faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.files import RESOLVE_NO_SYMLINKS, openat2, statx
from mountd.kernel.mount_api import MNT_DETACH, MOUNT_ATTR_RDONLY, mount_setattr, umount2
from mountd.kernel.observe import descendants_of, is_mounted, observe, observe_mount
from mountd.kernel.paths import Spot
from mountd.kernel.paths import spot as find
from mountd.kernel.syscalls import AT_STATX_DONT_SYNC, Fd


def detach(spot: Spot, mount: int, shows: int | None = None) -> None:
    """Take our mount off, if it is the topmost; processes inside keep what they have open.

    `shows`: the mount that is seen then, if it is known.
    """
    see_top(mount, spot)
    try:
        umount2(spot.folder, spot.name, 0)
    except OSError as error:
        if error.errno != EBUSY:
            raise
        umount2(spot.folder, spot.name, MNT_DETACH)
    _see_gone(mount, spot, shows)


def unmount(spot: Spot, mount: int, submounts: Sequence[int] = (), *, lazily: bool = False) -> None:
    """Take our mount off, unless someone is inside: then `busy`, and who it is.

    Its submounts go first, the deepest before those above; all of them, or none. `lazily`: all at
    once, whoever is inside and whatever else is mounted on it.
    """
    try:
        see_top(mount, spot)
    except VolumeError:
        if is_mounted(mount):
            raise
        return  # it was unmounted together with a peer that it was propagated from
    if lazily:
        _shut(spot, recursive=bool(submounts))
        _see_gone(mount, spot)
        return
    below = [each for each in reversed(descendants_of(mount)) if each.id in submounts]
    for each in [*below, observe_mount(mount)] if below else ():
        from mountd.kernel.holders import processes_in  # noqa: PLC0415

        holders = processes_in(each.id)
        if holders.found:
            raise VolumeError(mount_faults.busy(each.point, *holders))
    for each in below:
        with find(each.point) as found:
            see_top(each.id, found)
            _umount(found, each.id)
    _umount(spot, mount)


def _shut(spot: Spot, *, recursive: bool) -> None:
    """Take what is at the spot off. Whoever is inside can't write any more, unless to open files.

    A mount that is detached lazily stays as it is for who is in it (umount2(2)).
    """
    try:
        umount2(spot.folder, spot.name, 0)
    except OSError as error:
        if error.errno != EBUSY:
            raise
        root = openat2(spot.folder, spot.name, os.O_PATH, RESOLVE_NO_SYMLINKS)
        with root, suppress(OSError):  # EBUSY where a file is open for writing
            mount_setattr(root, set_=MOUNT_ATTR_RDONLY, recursive=recursive)
        umount2(spot.folder, spot.name, MNT_DETACH)


def _umount(spot: Spot, mount: int) -> None:
    try:
        umount2(spot.folder, spot.name, 0)
    except OSError as error:
        if error.errno != EBUSY:
            raise
        from mountd.kernel.holders import holders_of  # noqa: PLC0415

        raise VolumeError(mount_faults.busy(spot.whole_path, *holders_of(mount))) from error
    _see_gone(mount, spot)


def _see_gone(mount: int, spot: Spot, shows: int | None = None) -> None:
    """See that it was ours that umount2(2) took off, which knows mounts by their place alone.

    Somebody may have put another one on top since it was looked at: then that one went.
    """
    try:
        found = statx(spot.folder, spot.name, flags=AT_STATX_DONT_SYNC)
    except OSError as error:  # the folder went with it, or what is there now hangs or is broken
        is_bare = error.errno in (ENOENT, ENOTDIR)
    else:
        is_bare = not found.is_mount_root or found.mount == shows
    if not is_bare and is_mounted(mount):
        raise VolumeError(mount_faults.another_went(spot.whole_path))


def see_top(mount: int, spot: Spot) -> None:
    """See that our mount is the topmost, for that is the one umount2 and BENEATH act on."""
    try:
        found = statx(spot.folder, spot.name, flags=AT_STATX_DONT_SYNC)
    except FileNotFoundError as error:
        raise VolumeError(_covered(spot, mount)) from error
    if not found.is_mount_root:
        raise VolumeError(_covered(spot, mount))
    if found.mount != mount:
        raise VolumeError(foreign_at(spot, found.mount, over=mount))


def _covered(spot: Spot, mount: int) -> Fault:
    return mount_faults.covered_above(spot.whole_path, mount, forest_of(observe().mounts), {})


def foreign_at(spot: Spot, top: int, over: int | None = None) -> Fault:
    """What is on top there now isn't ours; `over` is, and may lie under it."""
    mounts = observe().mounts
    mounts.pop(over or 0, None)
    found = observe_mount(top)
    return mount_faults.foreign_mount(
        spot.whole_path, found, forest_of(mounts), {}, covers=over is not None
    )


def opened(mount: int, spot: Spot) -> Fd:
    """Our mount's root, on which another one may not have come meanwhile."""
    see_top(mount, spot)
    root = openat2(spot.folder, spot.name, os.O_PATH, RESOLVE_NO_SYMLINKS)
    found = statx(root, flags=AT_STATX_DONT_SYNC)
    if found.mount != mount:
        root.close()
        raise VolumeError(foreign_at(spot, found.mount, over=mount))
    return root
