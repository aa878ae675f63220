"""The values that a pass hands from stage to stage.

They are named tuples: frozen, printable, comparable, and a third of a dataclass's price, which a
pass over a thousand volumes pays a thousand times.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from mountd.core.idmapping import Idmapping
from mountd.core.words.printable import with_hint

Atime = Literal["relatime", "noatime", "strictatime"]
Kind = Literal["folder", "file"]
State = Literal["mounted", "pending", "failed", "conflict", "unmounted"]
Verb = Literal["mount", "replace", "adjust", "unmount", "keep"]
DONE: dict[Verb, str] = {
    "mount": "mounted",
    "replace": "replaced",
    "adjust": "adjusted",
    "unmount": "unmounted",
}
"""The actions that change a mount, once they are done."""
Field = Literal["mount", "source", "idmap", "flags"]
Rule = Literal["extents", "never", "no-user", "is-user", "may-read", "swap"]
"""Why a mount has the idmapping that it has, or none of ours."""
Reason = Literal[
    "kernel-too-old",
    "not-privileged",
    "filesystem-refuses",
    "mount-refused",
    "source-is-idmapped",
    "idmap-untrue",
    "seccomp",
    "root-owned",
    "no-source",
    "no-target",
    "no-user",
    "no-group",
    "unsafe-path",
    "wrong-kind",
    "foreign-mount",
    "busy",
    "read-only-filesystem",
    "not-answering",
    "limit",
    "io",
]


class Ids(NamedTuple):
    """Who owns something."""

    uid: int
    gid: int

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid}"


class User(NamedTuple):
    """Whom the owner should appear as. `gid` None: no group is known, gids stay as they are."""

    uid: int
    gid: int | None


class Person(NamedTuple):
    """The ids by which a process is let through, or isn't, and what to call whoever has them."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str = ""


class Filesystem(NamedTuple):
    """What volumes with a `type` are clones of: one raw mount serves all that name the same."""

    type: str
    source: str
    options: tuple[str, ...]

    @property
    def name(self) -> str:
        """As what it is known below the state directory: the same for the same filesystem."""
        from hashlib import sha256  # noqa: PLC0415 - 3 ms, for manifests that have one

        return sha256("\0".join((self.type, self.source, *self.options)).encode()).hexdigest()[:32]


class Volume(NamedTuple):
    """One entry of the manifest, defaults merged in. None: not given, or as the source has it."""

    name: str
    source: str
    target: str
    user: str | None = None
    owner: Ids | None = None
    accounts: str = "/"
    idmap: Literal["auto", "always", "never"] | Idmapping = "auto"
    fallback: Literal["plain", "fail"] = "plain"
    type: str | None = None
    options: tuple[str, ...] = ()
    subdir: str | None = None
    recursive: bool = False
    read_only: bool | None = None
    nosuid: bool = True
    nodev: bool = True
    noexec: bool | None = None
    atime: Atime | None = None
    create: bool = True
    required: bool = True

    @property
    def filesystem(self) -> Filesystem | None:
        """What has to be mounted for it first, if it has a `type`."""
        return Filesystem(self.type, self.source, self.options) if self.type else None


class Flags(NamedTuple):
    """The flags that mountd sets; whatever else the source's mount has, its clone inherits."""

    read_only: bool
    nosuid: bool
    nodev: bool
    noexec: bool
    atime: Atime

    def __str__(self) -> str:
        words = [word for word, is_set in zip(_FLAG_WORDS, self, strict=False) if is_set]
        return ",".join(["ro" if self.read_only else "rw", *words[self.read_only :], self.atime])


_FLAG_WORDS = ("ro", "nosuid", "nodev", "noexec")


class Fault(NamedTuple):
    """Why a volume is not as desired, in words for a person: what failed, and what to do."""

    state: Literal["pending", "failed", "conflict"]
    code: Reason
    message: str
    hint: str | None = None
    errno: int = 0
    blocked_by: tuple[str, str] | None = None
    """Where it waits for other volumes, the one that all wait for, and what is wrong with that."""

    step: str = ""
    """What failed: a call, where it was one."""
    object: str = ""
    """What it was made on: a path, or two."""

    @property
    def lasts(self) -> bool:
        """Whether trying again is in vain: it is the filesystem itself that refuses."""
        return self.code in ("filesystem-refuses", "idmap-untrue")

    @property
    def passes(self) -> bool:
        """Whether it may be over by itself, so that nothing else is done in its place."""
        return self.code == "limit"

    @property
    def lines(self) -> list[str]:
        """What is wrong and, where that is known, what to do."""
        return with_hint(self.message, self.hint)


class Refused(NamedTuple):
    """Why a mount has raw ids."""

    idmap: Idmapping | None
    """What was wanted; None if none could be computed: our user namespace lacks the owner's ids."""
    fault: Fault


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
    superblock: int = 0
    root: str = ""
    """Of the new mount, as mountinfo will have them."""
    submounts: tuple[str, ...] = ()
    """The paths of the mounts below a recursive volume's source, from there."""
    refused: Refused | None = None
    notes: tuple[str, ...] = ()
    rule: Rule = "swap"
    views: tuple[View, ...] = ()
    """What the new mount shows, and each that comes with it from below the source."""
    shared: str = ""
    """A note on accounts that could become each other through it."""

    @property
    def is_in_place(self) -> bool:
        """Whether it is mounted on its own source."""
        return self.volume.type is None and self.source == self.target


class Unready(NamedTuple):
    """A volume that means no mount now, and why."""

    volume: Volume
    target: str
    fault: Fault


class Later(NamedTuple):
    """A volume that can't be looked at yet.

    Its filesystem has to be mounted first, which only a dry run meets; or, in place, our own mount
    `over` its source has to go, which hides it.
    """

    volume: Volume
    target: str
    over: int | None = None


Desired = DesiredMount | Unready | Later


class ObservedMount(NamedTuple):
    """A mount the kernel has. `id` and `parent` are unique within a boot (statmount(2), Linux 6.8).

    Before that they are mountinfo's, which are used again. `device` is the superblock's; where the
    kernel does not tell the idmapping, `idmap` is None for all.
    """

    id: int
    parent: int
    point: str
    root: str
    fs_type: str
    device: int
    flags: Flags
    is_fs_read_only: bool
    idmap: Idmapping | None
    is_idmapped: bool = False
    """Every kernel that can idmap reports this; unlike `idmap` it is always right."""


TOO_DEEP = "(a path of more than 1 MiB)"
"""Where a mount is, if its path is longer: it is equal to no path, and below none."""
_LONGEST = 1 << 20


def bounded(path: str) -> str:
    """A mount's path, unless it is longer than anything that is worth looking at.

    A user may make it as long as she has room for folders.
    """
    return path if len(path) <= _LONGEST else TOO_DEEP


def parents_of(mount_id: int, mounts: Mapping[int, ObservedMount]) -> Iterator[ObservedMount]:
    """What a mount lies on, what that lies on, and so on, as far as the table tells.

    The root of a namespace may be its own parent; and of ids that are used again a table that was
    read while mounts came and went may tell a circle.
    """
    mount = mounts.get(mount_id)
    for _ in range(len(mounts)):
        above = mounts.get(mount.parent) if mount else None
        if above is None or above is mount:
            return
        yield above
        mount = above


class Top(NamedTuple):
    """What is seen at a target on which something is mounted: the topmost mount's id and root."""

    id: int
    device: int
    inode: int
    owner: Ids


class Nobodys(NamedTuple):
    """Of the uids that were asked for, those that nobody on this machine can have.

    `trouble` may have kept the account files from being read: then that is known of none.
    """

    uids: frozenset[int] = frozenset()
    trouble: str = ""


class Observed(NamedTuple):
    """The mounts of this namespace by id, and the topmost at each target that has one.

    `raw` are our own raw mounts of filesystems, which root alone can reach. Before Linux 6.15 the
    kernel does not tell idmappings: then the record's word counts. Before that it can't give a
    clone another idmapping either, and before 6.5 not mount beneath a mount.
    """

    mounts: dict[int, ObservedMount]
    tops: dict[str, Top]
    tells_idmaps: bool
    can_remap: bool = True
    can_go_beneath: bool = True
    raw: frozenset[int] = frozenset()
    nobodys: Nobodys = Nobodys()


class Managed(NamedTuple):
    """A mount that mountd made, as its record has it: enough to know it again, and whose it is."""

    id: int
    volume: str
    source: str
    target: str
    manifest: str
    owner: Ids
    idmap: Idmapping | None
    filesystem: str = ""
    """The name of the raw mount that it is a clone of, for a volume with a `type`."""
    submounts: tuple[int, ...] = ()
    refused: Refused | None = None
    device: int = 0
    """The superblock's; with `root` and `target` it tells a mount whose id may be another's now."""
    root: str = ""


FIRST_UNIQUE_ID = 1 << 31
"""Linux counts unique ids from here, beyond those of mountinfo, which it uses again."""


def is_same(managed: Managed, mount: ObservedMount) -> bool:
    """Whether a mount is the recorded one: by its unique id, or where it has none by all it is."""
    if managed.id != mount.id:
        return False
    return mount.id >= FIRST_UNIQUE_ID or (managed.device, managed.root, managed.target) == (
        mount.device,
        mount.root.removesuffix("//deleted"),  # a single file that was replaced by rename
        mount.point,
    )


def root_at(mount: ObservedMount, path: str) -> str:
    """The root that a clone has which is made of a path on this mount."""
    if mount.root == TOO_DEEP:
        return TOO_DEEP
    root = mount.root.removesuffix("//deleted").rstrip("/")
    return root + path.removeprefix(mount.point.rstrip("/")) or "/"


Adoptable = frozenset[str] | None
"""Targets at which mounts may be ours though no record names them; None: any target."""


def may_adopt(adoptable: Adoptable, target: str) -> bool:
    """Whether what is mounted at a target, and is on no record, may be ours."""
    return adoptable is None or target in adoptable


class Base(NamedTuple):
    """The raw mount of a filesystem, below the state directory under its `name`."""

    id: int
    name: str
    type: str = ""
    source: str = ""
    """Empty, as the type is, where the record that names it is older than these."""


class Drift(NamedTuple):
    """A field in which a managed mount differs from the desired one."""

    field: Field
    wanted: str
    found: str


class Action(NamedTuple):
    """One step of a plan. `verb` None: nothing can be done for this volume now, as `fault` says.

    `state` is the volume's before the pass, and `idmap` what its mount has now. `mount` is what is
    wanted; `old` is the managed mount that the step replaces, adjusts, takes off, or keeps: then it
    is as the record shall have it. `beneath` it lies ours too, where a replacement was interrupted:
    then the step is to take `old` off, whoever is inside, and another plan tells what comes next.
    `carried` are our mounts right below the target, by where they are, which come along. `after`:
    what must be in place, or gone, before this volume can be looked at. `lazily`: it comes off
    whoever is inside, for it lets somebody become root.
    """

    volume: str
    source: str
    target: str
    required: bool
    verb: Verb | None
    state: State
    idmap: Idmapping | None = None
    mount: DesiredMount | None = None
    old: Managed | None = None
    beneath: Managed | None = None
    carried: tuple[tuple[str, Managed], ...] = ()
    after: tuple[str, ...] = ()
    drift: tuple[Drift, ...] = ()
    notes: tuple[str, ...] = ()
    fault: Fault | None = None
    lazily: bool = False

    @property
    def is_departure(self) -> bool:
        """Whether a mount leaves from where no volume means one; a volume's own has a fault."""
        return self.verb == "unmount" and self.fault is None

    @property
    def refused(self) -> Refused | None:
        """Why the mount has, or will have, raw ids."""
        mount = self.mount or self.old
        return mount.refused if mount and not self.fault and self.verb != "unmount" else None


class FilesystemAction(NamedTuple):
    """One step of a plan about the raw mount that volumes with a `type` are clones of.

    `verb` None: it can't be mounted now, as `fault` says. Options are the manifest's: the record
    keeps none of them, because some are secrets.
    """

    name: str
    """Of the raw mount, below the state directory."""
    type: str
    source: str
    options: tuple[str, ...]
    volumes: tuple[str, ...]
    """The names of those that are clones of it."""
    verb: Literal["mount", "replace", "unmount", "keep"] | None
    state: State
    """As it is before the step; of a step that was carried out, after it."""
    notes: tuple[str, ...] = ()
    fault: Fault | None = None

    @property
    def is_change(self) -> bool:
        """Whether a mount was changed, or in a dry run would be."""
        return self.verb in DONE and self.fault is None

    def __str__(self) -> str:
        return f"the {self.type} of {self.source}"


class Judgement(NamedTuple):
    """What is wrong with swaps of ids, as all mounts are at once.

    `refused`: why a volume's isn't made; `waits`: what has to go before it may be, by a volume's
    name or a mount point; `notes` by volume; `exposed`: managed mounts that have to come off.
    """

    refused: Mapping[str, Fault] = {}
    waits: Mapping[str, tuple[str, ...]] = {}
    notes: Mapping[str, str] = {}
    exposed: Mapping[int, Fault] = {}


NO_JUDGEMENT = Judgement()


class Outcome(NamedTuple):
    """What became of an action."""

    action: Action
    state: State
    fault: Fault | None = None

    @property
    def is_change(self) -> bool:
        """Whether a mount was changed, or in a dry run would be."""
        action, fault = self.action, self.fault
        return action.verb in DONE and (fault is None or (action.lazily and fault == action.fault))

    @property
    def is_failure(self) -> bool:
        """Whether a required volume is not as desired, so that the run has failed."""
        return self.action.required and self.fault is not None

    @property
    def is_as_desired(self) -> bool:
        """Whether a required volume is mounted, without drift; what leaves is none."""
        is_mounted = self.state == "mounted" and not self.action.drift
        return is_mounted or not self.action.required or self.action.is_departure


class Report(NamedTuple):
    """What a pass saw and did. In a dry run, each outcome is the volume's state now."""

    files: tuple[str, ...]
    """The manifest's."""
    outcomes: tuple[Outcome, ...]
    is_dry: bool
    warnings: tuple[str, ...] = ()
    filesystems: tuple[FilesystemAction, ...] = ()

    @property
    def has_changes(self) -> bool:
        """Whether anything was changed, or in a dry run would be."""
        if any(each.is_change for each in self.filesystems):
            return True
        return any(each.is_change for each in self.outcomes)
