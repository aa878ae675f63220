"""Sources, targets and accounts that aren't there yet, and files that may be replaced by others.

They are looked at a few times a second in a thread of its own, for they may lie on a server that
hangs; the thread is there only while something is awaited.
"""

from collections.abc import Callable, Hashable, Mapping
from threading import Condition, Thread
from time import monotonic
from types import EllipsisType

from mountd.glances import identity, stamp

_INTERVAL = 0.25
_IDLE_TIMES = 20
"""A look is followed by a pause as many times longer."""

Sight = tuple[int, int] | EllipsisType | None
"""The `identity` that a path had; `...`: it is to be as it was at the look before, in time too."""


class Arrivals:
    """Looks at paths, and rings once when one of them isn't as it was."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._sights: Mapping[str, Sight] = {}
        self._stamps: dict[str, Hashable] = {}
        self._news = Condition()
        self._is_running = False

    def watch(self, sights: Mapping[str, Sight]) -> None:
        """Look at these from now on, until one of them differs."""
        with self._news:
            self._sights = sights
            self._news.notify()
            if sights and not self._is_running:
                self._is_running = True
                Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        pause = _INTERVAL
        while True:
            with self._news:
                self._news.wait(pause)
                sights = self._sights
                self._is_running = bool(sights)
            if not sights:
                return
            begin = monotonic()
            differing = [path for path, sight in sights.items() if self._differs(path, sight)]
            pause = max(_INTERVAL, _IDLE_TIMES * (monotonic() - begin))
            with self._news:
                if differing and self._sights is sights:
                    self._sights = {}
                    self._ring()

    def _differs(self, path: str, sight: Sight) -> bool:
        if sight is not ...:
            return identity(path) != sight
        now = stamp(path)
        before = self._stamps.setdefault(path, now)
        self._stamps[path] = now
        return now != before
