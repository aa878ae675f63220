"""Whole commands: what a boot or a shell waits for, from its start to its end."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from benchmarks.peers import Peer
from benchmarks.sides import CALM, CALM_AFTER_MANY, Size, Table, apart, compare, timed
from benchmarks.volumes import FSTAB, MOUNTD, OPTIONS, PLACES, WORLD, check, make

BARE = [sys.executable, "-I", "-c", "pass"]
RECONCILE = [MOUNTD, "reconcile", "--quiet", *PLACES]
_MOST_DAEMONS = 100
"""bindfs is a process for each mount."""


def tables(floor: str, peers: Mapping[str, Peer], size: Size) -> Iterator[Table]:
    """The start of Python and what mountd adds; and new volumes, by each who can mount them."""
    yield compare(
        "start",
        "10 volumes: whole commands",
        "ms",
        {
            "`python3 -I -c pass`": partial(apart, timed, BARE),
            "`mountd reconcile --dry-run`": partial(apart, dry_run, 10),
            "`mountd reconcile`": partial(apart, new, RECONCILE, 10, False),
            "`mountd reconcile`, nothing to do": partial(apart, nothing_to_do, 10),
        },
        size.rounds,
    )
    for count in size.volumes:
        yield compare(
            f"new-{count}",
            f"{count:,} new volume{'s' * (count > 1)}: whole commands",
            "ms",
            dict(_sides(floor, peers, count)),
            size.rounds,
            CALM_AFTER_MANY if count >= 1000 else CALM,
        )


def _sides(
    floor: str, peers: Mapping[str, Peer], count: int
) -> Iterator[tuple[str, Callable[[], float]]]:
    source, target = f"{WORLD}/s/{{}}", f"{WORLD}/t/{{}}"
    yield "`mountd reconcile`", partial(apart, new, RECONCILE, count, False)
    if "mount" in peers:
        mount = peers["mount"].words
        yield "`mount -a`", partial(apart, new, [*mount, "-a", "-T", str(FSTAB)], count, False)
        each = [*mount, "-o", OPTIONS, source, target]
        yield "one `mount` each", partial(apart, new, each, count, True)
    if "bindfs" in peers and count <= _MOST_DAEMONS:
        daemon = [*peers["bindfs"].words, "--map=501/1000:@20/@1000", source, target]
        yield "one `bindfs` each", partial(apart, new, daemon, count, True)
    in_c = [floor, f"{WORLD}/s", f"{WORLD}/t", str(count)]
    yield "the calls in C", partial(apart, new, in_c, count, False)


def new(words: list[str], count: int, is_each: bool) -> float:
    """A command that mounts all volumes; or one for each, with its number at `{}`."""
    make(count)
    numbers = range(count) if is_each else (0,)
    commands = [[word.replace("{}", str(number)) for word in words] for number in numbers]
    begin = time.perf_counter()
    for each in commands:
        subprocess.run(each, check=True, stdout=subprocess.DEVNULL)
    took = (time.perf_counter() - begin) * 1e3
    check(count)
    return took


def dry_run(count: int) -> float:
    """A dry run of new volumes."""
    make(count)
    command = [MOUNTD, "reconcile", "--dry-run", *PLACES]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert f"{count} to mount" in printed, printed
    return timed(command)


def nothing_to_do(count: int) -> float:
    """A run that finds all of them mounted."""
    new(RECONCILE, count, False)
    took = timed(RECONCILE)
    check(count)
    return took
