"""Volumes with a `type`: one raw mount of the filesystem, of which each volume shows a clone."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from world import Mount, World, acting_as, disks, mount_id, owner, run

Disk = Callable[..., str]
needs_loop = pytest.mark.needs_loop
TMPFS = {"type": "tmpfs", "source": "scratch", "options": ["uid=501", "gid=20"]}


@pytest.fixture
def disk(world: World) -> Iterator[Disk]:
    with disks(world) as make:
        yield make


def bases(world: World) -> list[Mount]:
    """The raw mounts of filesystems that volumes are clones of."""
    return [each for each in world.mounts() if each.point.startswith(f"{world.state}/fs/")]


def base_id(world: World) -> int:
    (base,) = bases(world)
    return mount_id(base.point)


def one(world: World, **keys: Any) -> Path:
    """A manifest of the volume `work`, of a tmpfs unless the keys say otherwise."""
    target = keys.pop("target", world / "work")
    world.volumes(work={**TMPFS, "user": "1000:1000", "target": target, **keys})
    return Path(target)


def work(world: World, *words: str, status: int = 0) -> dict[str, Any]:
    return world.reconcile(*words, status=status).volume("work")


def create(path: Path, uid: int) -> None:
    with acting_as(uid, uid):
        path.write_text("kept\n")


@pytest.mark.parametrize(
    "fs_type",
    ["tmpfs", *(pytest.param(each, marks=needs_loop) for each in ("ext4", "xfs", "btrfs"))],
)
def test_on_each_filesystem_the_owner_appears_as_the_user_who_can_write(
    world: World, disk: Disk, fs_type: str
) -> None:
    disk_keys = {} if fs_type == "tmpfs" else {"source": disk(fs_type), "options": []}
    target = one(world, type=fs_type, **disk_keys)
    assert work(world)["state"] == "mounted"
    assert owner(target) == (1000, 1000)
    create(target / "made", 1000)
    (base,) = bases(world)
    assert owner(Path(base.point) / "made") == (501, 20)


@needs_loop
@pytest.mark.parametrize("fs_type", ["erofs", "squashfs"])
def test_a_read_only_filesystem_is_idmapped_where_that_is_asked_for(
    world: World, disk: Disk, fs_type: str
) -> None:
    keys = {"type": fs_type, "source": disk(fs_type), "options": []}
    target = one(world, **keys, idmap="always")
    work(world)
    assert owner(target) == owner(target / "hello") == (1000, 1000)
    one(world, **keys)
    work(world)
    assert owner(target) == (501, 20)  # whose mode bits let everyone read it


@pytest.mark.parametrize("fs_type", ["ramfs", "overlay"])
def test_a_filesystem_that_refuses_idmappings_is_mounted_as_it_is(
    world: World, fs_type: str
) -> None:
    for name in ("lower", "upper", "work-folder"):
        world.folder(name)
    layers = [f"{key}dir={world / key}" for key in ("lower", "upper")]
    options = [*layers, f"workdir={world / 'work-folder'}"] if fs_type == "overlay" else []
    target = one(world, type=fs_type, options=options, idmap="never")
    work(world)
    (target / "made").touch()
    assert owner(target / "made") == (0, 0)
    if fs_type == "overlay":
        assert (world / "upper/made").exists()


def test_volumes_of_one_filesystem_share_it_each_with_an_idmapping_of_its_own(
    world: World,
) -> None:
    users = {"one": 1000, "other": 2000}
    world.volumes(
        **{
            name: {**TMPFS, "target": world / name, "user": f"{uid}:{uid}"}
            for name, uid in users.items()
        }
    )
    world.reconcile()
    assert len(bases(world)) == 1
    assert os.stat(world / "one").st_dev == os.stat(world / "other").st_dev
    create(world / "one/made", 1000)
    assert (world / "other/made").read_text() == "kept\n"
    assert owner(world / "one/made") == (1000, 1000)
    assert owner(world / "other/made") == (2000, 2000)


@pytest.mark.parametrize(
    "differs", [{"source": "second"}, {"options": ["uid=501", "gid=20", "size=1m"]}]
)
def test_another_source_or_other_options_are_another_filesystem(
    world: World, differs: dict[str, Any]
) -> None:
    volumes = {"one": TMPFS, "other": TMPFS | differs}
    world.volumes(**{name: {**keys, "target": world / name} for name, keys in volumes.items()})
    world.reconcile()
    assert len(bases(world)) == 2
    assert os.stat(world / "one").st_dev != os.stat(world / "other").st_dev


def test_the_raw_mount_is_out_of_others_reach_and_honours_no_setuid_and_no_device(
    world: World,
) -> None:
    one(world)
    work(world)
    folder = os.stat(f"{world.state}/fs")
    assert (folder.st_mode & 0o7777, folder.st_uid) == (0o700, 0)
    (base,) = bases(world)
    assert base.options >= {"rw", "nosuid", "nodev"}
    assert "idmapped" not in base.options
    assert not base.is_shared


def test_nothing_is_shared_from_the_raw_mount_where_mounts_propagate(shared_world: World) -> None:
    target = one(shared_world)
    work(shared_world)
    (base,) = bases(shared_world)
    (target / "sub").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", f"{base.point}/sub")
    assert [each.point for each in shared_world.mounts()].count(str(target / "sub")) == 0


def test_what_root_owns_on_a_filesystem_may_appear_as_the_users(world: World) -> None:
    """Nobody but root reaches the raw mount, so no setuid file of root's can come of it."""
    target = one(world, options=[])
    work(world)
    assert owner(target) == (1000, 1000)


@pytest.mark.parametrize(
    ("change", "verb"),
    [
        ({"user": "2000:2000"}, "replace"),
        ({"idmap": "never"}, "replace"),
        ({"read_only": True}, "replace"),  # and no idmapping, for all may read it
        ({"noexec": True}, "adjust"),
        ({"target": "/mnt/elsewhere"}, "mount"),
    ],
)
def test_what_lies_on_a_tmpfs_stays_when_its_volume_changes(
    world: World, change: dict[str, Any], verb: str
) -> None:
    target = one(world)
    work(world)
    create(target / "made", 1000)
    base = base_id(world)
    changed = one(world, **change)
    (done,) = [
        each
        for each in world.reconcile().document["volumes"]
        if each["target"] == str(changed)  # at another, it leaves the old one too
    ]
    assert done["action"] == verb
    assert base_id(world) == base
    assert (changed / "made").read_text() == "kept\n"
    one(world)
    world.reconcile()
    assert (target / "made").read_text() == "kept\n"
    assert [each.point for each in world.mounts()].count(str(target)) == 1
    assert base_id(world) == base


def test_a_filesystem_goes_with_the_last_of_its_volumes(world: World) -> None:
    volumes = {name: {**TMPFS, "target": world / name} for name in ("one", "other")}
    world.volumes(**volumes)
    world.reconcile()
    (world / "one/made").touch()
    world.volumes(other=volumes["other"])
    world.reconcile()
    assert (world / "other/made").exists()
    assert len(world.mounts()) == 2
    world.volumes()
    world.reconcile()
    assert world.mounts() == []
    assert os.listdir(f"{world.state}/fs") == []


def test_unmount_takes_the_filesystem_off_too(world: World) -> None:
    one(world)
    work(world)
    result = world.mountd("unmount", "--all")
    assert result.status == 0, result.err
    assert world.mounts() == []


@needs_loop
def test_a_filesystem_that_is_mounted_stays_where_its_successor_is_refused(
    world: World, disk: Disk
) -> None:
    target = one(world, type="ext4", source=disk("ext4"), options=[])
    work(world)
    base = base_id(world)
    one(world, type="ext4", source=disk("blank"), options=[])
    failed = work(world, status=1)
    assert (failed["state"], failed["reason"]) == ("failed", "mount-refused")
    assert (target / "hello").read_text() == "hello\n"
    assert base_id(world) == base


@needs_loop
def test_a_folder_of_the_filesystem_is_all_that_is_seen(world: World, disk: Disk) -> None:
    keys = {"type": "ext4", "source": disk("ext4"), "options": []}
    one(world, **keys)
    work(world)
    (base,) = bases(world)
    folder = Path(base.point) / "a/b"
    folder.mkdir(parents=True)
    (folder / "inner").touch()
    os.chown(folder, 501, 20)
    target = one(world, **keys, subdir="a/b")
    assert work(world)["action"] == "replace"
    assert os.listdir(target) == ["inner"]
    assert owner(target) == (1000, 1000)
    assert work(world)["action"] == "keep"


def test_a_folder_that_is_missing_is_waited_for(world: World) -> None:
    world.volumes(
        whole={**TMPFS, "target": world / "whole"},
        work={**TMPFS, "target": world / "work", "subdir": "build"},
    )
    pending = work(world, status=1)
    assert (pending["state"], pending["reason"]) == ("pending", "no-source")
    assert "build" in pending["error"]["message"]
    (world / "whole/build").mkdir()
    assert work(world)["state"] == "mounted"


@pytest.mark.parametrize("leads_to", ["/etc", f"{'../' * 9}etc", "inner"])
@pytest.mark.parametrize("uid", [0, 501])
def test_a_folder_is_not_reached_through_a_link_out_or_of_a_users(
    world: World, leads_to: str, uid: int
) -> None:
    whole = {**TMPFS, "target": world / "whole"}
    world.volumes(whole=whole)
    world.reconcile()
    (world / "whole/inner").mkdir()
    link = world / "whole/build"
    link.symlink_to(leads_to)
    os.chown(link, uid, uid, follow_symlinks=False)
    world.volumes(whole=whole, work={**TMPFS, "target": world / "work", "subdir": "build"})
    failed = work(world, status=1)  # the tmpfs's root is 501's, who could swap any link in it
    assert (failed["state"], failed["reason"]) == ("failed", "unsafe-path")
    assert "build" in failed["error"]["message"]
    assert str(world / "work") not in [each.point for each in world.mounts()]


@pytest.mark.parametrize("leads_to", ["/etc", f"{'../' * 9}etc"])
def test_a_link_that_is_roots_alone_does_not_lead_out_either(world: World, leads_to: str) -> None:
    roots = TMPFS | {"options": []}
    world.volumes(whole={**roots, "target": world / "whole"})
    world.reconcile()
    (world / "whole/build").symlink_to(leads_to)
    world.volumes(
        whole={**roots, "target": world / "whole"},
        work={**roots, "target": world / "work", "subdir": "build"},
    )
    assert work(world, status=1)["reason"] == "unsafe-path"


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"options": ["size=1m", "bogus=1"]}, "bogus=1"),
        ({"type": "virtiofs9", "options": []}, "virtiofs9"),
        ({"type": "ext4", "source": "/mnt/mountd.toml", "options": []}, "/mnt/mountd.toml"),
    ],
)
def test_a_filesystem_that_the_kernel_refuses_costs_its_own_volume_alone(
    world: World, keys: dict[str, Any], named: str
) -> None:
    world.volumes(
        work={**TMPFS, **keys, "target": world / "work"},
        other={**TMPFS, "target": world / "other"},
    )
    result = world.reconcile(status=1)
    failed = result.volume("work")
    assert failed["state"] == "failed"
    assert failed["reason"] in ("mount-refused", "wrong-kind")
    assert named in failed["error"]["message"]
    assert failed["error"]["hint"]
    assert result.volume("other")["state"] == "mounted"
    assert len(bases(world)) == 1
    assert len(os.listdir(f"{world.state}/fs")) == 1


@needs_loop
def test_a_device_that_is_gone_is_waited_for(world: World, disk: Disk) -> None:
    node = world / "node"
    target = one(world, type="ext4", source=node, options=[])
    pending = work(world, status=1)
    assert (pending["state"], pending["reason"]) == ("pending", "no-source")
    assert str(node) in pending["error"]["message"]
    os.mknod(node, 0o60600, os.stat(disk("ext4")).st_rdev)
    assert work(world)["state"] == "mounted"
    before = mount_id(target)
    node.unlink()
    world.mountd("reconcile")
    assert mount_id(target) == before
    assert (target / "hello").read_text() == "hello\n"


def test_a_dry_run_mounts_nothing_and_makes_nothing(world: World) -> None:
    target = one(world)
    before = sorted(os.listdir(world.path))
    planned = work(world, "--dry-run")
    assert planned["action"] == "mount"
    assert world.mounts() == []
    assert sorted(os.listdir(world.path)) == before
    assert not target.exists()


def test_a_dry_run_says_what_the_next_pass_does_once_the_filesystem_is_there(
    world: World,
) -> None:
    one(world)
    work(world)
    one(world, user="2000:2000")
    ids = [each.id for each in world.mounts()]
    planned = work(world, "--dry-run")
    assert [each.id for each in world.mounts()] == ids
    done = work(world)
    assert (planned["action"], planned["drift"]) == (done["action"], done["drift"])


def test_a_second_pass_changes_nothing_and_status_finds_no_drift(world: World) -> None:
    one(world)
    work(world)
    ids = [each.id for each in world.mounts()]
    record = os.stat(f"{world.state}/record.json")
    again = world.mountd("reconcile")
    assert again.status == 0
    assert again.out.endswith("nothing to do\n")
    assert [each.id for each in world.mounts()] == ids
    assert os.stat(f"{world.state}/record.json").st_ino == record.st_ino
    assert world.mountd("status").status == 0


def test_a_lost_record_costs_nothing_that_lies_on_the_filesystem(world: World) -> None:
    target = one(world)
    work(world)
    create(target / "made", 1000)
    ids = [each.id for each in world.mounts()]
    os.unlink(f"{world.state}/record.json")
    assert work(world)["action"] == "keep"
    assert [each.id for each in world.mounts()] == ids
    one(world, user="2000:2000")
    work(world)
    assert owner(target / "made") == (2000, 2000)
    world.volumes()
    world.reconcile()
    assert world.mounts() == []


def test_a_volume_that_was_unmounted_comes_back_with_its_data(world: World) -> None:
    target = one(world)
    work(world)
    create(target / "made", 1000)
    run("umount", str(target))
    assert work(world)["action"] == "mount"
    assert (target / "made").read_text() == "kept\n"


def test_a_state_directory_behind_a_link_has_one_raw_mount_too(world: World) -> None:
    (world / "real").mkdir()
    Path(world.state).symlink_to("real")  # as /var/run is one
    target = one(world)
    work(world)
    create(target / "made", 1000)
    one(world, user="2000:2000")
    work(world)
    assert (target / "made").read_text() == "kept\n"
    assert len(world.mounts()) == 2


# what the plan says of filesystems ------------------------------------------------------------


def filesystems(world: World, *words: str, status: int = 0) -> list[tuple[str, str, list[str]]]:
    """Of each filesystem in the document: its action, its state and its notes."""
    done = world.reconcile(*words, status=status).document["filesystems"]
    return [(each["action"], each["state"], each["notes"]) for each in done]


def test_a_first_mount_of_a_filesystem_is_in_the_plan_with_its_volumes(world: World) -> None:
    world.volumes(
        one={**TMPFS, "target": world / "one"}, other={**TMPFS, "target": world / "other"}
    )
    planned = world.reconcile("--dry-run").document
    (step,) = planned["filesystems"]
    assert (step["action"], step["state"]) == ("mount", "unmounted")
    assert (step["type"], step["source"], step["options"]) == (
        "tmpfs", "scratch", ["uid=501", "gid=20"],
    )  # fmt: skip
    assert step["volumes"] == ["one", "other"]
    assert all(each["notes"] == ["after tmpfs is mounted"] for each in planned["volumes"])
    assert filesystems(world) == [("mount", "mounted", [])]
    assert filesystems(world) == filesystems(world, "-n") == [("keep", "mounted", [])]


def test_another_option_of_a_tmpfs_is_a_replacement_that_says_what_is_lost(world: World) -> None:
    target = one(world)
    work(world)
    create(target / "made", 1000)
    one(world, options=[*TMPFS["options"], "size=4m"])
    lost = ["the files of this tmpfs are lost"]
    assert filesystems(world, "-n") == [("replace", "mounted", lost)]
    dry = world.mountd("reconcile", "--dry-run", "--detailed-exitcode")
    assert dry.status == 2
    assert "note: the files of this tmpfs are lost" in dry.out
    assert "size=4m" not in dry.out  # for an option may be a secret
    assert (target / "made").exists()
    done = world.mountd("reconcile")
    assert done.err.count("replaced: the tmpfs of scratch: the files of this tmpfs are lost") == 1
    assert os.listdir(target) == []
    assert len(bases(world)) == 1


@needs_loop
def test_another_option_of_a_disk_is_a_replacement_that_loses_nothing(
    world: World, disk: Disk
) -> None:
    keys = {"type": "ext4", "source": disk("ext4")}
    target = one(world, **keys, options=[])
    work(world)
    one(world, **keys, options=["commit=60"])
    (said,) = {note for _, _, (note,) in (*filesystems(world, "-n"), *filesystems(world))}
    assert (target / "hello").read_text() == "hello\n"
    ours = f"--manifest {world.manifest} --state-dir {world.state}"
    assert said == (
        f"the option `commit` isn't among those in force, because {keys['source']} is mounted"
        f" already: `mountd unmount work {ours}` and then `mountd reconcile {ours}` put it in"
        " force, unless something else has it mounted"
    )
    status = world.mountd("status")
    assert (status.status, said in " ".join(status.out.split())) == (0, True)
    assert filesystems(world) == [("keep", "mounted", [said])]
    world.mountd("unmount", "work")
    assert filesystems(world) == [("mount", "mounted", [])]
    table = Path("/proc/self/mountinfo").read_text()
    (found,) = [line for line in table.splitlines() if f" {target} " in line]
    assert "commit=60" in found


@needs_loop
def test_a_device_that_something_else_has_mounted_says_which_options_are_in_vain(
    world: World, disk: Disk
) -> None:
    device = disk("ext4")
    run("mount", "-o", "commit=60", device, str(world.folder("elsewhere")))
    one(world, type="ext4", source=device, options=["commit=60", "stripe=7", "nodelalloc"])
    (said,) = {note for _, _, (note,) in (*filesystems(world, "-n"), *filesystems(world))}
    assert said.startswith("the options `stripe`, `nodelalloc` aren't among those in force")


@needs_loop
@pytest.mark.parametrize("options", [["ro"], []])
def test_a_device_that_is_mounted_otherwise_is_foreseen_and_the_hint_helps(
    world: World, disk: Disk, options: list[str]
) -> None:
    device = disk("ext4")
    other = [] if options else ["-o", "ro"]
    run("mount", *other, device, str(world.folder("elsewhere")))
    target = one(world, type="ext4", source=device, options=options)
    foreseen, done = world.mountd("reconcile", "--dry-run"), world.mountd("reconcile")
    assert (foreseen.status, done.status) == (1, 1)
    (said,) = [line for line in done.err.splitlines() if "is mounted already" in line]
    assert said.removeprefix("failed: work: ") in " ".join(foreseen.out.split())
    hint = work(world, status=1)["error"]["hint"]
    if options:
        assert hint.startswith("leave that out and say `read_only = true`")
        one(world, type="ext4", source=device, options=[], read_only=True)
    else:
        assert hint.startswith('add "ro" to `options`')
        one(world, type="ext4", source=device, options=["ro"])
    assert work(world)["state"] == "mounted"
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").write_text("")


def test_tmpfs_volumes_share_only_what_has_a_name(world: World) -> None:
    plain = {"type": "tmpfs", "source": "tmpfs"}
    none, named = {"type": "tmpfs", "source": "none"}, {"type": "tmpfs", "source": "shared"}
    volumes = {"a": plain, "b": plain, "c": none, "d": none, "e": named, "f": named}
    world.volumes(**{name: {**keys, "target": world / name} for name, keys in volumes.items()})
    world.reconcile()
    devices = [os.stat(world / name).st_dev for name in volumes]
    assert len(set(devices)) == 5
    assert devices[4] == devices[5]
    (world / "a/kept").write_text("")
    volumes["renamed"] = volumes.pop("a")
    world.volumes(
        **{name: {**keys, "target": world / name} for name, keys in volumes.items()}
        | {"renamed": {**plain, "target": world / "a"}}
    )
    assert world.mountd("reconcile").out.endswith("6 volumes, nothing to do\n")
    assert os.listdir(world / "a") == ["kept"]


def test_all_options_that_are_refused_are_told_at_once_and_beforehand(world: World) -> None:
    target = one(world)
    work(world)
    create(target / "made", 1000)
    one(world, options=[*TMPFS["options"], "bogus", "size=x", "mode=1,uid=2"])
    said = work(world, status=1)["error"]
    assert said["message"] == (
        "tmpfs refuses the option `bogus`: Unknown parameter 'bogus' and `size=x`: Bad value for"
        " 'size' and `mode=1,uid=2`: Bad value for 'mode'"
    )
    assert said["hint"].startswith("leave it out, or see what tmpfs takes")
    assert "each an item of the list" in said["hint"]
    for words in (["reconcile", "--dry-run"], ["status"]):
        done = world.mountd(*words, "--json")
        told = done.volume("work")
        assert done.status == 1
        assert (told["state"], told["error"]) == ("failed", said)
    assert (target / "made").exists()


@needs_loop
def test_what_is_wrong_with_a_device_is_foreseen(world: World, disk: Disk) -> None:
    disk("ext4")  # so that the kernel knows it
    (world / "plain").write_text("")
    one(world, type="ext4", source=world / "plain", options=[])
    told = work(world, "--dry-run", status=1)
    assert told["error"] == work(world, status=1)["error"]
    assert told["reason"] == "wrong-kind"


def test_a_filesystem_that_leaves_is_in_the_plan_and_says_what_is_lost(world: World) -> None:
    one(world)
    work(world)
    world.volumes()
    lost = ["the files of this tmpfs are lost"]
    assert filesystems(world, "-n") == [("unmount", "mounted", lost)]
    assert filesystems(world) == [("unmount", "unmounted", lost)]
    assert filesystems(world) == []


def test_a_filesystem_stays_while_one_of_its_mounts_can_not_leave(world: World) -> None:
    target = one(world)
    work(world)
    world.volumes()
    with (target / "held").open("w"):
        assert filesystems(world, status=1) == [("keep", "mounted", [])]
    assert filesystems(world) == [("unmount", "unmounted", ["the files of this tmpfs are lost"])]


def test_a_filesystem_is_not_mounted_for_volumes_that_can_not_be(world: World) -> None:
    target = one(world)
    target.mkdir()
    run("mount", "-t", "ramfs", "ramfs", str(target))
    assert work(world, "-n", status=1)["reason"] == "foreign-mount"
    (step,) = world.reconcile(status=1).document["filesystems"]
    assert (step["action"], step["state"], step["error"]["code"]) == (
        None, "conflict", "foreign-mount",
    )  # fmt: skip
    assert bases(world) == []
    run("umount", str(target))
    assert work(world)["state"] == "mounted"


def test_a_refused_filesystem_says_so_in_its_own_entry_too(world: World) -> None:
    one(world, options=["bogus=1"])
    document = world.reconcile(status=1).document
    (step,) = document["filesystems"]
    assert step["error"] == document["volumes"][0]["error"]
    assert (step["action"], step["state"]) == (None, "failed")


def test_unmount_says_that_the_filesystem_went(world: World) -> None:
    one(world)
    work(world)
    result = world.mountd("unmount", "--all", "--json")
    (step,) = result.document["filesystems"]
    assert (step["action"], step["state"], step["source"]) == ("unmount", "unmounted", "scratch")
