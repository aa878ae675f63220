"""The idmapping that a volume gets in our user namespace, whose ids alone there are."""

from functools import lru_cache
from typing import Literal

from mountd.core.choice import Root, chosen_idmap
from mountd.core.idmapping import (
    Extents,
    Idmapping,
    is_whole,
    refusals,
    runs_in_words,
    seen_as,
    unknown,
)
from mountd.core.model import Fault, Ids, User, Volume
from mountd.core.words import idmap_faults
from mountd.core.words.faults import VolumeError
from mountd.kernel.userns import known_ids

LEFT_OUT = "ids that the extents leave out are seen as 65534 and can't be written"


def idmap_here(
    volume: Volume, root: Root, user: User | None
) -> tuple[Idmapping | None, Fault | None]:
    """The idmapping, if it is to have one; or why it can't, though it should.

    Raises VolumeError where that is the manifest's mistake.
    """
    try:
        idmap = chosen_idmap(volume, root, user, known_ids())
    except ValueError:  # inside a user namespace
        return None, _unknown(volume.owner or root.seen, user)
    if idmap and (impossible := _why_impossible(idmap)):
        raise VolumeError(impossible)
    return idmap, None


def notes_on(
    idmap: Idmapping | None, owner: Ids, user: User | None, *, is_writable: bool
) -> tuple[str, ...]:
    """What a person should know of a volume's idmapping."""
    notes = []
    known = known_ids()
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


def _unknown(owner: Ids, user: User | None) -> Fault:
    """Which id our user namespace doesn't have: a user's is a mistake, an owner's the host's."""
    assert user, "without one there is nothing to exchange"
    known = known_ids()
    if seen_as(known.uids, user.uid) is None:
        raise VolumeError(idmap_faults.unknown_user("uid", user.uid))
    if user.gid is not None and seen_as(known.gids, user.gid) is None:
        raise VolumeError(idmap_faults.unknown_user("gid", user.gid))
    if seen_as(known.uids, owner.uid) is None:
        return idmap_faults.unknown_owner("uid", owner.uid)
    return idmap_faults.unknown_owner("gid", owner.gid)


@lru_cache(1024)  # volumes of one owner and one user have the same
def _why_impossible(idmap: Idmapping) -> Fault | None:
    """What no kernel takes: ids that our user namespace doesn't have, or too many extents."""
    known = known_ids()
    return _why_unwritable("uid", idmap.uids, known.uids) or _why_unwritable(
        "gid", idmap.gids, known.gids
    )


def _why_unwritable(kind: Literal["uid", "gid"], extents: Extents, known: Extents) -> Fault | None:
    if ids := unknown(extents, known):
        return idmap_faults.unknown_ids(kind, runs_in_words(ids))
    if refused := refusals(extents):
        return idmap_faults.map_refused(kind, refused[0].reason)
    return None
