"""What a pass does in several rounds, and what it must not take for its own, on the real kernel."""

import os
import shutil
from typing import Any

import pytest
from world import World, owner, run


def sources(world: World, *names: str) -> None:
    """Folders that have a folder `x` in them, and in it a file of their own name."""
    for name in names:
        world.folder(name)
        (world / name / "x").mkdir()
        (world / name / "x" / name).touch()


def test_a_volume_whose_source_lies_on_what_leaves_does_not_itself_hold_that(world: World) -> None:
    sources(world, "one")
    table = {"source": world / "seen/x", "target": world / "two"}
    world.volumes(a={"source": world / "one", "target": world / "seen"}, b=table)
    world.reconcile()
    world.volumes(b=table)
    result = world.reconcile(status=1)  # what lies under the mount has no folder x
    assert result.volume("a")["state"] == "unmounted"
    assert result.volume("b")["reason"] == "no-source"
    assert os.listdir(world / "two") == ["one"], "it keeps the mount that it has"


def test_two_that_leave_from_above_one_that_stays_take_it_along_one_after_the_other(
    world: World,
) -> None:
    sources(world, "one", "two", "three")
    last = {"source": world / "three", "target": world / "t/x/x"}
    world.volumes(
        a={"source": world / "one", "target": world / "t"},
        b={"source": world / "two", "target": world / "t/x"},
        c=last,
    )
    world.reconcile()
    world.volumes(c=last)
    world.reconcile()
    assert [(each.point, each.root) for each in world.mounts()] == [
        (str(world / "t/x/x"), "/three")
    ]


def test_a_parent_leaves_in_one_pass_with_a_child_that_has_to_move_first(world: World) -> None:
    sources(world, "one", "two", "three")
    world.volumes(
        a={"source": world / "one", "target": world / "t"},
        b={"source": world / "two", "target": world / "t/x"},
        c={"source": world / "three", "target": world / "d"},
    )
    world.reconcile()
    world.volumes(b={"source": world / "d", "target": world / "e"})  # once that mount is gone
    world.reconcile()
    assert [each.point for each in world.mounts()] == [str(world / "e")]


@pytest.mark.parametrize("is_mounted", [True, False])
def test_a_source_on_a_covered_target_is_not_taken_from_the_cover(
    world: World, *, is_mounted: bool
) -> None:
    sources(world, "one", "foreign")
    table: dict[str, dict[str, Any]] = {
        "a": {"source": world / "one", "target": world / "t"},
        "b": {"source": world / "t/x", "target": world / "seen"},
    }
    world.volumes(**table if is_mounted else {"a": table["a"]})
    world.reconcile()
    run("mount", "--bind", str(world / "foreign"), str(world / "t"))
    world.volumes(**table)
    result = world.reconcile(status=1)
    assert result.volume("a")["state"] == "conflict"
    assert result.volume("b")["state"] == "pending"
    assert not (world / "seen").exists() or os.listdir(world / "seen") == ["one"]


def test_a_volume_that_is_in_place_from_now_on_shows_its_new_source(world: World) -> None:
    sources(world, "one", "here")
    world.volumes(v={"source": world / "one", "target": world / "here", "user": "1000:1000"})
    world.reconcile()
    world.volumes(v={"source": world / "here", "target": world / "here", "user": "1000:1000"})
    world.reconcile()
    assert os.listdir(world / "here/x") == ["here"]
    assert owner(world / "here") == (1000, 1000)


@pytest.mark.parametrize("key", [{"read_only": True}, {"user": "1001:1001"}])
def test_a_lost_record_and_another_wish_in_place_are_a_conflict_in_each_pass(
    world: World, key: dict[str, Any]
) -> None:
    sources(world, "one", "here")
    other = {"source": world / "one", "target": world / "seen"}
    table = {"source": world / "here", "target": world / "here", "user": "1000:1000"}
    world.volumes(other=other, v=table)
    world.reconcile()
    shutil.rmtree(world.state)
    world.volumes(other=other, v={**table, "idmap": "always", **key})
    for _ in range(2):
        assert world.reconcile(status=1).volume("v")["state"] == "conflict"
    assert len(world.mounts()) == 2
