"""What a user may, asked of the kernel by a thread that is that user, without a fork."""

import os
from _thread import start_new_thread
from collections.abc import Callable, Sequence
from errno import ENOSYS, EPERM
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol, Self, TypeVar

from mountd.core.model import Person
from mountd.core.named_tuple import NamedTuple
from mountd.kernel.files import faccessat2, openat2, see_folder
from mountd.kernel.limits import NoThreadError
from mountd.kernel.privileges import missing_capabilities
from mountd.kernel.process import setgroups, setresgid, setresuid
from mountd.kernel.syscalls import Fd
from mountd.kernel.trusted import ROOT

_Answer = TypeVar("_Answer")


class Asker(Protocol):
    """Somebody as whom the kernel can be asked."""

    def ask(self, look: Callable[[], _Answer]) -> _Answer:
        """What a look answers that is taken as this person; it raises what the look raises."""


class Ourselves:
    """Whoever runs us."""

    def ask(self, look: Callable[[], _Answer]) -> _Answer:
        """Just look."""
        return look()


class Deputy:
    """A thread that takes a person's ids for good and runs lookups for the caller.

    The calls by number change this thread alone, where libc's would change all. By setfsuid(2) it
    could change back, but FUSE goes by the other three user ids as well, and would let in whom it
    lets in as root.
    """

    def __init__(self, person: Person) -> None:
        """Raises OSError where it may not, or where no thread can be started."""
        self._looks: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        try:
            start_new_thread(self._work, ())
        except RuntimeError as error:
            raise NoThreadError from error
        self.ask(lambda: _become(person))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._looks.put(None)

    def ask(self, look: Callable[[], _Answer]) -> _Answer:
        """What a look answers that is taken as this person; it raises what the look raises."""
        self._looks.put(look)
        answer, error = self._answers.get()
        if error:
            raise error
        found: _Answer = answer
        return found

    def _work(self) -> None:
        for look in iter(self._looks.get, None):
            try:
                self._answers.put((look(), None))
            except BaseException as error:  # noqa: BLE001 - raised again where it is asked
                self._answers.put((None, error))


def _become(person: Person) -> None:
    setgroups(person.groups)
    setresgid(person.gid)
    setresuid(person.uid)


class May(NamedTuple):
    """What the kernel answers to each wish: 0, or the errno that it would be refused with."""

    read: int
    write: int
    execute: int


def can_act_as_others() -> bool:
    """Whether this process may ask as another user."""
    return os.geteuid() == ROOT and not missing_capabilities(["CAP_SETUID", "CAP_SETGID"])


def first_closed(folders: Sequence[str], person: Person) -> str | None:
    """The first of these folders, each in the one before it, through which the person can't go.

    What isn't there is closed to nobody. Raises OSError where it can't be asked.
    """
    with Deputy(person) as deputy:
        for path in folders:
            try:
                with openat2(None, path, os.O_PATH, 0) as folder:
                    see_folder(folder)
                    deputy.ask(partial(faccessat2, folder, "", os.X_OK))
            except PermissionError as error:
                if error.errno == EPERM:  # a seccomp filter's word
                    raise
                return path
            except (FileNotFoundError, NotADirectoryError):
                return None
    return None


def may(file: Fd) -> May:
    """What this thread may do with what is open, whatever lies above it.

    Raises OSError where it can't be asked.
    """
    return May(*(_answer(file, "", mode) for mode in (os.R_OK, os.W_OK, os.X_OK)))


def reach(path: str) -> int:
    """0 if this thread gets to an absolute path, links and all, or what the kernel says."""
    return _answer(None, path, os.F_OK)


def _answer(file: Fd | None, path: str, mode: int) -> int:
    try:
        faccessat2(file, path, mode)
    except OSError as error:
        if error.errno == ENOSYS:
            raise
        return error.errno or 0
    return 0
