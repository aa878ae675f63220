"""The steps of a plan, and what became of them."""

from collections.abc import Mapping
from typing import Literal, Self

from mountd.core.desired import DesiredMount
from mountd.core.idmapping import Idmapping
from mountd.core.model import Fault, Refused, State
from mountd.core.mounts import Managed
from mountd.core.named_tuple import NamedTuple

Verb = Literal["mount", "replace", "adjust", "unmount", "keep"]
_DONE: dict[Verb | None, str] = {
    "mount": "mounted",
    "replace": "replaced",
    "adjust": "adjusted",
    "unmount": "unmounted",
}
Field = Literal["mount", "source", "idmap", "flags"]
Carried = tuple[tuple[str, Managed], ...]
"""Our mounts right below a target, by where they are, which come along when it changes."""


class Drift(NamedTuple):
    """A field in which a managed mount differs from the desired one."""

    field: Field
    wanted: str
    found: str


class Action(NamedTuple):
    """One step of a plan, about a volume or about a mount that leaves."""

    volume: str
    source: str
    target: str
    required: bool
    verb: Verb | None
    """None: nothing can be done now, as `fault` says."""
    idmap: Idmapping | None = None
    """What its mount has now."""
    mount: DesiredMount | None = None
    """What the volume means, where that is known and can be had."""
    old: Managed | None = None
    """The managed mount that there is; to be adjusted or kept, it is as it shall be recorded."""
    beneath: Managed | None = None
    """Another of ours right under `old`, as an interrupted replacement leaves it.

    Then only `old` is taken off, whoever is inside, and the next plan decides what follows.
    """
    carried: Carried = ()
    after: tuple[str, ...] = ()
    """What must be in place, or gone, before it is known what there is to do."""
    drift: tuple[Drift, ...] = ()
    notes: tuple[str, ...] = ()
    fault: Fault | None = None
    """Why the volume is not as desired, whatever this step does."""
    lazily: bool = False
    """It is taken off whoever is inside, because it lets somebody become root."""

    @property
    def state(self) -> State:
        """The volume's, before this step."""
        return self.fault.state if self.fault else "mounted" if self.old else "unmounted"

    @property
    def done(self) -> str | None:
        """What is said of it once it is done; None where it changes no mount."""
        return _DONE.get(self.verb)

    @property
    def builds(self) -> bool:
        """Whether it puts a new mount at the target, now or later."""
        return self.verb in ("mount", "replace")

    @property
    def makes_room(self) -> bool:
        """Whether it only takes the upper one of two of ours off."""
        return self.beneath is not None and not self.lazily and not self.after

    @property
    def is_departure(self) -> bool:
        """Whether a mount leaves a place that no volume means; a volume's own has a fault."""
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

    def with_note(self, note: str) -> Self:
        """The action, with one more thing that a person should know."""
        return self._replace(notes=(*self.notes, note))

    def blocked(self, fault: Fault) -> Self:
        """The action when nothing can be done now, and why."""
        return self._replace(verb=None, mount=None, after=(), fault=fault)


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
    def done(self) -> str | None:
        """What is said of it once it is done; None where no mount is changed."""
        return _DONE.get(self.verb) if self.fault is None else None

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

    @classmethod
    def untouched(cls, action: Action) -> Self:
        """Of one about which nothing is done: the volume is as it was."""
        return cls(action, action.state, action.fault)

    @property
    def is_change(self) -> bool:
        """Whether a mount was changed, or in a dry run would be."""
        action, fault = self.action, self.fault
        is_done = fault is None or (action.lazily and fault == action.fault)
        return is_done and action.done is not None

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
        return any(each.done for each in self.filesystems) or any(
            each.is_change for each in self.outcomes
        )
