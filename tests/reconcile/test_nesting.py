"""Volumes in volumes: in any order, with no gap where there need be none, and nobody buried."""

import os
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from old_kernel import DEBIAN_12, DEBIAN_13, Kernel
from world import World, mount_id, owner, record_of, run, running, watching

TARGETS = {"outer": "to", "inner": "to/inner", "deep": "to/inner/deep"}
USERS = {"outer": 1000, "inner": 1001, "deep": 1002}
Tables = dict[str, dict[str, Any]]


def tables(world: World, **users: int) -> Tables:
    """Three volumes, each in the one before it; what their `hello` says is their name."""
    found = {}
    for name, target in TARGETS.items():
        source = world / f"source/{name}"
        if not source.exists():
            (world.folder(f"source/{name}") / "hello").write_text(name)
        user = users.get(name, USERS[name])
        found[name] = {"source": source, "target": world / target, "user": f"{user}:{user}"}
    return found


def only(found: Tables, *names: str) -> Tables:
    return {name: found[name] for name in names}


def actions(document: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each["action"] for each in document["volumes"]}


def points(world: World) -> list[str]:
    return sorted(mount.point for mount in world.mounts())


def see(world: World, wanted: Mapping[str, tuple[str, int]], kernel: Kernel | None = None) -> None:
    """At these targets, and nowhere else, lies one mount, of this volume and shown as this user's.

    What the user makes there is the owner's on the source; the record knows all; a pass more does
    nothing.
    """
    assert points(world) == sorted(str(world / target) for target in wanted)
    for target, (name, uid) in wanted.items():
        assert (world / target / "hello").read_text() == name
        assert owner(world / target) == owner(world / target / "hello") == (uid, uid), target
        made = world.as_user(uid, "touch", str(world / target / "made"))
        assert made.status == 0, made.err
        assert owner(world / f"source/{name}/made") == (501, 20)
    recorded = {each["target"]: (each["volume"], each["id"]) for each in record_of(world)}
    assert len(record_of(world)) == len(wanted)
    if not kernel or "statmount" not in kernel.lacks:
        assert {target: id_ for target, (_, id_) in recorded.items()} == {
            str(world / target): mount_id(world / target) for target in wanted
        }
    again = world.mountd("reconcile", kernel=kernel)
    assert again.status == 0, again.err
    assert "nothing to do" in again.out


def usual(**users: int) -> dict[str, tuple[str, int]]:
    return {target: (name, users.get(name, USERS[name])) for name, target in TARGETS.items()}


@pytest.mark.parametrize("names", [*permutations(TARGETS)], ids="-".join)
def test_targets_below_targets_are_mounted_in_any_order_of_the_file(
    world: World, names: tuple[str, ...]
) -> None:
    found = tables(world)
    world.volumes(**only(found, *names))
    dry = world.reconcile("--dry-run")
    assert dry.volume("outer")["notes"] == [f"makes {world / 'to'}"]
    assert dry.volume("inner")["notes"] == ["after outer"]
    assert set(dry.volume("deep")["notes"]) == {"after inner", "after outer"}
    assert set(actions(dry.document).values()) == {"mount"}
    assert world.mounts() == []
    assert not (world / "to").exists()
    assert not (world / "source/outer/inner").exists()
    done = world.reconcile().document
    assert [each["name"] for each in done["volumes"]] == [*names]
    see(world, usual())
    assert owner(world / "source/outer/inner") == owner(world / "source/inner/deep") == (501, 20)
    world.write("version = 1")
    gone = world.reconcile().document
    assert [(each["action"], each["state"]) for each in gone["volumes"]] == (
        [("unmount", "unmounted")] * 3
    )
    assert (world.mounts(), record_of(world)) == ([], [])


@pytest.mark.parametrize("names", ["abcd", "dcba", "cadb"])
def test_sources_at_and_below_targets_are_mounted_in_any_order_of_the_file(
    world: World, names: str
) -> None:
    """`b` is all of `a` again, `c` a folder of `b`, and `d` of `c`: what is stored stays 501's."""
    world.folder("source/x/y")
    for each in ("source", "source/x"):
        os.chown(world / each, 501, 20)
    found: Tables = {
        "a": {"source": world / "source", "target": world / "a", "user": "1000:1000"},
        "b": {"source": world / "a", "target": world / "b", "user": "2000:2000"},
        "c": {"source": world / "b/x", "target": world / "c", "user": "3000:3000"},
        "d": {"source": world / "c/y", "target": world / "d", "user": "4000:4000"},
    }
    for user in ("1000:1000", "1500:1500"):
        found["a"]["user"] = user
        world.volumes(**only(found, *names))
        dry = world.reconcile("--dry-run")
        assert "after a" in dry.volume("b")["notes"]
        world.reconcile()
        for uid, target, root in (
            (int(user[:4]), "a", "source"),
            (2000, "b", "source"),
            (3000, "c", "source/x"),
            (4000, "d", "source/x/y"),
        ):
            assert owner(world / target) == (uid, uid)
            assert world.as_user(uid, "touch", str(world / target / "made")).status == 0
            assert owner(world / root / "made") == (501, 20)
            (world / root / "made").unlink()
        assert points(world) == [str(world / each) for each in "abcd"]
        assert set(actions(world.reconcile().document).values()) == {"keep"}


@pytest.mark.parametrize(
    ("parent", "name"), [("world", "outer"), ("shared_world", "outer"), ("shared_world", "inner")]
)
def test_a_parent_is_replaced_and_all_below_it_is_there_all_the_time(
    parent: str, name: str, request: pytest.FixtureRequest
) -> None:
    world: World = request.getfixturevalue(parent)
    world.volumes(**tables(world))
    world.reconcile()
    with watching(*(world / target for target in TARGETS.values())) as seen:
        for uid in (2000, USERS[name]):
            world.volumes(**tables(world, **{name: uid}))
            dry = world.reconcile("--dry-run")
            done = world.reconcile()
            for told in (dry, done):
                assert actions(told.document) == {**dict.fromkeys(TARGETS, "keep"), name: "replace"}
                assert all(each["notes"] == [] for each in told.document["volumes"])
    for each, target in TARGETS.items():
        uids = {2000, USERS[each]} if each == name else {USERS[each]}
        wanted = {str(uid) for uid in uids} | {f"{uid} {each}" for uid in uids}
        assert seen[world / target] <= wanted
    see(world, usual())


def test_all_of_them_are_replaced_in_one_pass(shared_world: World) -> None:
    world = shared_world
    world.volumes(**tables(world))
    world.reconcile()
    users = {"outer": 2000, "inner": 2001, "deep": 2002}
    world.volumes(**tables(world, **users))
    with watching(*(world / target for target in TARGETS.values())) as seen:
        assert set(actions(world.reconcile().document).values()) == {"replace"}
    for name, target in TARGETS.items():
        both = (USERS[name], users[name])
        wanted = {str(uid) for uid in both} | {f"{uid} {name}" for uid in both}
        assert seen[world / target] <= wanted
    see(world, usual(**users))


@pytest.mark.parametrize("kernel", [DEBIAN_13, DEBIAN_12], ids=lambda it: it.name)
def test_an_older_kernel_replaces_parents_too(world: World, kernel: Kernel) -> None:
    found = tables(world)
    found["inner"]["noexec"] = True
    world.volumes(**found)
    world.reconcile(kernel=kernel)
    before = {mount.point: mount.options for mount in world.mounts()}
    found["outer"]["user"] = "2000:2000"
    world.volumes(**found)
    notes = world.reconcile(kernel=kernel).volume("outer")["notes"]
    assert any("gap" in note for note in notes) == (kernel is DEBIAN_12)
    see(world, usual(outer=2000), kernel)
    assert {mount.point: mount.options for mount in world.mounts()} == before


@pytest.mark.parametrize("change", ["replace", "leave"])
def test_the_children_of_another_manifest_stay_and_stay_its_own(world: World, change: str) -> None:
    found = tables(world)
    world.volumes(**only(found, "inner", "deep"))
    other = str(Path(world.manifest).rename(world / "other.toml"))
    world.volumes(**only(found, "outer"))
    world.reconcile()
    world.reconcile("--manifest", other)
    world.volumes(**only(tables(world, outer=2000), "outer") if change == "replace" else {})
    told = world.reconcile().volume("outer")
    assert told["action"] == ("replace" if change == "replace" else "unmount")
    assert any("gap" in note for note in told["notes"]) == (change == "leave")
    assert owner(world / "to/inner") == (1001, 1001)
    assert owner(world / "to/inner/deep/hello") == (1002, 1002)
    owners = {each["volume"]: each["manifest"] for each in record_of(world)}
    assert owners.pop("outer", world.manifest) == world.manifest
    assert owners == {"inner": other, "deep": other}
    theirs = world.reconcile("--manifest", other).document
    assert actions(theirs) == {"inner": "keep", "deep": "keep"}
    assert world.mountd("unmount", "--all", "--manifest", other).status == 0
    assert points(world) == ([str(world / "to")] if change == "replace" else [])


@pytest.mark.fault(39, "below nested ones")
@pytest.mark.parametrize(
    ("where", "change"),
    [
        *((f"{each}/strange", "replace") for each in TARGETS.values()),
        ("to/strange", "leave"),
        ("to/inner/deep/strange", "leave"),
        ("to/inner/strange", "unmount"),
    ],
)
def test_a_foreign_mount_below_is_in_the_way_and_named(
    world: World, where: str, change: str
) -> None:
    """Also below a child: that can be carried, but what is not ours can't."""
    found = tables(world)
    world.volumes(**found)
    world.reconcile()
    (world / where).mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(world / where))
    (world / where / "theirs").touch()
    before = world.mounts()
    match change:
        case "replace":
            world.volumes(**tables(world, outer=2000))
            told = world.reconcile(status=1)
        case "leave":
            world.volumes(**only(found, "inner", "deep"))
            told = world.reconcile(status=1)
        case _:
            told = world.mountd("unmount", "outer", "--json")
            assert told.status == 1
    outer = told.volume("outer")
    reasons = {"foreign-mount"} if change == "replace" else {"foreign-mount", "busy"}
    assert outer["reason"] in reasons
    assert str(world / where) in outer["error"]["message"]
    assert {mount.point for mount in before} == {mount.point for mount in world.mounts()}
    assert (world / where / "theirs").exists()
    assert owner(world / "to/inner/deep") == (1002, 1002)
    run("umount", str(world / where))
    if change == "replace":
        world.reconcile()
        see(world, usual(outer=2000))


@pytest.mark.parametrize(
    ("parent", "kernel"), [("world", None), ("shared_world", None), ("shared_world", DEBIAN_12)]
)
def test_a_parent_appears_over_children_and_goes_from_under_them(
    parent: str, kernel: Kernel | None, request: pytest.FixtureRequest
) -> None:
    world: World = request.getfixturevalue(parent)
    found = tables(world)
    world.volumes(**only(found, "inner", "deep"))
    world.reconcile(kernel=kernel)
    assert points(world) == [str(world / "to/inner"), str(world / "to/inner/deep")]
    world.volumes(**found)
    dry = world.reconcile("--dry-run", kernel=kernel)
    with watching(world / "to/inner") as seen:
        done = world.reconcile(kernel=kernel)
    for told in (dry, done):
        assert actions(told.document) == {"outer": "mount", "inner": "keep", "deep": "keep"}
        assert f"gap: {world / 'to/inner'} is away for a moment" in told.volume("outer")["notes"]
    assert not any("Permission" in each for each in seen[world / "to/inner"])
    see(world, usual(), kernel)
    world.volumes(**only(found, "inner", "deep"))
    dry = world.reconcile("--dry-run", kernel=kernel)
    done = world.reconcile(kernel=kernel)
    for told in (dry, done):
        assert actions(told.document) == {"inner": "keep", "deep": "keep", "outer": "unmount"}
        assert f"gap: {world / 'to/inner'} is away for a moment" in told.volume("outer")["notes"]
    see(world, {"to/inner": ("inner", 1001), "to/inner/deep": ("deep", 1002)}, kernel)


def test_unmounting_a_parent_alone_leaves_its_children(world: World) -> None:
    world.volumes(**tables(world))
    world.reconcile()
    assert world.mountd("unmount", "inner").status == 0
    assert points(world) == [str(world / "to"), str(world / "to/inner/deep")]
    assert owner(world / "to/inner/deep/hello") == (1002, 1002)
    assert world.mountd("unmount", "--all").status == 0
    assert (world.mounts(), record_of(world)) == ([], [])


@pytest.mark.parametrize("kernel", [None, DEBIAN_12], ids=lambda it: it.name if it else "ours")
def test_a_busy_child_stays_and_so_do_all_above_it(world: World, kernel: Kernel | None) -> None:
    world.volumes(**tables(world))
    world.reconcile(kernel=kernel)
    world.write("version = 1")
    with running("sh", "-c", "echo; read go", cwd=world / "to/inner/deep") as inside:
        told = world.reconcile(status=1, kernel=kernel)
        for name in TARGETS:
            volume = told.volume(name)
            assert (volume["state"], volume["reason"]) == ("failed", "busy")
        assert f"(pid {inside.pid})" in told.volume("deep")["error"]["message"]
        assert str(world / "to/inner/deep") in told.volume("inner")["error"]["message"]
        assert points(world) == sorted(str(world / each) for each in TARGETS.values())
    world.reconcile(kernel=kernel)
    assert (world.mounts(), record_of(world)) == ([], [])


def test_who_is_inside_a_child_stays_there_while_its_parents_are_replaced(world: World) -> None:
    world.volumes(**tables(world))
    world.reconcile()
    script = "echo; read go; stat -c %u hello; touch inside"
    with running("sh", "-c", script, cwd=world / "to/inner/deep") as inside:
        world.volumes(**tables(world, outer=2000, inner=2001))
        world.reconcile()
        see(world, usual(outer=2000, inner=2001))
        assert inside.communicate("go\n")[0] == "1002\n"
    assert (world / "to/inner/deep/inside").exists()


@pytest.mark.parametrize(
    ("reason", "optional", "status"),
    [
        ("no-source", (), 1),
        ("no-user", ("outer",), 1),
        ("no-source", ("outer", "inner", "deep"), 0),
        ("filesystem-refuses", (), 1),
    ],
)
def test_what_lies_in_a_volume_that_is_not_there_waits_for_it(
    world: World, reason: str, optional: tuple[str, ...], status: int
) -> None:
    found = tables(world)
    good = {**found["outer"]}
    wrong: Tables = {
        "no-source": {"source": world / "late"},
        "no-user": {"user": "nobody-here"},
        "filesystem-refuses": {"source": "/proc", "fallback": "fail", "owner": "501:20"},
    }
    found["outer"] |= wrong[reason]
    for name in optional:
        found[name]["required"] = False
    world.volumes(**dict(reversed(found.items())))
    for words in (["--dry-run"], []):
        told = world.reconcile(*words, status=status)
        assert told.volume("outer")["reason"] == reason
        for name in ("inner", "deep"):
            volume = told.volume(name)
            assert (volume["state"], volume["reason"]) == ("pending", reason)
            assert "`outer`" in volume["error"]["message"] + volume["error"]["hint"]
    assert world.mounts() == []
    assert not (world / "to").exists()
    found["outer"] = good
    world.volumes(**found)
    world.reconcile()
    see(world, usual())
    found["outer"] = {**good, **wrong[reason]}  # what it has is good enough for its children
    found["inner"]["user"] = "2001:2001"
    world.volumes(**found)
    assert world.reconcile(status=1).volume("inner")["action"] == "replace"
    assert owner(world / "to/inner") == (2001, 2001)
    assert owner(world / "to") == (1000, 1000)


def test_volumes_that_need_each_other_once_links_are_followed_are_a_conflict(world: World) -> None:
    for name in ("a", "b", "other/x"):
        world.folder(f"{name}/x")
    os.chown(world / "other/x", 501, 20)
    (world / "to-a").symlink_to("a")
    (world / "to-b").symlink_to("b")
    world.volumes(
        a={"source": world / "to-b/x", "target": world / "a"},
        b={"source": world / "to-a/x", "target": world / "b"},
        other={"source": world / "other/x", "target": world / "to", "user": "1000:1000"},
        inner={"source": world / "other/x", "target": world / "a/y"},
    )
    for words in (["--dry-run"], [], []):
        told = world.reconcile(*words, status=1)
        for name in "ab":
            volume = told.volume(name)
            assert (volume["state"], volume["reason"]) == ("conflict", "foreign-mount")
            assert "`a`" in volume["error"]["message"] and "`b`" in volume["error"]["message"]
        assert told.volume("inner")["state"] == "pending"
    assert points(world) == [str(world / "to")]
    (world / "to-a").unlink()
    (world / "to-a").symlink_to("other")
    world.reconcile()
    assert points(world) == sorted(str(world / each) for each in ("a", "a/y", "b", "to"))
    assert set(actions(world.reconcile().document).values()) == {"keep"}


@pytest.mark.parametrize("parent", ["shared_world"])
@pytest.mark.parametrize(
    "targets",
    [
        pytest.param({"outer": "to/inner", "inner": "to"}, id="exchanged"),
        pytest.param({"outer": "to/inner/deep", "deep": "to"}, id="turned-round"),
        pytest.param({"outer": "to/inner", "inner": "to/inner/deep", "deep": "to"}, id="turned"),
        pytest.param({"deep": "to/deep"}, id="up"),
        pytest.param({"inner": "to/other", "deep": "to/other/deep"}, id="aside"),
        pytest.param({"inner": "inner", "deep": "inner/deep"}, id="out"),
        pytest.param({"outer": "up", "inner": "up/inner", "deep": "up/inner/deep"}, id="all"),
        pytest.param({"outer": "to/x", "inner": "to/x/y", "deep": "to/x/y/z"}, id="down"),
    ],
)
def test_moved_targets_are_where_they_belong_after_one_pass_and_back_after_another(
    parent: str, targets: dict[str, str], request: pytest.FixtureRequest
) -> None:
    world: World = request.getfixturevalue(parent)
    found = tables(world)
    moved = {
        name: {**table, "target": world / targets.get(name, TARGETS[name])}
        for name, table in found.items()
    }
    for each in (found, moved, found):
        world.volumes(**each)
        world.reconcile()
        wanted = {
            os.path.relpath(table["target"], world.path): (name, USERS[name])
            for name, table in each.items()
        }
        see(world, wanted)


def test_one_that_moves_below_itself_and_up_again_gets_there(world: World) -> None:
    found = only(tables(world), "outer")
    for target in ("a", "a/b", "a", "a/b/c", "a/b", "a"):
        found["outer"]["target"] = world / target
        world.volumes(**found)
        world.reconcile()
        see(world, {target: ("outer", 1000)})
    assert not (world / "source/outer/b").exists()


def test_renamed_volumes_are_kept_with_their_children(world: World) -> None:
    found = tables(world)
    world.volumes(**found)
    world.reconcile()
    before = world.mounts()
    world.volumes(deep=found["outer"], new=found["inner"], outer=found["deep"])
    told = world.reconcile().document
    assert actions(told) == {"deep": "keep", "new": "keep", "outer": "keep"}
    assert world.mounts() == before
    recorded = {each["target"]: each["volume"] for each in record_of(world)}
    assert [recorded[str(world / each)] for each in TARGETS.values()] == ["deep", "new", "outer"]
    see(world, usual())


@pytest.mark.fault(33, "with volumes below")
@pytest.mark.parametrize(
    ("where", "user"),
    [
        ("renamed-above", 1000),
        ("moved", 1000),
        ("moved", 2000),
        ("moved-child", 2000),
        ("moved-below-another", 1000),
        ("moved-under-the-parent", 2000),
    ],
)
def test_what_is_found_elsewhere_is_brought_back_with_all_below_it(
    world: World, where: str, user: int
) -> None:
    found = tables(world)
    for table in found.values():
        table["target"] = Path(str(table["target"]).replace(f"{world.path}/to", "/mnt/up/to"))
    world.volumes(**found)
    world.reconcile()
    (world / "away").mkdir()
    (world / "source/outer/away").mkdir()
    match where:
        case "renamed-above":
            (world / "up").rename(world / "renamed")
        case "moved":
            run("mount", "--move", str(world / "up/to"), str(world / "away"))
        case "moved-child":
            run("mount", "--move", str(world / "up/to/inner"), str(world / "away"))
        case "moved-below-another":
            run("mount", "--move", str(world / "up/to/inner/deep"), str(world / "up/to/away"))
        case _:
            run("mount", "--move", str(world / "up/to/inner"), str(world / "up/to/away"))
    found["outer"]["user"] = f"{user}:{user}"
    world.volumes(**found)
    status = world.mountd("status", "--json")
    assert status.status == 1
    assert any(each["drift"] for each in status.document["volumes"])
    world.reconcile()
    see(world, {f"up/{target}": it for target, it in usual(outer=user).items()})


def _overlay(world: World) -> Path:
    for name in ("lower", "upper", "index", "source/outer"):
        world.folder(name)
    (world / "index/hello").unlink()
    for layer in ("lower", "upper"):
        (world / layer / "hello").write_text("outer")
    layers = f"lowerdir={world / 'lower'},upperdir={world / 'upper'},workdir={world / 'index'}"
    run("mount", "-t", "overlay", "-o", layers, "overlay", str(world / "source/outer"))
    return world / "source/outer"


def test_a_parent_with_raw_ids_has_children_all_the_same(world: World) -> None:
    _overlay(world)
    found = tables(world)
    for outer, action in (
        ({"user": "1000:1000"}, "mount"),
        ({"user": "2000:2000"}, "keep"),
        ({"noexec": True}, "adjust"),
    ):
        found["outer"] |= outer
        world.volumes(**found)
        told = world.reconcile()
        assert (told.volume("outer")["action"], told.volume("outer")["fallback"]) == (
            action,
            "plain",
        )
        assert owner(world / "to") == (501, 20)
        assert owner(world / "to/inner/hello") == (1001, 1001)
        assert owner(world / "to/inner/deep/hello") == (1002, 1002)
        assert len(record_of(world)) == 3
        assert not world.reconcile().document["changed"]
    run("umount", "--lazy", str(world / "source/outer"))  # what comes to light can be idmapped
    (world / "source/outer/hello").write_text("outer")
    world.volumes(**tables(world))
    with watching(world / "to/inner", world / "to/inner/deep") as seen:
        told = world.reconcile()
    assert told.volume("outer")["fallback"] is None
    assert seen[world / "to/inner/deep"] == {"1002", "1002 deep"}
    see(world, usual())


def test_a_child_alone_comes_back_on_its_parent(world: World) -> None:
    world.volumes(**tables(world))
    world.reconcile()
    run("umount", str(world / "to/inner/deep"))
    assert actions(world.reconcile().document) == {
        "outer": "keep",
        "inner": "keep",
        "deep": "mount",
    }
    run("umount", "-R", str(world / "to"))
    assert set(actions(world.reconcile().document).values()) == {"mount"}
    see(world, usual())


def test_children_are_adopted_without_a_record(world: World) -> None:
    world.volumes(**dict(reversed(tables(world).items())))
    world.reconcile()
    before = world.mounts()
    Path(world.state, "record.json").unlink()
    assert set(actions(world.reconcile().document).values()) == {"keep"}
    assert world.mounts() == before
    see(world, usual())
