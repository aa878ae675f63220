"""desired × observed × record → ordered actions. Nothing here looks at the machine."""

from collections.abc import Iterable, Iterator, Sequence

from mountd.core.actions import Action, Drift, Verb
from mountd.core.desired import Desired, DesiredMount, Later, Unready
from mountd.core.drift import differences, record_entry
from mountd.core.exposure import judge
from mountd.core.idmapping import Idmapping
from mountd.core.model import Fault, State
from mountd.core.mounts import Managed, Observed, ObservedMount, Top, is_same, may_adopt, parents_of
from mountd.core.order import (
    BUILDS,
    Progress,
    absence,
    after_stacks,
    halted,
    in_order,
    put_off,
    stacks_of,
)
from mountd.core.scene import Scene, claims_of, near, scene_of, submounts_of
from mountd.core.targets import Places
from mountd.core.words import faults

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
    below or above a target that gets a new mount goes first. What has an `after` can't be carried
    out now: once the other actions have been, another plan tells.
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
    """The plan; whether swaps that may be made once something else is gone wait for that."""
    everywhere = record, observed
    if progress.is_part:
        observed, record = near(desired, observed, record)
    alive, gone = _parted(record, observed)
    lost = {managed.target for managed in gone if managed.manifest == manifest}
    leaving = [*_leaving(desired, alive, observed, manifest)] if progress.removes else []
    stuck = _stuck_and_beneath(progress.stuck, observed)
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
        kept = {
            each.over for each in desired if isinstance(each, Later) and each.volume.name in blocked
        }
        staying = [
            managed
            for managed in leaving
            if managed.id not in exposed
            if managed.id in kept or (managed.volume in blocked and not scene.beneath(managed))
        ]
        if not staying:
            break  # else a mount that has to stay may block others, so the plan is made again
        leaving = [managed for managed in leaving if managed not in staying]
    todo = [each for each in actions if each.volume not in progress.done or each.lazily]
    first, last = _departures(todo, leaving, scene)
    return first + todo + last


def departures(record: Iterable[Managed], observed: Observed, chosen: set[int]) -> list[Action]:
    """The actions that take the chosen of the recorded mounts off, the deepest first.

    Where two of ours lie on one another, at such a place or below it, the upper one goes first;
    what has an `after` takes another plan.
    """
    alive, _ = _parted(record, observed)
    hidden = scene_of((), observed, alive, (), set(), "").hidden
    places = Places(observed.mounts[each.id].point for each in alive if each.id in chosen)
    chosen = chosen | {
        upper.id
        for upper in hidden.values()
        if next(places.from_(observed.mounts[upper.id].point), None) is not None
    }
    leaving = [each for each in _deepest(alive, observed) if each.id in chosen]
    scene = scene_of((), observed, alive, leaving, set(), "")
    stacks = stacks_of((), scene)
    return [after_stacks(_departure(managed, scene), stacks) for managed in leaving]


def _departures(
    actions: list[Action], leaving: list[Managed], scene: Scene
) -> tuple[list[Action], list[Action]]:
    """Those before the volumes' actions, and those behind them."""
    reused = {each.old.id for each in actions if each.verb and each.old and not each.after}
    reused |= {each.beneath.id for each in actions if each.lazily and each.beneath}
    covered = {action.target for action in actions if action.verb in BUILDS}
    waiting = {action.volume for action in actions if action.after}
    awaited = {after for action in actions for after in action.after}
    urgent = {point for point in scene.leaving if absence(point) in awaited}
    disturbed = Places(covered | urgent)
    stacks = stacks_of(actions, scene)
    first: list[Action] = []
    last: list[Action] = []
    held: dict[int, list[str]] = {}
    for managed in leaving:
        if managed.id in reused:  # found at the target of another volume, which takes its place
            continue
        point = scene.point(managed)
        action = after_stacks(_departure(managed, scene), stacks)
        if action.after:
            last.append(action)
        elif point in urgent or next(disturbed.above(point), None) is not None:
            first.append(action)
        else:
            if managed.volume in waiting and not action.beneath:  # first it gets its new place
                held.setdefault(managed.id, []).append(managed.volume)
            after = tuple(dict.fromkeys(held.get(managed.id, ())))
            if after:  # and what it lies on can't leave before either
                for parent in parents_of(managed.id, scene.observed.mounts):
                    held.setdefault(parent.id, []).extend(after)
            last.append(action._replace(after=after))
    return first, last


def _action(desired: Desired, scene: Scene) -> Action:
    target = desired.target
    if scene.claims[target] != desired.volume.name:
        return _stopped(desired, scene, faults.same_target(target, scene.claims[target]))
    top = scene.observed.tops.get(target)
    if top and (upper := _upper_of_two(target, top, scene)):
        return _unstacked(desired, upper, scene)
    if fault := _refusal(desired, top, scene):
        return _stopped(desired, scene, fault)
    if awaited := scene.judgement.waits.get(desired.volume.name):
        return put_off(_stopped(desired, scene, None), [*awaited])
    if not isinstance(desired, DesiredMount):
        return _put_off(desired, scene)
    if note := scene.judgement.notes.get(desired.volume.name):
        desired = desired._replace(notes=(*desired.notes, note), shared=note)
    if top is None or _is_own_source(desired, top, scene):
        return _mount_action(desired, scene)
    mount = scene.observed.mounts.get(top.id)
    if mount is None:  # it came between two looks: the next pass sees it whole
        return _stopped(desired, scene, faults.just_mounted(target))
    return _action_on_mount(desired, top, mount, scene)


def _refusal(desired: Desired, top: Top | None, scene: Scene) -> Fault | None:
    """Why there can't be a mount, whatever the target shows."""
    if isinstance(desired, Unready):
        return desired.fault
    if top and (other := _of_another_manifest(desired.target, top, scene)):
        return faults.managed_elsewhere(desired.target, other.volume, other.manifest)
    if isinstance(desired, Later):
        if not desired.over:
            fault = _stranger(desired, top, scene)
        elif desired.over in scene.going:
            fault = None
        else:
            fault = scene.stuck.get(desired.over) or faults.hidden_source(desired.target)
        if fault:
            return fault
    return scene.judgement.refused.get(desired.volume.name)


def _stranger(desired: Later, top: Top | None, scene: Scene) -> Fault | None:
    """The conflict, if what is mounted at its target can't be a clone of its filesystem."""
    target = desired.target
    mount = scene.observed.mounts.get(top.id) if top else None
    if mount is None or mount.id in scene.by_id:
        return None
    if mount.fs_type == desired.volume.type and may_adopt(scene.adoptable, target):
        return None
    return faults.foreign_mount(target, mount.fs_type, covers=bool(scene.mine(target)))


def _put_off(desired: Unready | Later, scene: Scene) -> Action:
    """For a volume whose source can't be seen before something else is mounted, or is gone."""
    is_hidden = isinstance(desired, Later) and desired.over
    what = absence(desired.target) if is_hidden else f"{desired.volume.type} is mounted"
    action = _stopped(desired, scene, None)
    if not is_hidden and action.old:  # a clone of what has yet to be mounted is another mount
        action = action._replace(verb="replace")
    return put_off(action, [what])


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
    """The rest of an interrupted replacement goes first, whatever the volume means now."""
    lower, mount = scene.beneath(upper), scene.observed.mounts[upper.id]
    if strangers := _strangers_on(desired.target, upper.id, scene):
        stranger = strangers[0]
        fault = faults.mount_below(stranger.point, stranger.fs_type)
        return _stopped(desired, scene, fault)
    why = desired.fault if isinstance(desired, Unready) else None
    action = _stopped(desired, scene, None)._replace(
        verb="replace",
        state=why.state if why else "mounted",
        fault=why,
        mount=desired if isinstance(desired, DesiredMount) else None,
        old=upper,
        idmap=mount.idmap if scene.observed.tells_idmaps else upper.idmap,
        beneath=lower,
        carried=scene.carried_off(desired.target, upper, lower) if lower else (),
        notes=(),
    )
    return _with_note(action, _INTERRUPTED)


_INTERRUPTED = "a replacement was interrupted: what is on top is the old mount"


def _of_another_manifest(target: str, top: Top, scene: Scene) -> Managed | None:
    """What of another manifest's is mounted at a target, be it covered."""
    mounts = scene.observed.mounts
    mount = mounts.get(top.id)
    while mount and mount.point == target:
        managed = scene.by_id.get(mount.id)
        if managed and managed.manifest != scene.manifest:
            return managed
        mount = mounts.get(mount.parent)
    return None


def _is_own_source(desired: DesiredMount, top: Top, scene: Scene) -> bool:
    """Whether what is mounted at an in-place target is the source itself, not a mount of ours."""
    if not desired.is_in_place or desired.through == top.id:
        return False
    return all(scene.point(each) != desired.target for each in scene.mine(desired.target))


def _action_on_mount(desired: DesiredMount, top: Top, mount: ObservedMount, scene: Scene) -> Action:
    """For a volume at whose target something is mounted."""
    target, observed = desired.target, scene.observed
    mine = {each.id: each for each in scene.mine(target)}
    stray = scene.leaving.get(target)
    old = mine.get(top.id) or (stray if stray and stray.id == top.id else None)
    drift = differences(desired, mount, top, old, tells_idmaps=observed.tells_idmaps)
    if fault := _intrusion(desired, top, mount, scene, is_equal=not drift, is_known=bool(old)):
        return _stopped(desired, scene, fault)
    fields = {each.field for each in drift}
    verb: Verb = "adjust" if fields else "keep"
    if fields & {"source", "idmap"} or (fields and desired.submounts):
        verb = "replace"  # flags too, where each submount has some as its own source has
    if verb != "replace":  # in the record from now on, and under its present name
        submounts = old.submounts if old else submounts_of(desired, top.id, observed)
        old = record_entry(desired, top.id, scene.manifest, submounts)
    elif fault := _obstacle(desired, scene, top.id):
        return _stopped(desired, scene, fault)._replace(drift=drift)
    has = mount.idmap if observed.tells_idmaps or not old else old.idmap
    action = _planned(desired, verb, "mounted", has, old, drift)
    if verb == "replace":
        assert old
        action = action._replace(carried=scene.carried(target, old.id))
        if not observed.can_go_beneath or needs_gap_in_place(desired, observed):
            action = _with_note(action, f"gap: for a moment {target} shows what lies under it")
    return action


def needs_gap_in_place(mount: DesiredMount, observed: Observed) -> bool:
    """Whether our own mount, in place, has to go before its source can be cloned: before 6.15."""
    is_remapped = mount.through_idmap not in (None, mount.idmap)
    return mount.through is not None and is_remapped and not observed.can_remap


def _mount_action(desired: DesiredMount, scene: Scene) -> Action:
    target = desired.target
    drift: tuple[Drift, ...] = ()
    points = [scene.point(each) for each in scene.mine(target)]
    if target in points:
        return _stopped(desired, scene, faults.covered_above(target))
    if points or target in scene.lost:
        drift = (Drift("mount", target, points[0] if points else "nothing"),)
    if fault := _obstacle(desired, scene, None):
        return _stopped(desired, scene, fault)._replace(drift=drift)
    action = _planned(desired, "mount", "unmounted", None, None, drift)
    if carried := scene.carried(target):
        if desired.is_in_place and desired.volume.recursive:
            return _stopped(desired, scene, faults.volume_below_recursive(carried[0][0]))
        action = _with_note(action._replace(carried=carried), _gap_of(carried))
    return action


def _gap_of(carried: tuple[tuple[str, Managed], ...]) -> str:
    points = ", ".join(point for point, _ in carried[:3]) + ", …" * (len(carried) > 3)
    return f"gap: {points} is away for a moment"


def _with_note(action: Action, note: str) -> Action:
    return action._replace(notes=(*action.notes, note))


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


def _stopped(desired: Desired, scene: Scene, fault: Fault | None) -> Action:
    volume = desired.volume
    old = next(iter(scene.mine(desired.target)), None)
    mount = scene.observed.mounts[old.id] if old else None
    action = Action(
        volume.name, volume.source, desired.target, volume.required, None, "unmounted",
        mount.idmap if mount else None, old=old,
        notes=("what is mounted there stays",) if old else (),
    )  # fmt: skip
    return halted(action, fault, scene) if fault else action


def _done(desired: Desired, scene: Scene, fault: Fault | None) -> Action:
    """Nothing more, unless what was mounted in an earlier round is exposed by a later one's."""
    action = _stopped(desired, scene, None)
    exposed = scene.exposed_at(desired.target)
    is_exposed = fault is None and scene.claims[desired.target] == desired.volume.name
    if not (exposed and is_exposed):
        return action
    return halted(action, scene.judgement.exposed[exposed[0].id], scene)


def _obstacle(desired: DesiredMount, scene: Scene, old: int | None) -> Fault | None:
    """What isn't ours and lies below where this volume's mount would go."""
    points = {f"{desired.target}/{each}" for each in desired.submounts if desired.is_in_place}
    for mount in _strangers_on(desired.target, old, scene):
        if mount.point not in points:
            return faults.mount_below(mount.point, mount.fs_type)
    return None


def _strangers_on(target: str, under: int | None, scene: Scene) -> list[ObservedMount]:
    """What isn't ours and lies below a target, by path; `under` a mount, if given."""
    strangers = scene.strangers.get(target, ())
    found = [mount for mount in strangers if scene.is_under(mount.id, under)]
    return sorted(found, key=lambda mount: (mount.point, mount.id))


def _intrusion(
    desired: DesiredMount,
    top: Top,
    mount: ObservedMount,
    scene: Scene,
    *,
    is_equal: bool,
    is_known: bool,
) -> Fault | None:
    """The conflict, if a foreign mount is at the target.

    An unrecorded mount counts as ours if the record was lost and it equals the desired one
    (`is_equal`). A record that is whole knows all of ours.
    """
    target = desired.target
    mine = {each.id for each in scene.mine(target)}
    under = scene.observed.mounts.get(mount.parent)
    is_stacked = under and under.point == target and under.id not in mine
    if under and is_stacked and not desired.is_in_place:
        return faults.foreign_mount(target, under.fs_type, covers=False)
    if is_known:
        return None
    if other := scene.by_id.get(top.id):
        return faults.managed_elsewhere(target, other.volume, other.manifest)
    if desired.through == top.id and not is_equal:
        return faults.perhaps_ours(target)
    if mine or not is_equal or not may_adopt(scene.adoptable, target):
        return faults.foreign_mount(target, mount.fs_type, covers=bool(mine))
    return None


def _leaving(
    desired: Sequence[Desired], alive: list[Managed], observed: Observed, manifest: str
) -> Iterator[Managed]:
    """What came from this manifest and isn't in it any more, or isn't where it should be.

    A volume that means no mount now keeps the one it has; of two on one another, the lower one.
    """
    targets = claims_of(desired)
    unready = {each.volume.name for each in desired if not isinstance(each, DesiredMount)}
    unknown = {each.over for each in desired if isinstance(each, Later)}
    places = {managed.id: observed.mounts[managed.id].point for managed in alive}
    for managed in _deepest(alive, observed):
        if managed.manifest != manifest:
            continue
        if managed.id in unknown:
            yield managed
            continue
        point = places[managed.id]
        is_upper = places.get(observed.mounts[managed.id].parent) == point
        if managed.volume in unready and not (is_upper and point not in targets):
            continue
        if managed.target not in targets or point != managed.target:
            yield managed


def _departure(managed: Managed, scene: Scene) -> Action:
    """What left the manifest counts as required."""
    mount, lower = scene.observed.mounts[managed.id], scene.beneath(managed)
    action = Action(
        managed.volume, managed.source, mount.point, True, "unmount", "mounted", mount.idmap,
        old=managed, beneath=lower, lazily=managed.id in scene.judgement.exposed,
    )  # fmt: skip
    if managed.id in scene.hidden:
        return action._replace(after=(absence(mount.point),))
    if lower:
        carried = scene.carried_off(mount.point, managed, lower)
        return _with_note(action._replace(carried=carried), _INTERRUPTED)
    carried = scene.carried(mount.point, managed.id)
    return action._replace(carried=carried, notes=(_gap_of(carried),) if carried else ())


def _stuck_and_beneath(stuck: Iterable[int], observed: Observed) -> set[int]:
    """Mounts that could not go, and those that they lie on at the same place."""
    found = set()
    for each in stuck:
        mount = observed.mounts.get(each)
        while mount and mount.id not in found:
            found.add(mount.id)
            under = observed.mounts.get(mount.parent)
            mount = under if under and under.point == mount.point else None
    return found


def _parted(record: Iterable[Managed], observed: Observed) -> tuple[list[Managed], list[Managed]]:
    """The recorded mounts that are there, and those that are gone."""
    alive: list[Managed] = []
    gone: list[Managed] = []
    for managed in record:
        mount = observed.mounts.get(managed.id)
        (alive if mount and is_same(managed, mount) else gone).append(managed)
    return alive, gone


def _deepest(alive: Sequence[Managed], observed: Observed) -> list[Managed]:
    """By target, those below another before it, and of two that are stacked the upper before."""
    parents = {observed.mounts[managed.id].parent for managed in alive}
    return sorted(alive, key=lambda it: (-it.target.count("/"), it.target, it.id in parents, it.id))
