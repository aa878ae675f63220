"""How fast `mountd watch` is and how quiet, as distributions: `make bench`. Nothing here is a test.

Each question has a mount namespace of its own and a watch of its own, run as its user runs it.
"""

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

MOUNTD = Path(sys.executable).with_name("mountd")
WORLD = Path("/mnt")
MANIFEST = WORLD / "mountd.toml"
ROUNDS = 40
START = 1.0
"""Seconds after which a watch has its threads, and nothing left to do."""
CALM = 0.25
"""Seconds between two rounds: else what is measured is the end of the one before."""


def main() -> None:
    """Print a table; this script again, in a namespace of its own, answers each question."""
    print("\nwatch: median (10th to 90th of 100), of as many rounds as said")
    for question in QUESTIONS:
        unshare = ["unshare", "--mount", "--propagation", "private"]
        words = [*unshare, sys.executable, __file__, question]
        print(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout, end="")


@contextmanager
def _watching(count: int) -> Iterator[subprocess.Popen[bytes]]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", WORLD], check=True)
    for number in range(count):
        for folder in ("s", "t"):
            (WORLD / folder / str(number)).mkdir(parents=True)
        os.chown(WORLD / f"s/{number}", 501, 20)
    _save(count)
    words = ["watch", "-q", "-f", str(MANIFEST), "--state-dir", str(WORLD / "state")]
    with subprocess.Popen([str(MOUNTD), *words], stderr=subprocess.DEVNULL) as process:
        _wait(lambda: _is_mounted(count - 1))
        time.sleep(START)
        yield process
        process.terminate()


def _save(count: int, *more: str) -> None:
    tables = ['[defaults]\nuser = "1000:1000"\n']
    for name in (*map(str, range(count)), *more):
        tables.append(f'[volumes.v{name}]\nsource = "{WORLD}/s/{name}"\n')
        tables.append(f'target = "{WORLD}/t/{name}"\n')
    new = MANIFEST.with_suffix(".new")
    new.write_text("".join(tables))
    new.rename(MANIFEST)


def _is_mounted(name: int | str) -> bool:
    try:
        return os.stat(WORLD / f"t/{name}").st_uid == 1000
    except FileNotFoundError:
        return False


def _wait(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it was not put back"
        time.sleep(0.0001)  # or a core, of which there are two, is ours alone


def _edits(count: int) -> None:
    with _watching(count):
        seen = []
        for number in range(ROUNDS):
            (WORLD / f"s/new{number}").mkdir()
            os.chown(WORLD / f"s/new{number}", 501, 20)
            begin = time.perf_counter()
            _save(count, f"new{number}")
            _wait(partial(_is_mounted, f"new{number}"))
            seen.append((time.perf_counter() - begin) * 1e3)
            time.sleep(CALM + 0.001 * (number * 7 % 30))  # in no step with the watch's own
        _print(f"save to applied, {count} volumes, ms", seen[1:])
        _print(f"the first edit after a start, {count} volumes, ms", seen[:1])


def _drift(count: int, what: str) -> None:
    with _watching(count):
        seen = []
        (WORLD / "away").mkdir()
        for number in range(ROUNDS):
            target = WORLD / f"t/{(number * 7919 + 13) % count}"  # not one again and again
            words = {
                "unmounted": ["umount", str(target)],
                "remounted": ["mount", "-o", "remount,bind,ro", str(target)],
                "moved": ["mount", "--move", str(target), str(WORLD / "away")],
            }[what]
            _libc(words)
            begin = time.perf_counter()
            _wait(partial(_is_as_before, target))
            seen.append((time.perf_counter() - begin) * 1e3)
            time.sleep(CALM)
            subprocess.run(["umount", WORLD / "away"], stderr=subprocess.DEVNULL, check=False)
            time.sleep(CALM)
        _print(f"{what} to put back, {count} volumes, ms", seen)


def _libc(words: list[str]) -> None:
    """What a program of this name does, without the time that it takes to end."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    program, *rest = words
    if program == "umount":
        result = libc.umount2(rest[0].encode(), 0)
    elif rest[0] == "--move":
        result = libc.mount(rest[1].encode(), rest[2].encode(), None, 8192, None)
    else:
        result = libc.mount(None, rest[2].encode(), None, 32 | 4096 | 1, None)
    assert result == 0, os.strerror(ctypes.get_errno())


def _is_as_before(target: Path) -> bool:
    found = os.stat(target)
    return found.st_uid == 1000 and not os.statvfs(target).f_flag & os.ST_RDONLY


def _idle(count: int) -> None:
    with _watching(count) as process:
        folder = Path(f"/proc/{process.pid}/task")
        before, began = _usage(folder), time.monotonic()
        time.sleep(10)
        after, seconds = _usage(folder), time.monotonic() - began
        wakes, cpu = ((b - a) / seconds for a, b in zip(before, after, strict=True))
        rss = next(
            int(line.split()[1]) / 1024
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        )
        print(f"  idle, {count} volumes: {wakes:.1f} wake-ups, {cpu * 1e3:.2f} ms of CPU a second")
        print(f"  resident, {count} volumes: {rss:.1f} MiB")


def _usage(tasks: Path) -> tuple[float, float]:
    wakes, cpu = 0, 0.0
    for task in tasks.iterdir():
        status = (task / "status").read_text()
        wakes += int(status.split("voluntary_ctxt_switches:")[1].split()[0])
        cpu += int((task / "schedstat").read_text().split()[0]) / 1e9
    return float(wakes), cpu


def _stop(count: int) -> None:
    seen = []
    for _ in range(5):
        with _watching(count) as process:
            process.send_signal(signal.SIGHUP)
            time.sleep(0.02)  # in the middle of a pass
            begin = time.perf_counter()
            process.terminate()
            process.wait()
            seen.append((time.perf_counter() - begin) * 1e3)
        subprocess.run(["umount", "--lazy", "--recursive", WORLD], check=False)
    _print(f"SIGTERM in a pass to its end, {count} volumes, ms", seen)


def _print(title: str, values: list[float]) -> None:
    if len(values) < 2:
        print(f"  {title}: {values[0]:.1f}")
        return
    tenths = statistics.quantiles(values, n=10)
    spread = f"{tenths[0]:.1f}–{tenths[-1]:.1f}"
    print(f"  {title}: {statistics.median(values):.1f} ({spread}), {len(values)} rounds")


QUESTIONS: dict[str, Callable[[], None]] = {
    "edits-10": partial(_edits, 10),
    "edits-1000": partial(_edits, 1000),
    **{
        f"{what}-{count}": partial(_drift, count, what)
        for count in (10, 1000)
        for what in ("unmounted", "remounted", "moved")
    },
    "idle-10": partial(_idle, 10),
    "idle-1000": partial(_idle, 1000),
    "stop-1000": partial(_stop, 1000),
}

if __name__ == "__main__":
    QUESTIONS[sys.argv[1]]() if len(sys.argv) > 1 else main()
