"""Edits of the manifest and of account files, by watchfiles in a thread of its own.

An event says only "look again". What exists is watched itself, not the folder that it is in, for a
folder like /etc has an event for each file that any program opens there. So a watch is armed anew
after each event: after a save by rename it would be of the file that is gone. What doesn't exist,
and links, are looked at once in a while: of these there are few. So is what watchfiles can't watch,
and all of it where the kernel gives no watches or threads.
"""

import os
from _thread import start_new_thread
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from threading import Event, get_native_id
from time import monotonic, sleep
from typing import Any

from mountd.kernel.limits import NoThreadError, hint_on
from mountd.watch.glances import Served, content, identity, link_at, trail

_STEP = 30
"""Milliseconds from one look for events to the next; two of them pass before an edit is told."""
_TIMEOUT = 8 * _STEP
"""From one look at what doesn't exist to the next; as often as every step it would cost as much."""
_DEBOUNCE = 400
_WITHOUT_EVENTS = 1.0
"""Seconds from one look to the next where the kernel gives no watches."""
_LONGEST = 60.0
_SPARE = 2
"""Threads that can be had at once where watchfiles is asked for one."""

_LATE = "edits are seen a second late"


class Edits:
    """Watches paths, and rings once when one of them isn't as it was seen to be."""

    def __init__(self, ring: Callable[[], None]) -> None:
        """`ring` is called from another thread, also where `trouble` has changed."""
        self._ring = ring
        self._seen: Mapping[str, Hashable] = {}
        self._has_paths = Event()
        self._stop = Event()
        self._is_running = False
        self._failures = 0
        self.have_come = False
        """Set when it rings for an edit; `watch` clears it."""
        self.trouble: str | None = None
        """Why not all edits are seen at once, where that is so."""

    def watch(self, seen: Mapping[str, Hashable]) -> None:
        """Ring when any of these paths has another `content` than this, or has it now."""
        self._seen = seen
        self.have_come = False
        self._stop.set()  # of a wait for events of other paths
        self._has_paths.set()
        if not self._is_running:
            self._is_running = True
            try:
                start_new_thread(self._run, ())
            except RuntimeError:
                self._is_running = False
                self._find_trouble(f"edits are seen a minute late: {_without_thread()}")

    def _run(self) -> None:
        while True:
            self._has_paths.wait()
            self._has_paths.clear()
            self._stop.clear()
            try:
                self._wait(self._seen)
            except BaseException as error:  # noqa: BLE001 - nobody else would say it, or go on
                self._failures += 1
                said = f"{type(error).__name__}: {error}"
                self._find_trouble(f"edits are seen late: the look for them failed ({said})")
                self._stop.wait(min(2.0**self._failures, _LONGEST))
                self._has_paths.set()

    def _wait(self, seen: Mapping[str, Hashable]) -> None:
        """Until it has rung, or there are other paths to watch."""
        while not self._stop.is_set():
            trails = {path: trail(path) for path in seen}
            passed = {path: link for each, _ in trails.values() for path, link in each.items()}
            ends = {end for path, (_, end) in trails.items() if end and _can_watch(end, seen[path])}
            others = [path for path, (_, end) in trails.items() if end and end not in ends]
            folders = {os.path.dirname(end) for end in ends}
            places = {folder: identity(folder) for folder in folders}
            try:
                with _watch_of(ends) as watch:
                    if self._differ(seen):
                        return
                    if trails == {path: trail(path) for path in seen}:  # else it is of others
                        unseen = [each for each in others if not isinstance(seen[each], Served)]
                        self._find_trouble(_unwatched(unseen))
                        self._failures = 0
                        self._wait_for_event(watch, passed, places, {p: seen[p] for p in others})
            except FileNotFoundError:
                continue
            except (ImportError, OSError, RuntimeError) as error:
                if trouble := _in_words(error):
                    self._find_trouble(f"{_LATE}: {trouble}")
                    self._stop.wait(_WITHOUT_EVENTS)
            if self._differ(seen):
                return

    def _find_trouble(self, trouble: str | None) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            self._ring()

    def _wait_for_event(
        self,
        watch: Any,
        passed: Mapping[str, str | None],
        places: Mapping[str, tuple[int, int] | None],
        others: Mapping[str, Hashable],
    ) -> None:
        latest = monotonic()
        # not with our event, which it would ask at every step: a third of what we cost when idle
        while watch.watch(_DEBOUNCE, _STEP, _TIMEOUT, None) == "timeout":
            if self._stop.is_set():
                return
            if any(link_at(path) != link for path, link in passed.items()):
                return
            if any(identity(folder) != each for folder, each in places.items()):
                return
            if others and monotonic() - latest >= _WITHOUT_EVENTS:
                if any(content(path) != each for path, each in others.items()):
                    return
                latest = monotonic()

    def _differ(self, seen: Mapping[str, Hashable]) -> bool:
        if self._stop.is_set() or all(content(path) == each for path, each in seen.items()):
            return False
        self.have_come = True
        self._ring()
        return True


def _can_watch(path: str, seen: Hashable) -> bool:
    """Whether watchfiles can: it takes UTF-8 alone, and the kernel none that can't be read.

    To arm a watch on what is served may wait for ever, and nobody would call.
    """
    return _is_utf8(path) and not isinstance(seen, int | Served)


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unwatched(paths: Collection[str]) -> str | None:
    """What is wrong with the first of these, which can only be looked at."""
    for path in sorted(paths, key=os.fsencode):
        why = "it can't be read" if _is_utf8(path) else "its name isn't UTF-8"
        more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
        return f"{_LATE} in {path}{more}: {why}"
    return None


def _in_words(error: Exception) -> str | None:
    """Why there are no events; None for one that means nothing but that something has changed."""
    if isinstance(error, ImportError):
        return "the Python package watchfiles is missing; install it"
    if isinstance(error, NoThreadError):
        return _without_thread()
    if "Unable to decode" in str(error):  # a name in a folder: it is listed, and that is compared
        return None
    return f"the kernel gives no watches on files ({error}); {hint_on('watches')}"


def _without_thread() -> str:
    return f"no thread can be started; {hint_on('threads')}"


@contextmanager
def _watch_of(paths: Collection[str]) -> Iterator[Any]:
    """A RustNotify of these. Raises OSError, RuntimeError, and ImportError where it is missing."""
    _see_threads()
    # the last: not to keep silent where a path can't be watched, for want of watches above all
    with _native_class()([*paths], False, False, 0, False, False) as watch:
        yield watch


def _see_threads() -> None:
    """Raise NoThreadError where watchfiles would get no thread: it ends the process by that.

    (notify's `watch` panics, and its destructor once more, which aborts.) More are tried than it
    needs, all at once, and are gone before it begins.
    """
    begun: list[int] = []
    go = Event()

    def wait() -> None:
        begun.append(get_native_id())
        go.wait()

    count = 0
    try:
        for _ in range(_SPARE):
            start_new_thread(wait, ())
            count += 1
    except RuntimeError as error:
        raise NoThreadError from error
    finally:
        go.set()
        deadline = monotonic() + 1
        while monotonic() < deadline and (len(begun) < count or any(map(_is_thread, begun))):
            sleep(0.0002)


def _is_thread(number: int) -> bool:
    return os.path.exists(f"/proc/self/task/{number}")


@cache
def _native_class() -> Any:
    """RustNotify alone; watchfiles as a whole imports asyncio, for three times the price."""
    package = find_spec("watchfiles")
    if package is None or package.submodule_search_locations is None:
        raise ModuleNotFoundError("watchfiles")
    places = [os.fspath(each) for each in package.submodule_search_locations]
    found = PathFinder.find_spec("_rust_notify", places)
    if found is None or found.loader is None:
        raise ModuleNotFoundError("watchfiles._rust_notify")
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module.RustNotify
