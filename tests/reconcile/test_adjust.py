"""Flags: changed on the mount that is there, all at once or not at all."""

from pathlib import Path
from typing import Any

import pytest
from world import MOUNTD, World, mount_id, owner, run, running

# what a volume that says nothing has, on a source whose mount has no flags
USUAL = {"rw", "nosuid", "nodev", "relatime"}


def volume(world: World, **keys: Any) -> Path:
    """A manifest of the volume `work` with these keys."""
    if not (world / "source").exists():
        world.folder("source")
    target = world / "work"
    world.volumes(work={"source": world / "source", "target": target, **keys})
    return target


def options(world: World, target: Path) -> set[str]:
    """The options of the one mount at a target."""
    [mount] = [mount for mount in world.mounts() if mount.point == str(target)]
    return mount.options


def work(world: World, status: int = 0) -> dict[str, Any]:
    return world.reconcile(status=status).volume("work")


def source_with(world: World, flags: str) -> None:
    """A source that lies on a mount with these flags, or one whose flags become these."""
    source = str(world / "source")
    if not (world / "source").exists():
        world.folder("source")
        run("mount", "--bind", source, source)
    run("mount", "-o", f"remount,bind,{flags}", source)


@pytest.mark.parametrize(
    ("key", "value", "gone", "come"),
    [
        ("read_only", True, "rw", "ro"),
        ("noexec", True, None, "noexec"),
        ("nosuid", False, "nosuid", None),
        ("nodev", False, "nodev", None),
        ("atime", "noatime", "relatime", "noatime"),
        ("atime", "strictatime", "relatime", None),
    ],
)
def test_each_flag_goes_on_and_off_on_the_same_mount(
    world: World, key: str, value: Any, gone: str | None, come: str | None
) -> None:
    ids = {"user": "1000:1000", "idmap": "always"}
    target = volume(world, **ids)
    work(world)
    before = mount_id(target)
    assert options(world, target) == USUAL | {"idmapped"}
    changed = (USUAL - {gone}) | ({come} if come else set())
    for keys, wanted in (({key: value}, changed), ({}, USUAL)):
        volume(world, **ids, **keys)
        done = work(world)
        assert (done["action"], done["state"]) == ("adjust", "mounted")
        assert [each["field"] for each in done["drift"]] == ["flags"]
        assert options(world, target) == wanted | {"idmapped"}
        assert mount_id(target) == before
        assert owner(target) == (1000, 1000)


def test_flags_are_what_they_are_called(world: World) -> None:
    target = volume(world, read_only=True, noexec=True)
    program = world / "source/program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    work(world)
    with pytest.raises(OSError, match="Read-only file system"):
        (target / "made").touch()
    with pytest.raises(PermissionError):
        run(str(target / "program"))
    volume(world)
    work(world)
    (target / "made").touch()
    run(str(target / "program"))


@pytest.mark.fault(41, "between two passes")
def test_a_writer_in_the_way_of_read_only_is_named_and_no_flag_is_changed(world: World) -> None:
    target = volume(world)
    work(world)
    before = mount_id(target)
    volume(world, read_only=True, noexec=True, nosuid=False, atime="noatime")
    script = 'exec 3>>"$1/hello"; echo; read end'
    with running("sh", "-c", script, "sh", str(target)) as writer:
        for _ in range(2):
            done = work(world, status=1)
            assert (done["state"], done["reason"], done["action"]) == ("failed", "busy", "adjust")
            assert f"sh (pid {writer.pid})" in done["error"]["message"]
            assert options(world, target) == USUAL
    done = work(world)
    assert (done["action"], done["state"]) == ("adjust", "mounted")
    assert options(world, target) == {"ro", "nodev", "noexec", "noatime"}
    assert mount_id(target) == before


def test_only_writers_are_named(world: World) -> None:
    target = volume(world)
    work(world)
    volume(world, read_only=True)
    opened = 'exec 3{}"$1/hello"; echo; read end'
    with (
        running("sh", "-c", opened.format("<"), "sh", str(target)) as reader,
        running("sh", "-c", opened.format(">>"), "sh", str(target)) as writer,
    ):
        message = work(world, status=1)["error"]["message"]
        assert f"(pid {writer.pid})" in message
        assert f"(pid {reader.pid})" not in message


def test_read_only_without_need_of_an_idmapping_is_a_replacement(world: World) -> None:
    target = volume(world, user="1000:1000")
    work(world)
    volume(world, user="1000:1000", read_only=True)
    with open(target / "hello", "a") as file:  # goes on, in the old mount
        done = work(world)
        file.write("more\n")
    assert done["action"] == "replace"
    assert [each["field"] for each in done["drift"]] == ["idmap", "flags"]
    assert options(world, target) == {"ro", "nosuid", "nodev", "relatime"}
    assert (target / "hello").read_text() == "hello\nmore\n"


@pytest.mark.fault(40, "remounted, between two passes")
@pytest.mark.parametrize("flags", ["ro", "noexec,nosuid,nodev", "suid,dev", "noatime"])
def test_a_foreign_remount_is_drift_and_adjusted_back(world: World, flags: str) -> None:
    target = volume(world)
    work(world)
    before = mount_id(target)
    run("mount", "-o", f"remount,bind,{flags}", str(target))
    status = world.mountd("status", "--json")
    assert status.status == 1
    [drift] = status.volume("work")["drift"]
    assert drift["field"] == "flags"
    assert drift["wanted"] == "rw,nosuid,nodev,relatime"
    assert drift["found"] != drift["wanted"]
    assert work(world)["action"] == "adjust"
    assert options(world, target) == USUAL
    assert mount_id(target) == before


def test_a_mount_below_is_no_obstacle_and_keeps_its_flags(world: World) -> None:
    target = volume(world)
    work(world)
    (target / "sub").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(target / "sub"))
    below = options(world, target / "sub")
    volume(world, read_only=True)
    assert work(world)["action"] == "adjust"
    assert "ro" in options(world, target)
    assert options(world, target / "sub") == below


FROM_SOURCE = "ro,noexec,noatime"


def test_flags_of_the_source_appear_where_nothing_is_said(world: World) -> None:
    source_with(world, FROM_SOURCE)
    target = volume(world)
    work(world)
    assert options(world, target) == {"ro", "nosuid", "nodev", "noexec", "noatime"}
    before = mount_id(target)
    source_with(world, "rw,exec,atime,relatime")  # and go where it loses them
    assert work(world)["action"] == "adjust"
    assert options(world, target) == USUAL
    assert mount_id(target) == before


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"read_only": False}, {"rw", "nosuid", "nodev", "noexec", "noatime"}),
        ({"noexec": False}, {"ro", "nosuid", "nodev", "noatime"}),
        ({"nosuid": False}, {"ro", "nodev", "noexec", "noatime"}),
        ({"nodev": False}, {"ro", "nosuid", "noexec", "noatime"}),
        ({"atime": "relatime"}, {"ro", "nosuid", "nodev", "noexec", "relatime"}),
        ({"atime": "strictatime"}, {"ro", "nosuid", "nodev", "noexec"}),
    ],
)
def test_flags_of_the_source_are_cleared_where_the_volume_says_so(
    world: World, keys: dict[str, Any], wanted: set[str]
) -> None:
    source_with(world, f"{FROM_SOURCE},nosuid,nodev")
    target = volume(world)
    work(world)
    for verb in ("adjust", "mount"):
        volume(world, **keys)
        assert work(world)["action"] == verb
        assert options(world, target) == wanted
        if "read_only" in keys:
            (target / verb).touch()
            assert (world / "source" / verb).exists()
        run("umount", str(target))


def test_flags_that_are_not_ours_stay_as_the_source_has_them(world: World) -> None:
    source_with(world, "nodiratime,nosymfollow")
    target = volume(world)
    work(world)
    assert options(world, target) == USUAL | {"nodiratime", "nosymfollow"}
    volume(world, noexec=True)
    work(world)
    assert options(world, target) == USUAL | {"nodiratime", "nosymfollow", "noexec"}


def test_attributes_that_the_kernel_refuses_are_named(world: World) -> None:
    volume(world)
    world.reconcile()
    volume(world, read_only=True, noexec=True)
    inject = ["-e", "trace=mount_setattr", "-e", "inject=mount_setattr:error=ENOMEM"]
    place = ["-f", world.manifest, "--state-dir", world.state]
    result = world.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", *inject, MOUNTD, "reconcile", *place]
    )
    assert result.status == 1
    assert "(/mnt/work), setting ro,nosuid,nodev,noexec and clearing atime" in result.err
    assert options(world, world / "work") == USUAL
