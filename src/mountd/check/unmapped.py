"""Ids of existing files that a volume's extents leave out, as far as a bounded look sees."""

from time import monotonic
from typing import Literal

from mountd.core.idmapping import Extents, inverse, is_whole, seen_as
from mountd.core.model import DesiredMount
from mountd.kernel.contents import files_below
from mountd.kernel.syscalls import Fd, Stat, statx
from mountd.kernel.userns import known_ids

Side = Literal["uids", "gids"]
_SIDES: tuple[Side, Side] = ("uids", "gids")
_MOST_ENTRIES = 10_000


class Unmapped:
    """What has been seen of one volume's files."""

    def __init__(self, mount: DesiredMount) -> None:
        assert mount.idmap, "without one no id is left out"
        self.ids: dict[Side, list[int | None]] = {}
        """The ids left out, as stored; None for those that our own mount, in place, hides."""
        self.examples: dict[Side, str] = {}
        """A file that has the first of them."""
        self.closed: list[str] = []
        """Folders that we may not look into, and whose files may have more."""
        self._extents: dict[Side, Extents] = {
            side: extents
            for side, extents, known in zip(_SIDES, mount.idmap, known_ids(), strict=True)
            if not is_whole(extents, known)
        }
        through = mount.through_idmap
        self._stored = {
            side: inverse(each) for side, each in zip(_SIDES, through or (), strict=False)
        }
        self._is_hidden_left_out = mount.is_in_place and through == mount.idmap

    @property
    def is_possible(self) -> bool:
        """Whether there is any id that the extents leave out."""
        return bool(self._extents)

    def look(self, source: Fd, place: str, seconds: float) -> None:
        """Look at the source's root, known as `place`, and at what lies below."""
        self._see(place, statx(source))
        ends = monotonic() + seconds
        for path, found in files_below(source, _MOST_ENTRIES, ends, self.closed):
            self._see(f"{place}/{path}", found)

    def _see(self, path: str, found: Stat) -> None:
        for side, extents in self._extents.items():
            shown = found.uid if side == "uids" else found.gid
            stored = seen_as(self._stored[side], shown) if self._stored else shown
            if stored is None:
                is_left_out = self._is_hidden_left_out
            else:
                is_left_out = seen_as(extents, stored) is None
            if is_left_out and stored not in self.ids.setdefault(side, []):
                self.ids[side].append(stored)
                self.examples.setdefault(side, path)
