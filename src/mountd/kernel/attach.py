"""Attaching a detached mount, replacing one of ours by it, and taking ours off.

After move_mount(2) a target shows the whole new mount; whatever can fail came before.
"""

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from errno import EBUSY, ENOENT, ENOSPC, ENOTDIR

from mountd.core.desired import DesiredMount
from mountd.core.model import Fault, Flags, Kind
from mountd.core.mounts import Managed, forest_of
from mountd.core.named_tuple import NamedTuple
from mountd.core.propagation import Propagation
from mountd.core.targets import is_within
from mountd.core.words import faults, mount_faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.clone import Tree, attributes, flag
from mountd.kernel.files import RESOLVE_NO_SYMLINKS, look, openat2, register, statx
from mountd.kernel.limits import hint_on
from mountd.kernel.making import made, make
from mountd.kernel.mount_api import (
    MNT_DETACH,
    MOUNT_ATTR_RDONLY,
    MS_PRIVATE,
    detach_again,
    mount_setattr,
    move_mount,
    open_tree,
    remount,
    umount2,
)
from mountd.kernel.observe import descendants_of, is_at, is_mounted, observe, observe_mount
from mountd.kernel.paths import Spot, spot_below
from mountd.kernel.paths import spot as find
from mountd.kernel.probe import has_mount_setattr
from mountd.kernel.syscalls import AT_STATX_DONT_SYNC, Fd


class Carried(NamedTuple):
    """A clone of a mount of ours, and of all below it, that takes its place somewhere else.

    `ids`: of each of them, the old one and the new one.
    """

    point: str
    tree: Tree
    kind: Kind
    ids: dict[int, int]


def attach(tree: Tree, spot: Spot, flags: Flags, onto: tuple[int, int] | None) -> None:
    """Mount it where nothing is mounted, or in place its source, and see that the path shows it.

    `onto` is that source's device and inode.
    """
    there = spot.there
    if there and there.is_mount_root and (there.device, there.inode) != onto:
        raise VolumeError(_foreign(spot, there.mount))  # it came after the plan
    _put(tree, spot, flags)


def _put(tree: Tree, spot: Spot, flags: Flags) -> None:
    move(tree, spot)
    try:
        _see(tree, spot)
        if not has_mount_setattr():
            remount(spot.folder, spot.name, attributes(flags))
    except BaseException:
        detach_again(tree.fd)  # not by the path, which may be what failed
        raise


def replace(tree: Tree, spot: Spot, old: int, flags: Flags, carried: Sequence[Carried]) -> None:
    """Put it in the place of our mount `old`, without a moment in which anything else shows.

    It goes beneath the old one, which is then taken off; whoever is still inside stays there. What
    is carried lies on the new one before that shows. Needs Linux 6.5.
    """
    with ExitStack() as held:
        places = _places_in(tree, spot.whole_path, carried, held)
        move(tree, spot, beneath=True)
        _attach_all(carried, places)
    detach(spot, old, shows=tree.id)
    _see(tree, spot)
    if not has_mount_setattr():
        remount(spot.folder, spot.name, attributes(flags))


def swap(
    build_anew: Callable[[], Tree], spot: Spot, spare: Carried, flags: Flags, carried: list[Carried]
) -> None:
    """The old one off, the new one on, with a gap; where that fails, the `spare` old one returns.

    In place the new one can be built only once the old one is off.
    """
    detach(spot, next(iter(spare.ids)))
    try:
        tree = build_anew()
        with tree.fd, ExitStack() as held:
            places = _places_in(tree, spot.whole_path, carried, held)
            _put(tree, spot, flags)
            _attach_all(carried, places)
    except BaseException:
        move(spare.tree, spot)
        raise


def expect(old: int, spot: Spot) -> None:
    """See that what the path shows is our mount `old`, before anything is changed."""
    _expect(old, spot)
    if not is_at(spot.whole_path, old):
        raise VolumeError(faults.moved_meanwhile(spot.whole_path))


def see_no_strangers(old: int, known: Mapping[int, Managed]) -> None:
    """Below our mount `old` there must be nothing that isn't ours: it would go along with it."""
    if others := [each for each in descendants_of(old) if each.id not in known]:
        mounts = observe().mounts
        copies = Propagation(mounts).copies_of(known)
        if strangers := [each for each in others if each.id not in copies]:
            raise VolumeError(mount_faults.mount_below(strangers, forest_of(mounts), {}))


def cover(
    tree: Tree, spot: Spot, flags: Flags, onto: tuple[int, int] | None, carried: list[Carried]
) -> None:
    """Attach it over mounts of ours, which go on above it. They are away for a moment.

    So are others, on which a copy of it will lie as mounts propagate: they go on above that.
    """
    inside = [each for each in carried if is_within(each.point, spot.whole_path)]
    with ExitStack() as held:
        places = _places_in(tree, spot.whole_path, inside, held)
        were = _take_off(carried, held)
        try:
            attach(tree, spot, flags, onto)
        except BaseException:
            _attach_all(carried, were)
            raise
        _attach_all(inside, places)
    put_back(each for each in carried if each not in inside)


def uncover(
    spot: Spot, mount: int, submounts: Sequence[int], carried: list[Carried], *, lazily: bool
) -> None:
    """Take our mount off from under others of ours, which go on where they were."""
    with ExitStack() as held:
        _take_off(carried, held)
    try:
        unmount(spot, mount, submounts, lazily=lazily)
    finally:
        put_back(carried)


def let_out(spot: Spot, mount: int, carried: list[Carried]) -> None:
    """Take our mount off another of ours that shows then, on which what is carried goes on."""
    detach(spot, mount)
    put_back(carried)


def clone_of(spot: Spot, mount: int) -> Carried:
    """A detached copy of our mount, with all that lies below it."""
    with _opened(mount, spot) as root:
        tree = open_tree(root, recursive=True)
    try:
        if has_mount_setattr():
            mount_setattr(tree, set_=0, propagation=MS_PRIVATE, recursive=True)
        found = statx(tree, flags=AT_STATX_DONT_SYNC)
        ids = {mount: found.mount}
        if below := descendants_of(mount):
            register(tree, found, observe_mount(mount).fs_type)
        for each in below:
            path = each.point[len(spot.whole_path.rstrip("/")) + 1 :]
            with suppress(FileNotFoundError, NotADirectoryError):  # below one that covers it
                ids[each.id] = look(tree, path).mount
    except BaseException:
        tree.close()
        raise
    kind: Kind = "folder" if stat.S_ISDIR(found.mode) else "file"
    return Carried(spot.whole_path, Tree(tree, found.mount), kind, ids)


def _places_in(tree: Tree, target: str, carried: Iterable[Carried], held: ExitStack) -> list[Spot]:
    """Where in the new mount each of these goes; made, where it is missing."""
    places = []
    for each in carried:
        rest = each.point[len(target) + 1 :]
        found = held.enter_context(spot_below(tree.fd, target, rest))
        if not found.there:
            make(found, each.kind)
            found = held.enter_context(spot_below(tree.fd, target, rest))
        places.append(found)
    return places


def _attach_all(carried: Iterable[Carried], places: Iterable[Spot]) -> None:
    for each, place in zip(carried, places, strict=True):
        move(each.tree, place)


def _take_off(carried: Iterable[Carried], held: ExitStack) -> list[Spot]:
    """Take them off; where each was, which is held open."""
    places = []
    for each in carried:
        places.append(held.enter_context(find(each.point)))
        detach(places[-1], next(iter(each.ids)))
    return places


def put_back(carried: Iterable[Carried]) -> None:
    """Attach clones where what they are clones of was."""
    for each in carried:
        with made(each.point, each.kind) as found:
            move(each.tree, found)


def detach(spot: Spot, mount: int, shows: int | None = None) -> None:
    """Take our mount off, if it is the topmost; processes inside keep what they have open.

    `shows`: the mount that is seen then, if it is known.
    """
    _expect(mount, spot)
    try:
        umount2(spot.folder, spot.name, 0)
    except OSError as error:
        if error.errno != EBUSY:
            raise
        umount2(spot.folder, spot.name, MNT_DETACH)
    _see_gone(mount, spot, shows)


def try_flags(spot: Spot, mount: int, wanted: DesiredMount) -> None:
    """Try on a clone of our mount, which nobody sees, whether it may have other flags."""
    if has_mount_setattr():
        with _opened(mount, spot) as root, open_tree(root) as clone:
            flag(clone, mount, wanted)


def adjust(spot: Spot, mount: int, wanted: DesiredMount) -> None:
    """Give our mount other flags, all at once; a writer in the way of read-only is `busy`."""
    with _opened(mount, spot) as root:
        try:
            if has_mount_setattr():
                flag(root, mount, wanted)
            else:
                remount(spot.folder, spot.name, attributes(wanted.flags))
        except OSError as error:
            if error.errno != EBUSY:
                raise
            from mountd.kernel.holders import holders_of  # noqa: PLC0415 - for who is busy alone

            fault = mount_faults.busy_writers(spot.whole_path, *holders_of(mount, writing=True))
            raise VolumeError(fault) from error


def unmount(spot: Spot, mount: int, submounts: Sequence[int] = (), *, lazily: bool = False) -> None:
    """Take our mount off, unless someone is inside: then `busy`, and who it is.

    Its submounts go first, the deepest before those above; all of them, or none. `lazily`: all at
    once, whoever is inside and whatever else is mounted on it.
    """
    try:
        _expect(mount, spot)
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
            _expect(each.id, found)
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


def move(tree: Tree, spot: Spot, *, beneath: bool = False) -> None:
    """Attach it there, or beneath what is there. Raises VolumeError at the limit on mounts."""
    try:
        move_mount(tree.fd, spot.folder, spot.name, beneath=beneath)
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        raise VolumeError(mount_faults.mount_limit(spot.whole_path, hint_on("mounts"))) from error


def _expect(mount: int, spot: Spot) -> None:
    """See that our mount is the topmost, for that is the one umount2 and BENEATH act on."""
    try:
        found = statx(spot.folder, spot.name, flags=AT_STATX_DONT_SYNC)
    except FileNotFoundError as error:
        raise VolumeError(_covered(spot, mount)) from error
    if not found.is_mount_root:
        raise VolumeError(_covered(spot, mount))
    if found.mount != mount:
        raise VolumeError(_foreign(spot, found.mount, over=mount))


def _covered(spot: Spot, mount: int) -> Fault:
    return mount_faults.covered_above(spot.whole_path, mount, forest_of(observe().mounts), {})


def _foreign(spot: Spot, top: int, over: int | None = None) -> Fault:
    """What is on top there now isn't ours; `over` is, and may lie under it."""
    mounts = observe().mounts
    mounts.pop(over or 0, None)
    found = observe_mount(top)
    return mount_faults.foreign_mount(
        spot.whole_path, found, forest_of(mounts), {}, covers=over is not None
    )


def _opened(mount: int, spot: Spot) -> Fd:
    """Our mount's root, on which another one may not have come meanwhile."""
    _expect(mount, spot)
    root = openat2(spot.folder, spot.name, os.O_PATH, RESOLVE_NO_SYMLINKS)
    found = statx(root, flags=AT_STATX_DONT_SYNC)
    if found.mount != mount:
        root.close()
        raise VolumeError(_foreign(spot, found.mount, over=mount))
    return root


def _see(tree: Tree, spot: Spot) -> None:
    """The path must lead to the new mount: a folder above may have been renamed meanwhile."""
    if not is_at(spot.whole_path, tree.id):
        raise VolumeError(faults.moved_meanwhile(spot.whole_path))
