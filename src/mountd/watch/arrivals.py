"""Sources, targets and accounts that aren't there yet, and files that may be replaced by others.

They are looked at a few times a second in a thread of its own, which is there only while something
is awaited; what lies on a server by a child, and left out until that answers.
"""

from _thread import start_new_thread
from collections.abc import Callable, Hashable, Mapping
from threading import Condition, Event
from time import thread_time
from types import EllipsisType

from mountd.kernel.patience import Looker, Patience
from mountd.watch.glances import identity, stamp

_INTERVAL = 0.25
_IDLE_TIMES = 20
"""A look is followed by a pause as many times longer."""

_LONGEST = 60.0
_LATE = "what volumes wait for is seen a minute late"

Sight = tuple[int, int] | EllipsisType | None
"""What to compare with: an identity; None if it wasn't there; `...`: its first `stamp`."""
_FIRST_LOOK = 0.1
"""Seconds for which the first look at a path is waited for."""


class Arrivals:
    """Looks at paths, and rings once when one of them isn't as it was."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self.trouble: str | None = None
        """Why what arrives is seen at a slow resync only, where that is so."""
        self._sights: Mapping[str, Sight] = {}
        self._latest: dict[str, Hashable] = {}
        """What was seen at the latest look, so that nothing rings twice."""
        self._news = Condition()
        self._has_looked = Event()
        self._looker = Looker[tuple[str, Sight], Hashable](
            Patience(), _look, _give_up, key=_path, stays=True
        )
        self._is_running = False

    def watch(self, sights: Mapping[str, Sight]) -> None:
        """Look at these from now on, until one of them differs from the sight, or changes."""
        with self._news:
            self._sights = sights
            self._latest = {path: self._latest[path] for path in sights if path in self._latest}
            self._has_looked.clear()
            self._news.notify()
            if sights and not self._is_running:
                self._is_running = self._start()
            is_new = any(
                sight is ... and path not in self._latest for path, sight in sights.items()
            )
        if is_new and self._is_running:
            self._has_looked.wait(_FIRST_LOOK)

    def _start(self) -> bool:
        try:
            start_new_thread(self._run, ())
        except RuntimeError:
            self.trouble = f"{_LATE}: no thread can be started"
            return False
        self.trouble = None
        return True

    def _run(self) -> None:
        pause = 0.0
        while True:
            with self._news:
                self._news.wait(pause)
                sights = self._sights
                self._is_running = bool(sights)
            if not sights:
                return
            begin = thread_time()  # not the time for which a server was waited for
            try:
                self._look_at(sights)
                self.trouble = None
                pause = _INTERVAL
            except BaseException as error:  # noqa: BLE001 - nobody else would say it, or go on
                said = error.strerror if isinstance(error, OSError) else None
                self.trouble = f"{_LATE}: {said or f'{type(error).__name__}: {error}'}"
                pause = min(max(2 * pause, 1.0), _LONGEST)
            pause = max(pause, _IDLE_TIMES * (thread_time() - begin))

    def _look_at(self, sights: Mapping[str, Sight]) -> None:
        paths = [*sights]
        looks = self._looker.look_at([(path, sights[path]) for path in paths])
        seen = {path: each for path, each in zip(paths, looks, strict=True) if each != _HANGS}
        with self._news:
            if self._sights is sights and self._are_news(seen):
                self._sights = {}
                self._ring()

    def _are_news(self, seen: Mapping[str, Hashable]) -> bool:
        expected = {
            path: self._latest.get(path, each if self._sights[path] is ... else self._sights[path])
            for path, each in seen.items()
        }
        self._latest |= seen
        self._has_looked.set()
        return seen != expected


_HANGS = "hangs"


def _look(item: tuple[str, Sight]) -> Hashable:
    path, sight = item
    return stamp(path) if sight is ... else identity(path)


def _give_up(*_: object) -> Hashable:
    return _HANGS


def _path(item: tuple[str, Sight]) -> str:
    return item[0]
