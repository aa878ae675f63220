"""What is new in a pass among many: each thing is told once, not at every pass."""

from typing import NamedTuple

from mountd.core.model import DONE, Fault, Outcome
from mountd.core.printable import printable
from mountd.journal import WARNING, Journal


class _Told(NamedTuple):
    fault: Fault | None = None
    fallback: Fault | None = None


class News:
    """Keeps what the journal was told, and tells it the rest."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._told: dict[tuple[str, str], _Told] = {}
        self._warned: frozenset[str] = frozenset()

    def outcome(self, outcome: Outcome, *, is_repair: bool = False) -> None:
        """Tell what became of a volume; `is_repair`: of what someone else did to it."""
        action, fault = outcome.action, outcome.fault
        key = action.volume, action.target
        before = self._told.get(key, _Told())
        refused = action.refused.fault if action.refused and not fault else None
        is_done = action.verb in DONE and not fault
        if is_repair and is_done and action.verb != "unmount":
            self._journal.drift(action)
        if is_done or (fault and fault != before.fault):
            self._journal.change(outcome)
        elif before.fault and not fault:
            self._journal.recovery(outcome)
        if refused != before.fallback:
            self._journal.fallback(outcome)
        self._told.pop(key, None)
        if fault or refused:
            self._told[key] = _Told(fault, refused)

    def undone(self, outcome: Outcome, *, is_first: bool) -> None:
        """Tell of a volume that someone keeps undoing, if this `is_first` of these times."""
        action, fault = outcome.action, outcome.fault
        assert fault, "it can't be as desired"
        if is_first:
            self._journal.undone(action, fault)
        self._told[action.volume, action.target] = _Told(fault)

    def forget_all_but(self, outcomes: tuple[Outcome, ...]) -> None:
        """Of what isn't in the manifest any more, nothing is known."""
        known = {(each.action.volume, each.action.target) for each in outcomes}
        self._told = {key: told for key, told in self._told.items() if key in known}

    def warnings(self, warnings: tuple[str, ...]) -> None:
        """Tell those that the pass before didn't have."""
        for warning in warnings:
            if warning not in self._warned:
                self._journal.tell(printable(f"warning: {warning}"), "warned", WARNING)
        self._warned = frozenset(warnings)
