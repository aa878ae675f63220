"""Whether others see what we mount, and which line of a unit's is to blame if they don't."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from world import World, run

from mountd.kernel.privileges import is_slave
from mountd.watch.confinement import Confinement, files_of, forcing, parse_unit, service_of

_UNIT = "mountd-on-trial.service"
_FOLDER = f"/run/systemd/system/{_UNIT}.d"
_ASK = """
import json
from mountd.watch.confinement import find_confinement
print(json.dumps(find_confinement()))
"""
# pid 1 is a shell, and what asks runs in its mount namespace or in one of its own
_APART = ("--mount", "--propagation=unchanged")


class Service:
    """A process in a control group of its own, as systemd starts one."""

    def __init__(self, world: World, group: Path) -> None:
        self._world = world
        self._group = group

    def find_confinement(
        self, *unshared: str, before: str = "", env: Mapping[str, str] | None = None
    ) -> Confinement | None:
        """What it finds after `unshare` with these options; `before` is run first, in there."""
        first = "unshare --pid --mount --fork --propagation=unchanged --mount-proc"
        start = f'echo 0 >{self._group}/cgroup.procs && exec {first} "$@"'
        apart = f'unshare {" ".join(unshared)} sh -c \'{before or ":"}; exec "$@"\' sh "$@"; exit'
        ask = (sys.executable, "-c", _ASK)
        result = self._world.run(["sh", "-c", start, "sh", "sh", "-c", apart, "sh", *ask], env)
        assert (result.status, result.err) == (0, "")
        found = json.loads(result.out)
        return Confinement(*found) if found else None


@pytest.fixture
def group(world: World) -> Iterator[Path]:
    """A control group, in which are others."""
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    (world / "groups").mkdir()
    run("mount", "-t", "cgroup2", "cgroup2", str(world / "groups"))
    path = world / "groups" / f"mountd-test-{os.getpid()}"
    path.mkdir()
    yield path
    for each in [*path.iterdir()]:
        if each.is_dir():
            each.rmdir()
    path.rmdir()


@pytest.fixture
def service(world: World, group: Path) -> Service:
    (group / _UNIT).mkdir()
    return Service(world, group / _UNIT)


def _write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def test_in_the_mount_namespace_of_pid_1_nothing_is_confined(service: Service) -> None:
    _write(f"/run/systemd/system/{_UNIT}", "[Service]\nPrivateTmp=yes\n")
    assert service.find_confinement("--propagation=unchanged") is None


def test_the_lines_to_blame_are_named_with_their_places(service: Service) -> None:
    unit = f"/run/systemd/system/{_UNIT}"
    _write(unit, "[Unit]\nPrivateTmp=yes\n[Service]\nUMask=0022\nProtectHome=yes\nPrivateTmp=no\n")
    _write(f"{_FOLDER}/20-b.conf", "[Service]\n\nReadOnlyPaths=/etc\n")
    _write("/run/systemd/system/mountd-.service.d/10-a.conf", "[Service]\nProtectSystem=full\n")
    _write("/run/systemd/system/service.d/30-c.conf", "[Service]\nProtectHome=no\n")
    found = service.find_confinement(*_APART)
    assert found
    assert _UNIT in found.message
    assert found.hint == (
        "take out `ProtectSystem=full` (/run/systemd/system/mountd-.service.d/10-a.conf:2),"
        f" `ReadOnlyPaths=/etc` ({_FOLDER}/20-b.conf:3)"
    )


@pytest.mark.parametrize("text", ["[Service]\nUMask=0022\n", None])
def test_without_a_line_to_blame_the_usual_ones_are_named(
    service: Service, text: str | None
) -> None:
    if text:
        _write(f"/run/systemd/system/{_UNIT}", text)
    found = service.find_confinement(*_APART)
    assert found
    assert "PrivateTmp=" in found.hint and f"`systemctl cat {_UNIT}`" in found.hint


def test_outside_any_service_the_hint_leads_out(world: World, group: Path) -> None:
    found = Service(world, group).find_confinement(*_APART)
    assert found
    assert "nsenter" in found.hint


@pytest.mark.parametrize(
    ("propagation", "env", "is_confined"),
    [
        ("slave", {"NOTIFY_SOCKET": "@none"}, True),
        ("slave", {}, False),
        ("private", {"NOTIFY_SOCKET": "@none"}, False),
    ],
)
def test_where_pid_1_is_hidden_the_root_of_a_service_tells(
    service: Service, propagation: str, env: Mapping[str, str], is_confined: bool
) -> None:
    run("mount", "--make-rshared", "/")
    options = ("--mount", f"--propagation={propagation}")
    found = service.find_confinement(*options, before="mount -t tmpfs tmpfs /proc/1", env=env)
    assert (found is not None) == is_confined


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("30 1 8:1 / / rw shared:9 master:1 - ext4 /dev/sda1 rw\n", True),
        ("30 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n", False),
        ("30 1 8:1 / / rw - ext4 /dev/sda1 rw\n31 30 0:5 / /a rw master:2 - tmpfs a rw\n", False),
    ],
)
def test_a_root_that_only_receives_mounts_is_a_slave(table: str, *, told: bool) -> None:
    assert is_slave(table) is told


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/mountd.service\n", "mountd.service"),
        ("0::/system.slice/mountd.service/inner\n", "mountd.service"),
        ("0::/system.slice/box.service/system.slice/mountd.service\n", "mountd.service"),
        ("5:memory:/x.service\n1:name=systemd:/system.slice/a@b.service\n0::/\n", "a@b.service"),
        ("0::/system.slice/_cpu.service\n", "cpu.service"),
        ("0::/user.slice/user-0.slice/session-1.scope\n", None),
        ("12:cpu:/a.service\n0::/\n", None),
        ("", None),
    ],
)
def test_the_service_is_told_by_the_control_group(cgroup: str, unit: str | None) -> None:
    assert service_of(cgroup) == unit


def _files(unit: str, *present: str) -> list[str]:
    def names_in(folder: str) -> list[str]:
        return [each.rpartition("/")[2] for each in present if each.rpartition("/")[0] == folder]

    return files_of(unit, names_in)


_ETC, _RUN, _LIB = "/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system"


@pytest.mark.parametrize(
    ("unit", "present", "read"),
    [
        ("a.service", (f"{_LIB}/a.service", f"{_ETC}/a.service"), (f"{_ETC}/a.service",)),
        ("a@1.service", (f"{_LIB}/a@.service",), (f"{_LIB}/a@.service",)),
        (
            "a@1.service",
            (f"{_RUN}/a@1.service", f"{_LIB}/a@.service"),
            (f"{_RUN}/a@1.service",),
        ),
        (
            "a.service",
            (f"{_LIB}/a.service.d/9.conf", f"{_RUN}/service.d/1.conf", f"{_ETC}/a.service.d/5.txt"),
            (f"{_RUN}/service.d/1.conf", f"{_LIB}/a.service.d/9.conf"),
        ),
        (
            "a.service",
            (f"{_LIB}/a.service.d/1.conf", f"{_ETC}/a.service.d/1.conf"),
            (f"{_ETC}/a.service.d/1.conf",),
        ),
        (
            "a.service",
            (f"{_LIB}/a.service.d/1.conf", f"{_ETC}/service.d/1.conf"),
            (f"{_LIB}/a.service.d/1.conf",),
        ),
        (
            "a-b-c@1.service",
            tuple(
                f"{_RUN}/{owner}.service.d/{owner}.conf"
                for owner in ("a", "a-", "a-b-", "a-b-c@", "a-b-c@1")
            ),
            tuple(
                f"{_RUN}/{owner}.service.d/{owner}.conf"
                for owner in ("a-", "a-b-", "a-b-c@", "a-b-c@1")
            ),
        ),
        (
            "a-b-c.service",
            (f"{_ETC}/a-.service.d/x.conf", f"{_RUN}/a-b-.service.d/x.conf"),
            (f"{_RUN}/a-b-.service.d/x.conf",),
        ),
    ],
)
def test_a_units_files_are_those_that_systemd_reads(
    unit: str, present: tuple[str, ...], read: tuple[str, ...]
) -> None:
    assert _files(unit, *present) == [*read]


@pytest.mark.parametrize(
    ("lines", "blamed"),
    [  # as systemd 257 does with a unit of each
        *((line, [line]) for line in (
            "PrivateTmp=yes", "PrivateTmp=disconnected", "PrivateMounts=1", "PrivateDevices=on",
            "PrivateNetwork=yes", "NetworkNamespacePath=/proc/1/ns/net", "PrivateIPC=t",
            "IPCNamespacePath=/proc/1/ns/ipc", "PrivatePIDs=yes", "ProtectSystem=strict",
            "ProtectHome=tmpfs", "ProtectKernelTunables=yes", "ProtectKernelModules=yes",
            "ProtectKernelLogs=yes", "ProtectControlGroups=yes", "ProtectProc=invisible",
            "ProcSubset=pid", "ReadOnlyPaths=/srv", "ReadWritePaths=/srv", "InaccessiblePaths=-/x",
            "ExecPaths=/usr", "NoExecPaths=/srv", "BindPaths=/srv:/mnt", "BindReadOnlyPaths=/srv",
            "TemporaryFileSystem=/mnt", "MountImages=/x.raw:/mnt", "ExtensionImages=-/x.raw",
            "ExtensionDirectories=-/x", "RootDirectory=/srv", "RootImage=/x.raw", "MountAPIVFS=yes",
            "DynamicUser=yes", "LogNamespace=foo", "BindLogSockets=yes", "MountFlags=slave",
            "ReadOnlyDirectories=/srv",
        )),
        *((line, []) for line in (
            "UMask=0022", "PrivateTmp=no", "PrivateTmp=off", "PrivateTmp=0", "PrivateTmp=",
            "ProtectHome=false", "ProtectProc=default", "ProcSubset=all", "MountFlags=shared",
            "MountFlags=", "RootDirectory=/", "RootDirectory=", "TemporaryFileSystem=",
            "StateDirectory=foo", "ImportCredential=mountd.*", "DevicePolicy=closed",
            "ProtectClock=yes", "ProtectHostname=yes", "RestrictSUIDSGID=yes", "privatetmp=yes",
        )),
        ("PrivateTmp=yes\nPrivateTmp=no", []),
        ("PrivateTmp=yes\nPrivateTmp=", ["PrivateTmp=yes"]),
        ("PrivateMounts=yes\nPrivateMounts=", []),
        ("LogNamespace=foo\nLogNamespace=", []),
        ("ProtectSystem=yes\nProtectSystem=full", ["ProtectSystem=full"]),
        ("BindPaths=/a\nBindPaths=/b", ["BindPaths=/a", "BindPaths=/b"]),
        ("BindPaths=/a\nBindPaths=\nBindPaths=/b", ["BindPaths=/b"]),
        ("BindPaths=no", ["BindPaths=no"]),
        ("PrivateTmp = yes", ["PrivateTmp=yes"]),
        ("PrivateTmp=\\\n# why\nyes", ["PrivateTmp=yes"]),
        ("PrivateTmp=\\\n; why\nyes", ["PrivateTmp=yes"]),
        ("# PrivateTmp=yes\n;PrivateTmp=yes", []),
        ("[Unit]\nPrivateTmp=yes", []),
        ("[Unit]\n[Service]\nPrivateTmp=yes", ["PrivateTmp=yes"]),
    ],
)  # fmt: skip
def test_what_is_in_force_and_forces_a_mount_namespace_is_found(
    lines: str, blamed: list[str]
) -> None:
    found = forcing(parse_unit(f"[Service]\n{lines}\n", "unit"))
    assert [f"{each.name}={each.value}" for each in found] == blamed


def test_a_line_that_goes_on_is_named_by_its_first() -> None:
    text = "\n[Service]\nExecStart=/bin/a \\\n  PrivateTmp=yes \\\n  b\n\nBindPaths=/a \\\n  /b\n"
    found = [(each.name, each.value, each.line) for each in parse_unit(text, "unit")]
    assert found == [
        ("ExecStart", "/bin/a  PrivateTmp=yes  b", 3),
        ("BindPaths", "/a  /b", 7),
    ]


def test_a_file_that_would_fool_a_terminal_is_named_harmlessly() -> None:
    (found,) = forcing(parse_unit("[Service]\nBindPaths=/\x1b[31m\n", "a\x1bb"))
    assert str(found).isprintable()
