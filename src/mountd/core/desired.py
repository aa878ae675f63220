"""What a volume means on this machine now: a mount, or why there can be none yet."""

from typing import Literal

from mountd.core.idmapping import Idmapping
from mountd.core.model import Fault, Flags, Ids, Kind, Refused, User, Volume
from mountd.core.named_tuple import NamedTuple

Rule = Literal["extents", "never", "no-user", "is-user", "may-read", "swap"]
"""Why a mount has the idmapping that it has, or none of ours."""


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
    owner: Ids
    """Who owns it as stored."""
    user: User | None
    seen: Ids
    """The owner that the source's own mount shows."""
    shown: Ids
    """The owner that the new mount must show."""
    idmap: Idmapping | None
    """What the new mount must have."""
    inherited: bool
    """Whether `idmap` is the source's own and none of ours."""
    flags: Flags
    source_idmap: Idmapping | None = None
    """What the source's own mount has."""
    through_idmap: Idmapping | None = None
    """What the mount has through which the source was reached: in place, ours once it is there."""
    through: int | None = None
    """The id of our own mount, if the source was reached through it."""
    filesystem: str = ""
    """The name of the raw mount that it is a clone of, for a volume with a `type`."""
    superblock: int = 0
    root: str = ""
    """Of the new mount, as mountinfo will have them."""
    submounts: tuple[str, ...] = ()
    """The paths of the mounts below a recursive volume's source, from there."""
    submount_flags: tuple[Flags, ...] = ()
    """What the clone of each must have."""
    makes: tuple[str, ...] = ()
    """What has to be made: the target, after the folders above it that are missing."""
    automounts: tuple[str, ...] = ()
    """Those of them at which an automount is, which takes no idmapping."""
    refused: Refused | None = None
    notes: tuple[str, ...] = ()
    rule: Rule = "swap"
    views: tuple[View, ...] = ()
    """What the new mount shows, and each that comes with it from below the source."""
    shared: str = ""
    """A note on accounts that could become each other through it."""
    reads: tuple[str, ...] = ()
    """Paths that it depends on besides its source, as far as they lead, without links."""

    @property
    def is_in_place(self) -> bool:
        """Whether it is mounted on its own source."""
        return self.volume.type is None and self.source == self.target


class Unready(NamedTuple):
    """A volume that means no mount now, and why."""

    volume: Volume
    target: str
    fault: Fault
    reads: tuple[str, ...] = ()
    """As a mount's, and where the source would be."""


class Later(NamedTuple):
    """A volume that can't be looked at yet.

    Its filesystem has to be mounted first, which only a dry run meets; or, in place, our own mount
    `over` its source has to go, which hides it.
    """

    volume: Volume
    target: str
    over: int | None = None
    reads: tuple[str, ...] = ()


Desired = DesiredMount | Unready | Later
