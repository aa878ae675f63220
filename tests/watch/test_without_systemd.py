"""`mountd watch` where something else than systemd starts it, and its package isn't there."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGHUP

import pytest
from journald import Journal
from volumes import comes_to_show, volumes
from watcher import PATIENCE, do, eventually
from world import MOUNTD, World


@pytest.fixture
def environment(world: World) -> dict[str, str]:
    """One in which the package isn't there, nor anything that systemd sets."""
    (world / "site").mkdir()
    (world / "site/systemd.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'systemd'\", name='systemd')\n"
    )
    systemds = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "INVOCATION_ID"}
    kept = {name: each for name, each in os.environ.items() if name not in systemds}
    return {**kept, "PYTHONPATH": f"{world.path}/site"}


@contextmanager
def _watch(world: World, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    log = world / "watch.log"
    command = [MOUNTD, "watch", "-f", world.manifest, "--state-dir", world.state]
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=file, text=True, env=env) as it,
    ):
        try:
            yield it
        finally:
            it.kill()


def test_it_mounts_repairs_and_follows_the_manifest(
    world: World, environment: dict[str, str]
) -> None:
    world.folder("source")
    world.write(volumes(world, "a", "b"))
    log = world / "watch.log"
    with _watch(world, environment) as process:
        comes_to_show(world, "a b")
        do(world, "umount to/a")
        comes_to_show(world, "a b")
        world.write(volumes(world, "b", "c"))
        comes_to_show(world, "b c")
        process.send_signal(SIGHUP)
        world.write("garbage")
        eventually(lambda: "not TOML" in log.read_text())
        process.terminate()
        assert process.wait(PATIENCE) == 0
    told = log.read_text()
    assert f"mounted: a at {world.path}/to/a" in told, "what the journal would get is on stderr"
    assert f"unmounted: a from {world.path}/to/a" in told
    assert "Traceback" not in told
    assert "systemd" not in told


def test_where_systemd_waits_to_be_told_a_sentence_says_what_to_install(
    world: World, environment: dict[str, str]
) -> None:
    world.folder("source")
    world.write(volumes(world, "a"))
    with _watch(world, {**environment, "NOTIFY_SOCKET": f"{world.path}/notify"}) as process:
        assert process.wait(PATIENCE) == 1
    first, second = (world / "watch.log").read_text().splitlines()
    assert first == (
        "mountd: error: $NOTIFY_SOCKET is set, and the Python package systemd, which answers there,"
        " can't be loaded: No module named 'systemd'"
    )
    assert second.startswith("hint: install it, as by `apt install python3-systemd`")
    assert world.mounts() == [], "nobody would learn that it is ready, and it would be ended"


def test_all_else_needs_no_systemd(
    world: World, journal: Journal, environment: dict[str, str]
) -> None:
    world.folder("source")
    world.write(volumes(world, "a"))
    given = {**environment, "NOTIFY_SOCKET": f"{world.path}/notify"}
    assert journal.mountd("reconcile", tells_stream=True, **given).status == 0
    for words in (["status"], ["check"], ["check", "--system"], ["explain", "a"], ["unmount", "a"]):
        assert world.mountd(*words, env=given).status == 0
    assert "MOUNTD_VOLUME" not in journal.records()[0], "a line, for records need the package"
