"""Somebody keeps undoing what mountd mounts: how long it waits before it does so again.

And somebody keeps making news: how much of it is told. Times are seconds of one clock.
"""

from mountd.core.named_tuple import NamedTuple

_AT_ONCE = 5
"""Repairs of one volume within `_LATELY` seconds that are not waited for."""
_LATELY = 60.0
_LONGEST = 300.0


class Fight(NamedTuple):
    """One volume's repairs of late, how often they had to wait, and until when the next must."""

    repairs: tuple[float, ...] = ()
    waits: int = 0
    until: float = 0.0

    @property
    def wait(self) -> float:
        """The latest wait."""
        return min(2.0 ** min(self.waits - 1, 10), _LONGEST) if self.waits else 0.0

    def is_over(self, now: float) -> bool:
        """Whether the latest repair has lasted: for a minute, and twice as long as was waited."""
        return now - max(self.repairs, default=now) > max(_LATELY, 2 * self.wait)


def undone(fight: Fight, now: float) -> Fight:
    """The fight after one more undoing; the volume is put back at once, or `until` is later."""
    if fight.is_over(now):
        fight = Fight()
    lately = tuple(each for each in fight.repairs if now - each < _LATELY)
    if not fight.waits and len(lately) < _AT_ONCE:
        return Fight((*lately, now))
    fight = fight._replace(waits=fight.waits + 1)
    return fight._replace(repairs=(now + fight.wait,), until=now + fight.wait)


class Rate(NamedTuple):
    """How many may come at once, and how many seconds each one more takes."""

    at_once: int
    seconds: float


OF_ALL = Rate(25, 2.0)
"""What is told of all volumes; a record has one line or two."""
_OF_A_REPAIR = 2
"""Records; one repair of each volume is told at once, however many there are."""
OF_ONE = Rate(20, 15.0)
"""What is told of one: its five repairs at once, and those after them, are within it."""
_QUIET = 10.0
_LATEST = 60.0


class Told(NamedTuple):
    """How many records were told of late: each counts less as time goes by, and then not at all."""

    records: float = 0.0
    at: float = 0.0

    def by(self, now: float, rate: Rate) -> float:
        """What still counts of it."""
        return max(0.0, self.records - (now - self.at) / rate.seconds)

    def plus(self, records: int, now: float, rate: Rate) -> "Told":
        """With these told, too."""
        return Told(self.by(now, rate) + records, now)

    def has_room(self, records: int, now: float, rate: Rate) -> bool:
        """Whether so many more may be told now."""
        return self.by(now, rate) + records <= rate.at_once


class Telling:
    """What was told of late in all and of each, and what was left out since that was last said."""

    def __init__(self) -> None:
        self.volumes = 0
        self._all = Told()
        self._each: dict[str, Told] = {}
        self.left_out: dict[str, int] = {}
        """Records by what they are about."""
        self._first = 0.0
        self._latest = 0.0

    def has_room(self, name: str, records: int, now: float, *, is_done: bool = False) -> bool:
        """Whether so many records about one may be told, which then count as told.

        `is_done`: they are of what was done, which is rarer and matters more than how it was found.
        """
        one = self._each.get(name, Told())
        most = max(OF_ALL.at_once, _OF_A_REPAIR * self.volumes) if is_done else OF_ALL.at_once
        if not (
            self._all.has_room(records, now, OF_ALL._replace(at_once=most))
            and one.has_room(records, now, OF_ONE)
        ):
            return False
        self._all = self._all.plus(records, now, OF_ALL)
        self._each[name] = one.plus(records, now, OF_ONE)
        return True

    def leave_out(self, name: str, records: int, now: float) -> None:
        """Count these, which are not told."""
        self._first = self._first if self.left_out else now
        self._latest = now
        self.left_out[name] = self.left_out.get(name, 0) + records

    @property
    def due(self) -> float | None:
        """When it has to be said what was left out: after the storm, or while it goes on."""
        return min(self._latest + _QUIET, self._first + _LATEST) if self.left_out else None

    def close(self, now: float) -> tuple[int, int, float]:
        """How many records, about how many, were left out within how many seconds; count anew."""
        found = sum(self.left_out.values()), len(self.left_out), now - self._first
        self.left_out = {}
        self._each = {name: told for name, told in self._each.items() if told.by(now, OF_ONE)}
        return found
