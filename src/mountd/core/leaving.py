"""Managed mounts that leave: which these are, and in what order they go."""

from collections.abc import Iterable, Iterator, Sequence

from mountd.core.actions import Action, Carried
from mountd.core.desired import Desired, DesiredMount, Later
from mountd.core.mounts import Managed, Observed, is_same, parents_of
from mountd.core.order import absence, after_stacks, stacks_of
from mountd.core.scene import Scene, claims_of, scene_of
from mountd.core.targets import Places


def departures(record: Iterable[Managed], observed: Observed, chosen: set[int]) -> list[Action]:
    """The actions that take the chosen of the recorded mounts off, the deepest first.

    Where two of our mounts lie on one another, there or below, the upper one goes first; actions
    with an `after` have to be planned again.
    """
    alive, _ = parted(record, observed)
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
    return [after_stacks(departure(managed, scene), stacks) for managed in leaving]


def first_and_last(
    actions: list[Action], leaving: list[Managed], scene: Scene
) -> tuple[list[Action], list[Action]]:
    """The departures to carry out before the volumes' actions, and those after them."""
    reused = {each.old.id for each in actions if each.verb and each.old and not each.after}
    reused |= {each.beneath.id for each in actions if each.lazily and each.beneath}
    covered = {action.target for action in actions if action.builds}
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
        action = after_stacks(departure(managed, scene), stacks)
        if action.after:
            last.append(action)
        elif point in urgent or next(disturbed.above(point), None) is not None:
            first.append(action)
        else:
            # its volume is mounted elsewhere first
            if managed.volume in waiting and not action.beneath:
                held.setdefault(managed.id, []).append(managed.volume)
            after = tuple(dict.fromkeys(held.get(managed.id, ())))
            if after:  # and the mounts that it lies on have to wait as well
                for parent in parents_of(managed.id, scene.observed.mounts):
                    held.setdefault(parent.id, []).extend(after)
            last.append(action._replace(after=after))
    return first, last


INTERRUPTED = "a replacement was interrupted: what is on top is the old mount"


def gap_of(carried: Carried) -> str:
    """A note that these mounts are away for a moment."""
    points = ", ".join(point for point, _ in carried[:3]) + ", …" * (len(carried) > 3)
    return f"gap: {points} is away for a moment"


def leaving_of(
    desired: Sequence[Desired], alive: list[Managed], observed: Observed, manifest: str
) -> Iterator[Managed]:
    """The mounts of this manifest that no volume means any more, or that are in a wrong place.

    A volume whose mount isn't known now keeps the one it has, and of two stacked ones the lower.
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


def departure(managed: Managed, scene: Scene) -> Action:
    """The action that takes a mount off. What left the manifest counts as required."""
    mount, lower = scene.observed.mounts[managed.id], scene.beneath(managed)
    action = Action(
        managed.volume, managed.source, mount.point, True, "unmount", mount.idmap,
        old=managed, beneath=lower, lazily=managed.id in scene.judgement.exposed,
    )  # fmt: skip
    if managed.id in scene.hidden:
        return action._replace(after=(absence(mount.point),))
    if lower:
        carried = scene.carried_off(mount.point, managed, lower)
        return action._replace(carried=carried).with_note(INTERRUPTED)
    carried = (*scene.carried(mount.point, managed.id), *scene.shown_on(managed))
    return action._replace(carried=carried, notes=(gap_of(carried),) if carried else ())


def stuck_and_beneath(stuck: Iterable[int], observed: Observed) -> set[int]:
    """Mounts that could not go, and those that they lie on at the same place."""
    found = set()
    for each in stuck:
        mount = observed.mounts.get(each)
        while mount and mount.id not in found:
            found.add(mount.id)
            under = observed.mounts.get(mount.parent)
            mount = under if under and under.point == mount.point else None
    return found


def parted(record: Iterable[Managed], observed: Observed) -> tuple[list[Managed], list[Managed]]:
    """The recorded mounts that are there, and those that are gone."""
    alive: list[Managed] = []
    gone: list[Managed] = []
    for managed in record:
        mount = observed.mounts.get(managed.id)
        (alive if mount and is_same(managed, mount) else gone).append(managed)
    return alive, gone


def _deepest(alive: Sequence[Managed], observed: Observed) -> list[Managed]:
    """Sorted so that deeper targets come first, and of two stacked mounts the upper one."""
    parents = {observed.mounts[managed.id].parent for managed in alive}
    return sorted(alive, key=lambda it: (-it.target.count("/"), it.target, it.id in parents, it.id))
