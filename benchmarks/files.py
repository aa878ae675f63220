"""Many files of another owner's: what it costs to show them as the user's, and then to use them."""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from benchmarks.commands import RECONCILE
from benchmarks.peers import Peer
from benchmarks.sides import Size, Table, apart, compare, timed
from benchmarks.volumes import SEEN, WORLD, check, make

_SOURCE, _TARGET = WORLD / "s/0", WORLD / "t/0"
_FOLDERS = 100
_LOOKS = 10_000


def tables(peers: Mapping[str, Peer], size: Size) -> Iterator[Table]:
    """The start, and a stat through it."""
    ways = {
        "`mountd reconcile`": RECONCILE,
        "`chown -R`": ["chown", "-R", "1000:1000", str(_SOURCE)],
    }
    if "bindfs" in peers:
        mapped = ["--map=501/1000:@20/@1000", str(_SOURCE), str(_TARGET)]
        ways["`bindfs`"] = [*peers["bindfs"].words, *mapped]
    yield compare(
        "files",
        f"a folder with {size.files:,} files on tmpfs: until all are the user's",
        "ms",
        {name: partial(apart, become_the_users, words, size.files) for name, words in ways.items()},
        size.rounds,
    )
    looks = min(_LOOKS, size.files)
    yield compare(
        "stat",
        f"a stat of each of {looks:,} files, as the user sees them",
        "µs",
        {
            name: partial(apart, stat, words, looks)
            for name, words in ({"the folder itself": [], **ways}).items()
            if name != "`chown -R`"
        },
        size.rounds,
    )


def become_the_users(words: list[str], count: int) -> float:
    """The command that makes them the user's."""
    files = _make(count)
    took = timed(words)
    folder = _SOURCE if words[0] == "chown" else _TARGET
    for each in (folder / files[0], folder / files[-1]):
        found = each.stat()
        assert (found.st_uid, found.st_gid) == SEEN, f"{each} is {found.st_uid}:{found.st_gid}"
    return took


def stat(words: list[str], count: int) -> float:
    """A stat of each, by path, through what the command has mounted."""
    files = _make(count)
    folder = _SOURCE
    if words:
        folder = _TARGET
        subprocess.run(words, check=True)
        check(1)
    paths = [str(folder / each) for each in files]
    begin = time.perf_counter()
    for each in paths:
        os.stat(each)
    return (time.perf_counter() - begin) * 1e6 / count


def _make(count: int) -> list[Path]:
    """Make files of the owner's in the one volume's source, and return their paths in it."""
    make(1)
    files = [Path(str(each % _FOLDERS), str(each)) for each in range(count)]
    os.setegid(20)
    os.seteuid(501)
    for folder in {each.parent for each in files}:
        (_SOURCE / folder).mkdir()
    for each in files:
        os.mknod(f"{_SOURCE}/{each}")
    os.seteuid(0)
    os.setegid(0)
    return files
