"""Sources that become others while a watch runs: made anew, another's, with other submounts."""

import os
import shutil
from pathlib import Path

import pytest
from volumes import make_plain, table
from watcher import counted_passes, do, eventually, steadily, watch
from world import World, mount_id, owner, run


def _made_anew(world: World, source: Path) -> None:
    """As a clone of a repository is, after `rm -r`: another folder under the same name."""
    kept = source.with_name("kept")  # so that no inode is used again
    source.rename(kept)
    world.folder(str(source.relative_to(world.path)))
    (source / "new").write_text("")
    shutil.rmtree(kept)


@pytest.mark.parametrize("way", ["source", "home/source", "link/source"])
def test_a_folder_that_is_made_anew_is_followed(world: World, way: str) -> None:
    world.folder("home", owner=(1000, 1000))  # where its user could mount something
    (world / "link").symlink_to(".")
    source = world.folder(way.replace("link/", ""))
    keys = {"source": world / way, "target": world / "work", "user": "1000:1000"}
    world.volumes(work=keys)
    with watch(world) as watcher:
        _made_anew(world, source)
        eventually((world / "work/new").exists)
        watcher.tells("replaced: work at", 1)


def test_a_folder_of_a_filesystem_that_is_made_anew_is_followed(world: World) -> None:
    files = {"type": "tmpfs", "source": "files"}
    world.volumes(
        all={**files, "target": world / "all"},
        work={**files, "target": world / "work", "subdir": "sub"},
    )
    with watch(world):
        world.folder("all/sub")
        eventually((world / "work/hello").exists)
        _made_anew(world, world / "all/sub")
        eventually((world / "work/new").exists)


def test_a_link_that_leads_to_another_folder_is_followed(world: World) -> None:
    for name in ("one", "two"):
        (world.folder(name) / name).write_text("")
    (world / "link").symlink_to("one")
    world.volumes(work={"source": world / "link", "target": world / "work"})
    with watch(world):
        assert (world / "work/one").exists()
        (world / "new").symlink_to("two")
        (world / "new").rename(world / "link")
        eventually((world / "work/two").exists)


def test_sources_that_stay_what_they_are_cost_no_pass(world: World) -> None:
    make_plain(world, "work")
    world.volumes(
        work={"source": world / "source", "target": world / "work", "user": "1000:1000"},
        inner={"source": world / "work", "target": world / "inner"},
        place={"source": world.folder("place"), "target": world / "place", "user": "1000:1000"},
    )
    with watch(world) as watcher, counted_passes(world) as passes:
        eventually(lambda: watcher.status == "3 volumes mounted")
        before = passes()
        (world / "source/more").write_text("")
        os.utime(world / "source")
        steadily(lambda: passes() == before, 2.5)


@pytest.mark.parametrize("undoing", ["mount -o remount,bind,rw {}", "umount {}"])
def test_what_was_done_to_a_submount_is_undone(world: World, undoing: str) -> None:
    source = world.folder("source")
    (source / "sub").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(source / "sub"))
    keys = {"source": source, "target": world / "work", "recursive": True, "read_only": True}
    world.volumes(work=keys)
    with watch(world) as watcher:
        before = table(world)
        do(world, undoing.format("work/sub"))
        eventually(lambda: table(world) == before)
        watcher.tells("drift: work at", 1)
        with pytest.raises(OSError, match="Read-only"):
            (world / "work/sub/new").write_text("")
    run("mount", "-o", "remount,bind,rw", str(world / "work/sub"))
    (drift,) = world.mountd("status", "--json").volume("work")["drift"]
    assert (drift["field"], drift["found"][:7]) == ("flags", "sub: rw")
    assert world.reconcile().volume("work")["action"] == "replace"
    assert world.reconcile().volume("work")["action"] == "keep"


def test_another_owner_is_followed_and_named(world: World) -> None:
    make_plain(world, "work")
    with watch(world) as watcher:
        before = mount_id(world / "work")
        os.chown(world / "source", 601, 20)
        watcher.reload()
        assert owner(world / "work") == (1000, 1000)
        assert mount_id(world / "work") != before
        said = f"replaced: work at {world / 'work'}: the stored owner was 501:20, and is 601:20"
        assert said in watcher.log
    os.chown(world / "source", 701, 20)
    assert "the stored owner was 601:20, and is 701:20" in world.mountd("reconcile", "-n").out


def test_a_folder_above_the_manifest_that_others_can_write_no_longer_is_seen(world: World) -> None:
    above = world.folder("above", owner=(0, 0))
    world.manifest = str(above / "deep/mountd.toml")
    (above / "deep").mkdir()
    make_plain(world, "work")
    with watch(world) as watcher:
        above.chmod(0o777)
        make_plain(world, "work", "other")
        eventually(lambda: "everyone" in watcher.log)
        assert not (world / "other").exists()
        above.chmod(0o755)
        eventually((world / "other/hello").exists)
