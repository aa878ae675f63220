"""Actions → outcomes. One volume's failure doesn't stop the others.

New mounts are built many at a time: their ids enter the record in one write, then each is attached.
"""

import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from typing import TypeVar

from mountd.core.actions import Action, Outcome
from mountd.core.desired import DesiredMount
from mountd.core.drift import record_entry
from mountd.core.model import Fault
from mountd.core.mounts import Managed, Observed
from mountd.core.plan import needs_gap_in_place
from mountd.core.words import faults, idmap_faults, mount_faults
from mountd.core.words.faults import VolumeError
from mountd.kernel import attach as tree
from mountd.kernel.cause import fault_of
from mountd.kernel.clone import Tree
from mountd.kernel.detach import unmount
from mountd.kernel.errands import Errands
from mountd.kernel.making import made
from mountd.kernel.observe import descendants_of
from mountd.kernel.paths import spot
from mountd.kernel.patience import Patience
from mountd.kernel.syscalls import Fd
from mountd.reconcile.build import Builder, Built
from mountd.reconcile.carrying import Carrier, ids_of, write_record
from mountd.reconcile.desired import place_of_volume
from mountd.reconcile.idmaps import Namespaces
from mountd.reconcile.record import Record

_T = TypeVar("_T")


class Applier:
    """Carries the actions of one manifest's pass out."""

    def __init__(
        self,
        record: Record,
        manifest: str,
        observed: Observed,
        namespaces: Namespaces,
        patience: Patience,
    ) -> None:
        self._record = record
        self._manifest = manifest
        self._observed = observed
        self._namespaces = namespaces
        self._patience = patience
        self._errands = Errands(patience)
        self._carrier = Carrier(record)
        self._builder = Builder(namespaces, {})
        self._recorded: dict[int, Managed] = {}
        self._failed: dict[str, Fault] = {}
        """Volumes that could not be mounted: what they have elsewhere stays."""
        self._stuck: list[str] = []
        """Where mounts could not be taken off: nothing may be mounted over them."""

    def apply(self, actions: Sequence[Action], sources: dict[str, Fd]) -> Iterator[Outcome]:
        """Carry the actions out in their order, and say what became of each."""
        self._builder = Builder(self._namespaces, sources)
        if fault := self._prepare(actions):
            yield from (
                Outcome.untouched(each) if self._is_on_record(each) else _stopped(each, fault)
                for each in actions
            )
            return
        actions = sorted(actions, key=lambda it: not it.lazily)  # before there is a way to root
        for builds, group in groupby(actions, key=self._is_built_first):
            if builds:
                yield from self._put_up(list(group))
            else:
                yield from map(self._carry_out, group)
        write_record(self._record)  # without what went; if that fails, the next pass notices

    def _prepare(self, actions: Sequence[Action]) -> Fault | None:
        """Record what is kept. Where the record can't be written, nothing may be changed."""
        self._recorded = {**self._record.managed}
        for action in actions:
            if action.verb == "keep" and action.old:
                self._record.add(action.old)
        others = [each for each in actions if not self._is_built_first(each)]
        if len(others) < len(actions) and not any(each.done for each in others):
            return None  # nothing to write yet: what is built is recorded before it is attached
        return write_record(self._record, always=any(each.done for each in actions))

    def _is_on_record(self, action: Action) -> bool:
        """Whether nothing is to be done about this one, not even in the record."""
        is_known = action.old is None or self._recorded.get(action.old.id) == action.old
        return action.verb is None or (action.verb == "keep" and is_known)

    def _is_built_first(self, action: Action) -> bool:
        """Whether a new mount is built beforehand (none to finish an interrupted replacement)."""
        if not action.builds or action.beneath or not action.mount:
            return False
        return not needs_gap_in_place(action.mount, self._observed)

    def _put_up(self, actions: list[Action]) -> Iterator[Outcome]:
        """Mount or replace: build, record, attach; as many at once as there may be descriptors.

        All are built before the first is attached: open_tree(2) looks at each mount that lies on
        the source's own, and often these are the targets, so that a pass would be quadratic.
        """
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        at_once = limit // 2
        for start in range(0, len(actions), at_once):
            yield from self._put_up_at_once(actions[start : start + at_once])

    def _put_up_at_once(self, actions: list[Action]) -> Iterator[Outcome]:
        built = [(action, self._begin(action)) for action in actions]
        unrecorded = write_record(self._record)
        for action, result in built:
            self._patience.go_on()
            fault = result if isinstance(result, Fault) else unrecorded
            if isinstance(result, Built):
                with result.tree.fd:
                    fault = fault or self._attempt(action, partial(self._attach, built=result))
                if result.mount.volume.recursive and not fault:
                    self._record_submounts(result.tree.id)
                if fault:
                    self._carrier.forget_unless_mounted(result.tree.id)
                action = action._replace(mount=result.mount)  # noqa: PLW2901 - as it was built
            if fault:
                self._failed[action.volume] = fault
            yield _stopped(action, fault) if fault else Outcome(action, "mounted")

    def _begin(self, action: Action) -> Built | Fault:
        self._patience.go_on()
        return self._attempt(action, self._build)

    def _carry_out(self, action: Action) -> Outcome:
        """Do an action that builds nothing beforehand, or finishes what another pass began."""
        self._patience.go_on()
        match action.verb:
            case "replace" | "unmount" if action.makes_room:
                fault = self._attempt(action, self._finish)
                if fault and action.verb == "unmount":
                    self._stuck.append(action.target)
            case "replace":
                fault = self._attempt(action, self._rebuild_in_place)
            case "adjust":
                fault = self._attempt(action, self._adjust)
            case "unmount" if action.fault:
                return _stopped(action, self._take_off(action, action.fault))
            case "unmount" if action.volume in self._failed and not action.lazily:
                why = self._failed[action.volume]
                fault = mount_faults.not_moved(action.volume, action.target, why)
            case "unmount":
                fault = self._attempt(action, self._unmount)
                if fault:
                    self._stuck.append(action.target)
            case _:
                return Outcome.untouched(action)
        if fault:
            return _stopped(action, fault)
        return Outcome(action, "unmounted" if action.verb == "unmount" else "mounted")

    def _finish(self, action: Action) -> None:
        """Take off the old mount of a replacement that was interrupted, as that would have done."""
        assert action.old and action.beneath
        self._see_nothing_stuck_below(action.target)
        with spot(action.target) as found, ExitStack() as held:
            carried = self._carrier.take_along(action.carried, held)
            self._carrier.see_no_strangers(action.old)
            try:
                tree.let_out(found, action.old.id, carried)
            finally:
                self._carrier.forget_unless_mounted(*self._record.managed)  # what lay on it went
                self._carrier.settle(carried)

    def _see_nothing_stuck_below(self, target: str) -> None:
        """Raise VolumeError if a mount below could not be taken off: it would be hidden."""
        for point in self._stuck:
            if point.startswith(f"{target}/"):
                raise VolumeError(mount_faults.busy_below(target, point))

    def _adjust(self, action: Action) -> None:
        assert action.mount and action.old
        with spot(action.target) as found:
            tree.adjust(found, action.old.id, action.mount)
        self._record.add(action.old)

    def _take_off(self, action: Action, why: Fault) -> Fault:
        """Take off what the volume has at its target. Returns `why`, or that its mount stays."""
        for old in filter(None, (action.old, action.beneath)):
            if trouble := self._attempt(action._replace(old=old), self._unmount):
                self._stuck.append(action.target)
                return idmap_faults.stays_on(why, trouble)
            action = action._replace(carried=())
        return why

    def _unmount(self, action: Action) -> None:
        assert action.old
        old = action.old
        with spot(action.target) as found, ExitStack() as held:
            if carried := self._carrier.take_along(action.carried, held):
                if not action.lazily:
                    self._carrier.see_no_strangers(old)
                try:
                    tree.uncover(found, old.id, old.submounts, carried, lazily=action.lazily)
                finally:
                    self._carrier.settle(carried)
            else:
                unmount(found, old.id, old.submounts, lazily=action.lazily)
        self._record.remove(old.id)

    def _attempt(self, action: Action, step: Callable[[Action], _T]) -> _T | Fault:
        """Do a step of an action; an error becomes a fault of this volume."""
        try:
            with self._errands.of(_place(action)):
                return step(action)
        except (VolumeError, OSError) as error:
            trying = f"{action.verb} {action.target}"
            return fault_of(error, trying, (action.source, action.target))

    def _build(self, action: Action) -> Built:
        """The detached mount, its id entered in the record, which is not written yet."""
        assert action.mount
        wanted = action.mount
        self._see_nothing_stuck_below(wanted.target)
        built = self._builder.build(wanted)
        submounts = built.tree.submounts
        self._record.add(record_entry(built.mount, built.tree.id, self._manifest, submounts))
        return built

    def _attach(self, action: Action, built: Built) -> None:
        try:
            self._attach_at(action, built)
        except FileNotFoundError as error:  # both were there when they were opened
            if built.tree.is_removed:
                raise VolumeError(faults.no_source(built.mount.source)) from error
            raise VolumeError(faults.moved_meanwhile(action.target)) from error

    def _attach_at(self, action: Action, built: Built) -> None:
        new, mount = built
        if action.old:
            self._replace(action, action.old, built)
            return
        with made(action.target, mount.kind, mount.makes) as found, ExitStack() as held:
            carried = self._carrier.take_along(action.carried, held)
            if not carried:
                tree.attach(new, found, mount.flags, _own_source(mount))
                return
            try:  # other volumes' mounts go on above it
                tree.cover(new, found, mount.flags, _own_source(mount), carried)
            finally:
                self._carrier.settle(carried)

    def _replace(self, action: Action, old: Managed, built: Built) -> None:
        new, mount = built
        with spot(action.target) as found, ExitStack() as held:
            carried = self._carrier.take_along(action.carried, held)
            try:
                self._carrier.see_no_strangers(old)
                tree.expect(old.id, found)
                if self._observed.can_go_beneath:
                    tree.replace(new, found, old.id, mount.flags, carried)
                else:
                    spare = self._carrier.spare(action.target, old, held)
                    tree.swap(lambda: new, found, spare, mount.flags, carried)
                    self._record.remove(*spare.ids.values())
            except BaseException:
                self._carrier.forget_unless_mounted(old.id, *ids_of(carried))
                raise
            self._record.remove(old.id)
            if carried:
                self._carrier.settle(carried)

    def _rebuild_in_place(self, action: Action) -> None:
        """Before Linux 6.15: our own mount has to go before its source can have another map."""
        assert action.mount and action.old
        old, wanted = action.old, action.mount
        wanted = wanted._replace(through=None, through_idmap=wanted.source_idmap)

        def build_anew() -> Tree:
            self._builder.let_go(wanted.volume.name)
            built = self._build(action._replace(mount=wanted))
            if fault := write_record(self._record):
                raise VolumeError(fault)
            return built.tree

        with ExitStack() as held, spot(action.target) as found:
            carried = self._carrier.take_along(action.carried, held)
            spare = self._carrier.spare(action.target, old, held)
            self._carrier.see_no_strangers(old)
            tree.expect(old.id, found)
            try:
                tree.swap(build_anew, found, spare, wanted.flags, carried)
            finally:
                self._carrier.forget_unless_mounted(old.id, *ids_of([*carried, spare]))

    def _record_submounts(self, mount: int) -> None:
        """Record all submounts that came with it, covered ones too."""
        below = {each.id for each in descendants_of(mount)}
        managed = self._record.managed[mount]
        self._record.add(managed._replace(submounts=tuple(below - {*self._record.managed})))


def _own_source(mount: DesiredMount) -> tuple[int, int] | None:
    """What may be mounted at the target already: in place, the source."""
    return (mount.device, mount.inode) if mount.is_in_place else None


def _place(action: Action) -> tuple[str, ...]:
    """Key of its errands; a volume's lookups have the same."""
    return place_of_volume(action.mount.volume) if action.mount else (action.target,)


def _stopped(action: Action, fault: Fault) -> Outcome:
    return Outcome(action, fault.state, fault)
