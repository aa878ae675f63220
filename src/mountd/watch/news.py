"""What is new in one pass of many: each thing is reported once, and not too much at a time.

Any user can make news: by mounts over a target or below it, by sources that come and go. So only so
much is reported. What is left out is counted, and the present state is reported later.
"""

from collections.abc import Callable, Iterable
from time import monotonic

from mountd.core.actions import Outcome
from mountd.core.model import Fault
from mountd.core.named_tuple import NamedTuple
from mountd.core.words.commands import mountd
from mountd.report.journal import WARNING, Journal
from mountd.watch.fight import Telling

_Key = tuple[str, str]
"""A volume's name and target."""


class _Told(NamedTuple):
    fault: Fault | None = None
    fallback: Fault | None = None


class News:
    """Remembers what was reported, and reports the rest."""

    def __init__(self, journal: Journal) -> None:
        self.is_free = True
        """Whether what comes is root's own doing, all of which is reported."""
        self._journal = journal
        self._told: dict[_Key, _Told] = {}
        self._unsaid: dict[_Key, _Told] = {}
        """The state of volumes whose report was left out."""
        self._warned: frozenset[str] = frozenset()
        self._telling = Telling()

    def outcome(self, outcome: Outcome, *, is_repair: bool = False) -> None:
        """Report what became of a volume; `is_repair`: also what someone else did to it."""
        action, fault = outcome.action, outcome.fault
        before = self._told.get((action.volume, action.target), _Told())
        refused = action.refused.fault if action.refused and not fault else None
        is_done = action.done is not None and not fault
        records: list[Callable[[], None]] = []
        if is_repair and is_done and action.verb != "unmount":
            records.append(lambda: self._journal.drift(action))
        if is_done or (fault and not _is_as_told(fault, before.fault)):
            records.append(lambda: self._journal.change(outcome))
        elif before.fault and not fault:
            records.append(lambda: self._journal.recovery(outcome))
        if refused != before.fallback:
            records.append(lambda: self._journal.fallback(outcome))
        self._tell(outcome, _Told(fault, refused), records, is_done=is_done)

    def undone(self, outcome: Outcome, *, is_first: bool) -> None:
        """Report a volume that someone keeps undoing, if it is the first of these times."""
        action, fault = outcome.action, outcome.fault
        assert fault, "it can't be as desired"
        records = [lambda: self._journal.undone(action, fault)] if is_first else []
        self._tell(outcome, _Told(fault), records)

    def trouble(self, message: str, event: str, priority: int) -> None:
        """Report what concerns no single volume."""
        now = monotonic()
        if self.is_free or self._telling.has_room("", 1, now):
            self._journal.tell(message, event, priority)
        else:
            self._telling.leave_out("", 1, now)

    def forget_all_but(self, outcomes: tuple[Outcome, ...]) -> None:
        """Forget all volumes but these."""
        known = {(each.action.volume, each.action.target) for each in outcomes}
        self._told = {key: told for key, told in self._told.items() if key in known}
        self._unsaid = {key: told for key, told in self._unsaid.items() if key in known}
        self._telling.volumes = len(known)

    def warnings(self, warnings: tuple[str, ...]) -> None:
        """Report those that the previous pass didn't have."""
        for warning in warnings:
            if warning not in self._warned:
                self.trouble(f"warning: {warning}", "warned", WARNING)
        self._warned = frozenset(warnings)

    @property
    def due(self) -> float | None:
        """When there is something to `close`."""
        return self._telling.due

    def close(self, outcomes: Iterable[Outcome]) -> None:
        """If it is due, report how much was left out and, if there is room, the present state."""
        now = monotonic()
        if (due := self._telling.due) is None or now < due:
            return
        records, volumes, seconds = self._telling.close(now)
        said = f"{records} more records" if records > 1 else "1 more record"
        about = f"about {volumes} volumes" if volumes > 1 else "about one volume"
        message = (
            f"left out: {said} {about}, within {seconds:.0f} s; {mountd('status')} has the state"
        )
        self._journal.tell(message, "left-out", WARNING)
        for outcome in [*outcomes]:
            if (outcome.action.volume, outcome.action.target) in self._unsaid:
                self.outcome(outcome)

    def _tell(
        self,
        outcome: Outcome,
        state: _Told,
        records: list[Callable[[], None]],
        *,
        is_done: bool = False,
    ) -> None:
        volume, now = outcome.action.volume, monotonic()
        key = volume, outcome.action.target
        may_be_told = (
            self.is_free
            or not records
            or self._telling.has_room(volume, len(records), now, is_done=is_done)
        )
        if not may_be_told:
            if is_done or self._unsaid.get(key) != state:
                self._telling.leave_out(volume, len(records), now)
            self._unsaid[key] = state
            return
        for tell in records:
            tell()
        self._unsaid.pop(key, None)
        self._told.pop(key, None)
        if state != _Told():
            self._told[key] = state


def _is_as_told(fault: Fault, told: Fault | None) -> bool:
    """Whether it is no news: the holders of a busy mount may be found or not, and change."""
    return fault == told or (told is not None and fault.code == told.code == "busy")
