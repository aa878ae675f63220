"""Where the output goes, whatever is behind the descriptors, and how it is spelt there."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from journald import Journal
from silent_server import Server
from watcher import do, eventually, watch
from world import MOUNTD, Result, World, owner, run

# What prints, and with which status where it can
_PRINTING = {
    "--version": 0,
    "--help": 0,
    "reconcile --dry-run": 0,
    "reconcile --dry-run --json": 0,
    "reconcile": 0,
    "reconcile --json": 0,
    "status": 1,
    "status --json": 1,
    "status --json --quiet": 1,
    "check --json": 0,
    "check --system": 0,
    "check --system --json": 0,
    "explain work": 0,
    "explain work --json": 0,
    "unmount --all --json": 0,
    "schema": 0,
    "reconcile --json work": 64,
}


def _one_volume(world: World) -> None:
    source = world.folder("source")
    world.volumes(work={"source": source, "target": world / "work", "user": "1000:1000"})


def _run(world: World, words: str, redirected: str) -> Result:
    """Run it by a shell, which redirects its output."""
    places = f"--manifest {world.manifest} --state-dir {world.state}"
    result = world.run(["sh", "-c", f"{MOUNTD} {words} {places} {redirected}"])
    assert "Exception ignored" not in result.err
    return result


def _closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def _full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


# Lost output


@pytest.mark.parametrize("words", _PRINTING)
@pytest.mark.parametrize(
    ("redirected", "why"),
    [
        (">/dev/full", "No space left on device"),
        (">&-", "it is closed"),
        ("<&- >&-", "it is closed"),
        ("1</dev/null", "it is closed"),
    ],
)
def test_a_stdout_that_can_not_be_written_is_a_sentence(
    world: World, words: str, redirected: str, why: str
) -> None:
    _one_volume(world)
    result = _run(world, words, redirected)
    said = f"mountd: error: stdout can't be written: {why}"
    assert result.err.splitlines().count(said) == 1
    assert result.status == (_PRINTING[words] or 1)


@pytest.mark.parametrize("words", _PRINTING)
@pytest.mark.parametrize("redirected", ["2>/dev/full", "2>&-", "<&- 2>&-", "2</dev/null"])
def test_a_lost_stderr_changes_nothing(world: World, words: str, redirected: str) -> None:
    _one_volume(world)
    result = _run(world, words, redirected)
    assert result.err == ""
    assert result.out, "what goes to stdout is there"
    assert result.status == _PRINTING[words]


@pytest.mark.parametrize("words", _PRINTING)
def test_a_reader_that_goes_is_no_news(world: World, words: str) -> None:
    _one_volume(world)
    there = _run(world, words, "2>&1 >/dev/null")
    world.mountd("unmount", "--all")
    nowhere = _closed_pipe()
    command = [MOUNTD, *words.split(), "-f", world.manifest, "--state-dir", world.state]
    done = subprocess.run(command, check=False, text=True, stdout=nowhere, stderr=subprocess.PIPE)
    os.close(nowhere)
    assert (done.returncode, done.stderr) == (_PRINTING[words], there.out)


@pytest.mark.parametrize("words", ["status", "reconcile", "bogus", "--version"])
def test_nothing_is_left_of_a_process_without_descriptors_but_its_status(
    world: World, words: str
) -> None:
    _one_volume(world)
    result = _run(world, words, "<&- >&- 2>&-")
    assert result == Result(64 if words == "bogus" else 1, "", "")
    assert (world / "work/hello").exists() == (words == "reconcile")


@pytest.mark.parametrize("to", [_closed_pipe, _full_disk])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_that_nobody_takes_does_not_stop_a_pass(
    world: World, to: Callable[[], int], stream: str
) -> None:
    world.folder("source")
    volume = {"source": world / "source", "user": "1000:1000"}
    world.volumes(
        work={**volume, "target": world / "work"}, also={**volume, "target": world / "also"}
    )
    nowhere = to()
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: nowhere}
    command = [MOUNTD, "reconcile", "-f", world.manifest, "--state-dir", world.state]
    done = subprocess.run(command, check=False, text=True, timeout=300, **streams)  # type: ignore[call-overload]
    os.close(nowhere)
    assert (world / "work/hello").exists()
    assert (world / "also/hello").exists()
    for text in (done.stdout, done.stderr):
        assert "Traceback" not in (text or "")
        assert "Exception ignored" not in (text or "")
    assert done.returncode == (stream == "stdout" and to is _full_disk)


def test_a_terminal_that_hangs_up_stops_no_pass(world: World) -> None:
    server = Server(world / "fuse")
    server.fall_silent()  # so that a word is due of what it waits for
    try:
        source = world.folder("source")
        world.volumes(
            slow={"source": world / "fuse", "target": world / "slow"},
            work={"source": source, "target": world / "work"},
        )
        terminal, stderr = os.openpty()
        command = [MOUNTD, "reconcile", "-f", world.manifest, "--state-dir", world.state]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr) as process:
            os.close(stderr)
            assert "looking at" in os.read(terminal, 100).decode()
            os.close(terminal)
            process.communicate()
    finally:
        server.die()
    assert process.returncode == 1
    assert (world / "work/hello").exists()


@pytest.mark.parametrize("closed", ["<&- >&-", "<&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("words", ["reconcile", "reconcile --json"])
def test_no_file_of_ours_gets_the_number_of_a_closed_descriptor(
    world: World, closed: str, words: str
) -> None:
    _one_volume(world)
    _run(world, words, closed)
    assert (world / "work/hello").exists()
    assert world.reconcile().volume("work")["action"] == "keep"  # nothing was written into it


# Its spelling


@pytest.fixture(params=["ascii", "latin-1", "PYTHONIOENCODING", "C", "POSIX"])
def environment(request: pytest.FixtureRequest, world: World) -> dict[str, str]:
    """One that asks for another charset."""
    # Python makes UTF-8 of the C locale, unless it is told not to
    unhelped = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    if request.param != "latin-1":
        return {
            "ascii": {"LC_ALL": "C", **unhelped},
            "PYTHONIOENCODING": {"PYTHONIOENCODING": "utf-16:strict"},
        }.get(request.param, {"LC_ALL": request.param})
    (world / "locales").mkdir()
    name = f"{world.path}/locales/de_DE.ISO-8859-1"
    run("localedef", "--inputfile=de_DE", "--charmap=ISO-8859-1", name, check=False)
    assert os.path.isdir(name)
    return {"LOCPATH": f"{world.path}/locales", "LC_ALL": "de_DE.ISO-8859-1", **unhelped}


def test_text_is_utf_8_whatever_the_locale(world: World, environment: dict[str, str]) -> None:
    source = world.folder("Hörspiele")
    world.volumes(work={"source": source, "target": world / "größe/€", "user": "1000:1000"})
    for words in (
        ["check"],
        ["reconcile", "--dry-run"],
        ["explain", "work", f"{world.path}/größe/€"],
        ["status"],
        ["explain", "work", "--user", "ö"],
        ["--help"],
    ):
        wanted = world.mountd(*words, env={"LC_ALL": "C.UTF-8"})
        assert "ö" in wanted.out + wanted.err or words[0] in ("check", "--help")
        assert world.mountd(*words, env=environment) == wanted
    done = world.mountd("reconcile", env=environment)
    assert done.status == 0
    assert f"at {world.path}/größe/€" in done.err
    assert (world / "größe/€/hello").exists()
    assert world.mountd("status", env=environment).status == 0
    assert world.reconcile().volume("work")["action"] == "keep", "the record means the same"
    again = world.mountd("reconcile", env=environment)
    assert again == Result(0, "mountd: 1 volume, nothing to do\n", "")
    off = world.mountd("unmount", "--all", env=environment)
    assert (off.status, world.mounts()) == (0, [])


def test_the_watch_and_the_journal_are_utf_8_whatever_the_locale(
    journal: Journal, world: World, environment: dict[str, str]
) -> None:
    source = world.folder("Hörspiele")
    target = world / "größe"
    world.volumes(work={"source": source, "target": target, "user": "1000:1000"})
    with watch(world, env=environment) as watcher:
        assert owner(target) == (1000, 1000)
        do(world, "umount größe")
        eventually(lambda: owner(target) == (1000, 1000), "repaired")
        watcher.tells(f"mounted: work at {target}", 2)
        assert watcher.stop() == 0
    journal.mountd("unmount", "--all", tells_stream=True, **environment)
    journal.mountd("reconcile", tells_stream=True, **environment)
    told = [each["MOUNTD_SOURCE"] for each in journal.records()]
    assert told == [str(source), str(source)]


def test_a_manifest_and_a_state_directory_whose_names_are_not_utf_8_are_some(
    world: World, environment: dict[str, str]
) -> None:
    odd = os.fsdecode(b"\xff\xfc")
    _one_volume(world)
    os.rename(world.manifest, world / odd)
    world.manifest, world.state = f"{world.path}/{odd}", f"{world.path}/state-{odd}"
    for words in (["check"], ["reconcile"], ["status"], ["reconcile", "--json"]):
        assert world.mountd(*words, env=environment).status == 0
    assert Path(world.state, "record.json").exists()
    Path(world.manifest).write_bytes(b'[volumes.a]\nsource = "/\xff"\n')
    refused = world.mountd("reconcile", env=environment)
    assert refused.status == 78
    assert f"{world.path}/\\udcff\\udcfc:2:12: error: " in refused.err


def test_accounts_that_are_not_utf_8_are_looked_up(
    world: World, environment: dict[str, str]
) -> None:
    rootfs = world.rootfs(b"j\xf6rg:x:1001:1001::/:\nnode:x:1000:1000:J\xf6rg:/:\n", b"\xfc:x:1:\n")
    world.volumes(
        work={
            "source": world.folder("source"),
            "target": world / "work",
            "user": "node",
            "accounts": rootfs,
        }
    )
    assert world.mountd("reconcile", env=environment).status == 0
    assert os.stat(world / "work").st_uid == 1000
    for words in (["explain", "work", "--user", "1001:1"], ["status"], ["check"]):
        assert world.mountd(*words, env=environment).status == 0
