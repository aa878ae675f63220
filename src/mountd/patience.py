"""Looks that may never return: a dead FUSE or network server answers neither stat nor open.

Such a call can't be interrupted, but the thread that makes it can be left behind. What has hung
isn't looked at again until that thread comes back, however many passes there are meanwhile.
"""

from _thread import start_new_thread
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from threading import Event, Lock
from time import monotonic
from typing import Generic, TypeVar

from mountd.kernel.limits import NoThreadError

PATIENCE = 3.0
"""Seconds for one look."""
_STALL = 0.1
"""Seconds after which the next ones are looked at meanwhile."""
_GLANCE = 0.03
"""Seconds between two glances at how the looks come along."""

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class StoppedError(Exception):
    """The process was asked to end in the middle of a pass; what was done is on record."""


class Patience:
    """What hangs, over all passes of a process, and whether it is to go on."""

    def __init__(self, on_late: Callable[[], None] = lambda: None) -> None:
        """`on_late` is called, from another thread, when what hung has come back."""
        self.on_late = on_late
        self.is_stopped = False
        self.hung: set[Hashable] = set()

    def go_on(self) -> None:
        """Raise StoppedError where the process was asked to end; nothing is half done here."""
        if self.is_stopped:
            raise StoppedError


class Looker(Generic[_Item, _Answer]):
    """Looks at items in a thread, one after the other; beside what stalls in further threads."""

    def __init__(
        self,
        patience: Patience,
        look: Callable[[_Item], _Answer],
        give_up: Callable[[_Item], _Answer],
        drop: Callable[[_Answer], None] = lambda _: None,
        key: Callable[[_Item], Hashable] = id,
    ) -> None:
        """`give_up` answers for what doesn't; `drop` takes an answer that came too late.

        `key` tells which items of two passes are the same.
        """
        self._patience = patience
        self._look = look
        self._give_up = give_up
        self._drop = drop
        self._key = key

    def look_at(self, items: Sequence[_Item]) -> list[_Answer]:
        """An answer for each item; what hangs costs `PATIENCE`, once, and no other item.

        Raises what a look raises, and StoppedError.
        """
        is_hung = [self._key(item) in self._patience.hung for item in items]
        round_ = _Round[_Answer]([index for index, hangs in enumerate(is_hung) if not hangs])
        try:
            while not round_.is_done:
                self._send_workers(round_, items)
                round_.has_news.wait(_GLANCE)
                self._patience.go_on()
                with round_.lock:
                    for index in round_.begun_before(monotonic() - PATIENCE):
                        del round_.begun[index]
                        round_.answers[index] = self._give_up(items[index])
                        self._patience.hung.add(self._key(items[index]))
        finally:
            round_.is_over = True
        if round_.failures:
            raise round_.failures[0]
        return [
            round_.answers[index] if index in round_.answers else self._give_up(item)
            for index, item in enumerate(items)
        ]

    def _send_workers(self, round_: "_Round[_Answer]", items: Sequence[_Item]) -> None:
        """One at first, and one more for each item that stalls; so their number doubles."""
        with round_.lock:
            stalled = len(round_.begun_before(monotonic() - _STALL))
            if not round_.todo or stalled < len(round_.begun):
                return
        for _ in range(max(stalled, 1)):
            try:  # threading's own start would wait for the thread to run
                start_new_thread(self._work, (round_, items))
            except RuntimeError as error:
                if stalled:
                    return  # what has begun will come, or be given up
                raise NoThreadError from error
            with round_.lock:
                if not round_.todo:
                    return

    def _work(self, round_: "_Round[_Answer]", items: Sequence[_Item]) -> None:
        while (index := round_.next()) is not None:
            answers: list[_Answer] = []
            failures: list[BaseException] = []
            try:
                answers.append(self._look(items[index]))
            except BaseException as error:  # noqa: BLE001 - raised again where it is seen
                failures.append(error)
            with round_.lock:
                is_late = round_.begun.pop(index, None) is None
                if not (is_late or round_.is_over):
                    round_.failures += failures
                    for answer in answers:
                        round_.answers[index] = answer
                    if round_.is_done:
                        round_.has_news.set()
                    continue
            for answer in answers:
                self._drop(answer)
            if is_late:
                self._patience.hung.discard(self._key(items[index]))
                self._patience.on_late()


class _Round(Generic[_Answer]):
    """How far the looks at some items have come, by the items' indices."""

    def __init__(self, indices: Sequence[int]) -> None:
        self.todo = deque(indices)
        self.begun: dict[int, float] = {}
        self.answers: dict[int, _Answer] = {}
        self.failures: list[BaseException] = []
        self.is_over = False
        self.lock = Lock()
        self.has_news = Event()

    @property
    def is_done(self) -> bool:
        return bool(self.failures) or not (self.todo or self.begun)

    def next(self) -> int | None:
        """The next to be looked at, if there is one."""
        with self.lock:
            if not self.todo or self.is_over:
                return None
            index = self.todo.popleft()
            self.begun[index] = monotonic()
            return index

    def begun_before(self, time: float) -> list[int]:
        return [index for index, begin in self.begun.items() if begin <= time]
