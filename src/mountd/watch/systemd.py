"""What systemd is told where it started us, and others that speak as it does (sd_notify(3))."""

import os
from collections.abc import Callable
from time import CLOCK_MONOTONIC, clock_gettime_ns

from mountd.core.words.printable import printable
from mountd.exits import RunError
from mountd.report.outlet import Outlet, see_reader

_MOST_STATUS = 240
_UNANSWERED = (
    "$NOTIFY_SOCKET is set, and the Python package systemd, which answers there, can't be loaded"
)
_INSTALL = (
    "install it, as by `apt install python3-systemd` or `pip install systemd-python`; or start"
    " mountd without $NOTIFY_SOCKET"
)


class Supervisor:
    """Tells systemd, and never waits for it; without one it does nothing."""

    def __init__(self) -> None:
        """Raises RunError where systemd waits to be told, and its library isn't there."""
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self.is_there = bool(self._address)
        self.is_systemd = self.is_there and "INVOCATION_ID" in os.environ
        self._notify: Callable[[str], object] | None = None
        self._status = ""
        self._outlet = Outlet()
        if self.is_there:
            try:
                from systemd import daemon  # noqa: PLC0415 - for this alone, and it may not be there
            except ImportError as error:
                raise RunError(f"{_UNANSWERED}: {error}", _INSTALL) from error
            self._notify = daemon.notify

    @property
    def watchdog(self) -> float | None:
        """Seconds from one ping to the next, half of what it waits for (sd_watchdog_enabled(3))."""
        interval, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
        if not (self.is_there and interval.isdigit() and pid in (None, str(os.getpid()))):
            return None
        return int(interval) / 2e6 or None

    def ready(self, status: str) -> None:
        """The state of the manifest is in force."""
        self._tell("READY=1", self._line(status))

    def reloading(self) -> None:
        """It asked for that, and waits for `ready`."""
        now = clock_gettime_ns(CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now}")

    def status(self, status: str) -> None:
        """A line for `systemctl status`, if it is another than before."""
        line = self._line(status)
        if line != self._status:
            self._tell(line)

    def ping(self) -> None:
        """We are alive."""
        self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        """We are about to end."""
        self._tell("STOPPING=1")
        self._outlet.finish()

    def _line(self, status: str) -> str:
        text = " ".join(printable(status).split())
        return f"STATUS={text if len(text) <= _MOST_STATUS else text[: _MOST_STATUS - 1] + '…'}"

    def _tell(self, *lines: str) -> None:
        """Of a ping or a status alone, only the latest is worth sending."""
        self._status = next((line for line in lines if line.startswith("STATUS=")), self._status)
        key = lines[0].partition("=")[0] if len(lines) == 1 else None
        if self.is_there:
            text = "\n".join(lines)
            self._outlet.put(lambda may_wait: self._send(text, may_wait=may_wait), len(text), key)

    def _send(self, text: str, *, may_wait: bool) -> None:
        try:
            see_reader(self._address, may_wait=may_wait)
            if self._notify:
                self._notify(text)
        except InterruptedError:  # by a signal, where another filled the room that there was
            self._send(text, may_wait=may_wait)
        except (FileNotFoundError, ConnectionRefusedError):
            pass  # its socket is gone: it will find out, and we can't
