"""`kill -9` before any changing system call of a pass that does everything, and one more pass.

Nothing changes between two changing calls, so dying before one is dying right after the one that
precedes it; after the last there is only the exit of a pass that is complete.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from world import MOUNTD, Result, World, mount_id, owner, record_of, run

_CALLS = (
    "openat", "write", "fsync", "renameat", "mkdirat", "mount_setattr", "move_mount", "umount2",
)  # fmt: skip
_OTHERS = (
    "rename,renameat2,mkdir,mknod,mknodat,unlink,unlinkat,rmdir,link,linkat,symlink,symlinkat,creat,"
    "truncate,ftruncate,fallocate,chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,setxattr,"
    "fsetxattr,utimensat,pwrite64,writev,pwritev,sendfile,mount,fsopen,fsmount,fsconfig,pivot_root"
)
# Nor does a write to an idmapping's namespace, which goes with the process.
_CHANGES_NOTHING = re.compile(r"openat(?!.*O_CREAT)|write\([12],|write\(\d+, \"\d+ \d+ \d+")
_USER = {"user": "1000:1000"}
_NAMES = ("moved", "replaced", "adjusted", "left", "made")
_TARGETS = ("adjusted", "made/by/us", "new", "replaced")  # in the end


class Table(NamedTuple):
    """What a person can see of a world's mounts: each mount, and what each target shows."""

    mounts: list[tuple[str, str, list[str]]]
    shown: dict[str, tuple[tuple[int, int], str]]


class Undisturbed(NamedTuple):
    """A pass that nobody kills: which of its calls change anything, and what it comes to."""

    points: dict[str, list[int]]
    others: set[str]
    table: Table


pytestmark = pytest.mark.usefixtures("namespace")


@pytest.mark.fault(10, "before each changing call of each kind")
@pytest.mark.parametrize("call", _CALLS)
def test_a_pass_killed_before_this_call_is_made_good_by_the_next(call: str) -> None:
    _kill_at_each(call, is_shared=False)


@pytest.mark.fault(10, "the same in a shared tree")
@pytest.mark.parametrize("call", ["move_mount", "umount2"])
def test_it_is_where_mounts_propagate_too(call: str) -> None:
    _kill_at_each(call, is_shared=True)


@pytest.mark.fault(10, "that there are no other such calls")
def test_these_are_all_the_changing_calls_of_a_pass() -> None:
    assert _undisturbed().others == set()  # what strace can't name is statmount and listmount


def _kill_at_each(call: str, *, is_shared: bool) -> None:
    undisturbed = _undisturbed()
    points = undisturbed.points[call]
    assert points, f"the pass makes no {call}: it would not be killed"
    for number in points:
        with _edited_world(is_shared=is_shared) as world:
            killed = _strace(world, "/dev/null", call, f"inject={call}:signal=KILL:when={number}")
            assert killed.status == -9, f"not killed at {call} {number}: {killed}"
            when = f"after a kill at {call} {number} of {points}"
            _see_no_bare_folder(world, when)
            _see_that_the_record_knows_all(world, when)
            world.reconcile()
            assert _table(world) == undisturbed.table, when
            recorded = {each["target"]: each["id"] for each in record_of(world)}
            live = {str(world / target): mount_id(world / target) for target in _TARGETS}
            assert recorded == live, when
            assert len(record_of(world)) == len(live), when
            before = Path(world.state, "record.json").stat()
            third = world.reconcile().document
            assert {each["action"] for each in third["volumes"]} == {"keep"}, when
            assert not third["changed"], when
            after = Path(world.state, "record.json").stat()
            assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), when


def _see_no_bare_folder(world: World, when: str) -> None:
    for name in ("replaced", "adjusted"):
        assert (world / name / "hello").exists(), f"{name} is bare {when}"
        assert owner(world / name) in ((1000, 1000), (1001, 1001)), f"{name} has raw ids {when}"
    assert any((world / name / "hello").exists() for name in ("old", "new")), f"moved: bare {when}"


def _see_that_the_record_knows_all(world: World, when: str) -> None:
    known = {each["id"] for each in record_of(world)}
    for mount in world.mounts():
        if os.path.exists(mount.point):  # or it is below what the world itself covers
            assert mount_id(mount.point) in known, f"{mount.point} is in no record {when}"


@cache
def _undisturbed() -> Undisturbed:
    with _edited_world() as world:
        trace = f"{world.path}/trace"
        done = _strace(world, trace, ",".join(_CALLS) + f",{_OTHERS}")
        assert done.status == 0, done.err
        lines = Path(trace).read_text().splitlines()
        pid = lines[0].split()[0]
        made = [line.split(maxsplit=1)[1] for line in lines if line.split()[0] == pid]
        calls = [(match[0], text) for text in made if (match := re.match(r"\w+", text))]
        points: dict[str, list[int]] = {call: [] for call in _CALLS}
        count: Counter[str] = Counter()
        for call, text in calls:
            count[call] += 1
            if call in points and not _CHANGES_NOTHING.match(text):
                points[call].append(count[call])
        others = {call for call in count if call not in points and not call.startswith("syscall_")}
        table = _table(world)
        assert [point for point, *_ in table.mounts] == [str(world / each) for each in _TARGETS]
        assert {shown for shown, _ in table.shown.values()} == {(1000, 1000), (1001, 1001)}
        return Undisturbed(points, others, table)


@contextmanager
def _edited_world(*, is_shared: bool = False) -> Iterator[World]:
    """A world whose next pass mounts, makes, replaces, adjusts, moves and unmounts."""
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/mnt")
    if is_shared:
        run("mount", "--make-shared", "/mnt")
    world = World("/mnt")
    for name in _NAMES:
        (world.folder(f"source/{name}") / "hello").write_text(name)
    before = {
        name: {"source": world / "source" / name, "target": world / name, **_USER}
        for name in _NAMES
    }
    world.volumes(
        moved={**before["moved"], "target": world / "old"},
        replaced=before["replaced"],
        adjusted=before["adjusted"],
        left=before["left"],
    )
    world.reconcile()
    world.volumes(
        moved={**before["moved"], "target": world / "new"},
        replaced={**before["replaced"], "user": "1001:1001"},
        adjusted={**before["adjusted"], "noexec": True},
        made={**before["made"], "target": world / "made/by/us"},
    )
    try:
        yield world
    finally:
        run("umount", "-R", "/mnt")  # busy where a process of ours still lives


def _strace(world: World, trace: str, calls: str, *more: str) -> Result:
    words = ["strace", "-f", "-qq", "-o", trace, "-e", f"trace={calls}"]
    for each in more:
        words += ["-e", each]
    command = [MOUNTD, "reconcile", "--manifest", world.manifest, "--state-dir", world.state]
    return world.run([*words, *command])


def _table(world: World) -> Table:
    mounts = sorted(
        (each.point, each.root, sorted(each.options))
        for each in world.mounts()
        if os.path.exists(each.point)  # or it is below what the world itself covers
    )
    shown = {point: (owner(point), Path(point, "hello").read_text()) for point, *_ in mounts}
    return Table(mounts, shown)
