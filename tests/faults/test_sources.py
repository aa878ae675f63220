"""What becomes of sources and targets at the worst moment."""

import os
import sys
from pathlib import Path

import kill_at
import pytest
from fuse_server import served
from volumes import NODE, make_plain
from world import MOUNTD, Result, World, disks, mount_id, owner, record_of, run

_MOVE_MOUNT = "429"


def _raced(world: World, instead: str) -> Result:
    """A pass in which somebody does this just before its first move_mount(2)."""
    words = [sys.executable, kill_at.__file__, f"1:{instead}", _MOVE_MOUNT, MOUNTD, "reconcile"]
    return world.run([*words, "--json", "-f", world.manifest, "--state-dir", world.state])


@pytest.mark.fault(22, "removed once its clone was made")
@pytest.mark.parametrize("is_mounted", [False, True])
def test_a_source_that_goes_just_before_is_waited_for(world: World, *, is_mounted: bool) -> None:
    make_plain(world, "work", user="1001:1001" if is_mounted else "1000:1000")
    if is_mounted:
        world.reconcile()
        make_plain(world, "work")
    before = world.mounts()
    result = _raced(world, f"rm -r {world / 'source'}")
    work = result.volume("work")
    assert (result.status, work["state"], work["reason"]) == (1, "pending", "no-source")
    assert work["error"]["message"] == f"there is no {world / 'source'}"
    assert [each.point for each in world.mounts()] == [each.point for each in before]
    assert len(record_of(world)) == len(before)
    make_plain(world, "work")
    world.reconcile()
    assert owner(world / "work/hello") == NODE


@pytest.mark.fault(23, "between its clone and its mount")
def test_a_source_that_is_renamed_just_before_is_mounted_and_missed_afterwards(
    world: World,
) -> None:
    make_plain(world, "work")
    assert _raced(world, f"mv {world / 'source'} {world / 'away'}").status == 0
    assert owner(world / "work/hello") == NODE
    assert world.reconcile(status=1).volume("work")["reason"] == "no-source"
    assert owner(world / "work/hello") == NODE
    world.folder("source")
    assert world.reconcile().volume("work")["action"] == "replace"


@pytest.mark.fault(31, "removed once it was opened")
@pytest.mark.parametrize("instead", ["rmdir /mnt/above/work", "mv /mnt/above /mnt/elsewhere"])
def test_a_target_that_goes_just_before_fails_this_pass_alone(world: World, instead: str) -> None:
    make_plain(world, "above/work")
    (world / "above/work").mkdir(parents=True)
    result = _raced(world, instead)
    (work,) = result.document["volumes"]
    assert (result.status, work["state"], work["reason"]) == (1, "failed", "unsafe-path")
    assert "/mnt/above/work led elsewhere" in work["error"]["message"]
    assert not world.mounts() and not record_of(world)
    world.reconcile()
    assert owner(world / "above/work/hello") == NODE


@pytest.mark.fault(26, "a disk of which nothing is left")
@pytest.mark.needs_loop
def test_a_device_that_is_gone_is_no_claim_of_health_and_costs_its_volumes_alone(
    world: World,
) -> None:
    world.folder("source")
    (world / "disk").mkdir()
    with disks(world) as disk:
        device = disk("ext4")
        run("mount", device, str(world / "disk"))
        for name in ("kept", "late"):
            world.folder(f"disk/{name}/in")
        run("umount", str(world / "disk"))
        run("mount", device, str(world / "disk"))  # with nothing in the kernel's caches
        sources = {"kept": "disk/kept/in", "late": "disk/late/in", "good": "source"}
        tables = {
            name: {"source": world / source, "target": world / name, "user": "1000:1000"}
            for name, source in sources.items()
        }
        world.volumes(kept=tables["kept"])
        world.reconcile()
        os.truncate(world / "disk-0/image", 0)
        world.volumes(**tables)
        result = world.reconcile(status=1)
        assert (result.volume("kept")["action"], owner(world / "kept")) == ("keep", NODE)
        assert (result.volume("late")["state"], result.volume("late")["reason"]) == ("failed", "io")
        assert "Input/output error" in result.volume("late")["error"]["message"]
        assert owner(world / "good/hello") == NODE
        assert world.mountd("unmount", "--all").status == 0
        run("umount", str(world / "disk"))


@pytest.mark.fault(27, "an error on a disk that is mounted so")
@pytest.mark.needs_loop
def test_a_disk_that_turns_read_only_by_an_error_keeps_its_mount_and_its_ids(world: World) -> None:
    (world / "disk").mkdir()
    with disks(world) as disk:
        device = disk("ext4")
        run("mount", "-o", "errors=remount-ro", device, str(world / "disk"))
        table = {"source": world / "disk", "target": world / "work", "user": "1000:1000"}
        world.volumes(work=table)
        world.reconcile()
        before = mount_id(world / "work")
        Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("a test's")
        with pytest.raises(OSError, match="Read-only"):
            (world / "work/new").touch()
        assert world.reconcile().volume("work")["action"] == "keep"
        assert (mount_id(world / "work"), owner(world / "work/hello")) == (before, NODE)
        world.volumes(work={**table, "user": "1001:1001"})
        assert world.reconcile().volume("work")["action"] == "replace"
        run("umount", str(world / "work"))
        run("umount", str(world / "disk"))


@pytest.mark.fault(30, "idmapped mounts allowed without default_permissions")
def test_a_server_whose_flags_the_kernel_refuses_is_told_with_the_step(world: World) -> None:
    make_plain(world, "good")
    (world / "fuse").mkdir()
    good = Path(world.manifest).read_text()
    world.write(f'{good}\n[volumes.fuse]\nsource = "$/fuse/d"\ntarget = "$/work"\n')
    how = {"idmapped": True, "no_default_permissions": True}
    with served(world / "fuse", {"/d": {"uid": 501}}, **how):
        result = world.reconcile(status=1)
        error = result.volume("fuse")["error"]
        assert error["code"] == "io"
        assert f"openat2: Connection refused ({world / 'fuse/d'})" in error["message"]
        assert owner(world / "good/hello") == NODE
        assert not (world / "work").exists()
