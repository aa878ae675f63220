"""The values that a pass hands from stage to stage.

They are named tuples: frozen, printable, comparable, and a third of a dataclass's price, which a
pass over a thousand volumes pays a thousand times.
"""

from typing import Literal, NamedTuple

from mountd.core.idmapping import Idmapping

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


class DesiredMount(NamedTuple):
    """The mount that a volume means on this machine now.

    `source` and `target` are free of links. `device` and `inode` are those of the source's root,
    and `shown` is who its clone must show as the owner. `idmap` is what the mount shall have;
    `inherited`: not by our doing, but as the source's own mount has it (or has none).
    """

    volume: Volume
    source: str
    target: str
    kind: Kind
    fs_type: str
    device: int
    inode: int
    owner: Ids
    user: User | None
    shown: Ids
    idmap: Idmapping | None
    inherited: bool
    flags: Flags
    notes: tuple[str, ...] = ()


class Unready(NamedTuple):
    """A volume that means no mount now, and why."""

    volume: Volume
    target: str
    fault: Fault


Desired = DesiredMount | Unready


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


class Top(NamedTuple):
    """What is seen at a target on which something is mounted: the topmost mount's id and root."""

    id: int
    device: int
    inode: int
    owner: Ids


class Observed(NamedTuple):
    """The mounts of this namespace by id, and the topmost at each target that has one.

    Before Linux 6.15 the kernel does not tell idmappings: then the record's word counts.
    """

    mounts: dict[int, ObservedMount]
    tops: dict[str, Top]
    tells_idmaps: bool


class Managed(NamedTuple):
    """A mount that mountd made, as its record has it: enough to know it again, and whose it is."""

    id: int
    volume: str
    source: str
    target: str
    manifest: str
    owner: Ids
    idmap: Idmapping | None


class Drift(NamedTuple):
    """A field in which a managed mount differs from the desired one."""

    field: Field
    wanted: str
    found: str


class Action(NamedTuple):
    """One step of a plan. `verb` None: nothing can be done for this volume now, as `fault` says.

    `state` is the volume's before the pass, and `idmap` what its mount has now. `mount` is what is
    wanted; `old` is the managed mount that the step replaces, adjusts, takes off, or keeps: then it
    is as the record shall have it. `beneath` it lies ours too, where a replacement was interrupted.
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
    drift: tuple[Drift, ...] = ()
    notes: tuple[str, ...] = ()
    fault: Fault | None = None


class Outcome(NamedTuple):
    """What became of an action."""

    action: Action
    state: State
    fault: Fault | None = None
