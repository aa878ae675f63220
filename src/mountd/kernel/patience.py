"""Looks at what others serve, which may never return, and how long that is waited for.

A look is taken at once where it waits for nobody; where it meets a server, a child takes it again
(`kernel.road`). What has hung isn't looked at again until that child comes back, however many
passes there are meanwhile.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from errno import ECHILD, ETIMEDOUT
from os import strerror
from select import POLLIN, poll
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from mountd.kernel.served import ServedError, may_wait

if TYPE_CHECKING:  # it is for those alone who use what is served
    from mountd.kernel.road import Answer, Child

PATIENCE = 3.0
"""Seconds for one look, or for one action."""
_STALL = 0.1
"""Seconds after which the next ones are looked at meanwhile."""
GLANCE = 0.03
"""Seconds between checks on the children."""
SHORT = 0.5
"""Seconds for what comes after something that was given up, on the same server."""
LAST = 0.05
"""Seconds for a child to be killed in; one that isn't by then may never be."""

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class StoppedError(Exception):
    """The process was asked to end in the middle of a pass; what was done is on record."""


class Patience:
    """What hangs, over all passes of a process, and whether it is to go on."""

    def __init__(self, on_late: Callable[[], None] = lambda: None) -> None:
        """`on_late` is called when what hung has come back, as `collect` sees."""
        self.is_stopped = False
        self._on_late = on_late
        self._left: dict[Child, Hashable] = {}
        """Children that were left behind, and what each hangs on; None: they are to end."""

    def go_on(self) -> None:
        """Raise StoppedError if a stop was requested. Call it only between two actions."""
        if self.is_stopped:
            raise StoppedError

    @property
    def hung(self) -> set[Hashable]:
        """What isn't to be looked at now."""
        return {key for key in self._left.values() if key is not None}

    @property
    def descriptors(self) -> list[int]:
        """What can be polled for POLLIN: then there is something to collect."""
        return [child.fileno() for child in self._left]

    def leave(self, child: "Child", key: Hashable) -> None:
        """Wait no longer for a child, and keep in mind what it hangs on."""
        self._left[child] = key

    def collect(self) -> None:
        """See which of the children have come back, or ended."""
        for child, key in [*self._left.items()]:
            if _has_come_back(child):
                del self._left[child]
                if key is not None:
                    self._on_late()

    def kill(self) -> None:
        """End all children, as far as they can be."""
        for child in self._left:
            child.kill()


def _has_come_back(child: "Child") -> bool:
    """Whether it has answered or ended; then it is buried, and its answer with it."""
    try:
        answer = child.hear()
    except EOFError:
        child.bury()
        return True
    if answer is None:
        return False
    from mountd.kernel.road import descriptors_in  # noqa: PLC0415 - see above

    for each in descriptors_in(answer.found):
        each.close()
    child.kill()
    child.bury()
    return True


class Looker(Generic[_Item, _Answer]):
    """Looks at items, one after the other; at what is served in a child, beside what stalls there.

    The items are such as can be pickled, and so are the answers, apart from descriptors.
    """

    def __init__(
        self,
        patience: Patience,
        look: Callable[[_Item], _Answer],
        give_up: Callable[[_Item, OSError], _Answer],
        key: Callable[[_Item], Hashable],
        *,
        needed: object = (),
        is_by_child: bool = False,
        stays: bool = False,
    ) -> None:
        """`give_up` answers for what doesn't, and where no child can be had: by the error.

        `key` tells which items of two passes are the same. A child keeps the `needed` descriptors
        alone. `is_by_child`: it takes all looks, for they may wait in ways that aren't found out
        beforehand; `stays`: it is there for later looks too, and knows what was known at the first.
        """
        self._patience = patience
        self._look = look
        self._give_up = give_up
        self._key = key
        self._needed = needed
        self._is_by_child = is_by_child and not may_wait()
        self._stays = stays
        self._idle: list[Child] = []

    def look_at(self, items: Sequence[_Item]) -> list[_Answer]:
        """An answer for each item; what hangs costs `PATIENCE`, once, and no other item.

        Raises what a look raises, and StoppedError.
        """
        self._patience.collect()
        hung = self._patience.hung
        answers: dict[int, _Answer] = {}
        served: list[int] = []
        for index, item in enumerate(items):
            self._patience.go_on()
            if hung and self._key(item) in hung:
                answers[index] = self._give_up(item, no_answer())
            elif self._is_by_child:
                served.append(index)
            else:
                try:
                    answers[index] = self._look(item)
                except ServedError:
                    served.append(index)
        if served:
            round_ = _Round(self._start, items, served, self._idle)
            try:
                self._wait_for(round_, answers)
            finally:
                self._end(round_)
        return [answers[index] for index in range(len(items))]

    def _start(self) -> "Child":
        from mountd.kernel.road import Child  # noqa: PLC0415 - see above

        return Child(self._look, self._needed)

    def _wait_for(self, round_: "_Round[_Item]", answers: dict[int, _Answer]) -> None:
        while round_.todo or round_.running:
            try:
                round_.send_more()
            except OSError as error:
                if not round_.running:  # else what has begun will come, or be given up
                    for index in round_.todo:
                        answers[index] = self._give_up(round_.items[index], error)
                    return
            for index, found, raised in round_.heard():
                if isinstance(raised, _EndedError):
                    answers[index] = self._give_up(round_.items[index], raised)
                elif raised:
                    raise raised
                else:
                    answers[index] = found
            self._patience.go_on()
            for child, index in round_.begun_before(monotonic() - PATIENCE):
                del round_.running[child]
                answers[index] = self._give_up(round_.items[index], no_answer())
                self._patience.leave(child, self._key(round_.items[index]))

    def _end(self, round_: "_Round[_Item]") -> None:
        for child in round_.running:  # we were stopped, or something failed
            child.kill()
            self._patience.leave(child, None)
        self._idle = round_.idle if self._stays else []
        for child in [] if self._stays else round_.idle:
            child.dismiss()
            self._patience.leave(child, None)


class _EndedError(OSError):
    """A child was killed, by whoever."""


def heard(child: "Child") -> "Answer | None":
    """Its answer, None where there is none yet. Raises _EndedError where there will be none."""
    try:
        return child.hear()
    except EOFError:
        child.bury()
        raise _EndedError(ECHILD, "the process that asked was killed") from None


def no_answer() -> OSError:
    """The error of a call that got none."""
    return TimeoutError(ETIMEDOUT, strerror(ETIMEDOUT))


class _Round(Generic[_Item]):
    """How far the looks at some items have come, by the items' indices."""

    def __init__(
        self,
        start: Callable[[], "Child"],
        items: Sequence[_Item],
        indices: Sequence[int],
        idle: list["Child"],
    ) -> None:
        self.items = items
        self.todo = deque(indices)
        self.idle = idle
        self.running: dict[Child, tuple[int, float]] = {}
        self._start = start

    def send_more(self) -> None:
        """One child at first, and one more for each item that stalls; so their number doubles.

        Raises NoChildError.
        """
        stalled = len(self.begun_before(monotonic() - _STALL))
        if stalled < len(self.running):
            return
        for _ in range(min(max(stalled, 1), len(self.todo))):
            child = self.idle.pop() if self.idle else self._start()
            self._send(child)

    def _send(self, child: "Child") -> None:
        index = self.todo.popleft()
        child.ask(self.items[index])
        self.running[child] = index, monotonic()

    def heard(self) -> Iterator[tuple[int, Any, BaseException | None]]:
        """The answers that come within a glance, each with what the look raised."""
        listening = poll()
        by_number = {child.fileno(): child for child in self.running}
        for number in by_number:
            listening.register(number, POLLIN)
        for number, _ in listening.poll(GLANCE * 1000):
            child = by_number[number]
            index, _ = self.running[child]
            try:
                answer = child.hear()
            except EOFError:
                del self.running[child]
                child.bury()
                yield index, None, _EndedError(ECHILD, "the process that asked was killed")
                continue
            if answer is None:
                continue
            del self.running[child]
            if self.todo:
                self._send(child)
            else:
                self.idle.append(child)
            yield index, answer.found, answer.error

    def begun_before(self, time: float) -> list[tuple["Child", int]]:
        return [(child, index) for child, (index, begin) in self.running.items() if begin <= time]
