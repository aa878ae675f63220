"""Recursive volumes: all submounts come along, whole, with the volume's ids and flags, or none."""

import os
from pathlib import Path
from typing import Any

import pytest
from old_kernel import DEBIAN_12, NO_IDMAPPING, Kernel
from world import World, disks, mount_id, mount_idmapped, owner, record_of, run, running

BOTH = pytest.mark.parametrize("kernel", [None, DEBIAN_12], ids=["ours", "debian-12"])


def tree(world: World, *names: str, fs_type: str = "tmpfs") -> Path:
    """A source of 501's with filesystems mounted below it, each with a file of 501's."""
    source = world.folder("source") if not (world / "source").exists() else world / "source"
    for name in names or ("a", "a/b", "c d"):
        mount(source / name, fs_type)
    return source


def mount(path: Path, fs_type: str = "tmpfs", *options: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", fs_type, *options, fs_type, str(path))
    if fs_type != "proc":
        (path / "file").write_text("file\n")
        for each in (path / "file", path):
            os.chown(each, 501, 20)


def volume(world: World, **keys: Any) -> Path:
    base = {"source": world / "source", "target": world / "work", "user": "1000:1000"}
    table = {**base, "recursive": True, **keys}
    world.volumes(work=table)
    return Path(table["target"])


def points(world: World, path: Path | None = None) -> list[str]:
    """What is mounted at the target and below it, from there, sorted: one word for each mount."""
    target = str(path or world / "work")
    found = [each.point for each in world.mounts() if f"{each.point}/".startswith(f"{target}/")]
    return sorted(each[len(target) :].lstrip("/") or "." for each in found)


def options(world: World, path: Path) -> set[str]:
    (found,) = (each.options for each in world.mounts() if each.point == str(path))
    return found


ALL = [".", "a", "a/b", "c d"]


@BOTH
@pytest.mark.parametrize("where", ["private", "shared"])
def test_all_submounts_are_mapped_kept_replaced_and_taken_off(
    request: pytest.FixtureRequest, kernel: Kernel | None, where: str
) -> None:
    world: World = request.getfixturevalue("world" if where == "private" else "shared_world")
    source = tree(world)
    before = world.mounts()
    target = volume(world)
    assert world.reconcile(kernel=kernel).volume("work")["action"] == "mount"
    for uid in (1000, 1001):
        for name in ALL:
            assert owner(target / name) == (uid, uid)
        assert owner(target / "a/b/file") == (uid, uid)
        assert world.as_user(uid, "touch", str(target / f"a/b/{uid}")).status == 0
        assert owner(source / f"a/b/{uid}") == (501, 20)
        assert points(world) == ALL
        again = world.reconcile(kernel=kernel)
        assert (again.document["changed"], again.volume("work")["action"]) == (False, "keep")
        assert len(record_of(world)[0]["submounts"]) == 3
        if uid == 1000:
            volume(world, user="1001:1001")
            found = world.reconcile(kernel=kernel).volume("work")
            assert found["action"] == "replace"
            assert any("gap" in each for each in found["notes"]) == (kernel is DEBIAN_12)
    assert world.mountd("status", kernel=kernel).status == 0
    assert world.mountd("unmount", "work", kernel=kernel).status == 0
    assert world.mounts() == before
    assert record_of(world) == []


def test_without_it_submounts_are_left_out(world: World) -> None:
    source = world.folder("source")
    (source / "a").mkdir()
    (source / "a/below").touch()
    mount(source / "a")
    target = volume(world, recursive=False)
    world.reconcile()
    assert points(world) == ["."]
    assert os.listdir(target / "a") == ["below"]
    volume(world)
    run("umount", str(target))
    world.reconcile()
    assert os.listdir(target / "a") == ["file"]


@pytest.mark.parametrize("kind", ["proc", "ramfs", "ext3"])
@pytest.mark.parametrize("fallback", ["fail", "plain"])
def test_one_that_refuses_is_named_and_none_is_mapped(
    world: World, kind: str, fallback: str
) -> None:
    source = tree(world, "a")
    if kind == "ext3":
        with disks(world) as disk:
            (source / "a/deep").mkdir()
            run("mount", "-t", kind, disk(kind), str(source / "a/deep"))
    else:
        mount(source / "a/deep", kind)
    target = volume(world, fallback=fallback)
    for words in (["-n"], [], []):
        result = world.reconcile(*words, status=int(fallback == "fail"))
        found = result.volume("work")
        assert found["reason"] == "filesystem-refuses"
        assert found["fallback"] == ("plain" if fallback == "plain" else None)
        if words == []:
            assert f"{source}/a/deep" in result.err
            assert f"{kind} refuses" in result.err
    if fallback == "fail":
        assert points(world) == []
    else:
        assert points(world) == [".", "a", "a/deep"]
        assert owner(target) == owner(target / "a") == (501, 20)
        assert world.mountd("unmount", "--all").status == 0
    assert points(world) == []


def test_a_submount_of_which_there_is_no_second_one_is_named(world: World) -> None:
    source = tree(world, "a", "b")
    run("mount", "--make-unbindable", str(source / "b"))
    volume(world)
    found = world.reconcile(status=1).volume("work")
    assert (found["state"], found["reason"]) == ("failed", "mount-refused")
    assert str(source / "b") in found["error"]["message"]
    assert points(world) == []


def test_a_submount_of_which_there_is_no_second_one_leaves_no_confusion(world: World) -> None:
    """The kernel leaves it out of a clone, without a word."""
    source = tree(world, "a", "b")
    run("mount", "--make-unbindable", str(source / "b"))
    volume(world, idmap="never")
    first = world.mountd("reconcile", "--json")
    if first.status == 0:
        assert mount_id(world / "work") not in record_of(world)[0]["submounts"]
        assert world.reconcile().volume("work")["action"] == "keep"
    else:
        assert str(source / "b") in first.volume("work")["error"]["message"]
    assert world.mountd("unmount", "--all").status == 0
    assert points(world) == []


@BOTH
@pytest.mark.parametrize("way", ["stacked", "hidden"])
def test_submounts_that_others_cover_come_along_and_go(
    world: World, kernel: Kernel | None, way: str
) -> None:
    source = tree(world, "a")
    if way == "stacked":
        mount(source / "a")
    else:
        mount(source / "a/b")
        mount(source / "a")
    (source / "a/top").touch()
    before = world.mounts()
    target = volume(world)
    world.reconcile(kernel=kernel)
    assert sorted(os.listdir(target / "a")) == ["file", "top"]
    assert owner(target / "a") == (1000, 1000)
    volume(world, user="1001:1001")
    assert world.reconcile(kernel=kernel).volume("work")["action"] == "replace"
    assert owner(target / "a") == (1001, 1001)
    unmounted = world.mountd("unmount", "--all", kernel=kernel)
    assert unmounted.status == 0, unmounted.err
    assert world.mounts() == before


def test_flags_are_everywhere_and_what_is_not_said_stays(world: World) -> None:
    source = tree(world, "a")
    mount(source / "b", "tmpfs", "-o", "noexec,noatime")
    run("mount", "-o", "remount,bind,ro,noexec,noatime", str(source / "b"))
    target = volume(world, idmap="never")
    world.reconcile()
    assert all({"nosuid", "nodev"} <= options(world, target / each) for each in (".", "a", "b"))
    assert not {"ro", "noexec", "noatime"} & options(world, target / "a")
    assert {"ro", "noexec", "noatime"} <= options(world, target / "b")


def test_without_mount_setattr_submounts_could_not_have_their_flags(world: World) -> None:
    tree(world, "a")
    before = world.mounts()
    volume(world)
    told = world.reconcile(status=1, kernel=NO_IDMAPPING).volume("work")
    assert told["reason"] in ("seccomp", "kernel-too-old")
    assert world.mounts() == before


def test_what_is_said_counts_for_all(world: World) -> None:
    source = tree(world, "a", "b")
    run("mount", "-o", "remount,bind,ro,noexec", str(source / "b"))
    keys = {"read_only": True, "atime": "noatime", "noexec": False, "nosuid": False}
    target = volume(world, idmap="always", **keys)
    world.reconcile()
    for each in (".", "a", "b"):
        found = options(world, target / each)
        assert {"ro", "noatime", "nodev"} <= found
        assert not {"noexec", "nosuid"} & found
    with pytest.raises(OSError, match="Read-only"):
        (target / "a/new").touch()
    (source / "a/new").touch()


@BOTH
def test_flags_that_are_changed_later_change_everywhere(
    world: World, kernel: Kernel | None
) -> None:
    tree(world, "a", "a/b")
    target = volume(world, idmap="always")
    world.reconcile(kernel=kernel)
    volume(world, idmap="always", read_only=True, noexec=True)
    assert world.reconcile(kernel=kernel).document["changed"]
    for each in (".", "a", "a/b"):
        assert {"ro", "noexec"} <= options(world, target / each), each
    volume(world, idmap="always")
    world.reconcile(kernel=kernel)
    for each in (".", "a", "a/b"):
        assert not {"ro", "noexec"} & options(world, target / each), each
    assert points(world) == [".", "a", "a/b"]


@pytest.mark.parametrize("where", ["", "a", "a/b"])
def test_a_busy_one_is_named_and_all_stay(world: World, where: str) -> None:
    tree(world)
    target = volume(world)
    world.reconcile()
    script = "echo; read _"
    with running("sh", "-c", script, cwd=target / where) as process:
        found = world.mountd("unmount", "work", "--json").volume("work")
        assert found["error"]["code"] == "busy"
        assert f"(pid {process.pid})" in found["error"]["message"]
        assert str(target / where) in found["error"]["message"]
        assert points(world) == ALL, "it is mounted as a whole, or not at all"
    assert world.reconcile().volume("work")["action"] == "keep"
    assert owner(target / "a/b/file") == (1000, 1000)
    assert world.mountd("unmount", "work").status == 0
    assert points(world) == []


@BOTH
def test_without_a_record_the_whole_tree_is_adopted(world: World, kernel: Kernel | None) -> None:
    tree(world)
    volume(world)
    world.reconcile(kernel=kernel)
    (before,) = record_of(world)
    Path(world.state, "record.json").unlink()
    assert world.reconcile(kernel=kernel).volume("work")["action"] == "keep"
    (after,) = record_of(world)
    assert (after["id"], sorted(after["submounts"])) == (before["id"], sorted(before["submounts"]))
    volume(world, user="1001:1001")
    assert world.reconcile(kernel=kernel).volume("work")["action"] == "replace"
    assert points(world) == ALL
    assert world.mountd("unmount", "--all", kernel=kernel).status == 0
    assert points(world) == []


@BOTH
def test_a_submount_that_someone_took_off_comes_back(world: World, kernel: Kernel | None) -> None:
    tree(world)
    target = volume(world)
    world.reconcile(kernel=kernel)
    before = points(world)
    run("umount", str(target / "a/b"))
    status = world.mountd("status", "--json", kernel=kernel)
    (drift,) = status.volume("work")["drift"]
    assert (status.status, drift["field"], drift["found"]) == (1, "mount", "nothing")
    assert drift["wanted"] == str(target / "a/b")
    assert world.reconcile(kernel=kernel).volume("work")["action"] == "replace"
    assert points(world) == before
    assert world.reconcile(kernel=kernel).volume("work")["action"] == "keep"
    assert world.mountd("unmount", "--all", kernel=kernel).status == 0
    assert points(world) == []


def test_one_that_someone_took_off_in_place_comes_back(world: World) -> None:
    tree(world)
    target = volume(world, target=world / "source")
    world.reconcile()
    run("umount", "--recursive", str(target / "a"))
    status = world.mountd("status")
    assert status.status == 1
    assert "source: is what this volume's mount shows" in " ".join(status.out.split())
    world.reconcile()
    assert owner(target / "a/b") == (1000, 1000)
    assert not world.reconcile().document["changed"]
    assert world.mountd("status").status == 0


@pytest.mark.fault(17, "a submount's")
@BOTH
@pytest.mark.parametrize("way", ["unmount", "replace"])
def test_what_got_the_id_of_a_submount_that_is_gone_is_left_alone(
    world: World, kernel: Kernel | None, way: str
) -> None:
    tree(world, "a")
    target = volume(world)
    world.reconcile(kernel=kernel)
    run("umount", str(target / "a"))
    mount(world / "other")
    if way == "replace":
        volume(world, user="1001:1001")
        world.reconcile(kernel=kernel)
        assert owner(target) == (1001, 1001)
    assert world.mountd("unmount", "--all", kernel=kernel).status == 0
    assert (world / "other/file").exists()
    assert points(world) == []


def test_a_stranger_on_a_submount_is_in_the_way_and_named(world: World) -> None:
    tree(world)
    target = volume(world)
    world.reconcile()
    mount(target / "a/b")
    volume(world, user="1001:1001")
    found = world.reconcile(status=1).volume("work")
    assert (found["state"], found["reason"]) == ("conflict", "foreign-mount")
    assert str(target / "a/b") in found["error"]["message"]
    assert owner(target) == (1000, 1000)
    unmounted = world.mountd("unmount", "--all", "--json")
    assert unmounted.status == 1
    assert str(target / "a/b") in unmounted.err
    run("umount", str(target / "a/b"))
    assert points(world) == ALL
    world.reconcile()
    assert owner(target / "a/b") == (1001, 1001)


def test_submounts_that_come_and_go_below_the_source_are_not_compared(world: World) -> None:
    source = tree(world, "a")
    target = volume(world)
    world.reconcile()
    mount(source / "later")
    run("umount", str(source / "a"))
    assert world.reconcile().volume("work")["action"] == "keep"
    volume(world, user="1001:1001")
    world.reconcile()
    assert points(world) == [".", "later"]
    assert owner(target / "later") == (1001, 1001)


def test_it_becomes_recursive_and_stops_to_be(world: World) -> None:
    """Which submounts there are is not compared, so it takes a new mount: for another user."""
    tree(world, "a")
    volume(world, recursive=False)
    world.reconcile()
    volume(world, user="1001:1001")
    world.reconcile()
    assert points(world) == [".", "a"]
    volume(world, recursive=False)
    world.reconcile()
    assert points(world) == ["."]
    assert len(record_of(world)) == 1


def test_submounts_that_are_idmapped_themselves_are_composed_or_named(world: World) -> None:
    source = tree(world, "a")
    below = world.folder("below")
    os.chown(below / "hello", 502, 502)
    mount_idmapped(
        below, source / "a/mapped", (501, 600, 1), (20, 601, 1), (502, 501, 1), (0, 0, 1)
    )
    volume(world)
    result = world.mountd("reconcile", "--json")
    found = result.volume("work")
    target = world / "work/a/mapped"
    assert result.status == 0, result.err
    if found["fallback"]:
        assert str(source / "a/mapped") in result.err
        assert owner(target) == (600, 601)
    else:
        assert (owner(target), owner(target / "hello")[0]) == ((600, 601), 1000)
    assert world.reconcile().volume("work")["action"] == "keep"
    assert world.mountd("unmount", "--all").status == 0


@pytest.mark.parametrize("user", ["1000:1000", None])
@BOTH
def test_submounts_below_an_idmapped_source_follow(
    world: World, kernel: Kernel | None, user: str | None
) -> None:
    below = world.folder("below")
    mount_idmapped(below, world / "source", (501, 600, 1), (20, 601, 1), (0, 0, 1))
    (below / "a").mkdir()
    mount(world / "source/a")
    target = volume(world, **({"user": user} if user else {"idmap": "never"}))
    found = world.reconcile(kernel=kernel)
    if user and kernel:
        assert found.volume("work")["reason"] == "source-is-idmapped"
    if user and not kernel:
        assert owner(target) == (1000, 1000)
        assert owner(target / "a") != (501, 20), "a submount never shows raw ids"
    else:
        assert (owner(target), owner(target / "a")) == ((600, 601), (501, 20))
    assert points(world) == [".", "a"]
    assert world.mountd("unmount", "--all", kernel=kernel).status == 0
    assert points(world) == []


@BOTH
@pytest.mark.parametrize("at", ["a/inner", "inner"])
def test_a_volume_below_a_recursive_ones_target_comes_along(
    world: World, kernel: Kernel | None, at: str
) -> None:
    source = tree(world, "a")
    (source / at).mkdir()
    world.folder("other")
    base = {"source": world / "source", "target": world / "work", "recursive": True}
    inner = {"source": world / "other", "target": world / "work" / at, "user": "1002:1002"}
    for uid in (1000, 1001):
        world.volumes(inner=inner, work={**base, "user": f"{uid}:{uid}"})
        world.reconcile(kernel=kernel)
        assert points(world) == sorted([".", "a", at])
        assert owner(world / "work") == owner(world / "work/a") == (uid, uid)
        assert owner(world / "work" / at) == (1002, 1002)
        assert not world.reconcile(kernel=kernel).document["changed"]
    world.volumes(inner=inner)
    world.reconcile(kernel=kernel)
    assert points(world) == [at]
    assert world.mountd("unmount", "--all", kernel=kernel).status == 0
    assert points(world) == []


@BOTH
def test_a_volumes_target_below_a_recursive_ones_source(
    world: World, kernel: Kernel | None
) -> None:
    """Whichever comes first: no pass fails, the second has nothing to do, and all goes."""
    source = tree(world, "a")
    world.folder("other")
    before = world.mounts()
    inner = {"source": world / "other", "target": source / "inner", "user": "1002:1002"}
    base = {"source": source, "target": world / "work", "recursive": True}
    for uid in (1000, 1001):
        world.volumes(work={**base, "user": f"{uid}:{uid}"}, inner=inner)
        result = world.reconcile(kernel=kernel)
        assert not world.reconcile(kernel=kernel).document["changed"]
        assert owner(source / "inner") == (1002, 1002)
        if result.volume("work")["fallback"]:
            assert str(source / "inner") in result.err
            assert owner(world / "work/a") == (501, 20)
        else:
            assert owner(world / "work/a") == (uid, uid)
    assert world.mountd("unmount", "--all", kernel=kernel).status == 0
    assert world.mounts() == before


def test_a_volume_that_leaves_from_below_a_recursive_ones_source_goes_first(world: World) -> None:
    for name in ("source", "source/in", "inner"):
        world.folder(name)
    tree = {"source": world / "source", "target": world / "to", "recursive": True}
    inner = {"source": world / "inner", "target": world / "source/in", "user": "1001:1001"}
    world.volumes(inner=inner)
    world.reconcile()
    world.volumes(inner=inner, tree={**tree, "user": "1000:1000"})
    assert world.reconcile().volume("tree")["reason"] == "source-is-idmapped"
    world.volumes(tree={**tree, "user": "1000:1000"})
    assert world.reconcile().volume("tree")["reason"] is None
    assert owner(world / "to/in") == (1000, 1000)
    assert not world.reconcile().document["changed"]


@BOTH
@pytest.mark.parametrize("source", ["source", "/"])
def test_a_recursive_volume_below_its_own_source_would_contain_itself(
    world: World, kernel: Kernel | None, source: str
) -> None:
    tree(world, "a")
    before = world.mounts()
    volume(world, source=world / source, target=world / "source/inner")
    told = world.reconcile(status=1, kernel=kernel).volume("work")
    assert (told["state"], told["reason"]) == ("failed", "mount-refused")
    assert world.mounts() == before


@BOTH
def test_a_recursive_source_in_place(world: World, kernel: Kernel | None) -> None:
    tree(world, "a")
    before = world.mounts()
    target = volume(world, target=world / "source")
    world.reconcile(kernel=kernel)
    assert owner(target) == owner(target / "a") == owner(target / "a/file") == (1000, 1000)
    assert not world.reconcile(kernel=kernel).document["changed"]
    volume(world, target=world / "source", user="1001:1001")
    world.reconcile(kernel=kernel)
    assert owner(target) == owner(target / "a") == (1001, 1001)
    assert not world.reconcile(kernel=kernel).document["changed"]
    assert world.mountd("unmount", "--all", kernel=kernel).status == 0
    assert world.mounts() == before


def test_a_replacement_is_seen_by_no_reader(world: World) -> None:
    tree(world)
    target = volume(world)
    world.reconcile()
    script = f"import os; print(flush=True)\nwhile True: os.stat({str(target / 'a/b/file')!r})"
    with running("python3", "-c", script) as reader:
        for uid in (1001, 1002, 1003):
            volume(world, user=f"{uid}:{uid}")
            world.reconcile()
        assert reader.poll() is None, "it saw the bare folder"
        reader.kill()
    assert points(world) == ALL
