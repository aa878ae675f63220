"""What keeps passes from being made, and edits from being seen: told once, until it is over."""

import os
import traceback
from collections.abc import Callable
from errno import ENOSYS

from mountd.exits import LockedError, StateError
from mountd.kernel.limits import hint_of
from mountd.manifest.problem import ManifestError
from mountd.report.journal import ERROR, INFO, WARNING
from mountd.watch.news import News


class Troubles:
    """The present ones, as the journal has them, and the status line until they are over."""

    def __init__(self, news: News, tell_status: Callable[[], None]) -> None:
        self._news = news
        self._tell_status = tell_status
        self._told: dict[str, str] = {}

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is wrong now."""
        return tuple(self._told.values())

    def tell(
        self, about: str, trouble: str, event: str = "pass-failed", priority: int = ERROR
    ) -> bool:
        """Tell of one; whether it is news."""
        if trouble == self._told.get(about):
            return False
        self._told[about] = trouble
        self._news.trouble(trouble, event, priority)
        self._tell_status()
        return True

    def end(self, about: str) -> None:
        """It is over."""
        if self._told.pop(about, None):
            self._tell_status()

    def see_edits(self, trouble: str | None) -> None:
        """Tell that edits are seen late, when that begins and when it is over."""
        if trouble:
            self.tell("edits", trouble, "warned", WARNING)
        elif before := self._told.get("edits"):
            self.end("edits")
            self._news.trouble(f"no longer: {before}", "warned", INFO)


def ends_a_start(error: Exception) -> bool:
    """Whether whoever started us has to fix it; whatever else there is may pass."""
    is_old_kernel = isinstance(error, OSError) and error.errno == ENOSYS
    return is_old_kernel or isinstance(error, ManifestError | LockedError | StateError)


def fault_of_ours(error: Exception) -> str:
    """A sentence on what nobody foresaw, and where it was met."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "?"
    said = f"{type(error).__name__}: {error}"[:500]
    return f"a fault of mountd's own: {said} ({place}); it goes on, and all mounts stay"


def in_words(error: Exception) -> str:
    """Without the number of the kernel's errors."""
    if not isinstance(error, OSError):
        return str(error)
    where = f" ({error.filename})" if error.filename else ""
    hint = hint_of(error)
    return f"{error.strerror or error}{where}{f'; {hint}' if hint else ''}"
