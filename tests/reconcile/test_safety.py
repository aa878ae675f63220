"""What nobody but root can have mountd do, and what no manifest can."""

import ctypes
import json
import os
import shutil
import signal
import socket
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pytest
from silent_server import Server
from world import MOUNTD, Result, World, mount_table, owner, run

_libc = ctypes.CDLL(None, use_errno=True)
_UMASKS = [0o000, 0o022, 0o077]


def link(path: Path, to: str | Path, uid: int = 0) -> Path:
    path.symlink_to(to)
    os.lchown(path, uid, uid)
    return path


def place(path: Path, owner: tuple[int, int], mode: int) -> Path:
    """A folder of this owner and mode, whatever the umask."""
    path.mkdir()
    os.chown(path, *owner)
    path.chmod(mode)
    return path


def targets(world: World) -> set[str]:
    return {mount.point for mount in world.mounts()}


# Links.


@pytest.mark.parametrize(
    "to",
    ["real", "/mnt/real", "other/../real", "./hop", "/../mnt//./real/"],
    ids=["relative", "absolute", "dots", "chain", "unnormalised"],
)
def test_roots_own_link_is_followed(world: World, to: str) -> None:
    for name in ("real", "other"):
        (world / name).mkdir()
    for name in ("one", "two", "three"):
        world.folder(f"real/{name}")
    link(world / "hop", "real")
    way = link(world / "way", to)
    link(world / "source", way / "two")
    link(world / "target", "way/t2")
    (world / "real/t2").mkdir()
    link(world / "missing", "way/t3")
    world.volumes(
        middle={"source": way / "one", "target": way / "t1"},
        last={"source": world / "source", "target": world / "target"},
        dangling={"source": way / "three", "target": world / "missing"},
    )
    Path(world.manifest).rename(world / "real/mountd.toml")
    world.manifest = str(way / "mountd.toml")
    result = world.reconcile()
    assert targets(world) == {"/mnt/real/t1", "/mnt/real/t2", "/mnt/real/t3"}
    assert result.volume("last")["target"] == "/mnt/real/t2"
    assert (world / "real/t2/hello").is_file()
    again = world.reconcile()
    assert {each["action"] for each in again.document["volumes"]} == {"keep"}


UNSAFE = {
    "a user's link": (1000, (0, 0), 0o755),
    "in a user's folder": (0, (1000, 0), 0o755),
    "in a folder that all can write": (0, (0, 0), 0o777),
    "in a folder that a group can write": (0, (0, 1000), 0o775),
    "a user's link in a sticky folder": (1000, (0, 0), 0o1777),
    "root's link in a user's sticky folder": (0, (1000, 0), 0o1777),
}
STICKY = {
    "in a sticky folder": (0, (0, 0), 0o1777),
    "in a group's sticky folder": (0, (0, 1000), 0o1775),
}
SAFE = {
    "in a sticky folder that only root can write": (0, (0, 0), 0o1755),
    "in a folder that root's group can write": (0, (0, 0), 0o775),
}


def linked(world: World, case: tuple[int, tuple[int, int], int]) -> Path:
    """A place where links lie that lead to sources and targets elsewhere; four volumes use them."""
    uid, owner, mode = case
    real = place(world / "real", (0, 0), 0o755)
    world.folder("real/source")
    (real / "t2").mkdir()
    folder = place(world / "place", owner, mode)
    way = link(folder / "way", real, uid)
    volumes = {
        "source-middle": {"source": way / "source", "target": world / "1"},
        "source-last": {
            "source": link(folder / "s", real / "source", uid),
            "target": world / "2",
        },
        "target-middle": {"source": real / "source", "target": way / "t1"},
        "target-last": {
            "source": real / "source",
            "target": link(folder / "t", real / "t2", uid),
        },
        "dangling": {"source": link(folder / "d", real / "no", uid), "target": world / "3"},
    }
    world.volumes(**volumes)
    return folder


@pytest.mark.fault(32, "a link of somebody's")
@pytest.mark.parametrize("case", (UNSAFE | STICKY).values(), ids=UNSAFE | STICKY)
def test_a_link_that_someone_else_could_have_made_is_refused_and_named(
    world: World, case: tuple[int, tuple[int, int], int]
) -> None:
    folder = linked(world, case)
    result = world.reconcile(status=1)
    errors = {each["name"]: each["error"] for each in result.document["volumes"]}
    assert {each["code"] for each in errors.values()} == {"unsafe-path"}
    links = {name: each["message"].split()[0] for name, each in errors.items()}
    assert links == {
        "source-middle": str(folder / "way"),
        "source-last": str(folder / "s"),
        "target-middle": str(folder / "way"),
        "target-last": str(folder / "t"),
        "dangling": str(folder / "d"),
    }
    assert not targets(world)
    assert not (world / "real/t1").exists()


@pytest.mark.parametrize("case", UNSAFE.values(), ids=UNSAFE)
def test_a_manifest_behind_such_a_link_is_refused(
    world: World, case: tuple[int, tuple[int, int], int]
) -> None:
    uid, owner, mode = case
    world.folder("source")
    world.volumes(a={"source": world / "source", "target": world / "a"})
    folder = place(world / "place", owner, mode)
    world.manifest = str(link(folder / "mountd.toml", world.manifest, uid))
    result = world.reconcile(status=78)
    assert f"{world.manifest} is a link that " in result.document["errors"][0]["message"]
    assert not targets(world)


@pytest.mark.parametrize("case", SAFE.values(), ids=SAFE)
def test_a_link_that_root_alone_could_have_made_is_followed(
    world: World, case: tuple[int, tuple[int, int], int]
) -> None:
    linked(world, case)
    result = world.reconcile(status=1)
    assert targets(world) == {"/mnt/1", "/mnt/2", "/mnt/real/t1", "/mnt/real/t2"}
    assert result.volume("dangling")["state"] == "pending"
    assert result.volume("dangling")["reason"] == "no-source"


def test_a_loop_of_links_is_refused_and_named(world: World) -> None:
    world.folder("source")
    link(world / "a", "b")
    link(world / "b", "a")
    world.volumes(
        source={"source": world / "a/x", "target": world / "1"},
        target={"source": world / "source", "target": world / "b"},
        good={"source": world / "source", "target": world / "2"},
    )
    result = world.reconcile(status=1)
    for name in ("source", "target"):
        error = result.volume(name)["error"]
        assert result.volume(name)["state"] == "failed"
        assert "symbolic links" in error["message"]
        assert "/mnt/a" in error["message"] or "/mnt/b" in error["message"]
    assert targets(world) == {"/mnt/2"}


def test_a_dangling_target_is_not_made_without_create(world: World) -> None:
    world.folder("source")
    target = link(world / "target", "gone")
    world.volumes(a={"source": world / "source", "target": target, "create": False})
    result = world.reconcile(status=1)
    assert result.volume("a")["reason"] == "no-target"
    assert not (world / "gone").exists()


# A race.


class Swapper:
    """A process of uid 1000 that swaps two entries of a folder for each other, all the time."""

    def __init__(self, one: Path, other: Path) -> None:
        self.paths = (os.fsencode(one), os.fsencode(other))

    def __enter__(self) -> Self:
        self.pid = os.fork()
        if not self.pid:
            try:
                os.setgroups([])
                os.setresgid(1000, 1000, 1000)
                os.setresuid(1000, 1000, 1000)
                while True:
                    assert _libc.renameat2(-100, self.paths[0], -100, self.paths[1], 2) == 0
            finally:
                os._exit(1)
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        ending = os.waitpid(self.pid, 0)[1]
        assert os.WIFSIGNALED(ending), "it could not swap"


@pytest.mark.fault(32, "swapped all the time")
def test_a_folder_swapped_for_a_link_leads_nowhere_else(world: World) -> None:
    """Wherever in a run the swap falls, a target is the user's own folder or it is refused."""
    world.folder("source")
    home = place(world / "home", (1000, 1000), 0o755)
    bait = place(world / "bait", (0, 0), 0o755)
    inner = place(home / "inner", (1000, 1000), 0o755)
    there = [f"there{i}" for i in range(20)]
    for folder in (inner, bait):
        for name in there:
            place(folder / name, (1000, 1000), 0o755)
    outer = link(home / "outer", bait, 1000)
    script = '"$@"; cat /proc/self/mountinfo'  # the mounts of a run go with its namespace
    states: set[str] = set()
    with Swapper(inner, outer):
        for i in range(200):
            if i >= 6 and states == {"mounted", "failed"}:
                break  # else the swaps fell beside the runs
            missing = [f"made{i}-{j}" for j in range(20)]
            world.volumes(
                **{
                    name: {"source": world / "source", "target": inner / name}
                    for name in there + missing
                }
            )
            command = [MOUNTD, "reconcile", "--json", "-f", world.manifest]
            command += ["--state-dir", world.state]
            result = world.run(["unshare", "-m", "sh", "-c", script, "sh", *command])
            document, end = json.JSONDecoder().raw_decode(result.out)
            points = [line.split()[4] for line in result.out[end:].splitlines() if line]
            assert not any(point.startswith("/mnt/bait") for point in points)
            inside = [point for point in points if point.startswith("/mnt/home/")]
            assert len(inside) == len(set(inside))
            mounted = [each for each in document["volumes"] if each["state"] == "mounted"]
            assert len(inside) == len(mounted), "what failed left a mount, or what is told is not"
            for each in document["volumes"]:
                states.add(each["state"])
                assert not each["error"] or each["error"]["code"] in ("unsafe-path", "io"), each
                assert "/mnt/bait" not in each["target"]
    assert sorted(os.listdir(bait)) == sorted(there)
    assert states == {"mounted", "failed"}


# Forbidden targets.

SYSTEM = [
    *("/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin"),
    *("/sys", "/usr", "/var"),
]
BELOW = ["/proc/sys", "/sys/kernel", "/dev/shm"]
OURS = ["/mnt/conf/mountd.toml", "/mnt/conf", "/mnt/run/state", "/mnt/run", "/mnt"]


def forbidding(world: World) -> Path:
    """A world whose manifest and state directory have folders of their own above them."""
    for name in ("conf", "run", "links"):
        (world / name).mkdir()
    world.manifest, world.state = "/mnt/conf/mountd.toml", "/mnt/run/state"
    os.mkdir(world.state)
    return world.folder("source")


def test_a_target_that_would_take_the_machine_down_is_an_error_of_the_manifest(
    world: World,
) -> None:
    source = forbidding(world)
    forbidden = [*SYSTEM, "/libx32", *BELOW, "/dev/no/such", *OURS]
    world.volumes(
        **{f"v{i}": {"source": source, "target": path} for i, path in enumerate(forbidden)}
    )
    result = world.reconcile(status=78)
    errors = [(each["line"], each["message"]) for each in result.document["errors"]]
    for i, path in enumerate(forbidden):
        begin = f"`volumes.v{i}.target` must not be {path}: it is "
        assert any(line == 3 * i + 3 and text.startswith(begin) for line, text in errors), path
    assert not targets(world)


@pytest.mark.parametrize(
    "target", ["/mnt/conf/mountd.toml2", "/mnt/conf/x", "/mnt/run/state2", "/mnt/etc", "/bin2"]
)
def test_a_target_beside_or_below_what_is_forbidden_is_none(world: World, target: str) -> None:
    world.volumes(a={"source": forbidding(world), "target": target, "create": False})
    assert world.reconcile(status=1).volume("a")["reason"] == "no-target"


def test_what_is_forbidden_is_so_through_a_link_of_roots(world: World) -> None:
    source = forbidding(world)
    Path(world.manifest).touch()
    forbidden = {f"v{i}": path for i, path in enumerate([*SYSTEM, *BELOW, *OURS])}
    world.volumes(
        **{
            name: {"source": source, "target": link(world / f"links/{name}", path)}
            for name, path in forbidden.items()
        }
    )
    before = mount_table()
    for words in (["-n"], []):  # first the dry run: a real one could take this very test down
        result = world.reconcile(*words, status=1)
        reasons = {path: result.volume(name)["reason"] for name, path in forbidden.items()}
        assert reasons == dict.fromkeys(reasons, "unsafe-path")
    assert mount_table() <= before


@pytest.mark.parametrize("target", ["/mnt/conf", "/mnt/run", "/mnt/run/state"])
def test_the_manifest_and_the_state_are_safe_where_they_are_named_through_links(
    world: World, target: str
) -> None:
    source = forbidding(world)
    world.volumes(a={"source": source, "target": target})
    world.manifest = str(link(world / "links/mountd.toml", world.manifest))
    world.state = str(link(world / "links/state", world.state))
    result = world.mountd("reconcile", "--json")
    assert result.status in (1, 78), result.out
    assert not targets(world)


# The manifest's own file.


def _file(world: World, owner: tuple[int, int], mode: int) -> str:
    os.chown(world.manifest, *owner)
    os.chmod(world.manifest, mode)
    return world.manifest


def _folder(world: World, owner: tuple[int, int], mode: int, entry: int = 0) -> str:
    """Below another folder, so that it is not only the manifest's own folder that is looked at."""
    above = place(world / "above", owner, mode)
    below = place(above / "below", (entry, 0), 0o755)
    world.manifest = shutil.move(world.manifest, str(below / "mountd.toml"))
    return str(below)


def _acl(world: World) -> str:
    """`setfacl -m u:1000:rw`: the group's bits in the mode are the ACL's mask then."""
    entries = [(1, 6, -1), (2, 6, 1000), (4, 4, -1), (16, 6, -1), (32, 4, -1)]
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, bits, who & 0xFFFFFFFF) for tag, bits, who in entries
    )
    os.setxattr(world.manifest, "system.posix_acl_access", acl)
    return world.manifest


WRITABLE: Mapping[str, Callable[[World], str]] = {
    "another's file": lambda world: _file(world, (1000, 0), 0o644),
    "a file that all can write": lambda world: _file(world, (0, 0), 0o646),
    "a file that a group can write": lambda world: _file(world, (0, 1000), 0o664),
    "a file that an ACL lets a user write": _acl,
    "another's folder": lambda world: _folder(world, (1000, 0), 0o755),
    "a folder that all can write": lambda world: _folder(world, (0, 0), 0o777),
    "a folder that a group can write": lambda world: _folder(world, (0, 1000), 0o775),
    "another's sticky folder": lambda world: _folder(world, (1000, 0), 0o1777),
    "another's entry of a sticky folder": lambda world: _folder(world, (0, 0), 0o1777, 1000),
}
UNWRITABLE: Mapping[str, Callable[[World], str]] = {
    "root's": lambda world: _file(world, (0, 1000), 0o600),
    "writable by root's group": lambda world: _file(world, (0, 0), 0o664),
    "root's entry of a sticky folder": lambda world: _folder(world, (0, 0), 0o1777),
    "root's entry of a group's sticky folder": lambda world: _folder(world, (0, 1000), 0o1775),
}


@pytest.mark.fault(21, "owner, mode, ACL; of it and of folders above")
@pytest.mark.parametrize("loosen", WRITABLE.values(), ids=WRITABLE)
def test_a_manifest_that_someone_else_could_write_is_not_acted_on(
    world: World, loosen: Callable[[World], str]
) -> None:
    world.folder("source")
    world.volumes(a={"source": world / "source", "target": world / "a"})
    culprit = loosen(world)
    result = world.reconcile(status=78)
    assert any(culprit in each["message"] for each in result.document["errors"])
    assert all(each["hint"] for each in result.document["errors"])
    assert not targets(world) and not os.path.exists(world.state)
    for words, uid in ((["reconcile", "-n"], 0), (["check"], 1000)):
        looked = world.mountd(*words, uid=uid)
        assert looked.status == 0, looked.err
        assert f"warning: {culprit} " in looked.err


@pytest.mark.parametrize("arrange", UNWRITABLE.values(), ids=UNWRITABLE)
def test_a_manifest_that_root_alone_could_write_is_acted_on(
    world: World, arrange: Callable[[World], str]
) -> None:
    world.folder("source")
    world.volumes(a={"source": world / "source", "target": world / "a"})
    arrange(world)
    assert "warning" not in world.mountd("check").err
    world.reconcile()
    assert targets(world) == {"/mnt/a"}


def test_a_read_only_mount_counts_as_unwritable(world: World) -> None:
    world.folder("source")
    world.volumes(a={"source": world / "source", "target": world / "a"})
    folder = place(world / "config", (1000, 1000), 0o777)
    world.manifest = shutil.move(world.manifest, str(folder / "mountd.toml"))
    os.chown(world.manifest, 1000, 1000)
    world.reconcile(status=78)
    run("mount", "--bind", "-o", "ro", str(folder), str(folder))
    assert "warning" not in world.mountd("check").err
    world.reconcile()
    assert "/mnt/a" in targets(world)


def test_a_state_directory_of_a_user_is_refused(world: World) -> None:
    world.folder("source")
    world.volumes(a={"source": world / "source", "target": world / "a"})
    place(Path(world.state), (1000, 1000), 0o755)
    result = world.reconcile(status=1)
    assert world.state in result.document["errors"][0]["message"]
    assert not targets(world) and not os.listdir(world.state)


@pytest.mark.parametrize("mode", [0o666, 0o664])
def test_accounts_that_someone_else_could_write_fail_their_volume(world: World, mode: int) -> None:
    world.folder("source")
    passwd = world / "passwd"
    passwd.write_text("node:x:1000:1000::/:/bin/sh\nroot:x:0:0::/:/bin/sh\n")
    os.chown(passwd, 0, 1000)
    passwd.chmod(mode)
    run("mount", "--bind", str(passwd), "/etc/passwd")
    world.volumes(
        named={"source": world / "source", "target": world / "a", "user": "node"},
        plain={"source": world / "source", "target": world / "b"},
    )
    result = world.reconcile(status=1)
    assert result.volume("named")["reason"] == "unsafe-path"
    assert "/etc/passwd" in result.volume("named")["error"]["message"]
    assert targets(world) == {"/mnt/b"}
    looked = world.mountd("check")
    assert looked.status == 0 and "warning: /etc/passwd " in looked.err


# Making what is missing.


@pytest.mark.fault(31, "missing, with folders above")
@pytest.mark.parametrize("umask", _UMASKS, ids=oct)
def test_what_is_made_belongs_to_the_owner_of_the_nearest_folder(world: World, umask: int) -> None:
    world.folder("source")
    home = place(world / "home", (1000, 1001), 0o700)
    world.volumes(
        folder={"source": world / "source", "target": home / "a/b/c"},
        file={"source": world / "source/hello", "target": home / "d/e"},
        roots={"source": world / "source", "target": world / "f/g"},
    )
    trace = world / "trace"
    call = ["strace", "-f", "-qq", "-e", "trace=/chown,chmod", "-o", str(trace), MOUNTD]
    outside = os.umask(umask)
    try:
        words = ["reconcile", "-f", world.manifest, "--state-dir", world.state]
        result = world.run([*call, *words])
    finally:
        os.umask(outside)
    assert result.status == 0, result.err
    assert "chown" not in trace.read_text(), "by name it would follow what is swapped meanwhile"
    assert (home / "d/e").read_text() == "hello\n"
    assert world.mountd("unmount", "--all").status == 0
    for path, ids in (
        *((home / name, (1000, 1001)) for name in ("a", "a/b", "a/b/c", "d", "d/e")),
        *((world / name, (0, 0)) for name in ("f", "f/g")),
    ):
        assert owner(path) == ids, path
        assert stat.S_IMODE(path.stat().st_mode) == 0o755, path
    assert (home / "d/e").read_bytes() == b""


def test_nothing_is_made_in_a_folder_that_its_owner_may_not_write(world: World) -> None:
    world.folder("source")
    home = place(world / "home", (1000, 1000), 0o555)
    world.volumes(a={"source": world / "source", "target": home / "a"})
    result = world.reconcile(status=1)
    assert result.volume("a")["reason"] == "no-target"
    assert "/mnt/home belongs to uid 1000, who may not write there" in result.err
    assert not (home / "a").exists()


def test_without_create_nothing_is_made(world: World) -> None:
    world.folder("source")
    world.volumes(
        a={"source": world / "source", "target": world / "a/b", "create": False},
        b={"source": world / "source", "target": world / "c"},
    )
    result = world.reconcile(status=1)
    assert result.volume("a")["state"] == "pending"
    assert result.volume("a")["reason"] == "no-target"
    assert not (world / "a").exists()
    assert targets(world) == {"/mnt/c"}


# setuid files and devices.


def setuid_id(path: Path, uid: int) -> Path:
    """A program that prints its effective uid, and is setuid to this owner as stored."""
    shutil.copy("/usr/bin/id", path)
    os.chown(path, uid, uid)
    path.chmod(0o4755)
    return path


def effective_uid(world: World, program: Path) -> int:
    """Whom a user becomes who runs it."""
    return int(world.as_user(1000, str(program), "-u").out)


@pytest.mark.parametrize(
    "user",
    [
        {"user": "0:0", "owner": "501:20"},
        {"idmap": {"uids": [{"stored": 501, "seen": 0, "count": 1}]}},
    ],
    ids=["swap", "extents"],
)
def test_strangers_setuid_files_and_devices_are_inert(world: World, user: dict[str, Any]) -> None:
    source = world.folder("source")
    setuid_id(source / "id", 501)
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown(source / "null", 501, 20)
    world.volumes(
        inert={"source": source, "target": world / "a", **user},
        live={"source": source, "target": world / "b", **user, "nosuid": False, "nodev": False},
    )
    world.reconcile()
    assert owner(world / "a/id")[0] == owner(world / "b/id")[0] == 0
    assert effective_uid(world, world / "a/id") == 1000
    assert effective_uid(world, world / "b/id") == 0, "the test's own program doesn't work"
    with pytest.raises(PermissionError):
        (world / "a/null").read_bytes()
    assert (world / "b/null").read_bytes() == b""


def test_what_the_source_has_is_cleared_by_false(world: World) -> None:
    (world / "fs").mkdir()
    run("mount", "-t", "tmpfs", "-o", "nosuid,nodev,noexec,mode=755", "tmpfs", "/mnt/fs")
    source = world.folder("fs/source")
    setuid_id(source / "id", 501)
    cleared = {"nosuid": False, "nodev": False, "noexec": False}
    world.volumes(
        a={"source": source, "target": world / "a", **cleared},
        b={"source": source, "target": world / "b"},
    )
    world.reconcile()
    assert effective_uid(world, world / "a/id") == 501
    options = {mount.point: mount.options for mount in world.mounts()}
    assert not {"nosuid", "nodev", "noexec"} & options["/mnt/a"]
    assert {"nosuid", "nodev", "noexec"} <= options["/mnt/b"]


# The swap with root.


def attack(world: World, target: Path, source: Path, uid: int) -> int | None:
    """Leave a setuid file on the source through the target, and run it by the source's path.

    Whom this user becomes by it; None if he can't leave it.
    """
    script = 'cp /usr/bin/id "$1/evil" && chmod 4755 "$1/evil"'
    if world.as_user(uid, "sh", "-c", script, "sh", str(target)).status:
        return None
    assert owner(source / "evil")[0] == 0, "the attack is another than the rule is about"
    return int(world.as_user(uid, str(source / "evil"), "-u").out)


@pytest.fixture
def roots_source(world: World) -> Path:
    """A folder of root's, on a filesystem of its own."""
    (world / "fs").mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/mnt/fs")
    return world.folder("fs/source", owner=(0, 0))


@pytest.mark.parametrize("idmap", ["auto", "always"])
def test_a_swap_with_root_is_refused(world: World, roots_source: Path, idmap: str) -> None:
    target = world / "a"
    keys = {"source": roots_source, "target": target, "user": 1000, "idmap": idmap}
    world.volumes(a=keys, b={**keys, "target": world / "b", "user": "1000:0", "nosuid": False})
    result = world.reconcile(status=1)
    for name in ("a", "b"):
        assert result.volume(name)["reason"] == "root-owned"
        hint = result.volume(name)["error"]["hint"]
        assert "nosuid" in hint and "read_only = true" in hint and 'owner = "0:0"' in hint
    assert targets(world) == {"/mnt/fs"}
    assert not target.exists()


def test_a_written_owner_accepts_what_the_swap_with_root_allows(
    world: World, roots_source: Path
) -> None:
    keys = {"source": roots_source, "target": world / "a", "user": 1000, "owner": "0:0"}
    world.volumes(a=keys)
    world.reconcile()
    assert attack(world, world / "a", roots_source, 1000) == 0, "then the rule has no point"


def test_a_nosuid_source_lets_nothing_of_the_swap_with_root_escape(
    world: World, roots_source: Path
) -> None:
    run("mount", "-o", "remount,bind,nosuid", "/mnt/fs")
    world.volumes(a={"source": roots_source, "target": world / "a", "user": 1000})
    world.reconcile()
    assert attack(world, world / "a", roots_source, 1000) == 1000
    run("mount", "-o", "remount,bind,suid", "/mnt/fs")
    assert world.reconcile(status=1).volume("a")["reason"] == "root-owned"
    assert targets(world) == {"/mnt/fs"}


@pytest.mark.parametrize("how", ["key", "mount", "filesystem"])
def test_a_read_only_volume_lets_nobody_leave_a_file(
    world: World, roots_source: Path, how: str
) -> None:
    roots_source.chmod(0o700)  # or `auto` needs no idmapping
    if how != "key":
        run("mount", "-o", "remount,ro" if how == "filesystem" else "remount,bind,ro", "/mnt/fs")
    keys = {"source": roots_source, "target": world / "a", "user": 1000}
    world.volumes(a={**keys, "read_only": True} if how == "key" else keys)
    world.reconcile()
    assert owner(world / "a")[0] == 1000
    assert attack(world, world / "a", roots_source, 1000) is None
    world.volumes(a={**keys, "read_only": False})
    if how != "filesystem":
        assert world.reconcile(status=1).volume("a")["reason"] == "root-owned"


@pytest.mark.parametrize("has_account", [True, False])
def test_root_may_be_the_user_where_nobody_here_is_the_owner(
    world: World, has_account: bool
) -> None:
    passwd = world / "passwd"
    passwd.write_text("root:x:0:0::/:/bin/sh\n" + "host:x:501:20::/:/bin/sh\n" * has_account)
    run("mount", "--bind", str(passwd), "/etc/passwd")
    rootfs = world.rootfs("root:x:0:0::/:/bin/sh\nhost:x:501:20::/:/bin/sh\n")
    source = world.folder("source", owner=(501, 20))
    keys = {"source": source, "user": "root"}
    world.volumes(
        here={**keys, "target": world / "a"},
        elsewhere={**keys, "target": world / "b", "accounts": rootfs},
    )
    result = world.reconcile(status=int(has_account))
    for each, target in (("here", world / "a"), ("elsewhere", world / "b")):
        if has_account:
            assert result.volume(each)["reason"] == "root-owned"
        else:
            assert owner(target)[0] == 0


def test_gid_0_alone_gets_a_note(world: World) -> None:
    source = world.folder("source", owner=(501, 0))
    world.volumes(a={"source": source, "target": world / "a", "user": "1000:1000"})
    notes = world.reconcile().volume("a")["notes"]
    assert any("group 1000" in note and "setgid" in note for note in notes)


# Wrong kinds.


def test_a_source_is_a_folder_or_a_file(world: World) -> None:
    os.mkfifo(world / "fifo")
    os.mknod(world / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(world / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 250))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(world / "socket"))
    kinds = {
        "fifo": "a FIFO",
        "device": "a character device",
        "disk": "a block device",
        "socket": "a socket",
    }
    world.volumes(
        **{
            name: {"source": world / name, "target": world / f"{name}-target", "user": 1000}
            for name in kinds
        }
    )
    result = world.reconcile(status=1)
    for name, kind in kinds.items():
        assert result.volume(name)["reason"] == "wrong-kind"
        assert f"/mnt/{name} is {kind}" in result.volume(name)["error"]["message"]
        assert not (world / f"{name}-target").exists()


@pytest.mark.fault(35, "both ways, and a file above")
def test_a_folder_is_not_mounted_onto_a_file_nor_the_reverse(world: World) -> None:
    world.folder("source")
    (world / "folder").mkdir()
    (world / "file").touch()
    world.volumes(
        onto_file={"source": world / "source", "target": world / "file"},
        onto_folder={"source": world / "source/hello", "target": world / "folder"},
        below_file={"source": world / "source", "target": world / "file/a/b"},
        good={"source": world / "source/hello", "target": world / "new"},
    )
    result = world.reconcile(status=1)
    for name in ("onto_file", "onto_folder", "below_file"):
        assert result.volume(name)["reason"] == "wrong-kind", name
        assert "/mnt/f" in result.volume(name)["error"]["message"]
    assert targets(world) == {"/mnt/new"}


# A source that hangs.


@pytest.fixture
def server(world: World) -> Iterator[Server]:
    server = Server(world / "fuse")
    yield server
    server.die()


@pytest.mark.fault(28, "at and below it, from the start")
def test_what_hangs_costs_its_own_volume_only(world: World, server: Server) -> None:
    server.fall_silent()
    world.folder("source")
    world.volumes(
        source={"source": world / "fuse", "target": world / "a"},
        target={"source": world / "source", "target": world / "fuse/b"},
        good={"source": world / "source", "target": world / "c", "user": 1000},
        missing={"source": world / "none", "target": world / "d", "required": False},
    )
    result = world.reconcile(status=1)  # it ends by itself, or the run times out
    for name in ("source", "target"):
        assert result.volume(name)["state"] == "failed"
        assert result.volume(name)["reason"] == "not-answering"
        assert "/mnt/fuse" in result.volume(name)["error"]["message"]
    assert result.volume("missing")["reason"] == "no-source"
    assert targets(world) == {"/mnt/fuse", "/mnt/c"}


@pytest.mark.parametrize("fallback", ["plain", "fail"])
def test_a_server_that_shows_another_owner_through_the_idmapping_is_found_out(
    world: World, server: Server, fallback: str
) -> None:
    table = {"source": world / "fuse", "target": world / "a", "user": "1000:1000"}
    world.volumes(a={**table, "fallback": fallback})
    assert world.reconcile("--dry-run").volume("a")["fallback"] is None
    looks = server.asked - 1  # of a pass before it makes anything, as this one did detached
    server.owners = ((501, 20),) * (2 * looks + 1) + ((700, 700),)
    found = world.reconcile(status=1).volume("a")
    assert found["reason"] == "idmap-untrue"
    assert "shows the owner as 700:700 instead of" in found["error"]["message"]
    assert targets(world) == {"/mnt/fuse"}
    assert world.reconcile().volume("a")["fallback"] is None  # it says the same again
    assert owner(world / "a") == (1000, 1000)


@pytest.mark.fault(28, "in the middle of a pass")
def test_a_server_that_falls_silent_while_its_volume_is_made_costs_that_alone(
    world: World, server: Server
) -> None:
    world.folder("source")
    world.volumes(
        a={"source": world / "fuse", "target": world / "a", "user": 1000},
        b={"source": world / "source", "target": world / "b", "user": 1000},
    )
    world.reconcile("--dry-run")
    server.silent_after = 2 * server.asked - 1  # the last was of what it made detached
    result = world.reconcile(status=1)
    assert result.volume("a")["reason"] == "not-answering"
    assert result.volume("b")["state"] == "mounted"
    assert targets(world) == {"/mnt/fuse", "/mnt/b"}


@pytest.mark.fault(28, "after it was mounted")
def test_a_volume_whose_server_falls_silent_keeps_its_mount_and_can_be_unmounted(
    world: World, server: Server
) -> None:
    world.volumes(a={"source": world / "fuse", "target": world / "a"})
    world.reconcile()
    assert owner(world / "a") == (501, 20)
    server.fall_silent()
    assert world.reconcile(status=1).volume("a")["reason"] == "not-answering"
    assert targets(world) == {"/mnt/fuse", "/mnt/a"}
    assert world.mountd("unmount", "--all").status == 0
    assert targets(world) == {"/mnt/fuse"}


def test_a_silent_server_over_a_folder_above_a_target_hangs_nothing(world: World) -> None:
    """Its owner may put one there: every user may mount FUSE over a folder of theirs."""
    world.folder("source")
    world.volumes(
        a={"source": world / "source", "target": world / "home/t", "user": 1000},
        b={"source": world / "source", "target": world / "c", "user": 1000},
    )
    world.reconcile()
    server = Server(world / "home")
    try:
        server.fall_silent()
        assert world.reconcile(status=1).volume("a")["reason"] == "not-answering"
        unmounted = world.mountd("unmount", "--all", "--json")
        assert unmounted.volume("a")["reason"] == "not-answering"
        assert unmounted.volume("b")["state"] == "unmounted"
    finally:
        server.die()
    run("umount", str(world / "home"))
    assert world.reconcile().volume("a")["action"] == "keep"


@pytest.mark.fault(29, "killed")
def test_a_source_whose_server_is_dead_is_told_in_a_sentence(world: World, server: Server) -> None:
    server.die()
    world.folder("source")
    world.volumes(
        dead={"source": world / "fuse", "target": world / "a", "user": 1000},
        live={"source": world / "source", "target": world / "b"},
    )
    result = world.reconcile(status=1)
    assert result.volume("dead")["state"] == "failed"
    error = result.volume("dead")["error"]
    assert "/mnt/fuse" in error["message"]
    assert error["hint"].startswith("the server behind it is gone: unmount it, and start")
    assert targets(world) == {"/mnt/fuse", "/mnt/b"}


# Without privileges.

DROP_ADMIN = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"]


def without_admin(world: World, *words: str) -> Result:
    """Root, but without CAP_SYS_ADMIN."""
    files = ["-f", world.manifest, "--state-dir", world.state]
    return world.run([*DROP_ADMIN, MOUNTD, *words, *files])


@pytest.mark.parametrize(
    ("words", "manifest"),
    [
        (["reconcile"], "missing"),
        (["reconcile"], "good"),
        (["unmount", "--all"], "wrong"),
        (["unmount", "nothing"], "missing"),
    ],
)
def test_without_privileges_is_decided_first(world: World, words: list[str], manifest: str) -> None:
    world.folder("source")
    if manifest == "good":
        world.volumes(nothing={"source": world / "source", "target": world / "a"})
    elif manifest == "wrong":
        world.write("nothing = ")
    for result in (world.mountd(*words, uid=1000), without_admin(world, *words)):
        assert result.status == 77
        assert f"`mountd {words[0]}` needs CAP_SYS_ADMIN" in result.err
        assert not result.out
    document = without_admin(world, *words, "--json").document
    assert "CAP_SYS_ADMIN" in document["errors"][0]["message"]
    assert not targets(world) and not os.path.exists(world.state)


def test_the_command_line_is_judged_even_before(world: World) -> None:
    assert world.mountd("reconcile", "--no-such", uid=1000).status == 64


@pytest.mark.parametrize("words", [["reconcile", "-n"], ["check"], ["status"]])
def test_looking_needs_no_privileges(world: World, words: list[str]) -> None:
    world.folder("source")
    world.volumes(a={"source": world / "source", "target": world / "a", "user": 1000})
    wanted = int(words == ["status"])
    assert world.mountd(*words, uid=1000).status == wanted
    assert without_admin(world, *words).status == wanted
    assert not os.path.exists(world.state)
