"""One pass is enough, and each volume gets an answer: what waits, what is derived, who races."""

import sys
from collections.abc import Callable
from typing import Any

import kill_at
import pytest
from world import MOUNTD, Result, World, mount_id, owner, record_of, running


def _volume(world: World, source: str, target: str, **keys: Any) -> dict[str, Any]:
    return {"source": world / source, "target": world / target, **keys}


def _options(world: World, name: str) -> set[str]:
    (found,) = [each.options for each in world.mounts() if each.point == str(world / name)]
    return found


# what waits for a busy one --------------------------------------------------------------------


@pytest.fixture
def held(world: World) -> World:
    """`x` is at `t`, and shall be in place there; `z` is another volume."""
    world.folder("s")
    world.folder("t", owner=(601, 601))
    world.volumes(x=_volume(world, "s", "t", user="1000:1000"))
    world.reconcile()
    world.volumes(
        x=_volume(world, "t", "t", user="1000:1000"),
        y=_volume(world, "t", "t/deep", user="1000:1000"),
        z=_volume(world, "s", "z", user="1000:1000"),
    )
    return world


def test_what_waits_for_a_busy_mount_is_busy_and_the_others_go_on(held: World) -> None:
    with running(sys.executable, "-c", "input(print())", cwd=held / "t") as inside:
        for _ in range(2):
            done = held.reconcile(status=1)
            states = {each["name"]: each for each in done.document["volumes"]}
            assert (states["x"]["state"], states["x"]["reason"]) == ("failed", "busy")
            assert f"pid {inside.pid}" in states["x"]["error"]["message"]
            assert states["z"]["state"] == "mounted"
            assert len(done.document["volumes"]) == 3
    held.volumes(x=_volume(held, "t", "t", user="1000:1000"))
    held.reconcile()
    assert owner(held / "t") == (1000, 1000)
    assert not held.reconcile().document["changed"]


# what is derived from a mount that changes in the same pass ----------------------------------

_CHANGES: dict[str, tuple[dict[str, Any], Callable[[set[str]], bool]]] = {
    "read-only": ({"read_only": True}, lambda it: "ro" in it),
    "noexec": ({"noexec": True}, lambda it: "noexec" in it),
    "atime": ({"atime": "noatime"}, lambda it: "noatime" in it),
}


@pytest.mark.parametrize("change", _CHANGES)
def test_flags_that_a_volume_inherits_are_right_after_one_pass(world: World, change: str) -> None:
    keys, is_there = _CHANGES[change]
    world.folder("s")
    tables = {
        "d": _volume(world, "c", "d"),
        "c": _volume(world, "a", "c", user="1000:1000"),
        "a": _volume(world, "s", "a"),
    }
    for more in ({}, keys, {}):
        tables["a"] = _volume(world, "s", "a", **more)
        world.volumes(**tables)
        world.reconcile()
        assert [is_there(_options(world, each)) for each in "acd"] == [bool(more)] * 3
        assert not world.reconcile().document["changed"]


def test_an_idmapping_that_follows_from_them_is_too(world: World) -> None:
    world.folder("s")  # whose mode lets everybody read
    both = {"a": _volume(world, "s", "a"), "c": _volume(world, "a", "c", user="1000:1000")}
    for read_only, seen in ((False, 1000), (True, 501), (False, 1000)):
        both["a"] = _volume(world, "s", "a", read_only=read_only)
        world.volumes(**both)
        world.reconcile()
        assert owner(world / "c")[0] == seen
        assert not world.reconcile().document["changed"]


def test_a_target_is_made_in_a_volume_once_that_can_be_written(world: World) -> None:
    world.folder("s")
    world.volumes(a=_volume(world, "s", "a", read_only=True))
    world.reconcile()
    world.volumes(b=_volume(world, "s", "a/new"), a=_volume(world, "s", "a", read_only=False))
    world.reconcile()
    assert (world / "a/new/hello").exists()


# who mounts something just before umount2 -----------------------------------------------------


def _raced(world: World, number: int) -> Result:
    """A pass in which somebody mounts over `t` just before its umount2 of this number."""
    instead = f"{number}:mount -t tmpfs tmpfs {world / 't'}"
    words = [sys.executable, kill_at.__file__, instead, str(kill_at.UMOUNT2), MOUNTD, "reconcile"]
    return world.run([*words, "--json", "--manifest", world.manifest, "--state-dir", world.state])


@pytest.mark.fault(38, "just before an umount2")
@pytest.mark.parametrize("then", ["leaves", "is replaced"])
def test_ours_is_not_forgotten_where_anothers_was_taken_off_instead(
    world: World, then: str
) -> None:
    world.folder("s")
    world.volumes(x=_volume(world, "s", "t", user="1000:1000"))
    world.reconcile()
    ours = mount_id(world / "t")
    tables = {} if then == "leaves" else {"x": _volume(world, "s", "t", user="1001:1001")}
    world.volumes(**tables)
    done = _raced(world, 1)
    assert done.status == 1
    assert done.volume("x")["reason"] == "foreign-mount"
    assert "taken off instead" in done.volume("x")["error"]["message"]
    assert mount_id(world / "t") == ours
    assert ours in [each["id"] for each in record_of(world)]
    world.reconcile()
    assert len(world.mounts()) == len(record_of(world)) == len(tables)
    assert not world.reconcile().document["changed"]
