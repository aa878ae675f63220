"""Sides of a question: measured in turns, in one run, and told as ratios.

A side is measured in a process with a mount namespace and a pid namespace of its own, so that its
mounts and its processes are gone when it is.
"""

import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

APART = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
CALM = 0.1
"""Seconds after each side: what it mounted is still being freed."""
CALM_AFTER_MANY = 0.5
"""And after a thousand volumes."""


class Size(NamedTuple):
    """How much is measured."""

    rounds: int = 9
    volumes: tuple[int, ...] = (1, 10, 100, 1000)
    """For whole commands."""
    many: tuple[int, ...] = (1000, 10000)
    """For passes in process."""
    watched: tuple[int, ...] = (10, 1000)
    files: int = 100_000
    quiet: float = 60
    """Seconds after which a watch has come to rest."""


SMALL = Size(1, (2,), (2,), (2,), 10, 0)
"""To see that it runs."""


class Row(NamedTuple):
    """What was measured of a side: median, the middle half's ends, and the ratio to the base."""

    name: str
    median: float
    low: float
    high: float
    ratio: float


class Table(NamedTuple):
    """The answer to a question: what each round measured, by side. The first is the base."""

    name: str
    title: str
    unit: str
    sides: dict[str, list[float]]
    has_ratios: bool = True

    def rows(self) -> list[Row]:
        """The sides, summed up; a ratio is the median of each round's own."""
        base = next(iter(self.sides.values()))
        return [self._row(name, values, base) for name, values in self.sides.items()]

    def _row(self, name: str, values: list[float], base: list[float]) -> Row:
        low, median, high = statistics.quantiles([*values] * 2 if len(values) == 1 else values, n=4)
        pairs = zip(values, base, strict=True) if self.has_ratios else ()
        ratio = statistics.median([a / b for a, b in pairs] or [0])
        return Row(name, median, low, high, ratio)


def compare(
    name: str,
    title: str,
    unit: str,
    sides: Mapping[str, Callable[[], float]],
    rounds: int,
    calm: float = CALM,
) -> Table:
    """Measure each side once a round, another one first each time, and the first one twice."""
    base, measure = next(iter(sides.items()))
    all_ = {base: measure, f"{base}, again": measure} | dict(sides)
    seen: dict[str, list[float]] = {each: [] for each in all_}
    for turn in range(rounds):
        names = [*all_]
        for each in names[turn % len(names) :] + names[: turn % len(names)]:
            seen[each].append(all_[each]())
            time.sleep(calm)
    return Table(name, title, unit, seen)


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a module's function returns in namespaces of its own, where mounts are private."""
    words = [function.__module__, function.__name__, json.dumps(arguments)]
    done = subprocess.run(
        [*APART, "--mount-proc", sys.executable, "-m", "benchmarks.sides", *words],
        check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(done.stdout)


def timed(command: list[str]) -> float:
    """The milliseconds that a command takes, from its start to its end."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - begin) * 1e3


if __name__ == "__main__":
    _module, _name, _arguments = sys.argv[1:]
    _function = getattr(importlib.import_module(_module), _name)
    print(json.dumps(_function(*json.loads(_arguments))))
