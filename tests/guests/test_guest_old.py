"""The example's guest with a daemon, or a kernel, that is too old; and BoxLite's cases."""

import subprocess
from pathlib import Path
from typing import Any

import boxlite
import pytest
from guest import EXAMPLE, Guest, at, make, records, volume
from pages import block

_NODE = [1000, 1000]
_CASES = boxlite.cases()
_ELSEWHERE = {12, 15}  # one is an error, one a volume's target
_MANIFEST = (EXAMPLE / "volumes.toml").read_text()
"""The share `workspace` in node's home."""


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Guest:
    return Guest(tmp_path_factory.mktemp("guest"))


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
            is_lean=True,
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


# an old kernel


@pytest.fixture(scope="module")
def old_kernel(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the same image told under Linux 6.1."""
    work = make(tmp_path_factory.mktemp("old") / "workspace")
    make(work / "hello", mode=0o644)
    return guest.boot(
        "old_kernel", _MANIFEST, {"workspace": work}, is_lean=True, KERNEL=guest.old_kernel
    )


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
