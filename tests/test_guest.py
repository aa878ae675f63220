"""A guest that the example builds and boots: virtiofs, power cycles, old daemons and old kernels."""

import os
import shutil
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guest import EXAMPLE, Guest
from package import PROJECT
from world import owner

from mountd.journal import MESSAGE_IDS

_EVENTS = {each: event for event, each in MESSAGE_IDS.items()}
_WORK = "/home/node/workspace"
_NODE = [1000, 1000]
_MANIFEST = (EXAMPLE / "volumes.toml").read_text()
"""The share `workspace` in node's home."""


def volume(name: str, **keys: Any) -> str:
    """A volume of the share `workspace`, at a target named after it, for node."""
    keys = {"type": "virtiofs", "source": "workspace", "target": f"/srv/{name}", "user": "node"} | keys
    told = {key: str(value).lower() if isinstance(value, bool) else f'"{value}"'
            for key, value in keys.items()}  # fmt: skip
    return "\n".join([f"[volumes.{name}]", *(f"{key} = {value}" for key, value in told.items()), ""])


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
    make(work / "private", mode=0o700)
    make(work / "private/secret", mode=0o600)
    shutil.copy("/usr/bin/id", work / "setuid")
    os.chmod(work / "setuid", 0o4755)
    os.mknod(work / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))
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
            volume("late", subdir="late", user="late", required=False),
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
            scene, manifest, shares, credentials=credentials, wants=["workload.service"], DISK=disk
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


def test_x(first: dict[str, Any], second: dict[str, Any], shared: Path) -> None:
    import json
    print(json.dumps(first, indent=1), json.dumps(second, indent=1))
    os.system(f"ls -lnR {shared}")
    assert 0
