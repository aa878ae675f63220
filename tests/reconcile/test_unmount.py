"""What takes mounts off: the command, and a manifest that says so; never what is in use."""

import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from world import World, mount_id, owner, run, running

# Waits for two lines: at the first it holds the target in some way, at the second it lets go.
HOLDER = """
import ctypes, os, sys
how, target = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
held = None
if how == "cwd":
    os.chdir(target)
if how == "open":
    held = open(f"{target}/hello")
if how == "mmap":  # not by the module: that keeps the file open too
    with open(f"{target}/hello") as file:
        ctypes.CDLL(None).mmap(None, ctypes.c_size_t(6), 1, 2, file.fileno(), ctypes.c_long(0))
print(os.getpid(), flush=True)
sys.stdin.readline()
"""
ELSEWHERE = ["unshare", "-m", "--propagation"]
AND_STAY = ["sh", "-c", '"$@"; true', "sh"]


def holder(
    how: str, target: Path, within: Sequence[str] = ()
) -> AbstractContextManager[subprocess.Popen[str]]:
    return running(*within, sys.executable, "-c", HOLDER, how, str(target))


def hold(process: subprocess.Popen[str]) -> str:
    """Have it hold the target, and say what it is called."""
    assert process.stdin and process.stdout
    process.stdin.write("hold\n")
    process.stdin.flush()
    pid = process.stdout.readline().strip()
    return f"{Path(f'/proc/{pid}/comm').read_text().strip()} (pid {pid})"


def two_volumes(world: World, **keys: Any) -> tuple[Path, Path]:
    """The volumes `work`, with these keys, and `other`."""
    if not (world / "source").exists():
        world.folder("source")
    common = {"source": world / "source", "user": "1000:1000"}
    work, other = world / "deep/work", world / "other"
    world.volumes(work={**common, "target": work, **keys}, other={**common, "target": other})
    return work, other


def without_work(world: World) -> None:
    """A manifest of `other` alone."""
    source, target = world / "source", world / "other"
    world.volumes(other={"source": source, "target": target, "user": "1000:1000"})


def points(world: World) -> list[str]:
    return sorted(mount.point for mount in world.mounts())


@pytest.mark.parametrize("manifest", ["good", "broken", "missing"])
@pytest.mark.parametrize("words", [["work"], ["other", "work"], ["--all"]])
def test_what_is_named_comes_off_whatever_became_of_the_manifest(
    world: World, manifest: str, words: list[str]
) -> None:
    work, other = two_volumes(world)
    world.reconcile()
    if manifest == "broken":
        world.write("[volumes.work\n")
    if manifest == "missing":
        Path(world.manifest).unlink()
    result = world.mountd("unmount", "--json", *words)
    assert result.status == 0, result.err
    assert result.document["changed"] is True
    assert result.volume("work")["action"] == "unmount"
    assert result.volume("work")["state"] == "unmounted"
    assert points(world) == ([str(other)] if words == ["work"] else [])
    assert work.is_dir(), "a target that was made is never removed"
    assert not list(work.iterdir())


def test_a_file_is_taken_off_and_its_target_stays(world: World) -> None:
    (world / "file").write_text("content\n")
    world.volumes(work={"source": world / "file", "target": world / "made/file"})
    world.reconcile()
    assert world.mountd("unmount", "work").status == 0
    assert points(world) == []
    assert (world / "made/file").read_text() == ""


def test_what_is_unmounted_already_is_no_error_and_nothing_to_do(world: World) -> None:
    two_volumes(world)
    world.reconcile()
    assert world.mountd("unmount", "work").status == 0
    again = world.mountd("unmount", "work")
    assert again.status == 0
    assert "nothing to do" in again.out + again.err
    assert world.mountd("unmount", "--all").status == 0
    assert world.mountd("unmount", "--all", "--json").document["changed"] is False


@pytest.mark.parametrize("names", [["wrok"], ["work", "wrok"]])
def test_an_unknown_name_is_a_wrong_command_line_and_nothing_is_unmounted(
    world: World, names: list[str]
) -> None:
    work, other = two_volumes(world)
    world.reconcile()
    result = world.mountd("unmount", *names)
    assert result.status == 64
    assert "wrok" in result.err
    assert points(world) == [str(work), str(other)]


def test_all_is_all_of_this_manifest(world: World) -> None:
    two_volumes(world)
    world.reconcile()
    others = world / "others.toml"
    others.write_text(f'[volumes.work]\nsource = "{world / "source"}"\ntarget = "{world / "kept"}"')
    others.chmod(0o644)
    assert world.mountd("reconcile", "--manifest", str(others)).status == 0
    assert world.mountd("unmount", "--all").status == 0
    assert points(world) == [str(world / "kept")]


@pytest.mark.fault(36, "an unmount: open, cwd, mmap, elsewhere")
@pytest.mark.parametrize("how", ["open", "cwd", "mmap"])
@pytest.mark.parametrize(
    ("parent", "within"),
    [
        pytest.param("world", [], id="here"),
        pytest.param("shared_world", [*ELSEWHERE, "slave"], id="slave"),
        pytest.param("shared_world", [*ELSEWHERE, "unchanged"], id="peer"),
        pytest.param(
            "shared_world",
            [*ELSEWHERE, "slave", *ELSEWHERE, "shared", *AND_STAY, *ELSEWHERE, "slave"],
            id="slave-of-a-slave",
        ),
    ],
)
def test_a_busy_volume_stays_and_who_holds_it_is_named(
    parent: str, within: list[str], how: str, request: pytest.FixtureRequest
) -> None:
    world: World = request.getfixturevalue(parent)
    work, other = world / "deep/work", world / "other"
    with holder(how, work, within) as process:
        two_volumes(world)
        world.reconcile()
        before = mount_id(work)
        who = hold(process)
        result = world.mountd("unmount", "--all", "--json")
        assert result.status == 1
        busy = result.volume("work")
        assert (busy["state"], busy["reason"], busy["action"]) == ("failed", "busy", "unmount")
        assert who in busy["error"]["message"]
        assert result.volume("other")["state"] == "unmounted"
        assert points(world) == [str(work)]
        assert (mount_id(work), owner(work)) == (before, (1000, 1000))
    assert world.mountd("unmount", "--all").status == 0
    assert points(world) == []
    assert not list(other.iterdir())


def test_a_copy_that_is_no_longer_ours_keeps_nothing_busy(world: World) -> None:
    work, _ = two_volumes(world)
    world.reconcile()
    with holder("open", work, [*ELSEWHERE, "private"]) as process:
        hold(process)
        assert world.mountd("unmount", "work").status == 0
    assert not list(work.iterdir())


def test_a_mount_below_keeps_it_busy_and_is_named(world: World) -> None:
    work, _ = two_volumes(world)
    world.reconcile()
    (work / "sub").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(work / "sub"))
    result = world.mountd("unmount", "work", "--json")
    assert result.status == 1
    assert result.volume("work")["reason"] == "busy"
    assert str(work / "sub") in result.volume("work")["error"]["message"]
    assert str(work / "sub") in points(world)
    run("umount", str(work / "sub"))
    assert world.mountd("unmount", "work").status == 0
    assert not list(work.iterdir())


def test_what_covers_it_is_not_taken_off_instead(world: World) -> None:
    work, other = two_volumes(world)
    world.reconcile()
    run("mount", "-t", "tmpfs", "tmpfs", str(work))
    (work / "foreign").touch()
    result = world.mountd("unmount", "work", "--json")
    assert result.status == 1
    assert result.volume("work")["reason"] == "foreign-mount"
    assert points(world) == [str(work), str(work), str(other)]
    assert (work / "foreign").exists()


@pytest.mark.parametrize("is_disabled", [False, True], ids=["removed", "disabled"])
def test_what_leaves_the_manifest_is_unmounted(world: World, is_disabled: bool) -> None:
    work, other = two_volumes(world)
    world.reconcile()
    if is_disabled:
        two_volumes(world, enabled=False)
    else:
        without_work(world)
    result = world.reconcile()
    assert [each["name"] for each in result.document["volumes"]] == ["other", "work"]
    assert (result.volume("work")["action"], result.volume("work")["state"]) == (
        "unmount",
        "unmounted",
    )
    assert points(world) == [str(other)]
    assert work.is_dir()
    assert not list(work.iterdir())


def test_what_leaves_while_busy_fails_the_run_and_is_tried_again(world: World) -> None:
    work, other = two_volumes(world, required=False)
    with holder("cwd", work) as process:
        world.reconcile()
        who = hold(process)
        without_work(world)
        for _ in range(2):  # what left counts as required, each time
            result = world.reconcile(status=1)
            assert result.volume("work")["reason"] == "busy"
            assert who in result.volume("work")["error"]["message"]
            assert result.volume("other")["state"] == "mounted"
            assert points(world) == [str(work), str(other)]
    assert world.reconcile().volume("work")["state"] == "unmounted"
    assert points(world) == [str(other)]


def test_a_moved_target_is_mounted_at_the_new_place_and_leaves_the_old(world: World) -> None:
    work, other = two_volumes(world)
    world.reconcile()
    two_volumes(world, target=world / "new")
    result = world.reconcile()
    actions = [(each["action"], each["target"]) for each in result.document["volumes"]]
    assert actions == [("mount", f"{world / 'new'}"), ("keep", str(other)), ("unmount", str(work))]
    assert points(world) == sorted([str(world / "new"), str(other)])


@pytest.mark.parametrize("source", ["nowhere", "overlay"])
def test_what_cannot_be_mounted_at_its_new_target_stays_at_the_old(
    world: World, source: str
) -> None:
    work, other = two_volumes(world)
    world.reconcile()
    before = mount_id(work)
    if source == "overlay":  # it refuses idmapped mounts
        world.folder("overlay")
        layers = f"lowerdir={world.folder('lower')}:{world.folder('lowest')}"
        run("mount", "-t", "overlay", "-o", layers, "overlay", str(world / "overlay"))
    changed = {"source": world / source, "target": world / "new", "fallback": "fail"}
    two_volumes(world, **changed, idmap="always")
    world.reconcile(status=1)
    assert mount_id(work) == before
    assert set(points(world)) - {str(world / "overlay")} == {str(work), str(other)}


def test_a_mount_moved_elsewhere_comes_off_where_it_is(world: World) -> None:
    _, other = two_volumes(world)
    world.reconcile()
    (world / "deep").rename(world / "away")
    assert world.mountd("unmount", "work").status == 0
    assert points(world) == [str(other)]
