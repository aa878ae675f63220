"""Sources that become others while a watch runs: made anew, another's, with other submounts."""

import os
from pathlib import Path
from typing import Any

import pytest
from volumes import NODE, make_plain, table
from watcher import counted_passes, do, eventually, steadily, watch
from world import World, mount_id, owner, run

KINDS: dict[str, tuple[dict[str, Any], str]] = {
    # a volume's keys, and where its source's folder is from the world
    "plain": ({"source": "$/roots/source"}, "roots/source"),
    "below a user's folder": ({"source": "$/users/source"}, "users/source"),
    "in a volume": ({"source": "$/outer/source"}, "roots/source"),
    "by a link above": ({"source": "$/link/source"}, "roots/source"),
    "by a link": ({"source": "$/linked"}, "roots/source"),
    "in a filesystem": ({"source": "scratch", "type": "tmpfs", "subdir": "source"}, ""),
}
MADE_ANEW = {
    "removed": "rm -r {0}; mkdir {0}; echo new >{0}/new; chown -R 501:20 {0}",
    "renamed": "mkdir -p {0}.new; echo new >{0}.new/new; chown -R 501:20 {0}.new;"
    " mv {0} {0}.old; mv {0}.new {0}",
}


@pytest.mark.parametrize("way", MADE_ANEW)
@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_is_made_anew_is_followed(world: World, kind: str, way: str) -> None:
    keys, place = KINDS[kind]
    for each in ("roots/source", "users/source"):
        world.folder(each)
    os.chown(world / "users", 1000, 1000)
    (world / "link").symlink_to("roots")
    (world / "linked").symlink_to("roots/source")
    table = {"target": world / "work", "user": "1000:1000"}
    world.volumes(
        outer={"source": world / "roots", "target": world / "outer"},
        work=table | {key: value.replace("$", world.path) for key, value in keys.items()},
    )
    target = world / "work"
    with watch(world) as watcher:
        if kind == "in a filesystem":
            (raw,) = Path(world.state, "fs").iterdir()
            place = str(raw / "source")
            do(world, f"mkdir {place}; chown 501:20 {place}")
        eventually(lambda: owner(target) == NODE)
        do(world, MADE_ANEW[way].format(place))
        eventually(lambda: owner(target / "new") == NODE)
        eventually(lambda: watcher.status == "2 volumes mounted")


def test_one_in_place_is_followed_where_a_folder_above_is_made_anew(world: World) -> None:
    place = world.folder("holder/work")
    world.volumes(work={"source": place, "target": place, "user": "1000:1000"})
    with watch(world) as watcher:
        assert owner(place / "hello") == NODE
        do(world, "mkdir -p new/work; touch new/work/new; chown -R 501:20 new/work")
        do(world, "mv holder old; mv new holder")
        eventually(lambda: owner(place / "new") == NODE)
        eventually(lambda: owner(world / "old/work/hello") == (501, 20))
        eventually(lambda: watcher.status == "1 volume mounted")


@pytest.mark.parametrize("name", ["link", "link/deep"])
def test_a_link_that_leads_elsewhere_is_followed(world: World, name: str) -> None:
    for each in ("one", "two"):
        world.folder(f"{each}/deep")
        (world / each / "deep" / each).touch()
    (world / "link").symlink_to("one/deep" if name == "link" else "one")
    world.volumes(work={"source": world / name, "target": world / "work"})
    with watch(world):
        eventually((world / "work/one").exists)
        do(world, f"ln -sfn {'two/deep' if name == 'link' else 'two'} link")
        eventually((world / "work/two").exists)


@pytest.mark.fault(22, "removed after it was mounted")
def test_a_source_that_is_away_keeps_its_mount_until_another_comes(world: World) -> None:
    source = world.folder("source")
    world.volumes(work={"source": source, "target": world / "work", "user": "1000:1000"})
    with watch(world) as watcher:
        do(world, "mv source away")
        eventually(lambda: watcher.status.startswith("0 of 1 mounted; work: "))
        assert owner(world / "work/hello") == NODE
        do(world, "mkdir source; touch source/new; chown -R 501:20 source")
        eventually(lambda: owner(world / "work/new") == NODE)


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


@pytest.mark.fault(21, "a folder above, and mended")
@pytest.mark.parametrize("is_link", [False, True])
def test_a_folder_above_the_manifest_that_others_can_write_no_longer_is_seen(
    world: World, *, is_link: bool
) -> None:
    above = world.folder("above", owner=(0, 0))
    (above / "deep").mkdir()
    world.manifest = str(above / "deep/mountd.toml")
    if is_link:
        (world / "link.toml").symlink_to(world.manifest)
        (above / "deep/mountd.toml").touch()
        world.manifest = str(world / "link.toml")
    make_plain(world, "work")
    with watch(world) as watcher:
        above.chmod(0o777)
        make_plain(world, "work", "other")
        eventually(lambda: "everyone" in watcher.log)
        assert not (world / "other").exists()
        above.chmod(0o755)
        eventually((world / "other/hello").exists)
