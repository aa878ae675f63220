"""Looks that may never return: a dead FUSE or network server answers neither stat nor open.

Such a call can't be interrupted, but the thread that makes it can be left behind.
"""

import os
from collections.abc import Callable, Sequence
from errno import EAGAIN
from threading import Lock, Thread
from typing import Generic, TypeVar

PATIENCE = 3.0
"""Seconds for one look."""

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class Looker(Generic[_Item, _Answer]):
    """Looks at items in a thread of its own, one after the other."""

    def __init__(
        self,
        look: Callable[[_Item], _Answer],
        give_up: Callable[[_Item], _Answer],
        drop: Callable[[_Answer], None],
    ) -> None:
        """`give_up` answers for what doesn't; `drop` takes an answer that came too late."""
        self._look = look
        self._give_up = give_up
        self._drop = drop
        self._handing_over = Lock()

    def look_at(self, items: Sequence[_Item]) -> list[_Answer]:
        """An answer for each item; what hangs costs `PATIENCE` and no other item."""
        answers: list[_Answer] = []
        while len(answers) < len(items):
            answers += self._answers_in_time(items[len(answers) :])
            if len(answers) < len(items):
                answers.append(self._give_up(items[len(answers)]))
        return answers

    def _answers_in_time(self, items: Sequence[_Item]) -> list[_Answer]:
        """The answers up to the first that doesn't come."""
        answers: list[_Answer] = []
        failures: list[BaseException] = []
        is_left_behind = False

        def work() -> None:
            try:
                for item in items:
                    answer = self._look(item)
                    with self._handing_over:
                        if is_left_behind:
                            self._drop(answer)
                            return
                        answers.append(answer)
            except BaseException as error:  # noqa: BLE001 - raised again where it is seen
                failures.append(error)

        worker = Thread(target=work, daemon=True)
        try:
            worker.start()
        except RuntimeError as error:
            raise OSError(EAGAIN, f"no thread can be started: {os.strerror(EAGAIN)}") from error
        seen = -1
        while worker.is_alive() and len(answers) > seen:
            seen = len(answers)
            worker.join(PATIENCE)
        with self._handing_over:
            is_left_behind = True
        if failures:
            raise failures[0]
        return answers
