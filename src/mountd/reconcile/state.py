"""The state directory: made, found to be root's alone, and locked (flock(2)).

Two passes never run at once, nor do two watches.
"""

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from errno import EROFS
from typing import Self

from mountd.core.words.faults import PASSING
from mountd.exits import LockedError, StateError, WatchedError
from mountd.kernel.cause import fault_of
from mountd.kernel.files import see_folder
from mountd.kernel.limits import hint_of
from mountd.kernel.paths import open_path, spot
from mountd.kernel.served import ServedError
from mountd.kernel.syscalls import Fd
from mountd.kernel.trusted import ROOT, UnsafeLinkError, why_no_proof


def state_folder(path: str) -> Fd:
    """The state directory, made where it is missing. Raises StateError; OSError as in `PASSING`."""
    try:
        with spot(path) as found:
            if not found.there and len(found.names) == 1:
                with suppress(FileExistsError):
                    os.mkdir(found.name, 0o755, dir_fd=found.folder.number)
            folder, _ = open_path(path)
            see_folder(folder)
    except ServedError as error:
        raise on_server(path) from error
    except UnsafeLinkError as error:
        said = fault_of(error, f"open {path}").message
        raise StateError(f"the state directory can't be used: {said}") from error
    except OSError as error:
        if error.errno in PASSING:
            raise
        said = f"the state directory can't be used: {error.strerror}"
        raise StateError(said, hint_of(error)) from error
    if why := why_no_proof(folder):
        folder.close()
        raise StateError(f"the state directory can't be used: {path} {why}")
    found_mode = os.fstat(folder.number)
    if not stat.S_ISDIR(found_mode.st_mode) or others_may_write(found_mode):
        folder.close()
        raise StateError(f"the state directory {path} must be a folder that only root can write")
    return folder


def on_server(path: str) -> StateError:
    """A pass that waits for the server of its own locks would keep them for as long as that likes.

    Nor may a boot's record outlive it.
    """
    return StateError(
        f"the state directory {path} lies on a filesystem that a server keeps, which may not answer"
    )


def others_may_write(found: os.stat_result) -> bool:
    """Whether anyone but root owns it or may write it."""
    return found.st_uid != ROOT or bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


@contextmanager
def locked(
    folder: Fd, state_dir: str, wait: float, on_wait: Callable[[str], None]
) -> Iterator[bool]:
    """Hold the lock of a pass; tells whether it had to be waited for, and `on_wait` for whom.

    Raises LockedError after `wait` seconds, StateError where it can't be made; OSError as in
    `PASSING`.
    """
    has_waited = False
    deadline = time.monotonic() + wait
    while True:
        try:
            file = _taken(folder, state_dir, "lock", fcntl.LOCK_EX)
        except LockedError as error:
            if time.monotonic() >= deadline:
                raise
            if not has_waited:
                on_wait(str(error))
            has_waited = True
            time.sleep(0.02)
            continue
        with file or nullcontext():
            yield has_waited
        return


class WatchLock:
    """Being the only process that watches, also once the state directory has been replaced."""

    def __init__(self, state_dir: str) -> None:
        self.path = f"{state_dir}/{_WATCH}"
        self._state_dir = state_dir
        self._file: Fd | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    @property
    def is_held(self) -> bool:
        """Whether the file that we locked is the one that others would find."""
        if not self._file:
            return False
        try:
            return os.path.samestat(os.fstat(self._file.number), os.lstat(self.path))
        except OSError:
            return False

    def hold(self, folder: Fd) -> None:
        """Take it, in the state directory as it is now. Raises as `locked` does."""
        taken = _taken(folder, self._state_dir, _WATCH, fcntl.LOCK_EX)
        if self._file:
            self._file.close()
        self._file = taken


def see_no_watch(folder: Fd, state_dir: str) -> None:
    """Raise WatchedError where a process watches: it would put back what is taken off."""
    with suppress(FileNotFoundError):
        os.stat(_WATCH, dir_fd=folder.number, follow_symlinks=False)
        with _taken(folder, state_dir, _WATCH, fcntl.LOCK_SH) or nullcontext():
            pass


def _taken(folder: Fd, state_dir: str, name: str, operation: int) -> Fd | None:
    """The lock file, locked; None on a read-only filesystem.

    No record can be written there either, so nothing will be changed.
    """
    while True:
        try:
            file = Fd(os.open(name, _FLAGS, 0o600, dir_fd=folder.number))
        except OSError as error:
            if error.errno == EROFS:
                return None
            if error.errno in PASSING:
                raise
            said = f"the lock {state_dir}/{name} can't be made: {error.strerror}"
            raise StateError(said, hint_of(error)) from error
        try:
            fcntl.flock(file.number, operation | fcntl.LOCK_NB)
            if _is_same(file, folder, name):  # or it was unlinked, and made anew: two holders
                return file
        except BlockingIOError:
            with file:
                who, kind = _WHO[name]
                pid = _holder(file)
                who += f" (pid {pid})" if pid else ""
                hint = f"stop it first, by `systemctl stop mountd` or `kill {pid}`; its mounts stay"
                said = f"{who} and holds {state_dir}/{name}"
                raise kind(said, hint if pid and kind is WatchedError else None) from None
        except BaseException:
            file.close()
            raise
        file.close()


# what isn't a file there, but a device or a FIFO, must not stop us
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_WATCH = "watch.lock"
_WHO = {
    "lock": ("another pass is running", LockedError),
    _WATCH: ("`mountd watch` is running", WatchedError),
}


def _is_same(file: Fd, folder: Fd, name: str) -> bool:
    try:
        now = os.stat(name, dir_fd=folder.number, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(file.number), now)


def _holder(file: Fd) -> str | None:
    """Who has the lock, as /proc/locks tells: `N: FLOCK ADVISORY WRITE PID MAJ:MIN:INODE 0 EOF`."""
    found = os.fstat(file.number)
    wanted = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with suppress(OSError), open("/proc/locks") as lines:
        for line in lines:
            words = line.split()
            if words[1] == "FLOCK" and words[-3] == wanted:
                return words[-4]
    return None
