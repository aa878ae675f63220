"""What else lies in the way, or goes wrong halfway: nothing is lost, and a later pass converges."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from world import MOUNTD, World, owner, run


def _work(world: World, **keys: object) -> dict[str, object]:
    return {"source": world / "source", "target": world / "work", "user": "1000:1000", **keys}


def test_what_cannot_be_at_its_new_target_stays_at_the_old(world: World) -> None:
    world.folder("source")
    world.volumes(work=_work(world))
    world.reconcile()
    world.volumes(work=_work(world, target=world / "new"))
    (world / "new").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(world / "new"))
    dry = world.mountd("reconcile", "-n", "--json")
    result = world.reconcile(status=1)
    assert [each["action"] for each in result.document["volumes"]] == [None]
    assert [each["action"] for each in dry.document["volumes"]] == [None]
    assert owner(world / "work/hello") == (1000, 1000)
    run("umount", str(world / "new"))
    world.reconcile()
    assert owner(world / "new/hello") == (1000, 1000)
    assert not (world / "work/hello").exists()


def test_a_target_moved_below_its_old_one_gets_there(world: World) -> None:
    world.folder("source")
    (world / "work/below").mkdir(parents=True)
    world.volumes(work=_work(world))
    world.reconcile()
    world.volumes(work=_work(world, target=world / "work/below"))
    planned = world.reconcile("--dry-run").document["volumes"]
    assert [each["action"] for each in planned] == ["mount", "unmount"]
    assert planned[0]["notes"] == [f"after {world / 'work'} is taken off"]
    world.reconcile()
    assert owner(world / "work/below/hello") == (1000, 1000)
    assert not (world / "source/below").exists()


def test_a_mount_over_a_folder_above_a_target_is_a_conflict(world: World) -> None:
    world.folder("source")
    (world / "above/work").mkdir(parents=True)
    world.volumes(work=_work(world, target=world / "above/work"))
    world.reconcile()
    run("mount", "-t", "tmpfs", "tmpfs", str(world / "above"))
    (world / "above/work").mkdir()
    for command in (["reconcile"], ["unmount", "--all"]):
        result = world.mountd(*command, "--json")
        assert result.status == 1
        assert result.volume("work")["reason"] == "foreign-mount"
        assert "can't be reached: the mount at /mnt/above (tmpfs) covers it" in result.err
    assert not (world / "above/work/hello").exists()
    run("umount", str(world / "above"))
    assert world.reconcile().volume("work")["action"] == "keep"


def test_a_pending_volume_whose_target_is_behind_a_link_keeps_its_mount(world: World) -> None:
    source = world.folder("source")
    (world / "real").mkdir()
    (world / "link").symlink_to("real")
    world.volumes(work=_work(world, target=world / "link/work"))
    world.reconcile()
    source.rename(world / "gone")
    world.volumes(renamed=_work(world, target=world / "link/work"))
    volumes = world.reconcile(status=1).document["volumes"]
    assert [(each["name"], each["state"]) for each in volumes] == [("renamed", "pending")]
    assert owner(world / "real/work/hello") == (1000, 1000)


@pytest.mark.parametrize(
    ("key", "value"),
    [("id", 1e999), ("id", "x"), ("idmap", [1, 2]), ("idmap", 3), ("owner", None), ("owner", [1])],
)
def test_a_record_with_values_of_other_types_is_as_lost(
    world: World, key: str, value: object
) -> None:
    world.folder("source")
    world.volumes(work=_work(world))
    world.reconcile()
    record = Path(world.state, "record.json")
    document = json.loads(record.read_text())
    document["mounts"][0][key] = value
    record.write_text(json.dumps(document))
    result = world.reconcile()
    assert result.volume("work")["action"] == "keep"
    assert "can't be read" in result.err
    assert world.mountd("unmount", "work").status == 0


def test_a_relative_manifest_in_a_folder_that_is_gone_is_a_wrong_command_line(world: World) -> None:
    script = 'mkdir /mnt/gone && cd /mnt/gone && rmdir /mnt/gone && exec "$0" check -f m.toml'
    result = world.run(["sh", "-c", script, MOUNTD])
    assert result.status == 64
    assert "the working directory is gone" in result.err


def test_defaults_can_disable_what_is_not_complete(world: World) -> None:
    world.write('[defaults]\nenabled = false\n[volumes.a]\ntarget = "/etc-like"\n[volumes.b]\n')
    assert world.reconcile().document["volumes"] == []


def test_check_tells_what_would_stop_a_volume(world: World) -> None:
    world.volumes(work=_work(world))
    result = world.mountd("check")
    assert result.status == 0
    assert f"there is no {world / 'source'}" in result.err


def test_an_unbindable_source_is_named_as_such(world: World) -> None:
    (world / "own").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(world / "own"))
    run("mount", "--make-unbindable", str(world / "own"))
    os.chown(world / "own", 501, 20)
    world.volumes(work=_work(world, source=world / "own"))
    work = world.reconcile(status=1).volume("work")
    assert work["reason"] == "mount-refused"
    assert "unbindable" in work["error"]["message"]


@pytest.mark.fault(1, "what passes leave open, and which children")
def test_no_descriptor_and_no_child_is_left_behind(world: World) -> None:
    """In one process, as `watch` will: the same descriptors are open before and after."""
    world.folder("source")
    world.volumes(
        **{f"v{i}": _work(world, target=world / f"t{i}", user=f"{1000 + i}") for i in range(20)},
        late=_work(world, source=world / "late", target=world / "l"),
        long=_work(world, target=world / ("x" * 300)),
        over=_work(world, source="/proc", target=world / "p"),
    )
    script = """
import os, sys
from mountd.reconcile.passes import Settings, preview, reconcile
settings = Settings(sys.argv[1], sys.argv[2])
def opened():
    return {each: os.readlink(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")[:-1]}
before = opened()
for user in (1000, 3000, 5000):
    text = open(sys.argv[1]).read().replace(f'"{user}', f'"{user + 2000}')
    open(sys.argv[1], "w").write(text)
    reconcile(settings, lambda *_: None, lambda _: None)
    preview(settings)
assert opened() == before, (before, opened())
try:
    os.waitpid(-1, 0x40000000)  # __WALL: children without an exit signal, too
except ChildProcessError:
    print("clean")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, world.manifest, world.state],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONWARNINGS": "error"},
    )  # fmt: skip
    assert done.stdout == "clean\n", done.stderr


def test_a_copy_that_covers_ours_is_a_conflict_and_not_adopted(world: World) -> None:
    """It looks the very same, but the record says that it isn't ours."""
    world.folder("source")
    world.volumes(work=_work(world))
    world.reconcile()
    run("mount", "--bind", str(world / "work"), str(world / "work"))
    for _ in range(2):
        assert world.reconcile(status=1).volume("work")["state"] == "conflict"
    (world / "state/record.json").unlink()
    assert world.reconcile(status=1).volume("work")["state"] == "conflict"
    assert len([each for each in world.mounts() if each.point == str(world / "work")]) == 2


def test_a_folder_that_may_not_be_looked_into_is_said_and_the_rest_is_shown(world: World) -> None:
    world.folder("source")
    private = world.folder("private", mode=0o700)
    world.volumes(work=_work(world), private=_work(world, target=private / "t"))
    world.reconcile()
    for words in (["status"], ["reconcile", "-n"]):
        result = world.mountd(*words, "--json", uid=1000)
        assert result.volume("work")["state"] == "mounted"
        assert result.volume("private")["error"]["code"] == "not-privileged"


@pytest.mark.parametrize("limit", [48, 100])
def test_few_descriptors_are_enough_for_many_volumes(world: World, limit: int) -> None:
    world.folder("source")
    world.volumes(**{f"v{i}": _work(world, target=world / f"t{i}") for i in range(150)})
    words = ["--json", "--manifest", world.manifest, "--state-dir", world.state]
    for verb in ("mount", "keep"):
        result = world.run(["prlimit", f"--nofile={limit}", MOUNTD, "reconcile", *words])
        assert result.status == 0, result.err
        assert {each["action"] for each in result.document["volumes"]} == {verb}


def test_what_another_volume_has_to_be_in_place_for_waits_for_it(world: World) -> None:
    world.folder("source/inner", owner=(0, 0))
    world.volumes(
        outer=_work(world), inner=_work(world, source=world / "work/inner", target=world / "i")
    )
    for _ in range(2):
        error = world.reconcile(status=1).volume("inner")["error"]
        assert "volume `outer` has to be in place first" in error["message"]
