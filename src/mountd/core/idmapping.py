"""Idmappings: extents, the swap, composition, lookup, and the text that the kernel reads.

An extent maps `count` ids from `stored` on (on the source's filesystem) to as many from `seen` on
(at the target). This is the kernel's own order of columns in uid_map for a mount's namespace:
`501 1000 1` shows what is stored as 501 as 1000 (user_namespaces(7), mount_setattr(2)).

`known` is the identity map over the ids that exist in our user namespace; on a host it is IDENTITY,
over all ids.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from mountd.core.named_tuple import NamedTuple

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
def swap(one: int, other: int, known: Extents = IDENTITY) -> Extents:
    """Exchange two ids and leave every other known id as it is: at most four extents more.

    Where both are the same id it is the identity, for an empty map is refused (EINVAL). Raises
    ValueError if one of them isn't known: nothing can be seen as it, nor be stored by it.
    """
    for each in (one, other):
        if seen_as(known, each) is None:
            raise ValueError(f"id {each} is not known in this user namespace")
    if one == other:
        return known
    low, high = sorted((one, other))
    pieces = (
        Extent(0, 0, low),
        Extent(low, high, 1),
        Extent(low + 1, low + 1, high - low - 1),
        Extent(high, low, 1),
        Extent(high + 1, high + 1, ID_COUNT - high - 1),
    )
    whole = tuple(piece for piece in pieces if piece.count)
    return whole if known == IDENTITY else compose(whole, known)


def compose(first: Extents, then: Extents) -> Extents:
    """What is seen where a map lies on top of another: stored → `first` → `then`.

    Ids that either leaves out are left out.
    """
    return normalised(_through_both(first, then))


def _through_both(first: Iterable[Extent], then: Iterable[Extent]) -> Iterator[Extent]:
    """The pieces of `first` that an extent of `then` takes, in the order in which they meet."""
    lower = sorted(first, key=lambda extent: extent.seen)
    upper = sorted(then)
    here = there = 0
    while here < len(lower) and there < len(upper):
        stored, between, count = lower[here]
        start, seen, run = upper[there]
        low, end = max(between, start), min(between + count, start + run)
        if low < end:
            yield Extent(stored + low - between, seen + low - start, end - low)
        if between + count == end:
            here += 1
        else:
            there += 1


def inverse(extents: Extents) -> Extents:
    """Extents that lead back: what was seen is stored, what was stored is seen."""
    return normalised(Extent(seen, stored, count) for stored, seen, count in extents)


def identity(extents: Extents) -> Extents:
    """Each stored id of these extents as itself."""
    return normalised(Extent(stored, stored, count) for stored, _, count in extents)


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


@lru_cache(1024)
def is_whole(extents: Extents, known: Extents = IDENTITY) -> bool:
    """Whether every known id is covered: a file shows as 65534 only if it is stored as 65534."""
    return not compose(known, _left_out(extents))


def unknown(extents: Extents, known: Extents) -> Extents:
    """What of the extents is seen as ids that aren't known: the kernel refuses a map with these."""
    return compose(extents, _left_out(known))


def _left_out(extents: Extents) -> Extents:
    """The identity over all ids but the stored ones of these extents."""
    found: list[Extent] = []
    end = 0
    for stored, _, count in (*sorted(extents), Extent(ID_COUNT, ID_COUNT, 0)):
        if stored > end:
            found.append(Extent(end, end, stored - end))
        end = max(end, stored + count)
    return tuple(found)


@lru_cache(1024)
def kernel_text(extents: Extents, own: Extents = IDENTITY) -> bytes:
    """The extents as they are written to uid_map or gid_map, in one write.

    The range that an extent is seen as must lie within one extent of our own namespace's map (else
    EPERM, user_namespaces(7)); `own` has those, and extents are split at them.
    """
    if own != IDENTITY:
        extents = tuple(sorted(_through_both(extents, (*own, *_left_out(own)))))
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
                told = identity(extents) if len(extents) > len(moved) else ()
                others = f" within {runs_in_words(told)}" if told else " and no others"
            case _:
                told = tuple(moved) if is_whole(extents) else extents
                text = ",".join(map(_run, told[:3])) + ",…" * (len(told) > 3)
                others = " and no others"
        parts.append(f"{word} {text}" + ("" if is_whole(extents) else others))
    return ", ".join(parts) or "each id as itself"


def runs_in_words(extents: Extents) -> str:
    """The ids that are seen, short enough for a line: `0-65535,100000`."""
    runs = [_ids(extent.seen, extent.count) for extent in extents[:3]]
    return ",".join(runs) + ",…" * (len(extents) > 3)


def _run(extent: Extent) -> str:
    return "→".join(_ids(first, extent.count) for first in extent[:2])


def _ids(first: int, count: int) -> str:
    return f"{first}" if count == 1 else f"{first}-{first + count - 1}"


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
            last = min(end, first(extent) + extent.count) - 1
            both = str(last) if first(extent) == last else f"{first(extent)} to {last}"
            reason = f"overlaps [{here}]: both have {both} as `{side}`"
            found.append(Refusal((there, here), reason))
        if first(extent) + extent.count > end:
            furthest, end = index, first(extent) + extent.count
    return found
