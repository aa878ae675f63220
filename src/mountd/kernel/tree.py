"""A detached mount: cloned, idmapped, flagged and verified out of sight, and only then attached.

Whatever can fail comes before move_mount(2); after it a target shows the whole new mount.
"""

import os
from errno import EBUSY, EINVAL, ENOSPC, EPERM
from typing import NamedTuple

from mountd.core import faults
from mountd.core.faults import VolumeError
from mountd.core.model import DesiredMount, Flags, Ids
from mountd.kernel.holders import holders_of
from mountd.kernel.observe import ATIMES, is_at, is_mounted, observe_mount
from mountd.kernel.paths import Spot
from mountd.kernel.syscalls import (
    AT_STATX_DONT_SYNC,
    MNT_DETACH,
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    RESOLVE_NO_SYMLINKS,
    Fd,
    listmount,
    mount_setattr,
    move_mount,
    open_tree,
    openat2,
    statx,
    umount2,
)

_OURS = (
    MOUNT_ATTR_RDONLY
    | MOUNT_ATTR_NOSUID
    | MOUNT_ATTR_NODEV
    | MOUNT_ATTR_NOEXEC
    | MOUNT_ATTR__ATIME  # all of it, or the kernel answers EINVAL
)


class Tree(NamedTuple):
    """A detached mount. Its unique id is the one that it keeps once attached."""

    fd: Fd
    id: int


def build(source: Fd, wanted: DesiredMount, userns: Fd | None) -> Tree:
    """Clone the source with all that is wanted of it; its root shows the owner that it must.

    Raises VolumeError where the filesystem can't idmap or does so untruly, OSError otherwise.
    """
    tree = _clone(source, wanted.source)
    try:
        _set(tree, wanted, userns)
        found = statx(tree, flags=AT_STATX_DONT_SYNC)
        if (found.uid, found.gid) != wanted.shown:
            shown = Ids(found.uid, found.gid)
            raise VolumeError(faults.idmap_untrue(wanted.fs_type, wanted.shown, shown))
    except BaseException:
        tree.close()
        raise
    return Tree(tree, found.mount)


def _clone(source: Fd, path: str) -> Fd:
    try:
        return open_tree(source)
    except OSError as error:
        if error.errno != EINVAL:
            raise
        raise VolumeError(faults.unbindable(path)) from error


def _set(tree: Fd, wanted: DesiredMount, userns: Fd | None) -> None:
    bits = _bits(wanted.flags)
    try:
        mount_setattr(
            tree,
            set_=bits | (MOUNT_ATTR_IDMAP if userns else 0),
            clear=_OURS,
            propagation=MS_PRIVATE,  # or it is a peer of the source's mount
            userns=userns,
        )
    except OSError as error:
        if not userns or error.errno not in (EINVAL, EPERM):
            raise
        mount_setattr(tree, set_=bits, clear=_OURS)  # raises if the flags were to blame
        if error.errno == EPERM:
            raise VolumeError(faults.idmap_not_permitted(wanted.fs_type)) from error
        fault = faults.filesystem_refuses(wanted.fs_type, os.uname().release)
        raise VolumeError(fault) from error


def attach(tree: Tree, spot: Spot) -> None:
    """Mount it where nothing is mounted, and see that it is what the path now shows."""
    if spot.there and spot.there.is_mount_root:  # it came after the plan, and would be buried
        fs_type = observe_mount(spot.there.mount).fs_type
        raise VolumeError(faults.foreign_mount(spot.whole_path, fs_type, covers=False))
    _move(tree, spot, beneath=False)
    try:
        _see(tree, spot)
    except VolumeError:
        detach(spot, tree.id)
        raise


def replace(tree: Tree, spot: Spot, old: int) -> None:
    """Put it in the place of our mount `old`, without a moment in which anything else shows.

    It goes beneath the old one, which is then taken off; whoever is still inside stays there.
    """
    _expect(old, spot)
    if not is_at(spot.whole_path, old):  # before anything is changed
        raise VolumeError(faults.moved_meanwhile(spot.whole_path))
    if below := listmount(old):
        mount = observe_mount(below[0])
        raise VolumeError(faults.mount_below(mount.point, mount.fs_type))
    _move(tree, spot, beneath=True)
    detach(spot, old)
    _see(tree, spot)


def detach(spot: Spot, mount: int) -> None:
    """Take our mount off, if it is the topmost; processes inside keep what they have open."""
    _expect(mount, spot)
    try:
        umount2(spot.folder, spot.name, 0)
    except OSError as error:
        if error.errno != EBUSY:
            raise
        umount2(spot.folder, spot.name, MNT_DETACH)


def adjust(spot: Spot, mount: int, flags: Flags) -> None:
    """Give our mount other flags, all at once; a writer in the way of read-only is `busy`."""
    _expect(mount, spot)
    with openat2(spot.folder, spot.name, os.O_PATH, RESOLVE_NO_SYMLINKS) as root:
        try:
            mount_setattr(root, set_=_bits(flags), clear=_OURS)
        except OSError as error:
            if error.errno != EBUSY:
                raise
            fault = faults.busy_writers(spot.whole_path, holders_of(mount, writing=True))
            raise VolumeError(fault) from error


def unmount(spot: Spot, mount: int) -> None:
    """Take our mount off, unless someone is inside: then `busy`, and who it is."""
    if not is_mounted(mount):  # it went along with another: a peer's, whose copy it was
        return
    _expect(mount, spot)
    try:
        umount2(spot.folder, spot.name, 0)
    except OSError as error:
        if error.errno != EBUSY:
            raise
        raise VolumeError(faults.busy(spot.whole_path, holders_of(mount))) from error


def _move(tree: Tree, spot: Spot, *, beneath: bool) -> None:
    try:
        move_mount(tree.fd, spot.folder, spot.name, beneath=beneath)
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        raise VolumeError(faults.mount_limit(spot.whole_path)) from error


def _expect(mount: int, spot: Spot) -> None:
    """See that our mount is the topmost, for that is the one umount2 and BENEATH act on."""
    try:
        found = statx(spot.folder, spot.name, flags=AT_STATX_DONT_SYNC)
    except FileNotFoundError as error:
        raise VolumeError(faults.covered_above(spot.whole_path)) from error
    if not found.is_mount_root:
        raise VolumeError(faults.covered_above(spot.whole_path))
    if found.mount != mount:
        fs_type = observe_mount(found.mount).fs_type
        raise VolumeError(faults.foreign_mount(spot.whole_path, fs_type, covers=True))


def _see(tree: Tree, spot: Spot) -> None:
    """The path must lead to the new mount: a folder above may have been renamed meanwhile."""
    if not is_at(spot.whole_path, tree.id):
        raise VolumeError(faults.moved_meanwhile(spot.whole_path))


def _bits(flags: Flags) -> int:
    return (
        MOUNT_ATTR_RDONLY * flags.read_only
        | MOUNT_ATTR_NOSUID * flags.nosuid
        | MOUNT_ATTR_NODEV * flags.nodev
        | MOUNT_ATTR_NOEXEC * flags.noexec
        | ATIMES[flags.atime]
    )
