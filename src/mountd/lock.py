"""The lock: two passes never run at once (flock(2) on `lock` in the state directory)."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EROFS

from mountd.kernel.syscalls import Fd


class StateError(Exception):
    """The state directory can't be used; its text says why."""


class LockedError(Exception):
    """Another pass holds the lock; its text says which process."""


@contextmanager
def locked(folder: Fd, state_dir: str, wait: float) -> Iterator[bool]:
    """Hold the lock; tells whether it had to be waited for.

    Raises LockedError after `wait` seconds, StateError where it can't be made.
    """
    has_waited = False
    deadline = time.monotonic() + wait
    while True:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            file = Fd(os.open("lock", flags, 0o600, dir_fd=folder.number))
        except OSError as error:
            if error.errno == EROFS:
                break  # no record can be written there either, so nothing will be changed
            said = f"the lock {state_dir}/lock can't be made: {error.strerror}"
            raise StateError(said) from error
        with file:
            try:
                fcntl.flock(file.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise LockedError(_holder(file, state_dir)) from None
                has_waited = True
                time.sleep(0.02)
                continue
            if _is_same(file, folder):  # or it was unlinked, and a second one made: two holders
                yield has_waited
                return
    yield has_waited


def _is_same(file: Fd, folder: Fd) -> bool:
    try:
        now = os.stat("lock", dir_fd=folder.number, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(file.number), now)


def _holder(file: Fd, state_dir: str) -> str:
    """Who has the lock, as /proc/locks tells: `N: FLOCK ADVISORY WRITE PID MAJ:MIN:INODE 0 EOF`."""
    found = os.fstat(file.number)
    wanted = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with open("/proc/locks") as lines:
        for line in lines:
            words = line.split()
            if words[1] == "FLOCK" and words[-3] == wanted:
                return f"another pass is running (pid {words[-4]}) and holds {state_dir}/lock"
    return f"another pass is running and holds {state_dir}/lock"
