"""desired × observed × record → ordered actions. Nothing here looks at the machine."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from mountd.core import faults
from mountd.core.idmapping import Idmapping, in_words
from mountd.core.model import (
    Action,
    Desired,
    DesiredMount,
    Drift,
    Fault,
    Managed,
    Observed,
    ObservedMount,
    State,
    Top,
    Verb,
)
from mountd.core.targets import folders_above


class _Scene(NamedTuple):
    """What one volume's action depends on besides the volume itself."""

    observed: Observed
    managed: dict[str, list[Managed]]
    """Recorded mounts that are still there, by their target."""
    below: dict[str, ObservedMount]
    """A mount below this folder that stays; a mount over the folder would bury it."""
    claims: dict[str, str]
    """Targets of this manifest, and which volume has each."""
    leaving: dict[str, Managed]
    """Mounts of ours that go in this pass, by where they are."""
    unclaimed: dict[str, Managed]
    """Mounts of ours where no volume is now, whether they can go or not."""
    lost: set[str]
    """Targets whose recorded mount is gone."""
    manifest: str

    def mine(self, target: str) -> list[Managed]:
        """The manifest's recorded mounts for a target, wherever they are now."""
        return [each for each in self.managed.get(target, ()) if each.manifest == self.manifest]


def plan(
    desired: Sequence[Desired],
    observed: Observed,
    record: Iterable[Managed],
    manifest: str,
) -> list[Action]:
    """The actions that make `observed` what is desired: volumes in their order, then what leaves.

    Only mounts that the record names for `manifest` are ever taken off. A mount that leaves from
    below a target goes first, so that the target's new mount doesn't bury it.
    """
    alive, gone = _parted(record, observed)
    lost = {managed.target for managed in gone if managed.manifest == manifest}
    leaving = list(_leaving(desired, alive, observed, manifest))
    while True:
        scene = _scene(desired, observed, alive, leaving, lost, manifest)
        actions = [_action(each, scene) for each in desired]
        blocked = {each.volume for each in actions if each.fault and not _waits(each, scene)}
        staying = [managed for managed in leaving if managed.volume in blocked]
        if not staying:
            break  # else what stays until it can be where it should be may be in others' way
        leaving = [managed for managed in leaving if managed not in staying]
    reused = {action.old.id for action in actions if action.verb and action.old}
    covered = {action.target for action in actions if action.verb in ("mount", "replace")}
    first: list[Action] = []
    last: list[Action] = []
    for managed in leaving:
        if managed.id in reused:  # found at the target of another volume, which takes its place
            continue
        mount = observed.mounts[managed.id]
        into = first if any(folder in covered for folder in folders_above(mount.point)) else last
        into.append(_departure(managed, mount))
    return first + actions + last


def _scene(
    desired: Sequence[Desired],
    observed: Observed,
    alive: list[Managed],
    leaving: list[Managed],
    lost: set[str],
    manifest: str,
) -> _Scene:
    going = {managed.id for managed in leaving}
    points = {observed.mounts[managed.id].point: managed for managed in alive}
    claims = _claims(desired)
    return _Scene(
        observed,
        _by_target(alive),
        _below(mount for mount in observed.mounts.values() if mount.id not in going),
        claims,
        {observed.mounts[managed.id].point: managed for managed in leaving},
        {point: managed for point, managed in points.items() if point not in claims},
        lost,
        manifest,
    )


def _waits(action: Action, scene: _Scene) -> bool:
    """Whether what is in this volume's way is its own mount, or another that leaves."""
    return any(folder in scene.leaving for folder in folders_above(action.target))


def departures(record: Iterable[Managed], observed: Observed) -> list[Action]:
    """The actions that take these recorded mounts off, the deepest first."""
    alive, _ = _parted(record, observed)
    return [
        _departure(managed, observed.mounts[managed.id]) for managed in _deepest(alive, observed)
    ]


def differences(
    wanted: DesiredMount,
    mount: ObservedMount,
    top: Top,
    known: Managed | None,
    *,
    tells_idmaps: bool,
) -> tuple[Drift, ...]:
    """The fields in which a mount at its target isn't what is wanted.

    Where the kernel tells no idmappings, the record's word counts; without one, the owner it shows.
    """
    found: list[Drift] = []
    if (top.device, top.inode) != (wanted.device, wanted.inode):
        found.append(Drift("source", wanted.source, f"{mount.root} of its {mount.fs_type}"))
    if tells_idmaps or known:
        idmap = mount.idmap if tells_idmaps else known.idmap if known else None
        if idmap != wanted.idmap:
            found.append(Drift("idmap", in_words(wanted.idmap), in_words(idmap)))
    elif top.owner != wanted.shown:
        found.append(Drift("idmap", f"owner seen as {wanted.shown}", f"as {top.owner}"))
    if mount.flags != wanted.flags:
        found.append(Drift("flags", str(wanted.flags), str(mount.flags)))
    return tuple(found)


def record_entry(mount: DesiredMount, mount_id: int, manifest: str) -> Managed:
    """What the record says of a mount that is, or is about to be, as desired."""
    return Managed(
        mount_id, mount.volume.name, mount.source, mount.target, manifest, mount.owner, mount.idmap
    )


def _action(desired: Desired, scene: _Scene) -> Action:
    target = desired.target
    if not isinstance(desired, DesiredMount):
        nested = _nested_source(desired.volume.name, desired.volume.source, scene)
        return _stopped(desired, scene, nested or desired.fault)  # which may follow from it
    if scene.claims[target] != desired.volume.name:
        return _stopped(desired, scene, faults.same_target(target, scene.claims[target]))
    top = scene.observed.tops.get(target)
    if top is None:
        return _mount_action(desired, scene)
    mount = scene.observed.mounts.get(top.id)
    if mount is None:  # it came between two looks: the next pass sees it whole
        return _stopped(desired, scene, faults.just_mounted(target))
    return _action_on_mount(desired, top, mount, scene)


def _action_on_mount(
    desired: DesiredMount, top: Top, mount: ObservedMount, scene: _Scene
) -> Action:
    """For a volume at whose target something is mounted."""
    target = desired.target
    mine = {each.id: each for each in scene.mine(target)}
    stray = scene.leaving.get(target)
    old = mine.get(top.id) or (stray if stray and stray.id == top.id else None)
    drift = differences(desired, mount, top, old, tells_idmaps=scene.observed.tells_idmaps)
    if fault := _intrusion(target, top, mount, scene, is_equal=not drift, is_known=bool(old)):
        return _stopped(desired, scene, fault)
    beneath = mine.get(mount.parent)
    fields = {each.field for each in drift}
    verb: Verb = "adjust" if fields else "keep"
    if beneath or fields & {"source", "idmap"}:
        verb = "replace"
    if verb == "keep":  # in the record from now on, and under its present name
        old = record_entry(desired, top.id, scene.manifest)
    elif fault := _obstacle(desired, scene, is_building=verb == "replace"):
        return _stopped(desired, scene, fault)._replace(drift=drift)
    has = mount.idmap if scene.observed.tells_idmaps or not old else old.idmap
    action = _planned(desired, verb, "mounted", has, old, drift)
    if not beneath:
        return action
    note = "a replacement was interrupted: what is on top is the old mount"
    return action._replace(beneath=beneath, notes=(*action.notes, note))


def _mount_action(desired: DesiredMount, scene: _Scene) -> Action:
    drift: tuple[Drift, ...] = ()
    points = [scene.observed.mounts[each.id].point for each in scene.mine(desired.target)]
    if desired.target in points:
        return _stopped(desired, scene, faults.covered_above(desired.target))
    if points or desired.target in scene.lost:
        drift = (Drift("mount", desired.target, points[0] if points else "nothing"),)
    if fault := _obstacle(desired, scene, is_building=True):
        return _stopped(desired, scene, fault)._replace(drift=drift)
    return _planned(desired, "mount", "unmounted", None, None, drift)


def _planned(
    mount: DesiredMount,
    verb: Verb,
    state: State,
    has: Idmapping | None,
    old: Managed | None,
    drift: tuple[Drift, ...],
) -> Action:
    volume = mount.volume
    return Action(
        volume.name, mount.source, mount.target, volume.required, verb, state, has, mount, old,
        drift=drift, notes=mount.notes,
    )  # fmt: skip


def _stopped(desired: Desired, scene: _Scene, fault: Fault) -> Action:
    volume = desired.volume
    old = next(iter(scene.mine(desired.target)), None)
    mount = scene.observed.mounts[old.id] if old else None
    return Action(
        volume.name, volume.source, desired.target, volume.required, None, fault.state,
        mount.idmap if mount else None, old=old, fault=fault,
        notes=("what is mounted there stays",) if old else (),
    )  # fmt: skip


def _obstacle(desired: DesiredMount, scene: _Scene, *, is_building: bool) -> Fault | None:
    """What else lies where this volume's mount would go, or where its source comes from."""
    target = desired.target
    if fault := _nested_source(desired.volume.name, desired.source, scene):
        return fault
    for path in folders_above(target):
        if path in scene.claims:
            return faults.nested_target(target, scene.claims[path], path)
        if path in scene.unclaimed:
            return faults.leaving_above(target, scene.unclaimed[path].volume, path)
    if is_building and (below := scene.below.get(target)):
        return faults.mount_below(below.point, below.fs_type)
    return None


def _nested_source(volume: str, source: str, scene: _Scene) -> Fault | None:
    for path in (source, *folders_above(source)):
        if scene.claims.get(path, volume) != volume:
            return faults.nested_source(source, scene.claims[path], path)
    return None


def _intrusion(
    target: str, top: Top, mount: ObservedMount, scene: _Scene, *, is_equal: bool, is_known: bool
) -> Fault | None:
    """What is mounted at the target that isn't ours; ours, if the record is lost, `is_equal`."""
    mine = {each.id for each in scene.mine(target)}
    under = scene.observed.mounts.get(mount.parent)
    if under and under.point == target and under.id not in mine:
        return faults.foreign_mount(target, under.fs_type, covers=False)
    if is_known:
        return None
    if other := _owner_of(top.id, scene):
        return faults.managed_elsewhere(target, other.volume, other.manifest)
    if mine or not is_equal:
        return faults.foreign_mount(target, mount.fs_type, covers=bool(mine))
    return None


def _owner_of(mount_id: int, scene: _Scene) -> Managed | None:
    every = (each for several in scene.managed.values() for each in several)
    return next((each for each in every if each.id == mount_id), None)


def _leaving(
    desired: Sequence[Desired], alive: list[Managed], observed: Observed, manifest: str
) -> Iterator[Managed]:
    """What came from this manifest and isn't in it any more, or isn't where it should be.

    A volume that means no mount now keeps the one it has.
    """
    targets = {each.target for each in desired}
    unready = {each.volume.name for each in desired if not isinstance(each, DesiredMount)}
    for managed in _deepest(alive, observed):
        if managed.manifest != manifest or managed.volume in unready:
            continue
        if managed.target not in targets or observed.mounts[managed.id].point != managed.target:
            yield managed


def _departure(managed: Managed, mount: ObservedMount) -> Action:
    """What left the manifest counts as required."""
    return Action(
        managed.volume, managed.source, mount.point, True, "unmount", "mounted", mount.idmap,
        old=managed,
    )  # fmt: skip


def _parted(record: Iterable[Managed], observed: Observed) -> tuple[list[Managed], list[Managed]]:
    """The recorded mounts that are there, and those that are gone."""
    alive: list[Managed] = []
    gone: list[Managed] = []
    for managed in record:
        (alive if managed.id in observed.mounts else gone).append(managed)
    return alive, gone


def _deepest(alive: Sequence[Managed], observed: Observed) -> list[Managed]:
    """By target, those below another before it, and of two that are stacked the upper before."""
    parents = {observed.mounts[managed.id].parent for managed in alive}
    return sorted(alive, key=lambda it: (-it.target.count("/"), it.target, it.id in parents))


def _by_target(alive: Iterable[Managed]) -> dict[str, list[Managed]]:
    found: dict[str, list[Managed]] = {}
    for managed in alive:
        found.setdefault(managed.target, []).append(managed)
    return found


def _claims(desired: Iterable[Desired]) -> dict[str, str]:
    claims: dict[str, str] = {}
    for each in desired:
        claims.setdefault(each.target, each.volume.name)
    return claims


def _below(mounts: Iterable[ObservedMount]) -> dict[str, ObservedMount]:
    return {folder: mount for mount in mounts for folder in folders_above(mount.point)}
