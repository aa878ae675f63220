"""Missing targets: what is made, what is left to `useradd`, and what is known beforehand."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from world import MOUNTD, World, cover, owner, run

_PASSWD = """root:x:0:0::/root:/bin/sh
node:x:1000:1000::/home/node:/bin/sh
"""


@contextmanager
def machine(world: World, passwd: str = _PASSWD) -> Iterator[None]:
    """Have an empty /home, and these accounts, in this mount namespace."""
    world.folder("source")
    (world / "passwd").write_text(passwd)
    run("mount", "--bind", str(world / "passwd"), "/etc/passwd")
    cover("/home")
    try:
        yield
    finally:
        run("umount", "-R", "/home")
        run("umount", "/etc/passwd")


def told(world: World) -> dict[str, Any]:
    """What is wrong with the volume, in the same words by whoever looks; then the run's."""
    looks = [
        world.mountd(*words, "--json").volume("work")
        for words in (["reconcile", "-n"], ["status"], ["check"], ["reconcile"])
    ]
    for each in looks:
        assert each["error"] == looks[0]["error"]
        assert each["state"] == looks[0]["state"]
    return looks[0]


HOMES = {  # where homes are, what the volume's target is, and which home it waits for
    "an account's": (_PASSWD, "/home/node/workspace", "/home/node", "node"),
    "deep below it": (_PASSWD, "/home/node/a/b/c", "/home/node", "node"),
    "the home itself": (_PASSWD, "/home/node", "/home/node", "node"),
    "of no account": (_PASSWD, "/home/dev/workspace", "/home/dev", "dev"),
    "elsewhere": ("dev:x:59999:1::/mnt/people/dev:/bin/sh", "/mnt/people/dev/x", None, "dev"),
    "by no plain path": ("dev:x:1000:1:D,,:/mnt//dev/.:/bin/sh", "/mnt/dev/x", "/mnt/dev", "dev"),
    "without a shell": ("dev:x:1000:1::/mnt/dev", "/mnt/dev/x", "/mnt/dev", "dev"),
    "with another's name": ("dev:x:1000:1::/home/d:", "/home/d/x", "/home/d", "dev"),
    "of the first account": (
        "one:x:1000:1::/mnt/dev:\ntwo:x:1001:1::/mnt/dev:", "/mnt/dev/x", "/mnt/dev", "one"
    ),
    "after malformed lines": (
        "dev\ndev:x:\nx:x:x:1::/mnt/dev:\n#dev:x:1:1::/mnt/dev:\ndev:x:1000:1::/mnt/dev:",
        "/mnt/dev/x", "/mnt/dev", "dev",
    ),
    "through a link to the homes": (_PASSWD, "/mnt/link/node/x", "/home/node", "node"),
    "through a link below them": (_PASSWD, "/home/other/x", "/mnt/away", "other"),
    "named through a link": (
        "dev:x:1000:1::/mnt/link/dev:", "/home/dev/x", "/home/dev", "dev"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HOMES)
def test_a_home_is_waited_for(world: World, what: str) -> None:
    passwd, target, home, name = HOMES[what]
    home = home or os.path.dirname(target)
    with machine(world, passwd):
        (world / "link").symlink_to("/home")
        os.symlink(world / "away", "/home/other")
        world.volumes(work={"source": world / "source", "target": target, "user": "2000:2000"})
        found = told(world)
        assert (found["state"], found["reason"]) == ("pending", "no-target")
        assert found["error"]["message"] == f"{name}'s home isn't there yet: there is no {home}"
        assert not os.path.lexists(home)
        os.makedirs(home)
        os.chown(home, 2000, 2000)
        world.reconcile()
        assert owner(f"{target}/hello") == (2000, 2000)
        world.mountd("unmount", "--all")
        assert owner(target) == (2000, 2000)


NO_HOMES = {
    "a system account's": ("app:x:999:1::/mnt/app:", "/mnt/app/x"),
    "nobody's": ("nobody:x:65534:1::/mnt/app:", "/mnt/app/x"),
    "beyond the regular ids": ("app:x:60000:1::/mnt/app:", "/mnt/app/x"),
    "of no id": ("app:x:4294968296:1::/mnt/app:", "/mnt/app/x"),
    "beside one": ("app:x:1000:1::/mnt/app:", "/mnt/apps/app"),
    "above one": ("app:x:1000:1::/mnt/a/app:", "/mnt/a/x"),
    "the root": ("app:x:1000:1::/:", "/mnt/app/x"),
    "no path": ("app:x:1000:1::mnt/app:", "/mnt/app/x"),
    "no passwd": (None, "/mnt/app/x"),
}


@pytest.mark.parametrize("what", NO_HOMES)
def test_what_is_no_home_is_made(world: World, what: str) -> None:
    passwd, target = NO_HOMES[what]
    with machine(world, passwd or ""):
        if passwd is None:
            run("mount", "-t", "tmpfs", "none", "/etc")
        try:
            world.volumes(work={"source": world / "source", "target": target})
            world.reconcile()
            assert Path(target, "hello").exists()
        finally:
            if passwd is None:
                run("umount", "/etc")


def test_who_is_to_own_it_is_missing_first(world: World) -> None:
    with machine(world, "root:x:0:0::/root:/bin/sh\n"):
        keys = {"source": world / "source", "target": "/home/dev/x", "user": "dev"}
        world.volumes(work=keys)
        assert told(world)["reason"] == "no-user"
        (world / "passwd").write_text("dev:x:1000:1000::/home/dev:/bin/sh\n")
        assert told(world)["reason"] == "no-target"


def test_a_filesystem_of_its_own_waits_for_a_home_too(world: World) -> None:
    with machine(world):
        world.volumes(work={"type": "tmpfs", "source": "tmpfs", "target": "/home/node/x"})
        assert told(world)["reason"] == "no-target"


def test_accounts_are_read_only_where_something_is_to_be_made(world: World) -> None:
    with machine(world):
        world.volumes(work={"source": world / "source", "target": world / "a/b"})
        trace = world / "trace"
        words = ["strace", "-f", "-qq", "-o", str(trace), "-e", "trace=openat2", MOUNTD]
        words += ["reconcile", "-f", world.manifest, "--state-dir", world.state]
        for is_made in (True, False):
            run(*words)
            assert ('"passwd"' in trace.read_text()) is is_made
        run("umount", str(world / "a/b"))
        run(*words)
        assert '"passwd"' not in trace.read_text()


def test_every_folder_that_is_made_is_named_and_no_other_is_made(world: World) -> None:
    with machine(world):
        world.volumes(
            work={"source": world / "source", "target": world / "a/b/c"},
            file={"source": world / "source/hello", "target": world / "a/file"},
        )
        dry = world.reconcile("-n")
        names = [str(world / each) for each in ("a", "a/b", "a/b/c")]
        assert dry.volume("work")["notes"] == [f"makes {', '.join(names)}"]
        assert dry.volume("file")["notes"] == [f"makes {world / 'a'}, {world / 'a/file'}"]
        assert not (world / "a").exists()
        world.reconcile()
        assert (world / "a/b/c/hello").exists()


def mounted_read_only(world: World) -> None:
    run("mount", "-t", "tmpfs", "-o", "ro,mode=0755", "none", str(world / "there"))


def bound_read_only(world: World) -> None:
    run("mount", "--bind", str(world / "there"), str(world / "there"))
    run("mount", "-o", "remount,bind,ro", str(world / "there"))


def immutable(world: World) -> None:
    run("chattr", "+i", str(world / "there"))


def closed_to_its_owner(world: World) -> None:
    (world / "there").chmod(0o555)
    os.chown(world / "there", 1000, 1000)


def out_of_the_owners_reach(world: World) -> None:
    (world / "there").chmod(0o600)
    os.chown(world / "there", 1000, 1000)


def a_file_in_the_way(world: World) -> None:
    (world / "there").rmdir()
    (world / "there").touch()


STOPS: dict[str, tuple[Callable[[World], None], str, str]] = {
    "a filesystem": (mounted_read_only, "read-only-filesystem", "/there is on a read-only"),
    "a mount": (bound_read_only, "read-only-filesystem", "/there is on a read-only"),
    "a flag": (immutable, "no-target", "/there is immutable"),
    "a mode": (closed_to_its_owner, "no-target", "/there belongs to uid 1000"),
    "another mode": (out_of_the_owners_reach, "no-target", "/there belongs to uid 1000"),
    "a file": (a_file_in_the_way, "wrong-kind", "something above it is not a folder"),
}


@pytest.mark.fault(31, "in what can't be written")
@pytest.mark.parametrize("what", STOPS)
def test_what_stops_the_making_is_known_before(world: World, what: str) -> None:
    stop, reason, says = STOPS[what]
    world.folder("source")
    (world / "there").mkdir()
    stop(world)
    try:
        for source in ("source", "source/hello"):
            world.volumes(work={"source": world / source, "target": world / "there/a/b"})
            found = told(world)
            assert (found["state"], found["reason"]) == ("failed", reason)
            assert says in found["error"]["message"]
    finally:
        run("chattr", "-i", str(world / "there"), check=False)


def test_a_name_that_is_too_long_is_known_before_anything_is_made(world: World) -> None:
    world.folder("source")
    world.volumes(work={"source": world / "source", "target": world / "a" / ("ü" * 128)})
    assert "more than 255 bytes" in told(world)["error"]["message"]
    assert not (world / "a").exists()


def test_a_user_is_told_of_a_read_only_filesystem_and_nothing_of_her_own_rights(
    world: World,
) -> None:
    world.folder("source")
    (world / "ro").mkdir()
    run("mount", "-t", "tmpfs", "-o", "ro", "none", str(world / "ro"))
    world.volumes(
        ro={"source": world / "source", "target": world / "ro/x"},
        rw={"source": world / "source", "target": world / "x"},
    )
    dry = world.reconcile("-n", uid=1000, status=1)
    assert dry.volume("ro")["reason"] == "read-only-filesystem"
    assert dry.volume("rw")["action"] == "mount"


def test_what_another_volume_makes_writable_is_waited_for(world: World) -> None:
    world.folder("source")
    world.folder("outer")
    outer = {"source": world / "outer", "target": world / "to"}
    inner = {"source": world / "source", "target": world / "to/new"}
    world.volumes(outer={**outer, "read_only": True})
    world.reconcile()
    world.volumes(outer={**outer, "read_only": True}, inner=inner)
    assert world.reconcile("-n", status=1).volume("inner")["reason"] == "read-only-filesystem"
    world.volumes(outer=outer, inner=inner)
    assert world.reconcile("-n").volume("inner")["notes"] == ["after outer"]
    world.reconcile()
    assert (world / "to/new/hello").exists()


@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_made_below_a_new_mount_is_known_too(world: World, read_only: bool) -> None:
    """A mount that is there comes to lie on another volume's, in which its folder is missing."""
    world.folder("source")
    world.folder("outer")
    inner = {"source": world / "source", "target": world / "to/a/b"}
    world.volumes(inner=inner)
    world.reconcile()
    outer = {"source": world / "outer", "target": world / "to", "read_only": read_only}
    world.volumes(work=outer, inner=inner)
    if read_only:
        found = told(world)
        assert (found["state"], found["reason"]) == ("failed", "read-only-filesystem")
        assert (world / "to/a/b/hello").exists()
    else:
        notes = world.reconcile("-n").volume("work")["notes"]
        assert f"makes {world / 'to/a'}, {world / 'to/a/b'}" in notes
        assert not (world / "outer/a").exists()
        world.reconcile()
        assert (world / "outer/a/b").is_dir()
        assert (world / "to/a/b/hello").exists()
