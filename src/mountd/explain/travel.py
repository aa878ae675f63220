"""How ids travel through a mount: as what those stored are seen, as what those seen are stored."""

from collections.abc import Iterable, Iterator
from typing import Literal

from mountd.core.idmapping import OVERFLOW_ID, Extents, Idmapping, inverse, is_whole, seen_as
from mountd.core.model import Ids
from mountd.core.named_tuple import NamedTuple

Kind = Literal["owner", "user", "asker", "root"]
"""Whose ids they are: the source's owner, the volume's user, whoever is asked about, a file's."""
Origin = Literal["kernel", "record", "manifest"]
"""Who says which idmapping it is: of the mount that there is, or of the one that there would be."""
Rest = Literal["as-itself", "as-mapped", "left-out"]
"""As what ids that are in no row are seen."""


class Arrival(NamedTuple):
    """Ids at the other end; None for one that the idmapping leaves out."""

    uid: int | None
    gid: int | None

    @property
    def is_whole(self) -> bool:
        """Whether both arrive."""
        return None not in self

    @property
    def shown(self) -> Ids:
        """As stat(2) shows them."""
        return Ids(*(OVERFLOW_ID if each is None else each for each in self))


class Row(NamedTuple):
    """Ids as they are stored on the source, and what is seen of them at the target."""

    kind: Kind
    stored: Ids
    seen: Arrival


def arrival(ids: Ids, idmap: Idmapping | None) -> Arrival:
    """As what a file is seen that is stored as these ids'."""
    if idmap is None:
        return Arrival(*ids)
    return Arrival(seen_as(idmap.uids, ids.uid), seen_as(idmap.gids, ids.gid))


def departure(ids: Ids, idmap: Idmapping | None) -> Arrival:
    """As whose a file is stored that a process with these ids creates; None: it can't (EOVERFLOW).

    In a folder with the setgid bit the group is the folder's instead (inode(7)).
    """
    return arrival(ids, idmap and Idmapping(inverse(idmap.uids), inverse(idmap.gids)))


def rows(idmap: Idmapping | None, people: Iterable[tuple[Kind, Ids]]) -> tuple[Row, ...]:
    """A row for each of these ids, given as stored; of equal ones for the first alone."""
    first: dict[Ids, Kind] = {}
    for kind, ids in people:
        first.setdefault(ids, kind)
    return tuple(Row(kind, ids, arrival(ids, idmap)) for ids, kind in first.items())


def rest(idmap: Idmapping | None, told: Iterable[Row], known: Idmapping) -> Rest:
    """What holds for all other ids, of those that our user namespace knows."""
    if idmap is None:
        return "as-itself"
    if not all(map(is_whole, idmap, known)):
        return "left-out"
    stored = [row.stored for row in told]
    others = (
        *_moved(idmap.uids, {each.uid for each in stored}),
        *_moved(idmap.gids, {each.gid for each in stored}),
    )
    return "as-mapped" if others else "as-itself"


def _moved(extents: Extents, told: set[int]) -> Iterator[int]:
    """The beginnings of runs of ids that are seen as others, unless they are told of."""
    for stored, seen, count in extents:
        if stored != seen and (count > 1 or stored not in told):
            yield stored
