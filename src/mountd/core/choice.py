"""Which idmapping a volume's mount needs, by which rule, and what there is to know of it."""

import stat
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, Self

from mountd.core.idmapping import (
    IDENTITY,
    OVERFLOW_ID,
    Extents,
    Idmapping,
    compose,
    inverse,
    is_whole,
    refusals,
    runs_in_words,
    seen_as,
    swap,
    unknown,
)
from mountd.core.model import Fault, Ids, Refused, User, Volume
from mountd.core.named_tuple import NamedTuple
from mountd.core.words import idmap_faults
from mountd.core.words.faults import VolumeError

Rule = Literal["extents", "never", "no-user", "is-user", "may-read", "swap"]
"""Why a mount has the idmapping that it has, or none of ours."""
ROOT = 0
LEFT_OUT = "ids that the extents leave out are seen as 65534 and can't be written"


class Root(NamedTuple):
    """A source's root."""

    stored: Ids
    """Who owns it as stored."""
    seen: Ids
    """The owner that the source's own mount shows."""
    mode: int
    idmap: Idmapping | None
    """What the source's own mount has."""
    is_read_only: bool
    """Whether the volume's mount of it is, by a flag or by the filesystem."""
    is_writable: bool = True
    """Whether something can be written in what the volume shows, submounts included."""


class Choice(NamedTuple):
    """The idmapping of a volume's mount: all that the rules say of it."""

    idmap: Idmapping | None
    """Ours; None where the mount needs none of ours."""
    rule: Rule
    owner: Ids
    """As stored: the manifest's word, or else the source root's."""
    shown: Ids
    """The owner that the mount must show."""
    notes: tuple[str, ...]
    """What a person should know of it."""
    refused: Refused | None = None
    """Why the mount can't have what it needs, though the manifest is right."""

    def with_raw_ids(self, seen: Ids, fault: Fault) -> Self:
        """What `fallback = "plain"` means, where the idmapping is refused."""
        return self._replace(idmap=None, shown=seen, refused=Refused(self.idmap, fault))


def choose(volume: Volume, root: Root, user: User | None, known: Idmapping) -> Choice:
    """The idmapping of a volume's mount. Raises VolumeError where the manifest is mistaken.

    `known` is the identity over the ids that our user namespace has.
    """
    idmap, refused = None, None
    try:
        idmap = chosen_idmap(volume, root, user, known)
    except ValueError:  # inside a user namespace
        refused = Refused(None, _unknown(volume.owner or root.seen, user, known))
    if idmap and (impossible := _why_impossible(idmap, known)):
        raise VolumeError(impossible)
    owner = volume.owner or root.stored
    return Choice(
        idmap,
        rule_for(volume, root, user),
        owner,
        shown_owner(root.stored, idmap) if idmap else root.seen,
        _notes_on(idmap, owner, user, known, is_writable=root.is_writable),
        refused,
    )


def chosen_idmap(
    volume: Volume, root: Root, user: User | None, known: Idmapping
) -> Idmapping | None:
    """The idmapping of ours that this volume's mount needs, or None where it needs none.

    `auto` leaves out what would change nothing, and what a read-only volume can do without, as the
    user may read it. `known` is the identity over the ids that our user namespace has; raises
    ValueError where the owner's or the user's are none of these.
    """
    if isinstance(volume.idmap, Idmapping):
        return Idmapping(*(_with_identity_for_missing(volume.idmap, known)))
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


def _notes_on(
    idmap: Idmapping | None, owner: Ids, user: User | None, known: Idmapping, *, is_writable: bool
) -> tuple[str, ...]:
    notes = []
    is_all = idmap is None or all(map(is_whole, idmap, known))
    if idmap and not user and not is_all:
        notes.append(LEFT_OUT)
    if user and user.gid is None:
        notes.append(f"uid {user.uid} has no account, so gids stay as they are")
    if (
        idmap
        and is_writable
        and user
        and user.gid is not None
        and 0 in (owner.gid, user.gid)
        and owner.gid != user.gid
    ):
        other = owner.gid or user.gid
        notes.append(f"group {other} is swapped with root's, and could leave setgid files of it")
    return tuple(notes)


def _unknown(owner: Ids, user: User | None, known: Idmapping) -> Fault:
    """Which id our user namespace doesn't have: a user's is a mistake, an owner's the host's."""
    assert user, "without one there is nothing to exchange"
    if seen_as(known.uids, user.uid) is None:
        raise VolumeError(idmap_faults.unknown_user("uid", user.uid))
    if user.gid is not None and seen_as(known.gids, user.gid) is None:
        raise VolumeError(idmap_faults.unknown_user("gid", user.gid))
    if seen_as(known.uids, owner.uid) is None:
        return idmap_faults.unknown_owner("uid", owner.uid)
    return idmap_faults.unknown_owner("gid", owner.gid)


@lru_cache(1024)  # volumes of one owner and one user have the same
def _why_impossible(idmap: Idmapping, known: Idmapping) -> Fault | None:
    """What no kernel takes: ids that our user namespace doesn't have, or too many extents."""
    return _why_unwritable("uid", idmap.uids, known.uids) or _why_unwritable(
        "gid", idmap.gids, known.gids
    )


def _why_unwritable(kind: Literal["uid", "gid"], extents: Extents, known: Extents) -> Fault | None:
    if ids := unknown(extents, known):
        return idmap_faults.unknown_ids(kind, runs_in_words(ids))
    if refused := refusals(extents):
        return idmap_faults.map_refused(kind, refused[0].reason)
    return None


def _with_identity_for_missing(idmap: Idmapping, known: Idmapping) -> Iterator[Extents]:
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
