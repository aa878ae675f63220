"""Key paths, and where in a text something stands."""

from functools import lru_cache

from mountd.core.named_tuple import NamedTuple

KeyPath = tuple[str | int, ...]
"""Names from the root down; an int is an index into an array, or into an array of tables."""


class Span(NamedTuple):
    """Characters of the text, from `start` to before `end`."""

    start: int
    end: int


_MOST = 200  # characters of a key path in a sentence


def dotted(path: KeyPath) -> str:
    """A key path as people write it: `volumes.cache.idmap.uids[1].count`."""
    text = (_above(path[:-1][:_MOST]) + _part(path[-1])).removeprefix(".")
    return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"


@lru_cache(1024)  # a hundred thousand things may be wrong with one table
def _above(path: KeyPath) -> str:
    return "".join(map(_part, path))


def _part(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    part = part[: _MOST + 1]  # a name may be as long as the manifest
    bare = part.replace("-", "").replace("_", "")
    return f".{part}" if bare.isascii() and bare.isalnum() else f'."{part}"'
