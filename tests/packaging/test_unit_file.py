"""The files that a distribution installs beside the command, as texts."""

import re
from pathlib import Path

import pytest
from package import PROJECT
from world import World, run

from mountd.report.journal import MESSAGE_IDS

UNITS = PROJECT / "units"
_FIELDS = {
    f"MOUNTD_{each}"
    for each in ("VOLUME", "TARGET", "SOURCE", "ACTION", "STATE", "REASON", "STEP", "OBJECT")
} | {"MOUNTD_PASS_ID", "ERRNO"}
_ENTRY = re.compile(r"^-- ([0-9a-f]{32})\n(.*?)(?=^-- |\Z)", re.MULTILINE | re.DOTALL)
_CATALOG = (UNITS / "mountd.catalog").read_text()
_ENTRIES = dict(_ENTRY.findall(_CATALOG))


def _directives(section: str, unit: Path = UNITS / "mountd.service") -> list[tuple[str, str]]:
    """What a section of a unit of ours says: none has a line that goes on in the next."""
    _, _, rest = unit.read_text().partition(f"[{section}]\n")
    lines = rest.partition("\n[")[0].splitlines()
    parts = (line.partition("=") for line in lines if "=" in line and line[0] != "#")
    return [(name, value) for name, _, value in parts]


def _values(section: str, name: str) -> list[str]:
    """All words that the unit gives a directive."""
    return [word for each, value in _directives(section) if each == name for word in value.split()]


# systemd's exec_needs_mount_namespace(), as of 257
_FORCING = {
    "BindLogSockets", "BindPaths", "BindReadOnlyPaths", "DynamicUser", "ExecPaths",
    "ExtensionDirectories", "ExtensionImages", "IPCNamespacePath", "InaccessiblePaths",
    "LogNamespace", "MountAPIVFS", "MountFlags", "MountImages", "NetworkNamespacePath",
    "NoExecPaths", "PrivateBPF", "PrivateDevices", "PrivateIPC", "PrivateMounts", "PrivateNetwork",
    "PrivatePIDs", "PrivateTmp", "ProcSubset", "ProtectControlGroups", "ProtectHome",
    "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc",
    "ProtectSystem", "ReadOnlyPaths", "ReadWritePaths", "RootDirectory", "RootImage", "RootMStack",
    "TemporaryFileSystem",
}  # fmt: skip


def test_the_unit_has_nothing_that_hides_its_mounts() -> None:
    assert {name for name, _ in _directives("Service")} & _FORCING == set()


@pytest.mark.parametrize(
    ("name", "breaks"),
    [
        ("DeviceAllow", "volumes on block devices"),
        ("DevicePolicy", "volumes on block devices"),
        ("ProtectClock", "volumes on block devices, as it implies DevicePolicy="),
        ("IPAddressDeny", "volumes on the network"),
        ("RestrictFileSystems", "sources on filesystems that it doesn't name"),
        ("RestrictSUIDSGID", "openat2(2)"),
        ("PrivateUsers", "mounting for the machine"),
        ("User", "mounting at all"),
    ],
)
def test_the_unit_has_nothing_that_breaks_its_work(name: str, breaks: str) -> None:
    assert _values("Service", name) == [], f"{name}= breaks {breaks}"


def test_no_call_is_filtered_but_by_name() -> None:
    """A list of what is allowed has no mount call that libseccomp doesn't know."""
    first, *others = _values("Service", "SystemCallFilter")
    assert first.startswith("~@")
    assert not {"@mount", "@privileged", "@resources", "@file-system"} & {first[1:], *others}


@pytest.mark.parametrize(
    ("section", "name", "words"),
    [
        ("Unit", "After", "local-fs.target remote-fs.target"),
        ("Unit", "Before", "systemd-user-sessions.service containerd.service docker.service"),
        ("Unit", "Before", "podman.service"),
        ("Service", "Type", "notify-reload"),
        ("Service", "ExecStart", "/usr/bin/mountd watch"),
        ("Service", "ImportCredential", "mountd.*"),
        ("Service", "Restart", "on-failure"),
        ("Service", "RestartPreventExitStatus", "77 78"),
        ("Service", "RuntimeDirectory", "mountd"),
        ("Service", "RuntimeDirectoryPreserve", "yes"),
        ("Service", "CapabilityBoundingSet", "CAP_SYS_ADMIN CAP_SETUID CAP_SETGID CAP_SETFCAP"),
        ("Service", "CapabilityBoundingSet", "CAP_DAC_OVERRIDE CAP_SYS_PTRACE"),
        ("Service", "MemoryDenyWriteExecute", "yes"),
        ("Install", "WantedBy", "multi-user.target"),
    ],
)
def test_the_unit_says(section: str, name: str, words: str) -> None:
    assert set(words.split()) <= set(_values(section, name))


def test_the_unit_pulls_in_nothing() -> None:
    pulling = {"Wants", "Requires", "Requisite", "BindsTo", "PartOf", "Upholds", "OnFailure"}
    names = {name for name, _ in _directives("Unit")}
    assert {name for name in names if name in pulling or name.startswith("Requires")} == set()


def test_the_watchdog_and_the_restarts_have_times() -> None:
    for name in ("WatchdogSec", "RestartSec", "RestartMaxDelaySec", "TimeoutStopSec"):
        assert re.fullmatch(r"[1-9]\d*(s|min)", " ".join(_values("Service", name)))


def test_the_catalogue_has_an_entry_for_each_kind_of_event() -> None:
    ids = _ENTRY.findall(_CATALOG)
    assert len(ids) == len(_ENTRIES), "an id has two entries"
    assert _ENTRIES.keys() == set(MESSAGE_IDS.values())


@pytest.mark.parametrize("event", MESSAGE_IDS)
def test_an_entry_of_the_catalogue_has_a_subject_and_a_text(event: str) -> None:
    header, _, text = _ENTRIES[MESSAGE_IDS[event]].partition("\n\n")
    lines = dict(line.split(": ", 1) for line in header.splitlines())
    assert lines.keys() == {"Subject", "Defined-By"}
    assert lines["Defined-By"] == "mountd"
    assert len(text.split()) > 10
    assert max(map(len, text.splitlines())) <= 80
    assert len(re.sub("@.*?@", "a-volume", lines["Subject"])) <= 80
    fields = set(re.findall("@([A-Z_]+)@", header + text))
    assert fields <= _FIELDS
    is_of_a_volume = event in (
        "mounted", "replaced", "adjusted", "unmounted", "pending", "failed", "conflict",
        "fallback", "drifted", "undone", "recovered",
    )  # fmt: skip
    assert ("MOUNTD_VOLUME" in fields) == is_of_a_volume


def test_systemd_takes_the_catalogue(world: World) -> None:
    root = world / "root"
    catalog = root / "usr/lib/systemd/catalog"
    catalog.mkdir(parents=True)
    (root / "var/lib/systemd/catalog").mkdir(parents=True)
    (catalog / "mountd.catalog").write_text(_CATALOG)
    run("journalctl", "--update-catalog", "--root", str(root))
    listed = run("journalctl", "--list-catalog", "--root", str(root)).splitlines()
    assert {line.split()[0] for line in listed} == set(MESSAGE_IDS.values())
    assert all(" mountd: " in line for line in listed)


def test_the_preset_enables_the_unit() -> None:
    lines = (UNITS / "mountd.preset").read_text().splitlines()
    assert [line for line in lines if line and line[0] != "#"] == ["enable mountd.service"]


def test_the_workload_waits_for_mountd_without_falling_with_it() -> None:
    assert dict(_directives("Unit", PROJECT / "examples/workload.conf")) == {
        "Wants": "mountd.service",
        "After": "mountd.service",
        "AssertPathIsMountPoint": "/home/node/workspace",
    }


@pytest.mark.parametrize(
    "path", [*UNITS.iterdir(), PROJECT / "examples/workload.conf"], ids=lambda path: path.name
)
def test_no_line_is_too_long(path: Path) -> None:
    assert max(map(len, path.read_text().splitlines())) <= 100
