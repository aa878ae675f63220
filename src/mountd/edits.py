"""Edits of the manifest and of account files, by watchfiles in a thread of its own.

An event says only "look again". What exists is watched itself, not the folder that it is in, for a
folder like /etc has an event for each file that any program opens there. So a watch is armed anew
after each event: after a save by rename it would be of the file that is gone. What doesn't exist,
and links, are looked at once in a while: of these there are few.
"""

import os
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from threading import Event, Thread
from typing import Any

from mountd.glances import content, identity, link_at, trail

_STEP = 30
"""Milliseconds from one look for events to the next; two of them pass before an edit is told."""
_TIMEOUT = 8 * _STEP
"""From one look at what doesn't exist to the next; as often as every step it would cost as much."""
_DEBOUNCE = 400
_WITHOUT_EVENTS = 1.0
"""Seconds from one look to the next where the kernel gives no watches."""


class Edits:
    """Watches paths, and rings once when one of them isn't as it was seen to be."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._seen: Mapping[str, Hashable] = {}
        self._has_paths = Event()
        self._stop = Event()
        self.have_come = False
        """Set when it rings; `watch` clears it."""
        self.trouble: str | None = None
        """Why there are no events, where there are none."""
        self._thread = Thread(target=self._run, daemon=True)

    def watch(self, seen: Mapping[str, Hashable]) -> None:
        """Ring when any of these paths has another `content` than this, or has it now."""
        self._seen = seen
        self.have_come = False
        self._stop.set()  # of a wait for events of other paths
        self._has_paths.set()
        if not self._thread.is_alive():
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._has_paths.wait()
            self._has_paths.clear()
            self._stop.clear()
            self._wait(self._seen)

    def _wait(self, seen: Mapping[str, Hashable]) -> None:
        """Until it has rung, or there are other paths to watch."""
        while not self._stop.is_set():
            trails = [trail(path) for path in seen]
            ends = {end for _, end in trails if end}
            passed = {path: link for each, _ in trails for path, link in each.items()}
            folders = {os.path.dirname(end) for end in ends}
            places = {folder: identity(folder) for folder in folders}
            try:
                with _native_class()([*ends], False, False, 0, False, True) as watch:
                    if self._differ(seen):
                        return
                    if trails == [trail(path) for path in seen]:  # else it is of something else
                        self._wait_for_event(watch, passed, places)
            except FileNotFoundError:
                continue
            except ImportError:
                self._go_without("the Python package watchfiles is missing; install it")
            except (OSError, RuntimeError) as error:
                why = f"the kernel gives no watches on files ({error})"
                self._go_without(f"{why}; raise fs.inotify.max_user_instances or max_user_watches")
            if self._differ(seen):
                return

    def _go_without(self, why: str) -> None:
        self.trouble = self.trouble or f"edits are seen a second late: {why}"
        self._stop.wait(_WITHOUT_EVENTS)

    def _wait_for_event(
        self,
        watch: Any,
        passed: Mapping[str, str | None],
        places: Mapping[str, tuple[int, int] | None],
    ) -> None:
        # not with our event, which it would ask at every step: a third of what we cost when idle
        while watch.watch(_DEBOUNCE, _STEP, _TIMEOUT, None) == "timeout":
            if self._stop.is_set():
                return
            if any(link_at(path) != link for path, link in passed.items()):
                return
            if any(identity(folder) != each for folder, each in places.items()):
                return

    def _differ(self, seen: Mapping[str, Hashable]) -> bool:
        if self._stop.is_set() or all(content(path) == each for path, each in seen.items()):
            return False
        self.have_come = True
        self._ring()
        return True


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
