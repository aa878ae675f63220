"""What lies in a folder, as far as a bounded look sees."""

import os
from itertools import islice

from mountd.kernel.files import RESOLVE_NO_SYMLINKS, openat2

_READING = os.O_RDONLY | os.O_DIRECTORY


def names_in(path: str, most: int) -> list[str]:
    """Some names in a folder, `most` at most, of a path that has no links; none if it is none."""
    try:
        folder = openat2(None, path, _READING, RESOLVE_NO_SYMLINKS)
    except (FileNotFoundError, NotADirectoryError):
        return []
    with folder, os.scandir(folder.number) as entries:
        return [entry.name for entry in islice(entries, most)]
