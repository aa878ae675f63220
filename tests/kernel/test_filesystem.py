"""A filesystem made into a mount: what the kernel takes, and what is said where it doesn't."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from errno import EINVAL
from pathlib import Path
from typing import Any

import pytest
from golden import GOLDEN
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from world import World, disks, mount_table, run

from mountd.core.idmapping import Idmapping, swap
from mountd.core.model import Fault
from mountd.core.words.faults import VolumeError
from mountd.kernel.cause import fault_of
from mountd.kernel.filesystem import make_filesystem
from mountd.kernel.mount_api import MOUNT_ATTR_IDMAP, mount_setattr
from mountd.kernel.syscalls import Fd
from mountd.kernel.trusted import UnsafeLinkError
from mountd.kernel.userns import make_user_namespace

Disk = Callable[..., str]
REFUSALS = GOLDEN / "filesystem-refusals.txt"
needs_loop = pytest.mark.needs_loop
SWAPPED = Idmapping(swap(501, 1000), swap(20, 1000))


@pytest.fixture(autouse=True)
def waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the child that a pass has make filesystems: it may wait for what lies on a path."""
    monkeypatch.setattr("mountd.kernel.filesystem.may_wait", lambda: True)


@pytest.fixture
def disk(world: World) -> Iterator[Disk]:
    with disks(world) as make:
        yield make


def layers(world: World) -> list[str]:
    """The options of an overlay of three folders, one with a comma in its name."""
    for name in ("low,er", "lowest", "upper", "work"):
        (world / name).mkdir()
    lower = f"lowerdir={world / 'low,er'}:{world / 'lowest'}"
    return [lower, f"upperdir={world / 'upper'}", f"workdir={world / 'work'}"]


def owner_in(tree: Fd, name: str) -> tuple[int, int]:
    found = os.stat(name, dir_fd=tree.number)
    return found.st_uid, found.st_gid


def write_in(tree: Fd, name: str) -> None:
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=tree.number))
    os.chown(name, 501, 20, dir_fd=tree.number)


@pytest.mark.parametrize(
    ("fs_type", "is_idmappable"),
    [
        ("tmpfs", True),
        ("ramfs", False),
        ("overlay", False),
        pytest.param("ext4", True, marks=needs_loop),
        pytest.param("ext3", False, marks=needs_loop),
        pytest.param("ext2", False, marks=needs_loop),
        pytest.param("xfs", True, marks=needs_loop),
        pytest.param("btrfs", True, marks=needs_loop),
        pytest.param("erofs", True, marks=needs_loop),
        pytest.param("squashfs", True, marks=needs_loop),
    ],
)
def test_each_filesystem_shows_its_files_and_is_idmapped_or_refuses(
    world: World, disk: Disk, fs_type: str, *, is_idmappable: bool
) -> None:
    before = world.mounts()
    is_on_disk = fs_type not in ("tmpfs", "ramfs", "overlay")
    source = disk(fs_type) if is_on_disk else "none"
    options = layers(world) if fs_type == "overlay" else []
    with (
        make_filesystem(fs_type, source, options).mount as tree,
        make_user_namespace(SWAPPED) as userns,
    ):
        if not is_on_disk:
            write_in(tree, "hello")
        flags = os.fstatvfs(tree.number).f_flag
        assert flags & os.ST_NOSUID and flags & os.ST_NODEV
        assert owner_in(tree, "hello") == (501, 20)
        if is_idmappable:
            mount_setattr(tree, set_=MOUNT_ATTR_IDMAP, userns=userns)
            assert owner_in(tree, "hello") == (1000, 1000)
        else:
            with pytest.raises(OSError, match=os.strerror(EINVAL)):
                mount_setattr(tree, set_=MOUNT_ATTR_IDMAP, userns=userns)
    assert world.mounts() == before


def test_options_are_keys_with_values_or_words(world: World) -> None:
    del world
    with make_filesystem(
        "tmpfs", "none", ["size=1m", "mode=710", "uid=5", "gid=6", "ro"]
    ).mount as tree:
        root = os.fstat(tree.number)
        assert (root.st_mode & 0o7777, root.st_uid, root.st_gid) == (0o710, 5, 6)
        room = os.fstatvfs(tree.number)
        assert room.f_frsize * room.f_blocks == 1 << 20
        with pytest.raises(OSError, match="Read-only file system"):
            write_in(tree, "hello")


def test_a_key_ends_at_the_first_equals_sign_and_a_value_keeps_the_rest(world: World) -> None:
    (world / "a=b,c").mkdir()
    (world / "a=b,c/hello").touch()
    (world / "lowest").mkdir()
    options = [f"lowerdir+={world / name}" for name in ("a=b,c", "lowest")]
    with make_filesystem("overlay", "overlay", options).mount as tree:
        assert os.stat("hello", dir_fd=tree.number)


@needs_loop
def test_a_subvolume_is_chosen_by_an_option(world: World, disk: Disk) -> None:
    device = disk("btrfs")
    (world / "top").mkdir()
    run("mount", "-t", "btrfs", device, str(world / "top"))
    run("btrfs", "subvolume", "create", str(world / "top/sub"))
    (world / "top/sub/hello").touch()
    with make_filesystem("btrfs", device, ["subvol=/sub"]).mount as tree:
        assert os.listdir(f"/proc/self/fd/{tree.number}") == ["hello"]


@needs_loop
def test_a_device_mounted_already_shares_its_superblock_whatever_the_options(disk: Disk) -> None:
    device = disk("ext4")
    with (
        make_filesystem("ext4", device, []).mount as one,
        make_filesystem("ext4", device, ["data=journal", "noload"]).mount as other,
    ):
        write_in(one, "hello")
        assert os.stat("hello", dir_fd=other.number)
        assert os.fstat(one.number).st_dev == os.fstat(other.number).st_dev


@needs_loop
def test_links_that_root_made_lead_to_a_device(world: World, disk: Disk) -> None:
    (world / "by-label").symlink_to(disk("ext4"))
    make_filesystem("ext4", str(world / "by-label"), []).mount.close()


def refusal(fs_type: str, source: str, *options: str) -> Fault:
    """Why a filesystem can't be made; nothing of the attempt is left open or mounted."""
    files, mounts = os.listdir("/proc/self/fd"), mount_table()
    try:
        make_filesystem(fs_type, source, options)
    except (VolumeError, UnsafeLinkError) as error:
        fault = fault_of(error, f"mount the {fs_type} of {source}")
    else:
        pytest.fail("it was made")
    assert os.listdir("/proc/self/fd") == files
    assert mount_table() <= mounts
    return fault


def refusals() -> list[Any]:
    """Each attempt of the golden file with what is said; `$ext4` is a device made as such."""
    entries = [entry.split("\n", 1) for entry in REFUSALS.read_text().strip().split("\n\n")]
    return [
        pytest.param(attempt, said, id=attempt[:40], marks=[needs_loop] if "$" in attempt else [])
        for attempt, said in entries
    ]


@pytest.mark.parametrize(("attempt", "said"), refusals())
def test_each_refusal_says_what_the_kernel_said(
    world: World, disk: Disk, attempt: str, said: str, pytestconfig: pytest.Config
) -> None:
    world.write("version = 1")
    os.mknod(world / "undriven", 0o60600, os.makedev(250, 77))  # a number for local use
    (world / "user-link").symlink_to("/dev/null")
    os.chown(world / "user-link", 1000, 1000, follow_symlinks=False)
    fs_type, source, *options = attempt.split()
    name = "$"
    if source.startswith("$"):
        source = disk(*source[1:].split(":"))
        name = source.removeprefix("/dev/")
    fault = refusal(fs_type, source, *options)
    told = f"    {fault.state}, {fault.code}: {fault.message}\n    {fault.hint}".replace(name, "$")
    if pytestconfig.getoption("update_golden"):
        changed = REFUSALS.read_text().replace(f"{attempt}\n{said}", f"{attempt}\n{told}")
        REFUSALS.write_text(changed)
    else:
        assert told == said


@needs_loop
def test_a_device_that_something_else_has_is_busy(disk: Disk) -> None:
    device = disk("ext4")
    with make_filesystem("ext4", device, []).mount:
        fault = refusal("xfs", device)
    assert (fault.state, fault.code) == ("failed", "busy")
    said = f"{device}: Can't open blockdev (Device or resource busy)"
    assert fault.message == f"xfs can't be mounted from {device}: {said}"
    assert f"`findmnt {device}`" in (fault.hint or "")


@needs_loop
@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        ([], ["ro"], "is mounted already, to be written, and `options` have `ro`"),
        (["ro"], [], "is mounted already, read-only, and `options` don't have `ro`"),
    ],
)
def test_a_device_that_is_mounted_otherwise_is_busy(
    disk: Disk, there: list[str], here: list[str], said: str
) -> None:
    device = disk("ext4")
    with make_filesystem("ext4", device, there).mount:
        fault = refusal("ext4", device, *here)
    assert (fault.state, fault.code, fault.message) == ("failed", "busy", f"{device} {said}")


@needs_loop
def test_a_filesystem_says_whether_it_was_mounted_already(disk: Disk) -> None:
    device = disk("ext4")
    first = make_filesystem("ext4", device, [])
    with first.mount:
        second = make_filesystem("ext4", device, [])
        second.mount.close()
    assert (first.is_shared, second.is_shared) == (False, True)


@needs_loop
@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
def test_a_read_only_device_is_mounted_where_the_options_say_so(disk: Disk, fs_type: str) -> None:
    device = disk(fs_type, "--read-only")
    assert refusal(fs_type, device).code == "read-only-filesystem"
    make_filesystem(fs_type, device, ["ro"]).mount.close()


WITHOUT_ADMIN = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"]
IN_CONTAINER = ["unshare", "--user", "--map-root-user", "--mount", "--"]


@needs_loop
@pytest.mark.parametrize(
    ("around", "said"),
    [
        (WITHOUT_ADMIN, "the kernel doesn't let us mount ext4: it takes CAP_SYS_ADMIN"),
        (IN_CONTAINER, "ext4 can't be mounted from $: Operation not permitted"),
    ],
    ids=["without CAP_SYS_ADMIN", "in a container"],
)
def test_who_may_not_mount_is_told_so(disk: Disk, around: list[str], said: str) -> None:
    device = disk("ext4")
    script = "from kernel import test_filesystem as t"
    script += f"; print(*t.refusal('ext4', {device!r})[:3], sep='|')"
    program = [*around, sys.executable, "-c", script]
    done = subprocess.run(
        program, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1]
    )
    assert done.stdout.strip() == f"failed|not-privileged|{said}".replace("$", device), done.stderr


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=300)))
@example(["size=" + "1" * 251])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("namespace")
def test_whatever_the_options_there_is_a_mount_or_a_refusal_that_names_one(
    options: list[str],
) -> None:
    before = os.listdir("/proc/self/fd")
    fault = None
    try:
        make_filesystem("tmpfs", "none", options).mount.close()
    except VolumeError as error:
        fault = error.fault
    assert os.listdir("/proc/self/fd") == before
    if fault:
        assert fault.code == "mount-refused"
        assert any(f"`{each[:79]}" in fault.message for each in options)
