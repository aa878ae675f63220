"""The mount table as text: the very values that statmount(2) tells, whatever the names."""

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from itertools import product
from pathlib import Path
from typing import Any, ParamSpec

import pytest
from hypothesis import given
from hypothesis import strategies as st
from old_kernel import DEBIAN_12, DEBIAN_13, FILTERED, Kernel
from world import World, disks, run

from mountd.core.idmapping import Idmapping, swap
from mountd.core.model import Flags
from mountd.core.mountinfo import parse_children, parse_mount, parse_mountinfo, unescape
from mountd.core.mounts import ObservedMount
from mountd.kernel.mount_api import (
    MOUNT_ATTR__ATIME,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    mount_setattr,
    move_mount,
    open_tree,
)
from mountd.kernel.observe import ATIMES, children_of, mountinfo, observe, top_at
from mountd.kernel.statmount import listmount, statmount
from mountd.kernel.syscalls import Fd
from mountd.kernel.userns import make_user_namespace

NAMES = [
    b"plain",
    b"a space",
    b"tab\there",
    b"new\nline",
    rb"back\slash",
    rb"looks\040escaped",
    b"# hash",
    b"return\rfeed\x0b\x0c\x1c",
    b"caf\xe9 that is no UTF-8",
    "é\u2028\u00a0\u0085".encode(),
    b"-",
    b"x" * 255,
]
ATTRIBUTES = (MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC)

LOOK = """
import json, os, sys
from mountd.kernel.observe import children_of, is_at, is_mounted, observe, observe_mount, top_at
mounts, _, tells_idmaps = observe()[:3]
print(json.dumps([
    tells_idmaps,
    list(mounts.values()),
    [observe_mount(each) for each in mounts],
    [[each, [child.id for child in children_of(each)]] for each in mounts],
    [[point, top_at(point)] for point in sys.argv[1:]],
    [is_at(mount.point, mount.id) for mount in mounts.values()],
    [is_mounted(1 << 40), all(map(is_mounted, mounts))],
]))
"""


def look(kernel: Kernel, *points: str) -> list[Any]:
    """What another process sees of the mount table, as if on this kernel."""
    found: list[Any] = json.loads(run(*kernel.command(sys.executable, "-c", LOOK, *points)))
    return found


def as_json(value: object) -> Any:
    return json.loads(json.dumps(value))


def bind(source: Path, target: Path, set_: int = 0, userns: Fd | None = None) -> None:
    """Mount a clone with these attributes and no others."""
    with (
        Fd(os.open(source, os.O_PATH)) as file,
        Fd(os.open(target.parent, os.O_PATH)) as above,
        open_tree(file) as tree,
    ):
        clear = MOUNT_ATTR__ATIME | sum(ATTRIBUTES)
        mount_setattr(tree, set_=set_, clear=clear, userns=userns)
        move_mount(tree, above, target.name)


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


P = ParamSpec("P")


def undisturbed(test: Callable[P, None]) -> Callable[P, None]:
    """Have a test of the whole mount table pass once while that stays as it is.

    A mount of the machine's goes in every namespace when somebody removes the folder it lies on.
    """

    @wraps(test)
    def until_it_is(*arguments: P.args, **named: P.kwargs) -> None:
        while True:
            before = mountinfo()
            try:
                return test(*arguments, **named)
            except (AssertionError, KeyError, OSError):
                if mountinfo() == before:
                    raise

    return until_it_is


@pytest.fixture
def furnished(world: World) -> World:
    """A world whose mount table has all that is odd."""
    for number, name in enumerate(map(os.fsdecode, NAMES)):
        bind(folder(world / f"sources/{name}"), folder(world / f"points/{number}"))
        bind(folder(world / f"sources/{number}"), folder(world / f"points/{name}"))
    for bits in product(*((0, bit) for bit in ATTRIBUTES), ATIMES.values()):
        bind(world / "sources", folder(world / f"flags/{sum(bits)}"), sum(bits))
    file, target = world / "file", world / "saved"
    for each in (file, world / "file.new", target, world / "single"):
        each.touch()
    bind(file, world / "single")
    bind(world / "file.new", target)
    (world / "file.new").unlink()
    for options in ("ro", "ro,noexec", "rw"):
        run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder(world / options)))
    run("mount", "-t", "tmpfs", "-o", "X-mount.mkdir", "", str(world / "no source"))
    lower, upper = folder(world / "lower"), folder(world / "lower/upper")
    for point in (lower, upper, upper, lower):  # the second and the third can't be seen
        point.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "tmpfs", str(point))
    with make_user_namespace(Idmapping(swap(501, 1000), swap(20, 1000))) as userns:
        bind(world / "sources", folder(world / "mapped"), MOUNT_ATTR_IDMAP, userns)
    with open("/dev/fuse", "r+b", buffering=0) as server:  # that never answers
        folder(world / "fuse")
        options = f"fd={server.fileno()},rootmode=40000,user_id=0,group_id=0"
        words = ["mount", "-i", "-t", "fuse.odd", "-o", options, "odd", str(world / "fuse")]
        os.set_inheritable(server.fileno(), True)
        assert os.spawnvp(os.P_WAIT, words[0], words) == 0
    return world


def told_by_statmount() -> dict[int, ObservedMount]:
    """The mount table as statmount tells it, by the ids of mountinfo."""
    stats = {each.id: each for each in map(statmount, listmount())}
    ids = {each.id: each.reusable_id for each in stats.values()}
    return {
        ids[each.id]: each._replace(id=ids[each.id], parent=ids.get(each.parent, -1), idmap=None)
        for each in observe().mounts.values()
    }


def known(mount: ObservedMount, table: dict[int, ObservedMount]) -> ObservedMount:
    """The parent of the root's own mount can't be seen by statmount."""
    return mount if mount.parent in table else mount._replace(parent=-1)


@undisturbed
def test_the_text_tells_what_statmount_tells(furnished: World) -> None:
    world, text, table = furnished, mountinfo(), told_by_statmount()
    found = {mount.id: known(mount, table) for mount, _ in parse_mountinfo(text)}
    assert found == table
    each_alone = [parse_mount(text, each) for each in table]
    assert [mount and known(mount, table) for mount in each_alone] == list(table.values())
    assert parse_mount(text, 999999) is None
    assert list(parse_children(text, 999999)) == []
    for parent in table:
        below = [mount for mount in found.values() if mount.parent == parent]
        assert list(parse_children(text, parent)) == below
    # and the table has what it is meant to have
    points = {mount.point for mount in found.values()}
    assert {f"{world.path}/points/{os.fsdecode(name)}" for name in NAMES} <= points
    roots = {mount.root for mount in found.values()}
    assert {f"/sources/{os.fsdecode(name)}" for name in NAMES} <= roots
    assert {"/file", "/file.new//deleted"} <= roots
    assert {mount.flags for mount in found.values()} >= {
        Flags._make(each) for each in product(*[(False, True)] * 4, ATIMES)
    }
    read_only = {mount.point for mount in found.values() if mount.is_fs_read_only}
    assert {f"{world.path}/ro", f"{world.path}/ro,noexec"} <= read_only
    assert f"{world.path}/rw" in points - read_only
    assert [m.point for m in found.values() if m.is_idmapped] == [f"{world.path}/mapped"]
    assert [m.fs_type for m in found.values() if m.point == f"{world.path}/fuse"] == ["fuse"]
    lowers = [mount for mount in found.values() if mount.point.startswith(f"{world.path}/lower")]
    assert len(lowers) == 4
    assert len({mount.parent for mount in lowers}) == 3  # two lie on one: below it, and over it


@pytest.mark.parametrize("kernel", [DEBIAN_12, FILTERED], ids=lambda kernel: kernel.name)
@undisturbed
def test_a_kernel_without_statmount_is_observed_alike(furnished: World, kernel: Kernel) -> None:
    world, table = furnished, told_by_statmount()
    points = [world.path, f"{world.path}/lower", f"{world.path}/saved", f"{world.path}/sources"]
    told = look(kernel, *points)
    tells_idmaps, mounts, one_by_one, children, tops, are_at, are_mounted = told
    assert not tells_idmaps
    roots = {mount.id for mount in table.values() if mount.parent == -1}
    assert [mount for mount in mounts if mount[0] not in roots] == as_json(
        [table[id_] for id_, *_ in mounts if id_ not in roots]
    )
    assert {id_ for id_, *_ in mounts} == table.keys()
    assert one_by_one == mounts
    ids = {each.id: each.reusable_id for each in map(statmount, listmount())}
    assert sorted((parent, sorted(below)) for parent, below in children) == sorted(
        (ids[each], sorted(ids[child.id] for child in children_of(each))) for each in ids
    )
    expected = [(point, top_at(point)) for point in points]
    assert tops == as_json(
        [(point, top and top._replace(id=ids[top.id])) for point, top in expected]
    )
    uppermost = {ids[top.id] for mount in table.values() if (top := top_at(mount.point))}
    assert [id_ for (id_, *_), is_at in zip(mounts, are_at, strict=True) if is_at] == [
        id_ for id_, *_ in mounts if id_ in uppermost
    ]
    assert are_mounted == [False, True]


@undisturbed
def test_a_kernel_that_tells_no_maps_still_tells_what_is_idmapped(furnished: World) -> None:
    table, before = told_by_statmount(), observe()
    assert before.tells_idmaps
    tells_idmaps, mounts, *_ = look(DEBIAN_13)
    assert not tells_idmaps
    assert mounts == as_json([each._replace(idmap=None) for each in before.mounts.values()])
    mapped = [each.point for each in table.values() if each.is_idmapped]
    assert mapped == [f"{furnished.path}/mapped"]


@pytest.mark.needs_loop
def test_a_subvolume_is_told_alike(world: World) -> None:
    with disks(world) as make:
        run("mount", make("btrfs"), str(folder(world / "disk")))
        run("btrfs", "subvolume", "create", str(world / "disk/inner"))
        folder(world / "disk/inner/folder")
        bind(world / "disk/inner/folder", folder(world / "point"))
        (found,) = [m for m, _ in parse_mountinfo(mountinfo()) if m.point == f"{world.path}/point"]
        (told,) = [m for m in observe().mounts.values() if m.point == f"{world.path}/point"]
        assert found == told._replace(id=found.id, parent=found.parent)
        assert found.root == "/inner/folder"
        run("umount", str(world / "point"), str(world / "disk"))


def escaped(word: str) -> str:
    """As seq_file's mangle_path does it."""
    return "".join(f"\\{ord(each):03o}" if each in " \t\n\\#" else each for each in word)


names = st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name).map(os.fsdecode)


@given(names)
def test_what_is_escaped_comes_back(name: str) -> None:
    assert unescape(escaped(name)) == name


@given(
    names,
    names,
    st.lists(st.from_regex(r"[a-z_]{1,9}(:[0-9]{1,4})?", fullmatch=True)),
    st.sampled_from(["", "tmpfs", "-", "a\\040b"]),
    st.sampled_from(["rw", "ro", "ro,size=4k,mode=755", "rw,ro=x", "ro,a 7 c"]),
)
def test_a_line_is_read_whatever_its_optional_fields(
    point: str, root: str, tags: list[str], source: str, options: str
) -> None:
    words = ["7", "3", "8:300", escaped(root), escaped(point), "rw,nodev,odd", *tags, "-"]
    text = f"70 3 0:1 / / rw - tmpfs t rw\n{' '.join([*words, 'ext4', source, options])}\n"
    (_, (mount, found_tags)) = parse_mountinfo(text)
    assert mount == parse_mount(text, 7)
    flags = Flags(False, False, True, False, "strictatime")
    is_read_only = options.startswith("ro")
    device = os.makedev(8, 300)
    assert mount == ObservedMount(7, 3, point, root, "ext4", device, flags, is_read_only, None)
    assert found_tags == set(tags)
    assert list(parse_children(text, 7)) == []


@given(st.integers(0, 4095), st.integers(0, 1048575))
def test_a_device_has_the_number_that_stat_gives_it(major: int, minor: int) -> None:
    line = f"7 3 {major}:{minor} / / rw - tmpfs t rw"
    assert [mount.device for mount, _ in parse_mountinfo(line)] == [os.makedev(major, minor)]
