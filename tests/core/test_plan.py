"""The plan as a pure function: what each difference means, and what holds of every plan."""

import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine import (
    DEBIAN_12,
    DEBIAN_13,
    NEW,
    OURS,
    THEIRS,
    Kernel,
    KilledError,
    Machine,
    Round,
    leads_to,
)

from mountd.core.actions import Action, Outcome
from mountd.core.desired import DesiredMount
from mountd.core.drift import differences, record_entry
from mountd.core.leaving import departures
from mountd.core.model import Volume
from mountd.core.mounts import Managed, Observed, ObservedMount, root_at
from mountd.core.nesting import circles, needs
from mountd.core.plan import plan

KERNELS = [
    pytest.param(NEW, id="new"),
    pytest.param(DEBIAN_13, id="debian13"),
    pytest.param(DEBIAN_12, id="debian12"),
]


def volume(name: str, target: str, source: str = "/s/1", **keys: Any) -> Volume:
    """A volume whose owner shall be seen as 1000, unless the keys say otherwise."""
    return Volume(name, source, target, **{"user": "1000", **keys})


def verbs(actions: Iterable[Action]) -> list[tuple[str, str | None, str]]:
    return [(action.volume, action.verb, action.target) for action in actions]


def carried_out(rounds: Iterable[Round]) -> list[list[tuple[str, str | None, str]]]:
    """By round, what was done in it."""
    return [verbs(each for each in one.actions if not each.after) for one in rounds]


def first_plan(machine: Machine, *volumes: Volume, **how: Any) -> list[Action]:
    """What a dry run would show."""
    (first, *_), _, _ = deepcopy(machine).run(volumes, **how)
    return first.actions


# examples ------------------------------------------------------------------------------------


def test_a_renamed_volume_is_kept_and_recorded_under_its_new_name() -> None:
    machine = Machine()
    machine.put(volume("old", "/t/a"))
    (action,) = first_plan(machine, volume("new", "/t/a"))
    assert verbs([action]) == [("new", "keep", "/t/a")]
    assert action.old and action.old.volume == "new"


def test_one_found_at_another_volumes_target_makes_way_for_that_in_the_same_pass() -> None:
    machine = Machine()
    a, b = volume("a", "/t/a", "/s/1"), volume("b", "/t/b", "/s/2")
    machine.put(a, at="/t/b")
    machine.run([a, b])
    assert carried_out(machine.run([a, b])[0]) == [[("a", "keep", "/t/a"), ("b", "keep", "/t/b")]]


def test_what_leaves_from_below_a_new_target_goes_first() -> None:
    machine = Machine()
    machine.put(volume("deep", "/t/a/deep"))
    actions = first_plan(machine, volume("work", "/t/a"))
    assert verbs(actions) == [("deep", "unmount", "/t/a/deep"), ("work", "mount", "/t/a")]


_BASE: dict[str, Any] = {"source": "/s/1"}


@pytest.mark.parametrize(
    ("had", "verb", "fields"),
    [
        ({"read_only": True}, "adjust", ["flags"]),
        ({"user": "1001"}, "replace", ["idmap"]),
        ({"user": None}, "replace", ["idmap"]),
        ({"source": "/s/2"}, "replace", ["source"]),
        (
            {"source": "/s/2", "user": "1001", "read_only": True},
            "replace",
            ["source", "idmap", "flags"],
        ),
    ],
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_difference_is_adjusted_where_flags_are_all_and_else_replaced(
    kernel: Kernel, had: dict[str, Any], verb: str, fields: list[str]
) -> None:
    machine = Machine(kernel)
    machine.put(volume("work", "/t/a", **had))
    (action,) = first_plan(machine, volume("work", "/t/a"))
    assert (action.verb, [each.field for each in action.drift]) == (verb, fields)
    is_bare = verb == "replace" and kernel == DEBIAN_12
    assert [note.startswith("gap: ") for note in action.notes] == [True] * is_bare


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_a_record_what_equals_the_desired_mount_is_adopted(kernel: Kernel) -> None:
    machine = Machine(kernel)
    work = volume("work", "/t/a")
    placed = machine.put(work, None)
    (action,) = first_plan(machine, work)
    assert action.verb == "keep"
    assert action.old == record_entry(machine.means(work), placed.id, OURS)


@pytest.mark.parametrize("there", [{"read_only": True}, {"user": "1001"}, {"source": "/s/2"}])
@pytest.mark.parametrize("kernel", KERNELS)
def test_without_a_record_any_other_mount_is_a_conflict_and_left_alone(
    kernel: Kernel, there: dict[str, Any]
) -> None:
    machine = Machine(kernel)
    machine.put(volume("work", "/t/a", **there), None)
    (action,) = first_plan(machine, volume("work", "/t/a"))
    assert (action.verb, action.state) == (None, "conflict")


def test_the_second_of_two_volumes_at_one_target_is_a_conflict() -> None:
    actions = first_plan(Machine(), volume("a", "/t/a"), volume("b", "/t/a"))
    assert verbs(actions) == [("a", "mount", "/t/a"), ("b", None, "/t/a")]
    assert actions[1].fault and "`a`" in actions[1].fault.message


# nesting -------------------------------------------------------------------------------------

NEST = [
    volume("parent", "/t/a"),
    volume("child", "/t/a/b", "/s/2"),
    volume("grandchild", "/t/a/b/c", "/s/3"),
    volume("from-child", "/t/d", "/t/a/b/x"),
    volume("from-that", "/t/e", "/t/d"),
]


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 4, 0, 3, 1)])
def test_each_volume_waits_for_those_above_its_target_and_its_source(order: Sequence[int]) -> None:
    machine = Machine()
    rounds, done, _ = machine.run([NEST[each] for each in order])
    assert [sorted(name for name, _, _ in each) for each in carried_out(rounds)] == [
        ["parent"],
        ["child"],
        ["from-child", "grandchild"],
        ["from-that"],
    ]
    assert not any(each.fault for each in done.values())
    assert machine.file("/t/e") == machine.file("/s/2/x")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("manifest", [OURS, THEIRS])
@pytest.mark.parametrize("had", [None, "1001"])
def test_a_parent_that_appears_or_is_replaced_takes_the_topmost_of_ours_along(
    kernel: Kernel, manifest: str, had: str | None
) -> None:
    machine = Machine(kernel)
    if had:
        machine.put(volume("parent", "/t/a", user=had))
    child = machine.put(volume("child", "/t/a/b", "/s/2"), manifest)
    machine.put(volume("grandchild", "/t/a/b/c", "/s/3"), manifest)
    rest = NEST[1:3] if manifest == OURS else []
    rounds, done, left = machine.run([NEST[0], *rest])
    (action,) = [each for each in rounds[0].actions if each.volume == "parent"]
    assert (action.verb, not left) == ("replace" if had else "mount", True)
    assert [(point, each.id) for point, each in action.carried] == [("/t/a/b", child.id)]
    assert [note.startswith("gap: /t/a/b is away") for note in action.notes] == (
        [] if had and kernel != DEBIAN_12 else [not had]
    )
    assert [machine.file(each) for each in ("/t/a", "/t/a/b", "/t/a/b/c")] == [
        machine.file(each) for each in ("/s/1", "/s/2", "/s/3")
    ]
    assert not any(each.fault for each in done.values())


def test_what_waits_for_a_volume_that_cannot_be_mounted_says_so_unless_that_has_a_mount() -> None:
    machine = Machine()
    parent, child = NEST[:2]
    _, done, _ = machine.run([parent, child], unready=["parent"])
    assert done["child"].state == "pending"
    assert done["child"].fault and "`parent`" in done["child"].fault.message
    machine.run([parent])
    _, done, _ = machine.run([parent, child], unready=["parent"])
    assert (done["child"].state, done["parent"].state) == ("mounted", "pending")


def test_what_needs_a_covered_volume_keeps_its_mount_and_takes_nothing_from_the_cover() -> None:
    machine = Machine()
    both = [NEST[0], volume("on-it", "/t/d", "/t/a/x"), volume("new", "/t/e", "/t/a/x")]
    machine.run(both[:2])
    machine.put_foreign("/t/a")
    _, done, _ = machine.run(both)
    assert {name: each.state for name, each in done.items()} == {
        "parent": "conflict",
        "on-it": "pending",
        "new": "pending",
    }
    assert machine.file("/t/d") == machine.file("/s/1/x")


def test_what_leaves_waits_for_what_lies_on_it_and_has_to_wait() -> None:
    machine = Machine()
    on_it, source = volume("on-it", "/t/a/b"), volume("source", "/t/d", "/s/2")
    machine.run([NEST[0], on_it, source])
    _, done, left = machine.run([volume("on-it", "/t/e", "/t/d/x")])
    assert done["on-it"].action.target == "/t/e"
    assert [(each.action.target, each.fault) for each in left] == [
        ("/t/d", None),
        ("/t/a/b", None),
        ("/t/a", None),
    ]


def test_a_source_that_comes_to_show_something_else_is_followed_in_the_same_pass() -> None:
    machine = Machine()
    on_it = volume("on-it", "/t/d", "/t/a/x")
    machine.run([NEST[0], on_it])
    rounds, _, _ = machine.run([NEST[0]._replace(source="/s/2"), on_it])
    assert carried_out(rounds) == [[("parent", "replace", "/t/a")], [("on-it", "replace", "/t/d")]]
    assert machine.file("/t/d") == machine.file("/s/2/x")


def test_what_cannot_be_mounted_at_its_new_target_stays_at_the_old_one() -> None:
    machine = Machine()
    machine.run([NEST[0]])
    machine.put_foreign("/t/e")
    _, done, left = machine.run([NEST[0]._replace(target="/t/e")])
    assert (done["parent"].state, left) == ("conflict", [])
    assert machine.file("/t/a") == machine.file("/s/1")


def test_what_is_busy_is_tried_once_in_a_pass_and_again_in_the_next() -> None:
    machine = Machine()
    machine.run(NEST)
    machine.busy.add("/t/a")
    for _ in range(2):
        _, _, left = machine.run(NEST[3:4])
        assert [each.action.target for each in left if each.fault] == ["/t/a"]
    machine.busy.clear()
    _, _, (last,) = machine.run(NEST[3:4])
    assert (last.action.target, last.fault) == ("/t/a", None)


@pytest.mark.parametrize(
    ("user", "then"), [("1000", "replace"), ("1001", "keep"), ("1002", "replace")]
)
def test_a_replacement_that_was_killed_half_way_is_finished_with_nothing_stacked(
    user: str, then: str
) -> None:
    machine = Machine()
    machine.run(NEST[:1])
    machine.steps_left = 1
    with pytest.raises(KilledError):
        machine.run([NEST[0]._replace(user="1001")])
    machine.steps_left = None
    assert len(machine.record) == 2
    rounds, done, _ = machine.run([NEST[0]._replace(user=user)])
    assert carried_out(rounds) == [[("parent", "replace", "/t/a")], [("parent", then, "/t/a")]]
    assert done["parent"].action.verb == "replace"
    (managed,) = [each for each in machine.record.values() if each.id in machine.mounts]
    top = machine.top("/t/a")
    assert top and top.id == managed.id
    assert top.idmap == machine.means(NEST[0]._replace(user=user)).idmap


def test_volumes_in_a_circle_once_links_are_followed_are_conflicts_that_name_each_other() -> None:
    first, second = volume("a", "/t/a", "/t/b/x"), volume("b", "/t/b", "/t/a/x")
    _, done, _ = Machine().run([first, second, volume("c", "/t/c", "/t/a/y")])
    assert {each.state for each in done.values()} == {"conflict", "pending"}
    for name in "ab":
        fault = done[name].fault
        assert fault and "`a`" in fault.message and "`b`" in fault.message


def test_a_source_on_what_leaves_is_looked_at_again_once_that_is_gone() -> None:
    machine = Machine()
    child = volume("work", "/t/d", "/t/a/x")
    machine.run([NEST[0], child])
    rounds, done, (left,) = machine.run([child])
    assert [each.after for each in rounds[0].actions if each.volume == "work"] == [
        ("/t/a is taken off",)
    ]
    assert (left.fault, done["work"].fault, done["work"].action.verb) == (None, None, "replace")


def test_what_is_for_later_waits_for_its_filesystem_and_others_for_it() -> None:
    raw = volume("raw", "/t/a", "tag", type="virtiofs")
    actions = first_plan(Machine(), raw, NEST[1], later=["raw"])
    assert [each.after for each in actions] == [("virtiofs is mounted",), ("raw",)]


# in place ------------------------------------------------------------------------------------


def in_place(machine: Machine, **keys: Any) -> Volume:
    """A volume on a mount of its own, to be mounted in place."""
    machine.put_foreign("/m")
    return volume("here", "/m", "/m", **keys)


@pytest.mark.parametrize("kernel", KERNELS)
def test_in_place_one_of_ours_lies_on_the_source_and_is_replaced_and_taken_off_alone(
    kernel: Kernel,
) -> None:
    machine = Machine(kernel)
    here = in_place(machine)
    raw = machine.top("/m")
    for user, verb in ((None, "mount"), ("1000", "replace"), ("1001", "replace"), ("1001", "keep")):
        rounds, _, _ = machine.run([here._replace(user=user)])
        assert carried_out(rounds) == [[("here", verb, "/m")]]
        top = machine.top("/m")
        assert raw and top and top.parent == raw.id
    machine.run([])
    assert machine.top("/m") == raw


@pytest.mark.parametrize("is_lost", [True, False])
def test_without_a_record_one_on_the_very_folder_it_shows_is_ours_in_place(
    *, is_lost: bool
) -> None:
    machine = Machine()
    here = in_place(machine)
    machine.run([here])
    machine.lose_record()
    if not is_lost:
        machine.known.settle(OURS, (), has_adopted=False, is_over=True)
    ((first,), _, _) = deepcopy(machine).run([here])
    assert verbs(first.actions) == [("here", "keep" if is_lost else "mount", "/m")]


def test_a_recursive_volume_in_place_may_not_take_another_volumes_mount_for_its_sources() -> None:
    machine = Machine()
    here = in_place(machine, recursive=True)
    below = volume("below", "/m/b")
    machine.run([below])
    _, done, _ = machine.run([here, below])
    assert done["here"].state == "conflict"
    assert done["here"].fault and "/m/b" in done["here"].fault.message


@pytest.mark.parametrize("recursive", [True, False])
def test_what_lies_below_a_source_in_place_is_in_the_way_unless_it_is_recursive(
    *, recursive: bool
) -> None:
    machine = Machine()
    here = in_place(machine, recursive=recursive)
    machine.put_foreign("/m/sub")
    _, done, _ = machine.run([here])
    assert done["here"].state == ("mounted" if recursive else "conflict")
    machine.run([])
    top = machine.top("/m/sub")
    assert top and machine.manifest_of(top) is None


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("user", [None, "1000"])
def test_a_recursive_volumes_submounts_are_its_own_when_it_is_replaced_or_leaves(
    kernel: Kernel, user: str | None
) -> None:
    machine = Machine(kernel)
    machine.put_foreign("/m")
    machine.put_foreign("/m/sub")
    tree = volume("tree", "/t/a", "/m", recursive=True, user=user)
    machine.run([tree])
    rounds, done, _ = machine.run([tree._replace(user="1001")])
    assert (carried_out(rounds), done["tree"].fault) == ([[("tree", "replace", "/t/a")]], None)
    assert machine.file("/t/a/sub") == machine.file("/m/sub")
    _, _, (left,) = machine.run([])
    assert (left.fault, len(machine.mounts)) == (None, 3)


# what holds of every pass --------------------------------------------------------------------

PLACES = ["/t/a", "/t/a/b", "/t/a/b/c", "/t/d", "/t/d/e", "/m", "/m/b", "/i"]
IN_PLACE = ["/m", "/i"]
SOURCES = ["/s/1", "/s/2", "/t/a", "/t/a/x", "/t/a/b/x", "/t/d", "/t/d/e/x", "/m", "/m/b", "/id/x"]


def _is_legal(volumes: Sequence[Volume]) -> bool:
    """What the manifest's own rules leave."""
    places = {each.name: (() if each.type else (each.source,), each.target) for each in volumes}
    return not any(circles(needs(places)))


def _is_in_place(target: str, how: str) -> bool:
    return target == "/m" or how == "in place"  # at /m there is a mount that isn't ours


_VOLUME = st.tuples(
    st.sampled_from("abcdef"),
    st.sampled_from(PLACES),
    st.sampled_from(SOURCES),
    st.sampled_from([None, "1000", "1001"]),
    st.sampled_from([None, None, True]),
    st.sampled_from(["bind", "bind", "in place", "recursive", "type"]),
).map(
    lambda each: Volume(
        each[0],
        each[1] if _is_in_place(each[1], each[5]) else "tag" if each[5] == "type" else each[2],
        each[1],
        user=each[3],
        read_only=each[4],
        recursive=each[5] == "recursive",
        type="virtiofs" if each[5] == "type" and each[1] not in IN_PLACE else None,
    )
)
_VOLUMES = (
    st.lists(_VOLUME, max_size=5, unique_by=(lambda each: each.target, lambda each: each.name))
    .map(lambda each: [one for one in each if not one.source.startswith(f"{one.target}/")])
    .filter(_is_legal)
)
_NAMES = st.sets(st.sampled_from("abcdef"), max_size=2)
_KERNEL = st.sampled_from([NEW, NEW, DEBIAN_13, DEBIAN_12])

Step = tuple[Any, ...]
_KIND_STEPS: list[st.SearchStrategy[Step]] = [
    st.tuples(st.just("pass"), _VOLUMES),
    st.tuples(st.just("kill"), _VOLUMES, st.integers(0, 5)),
    st.tuples(st.just("move"), st.integers(0, 5)),
    st.tuples(st.just("take off"), st.integers(0, 5)),
]
_KNOWN_STEPS: list[st.SearchStrategy[Step]] = [
    *_KIND_STEPS,
    st.tuples(st.just("theirs"), _VOLUMES),
    st.tuples(st.just("kill theirs"), _VOLUMES, st.integers(0, 5)),
    st.tuples(st.just("lookalike"), _VOLUMES),
    st.tuples(st.just("foreign"), st.sampled_from([*PLACES, "/t/a/x"])),
    st.tuples(st.just("busy"), st.sampled_from(PLACES)),
]
_ROUGH_STEPS = [*_KNOWN_STEPS, st.just(("lose",))]


def machine_after(kernel: Kernel, steps: Iterable[Step]) -> Machine:
    """A machine on which this has happened."""
    machine = Machine(kernel)
    machine.story = kernel, steps
    machine.put_foreign("/run/mountd/fs/tag", fs_type="virtiofs")
    machine.put_foreign("/m")
    for step in steps:
        ours = [machine.mounts[each] for each in machine.record if each in machine.mounts]
        match step:
            case ("pass", volumes):
                machine.run(volumes)
            case ("theirs", volumes):
                machine.run(volumes, THEIRS)
            case ("kill" | "kill theirs" as which, volumes, after):
                _kill(machine, volumes, OURS if which == "kill" else THEIRS, after)
            case ("lookalike", [first, *_]) if machine.top(first.target) is None:
                machine.put(first, None)
            case ("foreign" | "busy" as kind, point):
                happen: Any = machine.put_foreign if kind == "foreign" else machine.busy.add
                happen(point)
            case ("lose",):
                machine.lose_record()
            case ("move", which) if ours:
                machine.rename(ours[which % len(ours)], f"/moved/{machine.new_id()}")
            case ("take off", which) if ours:
                machine.take_off(ours[which % len(ours)])
    return machine


def _kill(machine: Machine, volumes: Sequence[Volume], manifest: str, after: int) -> None:
    machine.steps_left = after
    with suppress(KilledError):
        machine.run(volumes, manifest)
    machine.steps_left = None


def _histories(
    steps: list[st.SearchStrategy[Step]], kernels: st.SearchStrategy[Kernel] = _KERNEL
) -> st.SearchStrategy[Machine]:
    return st.builds(machine_after, kernels, st.lists(st.one_of(steps), max_size=4))


class Done(NamedTuple):
    """A pass that was seen to keep what holds of every pass."""

    before: Machine
    rounds: list[Round]
    outcomes: dict[str, Outcome]
    departed: list[Outcome]


def run(machine: Machine, volumes: Sequence[Volume], **how: Any) -> Done:
    before = deepcopy(machine)
    done = Done(before, *machine.run(volumes, **how))
    chain = {each.name: (() if each.type else (each.source,), each.target) for each in volumes}
    stacks = sum(bool(each.beneath) for one in done.rounds for each in one.actions)
    assert len(done.rounds) <= _depth(needs(chain)) + 2 + stacks
    for each in done.rounds:
        _see_that_it_is_ours_to_change(each)
        _see_what_is_carried(each)
    return done


def _depth(needed: dict[str, tuple[str, ...]]) -> int:
    depths: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in depths:
            depths[name] = 1 + max(map(depth, needed[name]), default=0)
        return depths[name]

    return max(map(depth, needed), default=0)


def _see_that_it_is_ours_to_change(one: Round) -> None:
    recorded = {each.id: each for each in one.record}
    for action in one.actions:
        if action.verb in ("unmount", "replace", "adjust"):
            assert action.old and recorded[action.old.id].manifest == OURS
        assert action.verb != "unmount" or one.progress.removes


def _see_what_is_carried(one: Round) -> None:
    """The topmost of ours below what is mounted, replaced or taken off, and none but these."""
    mounts = one.observed.mounts
    leaving = {each.old.id for each in one.actions if each.verb == "unmount" and each.old}
    ours = [
        mounts[each.id]
        for each in one.record
        if each.id in mounts and each.id not in leaving and _is_seen(mounts[each.id], mounts)
    ]
    for action in one.actions:
        if action.old and action.old.id in mounts and not _is_seen(mounts[action.old.id], mounts):
            continue  # it can't be reached, which is a fault of its own
        if action.after or action.beneath or action.verb not in ("mount", "replace", "unmount"):
            continue
        if any(not _is_seen(mounts[each.id], mounts) for _, each in action.carried):
            continue  # nor can that
        below = [each for each in ours if each.point.startswith(f"{action.target}/")]
        if action.old:
            below = [each for each in below if _lies_on(each, action.old.id, mounts)]
        points = {each.point for each in below}
        wanted = {
            each.id
            for each in below
            if not any(each.point.startswith(f"{point}/") for point in points)
        }
        assert {managed.id for _, managed in action.carried} == wanted


def _is_seen(mount: ObservedMount, mounts: dict[int, ObservedMount]) -> bool:
    """Whether a mount is what its path leads to."""
    (root,) = [each for each in mounts.values() if each.parent not in mounts]
    return leads_to(mounts, mount.point, root).id == mount.id


def _lies_on(mount: ObservedMount, other: int, mounts: dict[int, ObservedMount]) -> bool:
    while mount.id != other:
        if mount.parent not in mounts:
            return False
        mount = mounts[mount.parent]
    return True


_BOUNDED = settings(max_examples=120, suppress_health_check=[HealthCheck.filter_too_much])


@_BOUNDED
@given(_histories(_ROUGH_STEPS), _VOLUMES, _NAMES)
def test_each_volume_without_a_fault_shows_its_mount_and_nothing_is_stacked(
    machine: Machine, volumes: list[Volume], unready: set[str]
) -> None:
    done = run(machine, volumes, unready=unready)
    observed = machine.observed([each.target for each in volumes])
    for each in volumes:
        outcome = done.outcomes[each.name]
        if outcome.fault:
            continue
        wanted, top = machine.means(each), observed.tops[each.target]
        mount, known = observed.mounts[top.id], machine.record[top.id]
        tells = observed.tells_idmaps
        assert differences(wanted, mount, top, known, tells_idmaps=tells) == ()
        assert (known.volume, known.target, known.manifest) == (each.name, each.target, OURS)
        under = machine.mounts[mount.parent]
        if wanted.is_in_place:
            assert (mount.device, mount.root) == (under.device, root_at(under, each.target))
        assert under.point != each.target or (wanted.is_in_place and under.id not in machine.record)


@_BOUNDED
@given(_histories(_ROUGH_STEPS), _VOLUMES, _NAMES)
def test_what_is_foreign_stays_where_it_is_and_as_visible_as_it_was(
    machine: Machine, volumes: list[Volume], unready: set[str]
) -> None:
    done = run(machine, volumes, unready=unready)
    before = done.before
    known = {each for one in before.record.values() for each in (one.id, *one.submounts)}
    here = {
        path
        for each in volumes
        if each.source == each.target and not done.outcomes[each.name].fault
        for path in (
            each.target,
            *(f"{each.target}/{one}" for one in machine.means(each).submounts),
        )
    }
    for mount in before.mounts.values():
        if mount.id in known:
            continue
        assert machine.mounts.get(mount.id) == mount
        if before.top(mount.point) == mount and mount.point not in here:
            assert machine.top(mount.point) == mount


@_BOUNDED
@given(_histories(_ROUGH_STEPS), _VOLUMES, _NAMES)
def test_another_manifests_mounts_go_on_where_they_were(
    machine: Machine, volumes: list[Volume], unready: set[str]
) -> None:
    before = run(machine, volumes, unready=unready).before
    for managed in before.record.values():
        mount = before.mounts.get(managed.id)
        if managed.manifest != THEIRS or not mount or before.top(mount.point) != mount:
            continue
        top = machine.top(mount.point)
        assert top and top._replace(id=0, parent=0) == mount._replace(id=0, parent=0)
        assert machine.record[top.id]._replace(id=0, submounts=()) == managed._replace(
            id=0, submounts=()
        )


@_BOUNDED
@given(_histories(_ROUGH_STEPS), _VOLUMES, _NAMES, st.booleans())
def test_what_leaves_is_what_no_volume_means_and_none_of_it_where_a_layer_is_unknown(
    machine: Machine, volumes: list[Volume], unready: set[str], removes: bool
) -> None:
    done = run(machine, volumes, unready=unready, removes=removes)
    blocked = {name for name, each in done.outcomes.items() if each.fault}
    assert removes or not done.departed
    stuck = {each.action.old.id for each in done.departed if each.fault and each.action.old}
    targets = {each.target for each in volumes}
    for managed in machine.record.values():
        if managed.manifest == OURS and managed.id in machine.mounts and removes:
            is_meant = managed.target in targets
            assert is_meant or managed.id in stuck or managed.volume in blocked


@_BOUNDED
@given(_histories(_ROUGH_STEPS), _VOLUMES, st.sets(st.sampled_from("abcdef"), min_size=2))
def test_a_volume_that_means_no_mount_keeps_the_one_it_has(
    machine: Machine, volumes: list[Volume], unready: set[str]
) -> None:
    before = run(machine, volumes, unready=unready).before
    ready = {each.target for each in volumes if each.name not in unready}
    waiting = {each.target for each in volumes if each.name in unready}
    names = {each.name for each in volumes if each.name in unready}
    for managed in before.record.values():
        mount = before.mounts.get(managed.id)
        if managed.manifest != OURS or not mount or before.top(mount.point) != mount:
            continue
        if mount.point in waiting or (managed.volume in names and mount.point not in ready):
            top = machine.top(mount.point)
            assert top and top._replace(id=0, parent=0) == mount._replace(id=0, parent=0)


@_BOUNDED
@given(_histories(_KNOWN_STEPS), _VOLUMES, _NAMES)
def test_a_second_pass_has_nothing_to_do(
    machine: Machine, volumes: list[Volume], unready: set[str]
) -> None:
    machine.busy.clear()
    first = run(machine, volumes, unready=unready)
    again = run(machine, volumes, unready=unready)
    faults = [
        {each.action.target: each.fault for each in one.departed if each.fault}
        for one in (first, again)
    ]
    assert faults[0] == faults[1]
    assert len(again.departed) == len(faults[1])
    verbs = {each.action.verb for each in again.outcomes.values() if not each.fault}
    assert verbs <= {"keep", None}
    assert all(each.action.drift == () for each in again.outcomes.values() if not each.fault)
    assert {name: each.fault for name, each in again.outcomes.items()} == {
        name: each.fault for name, each in first.outcomes.items()
    }


@_BOUNDED
@given(_histories(_KIND_STEPS), _VOLUMES)
def test_where_nobody_else_mounts_every_volume_gets_its_mount_and_all_else_leaves(
    machine: Machine, volumes: list[Volume]
) -> None:
    volumes = [each._replace(recursive=False) for each in volumes]
    done = run(machine, volumes)
    assert {name: each.fault for name, each in done.outcomes.items() if each.fault} == {}
    assert [each for each in done.departed if each.fault] == []
    assert {each.target for each in volumes} == {
        each.target for each in machine.record.values() if each.id in machine.mounts
    }


@_BOUNDED
@given(_histories(_KNOWN_STEPS), _VOLUMES, _NAMES)
def test_two_of_ours_on_one_another_are_one_again_after_one_pass(
    machine: Machine, volumes: list[Volume], unready: set[str]
) -> None:
    run(machine, volumes, unready=unready)
    for managed in machine.record.values():
        mount = machine.mounts.get(managed.id)
        if not mount or managed.manifest != OURS or machine.top(mount.point) != mount:
            continue
        under = machine.record.get(mount.parent)
        assert not under or under.manifest != OURS or machine.mounts[under.id].point != mount.point


@_BOUNDED
@given(_histories(_ROUGH_STEPS), _VOLUMES, _NAMES)
def test_under_a_record_that_is_whole_nothing_is_adopted(
    machine: Machine, volumes: list[Volume], unready: set[str]
) -> None:
    before = {**machine.record}
    is_whole = machine.known.adoptable(OURS) == frozenset()
    there = {*machine.mounts}
    run(machine, volumes, unready=unready)
    known = {each for one in before.values() for each in (one.id, *one.submounts)}
    assert not is_whole or not (machine.record.keys() & there) - known


@_BOUNDED
@given(_KERNEL, _VOLUMES)
def test_a_lost_record_changes_no_mount(kernel: Kernel, volumes: list[Volume]) -> None:
    machine = machine_after(kernel, [("pass", volumes)])
    ours = {each.target for each in machine.record.values()}
    mounts = {**machine.mounts}
    machine.lose_record()
    done = run(machine, volumes)
    assert machine.mounts == mounts
    assert {each.target for each in machine.record.values()} == ours
    assert not done.departed


@_BOUNDED
@given(_histories(_ROUGH_STEPS), _VOLUMES, _NAMES, st.randoms(use_true_random=False))
def test_a_plan_is_the_same_whatever_order_record_and_mounts_come_in(
    machine: Machine, volumes: list[Volume], unready: set[str], random: Any
) -> None:
    for one in run(machine, volumes, unready=unready).rounds:
        record = random.sample(one.record, len(one.record))
        mounts = dict(random.sample([*one.observed.mounts.items()], len(one.observed.mounts)))
        observed = one.observed._replace(mounts=mounts)
        assert plan(one.desired, observed, record, OURS, one.progress) == one.actions
        desired = random.sample(one.desired, len(one.desired))
        shuffled = plan(desired, observed, record, OURS, one.progress)
        assert {repr(each._replace(after=(), notes=())) for each in shuffled} == {
            repr(each._replace(after=(), notes=())) for each in one.actions
        }


@_BOUNDED
@given(_histories(_ROUGH_STEPS), _NAMES)
def test_unmounting_by_the_record_takes_off_the_chosen_and_leaves_the_rest(
    machine: Machine, names: set[str]
) -> None:
    machine.busy.clear()
    before = deepcopy(machine)
    ours = {each.id for each in machine.record.values() if each.manifest == OURS}
    chosen = {each for each in ours if machine.record[each].volume in names}
    seen = {
        each.id: before.mounts[each.id]
        for each in before.record.values()
        if each.id not in chosen
        and each.id in before.mounts
        and before.top(before.mounts[each.id].point) == before.mounts[each.id]
    }
    actions = departures([*machine.record.values()], machine.observed(), chosen)
    gone = {each.old.id for each in actions if each.old}
    assert gone == {each for each in chosen if each in machine.mounts}
    with suppress(AssertionError):  # what is covered can't be taken off
        list(machine.apply(actions))
    for mount in seen.values():
        top = machine.top(mount.point)
        assert top and top._replace(id=0, parent=0) == mount._replace(id=0, parent=0)


# cost ----------------------------------------------------------------------------------------


class Flat(NamedTuple):
    """Volumes side by side, the mounts that there are, and the record."""

    desired: list[DesiredMount]
    observed: Observed
    record: list[Managed]


def flat(count: int, had: str, *, parent: bool = False) -> Flat:
    """So many volumes, none of which, each of which, or others of which are mounted."""
    machine = Machine()
    root = next(iter(machine.mounts.values()))
    one = machine.means(volume("v", "/t/v"))
    desired, record, mounts, tops = [], [], {root.id: root}, {}
    if parent:
        desired.append(machine.means(volume("parent", "/t")))
    observed = machine.observed()
    template = machine.put(volume("v", "/t/v"))
    for number in range(count):
        target = f"/t/v{number}"
        wanted = one._replace(volume=one.volume._replace(name=f"v{number}"), target=target)
        if had == "recursive":
            wanted = wanted._replace(submounts={"sub": wanted.flags})
        there = f"/t/w{number}" if had == "elsewhere" else target
        mount = template._replace(id=1000 + (1 << 33) + number, point=there)
        mounts[mount.id] = mount
        desired.append(wanted)
        record.append(record_entry(wanted, mount.id, THEIRS if had == "theirs" else OURS))
        if there == target:
            tops[target] = observed.tops.get(target) or machine.observed(["/t/v"]).tops[
                "/t/v"
            ]._replace(id=mount.id)
        if had == "recursive":
            record[-1] = record[-1]._replace(submounts=(mount.id + (1 << 20),))
            below = mount._replace(id=mount.id + (1 << 20), parent=mount.id, point=f"{there}/sub")
            mounts[below.id] = below
    if had == "none":
        record, mounts, tops = [], {root.id: root}, {}
    if had == "leaving":
        desired = []
    if had == "foreign":
        record = []
    return Flat([*desired], observed._replace(mounts=mounts, tops=tops), record)


def lines_of_plan(it: Flat) -> int:
    """How many lines of Python a plan takes, each time round a loop counted."""
    found = 0

    def trace(_: object, event: str, __: object) -> Any:
        nonlocal found
        found += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        plan(it.desired, it.observed, it.record, OURS)
    finally:
        sys.settrace(before)
    return found


@pytest.mark.parametrize("parent", [False, True])
@pytest.mark.parametrize(
    "had", ["none", "same", "elsewhere", "leaving", "theirs", "foreign", "recursive"]
)
def test_a_plan_costs_each_volume_the_same_however_many_there_are(
    had: str, *, parent: bool
) -> None:
    few, many = (lines_of_plan(flat(count, had, parent=parent)) for count in (250, 1000))
    assert many <= 4.4 * few
