"""What stops an idmapping is told apart: the kernel, a filter, privileges, or the filesystem."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from old_kernel import DEBIAN_12, DEBIAN_13, FILTERED, NO_IDMAPPING
from world import World, disks, let_users_reach, mount_table, run, running

import mountd
from mountd.core.idmapping import Idmapping, swap
from mountd.core.model import Fault
from mountd.core.words import idmap_faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.mount_api import MOUNT_ATTR_IDMAP, mount_setattr, move_mount, open_tree
from mountd.kernel.probe import why_no_idmap
from mountd.kernel.syscalls import Fd
from mountd.kernel.userns import make_user_namespace

Making = Callable[[World, str], None]
needs_loop = pytest.mark.needs_loop


def _mounted(fs_type: str, *options: str) -> Making:
    def make(_: World, path: str) -> None:
        run("mount", "-t", fs_type, *options, fs_type, path)

    return make


def _overlay(world: World, path: str) -> None:
    for name in ("lower", "upper", "index"):
        (world / name).mkdir()
    layers = f"lowerdir={world / 'lower'},upperdir={world / 'upper'},workdir={world / 'index'}"
    run("mount", "-t", "overlay", "-o", layers, "overlay", path)


def _on_disk(fs_type: str) -> Making:
    def make(world: World, path: str) -> None:
        with disks(world) as disk:
            run("mount", "-t", fs_type, disk(fs_type), path)

    return make


def _idmapped(world: World, path: str) -> None:
    (world / "below").mkdir()
    folder, name = os.path.split(path)
    with (
        _looking_at(str(world / "below")) as source,
        _looking_at(folder) as parent,
        make_user_namespace(Idmapping(swap(0, 1000), swap(0, 1000))) as userns,
        open_tree(source) as tree,
    ):
        mount_setattr(tree, set_=MOUNT_ATTR_IDMAP, userns=userns)
        move_mount(tree, parent, name)


@contextmanager
def _looking_at(path: str) -> Iterator[Fd]:
    with Fd(os.open(path, os.O_PATH | os.O_CLOEXEC)) as source:
        yield source


def _why_not(path: str, fs_type: str) -> Fault | None:
    """The answer; nothing is left behind by asking."""
    swapped = Idmapping(swap(501, 1000), swap(20, 1000))
    files, mounts = len(os.listdir("/proc/self/fd")), mount_table()
    with _looking_at(path) as source, make_user_namespace(swapped) as userns:
        answer = why_no_idmap(source, fs_type, userns)
    assert len(os.listdir("/proc/self/fd")) == files
    assert mount_table() <= mounts
    return answer


@pytest.fixture
def place(world: World) -> str:
    (world / "source").mkdir()
    return str(world / "source")


@pytest.mark.parametrize(
    ("fs_type", "make"),
    [
        ("tmpfs", _mounted("tmpfs")),
        ("tmpfs", _mounted("tmpfs", "-o", "ro")),
        ("tmpfs", _idmapped),
        pytest.param("ext4", _on_disk("ext4"), marks=needs_loop),
        pytest.param("xfs", _on_disk("xfs"), marks=needs_loop),
    ],
    ids=["tmpfs", "read-only", "idmapped", "ext4", "xfs"],
)
def test_a_filesystem_that_takes_it_has_no_reason(
    world: World, place: str, fs_type: str, make: Making
) -> None:
    make(world, place)
    assert _why_not(place, fs_type) is None


def test_a_file_is_as_good_as_a_folder(world: World) -> None:
    (world / "file").touch()
    assert _why_not(str(world / "file"), "tmpfs") is None


@pytest.mark.parametrize(
    ("fs_type", "make", "hint"),
    [
        ("overlay", _overlay, "lowerdir"),
        ("proc", _mounted("proc"), "ext4, xfs, btrfs or tmpfs"),
        ("ramfs", _mounted("ramfs"), "ext4, xfs, btrfs or tmpfs"),
        pytest.param("ext2", _on_disk("ext2"), "mount the device as ext4", marks=needs_loop),
        pytest.param("ext3", _on_disk("ext3"), "mount the device as ext4", marks=needs_loop),
    ],
)
def test_a_filesystem_that_refuses_is_named_with_a_way_out(
    world: World, place: str, fs_type: str, make: Making, hint: str
) -> None:
    make(world, place)
    fault = _why_not(place, fs_type)
    version = ".".join(os.uname().release.split(".")[:2])
    assert fault and (fault.state, fault.code) == ("failed", "filesystem-refuses")
    assert fault.message == f"{fs_type} refuses idmapped mounts (Linux {version})"
    assert fault.hint and hint in fault.hint


@pytest.mark.fault(30, "none that allows idmapped mounts")
def test_a_fuse_server_that_does_not_grant_it_is_what_refuses(world: World, place: str) -> None:
    (world / "below").mkdir()
    wait = f"until mountpoint -q {place}; do kill -0 $! || exit; done"
    script = f"bindfs -f {world / 'below'} {place} & {wait}"
    with running("sh", "-c", f"{script}; echo; read _; umount {place}; wait"):
        fault = _why_not(place, "fuse")
    assert fault and fault.code == "filesystem-refuses"
    assert fault.hint and "server has to grant it" in fault.hint


@pytest.mark.parametrize(
    ("fs_type", "version", "side", "hint"),
    [
        ("tmpfs", (6, 1), "this kernel is too old", "tmpfs needs Linux 6.3,"),
        ("fuse.bindfs", (6, 8), "this kernel", "fuse.bindfs needs Linux 6.12 and a server that"),
        ("virtiofs", (6, 1), "this kernel", "virtiofs needs Linux 6.12 and a server that grants"),
        ("virtiofs", (6, 12), "the host's server is too old", "virtiofsd does from 1.13 on"),
        ("tmpfs", (6, 3), "(Linux 6.3)", "keep the source on"),
        ("nfs", (6, 1), "(Linux 6.1)", "keep the source on"),
    ],
)
def test_the_side_that_is_too_old_is_named_and_the_version_that_is_not(
    fs_type: str, version: tuple[int, int], side: str, hint: str
) -> None:
    fault = idmap_faults.filesystem_refuses(fs_type, version)
    assert side in fault.message
    assert fault.hint and hint in fault.hint


def test_an_unbindable_source_is_no_matter_of_idmapping(place: str) -> None:
    run("mount", "-t", "tmpfs", "tmpfs", place)
    run("mount", "--make-unbindable", place)
    with pytest.raises(VolumeError) as caught:
        _why_not(place, "tmpfs")
    assert caught.value.fault.code == "mount-refused"
    assert place in caught.value.fault.message


def test_a_namespace_that_no_filesystem_takes_is_not_blamed_on_this_one(place: str) -> None:
    with (
        running("unshare", "--user", "sh", "-c", "echo; read _") as holder,  # maps nothing
        Fd(os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)) as userns,
        _looking_at(place) as source,
        pytest.raises(OSError, match="no filesystem takes"),
    ):
        why_no_idmap(source, "tmpfs", userns)


# In other surroundings: asked by a program that runs in them

_ASK = """
import json, os, sys
from mountd.kernel.probe import *
from mountd.kernel.syscalls import Fd
from mountd.kernel.userns import *
path, fs_type, root = sys.argv[1:]
if root != "/":
    os.chroot(root)
fault = None
try:
    with make_user_namespace(known_ids()) as userns, Fd(os.open(path, os.O_PATH)) as source:
        fault = why_no_idmap(source, fs_type, userns)
except UserNamespaceError as error:
    fault = why_no_namespace(error)
print(json.dumps([fault, has_mount_setattr(), has_beneath(), has_open_tree_attr()]))
"""


class Answer(NamedTuple):
    code: str | None
    message: str
    hint: str
    has_mount_setattr: bool
    has_beneath: bool
    has_open_tree_attr: bool


def _ask(*around: str, path: str, fs_type: str = "tmpfs", root: str = "/") -> Answer:
    ours = str(Path(mountd.__file__).parent.parent)
    done = subprocess.run(
        [*around, sys.executable, "-c", _ASK, path, fs_type, root],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ours},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    fault, *has = json.loads(done.stdout)
    return Answer(*(fault[1:4] if fault else (None, "", "")), *has)


AS_USER = ("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--inh-caps=-all")


@pytest.mark.fault(45, "told apart from all else")
@pytest.mark.fault(46, "ENOSYS and EPERM")
@pytest.mark.parametrize(
    ("around", "code", "message"),
    [
        (NO_IDMAPPING.command(), "seccomp", "a seccomp filter stops mount_setattr"),
        (FILTERED.command(), "seccomp", "a seccomp filter stops mount_setattr"),
        (
            ["setarch", "--uname-2.6", *NO_IDMAPPING.command()],
            "kernel-too-old",
            "this kernel is too old: 2.6, idmapped mounts need 5.12",
        ),
        (
            ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"],
            "not-privileged",
            "not permitted: CAP_SYS_ADMIN is missing",
        ),
        (
            ["setpriv", "--bounding-set=-setuid,-setfcap", "--inh-caps=-setuid,-setfcap"],
            "not-privileged",
            "not permitted: CAP_SETUID and CAP_SETFCAP are missing",
        ),
        (
            ["unshare", "--user", "--map-root-user"],
            "not-privileged",
            "not permitted: the mount namespace belongs to another user namespace than ours",
        ),
        (
            ["unshare", "--user", "--map-root-user", "--mount"],
            "not-privileged",
            idmap_faults.foreign_filesystem("tmpfs").message,
        ),
        ([], None, ""),
        (DEBIAN_12.command(), None, ""),
        (DEBIAN_13.command(), None, ""),
    ],
    ids=[
        "enosys", "eperm", "too-old", "no-sys-admin", "no-setuid", "no-mount-namespace",
        "container", "ours", "debian-12", "debian-13",
    ],
)  # fmt: skip
def test_what_stops_us_is_told_apart(
    place: str, around: list[str], code: str | None, message: str
) -> None:
    run("mount", "-t", "tmpfs", "tmpfs", place)
    found = _ask(*around, path=place)
    assert (found.code, found.message) == (code, message)
    assert found.hint or not code


def test_a_container_may_idmap_what_it_mounted_itself(place: str) -> None:
    script = f'mount -t tmpfs tmpfs {place} && exec "$@"'
    container = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh")
    assert _ask(*container, path=place).code is None


def test_before_6_15_a_source_that_is_idmapped_is_told_from_a_foreign_one(
    world: World, place: str
) -> None:
    _idmapped(world, place)
    found = _ask(*DEBIAN_13.command(), path=place)
    assert found.code == "source-is-idmapped"
    assert place in found.message
    assert _ask(*DEBIAN_12.command(), path=place).code == "source-is-idmapped"


@pytest.mark.parametrize(
    ("around", "calls"),
    [
        ((), (True, True, True)),
        (AS_USER, (True, True, True)),
        (DEBIAN_13.command(), (True, True, False)),
        (DEBIAN_12.command(), (True, False, False)),
        (NO_IDMAPPING.command(), (False, False, False)),
        (FILTERED.command(), (False, True, False)),
        (DEBIAN_12.command(*AS_USER), (True, False, False)),
    ],
    ids=["ours", "user", "debian-13", "debian-12", "no-idmapping", "filtered", "user-debian-12"],
)
def test_calls_are_found_by_trying_them(
    place: str, around: Sequence[str], calls: tuple[bool, ...]
) -> None:
    let_users_reach(sys.executable, os.path.realpath(sys.executable), sys.base_prefix, __file__)
    found = _ask(*around, path=place)
    assert found[3:] == calls


# No user namespace


PID_1 = ("unshare", "--pid", "--mount", "--fork", "sh", "-c")


@pytest.mark.fault(5, "in a folder, and in a mount")
@pytest.mark.parametrize(
    ("is_mount", "around"),
    [(False, ("sh", "-c")), (True, PID_1)],
    ids=["folder", "mount"],  # of which pid 1 has the rest in sight
)
def test_a_chroot_is_told_from_a_missing_capability(
    world: World, place: str, is_mount: bool, around: Sequence[str]
) -> None:
    inner = world / "root"
    inner.mkdir()
    if is_mount:
        run("mount", "-t", "tmpfs", "tmpfs", str(inner))
    (inner / "proc").mkdir()
    script = f'mount -t proc proc {inner}/proc && "$@"; exit'
    found = _ask(*around, script, "sh", path=place, root=str(inner))
    assert found.code == "not-privileged"
    assert found.message == "no user namespace can be made for the idmapping inside a chroot"


@pytest.mark.fault(4, "none, and as many as there may be")
@pytest.mark.parametrize(
    ("limit", "said"), [(0, "is 0"), (1, "no more user namespaces")], ids=["none", "reached"]
)
def test_a_limit_on_user_namespaces_is_named(place: str, limit: int, said: str) -> None:
    script = f"""
        echo {limit} >/proc/sys/user/max_user_namespaces
        if [ {limit} = 1 ]; then
            mkfifo {place}/made
            unshare --user sh -c 'echo >{place}/made; exec sleep 60' &
            trap "kill $!" EXIT
            read _ <{place}/made
        fi
        "$@"
    """
    run("mount", "-t", "proc", "proc", "/proc")  # a container's manager may have made it read-only
    container = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh")
    found = _ask(*container, path=place)
    assert found.code == "limit"
    assert said in found.message
    assert "user.max_user_namespaces" in found.hint
