"""Folders so far down that no path which the kernel takes is long enough to name them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ALICE = 1000
FARTHEST = (5500, "d" * 200)
"""More than a MiB."""


@contextmanager
def deep(folder: Path, levels: int, name: str) -> Iterator[int]:
    """A descriptor of a folder so many levels below, each of this name; they are Alice's."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        os.chown(name, ALICE, ALICE, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    try:
        yield here
    finally:
        os.close(here)
