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

BUILDS = ("mount", "replace")
"""The actions that put a new mount somewhere."""


class Progress(NamedTuple):
    """What earlier rounds of a pass came to: volumes that are done, and mounts that can't go."""

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
    """The actions; those marked `after` have to wait for another's, or for what leaves."""
    places = {
        each.volume.name: (sources_of(each), each.target)
        for each in desired
        if scene.claims[each.target] == each.volume.name
    }
    needed = {name: each for name, each in needs(places).items() if each}
    found = {each.volume: each for each in actions}
    at_once = {each.volume for each in actions if each.lazily or makes_room(each)}
    if scene.leaving:
        for name, (sources, target) in places.items():
            if name not in progress.done and name not in at_once:
                found[name] = _after_departures(found[name], sources, target, scene)
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


def makes_room(action: Action) -> bool:
    """Whether it takes the upper one of two of ours off, as the interrupted replacement would."""
    return action.beneath is not None and not action.lazily and not action.after


def stacks_of(actions: Iterable[Action], scene: Scene) -> dict[str, str]:
    """Where two of ours become one in this round, and what to call what is awaited there."""
    found = {scene.point(upper): upper for upper in scene.hidden.values()}
    stacks = {point: absence(point) for point, upper in found.items() if upper.id in scene.going}
    return stacks | {each.target: each.volume for each in actions if makes_room(each)}


def after_stacks(action: Action, stacks: Mapping[str, str]) -> Action:
    """The action, which has to wait where two of ours lie on one another below it.

    They would have to come along, or be covered, and only the upper one can be reached.
    """
    if action.verb in (None, "keep", "adjust") or action.lazily:
        return action
    below = [name for point, name in stacks.items() if point.startswith(f"{action.target}/")]
    if not below:
        return action
    if action.is_departure:
        return action._replace(after=(*action.after, *below))
    return put_off(action, below)


def sources_of(desired: Desired) -> Paths:
    """What a volume is made of: paths as the manifest has them, and without links where known."""
    volume = desired.volume
    found = (*account_files(volume.accounts, volume.user), *desired.reads)
    if volume.type:
        return (*paths_in(volume.options), *found)
    source = desired.source if isinstance(desired, DesiredMount) else volume.source
    return (source, *found)


def halted(action: Action, fault: Fault, scene: Scene) -> Action:
    """The action of a volume for which nothing can be done now, but to close what it leaves open.

    What lets somebody become root doesn't stay, whatever else is in the volume's way.
    """
    action = action._replace(verb=None, mount=None, after=(), fault=fault)
    is_first = scene.claims[action.target] == action.volume
    if not (is_first and (exposed := scene.exposed_at(action.target))):
        return action._replace(state=fault.state)
    old, *below = exposed
    carried = scene.carried(action.target, old.id)
    fault = scene.judgement.exposed[old.id]
    return action._replace(
        verb="unmount", state=fault.state, old=old, beneath=next(iter(below), None),
        carried=carried, notes=("what is mounted there comes off, also if someone is inside",),
        fault=fault, lazily=True,
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
        if fault and is_gone:  # else what it has is good enough
            return halted(action, faults.waits_for(name, fault), scene)
        if name in progress.done:
            continue
        is_source = any(is_within(each, other.target) for each in sources)
        if other.verb in BUILDS or other.after:
            must_wait = is_source or action.verb != "keep" or other.beneath is not None
        else:  # what is made of it has its flags, and what is made in it needs them
            is_unmade = action.fault is not None and action.fault.code == "read-only-filesystem"
            needs_flags = is_source or action.verb == "mount" or is_unmade
            must_wait = other.verb == "adjust" and needs_flags
        if is_source and other.verb == "replace" and action.mount and action.mount.volume.options:
            action = action._replace(verb="replace")  # what is built on another mount
        if must_wait:
            after.append(name)
    return put_off(action, after) if after else action


def _after_departures(action: Action, sources: Paths, target: str, scene: Scene) -> Action:
    """The action, where mounts that leave have to be gone before it."""
    leaving = scene.leaving_places
    above = [*leaving.above(target)] if action.verb != "keep" else []
    for source in sources:
        above += leaving.from_(source)
    gone = [absence(path) for path in dict.fromkeys(above)]
    return put_off(action, gone) if gone else action


def absence(point: str) -> str:
    """What is awaited where a mount leaves."""
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
        state="mounted" if action.old else "unmounted",
        mount=None,
        after=tuple(after),
        drift=() if action.mount else action.drift,
        notes=tuple(notes),
        fault=None,
    )


def see_progress(actions: list[Action]) -> list[Action]:
    """The actions, of which at least one can be carried out now: else none ever could."""
    if any(not each.after for each in actions):
        return actions
    return [never(each) for each in actions]


def never(action: Action) -> Action:
    """The action, whose turn doesn't come in this pass."""
    fault = faults.never_ready(action.after)
    return action._replace(verb=None, state=fault.state, after=(), fault=fault)


def is_half_done(outcome: Outcome) -> bool:
    """Whether it only made room: another plan has to tell what this volume means now."""
    return outcome.action.verb == "replace" and makes_room(outcome.action) and not outcome.fault


def as_one(begun: Outcome | None, outcome: Outcome) -> Outcome:
    """What became of a volume in two rounds, of which the second may have had nothing to do."""
    if not begun or outcome.action.verb != "keep":
        return outcome
    notes = (*outcome.action.notes, *begun.action.notes)
    return outcome._replace(action=outcome.action._replace(verb="replace", notes=notes))


def is_told(outcome: Outcome, others: Iterable[Outcome]) -> bool:
    """Whether one of the others is of the same place, and has the same fault."""
    place = outcome.action.volume, outcome.action.target
    return outcome.fault is not None and any(
        (each.action.volume, each.action.target, each.fault) == (*place, outcome.fault)
        for each in others
    )


def unseen(actions: Iterable[Action]) -> list[str]:
    """Targets of which a plan can't tell yet whether what is mounted there is the volume's own."""
    return [
        each.target
        for each in actions
        if each.after
        or (each.fault and (each.fault.state != "conflict" or each.source == each.target))
    ]


def adopts(actions: Iterable[Action], known: Container[int]) -> bool:
    """Whether a plan takes mounts for ours that are not `known` by the record."""
    return any(
        each.verb in ("keep", "adjust", "replace") and each.old and each.old.id not in known
        for each in actions
    )
