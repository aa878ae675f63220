"""A child that makes the calls which may never return: it holds no lock, and can be left behind.

Such a call in a thread would keep the whole process from ending, and its locks locked, for as long
as the server likes (`served`). The child is a copy of this process (fork(2), 1 ms), so a look is
taken with all that is known here; what it is asked, what it answers and the descriptors that it
opened go through a socket. It keeps no descriptor of ours that it doesn't need, and dies with the
thread that made it, as soon as it can.
"""

import gc
import os
import signal
import warnings
from _pickle import Pickler, Unpickler, dumps, loads
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    MSG_DONTWAIT,
    SCM_RIGHTS,
    SHUT_WR,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
    socketpair,
)
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from io import BytesIO
from select import POLLIN, poll
from struct import Struct
from typing import Any, NoReturn

from mountd.core.named_tuple import NamedTuple
from mountd.kernel.process import close_all_but, die_with_parent
from mountd.kernel.served import NoChildError, wait_for_servers
from mountd.kernel.syscalls import Fd

_HEAD = Struct("=Q")
_NUMBER = Struct("=i")
_RIGHTS = CMSG_SPACE(8 * _NUMBER.size)  # more descriptors than any answer has
_WITHOUT_WAITING = MSG_DONTWAIT | MSG_CMSG_CLOEXEC
_AT_ONCE = 1 << 18


_abandoned: list[int] = []
"""Children that were killed and may not have ended yet."""


class Answer(NamedTuple):
    """What a look came to: what it found, or what it raised."""

    found: Any
    error: BaseException | None


class Child:
    """A process that answers one question after the other, as `look` does."""

    def __init__(self, look: Callable[[Any], Any], needed: object = ()) -> None:
        """It keeps the descriptors among `needed`, whatever that is made of.

        Raises NoChildError.
        """
        _bury_abandoned()
        self._answer = bytearray()
        self._descriptors: list[int] = []
        ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
        kept = [theirs.fileno(), *(each.number for each in descriptors_in(needed))]
        parent = os.getpid()
        # no handler of ours may run in the child, and write into what is closed
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = _fork()
            if pid == 0:
                _be_child(look, theirs, kept, parent)
        except OSError as error:
            ours.close()
            raise NoChildError(error.errno, error.strerror) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self.pid = pid
        self._parent = parent
        self._socket = ours
        self._is_buried = False

    def __del__(self) -> None:
        """Nobody waits for it any more; children of ours have no say in that."""
        if hasattr(self, "_is_buried") and not self._is_buried and os.getpid() == self._parent:
            self.abandon()

    def fileno(self) -> int:
        """What can be polled for POLLIN: an answer, or the end of the process."""
        return self._socket.fileno()

    def ask(self, question: object) -> None:
        """Have it look; it has answered what it was asked before."""
        text = dumps(question, -1)
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended, as `hear` tells
            self._socket.sendall(_HEAD.pack(len(text)) + text)

    def hear(self) -> "Answer | None":
        """Its answer, None where there is none yet. Raises EOFError where there will be none."""
        while True:
            try:
                text, rights, _, _ = self._socket.recvmsg(_AT_ONCE, _RIGHTS, _WITHOUT_WAITING)
            except BlockingIOError:
                return None
            except ConnectionResetError:
                raise EOFError from None
            for _, _, data in rights:
                numbers = _NUMBER.iter_unpack(data[: len(data) & ~3])
                self._descriptors += [number for (number,) in numbers]
            if not text:
                raise EOFError
            self._answer += text
            if len(self._answer) >= _HEAD.size:
                (size,) = _HEAD.unpack_from(self._answer)
                if len(self._answer) == _HEAD.size + size:
                    return self._taken()

    def _taken(self) -> "Answer":
        files = [Fd(each) for each in self._descriptors]
        self._descriptors.clear()
        stream = _Unpickler(BytesIO(memoryview(self._answer)[_HEAD.size :]), files)
        found, error = stream.load()
        self._answer.clear()
        return Answer(found, error)

    def wait(self, seconds: float) -> bool:
        """Whether it has something to tell within this time."""
        listening = poll()
        listening.register(self, POLLIN)
        return bool(listening.poll(max(0.0, seconds) * 1000))

    def dismiss(self) -> None:
        """Ask nothing more: it ends, and then there is something to hear."""
        with suppress(OSError):
            self._socket.shutdown(SHUT_WR)

    def kill(self) -> None:
        """End it; it may be a long time before that comes true."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def bury(self) -> None:
        """Wait for its end, once that is there: when there was an EOFError."""
        self._close()
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def abandon(self) -> None:
        """Kill it and wait no longer; whoever is the next buries it."""
        self.kill()
        self._close()
        _abandoned.append(self.pid)

    def _close(self) -> None:
        self._is_buried = True
        for each in self._descriptors:
            os.close(each)
        self._descriptors.clear()
        self._socket.close()


def _bury_abandoned() -> None:
    for pid in [*_abandoned]:
        with suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                continue
        _abandoned.remove(pid)


def descriptors_in(value: object) -> Iterator[Fd]:
    """Those among values, in tuples of any kind, mappings, and what has a `folder` or `held`."""
    if isinstance(value, Fd):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from descriptors_in(each)
    elif isinstance(value, dict):
        yield from descriptors_in([*value.values()])
    elif isinstance(folder := getattr(value, "folder", None), Fd):
        yield folder
    elif held := getattr(value, "held", None):
        yield from descriptors_in(held)


def _fork() -> int:
    with warnings.catch_warnings():
        # From Python 3.12: there are threads. What they hold (watchfiles' its own, Python's none)
        # the child doesn't use; should it stick all the same, it is given up as on any server.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _be_child(
    look: Callable[[Any], Any], theirs: socket, kept: Iterable[int], parent: int
) -> NoReturn:
    try:
        close_all_but(kept)  # first of all: there are locks among them
        for _ in range(3):
            os.open(os.devnull, os.O_RDWR)  # 0 to 2: whoever reads our output waits for its end
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        die_with_parent()
        if os.getppid() == parent:
            gc.disable()  # it would touch, and so copy, all that we share
            wait_for_servers()
            _answer_all(look, theirs)
    finally:
        os._exit(0)


def _answer_all(look: Callable[[Any], Any], theirs: socket) -> None:
    with open(theirs.fileno(), "rb", closefd=False) as questions:
        while head := questions.read(_HEAD.size):
            question = loads(questions.read(*_HEAD.unpack(head)))
            found = error = None
            try:
                found = look(question)
            except BaseException as raised:  # noqa: BLE001 - raised again where it is heard
                error = raised
            files: list[Fd] = []
            try:
                text = _pickled((found, error), files)
            except Exception as failed:  # noqa: BLE001 - not to leave whoever waits
                text = _pickled((None, RuntimeError(f"{error or failed!r}")), [])
            numbers = b"".join(_NUMBER.pack(each.number) for each in files)
            rights = [(SOL_SOCKET, SCM_RIGHTS, numbers)] if files else []
            theirs.sendmsg([_HEAD.pack(len(text))], rights)
            theirs.sendall(text)
            for each in files:
                each.close()


def _pickled(value: object, files: list[Fd]) -> bytes:
    stream = BytesIO()
    _Pickler(stream, files).dump(value)
    return stream.getvalue()


class _Pickler(Pickler):
    """Descriptors go beside the text, which has only which of them it is."""

    def __init__(self, stream: BytesIO, files: list[Fd]) -> None:
        super().__init__(stream, -1)
        self._files = files

    def persistent_id(self, value: object) -> int | None:
        if not isinstance(value, Fd):
            return None
        self._files.append(value)
        return len(self._files) - 1


class _Unpickler(Unpickler):
    def __init__(self, stream: BytesIO, files: list[Fd]) -> None:
        super().__init__(stream)
        self._files = files

    def persistent_load(self, number: int) -> Fd:
        return self._files[number]
