"""The plan as a pure function: what each difference means, and what holds of every plan."""

from itertools import count
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mountd.core import faults
from mountd.core.drift import record_entry
from mountd.core.idmapping import Idmapping, swap
from mountd.core.model import (
    Action,
    Desired,
    DesiredMount,
    Flags,
    Ids,
    Managed,
    Observed,
    ObservedMount,
    Top,
    Unready,
    User,
    Volume,
)
from mountd.core.plan import plan

OURS, THEIRS = "/etc/mountd.toml", "/srv/other.toml"
RW = Flags(read_only=False, nosuid=True, nodev=True, noexec=False, atime="relatime")
RO = RW._replace(read_only=True)
OWNER = Ids(501, 20)
INODES = {"/s/1": 1, "/s/2": 2, "/s/3": 3}
TARGETS = ("/t/a", "/t/b", "/t/c", "/t/d/e")


def volume(
    name: str, target: str, source: str = "/s/1", *, uid: int | None = 1000, flags: Flags = RW
) -> DesiredMount:
    """The mount that a volume of this name means; it shows the owner as `uid`, or None: as is."""
    idmap = None if uid is None else Idmapping(swap(501, uid), swap(20, uid))
    shown = OWNER if uid is None else Ids(uid, uid)
    return DesiredMount(
        Volume(name, source, target), source, target, "folder", "ext4", 7, INODES[source], OWNER,
        None if uid is None else User(uid, uid), OWNER, shown, idmap, uid is None, flags,
    )  # fmt: skip


def unready(mount: DesiredMount) -> Unready:
    """The same volume while its source isn't there."""
    return Unready(mount.volume, mount.target, faults.no_source(mount.source))


class Placed(NamedTuple):
    """A mount of the machine, seen from outside."""

    id: int
    point: str
    device: int
    inode: int
    shown: Ids
    idmap: Idmapping | None
    flags: Flags
    fs_type: str


class Machine:
    """What the kernel and the record would hold: actions carried out on values."""

    def __init__(self, *, tells_idmaps: bool = True) -> None:
        self.tells_idmaps = tells_idmaps
        self.mounts: list[Placed] = []  # of two at one point the later is on top
        self.record: dict[int, Managed] = {}
        self._ids = count(1 << 32)  # as the kernel's unique ids

    def put(self, mount: DesiredMount, manifest: str | None = OURS, *, at: str = "") -> Placed:
        """A mount as this one, recorded for a manifest (or for none), now `at` another place."""
        placed = self._made(mount)._replace(point=at or mount.target)
        self.mounts.append(placed)
        if manifest:
            self.record[placed.id] = record_entry(mount, placed.id, manifest)
        return placed

    def put_foreign(self, point: str) -> Placed:
        """Somebody's mount, of which mountd knows nothing."""
        placed = Placed(next(self._ids), point, 9, 9, Ids(0, 0), None, RW, "xfs")
        self.mounts.append(placed)
        return placed

    def plan(self, *desired: Desired, manifest: str = OURS) -> list[Action]:
        tops = {m.point: Top(m.id, m.device, m.inode, m.shown) for m in self.mounts}
        wanted = {each.target for each in desired}
        below: dict[str, int] = {}
        mounts = {}
        for each in self.mounts:
            idmap = each.idmap if self.tells_idmaps else None
            mounts[each.id] = ObservedMount(
                each.id, below.get(each.point, 1), each.point, "/", each.fs_type, each.device, each.flags,
                False, idmap,
            )  # fmt: skip
            below[each.point] = each.id
        seen = {target: top for target, top in tops.items() if target in wanted}
        observed = Observed(mounts, seen, self.tells_idmaps)
        return plan(desired, observed, self.record.values(), manifest)

    def carry_out(self, actions: list[Action]) -> None:
        """Do what the kernel would do, and fail where a mount would be buried, or lost."""
        for action in actions:
            old, wanted = action.old, action.mount
            if action.verb == "mount":
                assert wanted and not self._at(action.target), "it would be stacked"
                assert not self._below(action.target), "it would bury a mount"
                self.put(wanted)
            elif action.verb in ("replace", "adjust"):
                assert wanted and old and self._at(action.target)[-1].id == old.id
                if action.verb == "replace":
                    assert not self._below(action.target), "it would take a mount along"
                    self._change(old.id, self._made(wanted))
                    del self.record[old.id]
                    placed = self._at(action.target)[-1]
                    self.record[placed.id] = record_entry(wanted, placed.id, OURS)
                else:
                    placed = self._at(action.target)[-1]
                    self._change(old.id, placed._replace(flags=wanted.flags))
            elif action.verb == "unmount":
                assert old and self._at(action.target)[-1].id == old.id
                self.mounts = [each for each in self.mounts if each.id != old.id]
                del self.record[old.id]
            elif action.verb == "keep":
                assert old
                self.record[old.id] = old
        mounted = {each.id for each in self.mounts}
        self.record = {each: entry for each, entry in self.record.items() if each in mounted}

    def recorded(self, mount: Placed) -> Managed:
        """What the record says of a mount; one without names where it says nothing."""
        nothing = Managed(mount.id, "", "", "", "", OWNER, None)
        return self.record.get(mount.id, nothing)

    def _made(self, mount: DesiredMount) -> Placed:
        return Placed(
            next(self._ids), mount.target, mount.device, mount.inode, mount.shown, mount.idmap,
            mount.flags, mount.fs_type,
        )  # fmt: skip

    def _at(self, point: str) -> list[Placed]:
        return [each for each in self.mounts if each.point == point]

    def _below(self, point: str) -> list[Placed]:
        return [each for each in self.mounts if each.point.startswith(f"{point}/")]

    def _change(self, old: int, new: Placed) -> None:
        self.mounts = [new if each.id == old else each for each in self.mounts]


def verbs(actions: list[Action]) -> list[tuple[str, str | None, str]]:
    return [(action.volume, action.verb, action.target) for action in actions]


# examples ------------------------------------------------------------------------------------


def test_what_is_not_there_is_mounted_and_what_is_as_desired_is_kept() -> None:
    machine = Machine()
    work = volume("work", "/t/a")
    assert verbs(machine.plan(work)) == [("work", "mount", "/t/a")]
    machine.carry_out(machine.plan(work))
    assert verbs(machine.plan(work)) == [("work", "keep", "/t/a")]


def test_a_renamed_volume_is_kept_and_recorded_under_its_new_name() -> None:
    machine = Machine()
    machine.put(volume("old", "/t/a"))
    (action,) = machine.plan(volume("new", "/t/a"))
    assert verbs([action]) == [("new", "keep", "/t/a")]
    assert action.old and action.old.volume == "new"


def test_two_volumes_that_exchange_targets_are_two_replacements() -> None:
    machine = Machine()
    machine.put(volume("a", "/t/a", "/s/1"))
    machine.put(volume("b", "/t/b", "/s/2"))
    actions = machine.plan(volume("a", "/t/b", "/s/1"), volume("b", "/t/a", "/s/2"))
    assert verbs(actions) == [("a", "replace", "/t/b"), ("b", "replace", "/t/a")]
    assert [[each.field for each in action.drift] for action in actions] == [["source"]] * 2


def test_a_moved_target_is_mounted_before_the_old_one_leaves() -> None:
    machine = Machine()
    machine.put(volume("work", "/t/a"))
    actions = machine.plan(volume("work", "/t/b"))
    assert verbs(actions) == [("work", "mount", "/t/b"), ("work", "unmount", "/t/a")]


def test_a_managed_mount_found_elsewhere_leaves_there_once_its_target_has_one() -> None:
    machine = Machine()
    machine.put(volume("work", "/t/a"), at="/t/x")
    actions = machine.plan(volume("work", "/t/a"))
    assert verbs(actions) == [("work", "mount", "/t/a"), ("work", "unmount", "/t/x")]
    assert [(each.field, each.found) for each in actions[0].drift] == [("mount", "/t/x")]


def test_one_found_at_another_volumes_target_makes_way_for_that_in_the_same_pass() -> None:
    machine = Machine()
    a, b = volume("a", "/t/a", "/s/1"), volume("b", "/t/b", "/s/2")
    machine.put(a, at="/t/b")
    machine.carry_out(machine.plan(a, b))
    assert {action.verb for action in machine.plan(a, b)} == {"keep"}


def test_a_volume_that_left_the_manifest_or_is_disabled_is_unmounted() -> None:
    machine = Machine()
    machine.put(volume("work", "/t/a"))
    (action,) = machine.plan()
    assert verbs([action]) == [("work", "unmount", "/t/a")]
    assert action.required


def test_what_leaves_from_below_a_new_target_goes_first() -> None:
    machine = Machine()
    machine.put(volume("deep", "/t/a/deep"))
    actions = machine.plan(volume("work", "/t/a"))
    assert verbs(actions) == [("deep", "unmount", "/t/a/deep"), ("work", "mount", "/t/a")]


@pytest.mark.parametrize(
    ("had", "verb", "fields"),
    [
        (volume("work", "/t/a", flags=RO), "adjust", ["flags"]),
        (volume("work", "/t/a", uid=1001), "replace", ["idmap"]),
        (volume("work", "/t/a", uid=None), "replace", ["idmap"]),
        (volume("work", "/t/a", "/s/2"), "replace", ["source"]),
        (
            volume("work", "/t/a", "/s/2", uid=1001, flags=RO),
            "replace",
            ["source", "idmap", "flags"],
        ),
    ],
)
@pytest.mark.parametrize("tells_idmaps", [True, False])
def test_a_difference_is_adjusted_where_flags_are_all_and_else_replaced(
    had: DesiredMount, verb: str, fields: list[str], *, tells_idmaps: bool
) -> None:
    machine = Machine(tells_idmaps=tells_idmaps)
    machine.put(had)
    (action,) = machine.plan(volume("work", "/t/a"))
    assert (action.verb, [each.field for each in action.drift]) == (verb, fields)


@pytest.mark.parametrize("tells_idmaps", [True, False])
def test_without_a_record_what_equals_the_desired_mount_is_adopted(*, tells_idmaps: bool) -> None:
    machine = Machine(tells_idmaps=tells_idmaps)
    placed = machine.put(volume("work", "/t/a"), None)
    (action,) = machine.plan(volume("work", "/t/a"))
    assert action.verb == "keep"
    assert action.old == record_entry(volume("work", "/t/a"), placed.id, OURS)


@pytest.mark.parametrize(
    "there",
    [
        volume("work", "/t/a", flags=RO),
        volume("work", "/t/a", uid=1001),
        volume("work", "/t/a", "/s/2"),
    ],
)
@pytest.mark.parametrize("tells_idmaps", [True, False])
def test_without_a_record_any_other_mount_is_a_conflict_and_left_alone(
    there: DesiredMount, *, tells_idmaps: bool
) -> None:
    machine = Machine(tells_idmaps=tells_idmaps)
    machine.put(there, None)
    (action,) = machine.plan(volume("work", "/t/a"))
    assert (action.verb, action.state) == (None, "conflict")


def test_a_mount_of_another_manifest_is_a_conflict_that_names_it_though_it_is_equal() -> None:
    machine = Machine()
    machine.put(volume("theirs", "/t/a"), THEIRS)
    (action,) = machine.plan(volume("work", "/t/a"))
    assert (action.verb, action.state) == (None, "conflict")
    assert action.fault and THEIRS in action.fault.message and "`theirs`" in action.fault.message


def test_a_foreign_mount_over_ours_is_a_conflict_that_says_so() -> None:
    machine = Machine()
    machine.put(volume("work", "/t/a"))
    machine.put_foreign("/t/a")
    (action,) = machine.plan(volume("work", "/t/a"))
    assert action.fault and "(xfs) covers" in action.fault.message


@pytest.mark.parametrize("is_mounted", [True, False])
def test_a_foreign_mount_below_is_a_conflict_that_names_it(*, is_mounted: bool) -> None:
    machine = Machine()
    if is_mounted:
        machine.put(volume("work", "/t/a", uid=1001))
    machine.put_foreign("/t/a/deep")
    (action,) = machine.plan(volume("work", "/t/a"))
    assert action.verb is None
    assert action.fault and "/t/a/deep (xfs)" in action.fault.message


def test_the_second_of_two_volumes_at_one_target_is_a_conflict() -> None:
    actions = Machine().plan(volume("a", "/t/a"), volume("b", "/t/a"))
    assert verbs(actions) == [("a", "mount", "/t/a"), ("b", None, "/t/a")]
    assert actions[1].fault and "`a`" in actions[1].fault.message


# what holds of every plan --------------------------------------------------------------------

_AT_ANY_SPEED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
_USERS = st.sampled_from([None, 1000, 1001])
_FLAGS = st.sampled_from([RW, RO])
_NAMES = st.sampled_from(["a", "b", "c", "d", "gone", "old"])


def _mounts(targets: st.SearchStrategy[str]) -> st.SearchStrategy[DesiredMount]:
    return st.builds(
        volume, _NAMES, targets, st.sampled_from(list(INODES)), uid=_USERS, flags=_FLAGS
    )


_DESIRED = st.lists(
    st.tuples(_mounts(st.sampled_from(TARGETS)), st.integers(0, 3)),
    unique_by=(lambda each: each[0].target, lambda each: each[0].volume.name),
).map(lambda several: [mount if ready else unready(mount) for mount, ready in several])


@st.composite
def _machines(draw: st.DrawFn) -> Machine:
    """Mounts at targets and beside them, ours and others', covered, moved, dead, below targets."""
    machine = Machine(tells_idmaps=draw(st.booleans()))
    for target in draw(st.lists(st.sampled_from([*TARGETS, "/t/left", "/t/a/deep"]), unique=True)):
        mount = draw(_mounts(st.just(target)))
        match draw(
            st.sampled_from(["ours", "ours", "theirs", "unknown", "foreign", "moved", "dead"])
        ):
            case "ours":
                machine.put(mount)
            case "theirs":
                machine.put(mount, THEIRS)
            case "unknown":
                machine.put(mount, None)
            case "foreign":
                machine.put_foreign(target)
            case "moved":
                machine.put(mount, draw(st.sampled_from([OURS, THEIRS])), at=f"/moved{target}")
            case _:
                machine.put(mount)
                machine.mounts.pop()
    return machine


@_AT_ANY_SPEED
@given(_DESIRED, _machines())
def test_once_it_is_carried_out_there_is_nothing_left_but_conflicts(
    desired: list[Desired], machine: Machine
) -> None:
    machine.carry_out(machine.plan(*desired))
    again = machine.plan(*desired)
    assert {action.verb for action in again} <= {"keep", None}
    for action in again:
        assert action.verb != "keep" or not action.drift
        assert action.verb or action.fault
    ours = [each.point for each in machine.mounts if machine.recorded(each).manifest == OURS]
    assert len(ours) == len(set(ours)), "they are stacked"


@_AT_ANY_SPEED
@given(_DESIRED, _machines(), st.randoms())
def test_the_order_of_volumes_does_not_change_what_is_done(
    desired: list[Desired], machine: Machine, random: Random
) -> None:
    shuffled = random.sample(desired, len(desired))
    assert set(machine.plan(*desired)) == set(machine.plan(*shuffled))


@_AT_ANY_SPEED
@given(_DESIRED, _machines())
def test_what_is_not_this_manifests_is_never_touched(
    desired: list[Desired], machine: Machine
) -> None:
    for action in machine.plan(*desired):
        if action.verb in ("unmount", "replace", "adjust"):
            assert action.old and machine.record[action.old.id].manifest == OURS
    before = [m for m in machine.mounts if machine.recorded(m).manifest != OURS]
    machine.carry_out(machine.plan(*desired))
    assert [mount for mount in before if mount not in machine.mounts] == []


@_AT_ANY_SPEED
@given(_DESIRED, _machines())
def test_a_pending_volume_keeps_the_mount_that_it_has(
    desired: list[Desired], machine: Machine
) -> None:
    pending = [each for each in desired if isinstance(each, Unready)]
    ready = {each.target for each in desired if isinstance(each, DesiredMount)}
    names, targets = {each.volume.name for each in pending}, {each.target for each in pending}
    before = [
        mount
        for mount in machine.mounts
        if mount.point in targets
        or (mount.point not in ready and machine.recorded(mount).volume in names)
    ]
    machine.carry_out(machine.plan(*desired))
    assert [mount for mount in before if mount not in machine.mounts] == []


@_AT_ANY_SPEED
@given(_DESIRED, _machines())
def test_a_conflict_names_the_mount_in_the_way(desired: list[Desired], machine: Machine) -> None:
    for action in machine.plan(*desired):
        if action.fault and action.state == "conflict":
            words = action.fault.message
            near = [
                mount
                for mount in machine.mounts
                if mount.point == action.target or mount.point.startswith(f"{action.target}/")
            ]
            names = [
                (machine.recorded(mount).manifest or mount.fs_type, mount.point) for mount in near
            ]
            assert any(
                point in words and (who in words or "a mount lies below" in words)
                for who, point in names
            ), f"{words}: {names}"
