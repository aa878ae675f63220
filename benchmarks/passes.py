"""A pass in process, against the same calls in C (floor.c): what Python itself costs."""

import gc
import subprocess
import time
from collections.abc import Iterator
from functools import partial

from benchmarks.sides import CALM_AFTER_MANY, Size, Table, apart, compare
from benchmarks.volumes import MANIFEST, STATE, WORLD, check, make
from mountd.reconcile.passes import Settings, reconcile


def tables(floor: str, size: Size) -> Iterator[Table]:
    """New volumes, and none that is new."""
    for count in size.many:
        yield compare(
            f"pass-{count}",
            f"{count:,} new volumes with one map, in process: per volume",
            "µs",
            {
                "the same calls in C": partial(apart, in_c, floor, count),
                "a pass": partial(apart, new, count),
            },
            size.rounds,
            CALM_AFTER_MANY,
        )
    count = size.many[0]
    yield compare(
        f"nothing-{count}",
        f"{count:,} volumes that are mounted, nothing to do, in process: per volume",
        "µs",
        {
            "a statx of each source in C": partial(apart, looks_in_c, floor, count),
            "a pass": partial(apart, nothing_to_do, count),
        },
        size.rounds,
        CALM_AFTER_MANY,
    )


def new(count: int) -> float:
    """A pass that mounts them."""
    make(count)
    took = _pass(count)
    check(count)
    return took


def nothing_to_do(count: int) -> float:
    """A pass that finds them mounted."""
    new(count)
    before = (STATE / "record.json").stat().st_mtime_ns
    took = _pass(count)
    assert (STATE / "record.json").stat().st_mtime_ns == before, "there was something to do"
    return took


def in_c(floor: str, count: int) -> float:
    """C's own time for mounting them."""
    make(count)
    took = _printed(floor, f"{WORLD}/s", f"{WORLD}/t", str(count))
    check(count)
    return took


def looks_in_c(floor: str, count: int) -> float:
    """C's own time for looking at the sources, of which as many are mounted."""
    in_c(floor, count)
    return _printed(floor, f"{WORLD}/s", str(count))


def _pass(count: int) -> float:
    gc.disable()  # as the command does
    settings = Settings(str(MANIFEST), str(STATE))
    begin = time.perf_counter()
    reconcile(settings, lambda *_: None, lambda _: None)
    return (time.perf_counter() - begin) * 1e6 / count


def _printed(*command: str) -> float:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return float(done.stdout)
