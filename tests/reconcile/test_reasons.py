"""Every reason, provoked, and what a person is then told: read golden/reasons aloud."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple, get_args

import kill_at
import pytest
from deep_folders import FARTHEST, deep
from fuse_server import served
from golden import GOLDEN
from old_kernel import DEBIAN_13, FILTERED, NO_IDMAPPING, Kernel
from refusals import filesystem, reconcile_while_the_owner_changes
from silent_server import Server
from world import MOUNTD, Result, World, mount_idmapped, run, running

from mountd.core.model import Reason

TEXTS = GOLDEN / "reasons"
SCENES: dict[str, "Scene"] = {}
VERSION = ".".join(os.uname().release.split(".")[:2])


class Scene(NamedTuple):
    """A machine on which the volume `work` is as this reason says; a run there is what is told."""

    reason: Reason
    run: Callable[[World, ExitStack], Result]


def scene(reason: Reason) -> Callable[[Callable[[World, ExitStack], Result]], None]:
    def add(function: Callable[[World, ExitStack], Result]) -> None:
        SCENES[function.__name__] = Scene(reason, function)

    return add


def work(world: World, kernel: Kernel | None = None, **keys: Any) -> Result:
    """One pass over a manifest of the volume `work`, whose source is 501's."""
    if not (world / "source").exists():
        world.folder("source")
    table = {"source": world / "source", "target": world / "work", "user": "1000:1000", **keys}
    world.volumes(work={key: value for key, value in table.items() if value is not None})
    return world.mountd("reconcile", kernel=kernel)


@scene("kernel-too-old")
def kernel_without_idmapped_mounts(world: World, _: ExitStack) -> Result:
    return work_by(world, "setarch", "--uname-2.6", *NO_IDMAPPING.command())


@scene("seccomp")
def filter_of_a_container(world: World, _: ExitStack) -> Result:
    return work(world, FILTERED, fallback="fail")


@scene("not-privileged")
def few_capabilities(world: World, _: ExitStack) -> Result:
    return work_by(world, "setpriv", "--bounding-set=-setfcap", "--inh-caps=-setfcap")


@scene("not-privileged")
def filesystem_of_another_user_namespace(world: World, _: ExitStack) -> Result:
    return work_by(world, "unshare", "--user", "--map-root-user", "--mount", user="0:0")


def work_by(world: World, *words: str, **keys: Any) -> Result:
    """A pass by a command that is run by another one."""
    table = {"source": world / "source", "target": world / "work", "user": "1000:1000"}
    if not (world / "source").exists():
        world.folder("source")
    keys = {**table, "fallback": "fail", **keys}
    world.volumes(work={key: value for key, value in keys.items() if value is not None})
    state = ["--manifest", world.manifest, "--state-dir", world.state]
    return world.run([*words, MOUNTD, "reconcile", *state])


@scene("filesystem-refuses")
def overlay(world: World, held: ExitStack) -> Result:
    held.enter_context(filesystem(world, "overlay"))
    return work(world, fallback="fail")


@scene("filesystem-refuses")
def overlay_with_raw_ids(world: World, held: ExitStack) -> Result:
    held.enter_context(filesystem(world, "overlay"))
    return work(world)


@scene("filesystem-refuses")
def fuse(world: World, held: ExitStack) -> Result:
    held.enter_context(filesystem(world, "fuse"))
    return work(world, fallback="fail")


@scene("mount-refused")
def unbindable_source(world: World, _: ExitStack) -> Result:
    run("mount", "--bind", str(world.folder("source")), str(world / "source"))
    run("mount", "--make-unbindable", str(world / "source"))
    return work(world)


@scene("mount-refused")
def unknown_filesystem(world: World, _: ExitStack) -> Result:
    return work(world, type="ext5", source="/dev/sda1")


@scene("mount-refused")
def unknown_option(world: World, _: ExitStack) -> Result:
    return work(world, type="tmpfs", source="cache", options=["sise=1m"])


@scene("mount-refused")
def option_of_mounts(world: World, _: ExitStack) -> Result:
    return work(world, type="tmpfs", source="cache", options=["noatime"])


@scene("source-is-idmapped")
def idmapped_source(world: World, _: ExitStack) -> Result:
    world.folder("real")
    mount_idmapped(world / "real", world / "source", (0, 0, 4294967295))
    return work(world, DEBIAN_13, fallback="fail")


@scene("idmap-untrue")
def owner_changed_meanwhile(world: World, _: ExitStack) -> Result:
    return reconcile_while_the_owner_changes(world, fallback="fail")


@scene("root-owned")
def source_of_root(world: World, _: ExitStack) -> Result:
    world.folder("source", owner=(0, 0))
    run("mount", "-o", "remount,suid", "/mnt")
    return work(world)


@scene("no-source")
def source_not_there_yet(world: World, _: ExitStack) -> Result:
    return work(world, source=world / "late")


@scene("no-source")
def subdir_not_there_yet(world: World, _: ExitStack) -> Result:
    return work(world, type="tmpfs", source="cache", subdir="build")


@scene("no-source")
def device_not_there_yet(world: World, _: ExitStack) -> Result:
    return work(world, type="ext4", source="/dev/disk/by-label/cache")


@scene("no-target")
def target_that_may_not_be_made(world: World, _: ExitStack) -> Result:
    return work(world, create=False)


@scene("no-target")
def target_in_a_folder_that_its_owner_may_not_write(world: World, _: ExitStack) -> Result:
    world.folder("home", owner=(1000, 1000), mode=0o555)
    return work(world, target=world / "home/work")


@scene("no-user")
def user_not_there_yet(world: World, _: ExitStack) -> Result:
    return work(world, user="ghost")


@scene("no-user")
def user_not_in_the_image(world: World, _: ExitStack) -> Result:
    return work(world, user="ghost", accounts=world.rootfs("root:x:0:0::/:/bin/sh\n"))


@scene("no-group")
def group_not_there_yet(world: World, _: ExitStack) -> Result:
    return work(world, user="1000:ghosts")


@scene("unsafe-path")
def link_in_a_sticky_folder(world: World, _: ExitStack) -> Result:
    world.folder("source")
    place = world.folder("tmp", owner=(0, 0), mode=0o1777)
    (place / "link").symlink_to(world / "source")
    return work(world, source=place / "link")


@scene("unsafe-path")
def link_on_a_server_of_a_users(world: World, held: ExitStack) -> Result:
    world.folder("source")
    files = {"/link": {"to": f"{world.path}/source"}}
    held.enter_context(served(world.folder("home", owner=(1000, 1000)), files))
    return work(world, source=world / "home/link")


@scene("unsafe-path")
def mount_that_was_moved_out_of_reach(world: World, _: ExitStack) -> Result:
    (world / "home/up").mkdir(parents=True)
    work(world, target=world / "home/up/work")
    there = os.open(world / "home", os.O_RDONLY)
    with deep(world / "home", *FARTHEST) as here:
        os.rename("up", "up", src_dir_fd=there, dst_dir_fd=here)
    os.close(there)
    return work(world, target=world / "home/up/work")


@scene("not-privileged")
def target_that_takes_another_capability(world: World, _: ExitStack) -> Result:
    world.folder("home", owner=(1000, 1000))
    drop = ["setpriv", "--bounding-set=-setuid,-setgid", "--inh-caps=-setuid,-setgid"]
    return work_by(world, *drop, target=world / "home/work", user=None, fallback=None)


@scene("unsafe-path")
def link_of_a_users(world: World, _: ExitStack) -> Result:
    world.folder("home", owner=(1000, 1000))
    os.symlink("/etc", world / "home/link")
    os.lchown(world / "home/link", 1000, 1000)
    return work(world, target=world / "home/link/work")


@scene("unsafe-path")
def target_that_leads_to_usr(world: World, _: ExitStack) -> Result:
    os.symlink("/usr", world / "link")
    return work(world, target=world / "link")


@scene("unsafe-path")
def accounts_that_others_can_write(world: World, _: ExitStack) -> Result:
    etc = world.rootfs("root:x:0:0::/:/bin/sh\nnode:x:1000:1000::/:/bin/sh\n") / "etc"
    run("mount", "--bind", str(etc), "/etc")
    os.chmod("/etc/passwd", 0o666)
    return work(world, user="node")


@scene("wrong-kind")
def folder_onto_a_file(world: World, _: ExitStack) -> Result:
    (world / "work").write_text("")
    return work(world)


@scene("wrong-kind")
def socket_as_source(world: World, _: ExitStack) -> Result:
    os.mkfifo(world / "fifo")
    return work(world, source=world / "fifo")


@scene("foreign-mount")
def filesystem_out_of_reach(world: World, _: ExitStack) -> Result:
    world.volumes(work={"type": "tmpfs", "source": "scratch", "target": world / "work"})
    world.reconcile()
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", world.state)
    return world.mountd("reconcile")


@scene("foreign-mount")
def mount_over_it_just_when_it_was_to_go(world: World, _: ExitStack) -> Result:
    work(world)
    world.write("version = 1")
    when = f"1:mount -t tmpfs tmpfs {world / 'work'}"
    racer = [sys.executable, kill_at.__file__, when, str(kill_at.UMOUNT2)]
    words = ["reconcile", "--manifest", world.manifest, "--state-dir", world.state]
    return world.run([*racer, MOUNTD, *words])


@scene("foreign-mount")
def mount_of_another_manifest_in_place(world: World, _: ExitStack) -> Result:
    work(world)
    world.manifest = f"{world.path}/other.toml"
    world.volumes(work={"source": world / "work", "target": world / "work"})
    return world.mountd("reconcile")


@scene("foreign-mount")
def mount_at_the_target(world: World, _: ExitStack) -> Result:
    (world / "work").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(world / "work"))
    return work(world)


@scene("foreign-mount")
def mount_below_the_target(world: World, _: ExitStack) -> Result:
    (world / "work/below").mkdir(parents=True)
    run("mount", "-t", "tmpfs", "tmpfs", str(world / "work/below"))
    return work(world)


@scene("foreign-mount")
def mount_of_another_manifest(world: World, _: ExitStack) -> Result:
    world.manifest = f"{world.path}/other.toml"
    work(world)
    world.manifest = f"{world.path}/mountd.toml"
    return work(world)


@scene("foreign-mount")
def two_targets_that_are_one(world: World, _: ExitStack) -> Result:
    world.folder("source")
    os.symlink("first", world / "link")
    volume = {"source": world / "source", "user": "1000:1000"}
    first = {**volume, "target": world / "first"}
    world.volumes(first=first, work={**volume, "target": world / "link"})
    return world.mountd("reconcile")


@scene("busy")
def process_that_works_there(world: World, held: ExitStack) -> Result:
    work(world)
    words = [sys.executable, "-c", "print(flush=True); input()"]
    held.enter_context(running(*words, cwd=world / "work"))
    world.write("version = 1")
    return world.mountd("reconcile")


@scene("busy")
def mount_that_lies_on_it(world: World, _: ExitStack) -> Result:
    world.folder("source")
    world.folder("source/below")
    work(world)
    run("mount", "-t", "tmpfs", "tmpfs", str(world / "work/below"))
    world.write("version = 1")
    return world.mountd("reconcile")


@scene("busy")
def writer_in_the_way_of_read_only(world: World, held: ExitStack) -> Result:
    work(world, idmap="always")
    hold = f"file = open('{world.path}/work/hello', 'a'); print(flush=True); input()"
    held.enter_context(running(sys.executable, "-c", hold))
    return work(world, idmap="always", read_only=True)


@scene("read-only-filesystem")
def target_on_a_read_only_filesystem(world: World, _: ExitStack) -> Result:
    (world / "disk").mkdir()
    run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(world / "disk"))
    return work(world, target=world / "disk/work")


@scene("not-answering")
def server_that_is_silent(world: World, held: ExitStack) -> Result:
    server = Server(world / "fuse")
    held.callback(server.die)
    server.fall_silent()
    return work(world, source=world / "fuse")


@scene("limit")
def no_user_namespaces(world: World, _: ExitStack) -> Result:
    script = "echo 0 >/proc/sys/user/max_user_namespaces && exec $0 reconcile -f $1 --state-dir $2"
    inner = world / "inner"
    inner.mkdir()
    world.folder("source")
    script = f"mount -t tmpfs tmpfs {inner}; mkdir {inner}/source; {script}"
    world.volumes(work={"source": inner / "source", "target": world / "work", "user": "0:0",
                        "idmap": "always"})  # fmt: skip
    run("mount", "-t", "proc", "proc", "/proc")
    container = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    return world.run([*container, MOUNTD, world.manifest, world.state])


@scene("io")
def record_that_can_not_grow(world: World, _: ExitStack) -> Result:
    return work_by(world, "prlimit", "--fsize=10")


@scene("io")
def server_that_is_gone(world: World, _: ExitStack) -> Result:
    Server(world / "fuse").die()
    return work(world, source=world / "fuse")


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as held:
        yield held


@pytest.mark.parametrize("name", SCENES)
def test_what_a_person_is_told(
    world: World, held: ExitStack, name: str, pytestconfig: pytest.Config
) -> None:
    result = SCENES[name].run(world, held)
    told = [
        line for line in result.err.splitlines() if not line.startswith(("Done: ", "mounted: "))
    ]
    text = "\n".join(told).replace(VERSION, "6.x")
    text = re.sub(r"\b(pid) \d+", r"\1 NUMBER", text) + "\n"
    golden = TEXTS / f"{name}.txt"
    if pytestconfig.getoption("update_golden"):
        TEXTS.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()
    assert "work" in text, "a message names its volume"
    assert "hint: " in text, "a message says what to do"


def test_every_reason_has_its_scene() -> None:
    assert {each.reason for each in SCENES.values()} == {*get_args(Reason)}
    assert {f"{name}.txt" for name in SCENES} == {each.name for each in TEXTS.iterdir()}
