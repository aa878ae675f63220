"""A replacement that was killed with two of ours on one another, and *another* manifest next.

One pass shows what that manifest says, with one mount at each target; the next has nothing to do.
"""

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kill_at
import pytest
from world import MOUNTD, World, mount_id, owner, record_of, run, running

from mountd.core.mounts import FIRST_UNIQUE_ID

Tables = dict[str, dict[str, Any]]
_KILLED = -9 % 256


def _volume(world: World, source: str, target: str, user: int = 1000, **keys: Any) -> Any:
    ids = f"{user}:{user}"
    return {"source": world / source, "target": world / target, "user": ids, **keys}


def _killed(world: World, number: int, calls: tuple[int, ...]) -> int:
    numbers = ",".join(map(str, calls))
    words = [sys.executable, kill_at.__file__, str(number), numbers, MOUNTD, "reconcile"]
    command = [*words, "--manifest", world.manifest, "--state-dir", world.state]
    return world.run(command).status


def _at(world: World, name: str) -> int:
    return sum(mount.point == str(world / name) for mount in world.mounts())


@pytest.fixture
def stacked(world: World) -> World:
    """Volume `x` is at `t`, its replacement for 1001 beneath it; sources and `t` have a `hello`."""
    for name in ("s", "other", "t", "u"):
        (world.folder(name) / "hello").write_text(name)
    world.volumes(x=_volume(world, "s", "t"))
    world.reconcile()
    world.volumes(x=_volume(world, "s", "t", 1001))
    assert _killed(world, 1, (kill_at.UMOUNT2,)) == _KILLED
    assert _at(world, "t") == 2
    return world


_NEXT: dict[str, tuple[Callable[[World], Tables], dict[str, tuple[str, int]]]] = {
    "as it was": (lambda it: {"x": _volume(it, "s", "t")}, {"t": ("s", 1000)}),
    "as it would be": (lambda it: {"x": _volume(it, "s", "t", 1001)}, {"t": ("s", 1001)}),
    "gone": (lambda _: {}, {}),
    "renamed": (lambda it: {"y": _volume(it, "s", "t", 1001)}, {"t": ("s", 1001)}),
    "of another source": (lambda it: {"x": _volume(it, "other", "t")}, {"t": ("other", 1000)}),
    "in place": (lambda it: {"x": _volume(it, "t", "t")}, {"t": ("t", 1000)}),
    "moved": (lambda it: {"x": _volume(it, "s", "u")}, {"u": ("s", 1000)}),
    "moved, and another comes": (
        lambda it: {"x": _volume(it, "s", "u"), "y": _volume(it, "other", "t")},
        {"u": ("s", 1000), "t": ("other", 1000)},
    ),
    "the source of another": (
        lambda it: {"x": _volume(it, "s", "t"), "y": _volume(it, "t", "u", 1002)},
        {"t": ("s", 1000), "u": ("s", 1002)},
    ),
    "covered by a new parent": (
        lambda it: {"x": _volume(it, "s", "a/deep"), "y": _volume(it, "other", "a")},
        {"a": ("other", 1000), "a/deep": ("s", 1000)},
    ),
    "the parent of another": (
        lambda it: {"x": _volume(it, "s", "t"), "y": _volume(it, "other", "t/y")},
        {"t": ("s", 1000), "t/y": ("other", 1000)},
    ),
}


@pytest.mark.parametrize("manifest", _NEXT)
def test_two_of_ours_are_one_again_whatever_the_next_manifest_says(
    stacked: World, manifest: str
) -> None:
    tables, shown = _NEXT[manifest]
    stacked.volumes(**tables(stacked))
    assert stacked.reconcile("-n").document["changed"]
    stacked.reconcile()
    _see_shown(stacked, shown)
    again = stacked.reconcile().document
    assert not again["changed"]
    assert {each["action"] for each in again["volumes"]} <= {"keep"}


def _see_shown(world: World, shown: dict[str, tuple[str, int]]) -> None:
    assert sorted(each.point for each in world.mounts()) == sorted(str(world / t) for t in shown)
    for target, (source, uid) in shown.items():
        assert (world / target / "hello").read_text() == source
        assert owner(world / target) == (uid, uid)
    recorded = {each["target"]: each["id"] for each in record_of(world)}
    assert recorded == {str(world / each): mount_id(world / each) for each in shown}
    assert len(record_of(world)) == len(shown)


def test_who_is_inside_the_old_one_goes_on_there_and_stops_nothing(stacked: World) -> None:
    with running(sys.executable, "-c", "input(print())", cwd=stacked / "t"):
        stacked.volumes()
        stacked.reconcile()
        assert stacked.mounts() == []


def test_a_volume_that_means_no_mount_now_keeps_the_lower_one_wherever_it_is(
    stacked: World,
) -> None:
    stacked.volumes(x=_volume(stacked, "missing", "u"))
    volume, rest = stacked.reconcile(status=1).document["volumes"]
    assert (volume["state"], rest["action"], rest["state"]) == ("pending", "unmount", "unmounted")
    assert (_at(stacked, "t"), owner(stacked / "t")) == (1, (1001, 1001))


def test_unmount_takes_both_off(stacked: World) -> None:
    assert stacked.mountd("unmount", "x").status == 0
    assert stacked.mounts() == []
    assert record_of(stacked) == []


def test_a_foreign_mount_on_top_is_a_conflict_and_once_it_is_gone_they_are_one(
    stacked: World,
) -> None:
    run("mount", "-t", "tmpfs", "tmpfs", str(stacked / "t"))
    for tables in ({"x": _volume(stacked, "other", "t")}, {"x": _volume(stacked, "t", "t")}):
        stacked.volumes(**tables)
        assert stacked.reconcile(status=1).volume("x")["reason"] == "foreign-mount"
        assert len(record_of(stacked)) == 2
    run("umount", str(stacked / "t"))
    stacked.reconcile()
    _see_shown(stacked, {"t": ("t", 1000)})


def test_another_manifests_mount_on_the_upper_one_goes_on_on_the_lower(world: World) -> None:
    for name in ("s", "other"):
        (world.folder(name) / "hello").write_text(name)
    (world / "s/deep").mkdir()
    world.volumes(x=_volume(world, "s", "t"))
    world.reconcile()
    theirs = World(world.path)
    theirs.manifest = f"{world.path}/theirs.toml"
    theirs.volumes(deep=_volume(world, "other", "t/deep"))
    theirs.reconcile()
    world.volumes(x=_volume(world, "s", "t", 1001))
    assert _killed(world, 2, (429,)) == _KILLED  # move_mount: theirs isn't on the new one yet
    assert _at(world, "t") == 2
    world.volumes(x=_volume(world, "other", "t"))
    world.reconcile()
    assert (world / "t/deep/hello").read_text() == "other"
    assert (_at(world, "t"), _at(world, "t/deep")) == (1, 1)
    assert not theirs.reconcile().document["changed"]


# random ones ---------------------------------------------------------------------------------


def _make_folders(world: World) -> None:
    for name in ("s1", "s2", "a", "b", "c"):
        (world.folder(name, mode=0o700) / "hello").write_text(name)  # none that all may read
        (world / name / "deep").mkdir(mode=0o700)
        os.chown(world / name / "deep", 501, 20)


def _any_tables(world: World, chance: random.Random) -> Tables:
    """Volumes that are nested, in place, moved, of each other's targets, or read-only."""
    tables: Tables = {}
    for name in "xyz":
        target = chance.choice(["a", "b", "c", "a/deep"])
        source = chance.choice(["s1", "s2", "s1", target, "a", "b"])
        if chance.random() < 0.25 or any(t["target"] == world / target for t in tables.values()):
            continue
        keys = {"read_only": True} if chance.random() < 0.25 else {}
        tables[name] = _volume(world, source, target, chance.choice([1000, 1001]), **keys)
    return tables


def _legal_tables(world: World, chance: random.Random) -> Tables:
    while True:
        tables = _any_tables(world, chance)
        world.volumes(**tables)
        if world.mountd("reconcile", "-n").status != 78:
            return tables


def _see_that_all_is_as_the_manifest_says(world: World, tables: Tables, story: object) -> None:
    first = world.mountd("reconcile", "--json")
    assert first.status == 0, (story, first)
    targets = sorted(str(each["target"]) for each in tables.values())
    assert sorted(each.point for each in world.mounts()) == targets, (story, first)
    assert sorted(each["target"] for each in record_of(world)) == targets, story
    assert all(each["id"] >= FIRST_UNIQUE_ID for each in record_of(world)), story
    for table in tables.values():
        uid = int(str(table["user"])[:4])
        assert owner(Path(table["target"])) == (uid, uid), (story, table)
    again = world.mountd("reconcile", "--json")
    assert not again.document["changed"], (story, first, again)
    assert {each["action"] for each in again.document["volumes"]} <= {"keep"}, (story, again)


@pytest.mark.fault(10, "and another manifest next")
@pytest.mark.parametrize("seed", range(4))
def test_a_kill_anywhere_and_any_other_manifest_next(world: World, seed: int) -> None:
    chance = random.Random(seed)
    _make_folders(world)
    story = []
    for _ in range(3):
        tables = _legal_tables(world, chance)
        number = chance.randint(1, 12)
        story.append((tables, number, _killed(world, number, kill_at.CHANGES)))
    tables = _legal_tables(world, chance)
    _see_that_all_is_as_the_manifest_says(world, tables, (*story, tables))
