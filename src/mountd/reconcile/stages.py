"""The stages of one pass: observed, desired, plan, apply; and what its rounds have in common."""

import fcntl
import os
import resource
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from mountd.core.actions import Action, FilesystemAction
from mountd.core.desired import Desired, DesiredMount, Unready
from mountd.core.exposure import asked
from mountd.core.filesystems import Raw, plan_filesystems
from mountd.core.model import Fault, Filesystem
from mountd.core.mounts import Observed
from mountd.core.order import Progress, adopts, unseen
from mountd.core.plan import plan
from mountd.kernel.observe import observe
from mountd.kernel.patience import Patience
from mountd.kernel.privileges import missing_capabilities
from mountd.kernel.probe import has_beneath, has_open_tree_attr
from mountd.manifest.load import Manifest
from mountd.reconcile.build import Builder, foresee
from mountd.reconcile.desired import Resolver
from mountd.reconcile.filesystems import (
    enter_known,
    foreseen,
    mount_filesystems,
    raw_mounts,
    take_off_unused,
)
from mountd.reconcile.idmaps import Namespaces, Prober
from mountd.reconcile.record import Record
from mountd.reconcile.sources import Sources

if TYPE_CHECKING:
    from mountd.reconcile.apply import Applier


class Pass:
    """One pass: its stages, and what they have in common over its rounds."""

    def __init__(
        self,
        manifest: Manifest,
        record: Record,
        namespaces: Namespaces,
        patience: Patience,
        *,
        is_acting: bool,
        observe: Callable[[], Observed] = observe,
        held: Mapping[str, Fault] = {},
    ) -> None:
        """`observe` reads the mount table; `held` volumes are left as they are, and why."""
        self.manifest = manifest
        self.record = record
        self._namespaces = namespaces
        self._patience = patience
        self._is_acting = is_acting
        self._observe = observe
        self._held = held
        is_privileged = not missing_capabilities(["CAP_SYS_ADMIN"])
        self._prober = Prober(namespaces, is_privileged=is_privileged)
        self._has_adopted = False
        self._bases: dict[Filesystem, Raw] = {}
        self._refused: dict[Filesystem, Fault] = {}
        """Filesystems that could not be mounted in this pass, and why."""
        self._mounted: set[Filesystem] = set()
        """Those that were."""
        self._most_sources = _make_room_for_descriptors(len(manifest.volumes))

    def observe(self) -> Observed:
        """The mounts that there are, and what can be done about them."""
        observed = self._observe()
        volumes, mounts = self.manifest.volumes, observed.mounts
        found = raw_mounts(volumes, mounts, self.record, self._patience)
        if self._is_acting:
            enter_known(found, self.record)
        if self._prober.is_privileged:
            found = foreseen(found, mounts, self._patience)
        for filesystem, fault in self._refused.items():
            found[filesystem] = found[filesystem]._replace(fault=fault)
        self._bases = found
        return observed._replace(can_remap=has_open_tree_attr(), can_go_beneath=has_beneath())

    def plan_filesystems(self, actions: Sequence[Action]) -> list[FilesystemAction]:
        """The steps for the raw mounts that volumes with a `type` are clones of."""
        return plan_filesystems(
            self.manifest.volumes,
            actions,
            self._bases,
            self.record.bases.values(),
            self.record.managed.values(),
            self.manifest.id,
            removes=self._removes,
        )

    def mount_filesystems(self, steps: Sequence[FilesystemAction]) -> bool:
        """Mount those that are missing; tells whether there were any."""
        names = {it.name for it in steps if it.verb in ("mount", "replace") and not it.after}
        missing = {it: raw for it, raw in self._bases.items() if raw.name in names}
        if missing:
            refused = mount_filesystems(missing, self.record, self._patience)
            self._refused |= refused
            self._mounted |= missing.keys() - refused.keys()
        return bool(missing)

    def finish_filesystems(self, planned: Sequence[FilesystemAction]) -> list[FilesystemAction]:
        """Take off what nothing needs any more, and say what became of each planned step."""
        filesystems = {each.name: each.filesystem for each in self.manifest.volumes}
        went: dict[str, FilesystemAction] = {}
        if self._removes:
            used = (raw.name for raw in self._bases.values())
            unused = take_off_unused(used, self.record, self._patience)
            went = {each.name: each for each in unused}
        done = []
        for step in planned:
            filesystem = filesystems[step.volumes[0]] if step.volumes else None
            if filesystem and (fault := self._refused.get(filesystem)):
                done.append(step._replace(state=fault.state, notes=(), fault=fault))
            elif step.verb == "unmount":
                done.append(went.pop(step.name, step._replace(verb="keep", notes=())))
            elif step.after and filesystem not in self._mounted:  # what was there is good enough
                done.append(step._replace(verb="keep", notes=()))
            else:
                done.append(step._replace(state="mounted") if step.verb else step)
        return done + [each for each in went.values() if each.fault]

    @property
    def _removes(self) -> bool:
        return self.manifest.is_whole and not self.manifest.is_part

    def resolver(self, observed: Observed) -> Resolver:
        """Looks at volumes, as the machine is now."""
        ours = self.manifest.id
        managed = {each.id: each for each in self.record.managed.values() if each.manifest == ours}
        sources = Sources(observed, managed, self._bases, adoptable=self.record.adoptable(ours))
        return Resolver(
            observed,
            managed,
            sources,
            self._prober,
            self._patience,
            reserved=self.manifest.reserved,
            held=self._held,
            is_acting=self._is_acting,
            most_sources=self._most_sources,
        )

    def plan(
        self, desired: Sequence[Desired], resolver: Resolver, progress: Progress
    ) -> list[Action]:
        """The plan for volumes that this resolver, or those before it, have looked at."""
        record = [*self.record.managed.values()]
        observed = resolver.observed
        observed = observed._replace(raw=frozenset(it.id for it in self.record.bases.values()))
        questions = asked(desired, record, observed, self.manifest.id)
        if any(questions):
            observed = observed._replace(nobodys=resolver.nobodys(questions))
        progress = progress._replace(
            removes=self.manifest.is_whole,
            is_part=self.manifest.is_part,
            adoptable=self.record.adoptable(self.manifest.id),
        )
        return plan(desired, observed, record, self.manifest.id, progress)

    def foresee(
        self, desired: Sequence[Desired], actions: Sequence[Action], resolver: Resolver
    ) -> list[Action]:
        """The plan, with what a pass would come to in building mounts: as far as we may try."""
        if not self._prober.is_privileged:
            return [*actions]
        builder = Builder(self._namespaces, resolver.sources)
        found = foresee(actions, resolver.observed, builder, self._patience)
        if not found:
            return [*actions]
        drifts = {each.volume: each.drift for each in actions}
        known = [_foreseen(each, found.get(each.volume.name)) for each in desired]
        return [
            each._replace(drift=drifts[each.volume]) if each.volume in found else each
            for each in self.plan(known, resolver, Progress())
        ]

    def judge_record(self, actions: Sequence[Action]) -> None:
        """After a loss, know whether the record has all of this manifest's mounts again.

        It doesn't where a volume can't be looked at yet, or has what may be ours on its source.
        """
        if self.manifest.is_part:
            return
        self._has_adopted |= adopts(actions, self.record.managed)
        self.record.settle(
            self.manifest.id,
            unseen(actions),
            has_adopted=self._has_adopted,
            is_over=not any(each.after for each in actions),
        )

    def applier(self, observed: Observed) -> "Applier":
        """Carries actions out, and keeps the record."""
        from mountd.reconcile.apply import Applier  # noqa: PLC0415 - no dry run needs it

        return Applier(self.record, self.manifest.id, observed, self._namespaces, self._patience)


def _foreseen(desired: Desired, found: DesiredMount | Fault | None) -> Desired:
    if isinstance(found, Fault):
        return Unready(desired.volume, desired.target, found)
    return found or desired


def _make_room_for_descriptors(volumes: int) -> int:
    """How many sources may be held open; the usual soft limit of 1,024 in all is raised.

    The kernel's table of them grows here, at once: in a process with threads each growth waits for
    an RCU grace period (fs/file.c), which at 1,000 volumes was a third of the pass.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    highest = min(2 * volumes + 64, hard - 1)
    with suppress(OSError):  # fewer are left: what is opened later fails, and is told
        os.close(fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, highest))
    return hard // 4
