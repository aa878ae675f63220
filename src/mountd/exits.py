"""Exit statuses, and what ends a run with one of them.

Those above 63 are sysexits(3head)'s.
"""

OK = 0
FAILED = 1
CHANGES = 2
USAGE = 64
LOCKED = 75
UNPRIVILEGED = 77
BAD_MANIFEST = 78
INTERRUPTED = 130


class RunError(Exception):
    """What ends a run as a whole, before anything is changed: its text says what is wrong."""

    status = FAILED
    """With which the run ends."""
    hint: str | None = None
    """What to do about it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint or self.hint


class ArgumentError(RunError):
    """The command line names what there isn't."""

    status = USAGE


class PrivilegeError(RunError):
    """A capability is missing."""

    status = UNPRIVILEGED


class LockedError(RunError):
    """Another process holds the lock."""

    status = LOCKED
    hint = "wait for it, with --wait SECONDS"


class WatchedError(LockedError):
    """A process watches."""

    hint = "stop it first, as with `systemctl stop mountd`; its mounts stay"


class StateError(RunError):
    """The state directory can't be used."""

    hint = "fix that, or use another with --state-dir DIR"
