"""Which idmapping a volume means: DESIGN's rules as functions of values."""

import stat
from collections.abc import Iterator
from typing import NamedTuple

from mountd.core.idmapping import (
    IDENTITY,
    OVERFLOW_ID,
    Extents,
    Idmapping,
    compose,
    inverse,
    seen_as,
    swap,
)
from mountd.core.model import DesiredMount, Fault, Ids, Refused, Rule, User, Volume

ROOT = 0


class Root(NamedTuple):
    """A source's root: who owns it as stored, as whom its own mount shows it, and its mode.

    `idmap` is what that mount has.
    """

    stored: Ids
    seen: Ids
    mode: int
    idmap: Idmapping | None
    is_read_only: bool


def chosen_idmap(
    volume: Volume, root: Root, user: User | None, known: Idmapping
) -> Idmapping | None:
    """The idmapping of ours that this volume's mount needs, or None where it needs none.

    `auto` leaves out what would change nothing, and what a read-only volume can do without, as the
    user may read it. `known` is the identity over the ids that our user namespace has; raises
    ValueError where the owner's or the user's are none of these.
    """
    if isinstance(volume.idmap, Idmapping):
        return Idmapping(*(_without_unsaid(volume.idmap, known)))
    if user is None or rule_for(volume, root, user) != "swap":
        return None
    owner = volume.owner or root.seen
    uids = swap(owner.uid, user.uid, known.uids)
    gids = known.gids if user.gid is None else swap(owner.gid, user.gid, known.gids)
    if root.idmap and not volume.owner:  # what is seen through the source's mount is exchanged
        return Idmapping(compose(root.idmap.uids, uids), compose(root.idmap.gids, gids))
    return Idmapping(uids, gids)


def rule_for(volume: Volume, root: Root, user: User | None) -> Rule:
    """Which of the rules decides what idmapping this volume's mount needs."""
    if isinstance(volume.idmap, Idmapping):
        return "extents"
    if volume.idmap == "never":
        return "never"
    if user is None:
        return "no-user"
    if volume.idmap == "auto":
        seen = shown_owner(volume.owner, root.idmap) if volume.owner else root.seen
        if seen.uid == user.uid and user.gid in (None, seen.gid):
            return "is-user"
        if root.is_read_only and _may_read(root, user):
            return "may-read"
    return "swap"


def _without_unsaid(idmap: Idmapping, known: Idmapping) -> Iterator[Extents]:
    """A list that was left out is the identity, over what is known."""
    for extents, identity in zip(idmap, known, strict=True):
        yield identity if extents == IDENTITY else extents


def _may_read(root: Root, user: User) -> bool:
    wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(root.mode) else 0)
    shift = 6 if user.uid == root.seen.uid else 3 if user.gid == root.seen.gid else 0
    return (root.mode >> shift) & wanted == wanted


def shown_owner(stored: Ids, idmap: Idmapping | None) -> Ids:
    """Who the root of a mount with this idmapping must show as its owner."""
    if idmap is None:
        return stored
    uid, gid = seen_as(idmap.uids, stored.uid), seen_as(idmap.gids, stored.gid)
    return Ids(OVERFLOW_ID if uid is None else uid, OVERFLOW_ID if gid is None else gid)


def stored_owner(seen: Ids, idmap: Idmapping | None) -> Ids:
    """Whose a root is as stored that a mount with this idmapping shows as `seen`'s."""
    return shown_owner(seen, Idmapping(inverse(idmap.uids), inverse(idmap.gids)) if idmap else None)


def with_raw_ids(mount: DesiredMount, wanted: Idmapping | None, fault: Fault) -> DesiredMount:
    """The mount that `fallback = "plain"` means, where the idmapping `wanted` is refused."""
    return mount._replace(
        idmap=mount.source_idmap,
        inherited=True,
        shown=mount.seen,
        refused=Refused(wanted, fault),
    )
