"""What is sent to others who may not read it, by a thread of its own: nobody waits for them.

A journald that hangs on its disk, a pipe that nobody reads and a supervisor that is busy each stop
whoever writes to them. Here what they don't take waits; what would be too much is dropped, and
counted.
"""

from _socket import AF_UNIX, SOCK_DGRAM, socket  # of which `socket` makes enums, for 3 ms
from _thread import start_new_thread
from collections.abc import Callable, Hashable
from contextlib import closing
from threading import Condition
from time import monotonic

from mountd.report.console import see_room

_MOST = 1000
_MOST_BYTES = 4 << 20
_LINGER = 1.0
"""Seconds for which the thread stays when there is nothing to send."""

Send = Callable[[bool], object]
"""Sends it; called with whether it may wait. Raises BlockingIOError where it would have to."""


class Outlet:
    """Sends one thing after the other, in the order in which they came."""

    def __init__(self, tell_dropped: Callable[[int], object] = lambda _: None) -> None:
        """`tell_dropped` is called by the thread, with a count, when the rest has been sent."""
        self._tell_dropped = tell_dropped
        self._news = Condition()
        self._waiting: dict[Hashable, tuple[Send, int]] = {}
        self._bytes = 0
        self._dropped = 0
        self._sent = 0
        self._is_sending = False
        self._is_running = False

    def put(self, send: Send, size: int = 0, key: Hashable = None) -> None:
        """Have this sent, which is about so many bytes; it takes the place of an older `key`.

        Where no thread can be had, this one sends what can be sent without waiting.
        """
        with self._news:
            if key is not None and (older := self._waiting.pop(key, None)):
                self._bytes -= older[1]
            if len(self._waiting) >= _MOST or self._bytes + size > _MOST_BYTES:
                self._dropped += 1
            else:
                self._waiting[object() if key is None else key] = send, size
                self._bytes += size
            if self._is_running:
                self._news.notify_all()
                return
            self._is_running = True
        try:
            start_new_thread(self._run, (_LINGER,))
        except RuntimeError:
            self._run(None)

    def finish(self, most: float = 2.0, patience: float = 0.5) -> None:
        """Wait until all is sent, for `most` seconds, or until for `patience` nothing was."""
        deadline = monotonic() + most
        with self._news:
            while self._waiting or self._is_sending:
                sent, left = self._sent, deadline - monotonic()
                self._news.wait(max(0.0, min(left, patience)))
                if left <= 0 or self._sent == sent:
                    return

    def _run(self, linger: float | None) -> None:
        """Send it all; `linger`: how long more is waited for, None where nothing may be."""
        while send := self._next(linger or 0.0):
            try:
                send(linger is not None)
            except Exception:  # noqa: BLE001 - full, or unforeseen; the next may come through
                self._dropped += 1
            with self._news:
                self._is_sending = False
                self._sent += 1
                self._news.notify_all()

    def _next(self, linger: float) -> Send | None:
        """What is to be sent now; None where there is nothing, and the thread is to end."""
        with self._news:
            if not self._waiting and not self._dropped:
                self._news.wait_for(lambda: self._waiting, linger)
            if self._waiting:
                send, size = self._waiting.pop(next(iter(self._waiting)))
                self._bytes -= size
                self._is_sending = True
                return send
            if (count := self._dropped) and linger:
                self._dropped = 0
                return lambda _: self._tell_dropped(count)
            self._is_running = False
            return None


def see_reader(address: str, *, may_wait: bool) -> None:
    """Wait until a socket of systemd's has room. Raises OSError, BlockingIOError if it has none.

    systemd's library (systemd-python 235) keeps Python's lock while it sends, so that no thread
    would help where nobody reads: the whole process would stop. A socket that is connected has room
    where its reader has some. `address` is a path, or after an `@` a name (unix(7)); others can't
    be asked.
    """
    if address[:1] in ("/", "@"):
        with closing(socket(AF_UNIX, SOCK_DGRAM)) as asking:
            asking.connect(f"\0{address[1:]}" if address[0] == "@" else address)
            see_room(asking.fileno(), may_wait=may_wait)
