"""Attaching a detached mount, replacing one of ours by it, and giving one of ours other flags.

After move_mount(2) a target shows the whole new mount; whatever can fail came before.
"""

import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from errno import EBUSY, ENOSPC

from mountd.core.desired import DesiredMount
from mountd.core.model import Flags, Kind
from mountd.core.mounts import Managed, forest_of
from mountd.core.named_tuple import NamedTuple
from mountd.core.propagation import Propagation
from mountd.core.targets import is_within
from mountd.core.words import faults, mount_faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.clone import Tree, attributes, flag
from mountd.kernel.detach import detach, foreign_at, opened, see_top, unmount
from mountd.kernel.files import look, register, statx
from mountd.kernel.limits import hint_on
from mountd.kernel.making import made, make
from mountd.kernel.mount_api import (
    MS_PRIVATE,
    detach_again,
    mount_setattr,
    move_mount,
    open_tree,
    remount,
)
from mountd.kernel.observe import descendants_of, is_at, observe, observe_mount
from mountd.kernel.paths import Spot, spot_below
from mountd.kernel.paths import spot as find
from mountd.kernel.probe import has_mount_setattr
from mountd.kernel.syscalls import AT_STATX_DONT_SYNC


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
        raise VolumeError(foreign_at(spot, there.mount))  # it came after the plan
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
    see_top(old, spot)
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
    with opened(mount, spot) as root:
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


def try_flags(spot: Spot, mount: int, wanted: DesiredMount) -> None:
    """Try on a clone of our mount, which nobody sees, whether it may have other flags."""
    if has_mount_setattr():
        with opened(mount, spot) as root, open_tree(root) as clone:
            flag(clone, mount, wanted)


def adjust(spot: Spot, mount: int, wanted: DesiredMount) -> None:
    """Give our mount other flags, all at once; a writer in the way of read-only is `busy`."""
    with opened(mount, spot) as root:
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


def move(tree: Tree, spot: Spot, *, beneath: bool = False) -> None:
    """Attach it there, or beneath what is there. Raises VolumeError at the limit on mounts."""
    try:
        move_mount(tree.fd, spot.folder, spot.name, beneath=beneath)
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        raise VolumeError(mount_faults.mount_limit(spot.whole_path, hint_on("mounts"))) from error


def _see(tree: Tree, spot: Spot) -> None:
    """The path must lead to the new mount: a folder above may have been renamed meanwhile."""
    if not is_at(spot.whole_path, tree.id):
        raise VolumeError(faults.moved_meanwhile(spot.whole_path))
