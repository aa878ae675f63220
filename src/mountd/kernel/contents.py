"""What lies in folders, as far as a bounded look sees: through no link, into no other mount."""

import os
import stat
from collections import deque
from collections.abc import Iterator
from itertools import islice
from time import monotonic

from mountd.kernel.syscalls import (
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    Fd,
    Stat,
    openat2,
    statx,
)

_READING = os.O_RDONLY | os.O_DIRECTORY


def names_in(path: str, most: int) -> list[str]:
    """Some names in a folder, `most` at most, of a path that has no links; none if it is none."""
    try:
        folder = openat2(None, path, _READING, RESOLVE_NO_SYMLINKS)
    except (FileNotFoundError, NotADirectoryError):
        return []
    with folder, os.scandir(folder.number) as entries:
        return [entry.name for entry in islice(entries, most)]


def files_below(root: Fd, most: int, ends: float, closed: list[str]) -> Iterator[tuple[str, Stat]]:
    """What lies below an open folder, by its path from there, the nearest first.

    `most` entries are looked at, and none after `ends` (time.monotonic). Folders that we may not
    look into are added to `closed`. Of what is no folder there is nothing.
    """
    left = most
    folders = deque([""])
    while folders:
        path = folders.popleft()
        try:
            how = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH | RESOLVE_NO_XDEV
            with (
                openat2(root, path or ".", _READING, how) as folder,
                os.scandir(folder.number) as entries,
            ):
                for entry in entries:
                    if not left or monotonic() > ends:
                        return
                    left -= 1
                    found = _entry(folder, entry.name)
                    if found:
                        inner = f"{path}/{entry.name}" if path else entry.name
                        if stat.S_ISDIR(found.mode):
                            folders.append(inner)
                        yield inner, found
        except PermissionError:
            closed.append(path)
        except NotADirectoryError:
            continue
        except OSError:
            if not path:
                raise
            continue  # it was renamed or removed meanwhile, or its path is longer than any may be


def _entry(folder: Fd, name: str) -> Stat | None:
    """What statx(2) tells of an entry; None where it is gone, or another mount's."""
    try:
        found = statx(folder, name)
    except FileNotFoundError:
        return None
    return None if found.is_mount_root else found
