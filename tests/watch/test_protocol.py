"""`mountd watch` and whoever started it: what systemd is told, signals, output, exit status."""

import fcntl
import os
import subprocess
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM, Signals
from time import CLOCK_MONOTONIC, clock_gettime_ns

import pytest
from documents import document_of
from silent_server import Server
from volumes import comes_to_show, shown, volumes
from watcher import (
    PATIENCE,
    Watcher,
    comes_to_say,
    eventually,
    is_locked,
    lock_held,
    steadily,
    watch,
)
from world import MOUNTD, World

OFTEN = {"WATCHDOG_USEC": "200000"}


@pytest.fixture
def place(world: World) -> World:
    """A world with a source and no manifest yet."""
    world.folder("source")
    return world


def pings(watcher: Watcher) -> int:
    return watcher.hear().count("WATCHDOG=1")


def is_ready(watcher: Watcher, heard: int) -> bool:
    """Whether it said so after what had been heard."""
    return "READY=1" in watcher.hear()[heard:]


def test_ready_is_told_once_and_when_the_first_pass_is_made(place: World) -> None:
    place.write(volumes(place, "a"))
    with lock_held(place), watch(place, is_ready=False) as early:
        eventually(lambda: "note: " in early.log, "it has started")
        steadily(lambda: not early.hear())
    with watch(place) as watcher:
        assert shown(place) == "a"
        assert watcher.hear() == ["READY=1", "STATUS=1 volume mounted"]
        place.write(volumes(place, "b"))
        comes_to_show(place, "b")
        watcher.stop()
        assert watcher.hear()[2:] == ["STOPPING=1"]


def test_a_reload_is_answered_when_the_new_state_is_in_force(place: World) -> None:
    place.write(volumes(place, "a"))
    with watch(place) as watcher:
        for names in ("b", "c", "c"):
            heard = len(watcher.hear())
            before = clock_gettime_ns(CLOCK_MONOTONIC) // 1000
            place.write(volumes(place, names))
            watcher.process.send_signal(SIGHUP)
            eventually(partial(is_ready, watcher, heard))
            assert shown(place) == names
            after = clock_gettime_ns(CLOCK_MONOTONIC) // 1000
            reloading, time, ready, _status = watcher.hear()[heard:]
            assert (reloading, ready) == ("RELOADING=1", "READY=1")
            name, _, digits = time.partition("=")
            assert name == "MONOTONIC_USEC"
            assert before <= int(digits) <= after


def test_each_of_many_reloads_gets_an_answer_in_the_end(place: World) -> None:
    place.write(volumes(place, "a"))
    with watch(place) as watcher:
        for _ in range(100):
            watcher.process.send_signal(SIGHUP)
        watcher.reload()
        steadily(lambda: watcher.process.poll() is None)
        told = [each for each in watcher.hear() if each in {"RELOADING=1", "READY=1"}]
        assert told == ["READY=1", *["RELOADING=1", "READY=1"] * (len(told) // 2)]


STATUS: dict[str, tuple[tuple[str, ...], str]] = {
    "none": ((), "0 volumes mounted"),
    "one": (("a",), "1 volume mounted"),
    "three": (("a", "b", "c"), "3 volumes mounted"),
    "one pending": (
        ("a", "none", "b"),
        "2 of 3 mounted; none: there is no /mnt/none",
    ),
    "many faulty": (
        ("none", "a", "root", "more"),
        "1 of 4 mounted; none: there is no /mnt/none (and 2 more)",
    ),
    "too long": (
        ("é" * 200,),
        "0 of 1 mounted; v0: can't look at /mnt/" + "é" * 200 + "…",
    ),
}


def status_manifest(world: World, names: Iterable[str]) -> str:
    """Volumes of which `a`, `b` and `c` have a source, and `root` has one that is root's."""
    text = "version = 1\n"
    for number, name in enumerate(names):
        table = volumes(world, f"v{number}" if len(name) > 64 else name)
        if name == "root":
            table = table.replace("/source", "/roots")
        elif name not in {"a", "b", "c"}:
            table = table.replace("/source", f"/{name}")
        text += table
    return text


@pytest.mark.parametrize("name", STATUS)
def test_the_status_is_a_line_that_says_how_the_volumes_are(place: World, name: str) -> None:
    place.folder("roots", owner=(0, 0))
    names, status = STATUS[name]
    place.write(status_manifest(place, names))
    with watch(place) as watcher:
        assert watcher.status == status
        assert all("\n" not in each for each in watcher.hear())


def test_the_status_follows_what_becomes_of_a_volume(place: World) -> None:
    late = volumes(place, "late").replace("/source", "/later")
    place.write(volumes(place, "a") + late)
    with watch(place) as watcher:
        comes_to_say(watcher, "1 of 2 mounted; late: ")
        place.folder("later")
        comes_to_say(watcher, "2 volumes mounted")
        place.write("version = 1")
        comes_to_say(watcher, "0 volumes mounted")


def test_the_watchdog_is_fed(place: World) -> None:
    place.write(volumes(place, "a"))
    with watch(place, env=OFTEN) as watcher:
        eventually(lambda: pings(watcher) >= 8)
    with watch(place, env={**OFTEN, "WATCHDOG_PID": "1"}) as watcher:
        steadily(lambda: pings(watcher) == 0)
    with watch(place) as watcher:
        steadily(lambda: pings(watcher) == 0)


def test_the_watchdog_is_fed_while_there_is_no_manifest_and_while_another_pass_runs(
    place: World,
) -> None:
    with watch(place, env=OFTEN) as watcher:
        eventually(lambda: pings(watcher) >= 3)
        with lock_held(place):
            place.write(volumes(place, "a"))
            before = pings(watcher)
            eventually(lambda: pings(watcher) >= before + 3)


def test_a_source_that_hangs_holds_up_neither_the_watchdog_nor_signals(place: World) -> None:
    server = Server(place / "fuse")
    try:
        server.fall_silent()
        hung = volumes(place, "hung").replace("/source", "/fuse")
        place.write(volumes(place, "a") + hung)
        with watch(place, env=OFTEN, is_ready=False) as watcher:
            eventually(lambda: is_locked(place), "a pass")
            assert watcher.stop() == 0  # in the middle of the first pass
            assert "hung" not in watcher.log
        with watch(place, env=OFTEN) as watcher:
            comes_to_say(watcher, "1 of 2 mounted; hung: ")
            before = pings(watcher)
            eventually(lambda: pings(watcher) >= before + 20)
            watcher.reload()
            watcher.tells(": hung: ", 1)
            assert watcher.stop() == 0
        assert shown(place) == "a"
    finally:
        server.die()


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_it_ends_with_0_when_asked_to_and_leaves_the_mounts(place: World, number: Signals) -> None:
    place.write(volumes(place, "a"))
    with watch(place) as watcher:
        watcher.process.send_signal(number)
        assert watcher.process.wait(PATIENCE) == 0
        assert watcher.hear()[-1] == "STOPPING=1"
        assert shown(place) == "a"


@pytest.mark.parametrize("state", ["waiting", "locked", "bad edit"])
def test_it_ends_with_0_whatever_it_waits_for(place: World, state: str) -> None:
    if state != "waiting":
        place.write(volumes(place, "a"))
    with watch(place) as watcher:
        if state == "locked":
            with open(f"{place.state}/lock") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                place.write(volumes(place, "b"))
                assert watcher.stop() == 0
        elif state == "bad edit":
            place.write("garbage")
            eventually(lambda: "not TOML" in watcher.log)
        assert watcher.stop() == 0
        assert watcher.hear()[-1] == "STOPPING=1"


def test_without_systemd_the_document_is_one_and_comes_at_the_end(place: World) -> None:
    late = volumes(place, "late").replace("/source", "/later")
    place.write(volumes(place, "a", "b") + late)
    place.folder("later")
    command = [MOUNTD, "watch", "--json", "-f", place.manifest, "--state-dir", place.state]
    environment = {key: each for key, each in os.environ.items() if key != "INVOCATION_ID"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            comes_to_show(place, "a b late")
            (place / "later").rename(place / "gone")
            place.write(volumes(place, "b", "c") + late)
            comes_to_show(place, "b c late")
        finally:
            process.terminate()
        document = document_of(process.communicate(timeout=PATIENCE)[0])
    assert process.returncode == 0
    found = {each["name"]: each["state"] for each in document["volumes"]}
    assert found == {"b": "mounted", "c": "mounted", "late": "pending"}
    assert document["manifest"] == [place.manifest]
    assert document["dry_run"] is False


def test_quiet_says_only_what_went_wrong(place: World) -> None:
    place.write(volumes(place, "a"))
    with watch(place, "--quiet") as watcher:
        assert "mounted" not in watcher.log
        place.write("garbage")
        eventually(lambda: "error: not TOML" in watcher.log)
        place.write(volumes(place, "b"))
        comes_to_show(place, "b")
        assert watcher.log.count("mounted") == 0


def test_a_notify_socket_that_goes_costs_nothing(place: World) -> None:
    place.write(volumes(place, "a"))
    with watch(place, env=OFTEN) as watcher:
        Path(f"{place.path}/notify").unlink()
        place.write(volumes(place, "b"))
        comes_to_show(place, "b")
        watcher.process.send_signal(SIGHUP)
        place.write(volumes(place, "c"))
        comes_to_show(place, "c")
        assert watcher.stop() == 0


def test_a_systemd_that_is_slow_to_listen_is_told_when_it_does(place: World) -> None:
    place.write(volumes(place, "a"))
    with watch(place, env={"WATCHDOG_USEC": "2000"}) as watcher:
        tasks = Path(f"/proc/{watcher.process.pid}/task")
        eventually(
            lambda: sum("poll" in (each / "wchan").read_text() for each in tasks.iterdir()) > 1,
            "a full socket",
        )
        place.write(volumes(place, "b"))  # it hears and acts meanwhile
        comes_to_show(place, "b")
        watcher.reload()
        assert watcher.stop() == 0
