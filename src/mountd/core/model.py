"""The values that a pass hands from stage to stage.

They are named tuples: frozen, printable, comparable, and a third of a dataclass's price, which a
pass over a thousand volumes pays a thousand times.
"""

from typing import Literal

from mountd.core.idmapping import Idmapping
from mountd.core.named_tuple import NamedTuple
from mountd.core.words.printable import with_hint

Atime = Literal["relatime", "noatime", "strictatime"]
Kind = Literal["folder", "file"]
State = Literal["mounted", "pending", "failed", "conflict", "unmounted"]
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
    own: str = ""
    """The target of the one volume that has it for itself."""

    def name(self, ground: tuple[str, ...] = ()) -> str:
        """As what it is known below the state directory: the same for the same filesystem.

        `ground`: what the paths in its options lead to, for it is another one on another ground.
        """
        from hashlib import sha256  # noqa: PLC0415 - 3 ms, for manifests that have one

        words = [self.type, self.source, *self.options]
        if self.own or ground:
            words += ["", self.own, *ground]
        return sha256("\0".join(words).encode()).hexdigest()[:32]


IN_MEMORY = ("tmpfs", "ramfs")
"""Filesystems whose files are nowhere but in memory."""
_NO_NAMES = (*IN_MEMORY, "none")
"""What people write as the source of a filesystem in memory, where they name nothing by it."""


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
        if not self.type:
            return None
        is_own = self.type in IN_MEMORY and self.source in _NO_NAMES
        return Filesystem(self.type, self.source, self.options, self.target if is_own else "")

    def flags_over(self, source: Flags) -> Flags:
        """What its mount must have, where the source's own mount has these."""
        return Flags(
            source.read_only if self.read_only is None else self.read_only,
            self.nosuid,
            self.nodev,
            source.noexec if self.noexec is None else self.noexec,
            self.atime or source.atime,
        )


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
