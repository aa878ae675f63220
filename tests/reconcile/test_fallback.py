"""Where the kernel or the filesystem can't idmap: raw ids, said every time, or the old state."""

import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from journald import Journal
from old_kernel import DEBIAN_12, FILTERED, NO_IDMAPPING, Kernel
from refusals import filesystem, reconcile_while_the_owner_changes, volume
from world import MOUNTD, Result, World, mount_idmapped, owner, record_of, run

from mountd.report.journal import MESSAGE_IDS

VERSION = ".".join(os.uname().release.split(".")[:2])
STOPPED = pytest.mark.parametrize("kernel", [NO_IDMAPPING, FILTERED], ids=lambda it: it.name)
needs_loop = pytest.mark.needs_loop


def is_plain(told: dict[str, Any], reason: str = "filesystem-refuses") -> bool:
    """Whether a document's volume is mounted with raw ids for this reason, which is no error."""
    wanted = {"state": "mounted", "fallback": "plain", "reason": reason, "error": None}
    is_so = wanted == {key: told[key] for key in wanted} and told["idmap"] is None
    return is_so and told["refused"]["code"] == reason


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("overlay", "lowerdir"),
        ("proc", "keep the source on ext4"),
        ("ramfs", "keep the source on ext4"),
        ("fuse", "its server has to grant it"),
        pytest.param("ext3", "mount the device as ext4", marks=needs_loop),
    ],
)
def test_raw_ids_are_mounted_and_said_every_time_without_being_a_change(
    world: World, kind: str, hint: str
) -> None:
    with filesystem(world, kind) as source:
        target = volume(world)
        refusal = f"{kind}(.bindfs)? refuses idmapped mounts \\(Linux {re.escape(VERSION)}\\)"
        said = re.compile(f"fallback: .*{refusal}.*hint: .*{hint}")
        planned = world.reconcile("--dry-run")
        assert planned.volume("work")["action"] == "mount"
        assert planned.volume("work")["fallback"] == "plain"
        assert planned.volume("work")["reason"] == "filesystem-refuses"
        assert said.search(in_one_line(world.mountd("reconcile", "--dry-run").out))
        first = world.reconcile()
        assert first.document["changed"]
        assert first.volume("work")["action"] == "mount"
        assert is_plain(first.volume("work"))
        assert owner(target) == owner(source)
        record = Path(world.state, "record.json").read_bytes()
        again = world.reconcile("--detailed-exitcode")
        assert not again.document["changed"]
        assert again.volume("work")["action"] == "keep"
        assert again.volume("work")["drift"] == []
        assert is_plain(again.volume("work"))
        assert re.search(f"fallback: work: .*{refusal}", again.err)
        lines = world.mountd("reconcile")
        assert lines.status == 0
        assert "nothing to do" in lines.out
        assert said.search(in_one_line(lines.err))
        dry = world.mountd("reconcile", "-n", "--detailed-exitcode")
        assert dry.status == 0
        assert said.search(in_one_line(dry.out))
        status = world.mountd("status")
        assert status.status == 0
        assert said.search(in_one_line(status.out))
        assert is_plain(world.mountd("status", "--json").volume("work"))
        refused = again.volume("work")["refused"]
        assert refused["message"] and refused["hint"]
        in_words = f"fallback: work: mounted with raw ids: {refused['message']}"
        assert f"{in_words}\nhint: {refused['hint']}\n" in again.err
        for words in (["status"], ["check"], ["reconcile", "-n"]):
            assert world.mountd(*words, "--json").volume("work")["refused"] == refused
        assert world.mountd("explain", "work", "--json").document["refused"] == refused
        assert Path(world.state, "record.json").read_bytes() == record
        assert world.mountd("unmount", "work").status == 0
        assert not is_mounted(world, target)


def is_mounted(world: World, path: Path) -> bool:
    return str(path) in [each.point for each in world.mounts()]


def in_one_line(text: str) -> str:
    return " ".join(text.split())


def test_the_journal_has_a_record_of_it_in_every_pass(world: World, journal: Journal) -> None:
    with filesystem(world, "overlay"):
        volume(world)
        ids = [journal.mountd("reconcile", "--json").document["pass_id"] for _ in range(3)]
        records = journal.records()
    told = [each for each in records if each["MESSAGE_ID"] == MESSAGE_IDS["fallback"]]
    assert [each["MOUNTD_PASS_ID"] for each in told] == ids
    assert {each["MOUNTD_REASON"] for each in told} == {"filesystem-refuses"}
    assert {(each["MOUNTD_VOLUME"], each["MOUNTD_STATE"]) for each in told} == {("work", "mounted")}
    assert {each["PRIORITY"] for each in told} == {"4"}
    assert [each["MOUNTD_ACTION"] for each in told] == ["mount", "keep", "keep"]
    others = [each["MESSAGE_ID"] for each in records if each not in told]
    assert others == [MESSAGE_IDS["mounted"]], "keeping it is no event of another kind"
    for each in told:
        assert "overlay refuses idmapped mounts" in each["MESSAGE"]
        assert "hint: " in each["MESSAGE"]


def test_nothing_is_said_of_a_fallback_that_left_or_is_not_used(
    world: World, journal: Journal
) -> None:
    with filesystem(world, "overlay"):
        volume(world)
        journal.mountd("reconcile")
        world.write("version = 1")
        (left,) = journal.mountd("reconcile", "--json").document["volumes"]
        assert (left["action"], left["state"], left["fallback"]) == ("unmount", "unmounted", None)
        volume(world, idmap="never")
        found = journal.mountd("reconcile", "--json").volume("work")
        assert (found["fallback"], found["reason"]) == (None, None)
    kinds = [each["MESSAGE_ID"] for each in journal.records()]
    assert kinds.count(MESSAGE_IDS["fallback"]) == 1


def trials(world: World, *around: str) -> list[str]:
    """The calls of a pass that try an idmapping, or change a mount."""
    trace = str(world / "trace")
    calls = "clone,?open_tree_attr,open_tree,mount_setattr,move_mount,umount2,fsopen,fsmount"
    words = ["strace", "-f", "-qq", "--signal=none", "-e", f"trace={calls}", "-o", trace]
    options = ["--manifest", world.manifest, "--state-dir", world.state]
    done = world.run([*around, *words, MOUNTD, "reconcile", "--json", *options])
    assert done.status == 0, done.err
    assert is_plain(done.volume("work"), done.volume("work")["reason"])
    lines = [line.split(maxsplit=1)[1] for line in Path(trace).read_text().splitlines()]
    changing = re.compile(
        r"clone\(.*NEWUSER|(open_tree|umount2|fsmount)\(|(mount_setattr|move_mount|syscall_0x1d3)\([0-9](?!x?f{8})"
    )
    return [each for each in lines if changing.match(each)]


@pytest.mark.parametrize("around", [(), tuple(DEBIAN_12.command())], ids=["ours", "debian-12"])
def test_a_second_pass_keeps_it_without_trying_again(world: World, around: tuple[str, ...]) -> None:
    with filesystem(world, "overlay"):
        volume(world)
        assert any("CLONE_NEWUSER" in each for each in trials(world, *around))
        assert trials(world, *around) == []


@pytest.mark.parametrize("kernel", [None, DEBIAN_12], ids=["ours", "debian-12"])
@pytest.mark.parametrize("fallback", ["plain", "fail"])
def test_without_a_record_it_is_adopted(world: World, kernel: Kernel | None, fallback: str) -> None:
    with filesystem(world, "overlay") as source:
        target = volume(world)
        world.reconcile(kernel=kernel)
        before = world.mounts()
        Path(world.state, "record.json").unlink()
        volume(world, fallback=fallback)
        found = world.reconcile(status=int(fallback == "fail"), kernel=kernel).volume("work")
        if fallback == "plain":
            assert found["action"] == "keep"
            assert is_plain(found)
            assert [each["refused"]["code"] for each in record_of(world)] == ["filesystem-refuses"]
            assert is_plain(world.mountd("status", "--json", kernel=kernel).volume("work"))
        else:
            assert (found["state"], found["reason"]) == ("failed", "filesystem-refuses")
        assert world.mounts() == before
        assert owner(target) == owner(source)


def test_another_user_or_owner_is_tried_and_is_no_change_where_it_is_refused_too(
    world: World,
) -> None:
    with filesystem(world, "overlay") as source:
        target = volume(world)
        world.reconcile()
        (mounted,) = (each for each in world.mounts() if each.point == str(target))
        volume(world, user="1001:1001")
        for _ in range(2):
            found = world.reconcile()
            assert (found.document["changed"], found.volume("work")["action"]) == (False, "keep")
            assert is_plain(found.volume("work"))
        assert trials(world) == []
        os.chown(source, 700, 700)
        found = world.reconcile()
        assert (found.document["changed"], found.volume("work")["action"]) == (False, "keep")
        assert is_plain(found.volume("work"))
        assert "700:700" in world.mountd("status").out
        assert trials(world) == []
        os.chown(source, 1001, 1001)
        found = world.reconcile()
        assert not found.document["changed"]
        assert (found.volume("work")["fallback"], found.volume("work")["reason"]) == (None, None)
        assert [each["refused"] for each in record_of(world)] == [None]
        assert [each for each in world.mounts() if each.point == str(target)] == [mounted]


def test_fail_mounts_nothing_and_plain_then_does(world: World) -> None:
    with filesystem(world, "overlay") as source:
        target = volume(world, fallback="fail")
        for words in (["--dry-run"], []):
            found = world.reconcile(*words, status=1).volume("work")
            assert (found["action"], found["state"], found["fallback"]) == (None, "failed", None)
            assert found["error"]["code"] == found["reason"] == "filesystem-refuses"
            assert found["error"]["message"].startswith("overlay refuses idmapped mounts")
        assert not is_mounted(world, target)
        volume(world, fallback="plain")
        assert is_plain(world.reconcile().volume("work"))
        assert owner(target) == owner(source)


def test_plain_that_became_fail_keeps_what_is_mounted(world: World) -> None:
    with filesystem(world, "overlay") as source:
        target = volume(world)
        world.reconcile()
        before = world.mounts()
        volume(world, fallback="fail")
        for _ in range(2):
            found = world.reconcile(status=1).volume("work")
            assert (found["action"], found["state"], found["fallback"]) == (None, "failed", None)
            assert found["reason"] == "filesystem-refuses"
            assert found["notes"] == ["what is mounted there stays"]
            assert world.mounts() == before
            assert owner(target) == owner(source)
        assert world.mountd("status").status == 1
        volume(world, fallback="plain")
        found = world.reconcile().volume("work")
        assert found["action"] == "keep"
        assert is_plain(found)
        assert world.mounts() == before


@pytest.mark.parametrize("way", ["manifest", "below"])
def test_a_source_that_moves_to_a_filesystem_that_can_is_idmapped(world: World, way: str) -> None:
    """And back again: an idmapped mount gives way to a plain one."""
    with filesystem(world, "overlay") as source:
        target = volume(world)
        world.reconcile()
        if way == "manifest":
            volume(world, source=world.folder("other"))
        else:
            run("mount", "--bind", str(world.folder("other")), str(source))
        found = world.reconcile().volume("work")
        assert found["action"] == "replace"
        assert (found["fallback"], found["reason"]) == (None, None)
        assert owner(target) == owner(target / "hello") == (1000, 1000)
        assert [each.point for each in world.mounts()].count(str(target)) == 1
        assert record_of(world)[0]["refused"] is None
        if way == "manifest":
            volume(world)
        else:
            run("umount", str(source))
        found = world.reconcile().volume("work")
        assert found["action"] == "replace"
        assert is_plain(found)
        assert owner(target) == (501, 20)
        assert [each.point for each in world.mounts()].count(str(target)) == 1


def test_a_fallback_is_each_volumes_own(world: World) -> None:
    with filesystem(world, "overlay") as source:
        world.folder("other")
        base = {"source": source, "user": "1000:1000"}
        world.volumes(
            one={**base, "target": world / "one"},
            two={**base, "target": world / "two", "fallback": "fail", "required": False},
            three={**base, "target": world / "three", "idmap": "never"},
            four={**base, "source": source / "hello", "target": world / "four"},
            five={**base, "source": world / "other", "target": world / "five"},
            six={**base, "target": world / "six", "user": "501:20"},
            seven={**base, "target": world / "seven", "read_only": True},
        )
        for _ in range(2):
            volumes = world.reconcile().document["volumes"]
            assert [each["fallback"] for each in volumes] == [
                "plain", None, None, "plain", None, None, None,
            ]  # fmt: skip
            assert [each["state"] == "mounted" for each in volumes].count(False) == 1
        assert owner(world / "five") == (1000, 1000)


# A seccomp filter, or a kernel without: flags by remount


def flags(world: World, target: Path) -> set[str]:
    """Those in force, as mountinfo has them."""
    (found,) = (each.options for each in world.mounts() if each.point == str(target))
    return found & {"rw", "ro", "nosuid", "nodev", "noexec", "noatime", "relatime"}


@STOPPED
def test_without_mount_setattr_the_flags_are_in_force_all_the_same(
    world: World, kernel: Kernel
) -> None:
    world.folder("source", mode=0o700)
    target = volume(world, noexec=True, atime="noatime")
    first = world.reconcile(kernel=kernel).volume("work")
    assert first["action"] == "mount"
    assert is_plain(first, "seccomp")
    assert owner(target) == (501, 20)
    assert flags(world, target) == {"rw", "nosuid", "nodev", "noexec", "noatime"}
    (mounted,) = world.mounts()
    for keys, wanted in (
        ({"read_only": True, "nosuid": False}, {"ro", "nodev", "relatime"}),
        ({"nodev": False, "noexec": True}, {"rw", "nosuid", "noexec", "relatime"}),
        ({}, {"rw", "nosuid", "nodev", "relatime"}),
    ):
        volume(world, **keys)
        planned = world.reconcile("--dry-run", kernel=kernel).volume("work")
        found = world.reconcile(kernel=kernel).volume("work")
        assert planned["action"] == found["action"] == "adjust"
        assert is_plain(found, "seccomp")
        assert flags(world, target) == wanted
        again = world.reconcile(kernel=kernel)
        assert (again.document["changed"], again.volume("work")["action"]) == (False, "keep")
        assert [each.id for each in world.mounts()] == [mounted.id]
    assert world.mountd("status", kernel=kernel).status == 0
    assert world.mountd("unmount", "work", kernel=kernel).status == 0
    assert world.mounts() == []


@STOPPED
def test_without_mount_setattr_a_replacement_has_its_flags_too(
    world: World, kernel: Kernel
) -> None:
    world.folder("source")
    world.folder("other")
    target = volume(world, read_only=True, noexec=True, user="501:20")
    world.reconcile(kernel=kernel)
    volume(world, source=world / "other", read_only=True, noexec=True, user="501:20")
    assert world.reconcile(kernel=kernel).volume("work")["action"] == "replace"
    assert flags(world, target) == {"ro", "nosuid", "nodev", "noexec", "relatime"}
    assert [each.point for each in world.mounts()] == [str(target)]
    assert world.reconcile(kernel=kernel).volume("work")["action"] == "keep"


@STOPPED
def test_without_mount_setattr_a_mount_is_no_peer_of_its_sources(
    shared_world: World, kernel: Kernel
) -> None:
    world = shared_world
    (world.folder("source") / "inner").mkdir()
    target = volume(world)
    world.reconcile(kernel=kernel)
    run("mount", "-t", "tmpfs", "tmpfs", str(world / "source/inner"))
    assert not (target / "inner").is_mount()


@STOPPED
def test_without_mount_setattr_a_writer_in_the_way_is_busy_and_fail_fails(
    world: World, kernel: Kernel
) -> None:
    world.folder("source")
    target = volume(world)
    world.reconcile(kernel=kernel)
    volume(world, read_only=True, user="501:20")
    with (target / "hello").open("a"):
        found = world.reconcile(status=1, kernel=kernel).volume("work")
    assert (found["state"], found["reason"]) == ("failed", "busy")
    assert "rw" in flags(world, target)
    volume(world, fallback="fail", target=world / "new")
    found = world.reconcile(status=1, kernel=kernel).volume("work")
    assert (found["state"], found["reason"]) == ("failed", "seccomp")
    assert "a seccomp filter stops mount_setattr" in found["error"]["message"]
    assert is_mounted(world, target)
    assert not (world / "new").exists()


def test_too_old_a_kernel_is_another_reason(world: World) -> None:
    world.folder("source")
    target = volume(world)
    options = ["--manifest", world.manifest, "--state-dir", world.state]
    around = ["setarch", "--uname-2.6", *NO_IDMAPPING.command()]
    found = world.run([*around, MOUNTD, "reconcile", "--json", *options])
    assert (found.status, is_plain(found.volume("work"), "kernel-too-old")) == (0, True)
    assert "this kernel is too old: 2.6, idmapped mounts need 5.12" in found.err
    assert owner(target) == (501, 20)


# What our privileges allow


def without(world: World, capabilities: str, *words: str) -> Result:
    """Run mountd with these taken away."""
    around = ["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}", "--"]
    options = ["--manifest", world.manifest, "--state-dir", world.state]
    return world.run([*around, MOUNTD, *words, *options])


@pytest.mark.fault(47, "those that a map needs")
@pytest.mark.parametrize(
    ("capabilities", "said"),
    [
        ("-setfcap", "CAP_SETFCAP is missing"),
        ("-setuid,-setgid", "CAP_SETUID and CAP_SETGID are missing"),
    ],
)
def test_a_missing_capability_is_a_fallback_until_it_is_there(
    world: World, capabilities: str, said: str
) -> None:
    world.folder("source")
    target = volume(world)
    for action in ("mount", "keep"):
        found = without(world, capabilities, "reconcile", "--json")
        assert found.status == 0
        assert found.volume("work")["action"] == action
        assert is_plain(found.volume("work"), "not-privileged")
        assert said in found.err
        assert owner(target) == (501, 20)
    found = world.reconcile()
    assert found.volume("work")["action"] == "replace", "the hint was followed"
    assert found.volume("work")["fallback"] is None
    assert owner(target) == (1000, 1000)


@pytest.mark.fault(46, "EPERM, and lifted")
def test_a_filter_that_is_lifted_is_no_reason_any_more(world: World) -> None:
    world.folder("source")
    target = volume(world)
    assert is_plain(world.reconcile(kernel=FILTERED).volume("work"), "seccomp")
    found = world.reconcile().volume("work")
    assert (found["action"], found["fallback"]) == ("replace", None)
    assert owner(target) == (1000, 1000)


@pytest.mark.fault(47, "CAP_SYS_ADMIN")
def test_without_cap_sys_admin_nothing_begins_and_a_dry_run_says_what_it_cannot_know(
    world: World,
) -> None:
    with filesystem(world, "overlay"):
        volume(world)
        for words in (["reconcile"], ["unmount", "work"]):
            found = without(world, "-sys_admin", *words, "--json")
            assert found.status == 77
            assert "CAP_SYS_ADMIN" in found.document["errors"][0]["message"]
        assert not os.path.exists(world.state)
        dry = without(world, "-sys_admin", "reconcile", "--dry-run", "--json")
        assert (dry.status, dry.volume("work")["action"]) == (0, "mount")
        assert dry.volume("work")["notes"] != [f"makes {world / 'work'}"], "it is no promise"


def test_a_user_who_may_not_try_is_told_what_was_found_before(world: World) -> None:
    with filesystem(world, "overlay"):
        volume(world)
        world.reconcile()
        for words in (["reconcile", "--dry-run"], ["status"]):
            found = world.mountd(*words, "--json", uid=1000)
            assert found.status == 0, found.err
            assert found.volume("work")["action"] == "keep"
            assert is_plain(found.volume("work"))
            told = world.mountd(*words, uid=1000)
            assert "overlay refuses idmapped mounts" in in_one_line(told.out)


@pytest.mark.parametrize("kind", ["tmpfs", "overlay"])
def test_a_dry_run_by_who_may_not_try_says_so(world: World, kind: str) -> None:
    """It may not know better, and must not pretend to."""
    with ExitStack() as held:
        if kind == "overlay":
            held.enter_context(filesystem(world, kind))
        else:
            world.folder("source")
        volume(world)
        found = world.mountd("reconcile", "--dry-run", "--json", uid=1000)
        assert found.status == 0, found.err
        told = found.volume("work")
        assert (told["action"], told["fallback"]) == ("mount", None)
        assert any("idmap" in note or "tried" in note for note in told["notes"]), told["notes"]


_INSIDE = """
    mount -t tmpfs -o mode=755 tmpfs {path}
    mkdir {path}/source; cp {manifest} {path}/mountd.toml
    echo 0 >/proc/sys/user/max_user_namespaces
    {mountd} reconcile --json -f {path}/mountd.toml --state-dir {path}/state && exit 9
    ! grep -q {path}/work /proc/self/mountinfo
"""


@pytest.mark.fault(4, "none from the start")
@pytest.mark.parametrize("fallback", ["plain", "fail"])
def test_no_user_namespace_left_is_a_failure_that_may_pass_and_no_fallback(
    world: World, fallback: str
) -> None:
    run("mount", "-t", "proc", "proc", "/proc")  # a container's manager may have made it read-only
    inner = world / "inner"
    inner.mkdir()
    volume(
        world, source=inner / "source", target=inner / "work", fallback=fallback,
        user="0:0", idmap="always",
    )  # fmt: skip
    script = _INSIDE.format(path=inner, mountd=MOUNTD, manifest=world.manifest)
    container = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    done = world.run([*container, script])
    assert done.status == 0, done.err
    (found,) = done.document["volumes"]
    assert (found["state"], found["reason"], found["fallback"]) == ("failed", "limit", None)
    assert "user.max_user_namespaces" in found["error"]["hint"]


def test_a_plain_mount_of_an_idmapped_source_keeps_that_ones_map(world: World) -> None:
    below = world.folder("below")
    mount_idmapped(below, world / "source", (501, 600, 1), (20, 601, 1), (0, 0, 1))
    target = volume(world)
    assert is_idmapped_as_source(world.reconcile(kernel=DEBIAN_12).volume("work"))
    assert owner(target) == owner(target / "hello") == (600, 601)


def is_idmapped_as_source(told: dict[str, Any]) -> bool:
    return is_plain({**told, "idmap": None}, "source-is-idmapped")


# A filesystem that maps untruly can't be had here, but for a moment: as its owner changes


@pytest.mark.parametrize("fallback", ["plain", "fail"])
def test_what_shows_another_owner_than_it_must_is_not_mounted(world: World, fallback: str) -> None:
    """The next pass finds who owns it now."""
    result = reconcile_while_the_owner_changes(world, "--json", fallback=fallback)
    found, target = result.volume("work"), world / "work"
    assert (result.status, found["state"], found["reason"]) == (1, "failed", "idmap-untrue")
    assert "shows the owner as 700:700" in found["error"]["message"]
    assert not is_mounted(world, target)
    assert world.reconcile().volume("work")["fallback"] is None
    assert owner(target) == (1000, 1000)
