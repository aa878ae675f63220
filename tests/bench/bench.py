"""Speed, as ratios measured in one run: `make bench`. Nothing here is a test.

The sides run in turns, each in a mount namespace of its own, whose end takes the mounts away; the
order changes in each round. The floor is floor.c: the calls of a pass in a C loop.
"""

import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mountd.reconcile.passes import Settings, reconcile

FLOOR = Path(__file__).with_name("floor.c")
MOUNTD = Path(sys.executable).with_name("mountd")
ROUNDS = 5
WORLD = Path("/mnt")


def main() -> None:
    """Print a table for each question."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        floor = f"{folder}/floor"
        subprocess.run(["cc", "-O2", "-o", floor, FLOOR], check=True)
        for count in (1000, 10000):
            sides: dict[str, Callable[[], float]] = {
                "reconcile, in process": lambda n=count: _side("pass", n),  # type: ignore[misc]
                "the same calls in C": lambda n=count: _side(floor, n),  # type: ignore[misc]
                "C again (the noise)": lambda n=count: _side(floor, n),  # type: ignore[misc]
            }
            _table(f"{count} new volumes with one map, µs each", sides, "the same calls in C")
        bare = [sys.executable, "-I", "-c", "pass"]
        manifest = _manifest(Path(folder), 10)
        dry = [str(MOUNTD), "reconcile", "-n", "-f", str(manifest), "--state-dir", folder]
        sides = {
            "dry run of 10 volumes": lambda: _command(dry),
            "bare interpreter": lambda: _command(bare),
            "bare again (the noise)": lambda: _command(bare),
        }
        _table("whole commands, ms", sides, "bare interpreter")


def _table(title: str, sides: dict[str, Callable[[], float]], base: str) -> None:
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(ROUNDS):
        names = list(sides)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seen[name].append(sides[name]())
    print(f"\n{title}: median of {ROUNDS} (middle half), median ratio")
    for name, values in seen.items():
        low, _, high = statistics.quantiles(values, n=4)
        ratio = statistics.median(a / b for a, b in zip(values, seen[base], strict=True))
        print(
            f"  {name:22} {statistics.median(values):9.2f}  ({low:.2f}–{high:.2f})  {ratio:6.2f} ×"
        )


def _command(words: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begin) * 1e3


def _side(side: str, count: int) -> float:
    unshare = ["unshare", "--mount", "--propagation", "private"]
    words = [*unshare, sys.executable, __file__, side, str(count)]
    printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    time.sleep(0.2)  # a thousand mounts are still being freed
    return float(printed)


def _measure(side: str, count: int) -> None:
    """One side, once, in this process's own mount namespace: µs per volume."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", WORLD], check=True)
    manifest = _manifest(WORLD, count)
    if side != "pass":
        subprocess.run([side, WORLD / "s", WORLD / "t", str(count)], check=True)
    else:
        gc.disable()  # as the command does
        begin = time.perf_counter()
        settings = Settings(str(manifest), str(WORLD / "state"))
        reconcile(settings, lambda *_: None, lambda _: None)
        print((time.perf_counter() - begin) * 1e6 / count)
    found = sum(os.stat(WORLD / f"t/{number}").st_uid == 1000 for number in range(count))
    assert found == count, f"{found} of {count} volumes are mounted"


def _manifest(folder: Path, count: int) -> Path:
    tables = ['[defaults]\nuser = "1000:1000"\n']
    for number in range(count):
        source, target = folder / f"s/{number}", folder / f"t/{number}"
        source.mkdir(parents=True)
        target.mkdir(parents=True)
        os.chown(source, 501, 20)
        tables.append(f'[volumes.v{number}]\nsource = "{source}"\ntarget = "{target}"\n')
    manifest = folder / "mountd.toml"
    manifest.write_text("\n".join(tables))
    return manifest


if __name__ == "__main__":
    _measure(sys.argv[1], int(sys.argv[2])) if len(sys.argv) > 1 else main()
