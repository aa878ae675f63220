"""Events of files, by watchfiles: that there is something to look at (inotify(7))."""

import os
from _thread import start_new_thread
from collections.abc import Sequence
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from threading import Event, get_native_id
from time import monotonic, sleep
from typing import Any

from mountd.kernel.limits import NoThreadError, hint_on

_STEP = 20
"""Milliseconds from one look for events to the next; two of them pass before one is told."""
_TIMEOUT = 12 * _STEP
_DEBOUNCE = 400
_SPARE = 2
"""Threads that can be had at once where watchfiles is asked for one."""

NO_EVENTS = (ImportError, OSError, RuntimeError)
"""What `events_of` raises."""


def events_of(paths: Sequence[str]) -> Any:
    """A RustNotify of files and folders, to be entered by `with`. Raises NO_EVENTS.

    watchfiles takes no name that isn't UTF-8; such are left out.
    """
    _see_threads()
    # the last: not to keep silent where a path can't be watched, for want of watches above all
    return _native_class()([*filter(_is_utf8, paths)], False, False, 0, False, False)


def has_event(events: Any) -> bool:
    """Wait a quarter of a second, or less if there is an event."""
    try:
        # not with an event of Python's, which it would ask at every step
        told = events.watch(_DEBOUNCE, _STEP, _TIMEOUT, None)
    except NO_EVENTS:  # such as a name in a folder that isn't UTF-8: the folder has changed
        return True
    return bool(told != "timeout")


def why_no_events(error: Exception) -> str | None:
    """Why there are none; None where a path went away meanwhile."""
    if isinstance(error, ImportError):
        return "the Python package watchfiles is missing; install it"
    if isinstance(error, NoThreadError):
        return f"no thread can be started; {hint_on('threads')}"
    if isinstance(error, FileNotFoundError):
        return None
    return f"the kernel gives no watches on files ({error}); {hint_on('watches')}"


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


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
