"""All paths that `mountd watch` looks at: the manifest's, accounts, what volumes wait for.

One thread looks at each of them three times a second, and rings when one isn't as it was. What lies
on a server is looked at by a child, and left out until that answers. While edits come, watchfiles
says at once when to look. It wakes many times a second for that, so it is asked for some seconds
after an edit only, and isn't loaded before the first. Nothing depends on it: an event says only
that there is something to look at.
"""

import os
from _thread import start_new_thread
from collections.abc import Callable, Hashable, Mapping, Sequence
from threading import Condition, Event
from time import monotonic, thread_time
from types import EllipsisType

from mountd.core.named_tuple import NamedTuple
from mountd.kernel.limits import hint_on
from mountd.kernel.patience import Looker, Patience
from mountd.kernel.served import ServedError
from mountd.kernel.table import TableNews
from mountd.kernel.trusted import is_roots
from mountd.watch.events import NO_EVENTS, events_of, has_event, why_no_events
from mountd.watch.fight import Fight, undone
from mountd.watch.glances import (
    Served,
    content,
    end_of,
    identity,
    is_held_by_root,
    is_itself,
    quick_identity,
    quick_stamp,
    stamp,
)

_INTERVAL = 0.33
"""Seconds from one look to the next."""
_SERVED_INTERVAL = 1.0
"""The same for what lies where users, or servers, could keep us, and to have events again."""
_LIVELY = 10.0
"""Seconds after an edit for which more edits are expected."""
_IDLE_TIMES = 20
"""A look is followed by a pause at least this many times as long."""
_LONGEST = 60.0
_FIRST_LOOK = 0.1
"""Seconds for which the first look at an arrival is waited for."""

Sight = tuple[int, int] | EllipsisType | None
"""What to compare with: an identity; None if it wasn't there; `...`: its first `stamp`."""
_HANGS = "hangs"


class _Question(NamedTuple):
    """Paths that one child looks at, because they can but hang together."""

    look: Callable[[str], Hashable]
    name: str
    """The path itself, or the folder of them all."""
    paths: list[str]


class Places:
    """Looks at paths, and rings once when one of them isn't as it was seen to be."""

    def __init__(self, ring: Callable[[], None], ring_for_arrival: Callable[[], None]) -> None:
        """Both are called from another thread; `ring` also where `trouble` has changed."""
        self._ring = ring
        self._ring_for_arrival = ring_for_arrival
        self.has_edit = False
        """Set when it rings for an edit; whoever hears it clears it."""
        self._news = Condition()
        self._has_news = False
        self._has_looked = Event()
        self._is_running = False
        self._contents: Mapping[str, Hashable] = {}
        """What the manifest's places and the accounts of `/` had when they were read."""
        self._stamps: dict[str, Hashable] = {}
        """The stamps of these while they had that."""
        self._roots: set[str] = set()
        """Paths that lead where root alone decides, as long as nothing is mounted or unmounted."""
        self._folders: dict[str, set[str]] = {}
        """Sources by the folder that they lie in, where root alone can change what that is."""
        self._folder_stamps: dict[str, Hashable] = {}
        """The stamps of these folders while the sources were as they were expected."""
        self._sights: Mapping[str, Sight] = {}
        self._latest: dict[str, tuple[Sight, Hashable]] = {}
        """What was seen at the latest look at these, and for which sight: nothing rings twice."""
        self._fights: dict[str, Fight] = {}
        """Sources that rang of late: a server may say another thing each time that it is asked."""
        self._looker = Looker[_Question, list[Hashable]](
            Patience(), _look, _give_up, key=lambda it: (it.look, it.name), stays=True
        )
        self._table: TableNews | None = None
        self._lively_until = 0.0
        self._next_served = 0.0
        self._next_sights = 0.0
        self._failures = 0
        self._why_late: str | None = None
        self._why_no_events: str | None = None

    @property
    def trouble(self) -> str | None:
        """Why edits are seen late, where that is so."""
        return self._why_late or self._why_no_events

    def watch_edits(self, contents: Mapping[str, Hashable]) -> None:
        """Ring when any of these paths has another `content` than this, or has it now."""
        with self._news:
            self._contents = contents
            self._stamps = {}
            self.has_edit = False
            self._begin()

    def watch_arrivals(self, sights: Mapping[str, Sight]) -> None:
        """Ring for an arrival when any of these differs from its sight, or changes after that."""
        with self._news:
            self._sights = sights
            self._latest = {path: self._latest[path] for path in sights if path in self._latest}
            self._fights = {path: self._fights[path] for path in sights if path in self._fights}
            self._folder_stamps = {}
            self._has_looked.clear()
            is_new = any(
                sight is ... and path not in self._latest for path, sight in sights.items()
            )
            self._begin()
        if is_new and self._is_running:
            self._has_looked.wait(_FIRST_LOOK)

    def _begin(self) -> None:
        self._has_news = True
        self._news.notify()
        if not self._is_running:
            try:
                start_new_thread(self._run, ())
            except RuntimeError:
                late = f"no thread can be started; {hint_on('threads')}"
                self._say(f"edits are seen a minute late: {late}", self._why_no_events)
            else:
                self._is_running = True

    def _run(self) -> None:
        pause = 0.0
        while True:
            with self._news:
                self._news.wait_for(lambda: self._has_news, pause)
                self._has_news = False
            begin = thread_time()  # not the time for which a server was waited for
            try:
                self._look()
                pause = max(_INTERVAL, _IDLE_TIMES * (thread_time() - begin))
                self._say(None, self._why_no_events)
                if monotonic() < self._lively_until and self._contents:
                    pause = self._follow_events()
                self._failures = 0
            except BaseException as error:  # noqa: BLE001 - nobody else would say it, or go on
                self._failures += 1
                said = error.strerror if isinstance(error, OSError) else None
                said = said or f"{type(error).__name__}: {error}"
                late = f"edits are seen late: the look for them failed ({said})"
                self._say(late, self._why_no_events)
                pause = min(2.0**self._failures, _LONGEST)

    def _follow_events(self) -> float:
        """Look whenever there is an event, as long as edits come; how long to pause then."""
        contents = self._contents
        ends = {
            end_of(path)
            for path, seen in contents.items()
            if not (isinstance(seen, int | Served) or is_itself(path))
        }
        try:
            events = events_of([end for end in ends if end])
        except NO_EVENTS as error:
            if why := why_no_events(error):
                self._say(None, f"edits are seen a second late: {why}")
            self._lively_until = monotonic() + _LIVELY  # so that it is tried again
            return _SERVED_INTERVAL
        with events:
            self._say(None, None)
            self._look(at_all=True)  # an edit may have come before the events
            while self._contents is contents and monotonic() < self._lively_until:
                is_event = has_event(events)
                self._look(at_all=is_event)
                if is_event:  # after a save by rename there are events of the file that is gone
                    return 0.0
        return 0.0

    def _look(self, *, at_all: bool = False) -> None:
        """Look at what is due; at all contents, also where the stamp is as it was."""
        with self._news:
            contents, stamps, sights = self._contents, self._stamps, self._sights
            folder_stamps = self._folder_stamps
        if self._table is None:
            self._table = TableNews()
        if self._table.are_there():
            self._roots.clear()
            self._folders.clear()
        served = [path for path, seen in contents.items() if isinstance(seen, Served)]
        for path in contents.keys() - served:
            try:
                now = quick_stamp(path) if path in self._roots else self._first_stamp(path)
            except ServedError:
                served.append(path)
                continue
            if at_all or path not in stamps or stamps[path] != now:
                if content(path) != contents[path]:
                    self._ring_for_edit(contents)
                    return
                stamps[path] = now
        if served and monotonic() >= self._next_served:
            self._next_served = monotonic() + _SERVED_INTERVAL
            self._look_at_served(served, contents)
        if sights:
            self._look_for_arrivals(sights, folder_stamps)

    def _first_stamp(self, path: str) -> Hashable:
        """The stamp of a path, of which it isn't known whether a server may be in the way."""
        found = stamp(path)
        if is_roots(path):
            self._roots.add(path)
        return found

    def _look_at_served(self, paths: Sequence[str], contents: Mapping[str, Hashable]) -> None:
        looks = self._looker.look_at([_Question(content, path, [path]) for path in paths])
        for path, (found,) in zip(paths, looks, strict=True):
            if found not in (_HANGS, contents[path]):
                self._ring_for_edit(contents)

    def _ring_for_edit(self, contents: Mapping[str, Hashable]) -> None:
        with self._news:
            if self._contents is contents:
                self._contents = {}
                self._lively_until = monotonic() + _LIVELY
                self.has_edit = True
                self._ring()

    def _look_for_arrivals(
        self, sights: Mapping[str, Sight], folder_stamps: dict[str, Hashable]
    ) -> None:
        known = [path for path, sight in sights.items() if isinstance(sight, tuple)]
        seen: dict[str, Hashable] = {}
        for folder, paths in self._folders.items():
            now = quick_stamp(folder)
            if folder not in folder_stamps or folder_stamps[folder] != now:
                folder_stamps[folder] = now
                seen |= {path: quick_identity(path) for path in paths if path in sights}
        is_due = monotonic() >= self._next_sights
        quick = {path for paths in self._folders.values() for path in paths} if is_due else set()
        slow = sights.keys() - (quick if is_due else known)
        if is_due:
            self._next_sights = monotonic() + _SERVED_INTERVAL
        questions: dict[tuple[object, str], _Question] = {}
        for path in slow:
            look, name = (stamp, path) if sights[path] is ... else (identity, os.path.dirname(path))
            questions.setdefault((look, name), _Question(look, name, [])).paths.append(path)
        asked = [*questions.values()]
        for question, found in zip(asked, self._looker.look_at(asked), strict=True):
            looks = zip(question.paths, found, strict=True)
            seen |= {path: each for path, each in looks if each != _HANGS}
        for path in filter(is_held_by_root, slow.intersection(known)):
            self._folders.setdefault(os.path.dirname(path), set()).add(path)
        with self._news:
            if self._sights is sights and self._are_news(seen):
                self._sights = {}
                self._ring_for_arrival()

    def _are_news(self, seen: Mapping[str, Hashable]) -> bool:
        are_news = False
        for path, found in seen.items():
            sight = self._sights[path]
            before = self._latest.get(path)
            if before and before[0] == sight:
                expected = before[1]
            else:
                expected = found if sight is ... else sight
            if found != expected and not (isinstance(sight, tuple) and self._has_to_wait(path)):
                are_news = True
            self._latest[path] = sight, found
        self._has_looked.set()
        return are_news

    def _has_to_wait(self, source: str) -> bool:
        """Whether this one rang too often of late; then what it is now is for the resync to see."""
        fight = self._fights[source] = undone(self._fights.get(source, Fight()), monotonic())
        return fight.until > monotonic()

    def _say(self, why_late: str | None, why_no_events: str | None) -> None:
        before = self.trouble
        self._why_late, self._why_no_events = why_late, why_no_events
        if self.trouble != before:
            self._ring()


def _look(question: _Question) -> list[Hashable]:
    return [question.look(path) for path in question.paths]


def _give_up(question: _Question, _: OSError) -> list[Hashable]:
    return [_HANGS for _ in question.paths]
