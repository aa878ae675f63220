"""The guest that the example builds and boots: virtiofs, a power cycle, a user who shares."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from guest import EVENTS, EXAMPLE, Guest, at, make, records, volume
from package import PROJECT
from pages import block
from world import owner

_WORK = "/home/node/workspace"
_NODE = [1000, 1000]
_MANIFEST = (EXAMPLE / "volumes.toml").read_text()
"""The share `workspace` in node's home."""


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Guest:
    return Guest(tmp_path_factory.mktemp("guest"))


def test_the_image_is_made_once(guest: Guest) -> None:
    before = (guest.image / "disk.img").stat()
    guest.build()
    assert (guest.image / "disk.img").stat().st_ino == before.st_ino


# a power cycle


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is shared as `workspace`, 501:20's, and beside it `docs`."""
    place = tmp_path_factory.mktemp("shared")
    work = make(place / "workspace")
    for name, uid, gid in (
        ("hello", 501, 20),
        ("rename", 501, 20),
        ("single", 501, 20),
        ("root", 0, 0),
        ("thousand", 1000, 1000),
        ("stranger", 100000, 100000),
        ("last", 4294967294, 4294967294),
    ):
        make(work / name, uid, gid, 0o644)
    for name in ("build", "edited", "late"):
        make(work / name)
    make(work / "open", mode=0o1777)
    make(work / "private", mode=0o700)
    make(work / "private/secret", mode=0o600)
    shutil.copy("/usr/bin/id", work / "setuid")
    os.chmod(work / "setuid", 0o4755)
    os.mknod(work / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chmod(work / "device", 0o666)
    docs = make(place / "docs", mode=0o700)
    make(docs / "page", mode=0o600)
    return place


@pytest.fixture(scope="module")
def cycle(guest: Guest, shared: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What two boots of the same disk told."""
    manifest = "\n".join(
        [
            _MANIFEST,
            volume("build", subdir="build", target="/var/cache/build", user="2000:2000"),
            volume("single", subdir="single"),
            volume("docs", source="docs", read_only=True),
            volume("late", subdir="late", user="late"),
        ]
    )
    workload = "[Service]\nType=oneshot\nRemainAfterExit=yes\nUser=node\n"
    workload += f"ExecStart=/bin/sh -c 'echo started >>{_WORK}/by-workload'\n"
    credentials = {
        "systemd.extra-unit.workload.service": workload,
        "systemd.unit-dropin.workload.service": (PROJECT / "examples/workload.conf").read_text(),
    }
    shares = {each: shared / each for each in ("workspace", "docs")}
    disk = guest.disk()
    first, second = (
        guest.boot(
            scene,
            manifest,
            shares,
            credentials=credentials,
            DISK=disk,
            append="systemd.wants=workload.service",
            is_lean=scene == "second_boot",
        )
        for scene in ("first_boot", "second_boot")
    )
    return first, second


@pytest.fixture(scope="module")
def first(cycle: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    return cycle[0]


@pytest.fixture(scope="module")
def second(cycle: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    return cycle[1]


def test_the_sharing_users_files_are_nodes_in_the_guest(first: dict[str, Any]) -> None:
    seen = first["owners"]
    for path in (".", "hello", "private", "private/secret"):
        assert seen[path] == _NODE


@pytest.mark.parametrize(
    ("name", "ids"),
    [("root", 0), ("stranger", 100000), ("last", 4294967294)],
)
def test_every_other_owner_stays_what_it_was(first: dict[str, Any], name: str, ids: int) -> None:
    assert first["owners"][name] == [ids, ids]


def test_the_two_ids_are_exchanged(first: dict[str, Any]) -> None:
    assert first["owners"]["thousand"] == [501, 20]


def test_nothing_shows_as_nobody(first: dict[str, Any], second: dict[str, Any]) -> None:
    for told in (first["owners"], first["owners after"], second["owners"]):
        assert all(65534 not in each for each in told.values())


def test_node_reads_and_writes_what_is_its_own(first: dict[str, Any]) -> None:
    outcomes = {name: outcome for name, outcome in first["node"].items() if "root's" not in name}
    denied = {name: outcome for name, outcome in outcomes.items() if outcome != "done"}
    assert denied == {
        "opens a device": "EACCES",
        "writes read-only": "EROFS",
        "makes a file read-only": "EROFS",
    }


def test_node_may_not_write_what_is_roots(first: dict[str, Any]) -> None:
    assert first["node"]["writes a file of root's"] == "EACCES"


def test_what_node_makes_is_the_sharing_users_on_the_host(
    first: dict[str, Any], shared: Path
) -> None:
    made = sorted((shared / "workspace").glob("**/*by-node"))
    assert len(made) == 6, made
    assert {owner(each) for each in made} == {(501, 20)}
    assert first["owners after"]["by-node"] == _NODE


def test_what_root_makes_in_the_guest_is_roots_on_the_host(
    first: dict[str, Any], shared: Path
) -> None:
    """Which is why the host has to keep setuid files from working there."""
    assert first["root makes a file"] == "done"
    assert owner(shared / "workspace/by-root") == (0, 0)


def test_what_root_gives_away_is_that_users_on_the_host(
    first: dict[str, Any], shared: Path
) -> None:
    assert first["root gives it away"] == "done"
    assert owner(shared / "workspace/given-away") == (2000, 2000)


def test_what_a_third_user_makes_is_its_own_on_the_host(
    first: dict[str, Any], shared: Path
) -> None:
    assert first["a third user makes a file"] == "done"
    assert owner(shared / "workspace/open/by-third") == (4000, 4000)


def test_a_setuid_file_of_roots_makes_nobody_root(first: dict[str, Any]) -> None:
    assert first["who setuid root is"] == {"status": 0, "out": "1000\n", "err": ""}


def test_a_volume_is_read_only_for_node_who_may_read_it(first: dict[str, Any]) -> None:
    assert first["node"]["reads read-only"] == "done"
    (mount,) = at(first, "/srv/docs")
    assert {"ro", "idmapped"} <= set(mount["options"].split(","))


def test_a_tag_is_mounted_once_for_all_its_volumes(first: dict[str, Any]) -> None:
    ends = first["mounts at the end"]
    raw = [each for each in ends if each["point"].startswith("/run/mountd/fs/")]
    assert sorted(each["source"] for each in raw) == ["docs", "workspace"]
    clones = [each for each in ends if each["source"] == "workspace" and each not in raw]
    assert sorted(each["root"] for each in clones) == [
        "/", "/build", "/edited", "/late", "/single"
    ]  # fmt: skip


def test_a_folder_of_the_share_appears_as_another_users(first: dict[str, Any]) -> None:
    assert first["build"] == {".": [2000, 2000]}


def test_a_single_file_of_the_share_is_a_volume(first: dict[str, Any], shared: Path) -> None:
    assert first["single file"] == {".": _NODE}
    assert (shared / "workspace/single").read_text() == "/srv/single\n"


def test_an_edit_in_the_guest_is_applied(first: dict[str, Any]) -> None:
    assert first["edited"] == {".": _NODE}
    assert records(first, "mounted", "edited")


def test_a_volume_that_somebody_unmounts_comes_back(first: dict[str, Any]) -> None:
    assert first["back"] == {".": [2000, 2000]}
    assert records(first, "drifted", "build")


def test_a_user_who_comes_later_gets_the_volume_that_waited(first: dict[str, Any]) -> None:
    assert first["late before"] == ""
    assert first["late"] == {".": [3000, 3000]}
    (waited,) = records(first, "pending", "late")
    assert waited["MOUNTD_REASON"] == "no-user"
    assert records(first, "mounted", "late")


def test_the_journal_has_each_volume_with_its_fields(first: dict[str, Any]) -> None:
    (told,) = records(first, "mounted", "workspace")
    assert told["MOUNTD_TARGET"] == _WORK
    assert told["MOUNTD_STATE"] == "mounted"
    assert told["MESSAGE"] == f"mounted: workspace at {_WORK}"


def test_status_says_that_all_is_mounted_but_what_waits(first: dict[str, Any]) -> None:
    states = {each["name"]: each["state"] for each in first["status"]["volumes"]}
    assert states.pop("late") == "pending"
    assert set(states.values()) == {"mounted"}


def test_a_service_ordered_by_the_drop_in_finds_its_volume(
    first: dict[str, Any], second: dict[str, Any], shared: Path
) -> None:
    """At each boot."""
    assert first["workload"]["out"] == second["workload"]["out"]
    assert "Result=success" in first["workload"]["out"]
    assert (shared / "workspace/by-workload").read_text() == "started\n" * 2
    assert owner(shared / "workspace/by-workload") == (501, 20)


def test_after_a_power_cycle_all_is_as_it_was(
    first: dict[str, Any], second: dict[str, Any], shared: Path
) -> None:
    clones = [each for each in first["mounts at the end"] if each["type"] == "virtiofs"]
    kept = [each for each in second["mounts"] if each["type"] == "virtiofs"]
    seen = [
        sorted((each["point"], each["root"], each["options"]) for each in mounts)
        for mounts in (clones, kept)
    ]
    assert seen[0] == seen[1]
    assert {path: ids for path, ids in second["owners"].items() if path in first["owners"]} == {
        path: ids for path, ids in first["owners"].items() if path in second["owners"]
    }
    assert second["others"] == {
        "/srv/edited": {".": _NODE},
        "/srv/late": {".": [3000, 3000]},
        "/var/cache/build": {".": [2000, 2000]},
    }
    assert second["node makes a file"] == "done"
    assert owner(shared / "workspace/by-node-again") == (501, 20)


def test_after_a_power_cycle_nothing_had_to_wait(second: dict[str, Any]) -> None:
    told = {EVENTS.get(each.get("MESSAGE_ID", "")) for each in second["journal"]}
    assert told <= {"mounted", "watching", None}, second["journal"]


def test_the_terminal_has_a_shell_in_the_guest(first: dict[str, Any]) -> None:
    assert "root@guest:~#" in first["console"]


def test_what_it_cost_at_boot(
    first: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    """Told at the end of a run, and not judged: an emulated processor is no measure."""
    lines = [line.strip() for line in first["blame"].splitlines()]
    ours = [line for line in lines if line.endswith(" mountd.service")]
    others = [line for line in lines if line not in ours][:2]
    told = ", ".join(ours + others) or "systemd had no figures yet"
    record_property("told at the end", f"in an emulated guest's boot: {told}")


# a daemon that is the sharing user


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = make(tmp_path_factory.mktemp("owned") / "workspace")
    make(work / "app.js", mode=0o644)
    (work / "app.js").write_text("// hello you\n")
    os.utime(work / "app.js", (1732406400, 1732406400))
    return work


@pytest.fixture(scope="module")
def sharing(guest: Guest, owned: Path) -> dict[str, Any]:
    """What a guest told that 501:20 runs, as people do on their own machines.

    It runs what the guide shows besides.
    """
    shown = [
        line[2:] for line in block("guests.md", "console").splitlines() if line.startswith("$ ")
    ]
    return guest.boot(
        "sharing_user",
        _MANIFEST,
        {"workspace": owned},
        credentials={"guest.commands": json.dumps(shown)},
        user="501:20",
        is_lean=True,
    )


def test_what_the_guide_shows_of_a_guest_is_what_is_there(sharing: dict[str, Any]) -> None:
    shown = "".join(f"$ {command}\n{out}" for command, out in sharing["commands"].items())
    assert shown == block("guests.md", "console")


def test_run_by_the_sharing_user_a_share_is_nodes_all_the_same(sharing: dict[str, Any]) -> None:
    assert sharing["owners"] == {".": _NODE, "app.js": _NODE}
    assert set(sharing["node"].values()) == {"done"}


def test_run_by_the_sharing_user_root_makes_files_that_are_nodes(
    sharing: dict[str, Any], owned: Path
) -> None:
    assert sharing["root makes a file"] == "done"
    assert sharing["owners after"]["by-root"] == _NODE
    assert owner(owned / "by-root") == (501, 20)


def test_run_by_the_sharing_user_nothing_can_be_given_away(sharing: dict[str, Any]) -> None:
    assert sharing["root gives it away"] == "EPERM"


def test_run_by_the_sharing_user_nobody_else_makes_files(sharing: dict[str, Any]) -> None:
    assert sharing["a third user makes a file"] == "EPERM"
