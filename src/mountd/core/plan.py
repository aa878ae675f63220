"""desired × observed × record → ordered actions. Nothing here looks at the machine."""

from collections.abc import Iterable, Sequence

from mountd.core.actions import Action, Drift, Verb
from mountd.core.conflicts import intrusion, obstacle, refusal, strangers_on
from mountd.core.desired import Desired, DesiredMount, Later, Unready
from mountd.core.drift import differences, record_entry, submount_differences
from mountd.core.exposure import judge
from mountd.core.filesystems import mounting
from mountd.core.idmapping import Idmapping
from mountd.core.leaving import (
    INTERRUPTED,
    first_and_last,
    gap_of,
    leaving_of,
    parted,
    stuck_and_beneath,
)
from mountd.core.model import Fault
from mountd.core.mounts import Managed, Observed, ObservedMount, Top
from mountd.core.order import Progress, absence, halted, in_order, put_off
from mountd.core.scene import Scene, near, scene_of, submounts_of
from mountd.core.words import mount_faults

_NO_PROGRESS = Progress()


def plan(
    desired: Sequence[Desired],
    observed: Observed,
    record: Iterable[Managed],
    manifest: str,
    progress: Progress = _NO_PROGRESS,
) -> list[Action]:
    """The actions that make `observed` what is desired: volumes in their order, then what leaves.

    Only mounts that the record names for `manifest` are ever taken off. A mount that leaves from
    below or above a target that gets a new mount goes first. Actions with an `after` aren't carried
    out in this round; the next round plans them again.
    """
    record = [*record]
    actions = _plan(desired, observed, record, manifest, progress, waits=True)
    if actions and all(each.after for each in actions):  # for each other, so nothing would end
        return _plan(desired, observed, record, manifest, progress, waits=False)
    return actions


def _plan(
    desired: Sequence[Desired],
    observed: Observed,
    record: Sequence[Managed],
    manifest: str,
    progress: Progress,
    *,
    waits: bool,
) -> list[Action]:
    """The plan; `waits`: swaps that will be safe once another mount is gone wait for that."""
    everywhere = record, observed
    if progress.is_part:
        observed, record = near(desired, observed, record)
    alive, gone = parted(record, observed)
    lost = {managed.target for managed in gone if managed.manifest == manifest}
    leaving = [*leaving_of(desired, alive, observed, manifest)] if progress.removes else []
    stuck = stuck_and_beneath(progress.stuck, observed)
    leaving = [managed for managed in leaving if managed.id not in stuck]
    if progress.is_part:
        volumes = {each.volume.name for each in desired}
        leaving = [managed for managed in leaving if managed.volume in volumes]
    judgement = judge(desired, *everywhere, leaving, manifest, progress.done, waits=waits)
    exposed = judgement.exposed.keys() - progress.stuck if progress.removes else set()
    judgement = judgement._replace(exposed={it: judgement.exposed[it] for it in exposed})
    known = {managed.id for managed in leaving}
    leaving += [each for each in alive if each.id in exposed and each.id not in known]
    while True:
        scene = scene_of(
            desired, observed, alive, leaving, lost, manifest, judgement,
            progress.stuck, progress.adoptable,
        )  # fmt: skip
        actions = in_order(
            [
                _done(each, scene, progress.done[each.volume.name])
                if each.volume.name in progress.done
                else _action(each, scene)
                for each in desired
            ],
            desired,
            scene,
            progress,
        )
        blocked = {each.volume for each in actions if each.fault}
        blocked |= {name for name, fault in progress.done.items() if fault}
        staying = _staying(leaving, desired, blocked, scene)
        if not staying:
            break  # else a mount that has to stay may block others, so the plan is made again
        leaving = [managed for managed in leaving if managed not in staying]
    todo = [each for each in actions if each.volume not in progress.done or each.lazily]
    first, last = first_and_last(todo, leaving, scene)
    return first + todo + last


def _staying(
    leaving: Iterable[Managed], desired: Iterable[Desired], blocked: set[str], scene: Scene
) -> list[Managed]:
    """The mounts of blocked volumes, which keep what they have, unless that exposes somebody."""
    kept = {
        each.over for each in desired if isinstance(each, Later) and each.volume.name in blocked
    }
    return [
        managed
        for managed in leaving
        if managed.id not in scene.judgement.exposed
        if managed.id in kept or (managed.volume in blocked and not scene.beneath(managed))
    ]


def _action(desired: Desired, scene: Scene) -> Action:
    target = desired.target
    if scene.claims[target] != desired.volume.name:
        return _stopped(desired, scene, mount_faults.same_target(target, scene.claims[target]))
    top = scene.observed.tops.get(target)
    if top and (upper := _upper_of_two(target, top, scene)):
        return _unstacked(desired, upper, scene)
    if fault := refusal(desired, top, scene):
        return _stopped(desired, scene, fault)
    awaited = [*scene.judgement.waits.get(desired.volume.name, ())]
    if top and (copied := scene.copies.get(top.id)):
        awaited.append(absence(scene.point(copied)))
    if awaited:
        return put_off(_stopped(desired, scene, None), awaited)
    if not isinstance(desired, DesiredMount):
        return _put_off(desired, scene)
    if note := scene.judgement.notes.get(desired.volume.name):
        desired = desired._replace(notes=(*desired.notes, note), shared=note)
    if top is None or _is_own_source(desired, top, scene):
        return _mount_action(desired, scene)
    mount = scene.observed.mounts.get(top.id)
    if mount is None:  # it came between two reads of the table; the next pass has all of it
        return _stopped(desired, scene, mount_faults.just_mounted(target))
    return _action_on_mount(desired, top, mount, scene)


def _put_off(desired: Unready | Later, scene: Scene) -> Action:
    """The action of a volume whose source can't be read until another mount is there, or gone."""
    is_hidden = isinstance(desired, Later) and desired.over
    what = absence(desired.target) if is_hidden else mounting(desired.volume.type or "")
    action = _stopped(desired, scene, None)
    if not is_hidden and action.old:  # the filesystem is mounted anew, so its clone is too
        action = action._replace(verb="replace")
    action = put_off(action, [what])
    if not is_hidden:
        return action
    source = desired.volume.source
    hidden = Drift("source", f"{source} as it lies beneath", "what this volume's mount shows")
    return action._replace(drift=(hidden,))


def _upper_of_two(target: str, top: Top, scene: Scene) -> Managed | None:
    """What is seen at a target, if it is ours and lies on another of ours that belongs there."""
    upper = scene.by_id.get(top.id)
    lower = upper and scene.beneath(upper)
    if not (upper and lower) or upper.manifest != scene.manifest:
        return None
    if upper.id in scene.judgement.exposed:  # which has to go for another reason
        return None
    belong = (each.target == target or each.id in scene.going for each in (upper, lower))
    return upper if all(belong) else None


def _unstacked(desired: Desired, upper: Managed, scene: Scene) -> Action:
    """Finish an interrupted replacement first, whatever the volume means now."""
    lower, mount = scene.beneath(upper), scene.observed.mounts[upper.id]
    if strangers := strangers_on(desired.target, upper.id, scene):
        fault = mount_faults.mount_below(strangers, scene.forest, scene.known)
        return _stopped(desired, scene, fault)
    return _stopped(desired, scene, None)._replace(
        verb="replace",
        fault=desired.fault if isinstance(desired, Unready) else None,
        mount=desired if isinstance(desired, DesiredMount) else None,
        old=upper,
        idmap=mount.idmap if scene.observed.tells_idmaps else upper.idmap,
        beneath=lower,
        carried=scene.carried_off(desired.target, upper, lower) if lower else (),
        notes=(INTERRUPTED,),
    )


def _is_own_source(desired: DesiredMount, top: Top, scene: Scene) -> bool:
    """Whether what is mounted at an in-place target is the source itself, not a mount of ours."""
    if not desired.is_in_place or desired.through == top.id:
        return False
    return all(scene.point(each) != desired.target for each in scene.mine(desired.target))


def _action_on_mount(desired: DesiredMount, top: Top, mount: ObservedMount, scene: Scene) -> Action:
    """The action of a volume at whose target something is mounted."""
    target, observed = desired.target, scene.observed
    mine = {each.id: each for each in scene.mine(target)}
    stray = scene.leaving.get(target)
    old = mine.get(top.id) or (stray if stray and stray.id == top.id else None)
    drift = differences(desired, mount, top, old, tells_idmaps=observed.tells_idmaps)
    if old:
        drift += (*submount_differences(desired, old, observed.mounts),)
    if fault := intrusion(desired, top, mount, scene, is_equal=not drift, is_known=bool(old)):
        return _stopped(desired, scene, fault)
    has = mount.idmap if observed.tells_idmaps or not old else old.idmap
    fields = {each.field for each in drift}
    # each submount's flags follow from those of its own source: one mount_setattr can't set them
    is_replaced = fields & {"source", "idmap", "mount"} or (fields and desired.submounts)
    if not is_replaced:
        submounts = old.submounts if old else submounts_of(desired, top.id, observed)
        entry = record_entry(desired, top.id, scene.manifest, submounts)  # under its present name
        return _planned(desired, "adjust" if fields else "keep", has, entry, drift)
    if fault := obstacle(desired, scene, top.id):
        return _stopped(desired, scene, fault)._replace(drift=drift)
    carried = scene.carried(target, top.id)
    action = _planned(desired, "replace", has, old, drift)._replace(carried=carried)
    if change := action.owner_change:
        action = action.with_note(change)
    if not observed.can_go_beneath or needs_gap_in_place(desired, observed):
        action = action.with_note(f"gap: for a moment {target} shows what lies under it")
    return action


def needs_gap_in_place(mount: DesiredMount, observed: Observed) -> bool:
    """Whether our own mount, in place, has to go before its source can be cloned: before 6.15."""
    is_remapped = mount.through_idmap not in (None, mount.idmap)
    return mount.through is not None and is_remapped and not observed.can_remap


def _mount_action(desired: DesiredMount, scene: Scene) -> Action:
    target = desired.target
    drift: tuple[Drift, ...] = ()
    mine = scene.mine(target)
    points = [scene.point(each) for each in mine]
    if target in points:
        covered = mine[points.index(target)].id
        why = mount_faults.covered_above(target, covered, scene.forest, scene.known)
        return _stopped(desired, scene, why)
    if points or target in scene.lost:
        drift = (Drift("mount", target, points[0] if points else "nothing"),)
    if fault := obstacle(desired, scene, None):
        return _stopped(desired, scene, fault)._replace(drift=drift)
    action = _planned(desired, "mount", None, None, drift)
    carried = scene.carried(target)
    for path in scene.shown.get(target, ()):
        carried += scene.carried(path)  # else its copy there would hide them
    if carried:
        if desired.is_in_place and desired.volume.recursive:
            return _stopped(desired, scene, mount_faults.volume_below_recursive(carried[0][0]))
        action = action._replace(carried=carried).with_note(gap_of(carried))
    return action


def _planned(
    mount: DesiredMount,
    verb: Verb,
    has: Idmapping | None,
    old: Managed | None,
    drift: tuple[Drift, ...],
) -> Action:
    volume = mount.volume
    return Action(
        volume.name, mount.source, mount.target, volume.required, verb, has, mount, old,
        drift=drift, notes=(*mount.choice.notes, *mount.notes),
    )  # fmt: skip


def _stopped(desired: Desired, scene: Scene, fault: Fault | None) -> Action:
    volume = desired.volume
    old = next(iter(scene.mine(desired.target)), None)
    mount = scene.observed.mounts[old.id] if old else None
    action = Action(
        volume.name, volume.source, desired.target, volume.required, None,
        mount.idmap if mount else None, old=old,
        notes=("what is mounted there stays",) if old else (),
    )  # fmt: skip
    return halted(action, fault, scene) if fault else action


def _done(desired: Desired, scene: Scene, fault: Fault | None) -> Action:
    """Nothing more is done, unless a later round's mounts expose what an earlier one mounted."""
    action = _stopped(desired, scene, None)
    exposed = scene.exposed_at(desired.target)
    is_exposed = fault is None and scene.claims[desired.target] == desired.volume.name
    if not (exposed and is_exposed):
        return action
    return halted(action, scene.judgement.exposed[exposed[0].id], scene)
