"""What people and programs read: the plan, the report, the status, and the JSON document."""

import fcntl
import json
import os
import pty
import re
import shutil
import subprocess
import termios
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unicodedata import category

import pytest
from every_state import ACTIONS, make_every_state
from golden import Golden
from silent_server import Server
from terminal import read_terminal
from watcher import eventually
from world import MOUNTD, Result, World, run


def _on_terminal(world: World, *words: str, columns: int = 80, **env: str) -> str:
    """Run mountd with its stdout on a terminal, and return what is written there."""
    terminal, stdout = pty.openpty()
    termios.tcsetwinsize(stdout, (24, columns))
    kept = {name: each for name, each in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [MOUNTD, *words, "--manifest", world.manifest, "--state-dir", world.state],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**kept, "TERM": "xterm", **env},
    )
    os.close(stdout)
    seen = b"".join(iter(lambda: read_terminal(terminal), b""))
    os.close(terminal)
    _, err = process.communicate()
    assert b"Traceback" not in err, err.decode()
    return seen.decode().replace("\r\n", "\n")


def _assert_fits(text: str, width: int) -> None:
    """See that a line is longer only where a single word in it is itself too long."""
    for line in text.splitlines():
        longest = max(map(len, line.split()), default=0)
        assert len(line) <= width or longest > width - 13, line
        assert len(line) - longest <= width, line


def _one_volume(world: World, **keys: Any) -> None:
    world.folder("source")
    table = {"source": world / "source", "target": world / "work", "user": "1000:1000", **keys}
    world.volumes(work=table)


# For people


def test_plan_run_and_status_read_like_this(world: World, golden: Golden) -> None:
    make_every_state(world)
    for name, words in {
        "plan": ["reconcile", "--dry-run"],
        "status": ["status"],
        "run": ["reconcile"],
        "run-again": ["reconcile"],
        "status-after": ["status"],
    }.items():
        result = world.mountd(*words)
        assert result.status == 1
        golden(name, f"{result.out}--- stderr\n{result.err}")


def test_in_a_pipe_lines_have_80_columns(world: World) -> None:
    make_every_state(world)
    for words in (["reconcile", "--dry-run"], ["status"], ["reconcile"], ["reconcile"], ["status"]):
        _assert_fits(world.mountd(*words).out, 80)


def test_status_is_by_target(world: World) -> None:
    world.folder("source")
    names = ("c", "a", "b")
    world.volumes(**{
        name: {"source": world / "source", "target": world / f"to-{other}"}
        for name, other in zip(names, ("x", "z", "y"), strict=True)
    })  # fmt: skip
    lines = world.mountd("status").out.splitlines()
    assert [line.split()[0] for line in lines] == ["TARGET", *(f"/mnt/to-{n}" for n in "xyz")]


_NONE = "version = 1"
"""A manifest without volumes."""


@pytest.mark.parametrize("text", [None, "volumes = 1", _NONE], ids=["gone", "wrong", "none"])
def test_status_without_a_manifest_shows_what_is_mounted_all_the_same(
    world: World, text: str | None
) -> None:
    _one_volume(world)
    world.reconcile()
    shown = world.mountd("status").out
    os.unlink(world.manifest)
    if text is not None:
        world.write(text)
    result = world.mountd("status")
    assert result.status == (0 if text == _NONE else 78)
    assert "error: " in result.err or text == _NONE
    assert result.out == (shown.replace("mounted", "leaving") if text == _NONE else shown)
    world.mountd("unmount", "--all")
    assert world.mountd("status").out == ""
    assert "no volumes" in world.mountd("status").err or text != _NONE


@pytest.mark.parametrize("columns", [50, 200])
def test_the_text_is_as_wide_as_the_terminal(world: World, columns: int, golden: Golden) -> None:
    make_every_state(world)
    texts = {
        name: _on_terminal(world, *words, columns=columns, NO_COLOR="1")
        for name, words in {"plan": ["reconcile", "-n"], "status": ["status"]}.items()
    }
    for name, text in texts.items():
        golden(f"{name}-{columns}", text)
    for text in texts.values():
        _assert_fits(text, columns)


@pytest.mark.parametrize("columns", [1, 20])
def test_a_very_narrow_terminal_does_not_stop_a_pass(world: World, columns: int) -> None:
    make_every_state(world)
    for words in (["reconcile", "-n"], ["status"], ["reconcile"]):
        assert "/mnt" in _on_terminal(world, *words, columns=columns)
    assert (world / "to/new/hello").exists()


def test_long_ids_on_a_narrow_terminal_do_not_stop_status(world: World) -> None:
    _one_volume(world, user="4294967293:4294967293", owner="4294967294:4294967294")
    assert "STATE" in _on_terminal(world, "status", columns=40)


def test_a_terminal_of_unknown_size_counts_as_80_columns(world: World) -> None:
    make_every_state(world)
    text = _on_terminal(world, "reconcile", "-n", columns=0, NO_COLOR="1")
    assert text == world.mountd("reconcile", "-n").out


def test_long_paths_overflow_by_themselves_only(world: World) -> None:
    source, target = world / ("s" * 190) / "x", world / ("t" * 190) / "x"
    world.folder(str(source.relative_to(world.path)))
    os.chown(source.parent, 0, 0)
    world.volumes(
        long={"source": source, "target": target, "user": "1000:1000"},
        late={"source": f"{source}-late", "target": f"{target}-late"},
        short={"source": world.folder("short"), "target": world / "to"},
    )
    for words in (["reconcile", "-n"], ["reconcile"], ["status"]):
        _assert_fits(world.mountd(*words).out, 80)


def test_a_path_and_a_command_in_a_message_are_whole(world: World) -> None:
    """Wherever they fit: a path in two lines can't be copied, and `-` is no place to break one."""
    target = world / "to/a-target-of-a-length-at-which-it-is-broken"
    target.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "tmpfs", str(target))
    _one_volume(world, target=target)
    for words in (["reconcile", "-n"], ["status"]):
        lines = world.mountd(*words).out.splitlines()
        assert any(f"mounted at {target}" in line or line.strip() == str(target) for line in lines)
        assert any(f"umount {target}" in line for line in lines)


def test_a_pipe_gets_no_escape_sequence(world: World) -> None:
    make_every_state(world)
    for words in (["reconcile", "-n"], ["status"], ["reconcile"]):
        result = world.mountd(*words)
        assert result.out
        assert "\x1b" not in result.out + result.err


def test_a_terminal_gets_colour_beside_words_and_signs(world: World) -> None:
    make_every_state(world)
    coloured = _on_terminal(world, "reconcile", "-n")
    plain = _on_terminal(world, "reconcile", "-n", NO_COLOR="1")
    sgr = re.compile(r"\x1b\[[0-9;]*m")
    assert len(set(sgr.findall(coloured))) > 3
    assert sgr.sub("", coloured) == plain
    signs = {line.split()[1]: line[2] for line in plain.splitlines()[2:] if line[:4].strip()}
    wanted = {"replace": "~", "adjust": "~", "mount": "+", "unmount": "-"}
    refused = {"pending": "!", "conflict": "!", "failed": "!"}
    assert {verb: sign for verb, sign in signs.items() if verb in wanted | refused} == (
        wanted | refused
    )
    for word in wanted | refused:  # its colour ends before the line does
        line = next(each for each in coloured.splitlines() if f" {word} " in each)
        assert line.rindex("\x1b[0m") == max(line.rindex(each) for each in sgr.findall(line))


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colour_can_be_refused(world: World, env: dict[str, str]) -> None:
    make_every_state(world)
    for words in (["reconcile", "-n"], ["status"], ["reconcile"]):
        assert "\x1b" not in _on_terminal(world, *words, columns=80, **env)


def test_an_empty_no_color_refuses_nothing(world: World) -> None:
    make_every_state(world)
    assert "\x1b[" in _on_terminal(world, "reconcile", "-n", NO_COLOR="")  # no-color.org


def test_a_second_run_says_that_there_is_nothing_to_do(world: World) -> None:
    _one_volume(world)
    first, second = world.mountd("reconcile"), world.mountd("reconcile")
    assert "1 action" in first.out
    assert second == Result(0, "mountd: 1 volume, nothing to do\n", "")
    assert world.mountd("reconcile", "-n").out.startswith("mountd: 1 volume, nothing to do\n")
    verbose = world.mountd("reconcile", "--verbose")
    assert re.search(rf"keep +{world / 'work'} ", verbose.out)
    assert verbose.err == ""


def test_stdout_has_the_plan_and_stderr_all_else(world: World) -> None:
    _one_volume(world)
    result = world.mountd("reconcile")
    assert result.out.startswith("mountd: 1 volume, 1 action\n")
    assert "Done" not in result.out, "a plan, status and JSON are all that stdout gets"
    assert result.err.startswith("mounted: work at /mnt/work\n")
    assert world.mountd("unmount", "work").err.startswith("unmounted: work from /mnt/work\n")


def test_quiet_says_nothing_of_what_went_well(world: World) -> None:
    _one_volume(world)
    for words in (["reconcile", "-n"], ["reconcile"], ["check"], ["status"], ["unmount", "work"]):
        assert world.mountd(*words, "--quiet") == Result(0, "", ""), words


@pytest.mark.parametrize("words", [["reconcile"], ["reconcile", "-n"], ["status"]])
def test_quiet_says_what_went_wrong(world: World, words: list[str]) -> None:
    make_every_state(world)
    result = world.mountd(*words, "--quiet")
    assert result.status == 1
    assert result.out == ""
    for message in ("there is no /mnt/source/late", "/mnt/to/stranger", "uid 1000 is swapped"):
        assert message in result.err
    assert "kept" not in result.err


def test_quiet_leaves_the_document(world: World) -> None:
    _one_volume(world)
    result = world.mountd("reconcile", "--quiet", "--json")
    assert result.volume("work")["state"] == "mounted"
    assert result.err == ""


# Status


def _gone(world: World) -> None:
    run("umount", str(world / "work"))


def _another_source(world: World) -> None:
    (world / "source").rename(world / "old")
    world.folder("source")


def _another_user(world: World) -> None:
    text = Path(world.manifest).read_text()
    world.write(text.replace("1000:1000", "1001:1001"))


def _other_flags(world: World) -> None:
    run("mount", "-o", "remount,bind,ro", str(world / "work"))


def _another_flag_in_the_manifest(world: World) -> None:
    world.write(f"{Path(world.manifest).read_text()}\nnoexec = true")


@pytest.mark.parametrize(
    ("spoil", "field", "wanted", "found"),
    [
        (_gone, "mount", "/mnt/work", "nothing"),
        (_another_source, "source", "/mnt/source", "/old of its tmpfs"),
        (_another_user, "idmap", "uid 501↔1001, gid 20↔1001", "uid 501↔1000, gid 20↔1000"),
        (_other_flags, "flags", "rw,nosuid,nodev,relatime", "ro,nosuid,nodev,relatime"),
        (
            _another_flag_in_the_manifest,
            "flags",
            "rw,nosuid,nodev,noexec,relatime",
            "rw,nosuid,nodev,relatime",
        ),
    ],
)
def test_status_tells_drift_field_by_field(
    world: World, spoil: Callable[[World], None], field: str, wanted: str, found: str
) -> None:
    _one_volume(world)
    world.reconcile()
    spoil(world)
    volume = world.mountd("status", "--json").volume("work")
    assert volume["drift"] == [{"field": field, "wanted": wanted, "found": found}]
    assert volume["state"] == ("unmounted" if field == "mount" else "mounted")
    status = world.mountd("status")
    assert status.status == 1
    assert "drifted" in status.out
    assert f"{field}: is {found}, not {wanted}" in status.out


def test_status_tells_several_fields_at_once(world: World) -> None:
    _one_volume(world)
    world.reconcile()
    for spoil in (_another_source, _another_user, _other_flags):
        spoil(world)
    drift = world.mountd("status", "--json").volume("work")["drift"]
    assert [each["field"] for each in drift] == ["source", "idmap", "flags"]
    world.reconcile()
    mended = world.mountd("status", "--json")
    assert (mended.status, mended.volume("work")["drift"]) == (0, [])


def test_status_has_the_idmapping_that_the_kernel_has(world: World) -> None:
    _one_volume(world)
    assert world.mountd("status", "--json").volume("work")["idmap"] is None
    has = world.reconcile().volume("work")["idmap"]
    assert [each for each in has["uids"] if each["stored"] in (501, 1000)] == [
        {"stored": 501, "seen": 1000, "count": 1},
        {"stored": 1000, "seen": 501, "count": 1},
    ]
    _another_user(world)
    assert world.mountd("status", "--json").volume("work")["idmap"] == has
    assert world.reconcile("-n").volume("work")["idmap"] != has


def test_the_table_of_status_has_the_idmapping_that_the_kernel_has(world: World) -> None:
    _one_volume(world)
    world.reconcile()
    _another_user(world)
    (row,) = (line for line in world.mountd("status").out.splitlines() if " drifted" in line)
    assert "501:20→1000:1000" in row
    world.write("version = 1")
    (row,) = (line for line in world.mountd("status").out.splitlines() if " leaving" in line)
    assert "501:20→1000:1000" in row


# What strangers named

_NASTY = [
    "line\nbreak",
    "return\rhere",
    "red\x1b[31m",
    "title\x1b]0;me\x07",
    "csi\u009b31m",
    "\x7f",
]


def _assert_harmless(result: Result) -> None:
    for text in (result.out, result.err):
        assert not [each for each in text if category(each) == "Cc" and each != "\n"], ascii(text)
        assert "line\n" not in text
        assert "return\n" not in text


def test_a_strangers_mount_points_never_reach_the_terminal_raw(world: World) -> None:
    source = world.folder("source")
    volumes = {}
    for number, name in enumerate(map(os.fsencode, [*_NASTY, "not utf-8\udcff"])):
        target = world / f"to/{number}"
        volumes[f"v{number}"] = {"source": source, "target": target, "user": "1000:1000"}
        point = os.fsencode(target) + b"/" + name
        os.makedirs(point)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", point], check=True)
    world.volumes(**volumes)
    for words in (["reconcile", "-n"], ["status"], ["reconcile"]):
        result = world.mountd(*words)
        assert result.status == 1
        told = " ".join((result.out + result.err).split())
        assert told.count("a mount lies below the target") == len(volumes)
        _assert_harmless(result)
    reasons = [each["reason"] for each in world.reconcile(status=1).document["volumes"]]
    assert reasons == ["foreign-mount"] * len(volumes)


def test_programs_that_keep_a_mount_busy_never_name_themselves_raw(world: World) -> None:
    _one_volume(world)
    world.reconcile()
    with ExitStack() as stack:
        for name in _NASTY[1:]:
            shutil.copy("/bin/cat", world / name)
            process = subprocess.Popen(
                [world / name], cwd=world / "work", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
            )
            stack.enter_context(process)
        result = world.mountd("unmount", "work")
    assert result.status == 1
    assert f"pid {process.pid}" in result.err
    _assert_harmless(result)


def test_what_links_lead_to_never_reaches_the_terminal_raw(world: World) -> None:
    volumes = {}
    for number, name in enumerate(_NASTY):
        source, target = world / f"from{number}", world / f"to{number}"
        world.folder(f"source{name}")
        source.symlink_to(world / f"source{name}")
        target.symlink_to(world / f"target{name}")
        volumes[f"v{number}"] = {"source": source, "target": target, "user": "1000:1000"}
    world.volumes(**volumes)
    for words in (["reconcile", "-n"], ["reconcile"], ["status"], ["unmount", "--all"]):
        result = world.mountd(*words)
        assert result.status == 0
        _assert_harmless(result)


@pytest.mark.parametrize(
    "key", ["user", "source", "target", "owner", "accounts", "idmap", None], ids=str
)
def test_what_a_manifest_holds_never_reaches_the_terminal_raw(
    world: World, key: str | None
) -> None:
    lines = []
    for number, name in enumerate(_NASTY):
        table = {"source": "/mnt/source", "target": f"/mnt/to/{number}"}
        table[key or name] = f"/mnt/{name}" if key in ("source", "target", "accounts") else name
        lines.append(f"[volumes.v{number}]")
        lines += [f"{json.dumps(each)} = {json.dumps(value)}" for each, value in table.items()]
    for content in (lines, lines[12:15]):  # a path with `\u009b` may be a good one
        world.write("\n".join(content))
        for words in (["check"], ["reconcile", "-n"]):
            _assert_harmless(world.mountd(*words))


def test_a_name_in_passwd_that_is_no_name_changes_nothing(world: World) -> None:
    world.rootfs(b"red\x1b[31m:x:7:7::/:\n\xff\xfe:x:8:8::/:\nnode:x:1000:1000::/:/bin/sh\n")
    _one_volume(world, user="node", accounts=world / "rootfs")
    result = world.mountd("reconcile")
    assert result.status == 0
    _assert_harmless(result)


# For programs

_REASONS = {
    "kernel-too-old", "not-privileged", "seccomp", "filesystem-refuses", "mount-refused",
    "source-is-idmapped", "idmap-untrue", "root-owned", "no-source", "no-target", "no-user",
    "no-group", "unsafe-path", "wrong-kind", "foreign-mount", "busy", "read-only-filesystem",
    "not-answering", "limit", "io",
}  # fmt: skip
_EXTENTS = [{"stored": int, "seen": int, "count": int}]
_VOLUME = {
    "name": str,
    "target": str,
    "source": str,
    "action": {None, "mount", "replace", "adjust", "unmount", "keep"},
    "state": {"mounted", "pending", "failed", "conflict", "unmounted"},
    "reason": {None, *_REASONS},
    "drift": [{"field": {"mount", "source", "idmap", "flags"}, "wanted": str, "found": str}],
    "fallback": {None, "plain"},
    "refused": (None, {"code": _REASONS, "message": str, "hint": (None, str)}),
    "idmap": (None, {"uids": _EXTENTS, "gids": _EXTENTS}),
    "notes": [str],
    "error": (None, {"code": _REASONS, "message": str, "hint": (None, str)}),
}
_FILESYSTEM = {
    "type": str,
    "source": str,
    "options": [str],
    "action": {None, "mount", "replace", "unmount", "keep"},
    "state": {"mounted", "pending", "failed", "conflict", "unmounted"},
    "notes": [str],
    "error": (None, {"code": _REASONS, "message": str, "hint": (None, str)}),
    "volumes": [str],
}
_ERROR = {
    "file": (None, str),
    "line": (None, int),
    "column": (None, int),
    "message": str,
    "hint": (None, str),
}
_DOCUMENT = {
    "version": {1},
    "pass_id": str,
    "manifest": [str],
    "dry_run": bool,
    "changed": bool,
    "volumes": [_VOLUME],
    "filesystems": [_FILESYSTEM],
    "errors": [_ERROR],
}


def _assert_shape(value: Any, shape: Any, where: str = "") -> None:
    match shape:
        case tuple() if value is None:
            pass
        case (None, inner):
            _assert_shape(value, inner, where)
        case dict():
            assert list(value) == list(shape), where
            for key, each in shape.items():
                _assert_shape(value[key], each, f"{where}.{key}")
        case [inner]:
            assert type(value) is list, where
            for each in value:
                _assert_shape(each, inner, f"{where}[]")
        case set():
            assert value in shape, where
        case _:
            assert type(value) is shape, where


def _assert_document(result: Result) -> None:
    document = result.document
    _assert_shape(document, _DOCUMENT)
    for each in document["volumes"]:
        assert (each["error"] is not None) == (each["state"] in ("pending", "failed", "conflict"))
        assert each["reason"] == (each["error"] and each["error"]["code"])
        assert each["action"] or each["error"], "nothing is done without a word"


def test_the_document_has_the_keys_and_types_that_are_promised(world: World) -> None:
    make_every_state(world)
    for words, status in {
        ("check",): 0,
        ("status",): 1,
        ("reconcile", "--dry-run"): 1,
        ("reconcile",): 1,
        ("unmount", "--all"): 0,
    }.items():
        result = world.mountd(*words, "--json")
        assert result.status == status
        _assert_document(result)
        document = result.document
        assert document["manifest"] == [world.manifest]
        assert document["dry_run"] == (words not in (("reconcile",), ("unmount", "--all")))
        assert document["changed"]
        assert document["errors"] == []
        assert len(document["volumes"]) > 5


def test_the_volumes_are_in_the_manifests_order_and_then_what_leaves(world: World) -> None:
    make_every_state(world)
    leaving = [("leaves", "a-place-to-leave"), ("moved", "before"), ("goes", "one-more")]
    for command in ("status", "check", "reconcile"):
        volumes = world.mountd(command, "--json").document["volumes"]
        assert [each["name"] for each in volumes] == [*ACTIONS, *(name for name, _ in leaving)]
        targets = [each["target"] for each in volumes[len(ACTIONS) :]]
        assert targets == [f"/mnt/to/{folder}" for _, folder in leaving]


def test_each_pass_has_an_id_of_its_own(world: World) -> None:
    _one_volume(world)
    ids = {world.reconcile().document["pass_id"] for _ in range(3)}
    assert len(ids) == 3


def _wrong_manifest(world: World) -> None:
    world.write("[volumes.work]\nsorce = 1\ntarget = 'x'\n")


def _missing_manifest(world: World) -> None:
    os.unlink(world.manifest)


def _state_is_a_file(world: World) -> None:
    Path(world.state).write_text("")


@pytest.mark.parametrize(
    ("words", "spoil", "status"),
    [
        (["reconcile"], _wrong_manifest, 78),
        (["reconcile", "-n"], _wrong_manifest, 78),
        (["status"], _wrong_manifest, 78),
        (["check"], _wrong_manifest, 78),
        (["reconcile"], _missing_manifest, 78),
        (["status"], _missing_manifest, 78),
        (["check"], _missing_manifest, 78),
        (["reconcile"], _state_is_a_file, 1),
        (["unmount", "--all"], _state_is_a_file, 1),
        (["unmount", "other"], None, 64),
    ],
)
def test_there_is_one_document_whatever_happens(
    world: World, words: list[str], spoil: Callable[[World], None] | None, status: int
) -> None:
    _one_volume(world)
    if spoil:
        spoil(world)
    result = world.mountd(*words, "--json")
    assert result.status == status
    _assert_document(result)
    document = result.document
    assert not document["changed"]
    assert document["dry_run"] == (words[0] in ("status", "check") or "-n" in words)
    assert document["errors"]
    for error in document["errors"]:
        assert error["message"] in result.err


@pytest.mark.parametrize("words", [["reconcile"], ["unmount", "--all"]])
def test_there_is_one_document_without_privilege_and_without_the_lock(
    world: World, words: list[str]
) -> None:
    _one_volume(world)
    world.reconcile()
    unprivileged = world.mountd(*words, "--json", uid=1000)
    with open(f"{world.state}/lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        locked = world.mountd(*words, "--wait", "0", "--json")
    assert (unprivileged.status, locked.status) == (77, 75)
    for result in (unprivileged, locked):
        _assert_document(result)
        (error,) = result.document["errors"]
        assert error["message"] in result.err


def test_the_errors_of_a_manifest_say_where(world: World) -> None:
    world.write('[volumes.work]\nsource = "/mnt/source"\ntarget = 1\nuser = "a:b:c"\n')
    errors = world.reconcile(status=78).document["errors"]
    places = [(each["file"], each["line"], each["column"]) for each in errors]
    assert places == [(world.manifest, 3, 10), (world.manifest, 4, 8)]


# While it takes its time


def _stderr_on_terminal(world: World, *words: str) -> str:
    """Run mountd with its stderr on a terminal, and return what is written there."""
    terminal, stderr = pty.openpty()
    command = [MOUNTD, *words, "--manifest", world.manifest, "--state-dir", world.state]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
    )
    os.close(stderr)
    seen = b"".join(iter(lambda: read_terminal(terminal), b""))
    os.close(terminal)
    process.communicate()
    return seen.decode()


@pytest.mark.parametrize("words", [["reconcile"], ["reconcile", "-n"], ["status"], ["check"]])
def test_a_pass_that_takes_its_time_says_so_on_a_terminal_and_leaves_no_trace(
    world: World, words: list[str]
) -> None:
    server = Server(world / "fuse")
    try:
        server.fall_silent()
        world.volumes(work={"source": world / "fuse", "target": world / "work"})
        line = "mountd: looking at the volumes…"
        seen = _stderr_on_terminal(world, *words)
        assert seen.startswith(f"\r{line}\r{' ' * len(line)}\r"), "it is shown, then blanked"
        assert seen.count(line) == 1
        assert line not in _stderr_on_terminal(world, *words, "--quiet")
        assert line not in world.mountd(*words).err
    finally:
        server.die()


@pytest.mark.parametrize("words", [["reconcile"], ["unmount", "--all"]])
def test_who_is_waited_for_is_said(world: World, words: list[str]) -> None:
    _one_volume(world)
    world.reconcile()
    with open(f"{world.state}/lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        seen = _stderr_on_terminal(world, *words, "--wait", "1")
    assert f"\rmountd: another pass is running (pid {os.getpid()})" in seen
    assert seen.endswith("with --wait SECONDS\r\n")


def test_a_quick_pass_says_nothing_of_that(world: World) -> None:
    _one_volume(world)
    # one that is quick comes sooner or later, on whichever machine
    eventually(lambda: "…" not in _stderr_on_terminal(world, "reconcile"))
