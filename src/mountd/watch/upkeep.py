"""The volumes of `mountd watch`: how each one was left, and what is done when it drifts."""

import os
from collections.abc import Collection, Iterable
from time import monotonic

from mountd.core.actions import Outcome, Report
from mountd.core.desired import DesiredMount
from mountd.core.exposure import guarded
from mountd.core.model import Fault, Flags
from mountd.core.mounts import AUTOMOUNT, Base, Managed, Observed
from mountd.core.named_tuple import NamedTuple
from mountd.core.targets import Places, is_within
from mountd.core.words.mount_faults import keeps_being_undone
from mountd.kernel.files import st_dev
from mountd.kernel.patience import Patience
from mountd.kernel.table import Change, MountTable
from mountd.manifest.load import Manifest
from mountd.reconcile.passes import converge
from mountd.reconcile.record import Record, locked_record
from mountd.report.journal import WARNING, Journal
from mountd.watch.fight import Fight, undone
from mountd.watch.news import News


class _Left(NamedTuple):
    """A mount as a pass left it."""

    id: int
    target: str
    flags: Flags
    is_undone: bool = False
    """Whether somebody was found to have undone it, which counts once."""


class Upkeep:
    """Makes passes, and remembers their outcomes."""

    def __init__(
        self, state_dir: str, table: MountTable, patience: Patience, journal: Journal
    ) -> None:
        self.outcomes: dict[str, Outcome] = {}
        """By volume, in the manifest's order."""
        self.stuck: tuple[Outcome, ...] = ()
        """Mounts that left the manifest and could not be taken off."""
        self.sources: dict[str, tuple[int, int]] = {}
        """What was mounted of each path, as st_dev and st_ino, so that a replacement is noticed."""
        self._submounts: dict[int, str] = {}
        """The volumes of the submounts that were mounted with a recursive one."""
        self._altered: set[str] = set()
        """Those of which somebody has taken submounts off, or given them other flags."""
        self._state_dir = state_dir
        self._table = table
        self._patience = patience
        self._journal = journal
        self.news = News(journal)
        self._record: Record | None = None
        self._left: dict[str, _Left] = {}
        self._undone: set[str] = set()
        """Those that the latest full pass found otherwise than they were left."""
        self._ours: set[int] = set()
        """Ids of mounts that are ours, and of some that were."""
        self._paths: set[str] = set()
        """The volumes' sources and targets."""
        self._places = Places(())
        """The same; made anew where it has fewer."""
        self._guarded: set[int] = set()
        """The devices of filesystems where one more mount could make somebody root."""
        self._fights: dict[str, Fight] = {}
        self._held: dict[str, Fault] = {}
        """Volumes that have to wait until their fight allows another repair."""

    def converge(self, manifest: Manifest) -> Report:
        """Make a full pass. Raises LockedError, StateError and StoppedError."""
        if self._left:
            for changes in self._table.changes():  # that nobody has repaired yet
                self._hold_back(self.drifted(changes))
        result = self._pass(manifest, is_repair=False)
        self._journal.losses(result.filesystems)
        self.news.warnings(result.warnings)
        self.news.forget_all_but(result.outcomes)
        self._count_undone(result.outcomes)
        self.outcomes.clear()
        self._left.clear()
        self._submounts.clear()
        self._altered.clear()
        self.sources.clear()
        self._paths.clear()
        self._places = Places(())
        self._guarded.clear()
        self.stuck = tuple(each for each in result.outcomes if _is_stuck(each))
        self._learn(manifest, result.outcomes)
        self._ours &= self._table.mounts.keys()
        self._note_ours()
        now = monotonic()
        self._fights = {
            name: fight
            for name, fight in self._fights.items()
            if name in self.outcomes and not fight.is_over(now)
        }
        self._held = {name: why for name, why in self._held.items() if name in self._fights}
        return result

    @property
    def raw(self) -> Collection[Base]:
        """The raw mounts that volumes with a `type` are clones of."""
        return self._record.bases.values() if self._record else ()

    @property
    def has_failed(self) -> bool:
        """Whether something went wrong whose end no event announces."""
        return bool(self.stuck) or any(
            each.state == "failed" and name not in self._held
            for name, each in self.outcomes.items()
        )

    def forgive(self) -> None:
        """Forget all fights, so that volumes are put back at once again."""
        self._fights.clear()
        self._held.clear()
        self.news.is_free = True

    def drifted(self, changes: Iterable[Change]) -> set[str]:
        """Volumes whose mount is gone, moved or has other flags than it was left with.

        Only mounts in `changes` are compared: of the others the table may be older than our pass.
        """
        mounts = self._table.mounts
        changed = {now.id: now for _, now in changes if now}
        return {
            name
            for name, (number, target, flags, _) in self._left.items()
            if number not in mounts
            or (
                number in changed
                and (changed[number].point, changed[number].flags) != (target, flags)
            )
        }

    def repair(self, manifest: Manifest, names: Iterable[str]) -> bool:
        """Put these volumes back, but for those that have been put back too often of late.

        False: that takes a full pass. Raises as `converge` does.
        """
        if not (todo := self._hold_back(names)):
            return True
        if not all(map(self._stands_alone, todo)):
            return False
        self._journal.begin_pass()
        result = self._pass(manifest.part(todo), is_repair=True)
        self._learn(manifest, result.outcomes)
        self._table.follow()  # to know what has just been mounted
        return True

    def next_repair(self) -> float | None:
        """When the next volume that was held may be put back."""
        return min((self._fights[name].until for name in self._held), default=None)

    def release_held(self) -> None:
        """Have the next pass put back what has waited long enough."""
        now = monotonic()
        for name in [each for each in self._held if self._fights[each].until <= now]:
            del self._held[name]

    def concerns(self, changes: Collection[Change]) -> bool:
        """Whether mounts that others made, changed or took off may matter to a volume."""
        self._altered |= {
            self._submounts[before.id]
            for before, now in changes
            if before and before.id in self._submounts
            if now is None or now.flags != before.flags
        }
        if self._altered:  # not repaired at once: the volume's own mount may be about to go, too
            return True
        foreign = []
        left = {each.id for each in self._left.values()} if self._guarded else set()
        for before, now in changes:
            mount = now or before
            if mount and mount.device in self._guarded:
                is_writable_now = before and before.is_fs_read_only and not mount.is_fs_read_only
                if mount.id not in left or is_writable_now:  # ours are repaired, as they were left
                    return True
            if mount and mount.id not in self._ours:
                foreign += [each.point for each in (before, now) if each]
            elif before and not now:
                self._ours.discard(before.id)
                if self._record and before.id in self._record.managed:  # it wasn't us
                    foreign.append(before.point)
        if any(each.fault for each in self.outcomes.values()) and foreign:
            return True
        if len(self._places) != len(self._paths):
            self._places = Places(self._paths)
        return any(map(self._places.lie_within, foreign))

    def close_news(self) -> None:
        """Report, if it is due, how much was left out."""
        self.news.close([*self.outcomes.values(), *self.stuck])

    def status(self) -> str:
        """A line: how the volumes are, and what is wrong with the first that isn't well."""
        faulty = [each for each in (*self.outcomes.values(), *self.stuck) if each.fault]
        count = len(self.outcomes)
        if not faulty:
            raw = sum(each.action.refused is not None for each in self.outcomes.values())
            note = f", {raw} of them with raw ids" if raw else ""
            return f"{count} {'volume' if count == 1 else 'volumes'} mounted{note}"
        mounted = sum(not each.fault for each in self.outcomes.values())
        first = faulty[0]
        more = f" (and {len(faulty) - 1} more)" if len(faulty) > 1 else ""
        message = first.fault.message if first.fault else ""
        return f"{mounted} of {count} mounted; {first.action.volume}: {message}{more}"

    def _stands_alone(self, name: str) -> bool:
        """Whether what a volume needs is there, so that it can be planned without the others."""
        action = self.outcomes[name].action
        faulty = {each.action.target for each in self.outcomes.values() if each.fault}
        if any(is_within(action.source, each) for each in faulty):
            return False
        return not any(is_within(action.target, each) for each in faulty - {action.target})

    def _hold_back(self, names: Iterable[str]) -> set[str]:
        """Those that may be put back now; one that was put back too often lately has to wait."""
        now = monotonic()
        free = set()
        for name in names:
            if not self._left[name].is_undone:
                self._left[name] = self._left[name]._replace(is_undone=True)
                fight = self._fights[name] = undone(self._fights.get(name, Fight()), now)
                if fight.until > now:
                    self._hold(name, fight)
                    continue
            free.add(name)
        return free

    def _count_undone(self, outcomes: Iterable[Outcome]) -> None:
        """Count what was undone after the table was read, and was found by the pass itself."""
        for outcome in outcomes:
            name = outcome.action.volume
            is_told = name in self._left and self._left[name].is_undone
            if self._was_there(outcome) and outcome.action.drift and not is_told:
                self._fights[name] = undone(self._fights.get(name, Fight()), monotonic())

    def _hold(self, name: str, fight: Fight) -> None:
        before = self.outcomes[name]
        fault = self._held[name] = keeps_being_undone(before.action.target)
        self.outcomes[name] = Outcome.untouched(before.action.blocked(fault))
        self._left.pop(name, None)
        self.news.undone(self.outcomes[name], is_first=fight.waits == 1)

    def _pass(self, manifest: Manifest, *, is_repair: bool) -> Report:
        with locked_record(self._state_dir, 0, self._record) as record:
            if record is not self._record:
                before, self._record = self._record, record
                self._note_ours()
                if record.resumed and not (before and before.resumed):
                    self.news.trouble(f"warning: {record.resumed}", "warned", WARNING)
            try:
                return converge(
                    manifest,
                    record,
                    self._patience,
                    lambda *_: None,
                    lambda it: self.news.outcome(it, is_repair=is_repair or self._was_there(it)),
                    observe=self._table.follow if is_repair else self._read,
                    held=self._held,
                )
            finally:
                self._note_ours()

    def _was_there(self, outcome: Outcome) -> bool:
        """Whether a full pass found a drift before it could be repaired."""
        left, action = self._left.get(outcome.action.volume), outcome.action
        is_undone = action.volume in self._undone or action.volume in self._altered
        is_undone |= action.verb == "mount"  # it may have gone since the table was read
        return is_undone and left is not None and left.target == action.target

    def _read(self) -> Observed:
        """Read the whole table; a mount that isn't as it was left was undone by others."""
        observed = self._table.read()
        self._undone = {
            name
            for name, (number, target, flags, _) in self._left.items()
            if not (now := observed.mounts.get(number)) or (now.point, now.flags) != (target, flags)
        }
        return observed

    def _note_ours(self) -> None:
        record = self._record
        assert record, "a pass has it"
        self._ours.update(record.managed)
        for managed in record.managed.values():
            if managed.submounts:
                self._ours.update(managed.submounts)
        self._ours.update(base.id for base in record.bases.values())

    def _newest(self, manifest: Manifest, targets: set[str]) -> dict[str, Managed]:
        """The newest managed mount at each target: entries are in the order of their passes."""
        assert self._record, "a pass has it"
        found: dict[str, Managed] = {}
        for managed in reversed(self._record.managed.values()):
            if len(found) == len(targets):
                break
            if managed.target in targets and managed.manifest == manifest.id:
                found.setdefault(managed.target, managed)
        return found

    def _learn(self, manifest: Manifest, outcomes: Collection[Outcome]) -> None:
        by_target = self._newest(manifest, {each.action.target for each in outcomes})
        mounts = self._table.mounts.values()
        automounts = Places(each.point for each in mounts if each.fs_type == AUTOMOUNT)
        for outcome in outcomes:
            action = outcome.action
            if action.is_departure:
                continue
            slim = action if action.refused else action._replace(mount=None, old=None)
            self.outcomes[action.volume] = outcome._replace(action=slim)  # a MiB for 1,000
            self._left.pop(action.volume, None)
            if action.mount:
                self._guarded |= guarded(action.mount)
            managed = by_target.get(action.target)
            if managed and action.mount and not outcome.fault:
                left = _Left(managed.id, action.target, action.mount.flags)
                self._left[action.volume] = left
                self._submounts |= dict.fromkeys(managed.submounts, action.volume)
                if not any(automounts.from_(action.mount.source)):  # which may idle out meanwhile
                    root = st_dev(action.mount.device), action.mount.inode
                    self.sources |= dict.fromkeys(_ways_to(action.mount, self._state_dir), root)
            self._paths.update(
                each for each in (action.source, action.target) if each.startswith("/")
            )


def _ways_to(mount: DesiredMount, state_dir: str) -> tuple[str, ...]:
    """The paths at which its source may be replaced; none if that is a whole filesystem."""
    volume = mount.volume
    if not volume.type:
        return mount.source, volume.source
    folder = f"{os.path.realpath(state_dir)}/fs/{mount.filesystem}"
    return (f"{folder}/{volume.subdir}",) if volume.subdir else ()


def _is_stuck(outcome: Outcome) -> bool:
    return outcome.action.is_departure and outcome.fault is not None
