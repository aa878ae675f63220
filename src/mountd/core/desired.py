"""What a volume means on this machine now: a mount, or why there can be none yet."""

from collections.abc import Mapping
from typing import Self

from mountd.core.choice import Choice
from mountd.core.idmapping import Idmapping
from mountd.core.model import Fault, Flags, Ids, Kind, Refused, User, Volume
from mountd.core.named_tuple import NamedTuple


class View(NamedTuple):
    """What a mount shows: this `root` of the filesystem whose superblock has this `device`."""

    device: int
    root: str
    is_read_only: bool


class DesiredMount(NamedTuple):
    """The mount that a volume means on this machine now."""

    volume: Volume
    source: str
    target: str
    """Both free of links."""
    kind: Kind
    fs_type: str
    device: int
    inode: int
    """Of the source's root."""
    user: User | None
    seen: Ids
    """The owner that the source's own mount shows."""
    choice: Choice
    """Its idmapping, with all that follows from it."""
    flags: Flags
    views: tuple[View, ...]
    """What the new mount shows, and then each that comes with it from below the source."""
    source_idmap: Idmapping | None = None
    """What the source's own mount has."""
    through_idmap: Idmapping | None = None
    """What the mount has through which the source was reached: in place, ours once it is there."""
    through: int | None = None
    """The id of our own mount, if the source was reached through it."""
    filesystem: str = ""
    """The name of the raw mount that it is a clone of, for a volume with a `type`."""
    submounts: Mapping[str, Flags] = {}
    """The flags of the mounts that come from below a recursive source, by the path from there."""
    automounts: tuple[str, ...] = ()
    """Those of these paths at which an automount is, which takes no idmapping."""
    makes: tuple[str, ...] = ()
    """What has to be made: the target, after the folders above it that are missing."""
    notes: tuple[str, ...] = ()
    """What a person should know besides what the choice says."""
    shared: str = ""
    """The one of these notes that is about accounts which could become each other through it."""
    reads: tuple[str, ...] = ()
    """Paths that it depends on besides its source, as far as they lead, without links."""

    @property
    def idmap(self) -> Idmapping | None:
        """What the new mount must have: ours, or else what the source's own mount has."""
        return self.choice.idmap or self.source_idmap

    @property
    def owner(self) -> Ids:
        """Who owns the source as stored."""
        return self.choice.owner

    @property
    def refused(self) -> Refused | None:
        """Why it has raw ids."""
        return self.choice.refused

    @property
    def is_in_place(self) -> bool:
        """Whether it is mounted on its own source."""
        return self.volume.type is None and self.source == self.target

    def with_raw_ids(self, fault: Fault) -> Self:
        """The mount that `fallback = "plain"` means, where its idmapping is refused."""
        return self._replace(choice=self.choice.with_raw_ids(self.seen, fault))


class Unready(NamedTuple):
    """A volume that means no mount now, and why."""

    volume: Volume
    target: str
    fault: Fault
    reads: tuple[str, ...] = ()
    """As a mount's, and where the source would be."""


class Later(NamedTuple):
    """A volume that can't be looked at yet.

    Its filesystem has to be mounted first, which only a dry run meets; or our own mount `over` an
    in-place source hides it, and has to go.
    """

    volume: Volume
    target: str
    over: int | None = None
    reads: tuple[str, ...] = ()


Desired = DesiredMount | Unready | Later
