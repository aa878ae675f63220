"""The steps of a plan, and what became of them."""

from collections.abc import Mapping
from typing import Literal

from mountd.core.desired import DesiredMount
from mountd.core.idmapping import Idmapping
from mountd.core.model import Fault, Refused, State
from mountd.core.mounts import Managed
from mountd.core.named_tuple import NamedTuple

Verb = Literal["mount", "replace", "adjust", "unmount", "keep"]
DONE: dict[Verb, str] = {
    "mount": "mounted",
    "replace": "replaced",
    "adjust": "adjusted",
    "unmount": "unmounted",
}
"""The actions that change a mount, once they are done."""
Field = Literal["mount", "source", "idmap", "flags"]


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
    def owner_change(self) -> str | None:
        """From whom to whom the source went, where the mount is replaced and was another's."""
        old, mount = self.old, self.mount
        if self.verb != "replace" or not (old and mount) or old.owner == mount.owner:
            return None
        return f"the stored owner was {old.owner}, and is {mount.owner}"

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
    after: tuple[str, ...] = ()
    """What must be in place before it, because its volumes wait for that."""

    @property
    def is_change(self) -> bool:
        """Whether a mount was changed, or in a dry run would be."""
        return self.verb in DONE and self.fault is None

    def __str__(self) -> str:
        return f"the {self.type} of {self.source}" if self.type else "a filesystem"


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
