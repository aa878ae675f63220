"""Somebody keeps undoing what mountd mounts: how long it waits before it does so again.

Times are seconds of one clock.
"""

from typing import NamedTuple

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
