"""Which actions of a plan have to wait for which others, or for what leaves."""

from collections.abc import Container, Iterable, Mapping, Sequence
from graphlib import TopologicalSorter

from mountd.core.actions import Action, Outcome, Verb
from mountd.core.desired import Desired, DesiredMount
from mountd.core.model import Fault
from mountd.core.mounts import Adoptable
from mountd.core.named_tuple import NamedTuple
from mountd.core.nesting import Paths, account_files, circles, needs, paths_in
from mountd.core.scene import Scene
from mountd.core.targets import is_within
from mountd.core.words import faults


class Progress(NamedTuple):
    """What earlier rounds of a pass did: volumes that are done, and mounts that could not go."""

    done: Mapping[str, Fault | None] = {}
    stuck: Mapping[int, Fault] = {}
    removes: bool = True
    """False if some credentials can't be read: then nothing is unmounted."""
    is_part: bool = False
    """Only some of the manifest's volumes are looked at; what others have stays."""
    adoptable: Adoptable = frozenset()
    """Where mounts may be ours though the record, which was lost, doesn't name them."""


def in_order(
    actions: list[Action], desired: Sequence[Desired], scene: Scene, progress: Progress
) -> list[Action]:
    """The actions, each marked with the volumes and departures that it has to wait for."""
    places = {
        each.volume.name: (sources_of(each), each.target)
        for each in desired
        if scene.claims[each.target] == each.volume.name
    }
    needed = {name: each for name, each in needs(places, scene.shown).items() if each}
    found = {each.volume: each for each in actions}
    at_once = {each.volume for each in actions if each.lazily or each.makes_room}
    if scene.leaving:
        recursive = {each.volume.name for each in desired if each.volume.recursive}
        for name, (sources, target) in places.items():
            if name not in progress.done and name not in at_once:
                is_whole = name in recursive
                found[name] = _after_departures(found[name], sources, target, scene, is_whole)
    while some := [*circles(needed)]:
        for names in some:
            for name in names:
                needed.pop(name)
                if not found[name].lazily:
                    found[name] = halted(found[name], faults.in_circle(names), scene)
    order = [name for name in TopologicalSorter(needed).static_order() if name in needed]
    for name in order:
        if name in progress.done or name in at_once:
            continue
        others = {each: found[each] for each in needed[name]}
        found[name] = _after_others(found[name], places[name][0], others, scene, progress)
    stacks = stacks_of(found.values(), scene)
    return [after_stacks(found[each.volume], stacks) for each in actions]


def stacks_of(actions: Iterable[Action], scene: Scene) -> dict[str, str]:
    """Where the upper one of two of ours goes in this round, and the words for waiting on that."""
    found = {scene.point(upper): upper for upper in scene.hidden.values()}
    stacks = {point: absence(point) for point, upper in found.items() if upper.id in scene.going}
    return stacks | {each.target: each.volume for each in actions if each.makes_room}


def after_stacks(action: Action, stacks: Mapping[str, str]) -> Action:
    """Put the action off if two of our mounts lie on one another below its target.

    Both would have to come along, or be covered, but only the upper one can be reached.
    """
    if action.lazily or not (action.builds or action.is_departure):
        return action
    below = [name for point, name in stacks.items() if point.startswith(f"{action.target}/")]
    if not below:
        return action
    if action.is_departure:
        return action._replace(after=(*action.after, *below))
    return put_off(action, below)


def sources_of(desired: Desired) -> Paths:
    """The paths a volume is made of, as the manifest has them and, where known, without links."""
    volume = desired.volume
    found = (*account_files(volume.accounts, volume.user), *desired.reads)
    if volume.type:
        return (*paths_in(volume.options), *found)
    source = desired.source if isinstance(desired, DesiredMount) else volume.source
    return (source, *found)


def halted(action: Action, fault: Fault, scene: Scene) -> Action:
    """Block the action; but a mount that lets somebody become root is taken off all the same."""
    action = action.blocked(fault)
    is_first = scene.claims[action.target] == action.volume
    if not (is_first and (exposed := scene.exposed_at(action.target))):
        return action
    old, *below = exposed
    return action._replace(
        verb="unmount", old=old, beneath=next(iter(below), None),
        carried=scene.carried(action.target, old.id),
        notes=("what is mounted there comes off, also if someone is inside",),
        fault=scene.judgement.exposed[old.id], lazily=True,
    )  # fmt: skip


def _after_others(
    action: Action,
    sources: Paths,
    others: Mapping[str, Action],
    scene: Scene,
    progress: Progress,
) -> Action:
    """Mark the action as waiting for the volumes that it needs, or as pending if one failed."""
    after: list[str] = []
    for name, other in others.items():
        fault = other.fault or progress.done.get(name)
        is_gone = other.lazily or not scene.shows_ours(other.target)
        if fault and is_gone:  # else the mount that it has is good enough
            return halted(action, faults.waits_for(name, fault), scene)
        if name in progress.done:
            continue
        shown = scene.shown.get(other.target, ())
        is_source = any(is_within(each, at) for at in (other.target, *shown) for each in sources)
        is_on_copy = any(is_within(action.target, at) for at in shown)  # so it won't come along
        if other.builds or other.after:
            is_made_anew = is_on_copy or other.beneath is not None
            must_wait = is_source or action.verb != "keep" or is_made_anew
        else:  # a clone of it inherits its flags, and a target in it can need them
            is_unmade = action.fault is not None and action.fault.code == "read-only-filesystem"
            needs_flags = is_source or action.verb == "mount" or is_unmade
            must_wait = other.verb == "adjust" and needs_flags
        if is_source and other.verb == "replace" and action.mount and action.mount.volume.options:
            action = action._replace(verb="replace")  # what is built on another mount
        if must_wait:
            after.append(name)
    return put_off(action, after) if after else action


def _after_departures(
    action: Action, sources: Paths, target: str, scene: Scene, is_whole: bool
) -> Action:
    """Put the action off until the mounts are gone that leave from above its paths.

    `is_whole`: or from below its source, which it shows with all that is mounted there.
    """
    leaving = scene.leaving_places
    above = [*leaving.above(target)] if action.verb != "keep" else []
    for source in sources:
        above += leaving.from_(source)
        if is_whole and leaving.lie_within(source):
            from_ = (*scene.leaving, *scene.leaving_from)
            above += [path for path in from_ if is_within(path, source)]
    gone = [absence(scene.leaving_from.get(path, path)) for path in dict.fromkeys(above)]
    return put_off(action, gone) if gone else action


def absence(point: str) -> str:
    """The words for waiting until a mount is gone."""
    return f"{point} is taken off"


_MOST_NAMED = 10


def put_off(action: Action, after: list[str]) -> Action:
    """Postpone: what to do can be planned only after these."""
    after = [*action.after, *(each for each in after if each not in action.after)]
    notes = [f"after {each}" for each in after[:_MOST_NAMED]]
    if len(after) > _MOST_NAMED:
        notes.append(f"after {len(after) - _MOST_NAMED} more")
    verb: Verb = "keep" if action.old else "mount"
    return action._replace(
        verb="replace" if action.verb == "replace" else verb,
        mount=None,
        after=tuple(after),
        drift=() if action.mount else action.drift,
        notes=tuple(notes),
        fault=None,
    )


def see_progress(actions: list[Action]) -> list[Action]:
    """The actions; if each of them waits, none could ever begin, so all are blocked."""
    if any(not each.after for each in actions):
        return actions
    return [never(each) for each in actions]


def never(action: Action) -> Action:
    """The action, blocked because its turn doesn't come in this pass."""
    return action.blocked(faults.never_ready(action.after))


def is_half_done(outcome: Outcome) -> bool:
    """Whether it only made room: the next plan decides what to do for this volume."""
    return outcome.action.verb == "replace" and outcome.action.makes_room and not outcome.fault


def as_one(begun: Outcome | None, outcome: Outcome) -> Outcome:
    """One outcome for a volume that took two rounds, if the second had nothing left to do."""
    if not begun or outcome.action.verb != "keep":
        return outcome
    notes = (*outcome.action.notes, *begun.action.notes)
    return outcome._replace(action=outcome.action._replace(verb="replace", notes=notes))


def is_told(outcome: Outcome, others: Iterable[Outcome]) -> bool:
    """Whether another outcome reports the same fault of the same volume and target."""
    place = outcome.action.volume, outcome.action.target
    return outcome.fault is not None and any(
        (each.action.volume, each.action.target, each.fault) == (*place, outcome.fault)
        for each in others
    )


def unseen(actions: Iterable[Action]) -> list[str]:
    """Targets where it isn't known yet whether the mount there is the volume's own."""
    return [
        each.target
        for each in actions
        if each.after
        or (each.fault and (each.fault.state != "conflict" or each.source == each.target))
    ]


def adopts(actions: Iterable[Action], known: Container[int]) -> bool:
    """Whether a plan treats mounts as ours that are not `known` by the record."""
    return any(each.verb and each.old and each.old.id not in known for each in actions)
