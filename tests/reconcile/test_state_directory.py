"""The state directory goes, is covered, or has odd things in it: nothing is mounted twice."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from volumes import is_mounted, make_plain, table
from watcher import do, eventually, watch
from world import World, record_of, run

_LOSSES: dict[str, Callable[[World], object]] = {
    "removed": lambda world: do(world, "mv state gone; rm -r gone"),
    "emptied": lambda world: do(world, "rm state/*"),
    "renamed": lambda world: do(world, "mv state elsewhere"),
    "replaced": lambda world: do(world, "mv state elsewhere; mkdir -p state"),
    "covered": lambda world: run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", world.state),
    "without its record": lambda world: do(world, "rm state/record.json state/watch.lock"),
    "with a FIFO for it": lambda world: do(
        world, "mkfifo a b; mv a state/record.json.new; mv b state/record.json; rm state/watch.lock"
    ),
}


def names_on_record(world: World) -> list[str]:
    path = Path(world.state, "record.json")
    if not path.is_file():
        return []
    return sorted(each["volume"] for each in json.loads(path.read_text())["mounts"])


@pytest.mark.parametrize("how", _LOSSES)
def test_a_state_directory_that_goes_is_made_again_with_all_that_it_had(
    world: World, how: str
) -> None:
    make_plain(world, "stays", "changes", "leaves")
    with watch(world) as watcher:
        before = sorted(point for point, *_ in table(world))
        _LOSSES[how](world)
        eventually(lambda: names_on_record(world) == ["changes", "leaves", "stays"])
        for command in ("watch", "unmount"):
            words = ["--all"] if command == "unmount" else []
            assert world.mountd(command, *words).status == 75
        assert world.reconcile().document["changed"] is False
        do(world, "umount stays")
        eventually(lambda: is_mounted(world / "stays"))
        make_plain(world, "stays", "changes", user="1001:1001")
        eventually(lambda: watcher.status == "2 volumes mounted")
        after = sorted(point for point, *_ in table(world))
        assert [each for each in after if each != world.state] == before[:1] + before[2:]
        watcher.tells("it is made anew of what is known here", 1)
        assert watcher.stop() == 0
        if how == "covered":
            run("umount", "-l", world.state)


def test_a_state_directory_that_others_may_write_is_used_once_it_is_mended(world: World) -> None:
    make_plain(world, "work")
    with watch(world) as watcher:
        os.chmod(world.state, 0o777)
        do(world, "umount work")
        eventually(lambda: "must be a folder that only root can write" in watcher.status)
        os.chmod(world.state, 0o755)
        eventually(lambda: is_mounted(world / "work"))
        eventually(lambda: watcher.status == "1 volume mounted")


def test_a_watch_that_has_mounted_nothing_misses_no_record(world: World) -> None:
    world.volumes(late={"source": world / "late", "target": world / "work"})
    with watch(world) as watcher:
        watcher.reload()
        watcher.reload()
        assert "made anew" not in watcher.log


def make_scratch(world: World) -> Path:
    """A manifest with a tmpfs of its own, and a file that must not get lost."""
    world.volumes(work={"type": "tmpfs", "source": "scratch", "target": world / "work"})
    return world / "work/precious"


def raw_mounts(world: World) -> list[str]:
    return [point for each in world.mounts() if "/" in (point := each.point.removeprefix("/mnt/"))]


@pytest.mark.parametrize("how", ["renamed", "replaced"])
def test_a_raw_mount_is_found_where_the_state_directory_was_moved_to(
    world: World, how: str
) -> None:
    precious = make_scratch(world)
    with watch(world) as watcher:
        precious.write_text("mine")
        _LOSSES[how](world)
        watcher.reload()
        assert precious.read_text() == "mine"
        assert len(raw_mounts(world)) == 1
        do(world, "umount work")
        eventually(precious.exists)
        world.volumes(plain={"source": world.folder("source"), "target": world / "plain"})
        eventually(lambda: raw_mounts(world) == [])


def test_a_raw_mount_that_is_covered_is_not_made_twice(world: World) -> None:
    precious = make_scratch(world)
    with watch(world) as watcher:
        precious.write_text("mine")
        _LOSSES["covered"](world)
        watcher.reload()
        assert "is covered by another mount" in watcher.status
        assert precious.read_text() == "mine"
        assert len(raw_mounts(world)) == 1
        run("umount", "-l", world.state)
        watcher.reload()
        assert watcher.status == "1 volume mounted"
        assert precious.read_text() == "mine"


def test_a_folder_of_raw_mounts_may_be_roots_link_elsewhere(world: World) -> None:
    for name in ("state", "big"):
        (world / name).mkdir()
    (world / "state/fs").symlink_to(world / "big")
    precious = make_scratch(world)
    assert world.reconcile().status == 0
    precious.write_text("mine")
    assert world.reconcile().document["changed"] is False
    Path(world.state, "record.json").unlink()
    assert world.reconcile().volume("work")["action"] == "keep"
    assert precious.read_text() == "mine"
    assert world.mountd("unmount", "--all").status == 0
    assert raw_mounts(world) == []


def test_a_link_to_a_users_folder_gets_no_raw_mount(world: World) -> None:
    (world / "state").mkdir()
    world.folder("hers", owner=(1000, 1000))
    (world / "state/fs").symlink_to(world / "hers")
    make_scratch(world)
    assert world.reconcile(status=1).volume("work")["reason"] == "unsafe-path"
    assert os.listdir(world / "hers") == ["hello"]


def _make(kind: str, path: Path) -> None:
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        (path / "inner").mkdir(parents=True)
    elif kind == "link":
        path.symlink_to("../elsewhere")
    elif kind == "device":
        os.mknod(path, 0o20666, os.makedev(1, 7))
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))


@pytest.mark.fault(15, "FIFOs, links, devices under our names")
@pytest.mark.parametrize("kind", ["FIFO", "folder", "link", "device", "socket"])
@pytest.mark.parametrize("name", ["record.json.new", "record.json", "lock", "watch.lock", "fs"])
def test_what_lies_in_the_state_directory_under_our_names_hangs_and_misleads_nobody(
    world: World, name: str, kind: str
) -> None:
    make_plain(world, "work")
    (world / "state").mkdir()
    (world / "elsewhere").write_text("precious")
    _make(kind, Path(world.state, name))
    result = world.mountd("reconcile")
    assert (world / "elsewhere").read_text() == "precious"
    if name == "lock" and result.status:
        assert f"the lock {world.state}/lock can't be made" in result.err
    else:
        assert [each["volume"] for each in record_of(world)] == ["work"]
