"""A replacement: no gap, no stack, nothing lost; and where it fails, the old mount goes on."""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from documents import document_of
from world import MOUNTD, World, mount_id, owner, run, running

MS_BIND, MS_REC = 0x1000, 0x4000

READER = """
import json, os, select, sys
target, seen = sys.argv[1], set()
print("ready", flush=True)
while not select.select([0], [], [], 0)[0]:
    try:
        seen.add(f"folder of {os.stat(target).st_uid}")
        with open(f"{target}/hello") as file:
            seen.add(f"file of {os.fstat(file.fileno()).st_uid}: {file.read()}")
    except OSError as error:
        seen.add(str(error))
print(json.dumps(sorted(seen)))
"""
BOTH = ["file of 1000: hello\n", "file of 1001: hello\n", "folder of 1000", "folder of 1001"]
OLD = ["file of 1000: hello\n", "folder of 1000"]

REPLACER = """
import sys
from mountd.reconcile.passes import Settings, reconcile
manifest, state, count, *texts = sys.argv[1:]
outcomes = []
for each in range(int(count)):
    with open(manifest, "w") as file:
        file.write(texts[each % 2])
    reconcile(Settings(manifest, state), lambda *_: None, outcomes.append, wait=10.0)
print(sum(each.action.verb == "replace" and not each.fault for each in outcomes))
"""


class Reader(NamedTuple):
    """A process that looks at a target again and again."""

    process: subprocess.Popen[str]

    def end(self) -> list[str]:
        """All that it saw."""
        seen: list[str] = json.loads(self.process.communicate("end\n")[0])
        return seen

    def points(self) -> list[str]:
        """The mount points in its namespace."""
        lines = Path(f"/proc/{self.process.pid}/mountinfo").read_text().splitlines()
        return [line.split()[4] for line in lines]


@contextmanager
def reader(target: Path, *within: str) -> Iterator[Reader]:
    with running(*within, sys.executable, "-c", READER, str(target)) as process:
        yield Reader(process)


def one_volume(world: World, user: str = "1000:1000", **keys: Any) -> Path:
    """A manifest of the volume `work`, whose target has a `hello` of its own underneath."""
    source, target = world / "source", world / "work"
    if not source.exists():
        world.folder("source")
        (world.folder("work", owner=(7, 7)) / "hello").write_text("underneath\n")
    world.volumes(work={"source": source, "target": target, "user": user, **keys})
    return target


def points(world: World) -> list[str]:
    return [mount.point for mount in world.mounts()]


@pytest.mark.parametrize(
    ("parent", "within"),
    [
        pytest.param("world", [], id="private"),
        pytest.param("shared_world", [], id="shared"),
        pytest.param("shared_world", ["unshare", "-m", "--propagation", "slave"], id="slave"),
        pytest.param("shared_world", ["unshare", "-m", "--propagation", "unchanged"], id="peer"),
    ],
)
def test_a_reader_sees_the_old_or_the_new_mount_and_nothing_else(
    parent: str, within: list[str], request: pytest.FixtureRequest
) -> None:
    world: World = request.getfixturevalue(parent)
    target = one_volume(world, "1001:1001")
    texts = [Path(world.manifest).read_text()]
    one_volume(world, "1000:1000")
    texts.append(Path(world.manifest).read_text())
    world.reconcile()
    with reader(target, *within) as process:
        driver = [sys.executable, "-c", REPLACER, world.manifest, world.state, "60", *texts]
        assert world.run(driver).out == "60\n"
        assert process.points().count(str(target)) == 1
        assert process.end() == BOTH
    assert points(world) == [str(target)]
    assert owner(target) == (1000, 1000)


@pytest.mark.parametrize("parent", ["world", "shared_world"])
def test_a_reader_sees_no_gap_in_edits_by_the_command(
    parent: str, request: pytest.FixtureRequest
) -> None:
    world: World = request.getfixturevalue(parent)
    target = one_volume(world)
    world.reconcile()
    with reader(target) as process:
        for user in ("1001:1001", "1000:1000") * 3:
            one_volume(world, user)
            work = world.reconcile().volume("work")
            assert work["action"] == "replace"
            assert [each["field"] for each in work["drift"]] == ["idmap"]
            assert points(world) == [str(target)]
        assert process.end() == BOTH


@pytest.mark.fault(36, "a replacement")
def test_open_files_and_working_folders_go_on_in_the_old_mount(world: World) -> None:
    target = one_volume(world)
    world.reconcile()
    words = ["sh", "-c", "echo; read go; stat -c %u:%g . hello; touch made"]
    with running(*words, cwd=target) as inside, open(target / "hello", "a") as file:
        one_volume(world, "1001:1001")
        world.reconcile()
        assert owner(target / "hello") == (1001, 1001)
        assert os.fstat(file.fileno()).st_uid == 1000
        file.write("more\n")
        assert inside.communicate("go\n")[0] == "1000:1000\n" * 2
    assert (target / "hello").read_text() == "hello\nmore\n"
    assert (target / "made").exists()
    assert points(world) == [str(target)]


@pytest.mark.fault(23, "after it was mounted")
@pytest.mark.parametrize("parent", ["world", "shared_world"])
def test_another_folder_behind_the_same_path_is_drift_and_followed(
    parent: str, request: pytest.FixtureRequest
) -> None:
    world: World = request.getfixturevalue(parent)
    target = one_volume(world)
    world.reconcile()
    (world / "source").rename(world / "away")
    (world.folder("source", owner=(502, 21)) / "hello").write_text("another\n")
    assert (target / "hello").read_text() == "hello\n"
    status = world.mountd("status", "--json")
    assert status.status == 1
    assert "source" in [each["field"] for each in status.volume("work")["drift"]]
    assert world.reconcile().volume("work")["action"] == "replace"
    assert (target / "hello").read_text() == "another\n"
    assert owner(target) == (1000, 1000)
    assert points(world) == [str(target)]


@pytest.mark.fault(24, "once")
def test_a_file_is_a_volume_and_one_renamed_over_it_is_followed(world: World) -> None:
    source, target = world / "file", world / "etc/file"
    source.write_text("first\n")
    os.chown(source, 501, 20)
    world.volumes(file={"source": source, "target": target, "user": "1000:1000"})
    world.reconcile()
    assert target.read_text() == "first\n"
    assert owner(target) == (1000, 1000)
    (world / "new").write_text("second\n")
    os.chown(world / "new", 501, 20)
    (world / "new").rename(source)
    assert target.read_text() == "first\n"
    work = world.reconcile().volume("file")
    assert (work["action"], [each["field"] for each in work["drift"]]) == ("replace", ["source"])
    assert target.read_text() == "second\n"
    assert owner(target) == (1000, 1000)
    assert points(world) == [str(target)]


def make_overlay(world: World) -> Path:
    for name in ("lower", "upper", "index", "overlay"):
        world.folder(name)
    layers = f"lowerdir={world / 'lower'},upperdir={world / 'upper'},workdir={world / 'index'}"
    run("rm", str(world / "index/hello"))
    run("mount", "-t", "overlay", "-o", layers, "overlay", str(world / "overlay"))
    return world / "overlay"


def make_proc(world: World) -> Path:
    world.folder("proc")
    run("mount", "-t", "proc", "-o", "nosuid", "proc", str(world / "proc"))
    return world / "proc"


def make_file(world: World) -> Path:
    (world / "file").touch()
    return world / "file"


@pytest.mark.parametrize(
    ("key", "value", "state", "reason"),
    [
        pytest.param("source", make_overlay, "failed", "filesystem-refuses", id="overlay"),
        pytest.param("source", make_proc, "failed", "filesystem-refuses", id="proc"),
        pytest.param("source", make_file, "failed", "wrong-kind", id="kind"),
        pytest.param("source", "/nowhere", "pending", "no-source", id="source"),
        pytest.param("user", "nobody-here", "pending", "no-user", id="user"),
    ],
)
def test_a_replacement_that_cannot_be_made_leaves_the_old_mount_and_the_others_go_on(
    world: World, key: str, value: Any, state: str, reason: str
) -> None:
    target = one_volume(world)
    world.reconcile()
    before = mount_id(target)
    tables: dict[str, dict[str, Any]] = {
        "work": {"source": world / "source", "target": target, "user": "1000:1000"},
        "other": {"source": world / "source", "target": world / "other", "user": "1000:1000"},
    }
    tables["work"] |= {key: value(world) if callable(value) else value, "fallback": "fail"}
    world.volumes(**tables)
    with reader(target) as process:
        result = world.reconcile(status=1)
        assert process.end() == OLD
    work = result.volume("work")
    assert (work["state"], work["reason"], work["error"]["code"]) == (state, reason, reason)
    assert (mount_id(target), owner(target)) == (before, (1000, 1000))
    assert result.volume("other")["state"] == "mounted"
    assert owner(world / "other") == (1000, 1000)


def fill_with_mounts(folder: Path) -> None:
    """Mount until this namespace has as many mounts as it may: a tree in itself, doubled."""
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = count()

    def bound(tree: Path) -> Path | None:
        point = folder / str(next(numbers))
        point.mkdir()
        words = os.fsencode(tree), os.fsencode(point)
        return None if libc.mount(*words, None, MS_BIND | MS_REC, None) else point

    folder.mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(folder))
    trees: list[Path] = []
    while tree := bound(folder):
        trees.append(tree)
    for tree in reversed(trees):
        bound(tree)


@pytest.mark.fault(3, "a namespace that is full, and what is lifted again")
def test_no_mount_to_be_had_leaves_the_old_one_and_names_the_limit(world: World) -> None:
    target = one_volume(world)
    world.reconcile()
    before = mount_id(target)
    fill_with_mounts(world / "fill")
    one_volume(world, "1001:1001")
    work = world.reconcile(status=1).volume("work")
    assert work["reason"] == "limit"
    most = Path("/proc/sys/fs/mount-max").read_text().strip()
    assert work["error"]["hint"] == f"raise the sysctl fs.mount-max, which is {most}"
    assert "No space" not in work["error"]["message"], "that is what ENOSPC says elsewhere"
    assert (mount_id(target), owner(target)) == (before, (1000, 1000))
    run("umount", "--lazy", str(world / "fill"))
    assert world.reconcile().volume("work")["action"] == "replace"
    assert owner(target) == (1001, 1001)
    assert points(world) == [str(target)]


IN_A_USER_NAMESPACE = f"""
set -e
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/source
chown 501:20 /mnt/source
cat >/mnt/mountd.toml <<EOF
[volumes.work]
source = "/mnt/source"
target = "/mnt/work"
user = "1000:1000"
[volumes.kept]
source = "/mnt/source"
target = "/mnt/kept"
user = "1002:1002"
EOF
run() {{ {MOUNTD} reconcile --json --manifest /mnt/mountd.toml --state-dir /mnt/state; }}
run >/dev/null
sed -i s/1000:1000/1001:1001/ /mnt/mountd.toml
echo 0 >/proc/sys/user/max_user_namespaces
run 2>/dev/null || echo $?
stat -c %u:%g /mnt/work /mnt/kept
"""


@pytest.mark.fault(4, "none from now on, with mounts that are there")
@pytest.mark.usefixtures("namespace")
def test_no_user_namespace_to_be_had_leaves_the_old_mount_and_names_the_limit() -> None:
    run("mount", "-t", "proc", "proc", "/proc")  # a container's manager may have made it read-only
    # in a user namespace, whose limit is its own; exec, for only then is its root privileged
    shell = ["sh", "-c", 'echo; read go; exec sh -c "$0"', IN_A_USER_NAMESPACE]
    with running("unshare", "-U", "-m", "--propagation", "private", *shell) as child:
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{child.pid}/{name}").write_text("0 0 4294967295")
        *lines, status, seen, kept = child.communicate("go\n")[0].splitlines()
    work, other = document_of("\n".join(lines))["volumes"]
    assert work["reason"] == "limit"
    assert "user.max_user_namespaces" in work["error"]["hint"]
    assert (status, seen) == ("1", "1000:1000")
    assert (other["action"], kept) == ("keep", "1002:1002")


def mount_foreign(point: Path) -> None:
    point.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "tmpfs", str(point))
    (point / "foreign").touch()


@pytest.mark.fault(37, "a tmpfs")
def test_what_was_mounted_on_the_target_before_is_left_alone(world: World) -> None:
    target = one_volume(world)
    mount_foreign(target)
    work = world.reconcile(status=1).volume("work")
    assert (work["state"], work["reason"], work["action"]) == ("conflict", "foreign-mount", None)
    assert str(target) in work["error"]["message"]
    assert points(world) == [str(target)]
    assert (target / "foreign").exists()


@pytest.mark.fault(38, "between two passes")
@pytest.mark.parametrize("user", ["1000:1000", "1001:1001"])
def test_what_covers_our_mount_is_left_alone_and_so_is_ours(world: World, user: str) -> None:
    target = one_volume(world)
    world.reconcile()
    before = mount_id(target)
    mount_foreign(target)
    one_volume(world, user)
    work = world.reconcile(status=1).volume("work")
    assert (work["state"], work["reason"], work["action"]) == ("conflict", "foreign-mount", None)
    assert points(world) == [str(target)] * 2
    assert (target / "foreign").exists()
    run("umount", str(target))
    assert (mount_id(target), owner(target)) == (before, (1000, 1000))
    world.reconcile()
    assert points(world) == [str(target)]
    assert owner(target)[0] == int(user.partition(":")[0])


@pytest.mark.fault(39, "before the first mount")
def test_a_mount_below_the_target_is_not_buried(world: World) -> None:
    target = one_volume(world)
    mount_foreign(target / "sub")
    work = world.reconcile(status=1).volume("work")
    assert (work["state"], work["reason"]) == ("conflict", "foreign-mount")
    assert str(target / "sub") in work["error"]["message"]
    assert points(world) == [str(target / "sub")]
    assert (target / "sub/foreign").exists()


@pytest.mark.fault(39, "below one of ours")
@pytest.mark.parametrize("parent", ["world", "shared_world"])
def test_a_foreign_mount_below_a_managed_one_outlives_an_edit(
    parent: str, request: pytest.FixtureRequest
) -> None:
    world: World = request.getfixturevalue(parent)
    target = one_volume(world)
    world.reconcile()
    before = mount_id(target)
    mount_foreign(target / "sub")
    assert world.reconcile().volume("work")["action"] == "keep"
    one_volume(world, "1001:1001")
    work = world.reconcile(status=1).volume("work")
    assert (work["state"], work["reason"]) == ("conflict", "foreign-mount")
    assert str(target / "sub") in work["error"]["message"]
    assert (mount_id(target), owner(target)) == (before, (1000, 1000))
    assert (target / "sub/foreign").exists()
    run("umount", str(target / "sub"))
    assert world.reconcile().volume("work")["action"] == "replace"
    assert points(world) == [str(target)]
    assert owner(target) == (1001, 1001)


def test_what_is_mounted_below_a_target_does_not_appear_on_its_source(shared_world: World) -> None:
    target = one_volume(shared_world)
    shared_world.reconcile()
    (target / "sub").mkdir()
    mount_foreign(target / "sub")
    assert points(shared_world) == [str(target), str(target / "sub")]
    assert not (shared_world / "source/sub/foreign").exists()


def test_volumes_that_exchange_targets_are_two_replacements(world: World) -> None:
    here, there = world / "here", world / "there"
    one = {"source": world.folder("one", owner=(1000, 1000)), "user": "1000:1000"}
    two = {"source": world.folder("two", owner=(1001, 1001)), "user": "1001:1001"}
    world.volumes(one={**one, "target": here}, two={**two, "target": there})
    world.reconcile()
    world.volumes(one={**one, "target": there}, two={**two, "target": here})
    with reader(here) as process:
        result = world.reconcile()
        assert set(process.end()) <= set(BOTH)
    assert [each["action"] for each in result.document["volumes"]] == ["replace", "replace"]
    assert (owner(here), owner(there)) == ((1001, 1001), (1000, 1000))
    assert sorted(points(world)) == [str(here), str(there)]
