"""The command line: what it takes, and how each command ends."""

import fcntl
import os
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from every_state import make_every_state
from world import MOUNTD, Result, World, run

_COMMANDS = ["reconcile", "watch", "status", "check", "explain", "unmount", "schema"]
_OPTIONS = [
    "--manifest", "-f", "--state-dir", "--wait", "--json", "--verbose", "--quiet", "--version",
    "--help", "-n", "--dry-run", "--detailed-exitcode", "--all",
    "--user",
]  # fmt: skip


def _mountd(*words: str, **env: str) -> Result:
    done = subprocess.run(
        [MOUNTD, *words], capture_output=True, text=True, check=False, env={**os.environ, **env}
    )
    assert "Traceback" not in done.stderr
    return Result(done.returncode, done.stdout, done.stderr)


def _good(world: World) -> None:
    world.volumes(
        work={"source": world.folder("source"), "target": world / "work", "user": "1000:1000"}
    )


def _mounted(world: World) -> None:
    _good(world)
    world.reconcile()


def _late(world: World, **keys: bool) -> None:
    """A volume that is there, and one whose source is not."""
    world.volumes(
        work={"source": world.folder("source"), "target": world / "work"},
        late={"source": world / "late", "target": world / "to", **keys},
    )


def _wrong(world: World) -> None:
    world.write("[volumes.work]\nsorce = 1\n")


def _missing(world: World) -> None:
    del world


def _empty(world: World) -> None:
    world.write("version = 1")


# What it takes


@pytest.mark.parametrize("words", [["--version"], ["reconcile", "-q", "--version"]])
def test_version_is_the_packages(words: list[str]) -> None:
    assert _mountd(*words) == Result(0, f"mountd {version('mountd')}\n", "")


@pytest.mark.parametrize("words", [["--help"], ["unmount", "-h"]], ids=" ".join)
def test_help_names_every_command_and_option_in_80_columns(words: list[str]) -> None:
    result = _mountd(*words, COLUMNS="80")
    assert (result.status, result.err) == (0, "")
    said = result.out.replace(",", " ").split()
    assert {*_COMMANDS, *_OPTIONS} - {*said} == set()
    for status in (0, 1, 2, 64, 75, 77, 78):
        assert str(status) in said
    assert [line for line in result.out.splitlines() if len(line) > 80] == []


def test_help_needs_neither_a_manifest_nor_privilege(world: World) -> None:
    assert world.mountd("--help", uid=1000).status == 0


@pytest.mark.parametrize(
    "words",
    [
        ["-f", "FILE", "--state-dir", "DIR", "--json", "reconcile", "-n"],
        ["reconcile", "-n", "--json", "--state-dir", "DIR", "-f", "FILE"],
        ["--json", "-n", "reconcile", "--manifest", "FILE", "--state-dir=DIR"],
        ["--manifest=FILE", "--state-dir=DIR", "-n", "--wait=0", "reconcile", "--json"],
        ["-fFILE", "--state-dir", "DIR", "-nq", "reconcile", "--json"],
    ],
    ids=" ".join,
)
def test_options_stand_before_and_after_the_command(world: World, words: list[str]) -> None:
    _good(world)
    places = {"FILE": world.manifest, "DIR": world.state}
    for place, path in places.items():
        words = [each.replace(place, path) for each in words]
    result = _mountd(*words)
    assert result.status == 0
    assert result.document["dry_run"]
    assert result.volume("work")["action"] == "mount"
    assert not (world / "work").exists()


def test_volumes_stand_before_and_after_options(world: World) -> None:
    world.folder("source")
    names = ["one", "two", "three"]
    world.volumes(**{name: {"source": world / "source", "target": world / name} for name in names})
    world.reconcile()
    result = world.mountd("unmount", "one", "--json", "three")
    assert result.status == 0
    assert {each["name"]: each["state"] for each in result.document["volumes"]} == {
        "one": "unmounted",
        "three": "unmounted",
    }
    assert [each.point for each in world.mounts()] == [str(world / "two")]


def test_relative_paths_are_taken_from_here(world: World) -> None:
    _good(world)
    done = subprocess.run(
        [MOUNTD, "reconcile", "--json", "-f", "./mountd.toml", "--state-dir", "state"],
        cwd=world.path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Result(0, done.stdout, "").document["manifest"] == [world.manifest]
    assert world.reconcile().volume("work")["action"] == "keep"


def test_the_places_that_are_not_said_are_the_machines_own(world: World) -> None:
    _good(world)
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    (world / "etc").mkdir()
    run("mount", "--bind", str(world / "etc"), "/etc")
    Path("/etc/mountd.toml").write_text(Path(world.manifest).read_text())
    Path("/etc/passwd").write_text("")
    assert _mountd("reconcile", "--json").document["manifest"] == ["/etc/mountd.toml"]
    assert (world / "work/hello").exists()
    assert sorted(os.listdir("/run/mountd")) == ["lock", "record.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "reconcile"),
        (["reconcil"], "`reconcil`: did you mean `reconcile`?"),
        (["umount"], "`umount`: did you mean `unmount`?"),
        (["frobnicate"], "`frobnicate`"),
        (["reconcile", "--dry-rum"], "`--dry-rum`: did you mean `--dry-run`?"),
        (["reconcile", "--dry"], "`--dry`"),
        (["status", "-x"], "`-x`"),
        (["reconcile", "--wait", "soon"], "`soon`"),
        (["reconcile", "--wait", "-1"], "-1"),
        (["reconcile", "--wait", "nan"], "`nan`"),
        (["reconcile", "--wait"], "--wait"),
        (["reconcile", "--manifest", ""], "--manifest"),
        (["reconcile", "-f"], "--manifest"),
        (["reconcile", "work"], "reconcile"),
        (["status", "work"], "status"),
        (["schema", "work"], "schema"),
        (["check", "--dry-run"], "--dry-run"),
        (["status", "--detailed-exitcode"], "--detailed-exitcode"),
        (["reconcile", "--all"], "reconcile"),
        (["unmount"], "--all"),
        (["unmount", "--all", "work"], "--all"),
        (["unmount", "--dry-run", "work"], "--dry-run"),
        (["explain"], "a volume"),
        (["explain", "work", "path", "more"], "a volume"),
        (["explain", "--all"], "a volume"),
        (["status", "--user", "node"], "--user"),
        (["explain", "work", "--user"], "--user"),
        (["reconcile", "--json=yes"], "--json"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_64_and_names_what_is_wrong(words: list[str], message: str) -> None:
    result = _mountd(*words, COLUMNS="80")
    assert result.status == 64
    assert result.out == ""
    assert message in result.err
    assert "usage: " not in result.err or not words
    if words:
        first, *rest = result.err.splitlines()
        assert first.startswith("mountd: ")
        assert rest == ["hint: `mountd --help` lists commands and options"]


def test_a_hint_that_points_to_status_leads_to_the_names_of_volumes(world: World) -> None:
    volume = {"source": world.folder("source"), "target": world / "work"}
    world.volumes(zebra=volume)
    refused = world.mountd("unmount", "zebar")
    assert refused.status == 64
    assert "`zebar`" in refused.err
    if "`mountd status` lists its volumes" in refused.err:
        assert "zebra" in world.mountd("status").out


# How it ends


@pytest.mark.parametrize(
    ("command", "make", "status"),
    [
        ("reconcile", _good, 0),
        ("reconcile", _empty, 0),
        ("reconcile", _late, 1),
        ("reconcile", _wrong, 78),
        ("reconcile", _missing, 78),
        ("reconcile -n", _good, 0),
        ("reconcile -n", _wrong, 78),
        ("status", _good, 1),
        ("status", _mounted, 0),
        ("status", _empty, 0),
        ("status", _late, 1),
        ("status", _wrong, 78),
        ("status", _missing, 78),
        ("check", _good, 0),
        ("check", _empty, 0),
        ("check", _late, 0),
        ("check", make_every_state, 0),
        ("check", _wrong, 78),
        ("check", _missing, 78),
        ("explain work", _good, 0),
        ("explain work", _mounted, 0),
        ("explain late", _late, 0),
        ("explain work sub/missing", _mounted, 0),
        ("explain other", _good, 64),
        ("explain work /etc", _good, 64),
        ("explain work --user nobody-at-all", _good, 64),
        ("explain work", _wrong, 78),
        ("explain work", _missing, 78),
        ("schema", _missing, 0),
        ("schema", _wrong, 0),
        ("unmount --all", _good, 0),
        ("unmount --all", _mounted, 0),
        ("unmount --all", _empty, 0),
        ("unmount --all", _wrong, 0),
        ("unmount --all", _missing, 0),
        ("unmount work", _mounted, 0),
        ("unmount work", _good, 0),
        ("unmount other", _good, 64),
        ("unmount other", _mounted, 64),
    ],
)
def test_each_command_ends_as_the_table_says(
    world: World, command: str, make: Callable[[World], None], status: int
) -> None:
    make(world)
    result = world.mountd(*command.split())
    assert result.status == status, result.err
    if status in (64, 78):
        assert result.out == ""
        assert result.err


@pytest.mark.parametrize(
    ("command", "unprivileged", "locked"),
    [
        ("reconcile", 77, 75),
        ("unmount --all", 77, 75),
        ("unmount work", 77, 75),
        ("reconcile --dry-run", 0, 0),
        ("status", 0, 0),
        ("check", 0, 0),
        ("explain work", 0, 0),
        ("schema", 0, 0),
    ],
)
def test_only_what_changes_something_needs_privilege_and_the_lock(
    world: World, command: str, unprivileged: int, locked: int
) -> None:
    _mounted(world)
    with open(f"{world.state}/lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = world.mountd(*command.split(), "--wait", "0")
        assert result.status == locked
        if locked:
            assert f"pid {os.getpid()}" in result.err
        result = world.mountd(*command.split(), "--wait", "0", uid=1000)
        assert result.status == unprivileged
        if unprivileged:
            assert "CAP_SYS_ADMIN" in result.err and "root" in result.err
    assert (world / "work/hello").exists()


@pytest.mark.parametrize("command", ["reconcile", "unmount --all"])
def test_privilege_is_decided_before_the_manifest(world: World, command: str) -> None:
    _wrong(world)
    result = world.mountd(*command.split(), uid=1000)
    assert result.status == 77
    assert "sorce" not in result.err
    assert not Path(world.state).exists()


def test_root_without_the_capability_is_not_privileged(world: World) -> None:
    _good(world)
    command = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", MOUNTD]
    words = ["reconcile", "-f", world.manifest, "--state-dir", world.state]
    assert world.run([*command, *words]).status == 77


# check


def test_check_says_that_a_manifest_is_good(world: World) -> None:
    _late(world)
    result = world.mountd("check")
    assert result.status == 0
    assert f"{world.manifest}: ok, 2 volumes" in result.out + result.err
    assert not Path(world.state).exists()
    assert not (world / "work").exists()


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("volumes = 1\n", ["1:11"]),
        ("[volumes.work\n", ["1:1"]),
        ("version = 2\n", ["1:11"]),
        ('[volumes.a]\nsource = "x"\ntarget = "/mnt/a"\nuser = ":g"\n', ["2:10", "4:8"]),
    ],
)
def test_check_says_where_a_manifest_is_wrong(world: World, text: str, places: list[str]) -> None:
    world.write(text)
    result = world.mountd("check")
    assert result.status == 78
    assert result.out == ""
    heads = [line for line in result.err.splitlines() if line.startswith(world.manifest)]
    assert [head.split(": error: ")[0] for head in heads] == [
        f"{world.manifest}:{place}" for place in places
    ]


# status


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("state", ["unmounted", "drifted", "pending", "conflict"])
def test_status_is_1_where_a_required_volume_is_not_as_it_should_be(
    world: World, state: str, required: bool
) -> None:
    volume = {"source": world.folder("source"), "target": world / "work", "required": required}
    world.volumes(work=volume)
    world.reconcile()
    if state != "drifted":
        run("umount", str(world / "work"))
    if state == "drifted":
        run("mount", "-o", "remount,bind,ro", str(world / "work"))
    elif state == "pending":
        (world / "source").rename(world / "elsewhere")
    elif state == "conflict":
        run("mount", "-t", "tmpfs", "tmpfs", str(world / "work"))
    result = world.mountd("status")
    assert result.status == int(required)
    shown = "drifted" if state == "unmounted" else state  # a mount that is gone is drift
    assert shown in result.out


def test_a_volume_that_is_not_enabled_is_not_there(world: World) -> None:
    world.volumes(work={"source": world / "no", "target": world / "work", "enabled": False})
    for command in ("reconcile", "status", "check"):
        result = world.mountd(command, "--json")
        assert result.status == 0
        assert result.document["volumes"] == []


# reconcile


def test_what_is_not_required_fails_no_run(world: World) -> None:
    _late(world, required=False)
    result = world.reconcile(status=0)
    assert result.volume("late")["state"] == "pending"
    assert result.volume("work")["state"] == "mounted"
    assert "late" in world.mountd("reconcile").err
    assert world.mountd("status").status == 0
    roots = world.folder("roots", owner=(0, 0))
    (world / "work2").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", str(world / "work2"))
    world.volumes(
        late={"source": world / "source", "target": world / "work2", "required": False},
        work={"source": world / "source", "target": world / "work"},
        roots={"source": roots, "target": world / "to", "user": "1000:1000", "required": False},
    )
    result = world.reconcile(status=0)
    states = {each["name"]: each["state"] for each in result.document["volumes"]}
    assert states == {"late": "conflict", "work": "mounted", "roots": "failed"}


def test_required_is_a_default_too(world: World) -> None:
    world.write(
        '[defaults]\nrequired = false\n[volumes.a]\nsource = "$/no"\ntarget = "$/a"\n'
        '[volumes.b]\nsource = "$/no"\ntarget = "$/b"\nrequired = true\n'
    )
    world.reconcile(status=1)
    world.write(Path(world.manifest).read_text().replace("required = true", ""))
    world.reconcile(status=0)


def test_a_required_volume_that_left_and_is_busy_fails_the_run(world: World) -> None:
    world.volumes(
        work={"source": world.folder("source"), "target": world / "work", "required": False}
    )
    world.reconcile()
    world.write("version = 1")
    with subprocess.Popen(["cat"], cwd=world / "work", stdin=subprocess.PIPE):
        result = world.reconcile(status=1)
        assert result.volume("work")["reason"] == "busy"
    world.reconcile(status=0)
    assert world.mounts() == []
