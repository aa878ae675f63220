"""Whose word is taken for a link, a file or a folder: not a user's, however she gives it."""

import ctypes
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fuse_server import served
from old_kernel import DEBIAN_12, DEBIAN_13, Kernel
from world import MOUNTD, Result, World, owner, run

from mountd.kernel.trusted import is_roots

ALICE = 1000
_libc = ctypes.CDLL(None, use_errno=True)


def place(path: Path, uid: int, mode: int = 0o755) -> Path:
    """A folder of this owner and mode, whatever the umask."""
    path.mkdir(parents=True)
    os.chown(path, uid, uid)
    path.chmod(mode)
    return path


def link(path: Path, to: Path) -> Path:
    path.symlink_to(to)
    return path


def points(world: World) -> set[str]:
    """The mount points, but for servers' and binds of the tests' own."""
    return {each.point for each in world.mounts()}


def errors(result: Result) -> str:
    """What is wrong with the run as a whole."""
    return "\n".join(each["message"] for each in result.document["errors"])


# A server of a user's says that all is root's.


@contextmanager
def liar(world: World, files: dict[str, dict[str, Any]], **how: Any) -> Iterator[Path]:
    """Files that are root's, if one believes Alice's server."""
    place(world / "home", ALICE)
    with served(place(world / "home/mnt", ALICE), files, **how) as _:
        yield world / "home/mnt"


LINKS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "source": lambda mnt, safe: {"source": mnt / "link/source", "target": safe / "1"},
    "source-last": lambda mnt, safe: {"source": mnt / "link", "target": safe / "2"},
    "target": lambda mnt, safe: {"source": safe / "source", "target": mnt / "link/t"},
    "target-last": lambda mnt, safe: {"source": safe / "source", "target": mnt / "link"},
    "accounts": lambda mnt, safe: {
        "source": safe / "source",
        "target": safe / "3",
        "accounts": mnt / "link",
        "user": "node",
    },
}


@pytest.mark.parametrize("kernel", [None, DEBIAN_12, DEBIAN_13], ids=["ours", "12", "13"])
@pytest.mark.parametrize("how", [{}, {"read_only": True}], ids=["writable", "read-only"])
def test_no_link_is_followed_on_a_users_server(
    world: World, how: dict[str, Any], kernel: Kernel | None
) -> None:
    safe = world.folder("safe", owner=(0, 0))
    world.folder("safe/source")
    with liar(world, {"/link": {"to": str(safe)}, "/way": {"to": "link"}}, **how) as mnt:
        before = points(world)
        world.volumes(**{name: keys(mnt, safe) for name, keys in LINKS.items()})
        result = world.reconcile(status=1, kernel=kernel)
        assert points(world) == before
        for name in LINKS:
            error = result.volume(name)["error"]
            assert error["code"] == "unsafe-path", (name, error)
            assert f"{mnt}/link is a link that lies on a FUSE mount of uid 1000" in error["message"]


def test_a_copy_of_a_users_server_elsewhere_is_hers_too(world: World) -> None:
    safe = world.folder("safe", owner=(0, 0))
    with liar(world, {"/link": {"to": str(safe)}, "/d": {}, "/d/link": {"to": str(safe)}}) as mnt:
        place(world / "copy", 0)
        run("mount", "--bind", str(mnt / "d"), str(world / "copy"))
        world.volumes(a={"source": world / "copy/link", "target": world / "t"})
        assert world.reconcile(status=1).volume("a")["reason"] == "unsafe-path"


def test_what_the_machine_itself_serves_is_its_own(world: World) -> None:
    """As virtiofs is, or a FUSE filesystem of root's in fstab."""
    safe = world.folder("safe", owner=(0, 0))
    world.folder("safe/source")
    with liar(world, {"/link": {"to": str(safe)}}, user=0) as mnt:
        world.volumes(a={"source": safe / "source", "target": mnt / "link/t"})
        world.reconcile()
        assert str(safe / "t") in points(world)


def test_no_manifest_is_believed_on_a_users_server(world: World) -> None:
    world.folder("source")
    text = f'[volumes.a]\nsource = "{world.path}/source"\ntarget = "{world.path}/a"\n'
    with liar(world, {"/m.toml": {"data": text}}, read_only=True) as mnt:
        before = points(world)
        world.write(text)
        for manifest in (mnt / "m.toml", link(world / "m.toml", mnt / "m.toml")):
            result = world.mountd("reconcile", "--json", "--manifest", str(manifest))
            assert result.status == 78, result.err
            assert "a FUSE mount of uid 1000" in errors(result)
        link(place(Path(f"{world.manifest}.d"), 0) / "1.toml", mnt / "m.toml")
        result = world.reconcile(status=78)
        assert "a FUSE mount of uid 1000" in errors(result)
        assert "a pass by root refuses that" in world.mountd("reconcile", "-n").err
        assert points(world) == before


def test_no_credential_is_believed_on_a_users_server(world: World) -> None:
    world.folder("source")
    text = f'[volumes.a]\nsource = "{world.path}/source"\ntarget = "{world.path}/a"\n'
    with liar(world, {"/m.toml": {"data": text}}) as mnt:
        given = place(world / "given", 0)
        link(given / "mountd.toml", mnt / "m.toml")
        command = [MOUNTD, "reconcile", "--json", "--state-dir", world.state]
        result = world.run(command, env={"CREDENTIALS_DIRECTORY": str(given)})
        assert result.status == 78, result.err
        assert "a FUSE mount of uid 1000" in errors(result)


def test_no_state_is_kept_on_a_users_server(world: World) -> None:
    world.folder("source")
    world.volumes(a={"source": world / "source", "target": world / "a"})
    with liar(world, {"/state": {"mode": 0o755}}) as mnt:
        before = points(world)
        world.state = str(mnt / "state")
        result = world.reconcile(status=1)
        assert "lies on a filesystem that a server keeps" in errors(result)
        assert "lies on a filesystem that a server keeps" in world.mountd("status").err
        assert points(world) == before


def test_no_accounts_of_the_machines_are_believed_on_a_users_server(world: World) -> None:
    world.folder("source")
    world.volumes(a={"source": world / "source", "target": world / "a", "user": "node"})
    passwd = "node:x:0:0::/:/bin/sh\nroot:x:0:0::/root:/bin/sh\n"
    with liar(world, {"/passwd": {"data": passwd}}) as mnt:
        run("mount", "--bind", str(mnt / "passwd"), "/etc/passwd")
        error = world.reconcile(status=1).volume("a")["error"]
        assert error["code"] == "unsafe-path"
        assert "/etc/passwd lies on a FUSE mount of uid 1000" in error["message"]


# A link of root's is somewhere else now.


def by_alice(world: World, *words: str) -> None:
    """What a user does with what is root's, and what the kernel lets her do."""
    result = world.as_user(ALICE, words[0], *words[1:])
    assert result.status == 0, result.err


@pytest.fixture
def tmp(world: World) -> Path:
    """A sticky folder that all can write; `link` in it was Alice's before, and leads to `safe`."""
    safe = world.folder("safe", owner=(0, 0))
    world.folder("safe/source")
    world.rootfs("node:x:1000:1000::/:/bin/sh\n").rename(safe / "rootfs")
    home = place(world / "home", ALICE)
    tmp = place(world / "tmp", 0, 0o1777)
    link(home / "link", safe)
    by_alice(world, "mv", "-T", str(home / "link"), str(tmp / "link"))
    assert os.lstat(tmp / "link").st_uid == 0
    return tmp


@pytest.mark.parametrize("name", LINKS)
def test_a_link_that_was_moved_into_a_sticky_folder_is_not_followed(
    world: World, tmp: Path, name: str
) -> None:
    world.volumes(a=LINKS[name](tmp, world / "safe"))
    for words in (["-n"], []):
        error = world.reconcile(*words, status=1).volume("a")["error"]
        assert error["code"] == "unsafe-path"
        assert f"{tmp}/link is a link that lies in a sticky folder" in error["message"]
    assert not points(world)


def test_nor_is_one_in_what_was_moved_there_as_a_whole(world: World, tmp: Path) -> None:
    """Alice's folder, with a folder of root's in it, with a link of root's in that."""
    inner = place(place(world / "home/proj", ALICE) / "var", 0)
    link(inner / "run", world / "safe")
    by_alice(world, "mv", "-T", str(world / "home/proj"), str(tmp / "proj"))
    world.volumes(a={"source": tmp / "proj/var/run/source", "target": world / "t"})
    error = world.reconcile(status=1).volume("a")["error"]
    assert "is a link that lies below /mnt/tmp/proj, which belongs to uid 1000" in error["message"]


def test_nor_one_in_a_tree_of_roots_that_a_user_has_renamed(world: World) -> None:
    """As in a container image that was unpacked by root in her home: /var/run leads to /run."""
    world.folder("safe/source", owner=(0, 0))
    home = place(world / "home", ALICE)
    link(place(home / "rootfs", 0) / "run", world / "safe")
    by_alice(world, "mv", "-T", str(home / "rootfs"), str(home / "work"))
    world.volumes(
        source={"source": home / "work/run/source", "target": world / "t"},
        target={"source": world / "safe/source", "target": home / "work/run/t"},
    )
    result = world.reconcile(status=1)
    assert {each["reason"] for each in result.document["volumes"]} == {"unsafe-path"}
    assert not points(world)


def test_a_folder_of_roots_in_a_sticky_one_stays_where_it_was_made(world: World, tmp: Path) -> None:
    """A user can't rename it into another folder, for she can't write it (rename(2), EACCES)."""
    theirs = place(world / "home/roots", 0)
    moved = world.as_user(ALICE, "mv", "-T", str(theirs), str(tmp / "roots"))
    assert moved.status != 0 and theirs.exists()
    link(place(tmp / "own", 0) / "link", world / "safe")
    world.volumes(a={"source": tmp / "own/link/source", "target": world / "t"})
    world.reconcile()
    assert points(world) == {"/mnt/t"}


def test_a_read_only_mount_of_a_users_folder_makes_its_links_no_safer(world: World) -> None:
    world.folder("safe/source", owner=(0, 0))
    home = place(world / "home", ALICE)
    os.lchown(link(home / "link", world / "safe"), ALICE, ALICE)
    place(world / "view", 0)
    run("mount", "--bind", "-o", "ro", str(home), str(world / "view"))
    world.volumes(a={"source": world / "view/link/source", "target": world / "t"})
    assert world.reconcile(status=1).volume("a")["reason"] == "unsafe-path"


def config_map(world: World) -> Path:
    """A folder as a kubelet makes it: 1777, and two links before the file."""
    world.folder("source")
    text = f'[volumes.a]\nsource = "{world.path}/source"\ntarget = "{world.path}/a"\n'
    folder = place(world / "config", 0, 0o1777)
    (place(folder / "..2026", 0) / "mountd.toml").write_text(text)
    link(folder / "..data", Path("..2026"))
    link(folder / "mountd.toml", Path("..data/mountd.toml"))
    world.manifest = str(folder / "mountd.toml")
    return folder


@pytest.mark.parametrize("how", ["as it is", "read-only"])
def test_the_manifest_may_lead_through_a_config_map(world: World, how: str) -> None:
    folder = config_map(world)
    if how == "read-only":
        run("mount", "--bind", "-o", "ro", str(folder), str(folder))
    assert "warning" not in world.mountd("check").err
    world.reconcile()
    assert "/mnt/a" in points(world)


@pytest.mark.parametrize("whose", ["file", "folder", "folder above", "file, read-only"])
def test_what_it_leads_to_must_be_roots(world: World, whose: str) -> None:
    folder = config_map(world)
    home = place(world / "home", ALICE if "above" in whose else 0)
    inner = place(home / "inner", ALICE if whose == "folder" else 0)
    file = inner / "m.toml"
    file.write_text(Path(world.manifest).read_text())
    if "file" in whose:
        os.chown(file, ALICE, ALICE)
    if "read-only" in whose:  # where nothing would be amiss, had a user not chosen it
        run("mount", "--bind", "-o", "ro", str(home), str(home))
    link(place(world / "alice", ALICE) / "link", file)
    (folder / "mountd.toml").unlink()
    by_alice(world, "mv", "-T", f"{world.path}/alice/link", world.manifest)
    result = world.reconcile(status=78)
    assert "uid 1000" in errors(result)
    assert "/mnt/a" not in points(world)


# Acting as a folder's owner.


def without(*capabilities: str) -> list[str]:
    words = ",".join(f"-{each}" for each in capabilities)
    return ["setpriv", f"--bounding-set={words}", f"--inh-caps={words}", "--"]


def reconciled(world: World, around: list[str]) -> Result:
    command = [MOUNTD, "reconcile", "--json", "-f", world.manifest, "--state-dir", world.state]
    return world.run([*around, *command])


@pytest.mark.fault(47, "those that making a target needs")
@pytest.mark.parametrize(
    ("capabilities", "owners"),
    [(["setuid"], (1000, 0)), (["setgid"], (0, 20)), (["setuid", "setgid"], (501, 20))],
    ids=["setuid", "setgid", "both"],
)
def test_no_target_is_made_as_root_where_the_owner_can_not_be_acted_as(
    world: World, capabilities: list[str], owners: tuple[int, int]
) -> None:
    world.folder("source")
    theirs = world.folder("theirs", owner=owners)
    made = world.folder("theirs/made", owner=owners)
    world.volumes(
        folder={"source": world / "source", "target": theirs / "a/b"},
        file={"source": world / "source/hello", "target": theirs / "c"},
        there={"source": world / "source", "target": made},
        roots={"source": world / "source", "target": world / "d/e"},
    )
    result = reconciled(world, without(*capabilities))
    assert result.status == 1, result.err
    for name in ("folder", "file"):
        error = result.volume(name)["error"]
        assert error["code"] == "not-privileged"
        for each in capabilities:
            assert f"CAP_{each.upper()}" in error["message"], error
            assert f"CAP_{each.upper()}" in error["hint"]
        assert "CAP_SETGID" not in error["message"] or "setgid" in capabilities
    assert points(world) == {str(made), "/mnt/d/e"}
    assert sorted(os.listdir(theirs)) == ["hello", "made"]
    assert reconciled(world, []).status == 0
    assert owner(theirs / "a") == owners


def test_what_is_made_is_0755_whatever_default_acl_its_folder_has(world: World) -> None:
    world.folder("source")
    theirs = place(world / "theirs", ALICE)
    entries = [(1, 7, -1), (2, 7, 1001), (4, 7, -1), (8, 0, 1002), (16, 7, -1), (32, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, bits, who & 0xFFFFFFFF) for tag, bits, who in entries
    )
    os.setxattr(theirs, "system.posix_acl_default", acl)
    os.setxattr(place(world / "roots", 0), "system.posix_acl_default", acl)
    world.volumes(
        folder={"source": world / "source", "target": theirs / "a/b"},
        file={"source": world / "source/hello", "target": theirs / "c"},
        roots={"source": world / "source", "target": world / "roots/d/e"},
    )
    world.reconcile()
    assert world.mountd("unmount", "--all").status == 0
    for name in ("theirs/a", "theirs/a/b", "theirs/c", "roots/d", "roots/d/e"):
        path = world / name
        assert owner(path) == ((ALICE, ALICE) if "theirs" in name else (0, 0)), name
        assert stat.S_IMODE(path.stat().st_mode) == 0o755, name
        assert "system.posix_acl_access" not in os.listxattr(path), name


def test_json_is_one_document_also_where_a_server_lies(world: World) -> None:
    with liar(world, {"/link": {"to": "/root"}}) as mnt:
        world.volumes(a={"source": mnt / "link", "target": world / "t"})
        assert world.mountd("status", "--json").document


@pytest.mark.parametrize(
    ("path", "is_so"),
    [
        ("/mnt/file", True),
        ("/mnt/missing", True),
        ("/mnt/missing/below", True),
        ("/mnt/folder", True),
        ("/mnt/link", True),
        ("/mnt/hers", False),
        ("/mnt/hers/missing", False),
        ("/mnt/hers/roots", False),
        ("/mnt/link-to-hers", False),
        ("/mnt/sticky/missing", False),
        ("/mnt/sticky/roots", True),
        ("/mnt/writable", False),
    ],
)
def test_where_root_alone_can_mount_something(world: World, path: str, *, is_so: bool) -> None:
    for name in ("folder", "hers", "sticky"):
        (world / name).mkdir()
    for name in ("file", "writable", "hers/roots", "sticky/roots"):
        (world / name).touch()
    (world / "link").symlink_to("file")
    (world / "link-to-hers").symlink_to("hers/roots")
    os.chown(world / "hers", 1000, 1000)
    (world / "sticky").chmod(0o1777)
    (world / "writable").chmod(0o666)
    assert is_roots(path) is is_so
