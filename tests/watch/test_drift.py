"""What others do to managed mounts while `mountd watch` runs: it is undone, and told once."""

import fcntl
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from old_kernel import DEBIAN_12, DEBIAN_13, Kernel
from volumes import NODE, Table, is_mounted, make_plain, table
from watcher import Watcher, counted_passes, do, eventually, watch
from world import World, mount_id, owner, record_of, run

from mountd.kernel.mount_api import (
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    mount_setattr,
)
from mountd.kernel.patience import Patience
from mountd.kernel.syscalls import Fd
from mountd.kernel.table import MountTable
from mountd.reconcile.passes import Settings, load
from mountd.report.journal import Journal
from mountd.watch.upkeep import Upkeep

KINDS = ("plain", "outer", "outer/inner", "tree", "place", "file", "typed")


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


def see_usable(target: Path) -> None:
    """What node makes is node's there; a file is just looked at."""
    assert owner(target) == NODE
    if target.is_dir():
        run("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "touch", f"{target}/made")
        assert owner(target / "made") == NODE
        (target / "made").unlink()


def settled(watcher: Watcher, passes: Callable[[], int]) -> int:
    """The count once it slept without a pass for as long as one is put off, and as long again.

    A busy machine may keep it from running, but then it doesn't sleep (proc_pid_stat(5)).
    """
    count, slept, looked = passes(), 0.0, time.monotonic()

    def is_settled() -> bool:
        nonlocal count, slept, looked
        states = {
            each.read_text().rpartition(")")[2].split()[0]
            for each in Path(f"/proc/{watcher.process.pid}/task").glob("*/stat")
        }
        now, before = time.monotonic(), looked
        looked = now
        if (seen := passes()) != count:
            count, slept = seen, 0.0
        elif states == {"S"}:
            slept += min(now - before, 0.05)  # we may have been kept from looking
        return slept > 0.6

    eventually(is_settled, "a moment without a pass")
    return count


UNDOINGS = {
    "unmounted": "umount -R {0} || umount -R {0}",  # the inner one may be put back meanwhile
    "unmounted lazily, while it is used": "sleep 100 <{0} & umount -lR {0}; kill $!",
    "moved": "mount --move {0} $(test -d {0} && echo away || echo away-file)",
    "moved over another one's target": "mount --move {0} $(test -d {0} && echo victim || echo f)",
    "remounted read-only": "mount -o remount,bind,ro,nosuid,nodev,relatime {0}",
    "remounted with setuid": "mount -o remount,bind,suid {0}",
    "remounted with devices": "mount -o remount,bind,dev {0}",
    "remounted noexec": "mount -o remount,bind,noexec,nosuid,nodev,relatime {0}",
    "remounted noatime": "mount -o remount,bind,noatime,nosuid,nodev {0}",
    "remounted strictatime": "mount -o remount,bind,strictatime,nosuid,nodev {0}",
}


@pytest.mark.fault(16, "taken off, also lazily")
@pytest.mark.fault(40, "each of them, for each kind of volume")
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


@pytest.mark.fault(43, "drift in it")
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
            name = kind.replace("outer/", "")
            # a pass that is in the middle of looking there says that as what keeps it
            said = re.compile(
                f"^(drift: {name} at {world / kind}|(failed|conflict): {name}): ", re.MULTILINE
            )
            log = watcher.log
            do(world, undoing.format(kind))
            if kernel is not DEBIAN_12:  # where an id may soon be another mount's
                eventually(lambda: said.search(watcher.log, len(log)), said.pattern)  # noqa: B023
            elif "--move" in undoing:  # nor does anything tell there that what was moved is ours
                do(world, "umount -R away away-file || :")
            eventually(lambda: table(world) == before, kind)
            see_usable(world / kind)
        eventually(lambda: watcher.status.endswith(" volumes mounted"))
        assert "someone keeps" not in watcher.log


@pytest.mark.fault(50, "calls that change nothing")
@pytest.mark.parametrize("undoing", ["umount", "mount --make-shared", "mount_setattr"])
def test_what_is_no_drift_is_left_as_it_is(world: World, undoing: str) -> None:
    """Nothing that is compared is altered by them, but for the first, which is as a control."""
    make_plain(world, "work", "other")
    with watch(world) as watcher, counted_passes(world) as passes:
        settled(watcher, passes)
        before, log = mount_id(world / "work"), watcher.log
        if undoing == "mount_setattr":
            with Fd(os.open(world / "work", os.O_PATH)) as target:
                mount_setattr(target, set_=MOUNT_ATTR_NOSUID)
        else:
            do(world, f"{undoing} work")
        do(world, "umount other")
        eventually(lambda: is_mounted(world / "other"))
        settled(watcher, passes)
        is_same = (
            mount_id(world / "work") == before and "drift: work" not in watcher.log[len(log) :]
        )
        assert is_same == (undoing != "umount")


def test_flags_altered_through_a_descriptor_are_put_back(world: World) -> None:
    make_plain(world, "work")
    with watch(world) as watcher, Fd(os.open(world / "work", os.O_PATH)) as target:
        before, found = table(world), mount_id(world / "work")
        mount_setattr(target, set_=MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC)
        eventually(lambda: "adjusted: work" in watcher.log)
        assert table(world) == before
        assert mount_id(world / "work") == found


@pytest.mark.fault(41, "under a watch")
def test_a_writer_in_the_way_of_read_only_is_told_once_and_waited_for(world: World) -> None:
    make_plain(world, "work", "other", read_only=True, idmap="always")
    with watch(world) as watcher:
        do(world, "mount -o remount,bind,rw,nosuid,nodev work || :")
        eventually(lambda: watcher.log.count("adjusted: work") == 1)
        watcher.reload()  # what is told in the middle of a pass is told before that is over
        with stopped(watcher):  # else it were read-only again before there is a writer
            do(world, "mount -o remount,bind,rw,nosuid,nodev work")
            writer = (world / "work/hello").open("a")
        with writer:
            eventually(lambda: "failed: work" in watcher.log)
            eventually(lambda: "1 of 2 mounted; work: " in watcher.status)
            do(world, "umount other")
            eventually(lambda: is_mounted(world / "other"))
        eventually(lambda: watcher.status == "2 volumes mounted")
        watcher.tells("failed: work", 1)
        eventually(lambda: "adjusted: work" in watcher.log.partition("failed: work")[2])
        with pytest.raises(OSError, match="Read-only"):
            (world / "work/hello").open("a")


@contextmanager
def stopped(watcher: Watcher) -> Iterator[None]:
    """So that several things have happened by the time it looks."""
    watcher.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        watcher.process.send_signal(signal.SIGCONT)


@pytest.mark.fault(34, "in another mount namespace")
def test_a_target_removed_in_another_mount_namespace_is_made_again(world: World) -> None:
    make_plain(world, "work")
    with watch(world):
        do(world, "unshare -m --propagation private sh -ec 'umount work; rmdir work'")
        eventually(lambda: is_mounted(world / "work"))
        assert len(table(world)) == 1


@pytest.mark.fault(16, "under a parent that was detached")
@pytest.mark.fault(42, "lazily")
def test_what_lay_on_a_filesystem_that_is_gone_is_made_on_what_is_there_now(world: World) -> None:
    (world / "above").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(world / "above"))
    make_plain(world, "above/work", "other")
    with watch(world) as watcher:
        do(world, "umount -l above")
        eventually(lambda: is_mounted(world / "above/work"))
        assert [point for point, *_ in table(world)] == ["/mnt/above/work", "/mnt/other"]
        eventually(lambda: watcher.status == "2 volumes mounted")


@pytest.mark.fault(33, "and a reload")
def test_a_mount_in_a_folder_that_was_renamed_is_back_at_its_place_after_a_reload(
    world: World,
) -> None:
    make_plain(world, "above/work")
    with watch(world) as watcher:
        do(world, "mv above elsewhere")
        watcher.reload()
        assert is_mounted(world / "above/work")
        assert [point for point, *_ in table(world)] == ["/mnt/above/work"]


@pytest.mark.fault(50, "two hundred at once")
def test_two_hundred_volumes_that_go_at_once_are_back(world: World) -> None:
    names = [f"v{number}" for number in range(200)]
    make_plain(world, *names)
    with watch(world) as watcher:
        before = table(world)
        with stopped(watcher):
            do(world, f"umount {' '.join(names)}")
        eventually(lambda: table(world) == before)
        watcher.tells("drift: v", 200)
        watcher.tells("\nmounted: v", 400)
        do(world, f"umount {' '.join(names)}")  # while it looks
        eventually(lambda: table(world) == before)
        eventually(lambda: "left out: " in watcher.log, "how much of it isn't told again")
        assert watcher.log.count("drift: v") < 400


def test_a_raw_mount_that_was_taken_off_is_there_again_after_the_next_pass(world: World) -> None:
    keys = {"type": "tmpfs", "source": "scratch", "options": ["uid=501", "gid=20"]}
    world.volumes(typed={**keys, "target": world / "typed", "user": "1000:1000"})
    with watch(world) as watcher:
        before = table(world)
        do(world, "umount -l state/fs/*")
        watcher.reload()
        assert table(world) == before
        see_usable(world / "typed")


@pytest.mark.fault(38, "under a watch")
@pytest.mark.parametrize("kernel", [None, DEBIAN_12], ids=["ours", "debian-12"])
def test_a_cover_is_told_once_left_alone_and_when_it_goes_that_is_told(
    world: World, kernel: Kernel | None
) -> None:
    make_plain(world, "work", "other")
    (world / "elsewhere").mkdir()
    with watch(world, kernel=kernel) as watcher:
        before, found = table(world), mount_id(world / "work") if not kernel else 0
        do(world, "mount -t tmpfs cover work; echo foreign >work/hello")
        eventually(lambda: "conflict: work" in watcher.log)
        eventually(lambda: watcher.status.startswith("1 of 2 mounted; work: "))
        for _ in range(10):
            do(world, "mount -t tmpfs more elsewhere; umount elsewhere; mount --make-shared work")
        do(world, "umount other")
        eventually(lambda: table(world) == sorted([*before, *covers(world)]))
        assert (world / "work/hello").read_text() == "foreign\n"
        do(world, "umount work")
        eventually(lambda: "recovered: work" in watcher.log)
        assert table(world) == before
        assert kernel or mount_id(world / "work") == found
        watcher.tells("conflict: work", 1)
        eventually(lambda: watcher.status == "2 volumes mounted")


def covers(world: World) -> Table:
    """Foreign mounts at the target."""
    return [each for each in table(world) if each[0] == str(world / "work") and each[1] == "/"]


def test_a_volume_taken_off_below_its_cover_comes_back_with_the_covers_end(world: World) -> None:
    make_plain(world, "work")
    with watch(world) as watcher:
        do(world, "mount -t tmpfs cover work")
        eventually(lambda: "conflict: work" in watcher.log)
        with stopped(watcher):
            do(world, "umount work; umount work")
        eventually(lambda: is_mounted(world / "work"))
        assert len(table(world)) == 1


def test_a_foreign_mount_below_is_in_nobodys_way_until_the_volume_changes(world: World) -> None:
    make_plain(world, "work")
    (world / "source/below").mkdir()
    with watch(world) as watcher:
        do(world, "mount -t tmpfs foreign work/below")
        watcher.reload()
        assert watcher.status == "1 volume mounted"
        make_plain(world, "work", user="1001:1001")
        eventually(lambda: "conflict: work" in watcher.log and "/work/below" in watcher.log)
        assert owner(world / "work/hello") == NODE
        do(world, "umount work/below")
        eventually(lambda: owner(world / "work/hello") == (1001, 1001))
        watcher.tells("conflict: work", 1)


def test_where_nothing_happens_there_is_no_pass(world: World) -> None:
    make_kinds(world)
    with watch(world) as watcher, counted_passes(world) as passes:
        assert settled(watcher, passes) <= 1


@pytest.mark.fault(50, "of others'")
def test_mounts_elsewhere_cause_no_pass(world: World) -> None:
    make_plain(world, "work")
    do(world, "mkdir elsewhere; mkdir -p source/deep")
    with watch(world) as watcher, counted_passes(world) as passes:
        before = settled(watcher, passes)
        for _ in range(10):
            do(world, "mount -t tmpfs x elsewhere; mount -t tmpfs y work/deep; umount -R elsewhere")
            do(world, "umount work/deep")
        assert settled(watcher, passes) == before
        do(world, "mount -t tmpfs z source")  # as a control: this one may mean something
        eventually(lambda: passes() > before)


@pytest.mark.fault(50, "of its own")
def test_its_own_mounts_cause_no_pass(world: World) -> None:
    make_plain(world, "work", "more")
    with watch(world) as watcher, counted_passes(world) as passes:
        before = settled(watcher, passes)
        do(world, "umount work")
        eventually(lambda: is_mounted(world / "work"))
        assert settled(watcher, passes) == before + 1
        make_plain(world, "work", "more", "new", user="1001:1001")
        eventually(lambda: watcher.status == "3 volumes mounted")
        assert settled(watcher, passes) == before + 2


@pytest.mark.fault(40, "again and again")
def test_a_fight_is_told_once_and_backs_off_alone(world: World) -> None:
    make_plain(world, "work", "other")
    with watch(world) as watcher:
        begin = time.monotonic()
        for _ in range(6):
            do(world, "umount work")
            eventually(lambda: is_mounted(world / "work"))
        repairs = 6
        while True:  # each wait is twice the one before, until one is longer than we are slow
            do(world, "umount work")
            eventually(lambda: "1 of 2 mounted; work: someone keeps" in watcher.status)
            do(world, "umount other")
            eventually(lambda: is_mounted(world / "other") and is_mounted(world / "work"))
            repairs += 1
            if mount_id(world / "other") < mount_id(world / "work"):
                break
        assert time.monotonic() - begin >= 3  # one second and two, whatever else took its time
        watcher.tells("someone keeps", 1)
        watcher.tells("\nmounted: work", 1 + repairs)
        eventually(lambda: watcher.status == "2 volumes mounted")


def test_what_a_pass_of_all_meets_first_counts_in_a_fight_too(world: World) -> None:
    make_plain(world, "work")
    manifest = load(Settings(world.manifest, world.state), is_acting=True)
    with MountTable() as table:
        upkeep = Upkeep(world.state, table, Patience(), Journal("test", quiet=True))
        upkeep.converge(manifest)
        for _ in range(5):
            do(world, "umount work")
            upkeep.converge(manifest)
            assert upkeep.status() == "1 volume mounted"
        do(world, "umount work")
        upkeep.converge(manifest)
        assert upkeep.status().startswith("0 of 1 mounted; work: someone keeps")
        assert not (world / "work/hello").exists()


def test_what_lies_in_a_volume_that_is_fought_over_waits_for_it(world: World) -> None:
    make_plain(world, "outer", "outer/inner")
    do(world, "mkdir source/inner")
    with watch(world) as watcher:
        before = table(world)
        for count in range(1, 6):
            do(world, "mount -o remount,bind,noexec,nosuid,nodev outer")
            eventually(lambda: watcher.log.count("adjusted: outer") == count)  # noqa: B023
        with stopped(watcher):  # else the inner one may be mounted just before the outer one goes
            do(world, "umount -R outer")
        eventually(lambda: "outer: someone keeps" in watcher.log)
        eventually(lambda: watcher.status == "2 volumes mounted")
        watcher.tells("mounted: outer-inner at", 2)  # at the start, and once the outer one was back
        assert table(world) == before


@pytest.mark.parametrize("end", ["reload", "edit", "edit that the volume's own pass meets"])
def test_a_reload_and_an_edit_end_a_fight(world: World, end: str) -> None:
    make_plain(world, "work")
    with watch(world) as watcher:
        for number in range(1, 7):
            do(world, "umount work")
            if number < 6:
                eventually(lambda: is_mounted(world / "work"))
        eventually(lambda: "work: someone keeps" in watcher.log)
        if end == "reload":
            watcher.reload()
        else:
            with stopped(watcher) if "meets" in end else nullcontext():
                time.sleep(1.2 * ("meets" in end))  # the first wait is a second
                make_plain(world, "work", "new")
        eventually(lambda: is_mounted(world / "work"))
        eventually(lambda: watcher.status.endswith("mounted"))
        before = len(watcher.hear())
        for _ in range(4):
            do(world, "umount work")
            eventually(lambda: is_mounted(world / "work"))
        eventually(lambda: watcher.status.endswith("mounted"))
        assert not any("someone keeps" in line for line in watcher.hear()[before:])
        watcher.tells("someone keeps", 1)
        eventually(lambda: watcher.status.endswith("mounted"))


def test_what_drifts_while_another_pass_runs_waits_for_it(world: World) -> None:
    make_plain(world, "work", "other")
    with watch(world, "--wait", "0.2") as watcher, counted_passes(world) as passes:
        with Path(world.state, "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = passes()
            do(world, "umount work")
            eventually(lambda: passes() > before + 3)
            assert not (world / "work/hello").exists()
            eventually(lambda: f"another pass is running (pid {os.getpid()})" in watcher.status)
        eventually(lambda: is_mounted(world / "work"))
        eventually(lambda: watcher.status == "2 volumes mounted")
        watcher.tells("another pass is running", 1)


def test_what_drifts_during_a_long_pass_is_put_back(world: World) -> None:
    make_plain(world, "work")
    names = [f"v{number}" for number in range(300)]
    with watch(world) as watcher:
        make_plain(world, "work", *names)
        eventually(lambda: is_mounted(world / "v0"))
        do(world, "umount work v0")
        eventually(lambda: is_mounted(world / "v150"))
        do(world, "umount v150 v1")
        eventually(lambda: watcher.log.count("\nmounted: ") >= 305)
        eventually(lambda: watcher.status == "301 volumes mounted")
        assert len(table(world)) == 301
        assert all(is_mounted(world / name) for name in ("work", *names))


def test_passes_by_hand_are_no_fight_and_are_not_undone(world: World) -> None:
    make_plain(world, "work", "other")
    with watch(world) as watcher:
        for uid in range(1001, 1005):
            user = f"{uid}:{uid}"
            with stopped(watcher) if uid % 2 else nullcontext():
                make_plain(world, "work", "other", user=user)
                assert world.mountd("reconcile", "--wait", "20").status == 0
            seen = {owner(world / "work/hello") for _ in range(10000)}
            assert seen == {(uid, uid)}
            do(world, "umount other")
            world.mountd("reconcile", "--wait", "20")
            assert owner(world / "other/hello") == (uid, uid)
        watcher.reload()
        assert len(table(world)) == 2
        assert watcher.status == "2 volumes mounted"


@pytest.mark.fault(10, "a watch in a storm")
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_of_a_storm_it_converges_when_started_again(
    shared_world: World, seed: int
) -> None:
    world, chance = shared_world, random.Random(seed)
    names = ("a", "b", "a/below", "c")
    make_plain(world, *names)
    do(world, "mkdir source/below more")
    world.reconcile()
    before = table(world)
    storm = (
        "while :; do umount -lR a; umount b; mount -o remount,bind,ro c;"
        "unshare -m mount --bind source more; umount -l a/below; done 2>&-"
    )
    with subprocess.Popen(["sh", "-c", f"cd {world.path}; {storm}"]) as process:
        try:
            for _ in range(4):
                with watch(world, is_ready=False) as watcher:
                    for number in range(chance.randrange(5)):
                        user = 1000 + number % 2
                        make_plain(world, *names, user=f"{user}:{user}")
                        time.sleep(chance.random() * 0.1)
                    watcher.process.kill()
        finally:
            process.kill()
    make_plain(world, *names)
    with watch(world) as watcher:
        eventually(lambda: watcher.status == "4 volumes mounted")
        assert table(world) == before
        assert len(record_of(world)) == 4


class _SlowToPoll(Kernel):
    """One that takes a second to begin the command's first poll(2)."""

    def command(self, *words: str) -> list[str]:
        slow = "inject=poll:delay_enter=1000000:when=1"
        return [
            "strace",
            "-D",
            "-f",
            "-qq",
            "-o",
            os.devnull,
            "-e",
            "trace=poll",
            "-e",
            slow,
            *words,
        ]


def test_what_is_undone_before_the_first_look_is_put_back(world: World) -> None:
    """It came and went unseen: no mount is there that wasn't, nor the reverse."""
    make_plain(world, "work")
    with watch(world, kernel=_SlowToPoll("", (), has_beneath=True)):
        do(world, "umount work")
        eventually(lambda: is_mounted(world / "work"))
