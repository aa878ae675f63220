"""What the plan for one volume depends on besides the volume itself."""

from collections.abc import Iterable, Mapping, Sequence

from mountd.core.actions import NO_JUDGEMENT, Carried, Judgement
from mountd.core.desired import Desired, DesiredMount
from mountd.core.model import Fault
from mountd.core.mounts import (
    Adoptable,
    Forest,
    Managed,
    Observed,
    ObservedMount,
    forest_of,
    parents_of,
)
from mountd.core.named_tuple import NamedTuple
from mountd.core.propagation import Propagation
from mountd.core.targets import Places


class Scene(NamedTuple):
    """The machine and the manifest as a whole, by the paths that a volume's plan asks for."""

    observed: Observed
    manifest: str
    claims: dict[str, str]
    """Targets of this manifest, and which volume has each."""
    by_target: dict[str, list[Managed]]
    """Recorded mounts that are still there, by their target."""
    by_id: dict[int, Managed]
    known: dict[int, Managed]
    """The recorded mounts, those that they include, and copies of them, by their ids."""
    forest: Forest
    leaving: dict[str, Managed]
    """Mounts of ours that go in this pass, by where they are."""
    leaving_places: Places
    """The same places, and where else these show."""
    leaving_from: dict[str, str]
    """Where the mounts are that show there."""
    strangers: dict[str, list[ObservedMount]]
    """Mounts below this target that aren't ours: a mount over the folder would hide them."""
    ours: dict[str, list[tuple[str, Managed]]]
    """Mounts of ours below this target, or what leaves, that stay, and where they are."""
    covered: set[int]
    """Mounts on whose root another one lies."""
    lost: set[str]
    """Targets whose recorded mount is gone."""
    judgement: Judgement
    """What is wrong with the swaps of volumes, and of mounts that are there."""
    hidden: dict[int, Managed]
    """Which mounts have another one of the same manifest on them, at the same place."""
    going: set[int]
    """The ids of what is leaving."""
    stuck: Mapping[int, Fault]
    """Mounts of ours that could not go, and why."""
    adoptable: Adoptable
    """Where mounts may be ours though the record, which was lost, doesn't name them."""
    copies: Mapping[int, Managed]
    """What propagation made of mounts of ours, by the ids of the copies."""
    shown: Mapping[str, tuple[str, ...]]
    """The other paths at which what is mounted at a target shows, or leaves from."""

    def mine(self, target: str) -> list[Managed]:
        """The manifest's recorded mounts for a target, wherever they are now."""
        return [each for each in self.by_target.get(target, ()) if each.manifest == self.manifest]

    def exposed_at(self, target: str) -> list[Managed]:
        """The manifest's mounts at a target that have to come off, the topmost first."""
        found = [
            each
            for each in self.by_target.get(target, ())
            if each.id in self.judgement.exposed and self.point(each) == target
        ]
        return sorted(found, key=lambda each: each.id in self.covered)

    def shows_ours(self, target: str) -> bool:
        """Whether a target shows the mount that this manifest has for it, and goes on to."""
        mine = {each.id for each in self.mine(target) if self.point(each) == target}
        return bool(mine - self.covered - self.going)

    def point(self, managed: Managed) -> str:
        """Where a recorded mount is now."""
        return self.observed.mounts[managed.id].point

    def beneath(self, managed: Managed) -> Managed | None:
        """What of ours a mount of ours hides, as an interrupted replacement leaves it.

        What lies beneath was whole before it was put there: so it is the upper one that goes.
        """
        under = self.observed.mounts[managed.id].parent
        return self.by_id[under] if self.hidden.get(under) == managed else None

    def carried(self, path: str, under: int | None = None) -> Carried:
        """Our topmost mounts below a path; deeper ones come with them.

        If `under` is given, only those that lie on that mount.
        """
        below = [each for each in self.ours.get(path, ()) if self.is_under(each[1].id, under)]
        places = Places(point for point, _ in below)
        found: dict[str, Managed] = {}
        for point, managed in sorted(below, key=lambda each: each[0].count("/")):
            if next(places.above(point), None) is None:
                found.setdefault(point, managed)
        return tuple(found.items())

    def shown_on(self, managed: Managed) -> Carried:
        """Our mounts whose copies lie on a mount of ours, which couldn't go alone."""
        copies = self.copies.items()
        found = {each.id: each for copy, each in copies if self.is_under(copy, managed.id)}
        points = {self.point(each): each for each in found.values() if each.id not in self.going}
        places = Places(points)
        return tuple(each for each in points.items() if next(places.above(each[0]), None) is None)

    def carried_off(self, point: str, upper: Managed, lower: Managed) -> Carried:
        """Our mounts on the upper of two that haven't been put on the lower one yet."""
        there = {
            place
            for place, managed in self.ours.get(point, ())
            if self.is_under(managed.id, lower.id) and not self.is_under(managed.id, upper.id)
        }
        return tuple(each for each in self.carried(point, upper.id) if each[0] not in there)

    def is_under(self, mount_id: int, ancestor: int | None) -> bool:
        """Whether a mount lies on another, or on one that does."""
        if ancestor is None or mount_id == ancestor:
            return True
        return any(each.id == ancestor for each in parents_of(mount_id, self.observed.mounts))


def scene_of(
    desired: Iterable[Desired],
    observed: Observed,
    alive: Sequence[Managed],
    leaving: Sequence[Managed],
    lost: set[str],
    manifest: str,
    judgement: Judgement = NO_JUDGEMENT,
    stuck: Mapping[int, Fault] = {},
    adoptable: Adoptable = frozenset(),
) -> Scene:
    """The scene, where of the `alive` recorded mounts these are `leaving`."""
    going = {managed.id: observed.mounts[managed.id].point for managed in leaving}
    claims = claims_of(desired)
    propagation = Propagation(observed.mounts)
    shown = {path: propagation.shown_at(path) for path in (*claims, *going.values())}
    elsewhere = {at: point for point in going.values() for at in shown[point]}
    places = Places([*shown, *(path for paths in shown.values() for path in paths)])
    by_id = {managed.id: managed for managed in alive}
    within = {each: managed for managed in alive for each in managed.submounts}
    hidden = _hidden(by_id, observed)
    copies = propagation.copies_of(within | by_id)
    by_target: dict[str, list[Managed]] = {}
    for managed in sorted(alive, key=lambda each: (each.id in hidden, each.id)):  # seen ones first
        by_target.setdefault(managed.target, []).append(managed)
    staying = [each for each in alive if each.id not in going and each.id not in hidden]
    return Scene(
        observed,
        manifest,
        claims,
        by_target,
        by_id,
        within | by_id | copies,
        forest_of(observed.mounts),
        {going[managed.id]: managed for managed in leaving},
        Places([*going.values(), *elsewhere]),
        elsewhere,
        _strangers(observed, by_id | copies, within, Places(claims)),
        _below(places, staying, observed),
        _covered(observed),
        lost,
        judgement,
        hidden,
        {*going},
        stuck,
        adoptable,
        copies,
        shown,
    )


def near(
    desired: Iterable[Desired], observed: Observed, record: Iterable[Managed]
) -> tuple[Observed, list[Managed]]:
    """What of the mounts and of the record can matter to these volumes, by where it is.

    That is what lies above or below them or at their own places.
    """
    if Propagation(observed.mounts):  # they show in other places, too
        return observed, [*record]
    paths = [each.target for each in desired]
    paths += [each.source for each in desired if isinstance(each, DesiredMount)]
    places = Places(paths)

    def matters(path: str) -> bool:
        return places.lie_within(path) or next(places.above(path), None) is not None

    managed = [each for each in record if matters(each.target)]
    ids = {each.id for each in managed}
    mounts = {
        number: mount
        for number, mount in observed.mounts.items()
        if mount.point == "/" or number in ids or matters(mount.point)
    }
    return observed._replace(mounts=mounts), managed


def claims_of(desired: Iterable[Desired]) -> dict[str, str]:
    """Which volume has each target: of two that lead to one place the first."""
    claims: dict[str, str] = {}
    for each in desired:
        claims.setdefault(each.target, each.volume.name)
    return claims


def _hidden(by_id: Mapping[int, Managed], observed: Observed) -> dict[int, Managed]:
    found: dict[int, Managed] = {}
    for managed in by_id.values():
        mount = observed.mounts[managed.id]
        under = observed.mounts.get(mount.parent)
        lower = under and under.point == mount.point and by_id.get(under.id)
        if lower and lower.manifest == managed.manifest:
            found[lower.id] = managed
    return found


def _below(
    places: Places, staying: Iterable[Managed], observed: Observed
) -> dict[str, list[tuple[str, Managed]]]:
    """Which of these mounts lie below each place, and where: in the order of their ids."""
    found: dict[str, list[tuple[str, Managed]]] = {}
    for managed in sorted(staying, key=lambda each: each.id):
        point = observed.mounts[managed.id].point
        for folder in places.above(point):
            found.setdefault(folder, []).append((point, managed))
    return found


def _covered(observed: Observed) -> set[int]:
    mounts = observed.mounts
    return {
        each.parent
        for each in mounts.values()
        if each.parent in mounts and mounts[each.parent].point == each.point
    }


def _strangers(
    observed: Observed, by_id: dict[int, Managed], within: dict[int, Managed], targets: Places
) -> dict[str, list[ObservedMount]]:
    """By target; a recursive mount's own submounts count only where that stays."""
    found: dict[str, list[ObservedMount]] = {}
    for mount in observed.mounts.values():
        if mount.id in by_id:
            continue
        top = within.get(mount.id)
        limit = len(observed.mounts[top.id].point) if top else 0
        for folder in targets.above(mount.point):
            if len(folder) > limit:
                found.setdefault(folder, []).append(mount)
    return found


def submounts_of(mount: DesiredMount, top: int, observed: Observed) -> tuple[int, ...]:
    """The ids of a recursive mount's submounts that are there."""
    if not mount.submounts:
        return ()
    points = {f"{mount.target}/{path}" for path in mount.submounts}
    return tuple(
        each.id
        for each in observed.mounts.values()
        if each.point in points
        and any(above.id == top for above in parents_of(each.id, observed.mounts))
    )
