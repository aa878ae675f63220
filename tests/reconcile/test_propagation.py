"""Mounts that show in other places of the namespace too, because mounts propagate there."""

from collections.abc import Mapping
from typing import Any

import pytest
from world import World, owner, run

Tables = dict[str, dict[str, Any]]


@pytest.fixture(params=["peer", "slave"])
def peers(request: pytest.FixtureRequest, shared_world: World) -> World:
    """A folder `here` that shows as `there`, whose mount receives what is mounted in `here`."""
    world = shared_world
    for name in ("here/outer/inner", "here/late", "inner", "outer", "one", "two"):
        world.folder(name)
    (world / "there").mkdir()
    run("mount", "--bind", str(world / "here"), str(world / "there"))
    if request.param == "slave":
        run("mount", "--make-slave", str(world / "there"))
    return world


def volume(world: World, source: str, target: str, uid: int = 1000) -> dict[str, Any]:
    return {"source": world / source, "target": world / target, "user": f"{uid}:{uid}"}


def see_in_one_pass(world: World, tables: Mapping[str, Mapping[str, Any]], *actions: str) -> None:
    """The pass does these, and what it left is as desired; nothing is a stranger's."""
    world.volumes(**tables)
    done = world.reconcile()
    assert [each["action"] for each in done.document["volumes"]] == [*actions], done.out
    again = world.reconcile()
    assert not again.document["changed"], again.out
    for name, table in tables.items():
        uid = int(table["user"].partition(":")[0])
        assert owner(table["target"]) == (uid, uid), name


@pytest.mark.parametrize("names", [("inner", "outer"), ("outer", "inner")])
def test_what_lies_on_a_copy_comes_after_what_is_copied(
    peers: World, names: tuple[str, str]
) -> None:
    def tables(uid: int) -> Tables:
        both = {
            "inner": volume(peers, "inner", "there/outer/inner", uid),
            "outer": volume(peers, "outer", "here/outer", uid),
        }
        return {name: both[name] for name in names}

    (peers / "outer/inner").mkdir()
    see_in_one_pass(peers, tables(1000), "mount", "mount")
    peers.volumes(**tables(1001))
    done = peers.reconcile()
    assert done.volume("outer")["action"] == "replace"
    assert done.volume("inner")["action"] in ("mount", "replace")  # it may go with the copy
    see_in_one_pass(peers, tables(1001), "keep", "keep")


def test_a_copy_that_shows_as_the_source_is_waited_for(peers: World) -> None:
    def tables(uid: int) -> Tables:
        return {
            "two": volume(peers, "there/late", "to", uid),
            "one": volume(peers, "one", "here/late"),
        }

    (peers / "one/file").touch()
    see_in_one_pass(peers, tables(1002), "mount", "mount")
    assert (peers / "to/file").exists()
    see_in_one_pass(peers, tables(1003), "replace", "keep")
    peers.volumes(two=tables(1003)["two"])
    peers.reconcile()
    assert not (peers / "to/file").exists()
    assert not peers.reconcile().document["changed"]


def test_what_a_new_copy_would_cover_goes_on_above_it(peers: World) -> None:
    inner = {"inner": volume(peers, "inner", "there/outer/inner")}
    outer = {"outer": volume(peers, "outer", "here/outer")}
    see_in_one_pass(peers, inner, "mount")
    see_in_one_pass(peers, inner | outer, "keep", "mount")
    assert (peers / "outer/inner").is_dir()
    world = peers
    see_in_one_pass(world, inner, "keep", "unmount")
    result = world.mountd("unmount", "--all")
    assert result.status == 0, result.err
    assert not [each for each in world.mounts() if "inner" in each.point]


def test_two_volumes_at_one_place_are_told_of_each_other(peers: World) -> None:
    world = peers
    one, two = volume(world, "one", "here/late"), volume(world, "two", "there/late", 1001)
    world.volumes(one=one, two=two)
    for _ in range(2):
        result = world.reconcile(status=1)
        assert (
            f"the mount of volume `one` at {world.path}/here/late shows at {world.path}/there/late"
            " too: mounts propagate there" in result.err
        )
        assert "hint: choose another target, or leave one of the two volumes out" in result.err
        assert owner(world / "here/late") == (1000, 1000)
    see_in_one_pass(world, {"two": two}, "mount", "unmount")
    see_in_one_pass(world, {"one": one}, "mount", "unmount")


def test_a_mount_shows_at_the_root_of_a_mount_that_is_made_of_its_target(peers: World) -> None:
    world = peers
    world.folder("root")
    run("mount", "--bind", str(world / "here/late"), str(world / "root"))
    (world / "one/file").touch()
    both = {"two": volume(world, "root", "to"), "one": volume(world, "one", "here/late")}
    both["two"]["source"] = world / "root"
    see_in_one_pass(world, both, "mount", "mount")
    assert (world / "to/file").exists()


def test_a_strangers_mount_on_a_copy_stays_a_strangers(peers: World) -> None:
    world = peers
    world.volumes(outer=volume(world, "outer", "here/outer"))
    (world / "outer/sub").mkdir()
    world.reconcile()
    run("mount", "-t", "tmpfs", "x", str(world / "here/outer/sub"))
    world.volumes(outer=volume(world, "outer", "here/outer", 1001))
    assert "would be hidden" in world.reconcile(status=1).err
    run("umount", str(world / "here/outer/sub"))
    world.reconcile()
    assert owner(world / "here/outer") == owner(world / "there/outer") == (1001, 1001)
