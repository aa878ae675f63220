"""`mountd check --system`: what the system allows, and what follows where it doesn't."""

from collections.abc import Sequence
from typing import Any

import pytest
from old_kernel import DEBIAN_12, DEBIAN_13, FILTERED, NO_IDMAPPING, Kernel
from world import MOUNTD, World, mount_table, run, running


def _system(world: World, *around: str, **how: Any) -> dict[str, dict[str, Any]]:
    """The document's rows by name; `around`: the command that runs it."""
    words = ["check", "--system", "--json"]
    result = world.run([*around, MOUNTD, *words]) if around else world.mountd(*words, **how)
    assert (result.status, result.err) == (0, "")
    assert (result.document["version"], result.document["errors"]) == (1, [])
    rows = result.document["system"]
    for each in rows:
        assert each.keys() == {"group", "name", "allowed", "consequence"}
        assert (each["consequence"] is None) == (each["allowed"] is True)
    assert len({each["name"] for each in rows}) == len(rows)
    return {each["name"]: each for each in rows}


def _refused(system: dict[str, dict[str, Any]], group: str) -> set[str]:
    rows = system.items()
    return {name for name, row in rows if row["group"] == group and row["allowed"] is False}


def test_this_kernel_and_root_are_allowed_everything(world: World) -> None:
    system = _system(world)
    assert {each["group"] for each in system.values()} == {"kernel", "filesystems", "privileges"}
    assert _refused(system, "kernel") == set()
    assert _refused(system, "privileges") <= {"mount namespace of pid 1"}


@pytest.mark.fault(46, "call by call")
@pytest.mark.parametrize(
    ("kernel", "refused"),
    [
        (DEBIAN_13, {"open_tree_attr": "in place has a gap"}),
        (
            DEBIAN_12,
            {
                "open_tree_attr": "in place has a gap",
                "MOVE_MOUNT_BENEATH": "has a gap",
                "statmount": "ids that the kernel reuses",
                "listmount": "ids that the kernel reuses",
            },
        ),
        (
            NO_IDMAPPING,
            {
                "open_tree_attr": "in place has a gap",
                "MOVE_MOUNT_BENEATH": "has a gap",
                "statmount": "ids that the kernel reuses",
                "listmount": "ids that the kernel reuses",
                "mount_setattr": "mounted with raw ids",
            },
        ),
        (
            FILTERED,
            {
                "open_tree_attr": "in place has a gap",
                "statmount": "ids that the kernel reuses",
                "listmount": "ids that the kernel reuses",
                "mount_setattr": "mounted with raw ids",
            },
        ),
    ],
    ids=lambda each: each.name if isinstance(each, Kernel) else "",
)
def test_a_call_that_is_stopped_says_by_what_and_what_follows(
    world: World, kernel: Kernel, refused: dict[str, str]
) -> None:
    system = _system(world, kernel=kernel)
    assert _refused(system, "kernel") == refused.keys()
    for name, effect in refused.items():
        assert effect in system[name]["consequence"]
        assert "a seccomp filter stops it" in system[name]["consequence"]
    assert system["every system call"]["allowed"] is None


def test_an_old_kernel_is_told_by_the_version_to_come(world: World) -> None:
    command = ["setarch", "--uname-2.6", *NO_IDMAPPING.command()]
    row = _system(world, *command)["mount_setattr"]
    assert row["consequence"] == "mounted with raw ids (needs Linux 5.12)"


def test_filesystems_are_tried_where_they_are_mounted(world: World) -> None:
    for name in ("refuses", "takes", "covered", "unbindable"):
        (world / name).mkdir()
    run("mount", "-t", "ramfs", "ramfs", str(world / "refuses"))
    for name in ("takes", "covered", "covered", "unbindable"):
        run("mount", "-t", "tmpfs", "tmpfs", str(world / name))
    run("mount", "--make-unbindable", str(world / "unbindable"))
    system = _system(world)
    refuses = system[f"ramfs at {world / 'refuses'}"]
    assert refuses["allowed"] is False
    assert refuses["consequence"].startswith("mounted with raw ids: ramfs refuses idmapped mounts")
    unbindable = system[f"tmpfs at {world / 'unbindable'}"]
    assert unbindable["allowed"] is False
    assert "unbindable" in unbindable["consequence"]
    takes = [name for name, row in system.items() if "tmpfs" in name and row["allowed"]]
    assert len(takes) == 1 and takes[0].endswith("more")  # all that answer alike, in one row
    covered = [row for row in system.values() if "other mounts cover it" in f"{row['consequence']}"]
    assert {row["allowed"] for row in covered} == {None}  # the machine may have some of its own


def test_a_filesystem_in_one_that_hangs_costs_its_own_row_only(world: World) -> None:
    below, fuse = world / "below", world / "fuse"
    (below / "inner").mkdir(parents=True)
    fuse.mkdir()
    script = f"""
        bindfs -f -o entry_timeout=0,attr_timeout=0 {below} {fuse} &
        until mountpoint -q {fuse}; do kill -0 $! || exit; done
        mount -t tmpfs -o size=1m tmpfs {fuse}/inner
        kill -STOP $!; echo; read _; kill -KILL $!; wait
    """
    with running("sh", "-c", script):
        system = _system(world)
    assert system[f"tmpfs at {fuse}/inner"]["allowed"] is None
    assert "no answer" in system[f"tmpfs at {fuse}/inner"]["consequence"]
    assert system[f"fuse at {fuse}"]["allowed"] is False


def test_any_user_is_told_what_was_not_tried(world: World) -> None:
    system = _system(world, uid=1000)
    assert system["mount_setattr"]["allowed"] is True
    untried = [row for row in system.values() if row["group"] == "filesystems"]
    untried.append(system["MOVE_MOUNT_BENEATH"])
    assert {row["allowed"] for row in untried} == {None}
    assert all("CAP_SYS_ADMIN is missing" in row["consequence"] for row in untried)
    assert "nothing can be mounted" in system["CAP_SYS_ADMIN"]["consequence"]


@pytest.mark.parametrize(
    ("around", "refused", "said"),
    [
        (
            ["setpriv", "--bounding-set=-setfcap,-dac_read_search",
             "--inh-caps=-setfcap,-dac_read_search"],
            {"CAP_SETFCAP", "CAP_DAC_READ_SEARCH", "user namespaces"},
            "CAP_SETFCAP is missing",
        ),
        (
            ["unshare", "-Urm", "sh", "-c",
             'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"', "sh"],
            {"host's user namespace", "user namespaces"},
            "user.max_user_namespaces is 0",
        ),
    ],
    ids=["capabilities", "container-at-its-limit"],
)  # fmt: skip
def test_a_privilege_that_is_missing_says_what_follows(
    world: World, around: Sequence[str], refused: set[str], said: str
) -> None:
    run("mount", "-t", "proc", "proc", "/proc")  # a container's manager may have made it read-only
    system = _system(world, *around)
    assert _refused(system, "privileges") - {"mount namespace of pid 1"} == refused
    assert said in system["user namespaces"]["consequence"]
    assert {row["allowed"] for row in system.values() if row["group"] == "filesystems"} == {None}


@pytest.mark.fault(44, "check --system")
@pytest.mark.parametrize(
    ("option", "shares"), [("--propagation=unchanged", True), ("--mount", False)]
)
def test_a_mount_namespace_that_services_do_not_see_is_told(
    world: World, option: str, shares: bool
) -> None:
    # pid 1 is a shell, and mountd runs in its mount namespace or in one of its own
    inner = ["sh", "-c", f'unshare {option} "$@"; exit', "sh"]
    around = ["unshare", "--pid", "--mount", "--fork", "--mount-proc", *inner]
    assert _system(world, *around)["mount namespace of pid 1"]["allowed"] is shares


def test_the_table_is_80_wide_and_says_what_the_document_says(world: World) -> None:
    long = world / "/".join(["a-folder-with-a-long-name"] * 8)
    long.mkdir(parents=True)
    run("mount", "-t", "ramfs", "ramfs", str(long))
    system = _system(world, kernel=DEBIAN_12)
    table = world.mountd("check", "--system", kernel=DEBIAN_12)
    assert (table.status, table.err) == (0, "")
    lines = table.out.splitlines()
    assert max(map(len, lines)) <= 80
    counts = [sum(line.startswith(f"  {word} ") for line in lines) for word in ("yes", "no", "?")]
    allowed = [row["allowed"] for row in system.values()]
    assert counts == [allowed.count(each) for each in (True, False, None)]
    text = " ".join(table.out.split())
    for name, row in system.items():
        assert name in text or str(long) in name
        assert (row["consequence"] or "") in text


def test_quiet_says_only_what_is_not_allowed(world: World) -> None:
    table = world.mountd("check", "--system", "--quiet", kernel=DEBIAN_13)
    rows = [line for line in table.out.splitlines() if line[:2] == "  " and line[2] != " "]
    assert rows and all(row.startswith("  no ") for row in rows)
    assert "open_tree_attr" in rows[0]


def test_it_needs_no_manifest_and_changes_nothing(world: World) -> None:
    before = mount_table()
    world.write("this is no manifest")
    assert world.mountd("check", "--system").status == 0
    assert world.mountd("check").status == 78
    assert mount_table() <= before


def test_it_is_an_option_of_check_alone(world: World) -> None:
    result = world.mountd("status", "--system")
    assert result.status == 64
    assert "mountd check" in result.err
