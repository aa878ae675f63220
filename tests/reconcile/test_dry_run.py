"""A dry run says what the real one then does, to anyone, and does nothing."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from every_state import ACTIONS, make_every_state
from world import World

_DONE = {"mount": "mounted", "unmount": "unmounted"}


def _as_if_done(document: dict[str, Any]) -> dict[str, Any]:
    """What a real run says where a dry one said this."""
    volumes = [
        {**each, "state": _DONE.get(each["action"], each["state"])} for each in document["volumes"]
    ]
    return {**document, "volumes": volumes, "dry_run": False, "pass_id": None}


def _all_there_is(world: World) -> dict[str, Any]:
    """Every file's inode, mode, owner, size and times, and the mounts."""
    found: dict[str, Any] = {"": world.mounts()}
    for folder, folders, files in os.walk(world.path):
        for path in (os.path.join(folder, name) for name in (".", *folders, *files)):
            seen = os.lstat(path)
            found[path] = (*seen[:7], seen.st_mtime_ns, seen.st_ctime_ns)
    return found


def test_the_real_run_does_what_the_dry_run_says(world: World) -> None:
    make_every_state(world)
    said = world.reconcile("--dry-run", status=1).document
    volumes = {each["name"]: each for each in reversed(said["volumes"])}  # `moved` is there twice
    planned = {name: (each["action"], each["reason"]) for name, each in volumes.items()}
    assert planned == {**ACTIONS, "leaves": ("unmount", None), "goes": ("unmount", None)}
    done = world.reconcile(status=1).document
    assert done["pass_id"] != said["pass_id"]
    assert {**done, "pass_id": None} == _as_if_done(said)


def test_it_says_what_a_second_run_does(world: World) -> None:
    make_every_state(world)
    world.mountd("reconcile")
    said = world.reconcile("--dry-run", status=1).document
    done = world.reconcile(status=1).document
    assert {**done, "pass_id": None} == _as_if_done(said)
    assert {each["action"] for each in said["volumes"]} == {"keep", None}


def test_it_changes_nothing(world: World) -> None:
    make_every_state(world)
    before = _all_there_is(world)
    for words in (["--json"], ["--verbose"], ["--detailed-exitcode"]):
        world.mountd("reconcile", "--dry-run", *words)
        assert _all_there_is(world) == before


@pytest.mark.parametrize("uid", [0, 1000])
def test_it_needs_no_state_directory_and_makes_none(world: World, uid: int) -> None:
    make_every_state(world)
    before = sorted(os.listdir(world.path))
    dry = world.reconcile("--dry-run", "--state-dir", f"{world.path}/no/state", status=1, uid=uid)
    assert dry.volume("new")["action"] == "mount"
    assert sorted(os.listdir(world.path)) == before


@pytest.mark.parametrize("uid", [0, 1000])
def test_it_neither_takes_the_lock_nor_waits_for_it(world: World, uid: int) -> None:
    make_every_state(world)
    with open(f"{world.state}/lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        dry = world.reconcile("--dry-run", "--wait", "0", status=1, uid=uid)
        world.reconcile("--wait", "0", status=75)
    assert dry.document["changed"]


def test_a_user_sees_the_plan_that_root_sees(world: World) -> None:
    make_every_state(world)
    roots = world.reconcile("--dry-run", status=1)
    mine = world.reconcile("--dry-run", status=1, uid=1000)
    seen = mine.document
    for each in seen["volumes"]:  # only root may try what the filesystem takes
        each["notes"] = [note for note in each["notes"] if "by root alone" not in note]
    assert {**seen, "pass_id": ""} == {**roots.document, "pass_id": ""}
    assert mine.err == ""
    in_text = [world.mountd("reconcile", "--dry-run", uid=uid).out for uid in (0, 1000)]
    lines = [
        line for line in in_text[1].splitlines() if "idmapping can be tried by root" not in line
    ]
    told = [line for line in lines if line.strip() != "alone"]
    assert told == in_text[0].splitlines()


@pytest.mark.parametrize("hidden", ["source", "target", "accounts"])
def test_a_user_is_told_what_could_not_be_seen(world: World, hidden: str) -> None:
    world.rootfs("node:x:1000:1000::/home/node:/bin/sh\n").rename(world / "accounts")
    for name in ("source", "other"):
        world.folder(f"{name}/work")
    (world / "target/work").mkdir(parents=True)
    (world / hidden).chmod(0o700)
    os.chown(world / hidden, 0, 0)
    world.volumes(
        work={
            "source": world / "source/work",
            "target": world / "target/work",
            "user": "node",
            "accounts": world / "accounts",
        },
        other={"source": world / "other/work", "target": world / "seen", "user": "1000:1000"},
    )
    result = world.reconcile("--dry-run", status=1, uid=1000)
    work = result.volume("work")
    assert work["state"] == "failed"
    assert work["reason"] == work["error"]["code"] == "not-privileged"
    assert str(world / hidden) in work["error"]["message"]
    assert "root" in work["error"]["hint"]
    assert result.volume("other")["action"] == "mount"
    said = world.mountd("reconcile", "--dry-run", uid=1000)
    assert str(world / hidden) in said.out
    assert "Permission denied" in said.out
    world.reconcile("--dry-run", status=0)


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_user_is_told_that_the_record_could_not_be_seen(world: World, mode: int) -> None:
    source = world.folder("source")
    world.volumes(work={"source": source, "target": world / "work", "user": "1000:1000"})
    world.reconcile()
    world.volumes(work={"source": source, "target": world / "work", "user": "1001:1001"})
    os.chmod(world.state, mode)
    Path(f"{world.state}/record.json").chmod(0o600 if mode == 0o755 else 0o644)
    result = world.mountd("reconcile", "--dry-run", "--json", uid=1000)
    assert world.state in result.err + result.out, "a plan without the record is a guess"


def test_a_manifest_that_a_user_may_not_read_is_named(world: World) -> None:
    world.write("version = 1")
    os.chmod(world.manifest, 0o600)
    result = world.reconcile("--dry-run", status=78, uid=1000)
    assert world.manifest in result.err
    assert [each["file"] for each in result.document["errors"]] == [world.manifest]


def test_a_manifest_that_others_can_write_is_a_warning(world: World) -> None:
    world.volumes(work={"source": world.folder("source"), "target": world / "work"})
    os.chmod(world.manifest, 0o666)
    dry = world.reconcile("--dry-run")
    assert f"{world.manifest} can be written by everyone" in dry.err
    world.reconcile(status=78)


def _with_nothing_to_do(world: World) -> None:
    world.volumes(work={"source": world.folder("source"), "target": world / "work"})
    world.reconcile()


def _with_a_change(world: World) -> None:
    world.volumes(work={"source": world.folder("source"), "target": world / "work"})


def _with_an_unmount(world: World) -> None:
    _with_nothing_to_do(world)
    world.write("version = 1")


def _with_a_pending_volume(world: World) -> None:
    world.volumes(
        work={"source": world.folder("source"), "target": world / "work"},
        late={"source": world / "late", "target": world / "to"},
    )


def _with_an_optional_pending_volume(world: World, change: bool = False) -> None:
    _with_nothing_to_do(world)
    world.volumes(
        work={"source": world / "source", "target": world / "work", "read_only": change},
        late={"source": world / "late", "target": world / "to", "required": False},
    )


def _with_an_optional_pending_volume_and_a_change(world: World) -> None:
    _with_an_optional_pending_volume(world, change=True)


@pytest.mark.parametrize(
    ("make", "status", "detailed"),
    [
        (_with_nothing_to_do, 0, 0),
        (_with_a_change, 0, 2),
        (_with_an_unmount, 0, 2),
        (_with_a_pending_volume, 1, 1),
        (_with_an_optional_pending_volume, 0, 0),
        (_with_an_optional_pending_volume_and_a_change, 0, 2),
    ],
)
def test_a_detailed_exit_status_tells_whether_there_is_a_change_to_make(
    world: World, make: Callable[[World], None], status: int, detailed: int
) -> None:
    make(world)
    assert world.mountd("reconcile", "-n", uid=1000).status == status
    for words in (["--json"], ["--quiet"]):
        assert world.mountd("reconcile", "-n", "--detailed-exitcode", *words).status == detailed


def test_a_real_run_ends_with_0_though_it_changes_something(world: World) -> None:
    _with_a_change(world)
    assert world.mountd("reconcile", "--detailed-exitcode").status == 0
    assert (world / "work/hello").exists()


def test_it_says_what_a_run_by_root_would_make(world: World) -> None:
    world.volumes(work={"source": world.folder("source"), "target": world / "a/b/work"})
    notes = world.reconcile("--dry-run", uid=1000).volume("work")["notes"]
    assert notes == [f"makes {', '.join(str(world / each) for each in ('a', 'a/b', 'a/b/work'))}"]
