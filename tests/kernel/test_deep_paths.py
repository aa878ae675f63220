"""Mounts and renames with paths of any length and any name: somebody's own trouble, nobody else's.

A user needs no privilege for it: she renames the folder above her volume's target, or mounts by
fusermount, where the path is longer than PATH_MAX (4,096 bytes) or deeper than Python recurses.
"""

import ctypes
import os
import subprocess
from pathlib import Path

import pytest
from deep_folders import ALICE, FARTHEST, deep
from hypothesis import given
from hypothesis import strategies as st
from old_kernel import DEBIAN_12, Kernel
from watcher import eventually, watch
from world import World, owner, run

from mountd.core.model import Flags
from mountd.core.mountinfo import parse_user
from mountd.core.mounts import ObservedMount, parents_of
from mountd.core.targets import Places, folders_above, is_within
from mountd.core.words.printable import printable

_libc = ctypes.CDLL(None, use_errno=True)
SHAPES = {"longer than PATH_MAX": (25, "d" * 200), "deep": (700, "b"), "both": (3000, "b")}


def points() -> list[bytes]:
    """Where something is mounted in the world, in the kernel's own spelling."""
    lines = Path("/proc/self/mountinfo").read_bytes().split(b"\n")
    words = {line.split(b" ")[0]: line.split(b" ") for line in lines if line}
    ours = [number for number, each in words.items() if each[4] == b"/mnt"][-1:]
    for above in ours:  # which grows; what the world itself covers isn't below it
        ours += [number for number, each in words.items() if each[1] == above]
    return [words[number][4] for number in ours[1:]]


def is_there(target: Path) -> bool:
    """Whether a volume of this world is mounted there."""
    return owner(target / "hello") == (ALICE, ALICE)


def mount_in(folder: int, name: bytes = b".") -> None:
    """A mount at a place that no path leads to."""
    before = os.open(".", os.O_PATH)
    try:
        os.fchdir(folder)
        assert _libc.mount(b"none", name, b"tmpfs", 6, None) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.fchdir(before)
        os.close(before)


def move_deep(world: World, levels: int, name: str) -> None:
    """Alice renames `up` in her home, with her volume's mount in it."""
    there = os.open(world / "home", os.O_RDONLY)
    with deep(world / "home", levels, name) as here:
        os.rename("up", "up", src_dir_fd=there, dst_dir_fd=here)
    os.close(there)


@pytest.fixture
def home(world: World) -> Path:
    """Alice's home, with the target of volume `hers`; another has nothing to do with her."""
    world.folder("source")
    for name in ("home", "home/up"):
        (world / name).mkdir()
        os.chown(world / name, ALICE, ALICE)
    world.volumes(
        hers={"source": world / "source", "target": world / "home/up/t", "user": "1000:1000"},
        other={"source": world / "source", "target": world / "o", "user": "1000:1000"},
    )
    return world / "home"


def look(world: World, kernel: Kernel | None = None) -> None:
    """Every command that only looks goes on, and what it tells is whole."""
    for words in (["status"], ["check"], ["check", "--system"]):
        assert world.mountd(*words, "--json", kernel=kernel).document
    for words in (["reconcile", "-n"], ["explain", "hers"]):
        told = world.mountd(*words, kernel=kernel)
        assert told.status in (0, 1), told.err
        assert all(line.isprintable() for line in told.out.splitlines()), told.out


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_mount_that_was_moved_far_down_comes_back(
    world: World, home: Path, shape: tuple[int, str]
) -> None:
    world.reconcile()
    move_deep(world, *shape)
    run("umount", str(world / "o"))
    look(world)
    result = world.reconcile()
    actions = [(each["name"], each["action"]) for each in result.document["volumes"]]
    assert actions == [("hers", "mount"), ("other", "mount"), ("hers", "unmount")]
    assert is_there(home / "up/t") and is_there(world / "o")
    assert len(points()) == 2, "it is still where it was moved to"
    assert world.reconcile().document["changed"] is False


def test_before_unique_ids_it_is_nobodys_there(world: World, home: Path) -> None:
    """A mount is known by where it is then, too."""
    world.reconcile(kernel=DEBIAN_12)
    move_deep(world, *SHAPES["both"])
    look(world, DEBIAN_12)
    world.reconcile(kernel=DEBIAN_12)
    assert is_there(home / "up/t")
    assert len(points()) == 3
    assert world.reconcile(kernel=DEBIAN_12).document["changed"] is False


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_mount_far_down_is_taken_off(world: World, home: Path, shape: tuple[int, str]) -> None:
    world.reconcile()
    move_deep(world, *shape)
    assert world.mountd("unmount", "--all").status == 0
    assert not points() and home.is_dir()


def test_a_mount_that_no_one_reaches_is_told_of_and_costs_nobody_else(
    world: World, home: Path
) -> None:
    world.reconcile()
    move_deep(world, *FARTHEST)
    run("umount", str(world / "o"))
    look(world)
    result = world.reconcile(status=1)
    hers, other, left = result.document["volumes"]
    assert (hers["state"], other["state"]) == ("mounted", "mounted")
    assert (left["name"], left["state"], left["reason"]) == ("hers", "failed", "unsafe-path")
    assert left["error"]["message"].startswith("this volume's mount can't be reached: a folder")
    assert owner(home / "up/t/hello") == owner(world / "o/hello") == (ALICE, ALICE)
    assert len(result.err) < 2000


@pytest.mark.parametrize("shape", [*SHAPES.values(), FARTHEST], ids=[*SHAPES, "out of reach"])
def test_a_watch_goes_on_whatever_a_user_moves(
    world: World, home: Path, shape: tuple[int, str]
) -> None:
    with watch(world) as watcher:
        eventually(lambda: is_there(home / "up/t"))
        move_deep(world, *shape)
        run("umount", str(world / "o"))
        eventually(lambda: is_there(world / "o"))
        watcher.reload()  # as the resync does, a minute later
        eventually(lambda: is_there(home / "up/t"))
        run("umount", str(home / "up/t"))
        eventually(lambda: is_there(home / "up/t"))
        assert watcher.process.poll() is None, watcher.log
        assert watcher.stop() == 0


@pytest.mark.parametrize("shape", [*SHAPES.values(), FARTHEST], ids=[*SHAPES, "out of reach"])
def test_a_watch_goes_on_whatever_a_user_mounts(
    world: World, home: Path, shape: tuple[int, str]
) -> None:
    with watch(world) as watcher, deep(home / "up", *shape) as place:
        mount_in(place)
        run("umount", str(world / "o"))
        eventually(lambda: is_there(world / "o"))
        watcher.reload()
        assert watcher.process.poll() is None, watcher.log
        assert watcher.stop() == 0
        with watch(world) as second:
            assert second.stop() == 0
        look(world)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_lies_far_below_a_target_is_in_the_way(
    world: World, home: Path, shape: tuple[int, str]
) -> None:
    with deep(home / "up", *shape) as place:
        mount_in(place)
    world.volumes(hers={"source": world / "source", "target": home / "up"})
    error = world.reconcile(status=1).volume("hers")["error"]
    assert (error["code"], error["message"][:41]) == (
        "foreign-mount",
        "a mount lies below the target, at /mnt/ho",
    )
    is_usable = shape[0] * (len(shape[1]) + 1) < 4000
    assert ("umount /mnt/home" in error["hint"]) == is_usable


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_what_lies_far_below_a_recursive_source_comes_along(
    world: World, home: Path, shape: tuple[int, str]
) -> None:
    with deep(home / "up", *shape) as place:
        mount_in(place)
        for name in ("plain", "swapped"):
            (world / name).mkdir()
        keys = {"source": home / "up", "recursive": True}
        world.volumes(
            hers={**keys, "target": world / "plain"},
            other={**keys, "target": world / "swapped", "user": "2000:2000"},
        )
        look(world)
        before = len(points())
        world.reconcile()
        assert len(points()) == before + 4
        assert world.reconcile().document["changed"] is False
        assert world.mountd("unmount", "--all").status == 0
        assert len(points()) == before


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_volume_within_another_that_was_moved_comes_back(
    world: World, shape: tuple[int, str]
) -> None:
    """What it lay on is replaced in the same pass, and would carry it along."""
    world.folder("inner")
    world.folder("source", owner=(501, 20))
    (world / "source/up").mkdir()
    (world / "target").mkdir()
    world.volumes(
        outer={"source": world / "source", "target": world / "target", "user": "1000:1000"},
        inner={"source": world / "inner", "target": world / "target/up/t", "user": "1000:1000"},
    )
    world.reconcile()
    there = os.open(world / "source", os.O_RDONLY)
    with deep(world / "source", *shape) as here:
        os.rename("up", "up", src_dir_fd=there, dst_dir_fd=here)
    os.close(there)
    os.chown(world / "source", 502, 20)
    world.reconcile()
    assert owner(world / "target/up/t/hello") == (1000, 1000)
    assert owner(world / "target") == (1000, 1000)
    assert len(points()) == 2
    assert world.reconcile().document["changed"] is False


NAMES = [b"new\nline", b"caf\xe9", rb"b\040\134", "é\u2028".encode(), b"\x1b[31mred", b"a\tb", b"#"]


@pytest.mark.parametrize("kernel", [None, DEBIAN_12], ids=["ours", "12"])
def test_a_mount_of_any_name_is_told_of_in_plain_text(
    world: World, home: Path, kernel: Kernel | None
) -> None:
    tables = {}
    for number, name in enumerate(NAMES):
        for folder in (home / f"up{number}", home / f"on{number}"):
            folder.mkdir()
            os.chown(folder, ALICE, ALICE)
        keys = {"source": world / "source", "user": "1000:1000"}
        tables[f"moved{number}"] = {**keys, "target": home / f"up{number}/t"}
        tables[f"blocked{number}"] = {**keys, "target": home / f"on{number}"}
        place = os.fsencode(home) + b"/on%d/" % number + name
        os.mkdir(place)
        assert _libc.mount(b"none", place, b"tmpfs", 6, None) == 0
    world.volumes(**tables, hers={**keys, "target": world / "hers"})
    world.reconcile(status=1, kernel=kernel)
    before = len(points())
    for number, name in enumerate(NAMES):
        os.rename(os.fsencode(home) + b"/up%d" % number, os.fsencode(home) + b"/" + name)
    look(world, kernel)
    result = world.reconcile(status=1, kernel=kernel)
    for number, name in enumerate(NAMES):
        assert is_there(home / f"up{number}/t")
        message = result.volume(f"blocked{number}")["error"]["message"]
        assert f"on{number}/{os.fsdecode(name)} (tmpfs)" in message
    assert len(points()) == before + (len(NAMES) if kernel else 0)
    assert world.reconcile(status=1, kernel=kernel).document["changed"] is False


def test_a_watch_goes_on_whatever_a_mount_is_called(world: World, home: Path) -> None:
    with watch(world) as watcher:
        for name in NAMES:
            place = os.fsencode(home) + b"/up/" + name
            run("umount", str(home / "up/t"))
            eventually(lambda: is_there(home / "up/t"))
            os.mkdir(place)
            assert _libc.mount(b"none", place, b"tmpfs", 6, None) == 0
        watcher.reload()
        assert watcher.stop() == 0


@pytest.mark.parametrize("how", ["stacked", "nested"])
def test_more_mounts_on_each_other_than_python_recurses(world: World, home: Path, how: str) -> None:
    os.mkdir(home / "up/s")
    here = os.open(home / "up/s", os.O_RDONLY)
    for _ in range(1100):
        mount_in(here)
        os.close(here)
        here = os.open(home / "up/s", os.O_RDONLY)
        if how == "nested":
            os.mkdir("n", dir_fd=here)
            mount_in(here, b"n")
            break
    os.close(here)
    if how == "nested":
        at = str(home / "up/s/n")
        for _ in range(1000):
            at += "/n"
            os.mkdir(at)
            assert _libc.mount(b"none", at.encode(), b"tmpfs", 6, None) == 0
    look(world)
    world.reconcile()
    world.volumes(
        hers={"source": home / "up", "target": world / "copy", "recursive": True},
        other={"source": world / "source", "target": home},
    )
    result = world.reconcile(status=1)
    assert result.volume("other")["reason"] == "foreign-mount"
    look(world)


# Pure.

FLAGS = Flags(read_only=False, nosuid=False, nodev=False, noexec=False, atime="relatime")


def mount(number: int, parent: int) -> ObservedMount:
    return ObservedMount(
        number, parent, f"/{number}", "/", "tmpfs", 1, FLAGS, is_fs_read_only=False, idmap=None
    )


def test_a_table_may_tell_of_no_parent_of_itself_or_of_a_circle() -> None:
    """The root of a machine that runs from its initramfs is its own parent."""
    mounts = {each.id: each for each in (mount(1, 1), mount(2, 1), mount(3, 2), mount(4, 9))}
    assert [each.id for each in parents_of(3, mounts)] == [2, 1]
    assert [*parents_of(1, mounts)] == [*parents_of(4, mounts)] == [*parents_of(7, mounts)] == []
    circle = {each.id: each for each in (mount(1, 3), mount(2, 1), mount(3, 2))}
    assert {each.id for each in parents_of(1, circle)} == {1, 2, 3}


PATHS = st.lists(st.sampled_from(["a", "b", "ab", "é"]), max_size=4).map(
    lambda names: "/" + "/".join(names)
)


@given(st.lists(PATHS), PATHS)
def test_places_tell_what_folders_above_do(paths: list[str], path: str) -> None:
    places = Places(paths)
    assert [*places.above(path)] == [each for each in folders_above(path) if each in paths]
    assert [*places.from_(path)] == [path] * (path in paths) + [*places.above(path)]
    assert places.lie_within(path) == any(is_within(each, path) for each in paths)
    assert len(places) == len(set(paths))


def test_of_a_path_of_a_mebibyte_not_every_folder_is_made_a_string_of() -> None:
    path = "/b" * (1 << 19)
    places = Places(["/b", "/b/b", "/c", f"{path}/x"])
    assert [*places.above(path)] == ["/b/b", "/b"]
    assert places.lie_within(path)
    assert len(folders_above("/b" * 2000)) == 1999


def test_text_that_is_longer_than_a_page_loses_its_middle() -> None:
    shown = printable("/b" * 100_000 + "\n")
    assert len(shown) < 4100
    assert shown.startswith("/b/b") and shown.endswith("/b\\n") and "…" in shown
    assert printable("\udcff") == "\\udcff"


@pytest.mark.parametrize(
    ("line", "user"),
    [
        ("7 1 0:5 / /m rw,nosuid shared:3 - fuse.sshfs x rw,user_id=1000,group_id=0", 1000),
        ("7 1 0:5 / /m rw - fuseblk /dev/x rw,user_id=1000,blksize=4096", 1000),
        ("7 1 0:5 / /m rw - fuse  rw,user_id=0,group_id=0,allow_other", None),
        ("7 1 0:5 / /m rw - virtiofs tag rw", None),
        ("7 1 0:5 / /m rw - tmpfs user_id=1000 rw,user_id=1000", None),
        ("7 1 0:5 / /m rw - fuse - rw,user_id=65534", 65534),
    ],
)
def test_whose_server_it_is(line: str, user: int | None) -> None:
    assert parse_user(f"17 1 0:5 / /n rw - tmpfs x rw\n{line}\n", 7) == user


def test_a_mount_that_is_gone_is_nobodys() -> None:
    with pytest.raises(LookupError):
        parse_user("17 1 0:5 / /n rw - tmpfs x rw\n", 7)


def test_a_mount_far_down_that_is_busy_is_told_of(world: World, home: Path) -> None:
    """A shell that stands far down keeps her mount busy, and is named."""
    world.reconcile()
    with subprocess.Popen(["cat"], cwd=home / "up/t", stdin=subprocess.PIPE) as process:
        move_deep(world, *SHAPES["both"])
        result = world.reconcile(status=1)
        left = result.document["volumes"][-1]
        assert (left["state"], left["reason"]) == ("failed", "busy")
        assert f"cat (pid {process.pid})" in left["error"]["message"]
        process.communicate()
    world.reconcile()
    assert len(points()) == 2
