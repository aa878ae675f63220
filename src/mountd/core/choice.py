"""Which idmapping a volume means: DESIGN's rules as functions of values."""

import stat

from mountd.core.idmapping import IDENTITY, OVERFLOW_ID, Idmapping, seen_as, swap
from mountd.core.model import Ids, User, Volume

ROOT = 0


def chosen_idmap(
    volume: Volume, owner: Ids, user: User | None, *, is_read_only: bool, stored: Ids, mode: int
) -> Idmapping | None:
    """The idmapping of ours that this volume's mount needs, or None where it needs none.

    `owner` is exchanged with the user; `stored` and `mode` are the source root's. `auto` leaves out
    what would change nothing, and what a read-only volume can do without, as the user may read it.
    """
    if isinstance(volume.idmap, Idmapping):
        return volume.idmap
    if volume.idmap == "never" or user is None:
        return None
    if volume.idmap == "auto":
        if owner.uid == user.uid and user.gid in (None, owner.gid):
            return None
        if is_read_only and _may_read(stored, user, mode):
            return None
    gids = IDENTITY if user.gid is None else swap(owner.gid, user.gid)
    return Idmapping(swap(owner.uid, user.uid), gids)


def _may_read(owner: Ids, user: User, mode: int) -> bool:
    wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
    shift = 6 if user.uid == owner.uid else 3 if user.gid == owner.gid else 0
    return (mode >> shift) & wanted == wanted


def gives_root_away(volume: Volume, owner: Ids, user: User, *, is_out_of_reach: bool) -> bool:
    """Whether the swap lets whoever is seen as the other id leave setuid files that are root's.

    They would be reached through the source's own path, where our nosuid has no say. Harmless where
    the source's mount is nosuid or the volume read-only (`is_out_of_reach`), and where the manifest
    vouches for the owner. Where root is the user it takes an account of the owner's, too.
    """
    swaps_root = owner.uid != user.uid and ROOT in (owner.uid, user.uid)
    return swaps_root and not is_out_of_reach and volume.owner is None


def shown_owner(stored: Ids, idmap: Idmapping | None) -> Ids:
    """Who the root of a mount with this idmapping must show as its owner."""
    if idmap is None:
        return stored
    uid, gid = seen_as(idmap.uids, stored.uid), seen_as(idmap.gids, stored.gid)
    return Ids(OVERFLOW_ID if uid is None else uid, OVERFLOW_ID if gid is None else gid)
