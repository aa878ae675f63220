"""The guest that the example builds and boots: virtiofs, a power cycle, old daemons and kernels."""

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boxlite
import pytest
from guest import EXAMPLE, Guest
from package import PROJECT
from pages import block
from world import owner

from mountd.journal import MESSAGE_IDS

_EVENTS = {each: event for event, each in MESSAGE_IDS.items()}
_WORK = "/home/node/workspace"
_NODE = [1000, 1000]
_CASES = boxlite.cases()
_ELSEWHERE = {12, 15}  # one is an error, one a volume's target
_MANIFEST = (EXAMPLE / "volumes.toml").read_text()
"""The share `workspace` in node's home."""


def volume(name: str, **keys: Any) -> str:
    """A volume of the share `workspace`, at a target named after it, for node."""
    given = {"type": "virtiofs", "source": "workspace", "target": f"/srv/{name}", "user": "node"}
    lines = [f"{key} = {json.dumps(value)}" for key, value in (given | keys).items() if value]
    return "\n".join([f"[volumes.{name}]", *lines, ""])


def make(path: Path, uid: int = 501, gid: int = 20, mode: int = 0o755) -> Path:
    """A folder of this owner, or, where the mode says so, a file."""
    if mode & 0o111:
        path.mkdir()
    else:
        path.write_text(f"{path.name}\n")
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


def records(told: dict[str, Any], event: str, name: str) -> list[dict[str, str]]:
    """What the journal has of a kind about a volume."""
    return [
        each
        for each in told["journal"]
        if _EVENTS.get(each.get("MESSAGE_ID", "")) == event and each.get("MOUNTD_VOLUME") == name
    ]


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


def at(told: dict[str, Any], point: str, when: str = "mounts") -> list[dict[str, str]]:
    """What the mount table has at a target."""
    return [each for each in told[when] if each["point"] == point]


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
    told = {_EVENTS.get(each.get("MESSAGE_ID", "")) for each in second["journal"]}
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


# daemons side by side, and every way to hand a manifest over

_WAYS = ("smbios", "smbios-binary", "fw_cfg", "cmdline")


def handed_over(way: str, place: Path) -> str:
    """A manifest of one volume as the guide's commands make it into what a hypervisor takes."""
    manifest = place / "volumes.toml"
    manifest.write_text(volume(way, source="good"))
    subprocess.run(["sh", "-euc", block("guests.md", "sh", "base64")], cwd=place, check=True)
    made = manifest if way == "fw_cfg" else place / way
    return made.read_text().strip().replace("mountd.toml", f"mountd.{way}.toml")


def ids_of(owner: str) -> tuple[int, int]:
    uid, gid = owner.split(":")
    return int(uid), int(gid)


def boxlite_volume(case: boxlite.Case) -> str:
    name = f"case-{case.number}"
    return volume(name, source="boxlite", subdir=name, user=case.user, read_only=case.is_read_only)


@pytest.fixture(scope="module")
def daemons(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a guest with an old daemon beside a good one told."""
    place = tmp_path_factory.mktemp("daemons")
    good, old = make(place / "good"), make(place / "old")
    for folder in (good, old):
        make(folder / "hello", mode=0o644)
    cases = [each for each in _CASES if each.number not in _ELSEWHERE]
    share = make(place / "boxlite")
    for case in cases:
        root, *inner = case.owners
        made = make(
            share / f"case-{case.number}", *ids_of(root), 0o700 if case.is_read_only else 0o755
        )
        for each in inner:
            make(made / each, *ids_of(each))
    manifest = "\n".join(
        [
            *(boxlite_volume(case) for case in cases),
            volume("case-15", type="", source="/srv/case-1", user="2000:2000"),
            volume("good", source="good"),
            volume("old", source="old"),
            volume("strict", source="old", fallback="fail"),
        ]
    )
    way = {each: handed_over(each, place) for each in _WAYS}
    more = ["-smbios", "type=11,path={place}/smbios"]
    more += ["-smbios", f"type=11,value={way['smbios-binary']}"]
    more += ["-fw_cfg", "name=opt/io.systemd.credentials/mountd.fw_cfg.toml,file={place}/fw_cfg"]
    with guest.old_daemon("old", old) as its_share:
        return guest.boot(
            "daemons",
            manifest,
            {"good": good, "boxlite": share},
            files={each: way[each] for each in ("smbios", "fw_cfg")},
            more=[*more, *its_share],
            append=way["cmdline"],
        )


def test_a_daemon_that_grants_it_has_its_share_idmapped(daemons: dict[str, Any]) -> None:
    assert daemons["owners"]["good"] == {".": _NODE, "hello": _NODE}


def test_a_daemon_that_is_too_old_has_its_share_mounted_with_raw_ids(
    daemons: dict[str, Any],
) -> None:
    assert daemons["owners"]["old"] == {".": [501, 20], "hello": [501, 20]}


def test_it_is_told_that_the_daemon_is_too_old_and_which_one_would_do(
    daemons: dict[str, Any],
) -> None:
    (told,) = records(daemons, "fallback", "old")
    assert told["MESSAGE"] == (
        "fallback: old: mounted with raw ids: virtiofs refuses idmapped mounts (Linux 6.12): the"
        " host's server is too old, or doesn't grant it\n"
        "hint: its server has to grant it, as virtiofsd does from 1.13 on, or mount it with raw ids"
        ' by `idmap = "never"`'
    )
    assert told["MOUNTD_REASON"] == "filesystem-refuses"


def test_a_volume_that_insists_is_not_mounted_from_an_old_daemon(daemons: dict[str, Any]) -> None:
    assert daemons["strict"] == ""
    (told,) = records(daemons, "failed", "strict")
    assert "the host's server is too old" in told["MESSAGE"]


def test_a_manifest_arrives_in_each_way_that_the_guide_names(daemons: dict[str, Any]) -> None:
    for way in _WAYS:
        (mount,) = at(daemons, f"/srv/{way}")
        assert mount["source"] == "good"


# BoxLite's cases, in the same guest


@pytest.mark.parametrize("case", _CASES, ids=lambda case: str(case.number))
def test_a_case_of_boxlites_comes_out_as_its_page_says(
    daemons: dict[str, Any], case: boxlite.Case
) -> None:
    if case.number == 12:
        assert daemons["case 12"]["status"] == 78
        assert "volumes.case-12.owner" in daemons["case 12"]["err"]
        assert case.outcome == boxlite.ERROR
        return
    name = f"case-{case.number}"
    (told,) = (each for each in daemons["status"]["volumes"] if each["name"] == name)
    assert told["state"] == "mounted"
    stored = case.owners or ("501:20",)
    found = daemons["cases"][name]
    seen = [":".join(map(str, found[path])) for path in (".", *stored[1:])]
    assert boxlite.outcome(told, zip(stored, seen, strict=True)) == case.outcome


def test_each_of_boxlites_cases_is_on_its_page() -> None:
    assert [each.number for each in _CASES] == list(range(1, 17))


def test_no_id_is_lost_in_any_of_boxlites_cases(daemons: dict[str, Any]) -> None:
    idmaps = [each["idmap"] for each in daemons["status"]["volumes"] if each["idmap"]]
    counts = {sum(each["count"] for each in ids) for idmap in idmaps for ids in idmap.values()}
    assert counts == {2**32 - 1}


def test_what_boxlite_leaves_unreadable_or_unwritable_is_neither(daemons: dict[str, Any]) -> None:
    assert daemons["node reads case 8"] == daemons["70000 writes in case 13"] == "done"


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


# an old kernel


@pytest.fixture(scope="module")
def old_kernel(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the same image told under Linux 6.1."""
    work = make(tmp_path_factory.mktemp("old") / "workspace")
    make(work / "hello", mode=0o644)
    return guest.boot("old_kernel", _MANIFEST, {"workspace": work}, KERNEL=guest.old_kernel)


def test_an_old_kernel_has_the_share_mounted_with_raw_ids(old_kernel: dict[str, Any]) -> None:
    assert old_kernel["kernel"].startswith("6.1.")
    assert old_kernel["owners"] == {".": [501, 20], "hello": [501, 20]}


def test_it_is_told_that_the_kernel_is_too_old_and_which_one_would_do(
    old_kernel: dict[str, Any],
) -> None:
    (told,) = records(old_kernel, "fallback", "workspace")
    assert told["MESSAGE"] == (
        "fallback: workspace: mounted with raw ids: virtiofs refuses idmapped mounts (Linux 6.1):"
        " this kernel is too old for it\n"
        "hint: virtiofs needs Linux 6.12 and a server that grants it, or mount it with raw ids by"
        ' `idmap = "never"`'
    )


def test_an_old_kernel_idmaps_its_own_disk(old_kernel: dict[str, Any]) -> None:
    assert old_kernel["local"] == {".": _NODE}


def test_an_old_kernel_replaces_with_a_gap_that_is_told(old_kernel: dict[str, Any]) -> None:
    told = {each["name"]: each for each in old_kernel["replaced"]["volumes"]}
    assert told["local"]["action"] == "replace"
    assert told["local"]["notes"] == ["gap: for a moment /opt/local shows what lies under it"]
    assert told["workspace"]["action"] == "keep"
    assert old_kernel["local after"] == {".": [2000, 2000]}
    assert len(at(old_kernel, "/opt/local", "mounts at the end")) == 1
