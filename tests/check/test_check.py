"""`mountd check`: what is legal but likely wrong, each warned of, and none of it where all is well.

Each warning is on stderr, naming the volume and its key, and among the volume's notes; the exit
status is 0 whatever is warned of.
"""

import os
import struct
from pathlib import Path
from typing import Any

import pytest
from old_kernel import DEBIAN_12, NO_IDMAPPING, Kernel
from silent_server import Reply, Server
from world import MOUNTD, World, run

_PASSWD = "node:x:1000:1000::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
_EXTENTS = {"uids": [{"stored": 501, "seen": 1000, "count": 10}]}

_KERNELS = pytest.mark.parametrize("kernel", [None, DEBIAN_12], ids=["newest", "debian-12"])


def check(world: World, **how: Any) -> list[str]:
    """The warnings without their prefix, each of a volume's also among its notes."""
    result = world.mountd("check", "--json", **how)
    assert result.status == 0, result.err
    warnings = result.err.splitlines()
    assert all(each.startswith("warning: ") for each in warnings), result.err
    found = [each.removeprefix("warning: ") for each in warnings]
    notes = {each["name"]: each["notes"] for each in result.document["volumes"]}
    for each in found:
        if each.startswith("volumes."):
            place, _, text = each.partition(": ")
            assert text in notes[place.split(".")[1]]
    return found


def volume(world: World, **keys: Any) -> dict[str, Any]:
    return {"source": world / "source", "target": world / "work", **keys}


@pytest.fixture
def machine(world: World) -> World:
    """A source of 501:20, and accounts."""
    world.folder("source")
    world.rootfs(_PASSWD, "node:x:1000:\nhelpers:x:2000:node\n")
    return world


@_KERNELS
def test_where_all_is_well_nothing_is_warned_of(machine: World, kernel: Kernel | None) -> None:
    machine.volumes(
        work=volume(machine, user="node", accounts=machine / "rootfs"),
        extents={
            "source": machine / "source",
            "target": machine / "home/extents",
            "idmap": {**_EXTENTS, "gids": [{"stored": 20, "seen": 20, "count": 1}]},
        },
    )
    assert check(machine, kernel=kernel) == []
    machine.reconcile(kernel=kernel)
    assert check(machine, kernel=kernel) == []


def test_a_person_is_told_on_stderr_and_the_status_is_0(machine: World) -> None:
    machine.folder("work")
    machine.volumes(work=volume(machine))
    warning = (
        "warning: volumes.work.target: /mnt/work isn't empty, and its files are hidden by the"
        " mount (hello); move them away, or choose another target\n"
    )
    told = machine.mountd("check")
    assert told == (0, "", f"{warning}/mnt/mountd.toml: ok, 1 volume\n")
    assert machine.mountd("check", "--quiet") == (0, "", warning)
    assert not Path(machine.state).exists()


def test_a_hostile_name_can_give_a_terminal_no_orders(machine: World) -> None:
    (machine / "work").mkdir()
    (machine / "work/\x1b[2J\n").touch()
    machine.volumes(work=volume(machine))
    told = machine.mountd("check").err
    assert "hidden by the mount (\\x1b[2J\\n);" in told


# Mounts that are left out.


@pytest.fixture
def layered(machine: World) -> World:
    for name in ("c", "a", "d", "b"):
        (machine / f"source/{name}").mkdir()
        run("mount", "-t", "tmpfs", "tmpfs", str(machine / f"source/{name}"))
    return machine


def test_mounts_below_the_source_are_named(layered: World) -> None:
    wanted = [
        (
            "volumes.work.recursive: the mounts below /mnt/source are left out (/mnt/source/a,"
            " /mnt/source/b, /mnt/source/c and 1 more); set `recursive = true` to include them"
        )
    ]
    layered.volumes(work=volume(layered))
    assert check(layered) == check(layered, kernel=DEBIAN_12) == wanted
    layered.reconcile()
    assert not os.path.ismount(layered / "work/a")
    assert check(layered) == wanted
    for name in "bcd":
        run("umount", str(layered / f"source/{name}"))
    assert check(layered) == [
        (
            "volumes.work.recursive: the mount below /mnt/source is left out (/mnt/source/a);"
            " set `recursive = true` to include it"
        )
    ]
    run("umount", str(layered / "source/a"))
    assert check(layered) == []


def test_what_a_recursive_volume_includes_is_not_warned_of(layered: World) -> None:
    layered.volumes(work=volume(layered, recursive=True))
    assert check(layered) == []


def test_the_volumes_own_mount_below_its_source_is_none_of_the_sources(machine: World) -> None:
    machine.volumes(work=volume(machine, target=machine / "source/view"))
    machine.reconcile()
    assert check(machine) == []


def test_a_mount_that_the_source_covers_is_not_below_it(machine: World) -> None:
    """It has a path below the source's, but lies on what the source's own mount covers."""
    (machine / "source/under").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(machine / "source/under"))
    run("mount", "-t", "tmpfs", "tmpfs", str(machine / "source"))
    machine.volumes(work=volume(machine))
    assert check(machine) == []


def test_in_place_nothing_is_left_out(machine: World) -> None:
    machine.volumes(work=volume(machine, target=machine / "source", user=1000, owner="501:20"))
    machine.reconcile()
    (machine / "source/later").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(machine / "source/later"))
    found = check(machine)
    assert [each for each in found if "recursive" in each] == []


# What the target hides.


def test_files_that_the_mount_will_hide_are_named(machine: World) -> None:
    target = machine.folder("work")
    machine.volumes(work=volume(machine))
    assert check(machine) == [
        (
            "volumes.work.target: /mnt/work isn't empty, and its files are hidden by the mount"
            " (hello); move them away, or choose another target"
        )
    ]
    for name in ("b", ".a", "c", "d"):
        (target / name).mkdir()
    assert check(machine) == [
        (
            "volumes.work.target: /mnt/work isn't empty, and its files are hidden by the mount"
            " (.a, b, c and 2 more); move them away, or choose another target"
        )
    ]
    for number in range(1_000):
        (target / f"{number}").touch()
    (found,) = check(machine)
    assert " and many more); move them away, or choose another target" in found


def test_an_empty_target_a_file_and_what_is_mounted_already_hide_nothing(machine: World) -> None:
    (machine / "work").mkdir()
    (machine / "file").write_text("hidden\n")
    machine.volumes(
        work=volume(machine),
        file={"source": machine / "source/hello", "target": machine / "file"},
        new={"source": machine / "source", "target": machine / "new"},
        place={"source": machine / "source", "target": machine / "source"},
    )
    assert check(machine) == []
    machine.reconcile()
    assert check(machine) == []


def test_folders_for_targets_of_the_manifest_hide_nothing(machine: World) -> None:
    (machine / "work/deep/inner").mkdir(parents=True)
    inner = {"source": machine / "source", "target": machine / "work/deep/inner"}
    machine.volumes(inner=inner)
    machine.reconcile()
    machine.volumes(inner=inner, work=volume(machine))
    assert check(machine) == []


def test_what_lies_below_a_target_that_comes_first_is_not_looked_at(machine: World) -> None:
    """The inner volume's target will be in the outer one's source, not in this folder."""
    machine.folder("work/inner")
    machine.volumes(
        work=volume(machine),
        inner={"source": machine / "source", "target": machine / "work/inner"},
    )
    assert check(machine) == []


# Accounts that are nobody's.


@pytest.mark.parametrize(("user", "ids"), [("nobody", "65534:65534"), ("1000:65534", "1000:65534")])
def test_the_overflow_user_is_nobody(machine: World, user: str, ids: str) -> None:
    machine.volumes(work=volume(machine, user=user, accounts=machine / "rootfs"))
    assert check(machine) == [
        (
            f"volumes.work.user: `{user}` is {ids}, and ids that no map covers are shown as 65534;"
            " name an account of its own"
        )
    ]


def test_a_uid_without_an_account_has_no_group(machine: World) -> None:
    machine.volumes(work=volume(machine, user=4242, accounts=machine / "rootfs"))
    assert check(machine) == [
        (
            "volumes.work.user: /mnt/rootfs/etc/passwd has no account with uid 4242, so gids stay"
            ' as they are; give the group too, `user = "4242:GID"`'
        )
    ]
    machine.volumes(work=volume(machine, user=1000, accounts=machine / "rootfs"))
    assert check(machine) == []


@pytest.mark.parametrize("accounts", ["source", "none"])
def test_accounts_without_accounts_are_named(machine: World, accounts: str) -> None:
    machine.volumes(work=volume(machine, user=1000, accounts=machine / accounts))
    assert check(machine) == [
        (
            f"volumes.work.accounts: there is no /mnt/{accounts}/etc/passwd to tell the group of"
            ' uid 1000, so gids stay as they are; fix the path, or write `user = "1000:GID"`'
        )
    ]
    machine.volumes(work=volume(machine, user="1000:1000", accounts=machine / accounts))
    assert check(machine) == []


# A fallback that is used.


def test_a_fallback_that_will_be_used_is_told(machine: World) -> None:
    (machine / "upper").mkdir()
    for name in ("data", "work"):
        (machine / f"upper/{name}").mkdir()
    (machine / "over").mkdir()
    options = f"lowerdir=/mnt/source,upperdir={machine / 'upper/data'}"
    options += f",workdir={machine / 'upper/work'}"
    run("mount", "-t", "overlay", "overlay", "-o", options, str(machine / "over"))
    os.chown(machine / "over", 501, 20)
    machine.volumes(work=volume(machine, source=machine / "over", user="1000:1000"))
    (found,) = check(machine)
    release = ".".join(os.uname().release.split(".")[:2])
    wanted = (
        f"volumes.work.fallback: ids stay raw, for overlay refuses idmapped mounts (Linux"
        f" {release}); name the folder on the filesystem below, the overlay's lowerdir, as the"
        ' source, or mount it with raw ids by `idmap = "never"`'
    )
    assert found == wanted
    machine.reconcile()
    assert check(machine) == [wanted]
    machine.volumes(work=volume(machine, source=machine / "over", idmap=_EXTENTS))
    os.chown(machine / "source/hello", 7, 20)
    assert check(machine) == [wanted]  # with raw ids none are left out
    machine.volumes(work=volume(machine, source=machine / "over", user="1000:1000", idmap="never"))
    assert check(machine) == []


def test_on_a_kernel_that_idmaps_nothing_it_is_told_too(machine: World) -> None:
    machine.volumes(work=volume(machine, user="1000:1000"))
    assert check(machine) == []
    (found,) = check(machine, kernel=NO_IDMAPPING)
    assert found.startswith("volumes.work.fallback: ids stay raw, for ")


# A user who can't get there.


_AS_NODE = ["setpriv", "--reuid=1000", "--regid=1000", "--groups=2000", "--inh-caps=-all", "--"]


def _closed(world: World, mode: int, uid: int = 0, gid: int = 0) -> None:
    (world / "closed").mkdir()
    (world / "closed/inner").mkdir()
    os.chown(world / "closed", uid, gid)
    (world / "closed").chmod(mode)


@pytest.mark.parametrize(
    ("mode", "owner", "remedy", "name"),
    [
        (0o700, (0, 0), "o+x", "inner"),
        (0o766, (0, 2001), "o+x", "new/target"),
        (0o266, (1000, 1000), "u+x", "inner"),
        (0o705, (0, 2000), "g+x", "new"),
        (0o705, (0, 1000), "g+x", "inner"),
    ],
)
def test_a_folder_that_lets_the_user_not_through_is_named(
    machine: World, mode: int, owner: tuple[int, int], remedy: str, name: str
) -> None:
    _closed(machine, mode, *owner)
    target = machine / "closed" / name
    machine.volumes(work=volume(machine, target=target, user="node", accounts=machine / "rootfs"))
    wanted = (
        f"volumes.work.target: `node` can't reach {target}: /mnt/closed doesn't let this user"
        f" through (mode {mode:04o}, of {owner[0]}:{owner[1]}); `chmod {remedy} /mnt/closed`,"
        " or choose another target"
    )
    assert check(machine) == [wanted]
    machine.reconcile()
    assert check(machine) == [wanted]
    denied = machine.run([*_AS_NODE, "stat", str(target)])
    assert "Permission denied" in denied.err
    run("chmod", remedy, str(machine / "closed"))
    assert check(machine) == []
    assert machine.run([*_AS_NODE, "stat", str(target)]).status == 0


@pytest.mark.parametrize(
    ("mode", "owner"),
    [(0o711, (0, 0)), (0o710, (0, 1000)), (0o710, (0, 2000)), (0o100, (1000, 0))],
    ids=["other", "group", "supplementary", "owner"],
)
def test_who_is_let_through_is_not_warned_of(
    machine: World, mode: int, owner: tuple[int, int]
) -> None:
    _closed(machine, mode, *owner)
    target = machine / "closed/inner"
    machine.volumes(work=volume(machine, target=target, user="node", accounts=machine / "rootfs"))
    assert check(machine) == []


def test_root_and_nobody_in_particular_reach_everything(machine: World) -> None:
    _closed(machine, 0o700)
    machine.volumes(
        root=volume(machine, target=machine / "closed/inner", user="0:0", owner="501:20"),
        none=volume(machine, target=machine / "closed/other"),
    )
    assert check(machine) == []


def test_in_a_user_namespace_that_lets_no_groups_be_set_root_is_not_asked_about(
    machine: World,
) -> None:
    os.chown(machine / "source", 0, 0)
    machine.volumes(work=volume(machine, user="0:0"))
    inside = ["unshare", "--user", "--map-root-user", "--mount", MOUNTD, "check"]
    told = machine.run([*inside, "-f", machine.manifest, "--state-dir", machine.state])
    assert told == (0, "", "/mnt/mountd.toml: ok, 1 volume\n")


def test_an_acl_that_stops_the_user_is_pointed_at(machine: World) -> None:
    _closed(machine, 0o711)
    entries = [(1, 7, -1), (2, 0, 1000), (4, 1, -1), (0x10, 1, -1), (0x20, 1, -1)]
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, bits, id_ & 0xFFFFFFFF) for tag, bits, id_ in entries
    )
    os.setxattr(machine / "closed", "system.posix_acl_access", acl)
    machine.volumes(work=volume(machine, target=machine / "closed/inner", user="1000:1000"))
    assert check(machine) == [
        (
            "volumes.work.target: `1000:1000` can't reach /mnt/closed/inner: /mnt/closed doesn't"
            " let this user through (mode 0711, of 0:0); see its ACL (`getfacl /mnt/closed`), or"
            " choose another target"
        )
    ]


def test_each_user_and_each_folder_has_an_answer_of_its_own(machine: World) -> None:
    _closed(machine, 0o700, 1000)
    machine.volumes(
        **{
            f"{name}{number}": volume(machine, target=f"/mnt/closed/{name}{number}", user=user)
            for name, user in (("mine", "1000:1000"), ("others", "1001:1001"))
            for number in range(2)
        },
        open=volume(machine, target="/mnt/open/x", user="1001:1001"),
    )
    assert [each.partition(":")[0] for each in check(machine)] == [
        "volumes.others0.target",
        "volumes.others1.target",
    ]


def test_a_mount_that_comes_over_the_closed_folder_decides(machine: World) -> None:
    _closed(machine, 0o700)
    machine.volumes(
        outer=volume(machine, target=machine / "closed", user="1000:1000"),
        inner=volume(machine, target=machine / "closed/inner", user="1000:1000"),
    )
    found = check(machine)
    assert [each for each in found if "can't reach" in each] == []
    machine.reconcile()
    assert check(machine) == []


def test_a_mount_that_is_about_to_be_replaced_closes_nothing(machine: World) -> None:
    closed = machine.folder("closed", mode=0o700)
    (closed / "inner").mkdir()
    inner = volume(machine, target=machine / "outer/inner", user="1000:1000")
    outer = {"source": closed, "target": machine / "outer"}
    machine.volumes(outer=outer, inner=inner)
    machine.reconcile()
    (found,) = check(machine)
    assert "can't reach /mnt/outer/inner: /mnt/outer doesn't let this user" in found
    machine.volumes(outer={**outer, "user": "1000:1000"}, inner=inner)
    assert check(machine) == []
    machine.reconcile()
    assert check(machine) == []


# What can't be looked at.


def test_an_unprivileged_run_says_what_it_could_not_see(machine: World) -> None:
    (machine / "source/private").mkdir(mode=0o700)
    os.chown(machine / "source/private", 501, 20)
    machine.folder("work", owner=(0, 0), mode=0o711)
    machine.volumes(
        work=volume(machine, user="1001:1001"),
        other={"source": machine / "source", "target": machine / "other", "idmap": _EXTENTS},
    )
    os.chown(machine / "source/hello", 7, 20)
    assert check(machine, uid=1000) == [
        (
            "whether the filesystems take the idmappings was not tried: that needs CAP_SYS_ADMIN;"
            " run it as root"
        ),
        (
            "whether the users reach their targets was not looked at: only root may ask that;"
            " run it as root"
        ),
        "volumes.work.target: we may not look into /mnt/work; run it as root",
    ]


def test_an_unprivileged_run_says_nothing_where_there_was_nothing_to_see(machine: World) -> None:
    machine.volumes(work=volume(machine))
    assert check(machine, uid=1000) == []


def test_what_is_wrong_already_is_not_doubted_too(machine: World) -> None:
    machine.folder("work")
    machine.volumes(work=volume(machine, source=machine / "none", user="1000:1000"))
    found = machine.mountd("check")
    assert found.status == 0
    assert "warning" not in found.err
    assert "pending: work: there is no /mnt/none" in found.err


class _SilentFolder(Server):
    """Has a folder `t`, and falls silent when it is first asked for what that holds."""

    def _reply(self, code: int) -> Reply:
        match code:
            case 1:  # LOOKUP
                attributes = (2, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
                return Reply(0, struct.pack("<4QII6Q10I", 2, 0, 9, 9, 0, 0, *attributes))
            case 27:  # OPENDIR
                os.write(self.stop, b"x")
                return Reply(0, struct.pack("<QII", 1, 0, 0))
        return super()._reply(code)


def test_a_target_that_hangs_costs_its_own_volume_only(machine: World) -> None:
    server = _SilentFolder(machine / "fuse")
    try:
        machine.folder("full")
        machine.volumes(
            hung=volume(machine, target=machine / "fuse/t"),
            full=volume(machine, target=machine / "full"),
        )
        hung, full = check(machine)
        assert hung == (
            "volumes.hung.source: no answer within 3 s from /mnt/source (or /mnt/fuse/t), so not"
            " all was looked at; see whether the server behind it is alive"
        )
        assert full.startswith("volumes.full.target: /mnt/full isn't empty")
    finally:
        server.die()
