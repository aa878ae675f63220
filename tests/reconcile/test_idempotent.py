"""A pass without actions makes no changing system call and writes nothing: strace tells."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from world import MOUNTD, World, record_of, run

CHANGING = (
    "mount,move_mount,open_tree,?open_tree_attr,mount_setattr,umount2,fsopen,fsmount,pivot_root,"
    "open,creat,openat,openat2,mkdir,mkdirat,mknod,mknodat,rmdir,unlink,unlinkat,rename,renameat,"
    "renameat2,link,linkat,symlink,symlinkat,truncate,ftruncate,fallocate,"
    "write,pwrite64,writev,pwritev,sendto,sendmsg,copy_file_range,sendfile,fsync,fdatasync,"
    "chown,fchown,lchown,fchownat,chmod,fchmod,fchmodat,utimensat,setxattr,fsetxattr,lsetxattr,"
    "unshare,setns,chroot,clone,clone3,fork,vfork,execve,execveat"
)
# as `strace -y` has them: `openat(3</mnt/state>, "lock", O_RDWR|O_CREAT`, `write(1<pipe:[12]>, `
HARMLESS = re.compile(
    r"open(at2?)?\((?!.*\bO_(WRONLY|RDWR|CREAT|TRUNC|APPEND)\b)"
    r'|openat\([^ ]+ "(lock|/dev/null)",'
    r"|write\([12]<"
    r"|clone3?\(.*CLONE_THREAD"
    r"|execve\(.*/mountd\""
    r"|syscall_0x1c[9a]\("  # statmount and listmount, to a strace that is older than these
    r"|(syscall_0x1d3\(0xf+|mount_setattr\(-1), .*= -1 "  # is the call there? open_tree_attr, too
)
PROBE = re.compile(  # on a clone that is never attached; the namespace that it takes has a child
    r"open_tree\(|syscall_0x1d3\(|mount_setattr\([0-9]+<[^>]*>, \"\"|clone3?\(.*CLONE_NEWUSER"
    r"|(openat|write)\(.*/[ug]id_map|kill\("
)


class Traced(NamedTuple):
    """A run: what it printed, and its system calls that change something."""

    status: int
    said: str
    changes: list[str]


def traced(world: World, *words: str) -> Traced:
    trace = f"{world.path}/trace"
    options = ["-f", "-y", "-qq", "--signal=none", "-e", f"trace={CHANGING}", "-o", trace]
    where = ["--manifest", world.manifest, "--state-dir", world.state]
    quietly = {"PYTHONDONTWRITEBYTECODE": "1"}  # what Python caches is not the run's doing
    result = world.run(["strace", *options, MOUNTD, *words, *where], env=quietly)
    calls = [line.split(maxsplit=1)[1] for line in Path(trace).read_text().splitlines()]
    assert calls[0].startswith("execve("), "strace has seen it all"
    return Traced(
        result.status, result.out + result.err, [each for each in calls if not is_harmless(each)]
    )


def is_harmless(call: str) -> bool:
    return HARMLESS.match(call) is not None or call.startswith("<... ")


def names(calls: list[str]) -> set[str]:
    return {call.partition("(")[0] for call in calls}


def state(world: World) -> dict[str, tuple[int, ...]]:
    """All that a write to the state directory would change."""
    found: dict[str, tuple[int, ...]] = {}
    for path in (Path(world.state), *sorted(Path(world.state).iterdir())):
        seen = path.stat()
        found[path.name] = (seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
    return found


def several(world: World, first: str = "work") -> None:
    """A manifest of volumes of all kinds."""
    if not (world / "source").exists():
        world.folder("source")
        (world / "file").write_text("content\n")
    source = {"source": world / "source"}
    made_by_root = {"source": world / "file", "owner": "0:0", "user": "1000:1000"}
    low = [{"stored": 0, "seen": 100000, "count": 65536}]
    world.volumes(
        **{first: {**source, "target": world / "work", "user": "1000:1000"}},
        raw={**source, "target": world / "raw"},
        flags={**source, "target": world / "flags", "read_only": True, "noexec": True},
        extents={**source, "target": world / "extents", "idmap": {"uids": low, "gids": low}},
        file={**made_by_root, "target": world / "target"},
    )


def nothing(world: World) -> None:
    world.write("version = 1")


def optional_and_pending(world: World) -> None:
    world.volumes(
        work={"source": world / "absent", "target": world / "work", "required": False},
        off={"source": world.folder("source"), "target": world / "off", "enabled": False},
    )


@pytest.mark.parametrize("manifest", [several, nothing, optional_and_pending])
def test_a_second_run_changes_nothing(world: World, manifest: Callable[[World], None]) -> None:
    manifest(world)
    world.reconcile()
    before, mounts = state(world), world.mounts()
    again = traced(world, "reconcile")
    assert again.status == 0
    assert again.changes == []
    assert "nothing to do" in again.said
    assert (state(world), world.mounts()) == (before, mounts)
    assert world.reconcile().document["changed"] is False


def test_a_first_run_changes_what_a_second_one_must_not(world: World) -> None:
    """The trace shows a change when there is one."""
    several(world)
    first = traced(world, "reconcile")
    assert first.status == 0
    wanted = {"clone", "open_tree", "mount_setattr", "move_mount", "mkdirat", "openat", "write"}
    assert wanted <= names(first.changes)
    assert "execve" not in names(first.changes), "no external programs"


def test_no_volumes_make_no_record(world: World) -> None:
    nothing(world)
    world.reconcile()
    assert os.listdir(world.state) == ["lock"]


@pytest.mark.parametrize("damage", ["lost", "damaged"])
def test_a_record_that_was_lost_is_all_that_is_written(world: World, damage: str) -> None:
    several(world)
    world.reconcile()
    record, before = record_of(world), world.mounts()
    if damage == "lost":
        Path(world.state, "record.json").unlink()
    else:
        Path(world.state, "record.json").write_text("{")
    again = traced(world, "reconcile")
    assert again.status == 0
    assert "nothing to do" in again.said
    assert names(again.changes) <= {"openat", "write", "fsync", "rename", "renameat"}
    assert all("record.json" in each for each in again.changes)
    assert world.mounts() == before
    assert sorted(each["id"] for each in record_of(world)) == sorted(each["id"] for each in record)
    assert traced(world, "reconcile").changes == []


def test_a_renamed_volume_is_renamed_in_the_record_and_nowhere_else(world: World) -> None:
    several(world)
    world.reconcile()
    before = world.mounts()
    several(world, first="renamed")
    again = traced(world, "reconcile")
    assert again.status == 0
    assert "nothing to do" in again.said
    assert all("record.json" in each for each in again.changes)
    assert world.mounts() == before
    assert "renamed" in [each["volume"] for each in record_of(world)]
    assert traced(world, "reconcile").changes == []
    assert world.mountd("unmount", "renamed").status == 0


@pytest.mark.parametrize("words", [["reconcile"], ["unmount", "work"], ["unmount", "--all"]])
def test_what_cannot_be_helped_changes_nothing(world: World, words: list[str]) -> None:
    """A conflict, and for `unmount` volumes that aren't mounted."""
    world.volumes(work={"source": world.folder("source"), "target": world.folder("work")})
    run("mount", "-t", "tmpfs", "tmpfs", str(world / "work"))
    world.reconcile(status=1)
    before = state(world)
    again = traced(world, *words)
    assert again.status == (1 if words == ["reconcile"] else 0)
    assert again.changes == []
    assert "nothing to do" in again.said
    assert state(world) == before


@pytest.mark.parametrize("words", [["reconcile", "--dry-run"], ["status"], ["check"]])
@pytest.mark.parametrize("is_mounted", [False, True])
def test_a_look_takes_no_lock_and_changes_nothing(
    world: World, words: list[str], is_mounted: bool
) -> None:
    several(world)
    if is_mounted:
        world.reconcile()
    before = world.mounts()
    changes = traced(world, *words).changes
    assert [each for each in changes if not PROBE.match(each)] == []
    assert changes == [] or not is_mounted
    assert os.path.exists(world.state) == is_mounted
    assert world.mounts() == before
