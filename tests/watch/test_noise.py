"""Noise that others make, and listeners that don't listen: `mountd watch` goes on."""

import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

from volumes import is_mounted, make_plain, table
from watcher import PATIENCE, do, eventually, watch
from world import MOUNTD, World, run

from mountd.report.outlet import Outlet

_ENVIRONMENT = {key: text for key, text in os.environ.items() if key != "INVOCATION_ID"}


def test_who_covers_and_uncovers_targets_fills_no_journal(world: World) -> None:
    names = [f"home/v{number}" for number in range(20)]
    (world / "home").mkdir()
    make_plain(world, *names, "other")
    with watch(world) as watcher:
        begin, before = time.monotonic(), len(watcher.log.splitlines())
        for _ in range(12):
            run("mount", "-t", "tmpfs", "tmpfs", str(world / "home"))
            time.sleep(0.15)
            do(world, "umount home")
            time.sleep(0.15)
        do(world, "umount other")  # who keeps out of it is served all the same
        eventually(lambda: is_mounted(world / "other"))
        seconds = time.monotonic() - begin
        lines = watcher.log.splitlines()[before:]
        assert len(lines) < 2 * (25 + seconds / 2) + 2 * 21 + 10
        run("mount", "-t", "tmpfs", "tmpfs", str(world / "home"))
        eventually(lambda: watcher.status.startswith("1 of 21 mounted; "))
        do(world, "umount home")
        eventually(lambda: watcher.status == "21 volumes mounted")
        eventually(lambda: "left out: " in watcher.log)
        said = next(each for each in watcher.log.splitlines() if each.startswith("left out: "))
        assert " more records about " in said
        watcher.reload()
        assert watcher.stop() == 0


def test_what_root_does_is_told_however_much_it_is(world: World) -> None:
    names = [f"v{number}" for number in range(60)]
    make_plain(world, *names)
    with watch(world) as watcher:
        watcher.tells("\nmounted: v", 60)
        make_plain(world, *names, user="1001:1001")
        watcher.tells("\nreplaced: v", 60)
        (world / "source").rename(world / "elsewhere")
        watcher.reload()
        (world / "elsewhere").rename(world / "source")
        watcher.reload()
        assert "left out: " not in watcher.log


@contextmanager
def full_pipe() -> Iterator[int]:
    """The end to write to, of a pipe that is full and that nobody reads."""
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        while select.select([], [writer], [], 0)[1]:
            os.write(writer, b"x" * select.PIPE_BUF)
        os.set_blocking(writer, True)
        yield writer
    finally:
        os.close(writer)
        os.close(reader)


@contextmanager
def full_socket(path: Path) -> Iterator[socket.socket]:
    """A datagram socket that takes no more."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        found.bind(str(path))
        sender.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                sender.sendto(b"x", str(path))
        yield found


def test_a_stderr_and_a_supervisor_that_read_nothing_stop_nobody(world: World) -> None:
    make_plain(world, "work")
    with full_pipe() as stderr, full_socket(world / "notify"):
        command = [MOUNTD, "watch", "-f", world.manifest, "--state-dir", world.state]
        environment = {**_ENVIRONMENT, "NOTIFY_SOCKET": str(world / "notify")}
        with subprocess.Popen(command, stderr=stderr, env=environment) as process:
            try:
                eventually(lambda: is_mounted(world / "work"))
                do(world, "umount work")
                eventually(lambda: is_mounted(world / "work"))
                begin = time.monotonic()
                process.terminate()
                assert process.wait(PATIENCE) == 0
                assert time.monotonic() - begin < PATIENCE / 2
            finally:
                process.kill()
    assert [point for point, *_ in table(world)] == ["/mnt/work"]


def test_a_journald_that_reads_nothing_gets_all_of_it_when_it_does(world: World) -> None:
    names = [f"v{number}" for number in range(40)]
    make_plain(world, *names)
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    Path("/run/systemd/journal").mkdir(parents=True)
    ours, stderr = socket.socketpair()
    with ours, stderr, full_socket(Path("/run/systemd/journal/socket")) as journald:
        found = os.fstat(stderr.fileno())
        environment = {**_ENVIRONMENT, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        command = [MOUNTD, "watch", "-f", world.manifest, "--state-dir", world.state]
        with subprocess.Popen(command, stderr=stderr.fileno(), env=environment) as process:
            try:
                eventually(lambda: len(table(world)) == 40)
                do(world, "umount v0")
                eventually(lambda: is_mounted(world / "v0"))
                assert world.mountd("reconcile", "--wait", "1", "--quiet").status == 0
                journald.settimeout(PATIENCE)
                told = b""
                while b"MESSAGE=mounted: v0 " not in told.partition(b"MESSAGE=drift: ")[2]:
                    told += journald.recv(1 << 16)
                assert told.count(b"MESSAGE=mounted: v") == 41
                process.terminate()
                assert process.wait(PATIENCE) == 0
            finally:
                process.kill()


def test_what_nobody_takes_is_dropped_at_last_and_counted() -> None:
    opened, dropped, sent = Event(), Event(), []
    counts: list[int] = []

    def tell(count: int) -> None:
        counts.append(count)
        dropped.set()

    outlet = Outlet(tell)
    outlet.put(lambda _: opened.wait(PATIENCE))
    for number in range(3000):
        outlet.put(lambda _, number=number: sent.append(number), 100)  # type: ignore[misc]
    outlet.finish(patience=0.01)
    assert sent == []
    opened.set()
    assert dropped.wait(PATIENCE)
    assert len(sent) + counts[0] == 3000
    assert sent == sorted(sent)
    outlet.put(lambda _: sent.append(-1))
    outlet.finish(PATIENCE, PATIENCE)
    assert sent[-1] == -1


def test_only_the_latest_of_a_kind_waits() -> None:
    opened, sent = Event(), []
    outlet = Outlet()
    outlet.put(lambda _: opened.wait(PATIENCE))
    for number in range(5):
        outlet.put(lambda _, number=number: sent.append(number), key="status")  # type: ignore[misc]
    outlet.put(lambda _: sent.append("ready"))
    opened.set()
    outlet.finish(PATIENCE, PATIENCE)
    assert sent == [4, "ready"]
