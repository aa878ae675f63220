"""Whether others see what we mount, and what is said where they don't."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from world import World, run

from mountd.kernel.privileges import is_slave
from mountd.watch.confinement import Confinement, service_of

_UNIT = "mountd-on-trial.service"
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


def test_in_the_mount_namespace_of_pid_1_nothing_is_confined(service: Service) -> None:
    assert service.find_confinement("--propagation=unchanged") is None


@pytest.mark.fault(44, "how a watch finds out")
def test_the_usual_directives_are_named_and_what_says_which_are_set(service: Service) -> None:
    found = service.find_confinement(*_APART)
    assert found
    assert _UNIT in found.message
    assert "PrivateTmp=" in found.hint
    assert f"{_UNIT}` says what each is" in found.hint
    assert f"`systemctl cat {_UNIT}`" in found.hint


def test_outside_any_service_the_hint_leads_out(world: World, group: Path) -> None:
    found = Service(world, group).find_confinement(*_APART)
    assert found
    assert "nsenter" in found.hint


@pytest.mark.fault(44, "where pid 1's is hidden")
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
