"""What others do to managed mounts while `mountd watch` runs: it is undone, and told once."""

import fcntl
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from old_kernel import DEBIAN_12, DEBIAN_13, Kernel
from watcher import Watcher, eventually, watch
from world import MOUNTD, World, mount_id, owner, record_of, run

from mountd.kernel.syscalls import MOUNT_ATTR_RDONLY, Fd, mount_setattr

NODE = (1000, 1000)
KINDS = ("plain", "outer", "outer/inner", "tree", "place", "file", "typed")
Table = list[tuple[str, str, list[str]]]


def make_kinds(world: World) -> None:
    """A manifest with a volume of each kind, each at a target of its kind's name."""
    for name in ("plain", "outer", "inner", "tree", "place"):
        world.folder(name if name == "place" else f"source/{name}")
    for name in ("outer/inner", "tree/sub"):
        (world / "source" / name).mkdir()
    run("mount", "-t", "tmpfs", "-o", "uid=501,gid=20", "tmpfs", str(world / "source/tree/sub"))
    tables: dict[str, dict[str, Any]] = {
        kind.replace("outer/", ""): {
            "source": world / "source" / kind.replace("outer/", ""),
            "target": world / kind,
            "user": "1000:1000",
        }
        for kind in KINDS
    }
    tables["tree"]["recursive"] = True
    tables["place"]["source"] = world / "place"
    tables["file"]["source"] = world / "source/plain/hello"
    tables["typed"] |= {"type": "tmpfs", "source": "scratch", "options": ["uid=501", "gid=20"]}
    world.volumes(**tables)


def make_plain(world: World, *names: str, **keys: Any) -> None:
    """A manifest with these volumes, all of one source."""
    if not (world / "source").exists():
        world.folder("source")
    common = {"source": world / "source", "user": "1000:1000", **keys}
    world.volumes(**{name: {**common, "target": world / name} for name in names})


def do(world: World, script: str) -> None:
    """Run this in the world, as somebody else."""
    run("sh", "-ec", f"cd {world.path}; {script}")


def table(world: World) -> Table:
    """All mounts, as a person sees them."""
    return sorted((each.point, each.root, sorted(each.options)) for each in world.mounts())


def see_usable(target: Path) -> None:
    """What node makes is node's there; a file is just looked at."""
    assert owner(target) == NODE
    if target.is_dir():
        run("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "touch", f"{target}/made")
        assert owner(target / "made") == NODE
        (target / "made").unlink()


@contextmanager
def counted_passes(world: World) -> Iterator[Callable[[], int]]:
    """How often the lock that each pass takes has been opened: passes, and tries to make one."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    with Fd(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)) as inotify:
        lock = f"{world.state}/lock".encode()
        assert libc.inotify_add_watch(inotify.number, lock, 0x20 | 0x08) > 0  # IN_OPEN, IN_CLOSE
        count = 0

        def passes() -> int:
            nonlocal count
            try:
                while data := os.read(inotify.number, 65536):
                    count += sum(data[at + 4] & 0x20 != 0 for at in range(0, len(data), 16))
            except BlockingIOError:
                pass
            return count

        yield passes


def settled(passes: Callable[[], int]) -> int:
    """The count once there was no pass for as long as one is put off at most, several times."""
    before, since = passes(), time.monotonic()
    while time.monotonic() - since < 0.3:
        time.sleep(0.01)
        if (now := passes()) != before:
            before, since = now, time.monotonic()
    return before


UNDOINGS = {
    "unmounted": "umount -R {0}",
    "unmounted lazily, while it is used": "sleep 100 <{0} & umount -lR {0}; kill $!",
    "moved": "mount --move {0} $(test -d {0} && echo away || echo away-file)",
    "moved over another one's target": "mount --move {0} $(test -d {0} && echo victim || echo f)",
    "moved below its own target": (
        "test {0} = file || {{ umount -R {0}; mount --bind source/plain {0}; umount {0}; }};"
        "umount -R {0} 2>&- || :"
    ),
    "remounted read-only": "mount -o remount,bind,ro,nosuid,nodev,relatime {0}",
    "remounted with setuid": "mount -o remount,bind,suid {0}",
    "remounted with devices": "mount -o remount,bind,dev {0}",
    "remounted noexec": "mount -o remount,bind,noexec,nosuid,nodev,relatime {0}",
    "remounted noatime": "mount -o remount,bind,noatime,nosuid,nodev {0}",
    "remounted strictatime": "mount -o remount,bind,strictatime,nosuid,nodev {0}",
}
UNDOINGS.pop("moved below its own target")


@pytest.mark.parametrize("undoing", UNDOINGS)
def test_whatever_is_done_to_a_mount_of_any_kind_is_undone(world: World, undoing: str) -> None:
    make_kinds(world)
    do(world, "mkdir away; touch away-file")
    if "another" in undoing:
        do(world, "mkdir source/victim source/f; rmdir source/f; touch source/f")
        text = Path(world.manifest).read_text()
        for name in ("victim", "f"):
            text += f'\n[volumes.{name}]\nsource = "$/source/{name}"\ntarget = "$/{name}"\n'
        world.write(text)
    see_undone(world, UNDOINGS[undoing])


@pytest.mark.parametrize("undoing", ["unmounted", "remounted read-only"])
def test_it_is_where_mounts_propagate_too(shared_world: World, undoing: str) -> None:
    make_kinds(shared_world)
    see_undone(shared_world, UNDOINGS[undoing])


@pytest.mark.parametrize("kernel", [DEBIAN_12, DEBIAN_13], ids=lambda it: it.name)
@pytest.mark.parametrize("undoing", ["unmounted", "moved", "remounted read-only"])
def test_it_is_on_older_kernels_too(world: World, undoing: str, kernel: Kernel) -> None:
    make_kinds(world)
    do(world, "mkdir away; touch away-file")
    see_undone(world, UNDOINGS[undoing], kernel=kernel)


def see_undone(world: World, undoing: str, kernel: Kernel | None = None) -> None:
    with watch(world, kernel=kernel) as watcher:
        before = table(world)
        for kind in KINDS:
            said = f"drift: {kind.replace('outer/', '')} at {world / kind}: "
            count = watcher.log.count(said)
            do(world, undoing.format(kind))
            eventually(lambda said=said, count=count: watcher.log.count(said) > count, said)  # type: ignore[misc]
            if kernel is DEBIAN_12 and "--move" in undoing:  # by mountinfo nothing tells it is ours
                do(world, "umount -R away away-file || :")
            eventually(lambda: table(world) == before, kind)
            see_usable(world / kind)
        eventually(lambda: watcher.status.endswith(" volumes mounted"))
        assert "someone keeps" not in watcher.log
