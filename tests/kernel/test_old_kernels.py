"""What mountd does on the kernels that Debian ships, which lack some of what 6.18 has."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from old_kernel import DEBIAN_12, DEBIAN_13, FILTERED, NO_IDMAPPING, Kernel
from world import MOUNTD, World, mount_id, owner, record_of, run, running

OLD = pytest.mark.parametrize("kernel", [DEBIAN_13, DEBIAN_12], ids=lambda kernel: kernel.name)

# What the calls of the title answer to arguments that tell nothing but whether they are there.
PROBE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def answer(*words):
    ctypes.set_errno(0)
    libc.syscall(*(ctypes.c_long(word) if isinstance(word, int) else word for word in words))
    return ctypes.get_errno()
print(
    answer(457, None, None, 0, 1),
    answer(458, None, None, 0, 1),
    answer(467, -1, b"", -1, None, 0),
    answer(442, -1, b"", 0, None, 0),
    answer(429, -1, b"", -1, b"", 0x204),
    sep=",",
)
"""
# A clone is attached to another that is not attached itself, which takes 6.15.
NEST = """
import sys
from mountd.kernel.served import wait_for_servers
import os
from mountd.kernel.mount_api import move_mount, open_tree
from mountd.kernel.syscalls import Fd
wait_for_servers()  # of a detached tree that it wasn't told of it expects anything
source = Fd(os.open(sys.argv[1], os.O_PATH))
parent, child = open_tree(source), open_tree(source)
try:
    move_mount(child, parent, "inner")
except OSError as error:
    print(error.errno)
move_mount(parent, Fd(os.open(sys.argv[2], os.O_PATH)), "target")
"""


def volume(world: World, **keys: Any) -> Path:
    """A manifest of the volume `work`."""
    source, target = world / "source", world / "work"
    if not source.exists():
        world.folder("source")
        target.mkdir()
    world.volumes(work={"source": source, "target": target, "user": "1000:1000", **keys})
    return target


def points(world: World) -> list[str]:
    return [mount.point for mount in world.mounts()]


@pytest.mark.parametrize(
    ("kernel", "answers"),
    [
        (None, "22,14,22,22,2"),
        (DEBIAN_13, "22,14,38,22,2"),
        (DEBIAN_12, "38,38,38,22,22"),
        (NO_IDMAPPING, "38,38,38,38,22"),
        (FILTERED, "1,1,1,1,2"),
    ],
    ids=lambda value: value.name if isinstance(value, Kernel) else None,
)
def test_an_older_kernel_answers_as_it_should(kernel: Kernel | None, answers: str) -> None:
    probe = [sys.executable, "-c", PROBE]
    assert run(*(kernel.command(*probe) if kernel else probe)).strip() == answers


@pytest.mark.parametrize("kernel", [None, DEBIAN_13, DEBIAN_12])
def test_before_6_15_nothing_is_attached_to_a_detached_tree(
    world: World, kernel: Kernel | None
) -> None:
    (world / "source/inner").mkdir(parents=True)
    (world / "target").mkdir()
    nest = [sys.executable, "-c", NEST, str(world / "source"), world.path]
    said = run(*(kernel.command(*nest) if kernel else nest)).strip()
    inner = [f"{world.path}/target/inner"]
    assert said == ("22" if kernel else "")
    assert sorted(points(world)) == [f"{world.path}/target", *(inner if not kernel else [])]


@OLD
def test_a_volume_is_mounted_kept_adjusted_and_unmounted(world: World, kernel: Kernel) -> None:
    target = volume(world)
    first = world.reconcile(kernel=kernel).volume("work")
    assert (first["action"], first["state"], owner(target)) == ("mount", "mounted", (1000, 1000))
    (mounted,) = world.mounts()
    before = Path(world.state, "record.json").read_bytes()
    second = world.mountd("reconcile", kernel=kernel)
    assert second.status == 0
    assert "nothing to do" in second.out
    assert Path(world.state, "record.json").read_bytes() == before
    volume(world, noexec=True)
    assert world.reconcile(kernel=kernel).volume("work")["action"] == "adjust"
    (adjusted,) = world.mounts()
    assert adjusted.id == mounted.id
    assert "noexec" in adjusted.options
    assert world.mountd("status", kernel=kernel).status == 0
    assert world.mountd("unmount", "--all", kernel=kernel).status == 0
    assert world.mounts() == []
    assert record_of(world) == []


@OLD
def test_drift_is_seen_and_mended(world: World, kernel: Kernel) -> None:
    target = volume(world)
    world.reconcile(kernel=kernel)
    run("mount", "-o", "remount,bind,noexec", str(target))
    status = world.mountd("status", "--json", kernel=kernel).document["volumes"][0]
    assert [each["field"] for each in status["drift"]] == ["flags"]
    assert world.reconcile(kernel=kernel).volume("work")["action"] == "adjust"
    run("umount", str(target))
    status = world.mountd("status", "--json", kernel=kernel).document["volumes"][0]
    assert [each["field"] for each in status["drift"]] == ["mount"]
    assert world.reconcile(kernel=kernel).volume("work")["action"] == "mount"
    assert owner(target) == (1000, 1000)
    assert points(world) == [str(target)]


@OLD
@pytest.mark.parametrize(("user", "action"), [("1000:1000", "keep"), ("1001:1001", None)])
def test_without_a_record_what_shows_the_wanted_owner_is_adopted(
    world: World, kernel: Kernel, user: str, action: str | None
) -> None:
    target = volume(world)
    world.reconcile(kernel=kernel)
    (mounted,) = world.mounts()
    Path(world.state, "record.json").unlink()
    volume(world, user=user)
    found = world.reconcile(kernel=kernel, status=0 if action else 1).volume("work")
    assert (found["action"], found["state"]) == (action, "mounted" if action else "conflict")
    assert [mount.id for mount in world.mounts()] == [mounted.id]
    assert owner(target) == (1000, 1000)
    assert Path(world.state, "record.json").exists() == bool(action)


@OLD
def test_a_replacement_leaves_one_mount_and_where_it_needs_one_notes_a_gap(
    world: World, kernel: Kernel
) -> None:
    target = volume(world)
    world.reconcile(kernel=kernel)
    for uid in (1001, 1002):
        volume(world, user=f"{uid}:{uid}")
        planned = world.reconcile("--dry-run", kernel=kernel).volume("work")
        done = world.reconcile(kernel=kernel).volume("work")
        for told in (planned, done):
            assert told["action"] == "replace"
            assert any("gap" in note for note in told["notes"]) == (kernel is DEBIAN_12)
        assert owner(target) == (uid, uid)
        assert points(world) == [str(target)]
        assert len(record_of(world)) == 1
    assert world.reconcile(kernel=kernel).volume("work")["action"] == "keep"


def mount_with_our_id(world: World, point: Path) -> None:
    """Mount a stranger that has the id by which the record knows ours, which is gone.

    The kernel gives a free id to whoever mounts next on the machine, so the record is told the
    stranger's: it says what it would say had that been ours.
    """
    run("mount", "-t", "tmpfs", "tmpfs", str(point))
    (found,) = (each.id for each in world.mounts() if each.point == str(point))
    record = Path(world.state, "record.json")
    document = json.loads(record.read_text())
    document["mounts"][0]["id"] = int(found)
    record.write_text(json.dumps(document))


@pytest.mark.fault(17, "before 6.8: a mount elsewhere")
def test_an_id_that_another_mount_has_now_is_not_taken_for_ours(world: World) -> None:
    target = volume(world)
    world.reconcile(kernel=DEBIAN_12)
    run("umount", str(target))
    (world / "other").mkdir()
    mount_with_our_id(world, world / "other")
    for words in (["--dry-run"], []):
        (found,) = world.reconcile(*words, kernel=DEBIAN_12).document["volumes"]
        assert found["action"] == "mount"
        assert [each["found"] for each in found["drift"]] in ([], ["nothing"])
    assert world.mountd("unmount", "--all", kernel=DEBIAN_12).status == 0
    assert points(world) == [f"{world.path}/other"]
    assert record_of(world) == []


@pytest.mark.fault(17, "before 6.8: a mount at the target")
def test_an_id_that_another_mount_has_now_is_not_unmounted_as_ours(world: World) -> None:
    target = volume(world)
    world.reconcile(kernel=DEBIAN_12)
    run("umount", str(target))
    mount_with_our_id(world, target)
    (stranger,) = world.mounts()
    assert record_of(world)[0]["id"] == int(stranger.id)
    assert world.mountd("unmount", "--all", kernel=DEBIAN_12).status == 0
    assert world.mounts() == [stranger]
    assert world.reconcile(kernel=DEBIAN_12, status=1).volume("work")["state"] == "conflict"
    assert world.mounts() == [stranger]


def test_a_file_saved_by_rename_is_drift_of_a_mount_that_is_still_known(world: World) -> None:
    (world / "file").write_text("old\n")
    target = world / "target"
    world.volumes(work={"source": world / "file", "target": target})
    world.reconcile(kernel=DEBIAN_12)
    (world / "file.new").write_text("new\n")
    (world / "file.new").rename(world / "file")
    (found,) = world.reconcile(kernel=DEBIAN_12).document["volumes"]
    assert (found["action"], [each["field"] for each in found["drift"]]) == ("replace", ["source"])
    assert target.read_text() == "new\n"
    assert points(world) == [str(target)]


@OLD
@pytest.mark.parametrize("where", [[], ["unshare", "-m", "--propagation", "slave"]])
def test_who_keeps_it_busy_is_named(shared_world: World, kernel: Kernel, where: list[str]) -> None:
    world = shared_world
    target = volume(world)
    world.reconcile(kernel=kernel)
    script = "import os; print('ready', flush=True); input()"
    with running(*where, sys.executable, "-c", script, cwd=target) as process:
        told = world.mountd("unmount", "work", "--json", kernel=kernel).volume("work")
        assert told["error"]["code"] == "busy"
        assert f"(pid {process.pid})" in told["error"]["message"]
    run("mount", "-t", "tmpfs", "-o", "X-mount.mkdir", "tmpfs", str(target / "inner"))
    told = world.mountd("unmount", "work", "--json", kernel=kernel).volume("work")
    assert f"the mount at {target}/inner" in told["error"]["message"]


def test_the_kinds_of_ids_are_never_taken_for_each_other(world: World) -> None:
    target = volume(world)
    world.reconcile()
    by_statmount = record_of(world)
    assert world.reconcile(kernel=DEBIAN_12).volume("work")["action"] == "keep"
    (by_mountinfo,) = record_of(world)
    assert by_mountinfo["id"] == int(world.mounts()[0].id)
    assert world.reconcile().volume("work")["action"] == "keep"
    assert record_of(world) == by_statmount
    assert mount_id(target) == by_statmount[0]["id"]


def test_a_pass_reads_the_table_as_often_for_many_volumes_as_for_few(world: World) -> None:
    trace = world / "trace"
    words = ["strace", "-f", "-qq", "-o", str(trace), "-e", "trace=openat", MOUNTD]
    options = ["--manifest", world.manifest, "--state-dir", world.state]

    def reads(*command: str) -> int:
        done = world.run([*DEBIAN_12.command(*words), *command, *options])
        assert done.status == 0, done.err
        return trace.read_text().count("/mountinfo")

    def reads_for(count: int) -> list[int]:
        folders = [world.folder(f"{count}/{number}") for number in range(count)]
        world.volumes(
            **{f"v{each.name}": {"source": each, "target": f"{each}.to"} for each in folders}
        )
        counts = [reads(each) for each in ("reconcile", "reconcile", "status")]
        world.mountd("unmount", "--all")
        return counts

    assert reads_for(30) == reads_for(3)
