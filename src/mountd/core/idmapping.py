"""Idmappings: extents, the swap, lookup, and the text that the kernel reads.

An extent maps `count` ids from `stored` on (on the source's filesystem) to as many from `seen` on
(at the target). This is the kernel's own order of columns in uid_map for a mount's namespace:
`501 1000 1` shows what is stored as 501 as 1000 (user_namespaces(7), mount_setattr(2)).
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

ID_COUNT = 4294967295
"""How many ids there are. The id of this value means "unchanged" to chown(2); no map holds it."""
MAX_EXTENTS = 340
MAX_TEXT = 4095
"""Bytes of a map that the kernel takes: one page, the final NUL included."""
OVERFLOW_ID = 65534
"""As what an id that a map leaves out is seen (/proc/sys/kernel/overflowuid, by default)."""


class Extent(NamedTuple):
    """A run of `count` ids: `stored` on the filesystem, `seen` at the target."""

    stored: int
    seen: int
    count: int  # type: ignore[assignment] # tuple.count is never missed


Extents = tuple[Extent, ...]
"""Ordered by `stored`, neighbours merged, wherever two are compared."""

IDENTITY: Extents = (Extent(0, 0, ID_COUNT),)


class Idmapping(NamedTuple):
    """What a mount does to ids: extents for uids, extents for gids. The kernel wants both."""

    uids: Extents
    gids: Extents


class Refusal(NamedTuple):
    """Why the kernel would refuse extents: which of them (indexes), the worst first, and why."""

    extents: tuple[int, ...]
    reason: str


@lru_cache(1024)  # volumes of one owner and one user ask for the same
def swap(one: int, other: int) -> Extents:
    """Exchange two ids and leave every other id as it is: at most five extents.

    Where both are the same id it is the identity, for an empty map is refused (EINVAL).
    """
    if one == other:
        return IDENTITY
    low, high = sorted((one, other))
    pieces = (
        Extent(0, 0, low),
        Extent(low, high, 1),
        Extent(low + 1, low + 1, high - low - 1),
        Extent(high, low, 1),
        Extent(high + 1, high + 1, ID_COUNT - high - 1),
    )
    return tuple(piece for piece in pieces if piece.count)


def inverse(extents: Extents) -> Extents:
    """Extents that lead back: what was seen is stored, what was stored is seen."""
    return normalised(Extent(seen, stored, count) for stored, seen, count in extents)


def normalised(extents: Iterable[Extent]) -> Extents:
    """The one way to write what these extents mean: sorted by `stored`, neighbours merged."""
    merged: list[Extent] = []
    for extent in sorted(extents):
        if merged:
            last = merged[-1]
            if (last.stored + last.count, last.seen + last.count) == extent[:2]:
                merged[-1] = last._replace(count=last.count + extent.count)
                continue
        merged.append(extent)
    return tuple(merged)


def seen_as(extents: Extents, stored: int) -> int | None:
    """As which id a stored one is seen; None where the extents leave it out."""
    for extent in extents:
        if extent.stored <= stored < extent.stored + extent.count:
            return extent.seen + stored - extent.stored
    return None


def is_whole(extents: Extents) -> bool:
    """Whether no id is left out, so that nothing shows as the overflow id that is not stored so."""
    return sum(extent.count for extent in extents) == ID_COUNT


@lru_cache(1024)
def kernel_text(extents: Extents) -> bytes:
    """The extents as they are written to uid_map or gid_map, in one write."""
    return b"".join(b"%d %d %d\n" % extent for extent in extents)


@lru_cache(1024)
def parsed_text(lines: tuple[bytes, ...]) -> Extents:
    """The extents in what statmount(2) answers: a line `stored seen count` for each."""
    return normalised(Extent(*map(int, line.split())) for line in lines)


def in_words(idmap: Idmapping | None) -> str:
    """What an idmapping changes, short enough for a line: `uid 501↔1000, gid 20↔1000`."""
    if idmap is None:
        return "no idmapping"
    parts = []
    for word, extents in (("uid", idmap.uids), ("gid", idmap.gids)):
        moved = [extent for extent in extents if extent.stored != extent.seen]
        if not moved and is_whole(extents):
            continue
        match moved:
            case [(one, other, 1), (back, again, 1)] if (one, other) == (again, back):
                text = f"{one}↔{other}"
            case _:
                told = moved if is_whole(extents) else extents
                text = ",".join(map(_run, told[:3])) + ",…" * (len(told) > 3)
        parts.append(f"{word} {text}" + ("" if is_whole(extents) else " and no others"))
    return ", ".join(parts) or "each id as itself"


def _run(extent: Extent) -> str:
    sides = (extent.stored, extent.seen)
    if extent.count == 1:
        return "→".join(map(str, sides))
    return "→".join(f"{first}-{first + extent.count - 1}" for first in sides)


def refusals(extents: Extents) -> list[Refusal]:
    """Every reason why the kernel would refuse these extents; empty where it takes them.

    The limits are measured on Linux 6.18 and documented in user_namespaces(7).
    """
    if not extents:
        return [Refusal((), "has no extents; leave it out to map each id to itself")]
    found: list[Refusal] = []
    for index, extent in enumerate(extents):
        if extent.count == 0:
            found.append(Refusal((index,), "has a `count` of 0"))
        for side, first in (("stored", extent.stored), ("seen", extent.seen)):
            if first + extent.count > ID_COUNT:
                reason = f"goes past 4294967294, the highest id, in `{side}`"
                found.append(Refusal((index,), reason))
    found += _overlaps(extents, "stored", lambda extent: extent.stored)
    found += _overlaps(extents, "seen", lambda extent: extent.seen)
    if len(extents) > MAX_EXTENTS:
        reason = f"has {len(extents)} extents; the kernel takes {MAX_EXTENTS} at most"
        found.append(Refusal((), reason))
    elif (size := len(kernel_text(extents))) > MAX_TEXT:
        reason = f"is {size} bytes long as the kernel reads it, which takes {MAX_TEXT} at most"
        found.append(Refusal((), reason))
    return found


def _overlaps(extents: Extents, side: str, first: Callable[[Extent], int]) -> list[Refusal]:
    found: list[Refusal] = []
    furthest, end = 0, 0  # the extent that reaches furthest so far, and where it ends
    for index in sorted(range(len(extents)), key=lambda index: first(extents[index])):
        extent = extents[index]
        if extent.count and first(extent) < end:
            here, there = sorted((furthest, index))
            reason = f"overlaps [{here}] in `{side}`"
            found.append(Refusal((there, here), reason))
        if first(extent) + extent.count > end:
            furthest, end = index, first(extent) + extent.count
    return found
