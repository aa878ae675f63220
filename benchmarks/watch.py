"""`mountd watch`, as its unit runs it: how soon it is ready, how quick, and how quiet."""

import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from benchmarks.commands import BARE
from benchmarks.sides import Size, Table, apart, compare, timed
from benchmarks.volumes import MOUNTD, PLACES, WORLD, check, is_seen, make, make_source, write

_NOTIFY = WORLD / "notify"
_JOURNAL = Path("/run/systemd/journal/socket")
_CALM = 0.3
"""Seconds between two rounds: else what is measured is the end of the one before."""


class Idle(NamedTuple):
    """What a watch at rest costs in each of some seconds; and its memory, then and after an edit.

    `first`: from the save of that edit until it was applied.
    """

    wakes: list[float]
    cpu: list[float]
    mib: float
    mib_edited: float
    first: float


def tables(size: Size) -> Iterator[Table]:
    """A table for each question."""
    yield compare(
        "ready",
        "`mountd watch` with 10 volumes: from its start to READY=1",
        "ms",
        {
            "`python3 -I -c pass`": partial(apart, timed, BARE),
            "`mountd watch`": partial(apart, ready, 10),
        },
        size.rounds,
    )
    idle = Idle(*apart(idles, size.watched[0], size.rounds, size.quiet))
    title = f"`mountd watch` with {size.watched[0]} volumes"
    yield Table(
        "idle",
        f"{title}, at rest for {size.quiet:.0f} s: in a second",
        "",
        {"wake-ups": idle.wakes, "CPU, ms": idle.cpu},
        has_ratios=False,
    )
    yield Table(
        "resident",
        f"{title}: resident, as /proc has it",
        "MiB",
        {"at rest": [idle.mib], "after the first edit": [idle.mib_edited]},
        has_ratios=False,
    )
    yield Table(
        "edit",
        "From the save of an edit until it is applied",
        "ms",
        {"the first, after that rest": [idle.first]}
        | {f"one after another, {n:,} volumes": apart(edits, n, size.rounds) for n in size.watched},
        has_ratios=False,
    )
    yield Table(
        "drift",
        "From the moment a mount is undone until it is repaired",
        "ms",
        {
            f"{name}, {count:,} volumes": apart(drifts, name, count, size.rounds)
            for count in size.watched
            for name in _UNDO
        },
        has_ratios=False,
    )


@contextmanager
def _watching(count: int) -> Iterator[tuple[int, float]]:
    """The pid of a watch that tells systemd and the journal; and after how many ms it was ready."""
    make(count)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    _JOURNAL.parent.mkdir(parents=True)
    stderr = os.stat(os.devnull)
    environment = {name: text for name, text in os.environ.items() if name != "INVOCATION_ID"}
    environment |= {
        "NOTIFY_SOCKET": str(_NOTIFY),
        "JOURNAL_STREAM": f"{stderr.st_dev}:{stderr.st_ino}",
    }
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal,
    ):
        notify.bind(str(_NOTIFY))
        journal.bind(str(_JOURNAL))
        threading.Thread(target=_drain, args=[journal], daemon=True).start()
        begin = time.perf_counter()
        with subprocess.Popen(
            [MOUNTD, "watch", *PLACES], stderr=subprocess.DEVNULL, env=environment
        ) as process:
            notify.settimeout(120)
            while b"READY=1" not in notify.recv(4096):
                pass
            took = (time.perf_counter() - begin) * 1e3
            notify.settimeout(None)
            threading.Thread(target=_drain, args=[notify], daemon=True).start()
            check(count)
            yield process.pid, took
            process.kill()


def _drain(told: socket.socket) -> None:
    while told.recv(65536):
        pass


def ready(count: int) -> float:
    """Milliseconds from exec to READY=1."""
    with _watching(count) as (_, took):
        return took


def idles(count: int, seconds: int, quiet: float) -> Idle:
    """What it costs when it has come to rest."""
    with _watching(count) as (pid, _):
        time.sleep(quiet)
        used = [_used(pid)]
        for _ in range(seconds):
            time.sleep(1)
            used.append(_used(pid))
        each = [[b - a for a, b in zip(*pair, strict=True)] for pair in pairwise(used)]
        rates = [(wakes / time_, cpu * 1e3 / time_) for wakes, cpu, time_ in each]
        mib = _resident(pid)
        first = _edit(count, "new")
        time.sleep(1)
        return Idle([w for w, _ in rates], [c for _, c in rates], mib, _resident(pid), first)


def edits(count: int, rounds: int) -> list[float]:
    """Milliseconds from the save to the mount, while edits come."""
    with _watching(count):
        _edit(count, "first")
        seen = []
        for number in range(rounds):
            time.sleep(_CALM + 0.001 * (number * 7 % 30))  # in no step with the watch's own
            seen.append(_edit(count, f"new{number}"))
        return seen


def drifts(name: str, count: int, rounds: int) -> list[float]:
    """Milliseconds until a mount is as it was."""
    with _watching(count):
        (WORLD / "away").mkdir()
        seen = []
        for number in range(rounds):
            time.sleep(_CALM)
            target = WORLD / f"t/{(number * 7919 + 13) % count}"  # not one again and again
            _UNDO[name](target)
            begin = time.perf_counter()
            _wait(partial(_is_as_before, target))
            seen.append((time.perf_counter() - begin) * 1e3)
        return seen


def _edit(count: int, name: str) -> float:
    """Save a manifest with one more volume, and see how long that takes to be there."""
    make_source(name)
    begin = time.perf_counter()
    write([*map(str, range(count)), name])
    _wait(partial(is_seen, name))
    return (time.perf_counter() - begin) * 1e3


def _wait(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, "it was not put right"
        time.sleep(0.0001)  # or a core, of which there are two, is ours alone


def _is_as_before(target: Path) -> bool:
    return is_seen(target.name) and not os.statvfs(target).f_flag & os.ST_RDONLY


def _used(pid: int) -> tuple[float, float, float]:
    """How often its threads have woken, its seconds of CPU, and when that was."""
    wakes = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = (task / "status").read_text()
        wakes += int(status.split("voluntary_ctxt_switches:")[1].split()[0])
    return wakes, time.clock_gettime(_cpu_clock(pid)), time.monotonic()


def _cpu_clock(pid: int) -> int:
    """The clock of a process's CPU time, ended threads' too (clock_getcpuclockid(3))."""
    return ~pid << 3 | 2


def _resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def _mount(source: Path | None, target: Path, flags: int) -> None:
    places = [os.fsencode(source) if source else None, os.fsencode(target)]
    _succeed(ctypes.CDLL(None, use_errno=True).mount(*places, None, flags, None))


def _umount(target: Path) -> None:
    _succeed(ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(target), 0))


def _succeed(result: int) -> None:
    assert result == 0, os.strerror(ctypes.get_errno())


_REMOUNT, _BIND, _MOVE = 32, 4096, 8192
# in C's library, without the time in which a program of that name starts and ends
_UNDO: dict[str, Callable[[Path], None]] = {
    "unmounted": _umount,
    "remounted read-only": lambda target: _mount(None, target, _REMOUNT | _BIND | os.ST_RDONLY),
    "moved": lambda target: _mount(target, WORLD / "away", _MOVE),
}
