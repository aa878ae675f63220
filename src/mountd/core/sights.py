"""Where files of a filesystem are seen, so that it can be told which mounts show the same."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mountd.core.desired import Desired, DesiredMount, View
from mountd.core.model import Fault
from mountd.core.mounts import TOO_DEEP, Managed, Observed, ObservedMount, is_same
from mountd.core.named_tuple import NamedTuple
from mountd.core.order import absence
from mountd.core.propagation import Propagation
from mountd.core.targets import Places, folders_above


class Sight(NamedTuple):
    """A place where files are shown without nosuid, and what ends it in this pass, if anything."""

    place: str
    until: str | None


# who shows it


class Sights:
    """All places where files are shown without nosuid, by what they show."""

    def __init__(
        self,
        claimed: Mapping[str, Desired],
        record: Iterable[Managed],
        observed: Observed,
        leaving: Sequence[Managed],
        manifest: str,
        done: Mapping[str, Fault | None],
    ) -> None:
        self._found: dict[int, dict[str, list[Sight]]] = {}
        self._writable: dict[int, set[str]] = {}
        by_target = {each.target: each for each in claimed.values()}
        ends = _ends(by_target, record, observed, leaving, manifest, done)
        for mount in observed.mounts.values():
            if mount.id in observed.raw:
                continue
            if not mount.flags.nosuid:
                sight = Sight(mount.point, ends.get(mount.id))
                self._add(mount.device, root_of(mount), sight)
            if not (mount.flags.read_only or mount.is_fs_read_only):
                self._writable.setdefault(mount.device, set()).add(root_of(mount))
        foreseen: dict[str, tuple[int, str] | None] = {}
        for name, each in claimed.items():
            views = each.views if isinstance(each, DesiredMount) else ()
            pieces = {(it.device, it.root) for it in views}
            if piece := _foreseen(each, by_target, foreseen):
                pieces.add(piece)
            for device, root in pieces:
                if not each.volume.nosuid:
                    self._add(device, root, Sight(f"volume `{name}`", None))
                if not each.volume.read_only:
                    self._writable.setdefault(device, set()).add(root)
        self._roots = {device: sorted(found) for device, found in self._found.items()}
        self._places = {
            device: Places((*found, *self._writable.get(device, ())))
            for device, found in self._found.items()
        }

    def _add(self, device: int, root: str, sight: Sight) -> None:
        self._found.setdefault(device, {}).setdefault(root, []).append(sight)

    def over(
        self, views: Iterable[View], volume: str, *, waits: bool
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Where some of these files are shown, and what is to be waited for until they aren't.

        What this volume has at its target now is left out: an action makes that as it shall be.
        """
        sights = {sight for view in views for sight in self._overlapping(view)}
        sights = {each for each in sights if each.until != volume}
        places = {each.place for each in sights if each.until is None or not waits}
        return tuple(sorted(places)), tuple(sorted({each.until for each in sights if each.until}))

    def _overlapping(self, view: View) -> Iterator[Sight]:
        """One root is at, above or below the other, or both are below a third that is writable.

        In a mount of the third, nosuid or not, files can be moved from the one to the other: by
        rename(2) it takes no more than a folder on either side that one may write.
        """
        found = self._found.get(view.device)
        if not found:
            return
        if view.root == TOO_DEEP:
            view = view._replace(root="/")
        above = dict.fromkeys(("/", *reversed([*self._places[view.device].from_(view.root)])))
        for root in above:
            yield from found.get(root, ())
        writable = self._writable.get(view.device, set())
        top = next((root for root in above if root in writable), view.root).rstrip("/") + "/"
        below, roots = view.root.rstrip("/") + "/", self._roots[view.device]
        for index in range(bisect_left(roots, top), len(roots)):
            root = roots[index]
            if not root.startswith(top):
                break
            if root in above:
                continue
            is_shown = root.startswith(below)
            for each in found[root]:
                yield each if is_shown else each._replace(place=f"{each.place} ({_MOVED})")


_MOVED = "to which they can be moved"


def _ends(
    by_target: Mapping[str, Desired],
    record: Iterable[Managed],
    observed: Observed,
    leaving: Iterable[Managed],
    manifest: str,
    done: Mapping[str, Fault | None],
) -> dict[int, str]:
    """After what a mount of ours is gone or as its volume means it: that counts by itself."""
    ends: dict[int, str] = {}
    record = [*record]
    for managed in record:
        each, mount = by_target.get(managed.target), observed.mounts.get(managed.id)
        if not (isinstance(each, DesiredMount) and mount and managed.manifest == manifest):
            continue
        if each.volume.name not in done and is_same(managed, mount):
            ends |= dict.fromkeys((managed.id, *managed.submounts), each.volume.name)
    for managed in leaving:
        if mount := observed.mounts.get(managed.id):
            ends |= dict.fromkeys((managed.id, *managed.submounts), absence(mount.point))
    propagation = Propagation(observed.mounts)
    known = {it: each for each in record for it in (each.id, *each.submounts) if it in ends}
    copies = propagation.copies_of(known)
    return ends | {number: ends[managed.id] for number, managed in copies.items()}


def root_of(mount: ObservedMount) -> str:
    """Where it begins, as far down as is known: else it may show any file there is."""
    return "/" if mount.root == TOO_DEEP else mount.root.removesuffix("//deleted") or "/"


def _foreseen(
    each: Desired, by_target: Mapping[str, Desired], known: dict[str, tuple[int, str] | None]
) -> tuple[int, str] | None:
    """The device and root of what a volume shows once all that its source lies in is in place.

    A source may be looked at before that. None where it can't be foreseen.
    """
    way: dict[str, str] = {}
    while each.volume.name not in known and each.volume.name not in way:
        source = each.source if isinstance(each, DesiredMount) else each.volume.source
        above = (it for it in (source, *folders_above(source)) if it != each.target)
        point = None if each.volume.type else next((it for it in above if it in by_target), None)
        if point is None:
            piece = each.views[0][:2] if isinstance(each, DesiredMount) else None
            known[each.volume.name] = piece
            break
        way[each.volume.name] = source.removeprefix(point)
        each = by_target[point]
    piece = known.get(each.volume.name)
    for name, rest in reversed(way.items()):
        piece = piece and (piece[0], piece[1].rstrip("/") + rest or "/")
        known[name] = piece
    return piece
