"""Looks that may hang: each costs itself only, and is remembered until it comes back."""

import os
import time
from collections.abc import Iterator
from threading import Event

import pytest
from watcher import eventually

from mountd import patience
from mountd.patience import Looker, Patience, StoppedError

_SHORT = 0.5


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE", _SHORT)


def thread_count() -> int:
    return len(os.listdir("/proc/self/task"))


class Hanging:
    """A look at numbers: those over 100 hang until `release`, and those below 0 fail."""

    def __init__(self) -> None:
        self.may_end = Event()
        self.looked: list[int] = []
        self.dropped: list[str] = []

    def __call__(self, item: int) -> str:
        self.looked.append(item)
        if item > 100:
            assert self.may_end.wait(300)
        if item < 0:
            raise OSError(-item, "failed")
        return f"saw {item}"

    def looker(self, patience: Patience) -> Looker[int, str]:
        return Looker(patience, self, "gave up {}".format, self.dropped.append, key=str)


@pytest.fixture
def look() -> Iterator[Hanging]:
    """Threads that it keeps are gone afterwards."""
    before = thread_count()
    look = Hanging()
    yield look
    look.may_end.set()
    eventually(lambda: thread_count() <= before)


def test_answers_are_in_the_order_of_what_was_asked(look: Hanging) -> None:
    numbers = [*range(50, 0, -1)]
    assert look.looker(Patience()).look_at(numbers) == [f"saw {number}" for number in numbers]
    assert look.looked == numbers
    assert look.looker(Patience()).look_at([]) == []


def test_many_that_hang_cost_one_patience_together_and_the_others_nothing(look: Hanging) -> None:
    numbers = [
        number for pair in zip(range(1, 41), range(101, 141), strict=True) for number in pair
    ]
    begin = time.monotonic()
    answers = look.looker(Patience()).look_at(numbers)
    seconds = time.monotonic() - begin
    assert answers == [f"{'saw' if each <= 100 else 'gave up'} {each}" for each in numbers]
    assert _SHORT <= seconds < 40 * _SHORT, "each was waited for"


def test_what_hangs_is_not_looked_at_again_until_it_comes_back(look: Hanging) -> None:
    rung = Event()
    patience = Patience(rung.set)
    looker = look.looker(patience)
    assert looker.look_at([101, 1]) == ["gave up 101", "saw 1"]
    threads = thread_count()
    for _ in range(20):
        assert looker.look_at([101, 1]) == ["gave up 101", "saw 1"]
        assert look.looker(patience).look_at([101]) == ["gave up 101"]  # of another pass
    assert look.looked.count(101) == 1
    eventually(lambda: thread_count() <= threads)
    assert not rung.is_set()
    look.may_end.set()
    assert rung.wait(300)
    assert look.dropped == ["saw 101"]
    assert looker.look_at([101]) == ["saw 101"]


def test_two_processes_have_nothing_in_common(look: Hanging) -> None:
    assert look.looker(Patience()).look_at([101]) == ["gave up 101"]
    assert look.looker(Patience()).look_at([101]) == ["gave up 101"]
    assert look.looked == [101, 101]


@pytest.mark.parametrize("items", [[-5], [1, -5, 2], [101, -5, 1], [-5, -5]])
def test_what_a_look_raises_is_raised(look: Hanging, items: list[int]) -> None:
    with pytest.raises(OSError, match="failed") as caught:
        look.looker(Patience()).look_at(items)
    assert caught.value.errno == 5


def test_what_fails_late_rings_and_is_looked_at_anew(look: Hanging) -> None:
    rung = Event()
    patience = Patience(rung.set)

    def hangs_once(item: int) -> str:
        look(item)
        raise OSError(5, "failed")

    looker = Looker[int, str](patience, hangs_once, "gave up {}".format, look.dropped.append)
    items = [101]
    assert looker.look_at(items) == ["gave up 101"]
    look.may_end.set()
    assert rung.wait(300)
    assert look.dropped == []
    with pytest.raises(OSError, match="failed"):
        looker.look_at(items)


def test_a_stop_ends_a_look_long_before_its_patience(
    look: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mountd.patience.PATIENCE", 3600.0)
    patience = Patience()

    def stops(item: int) -> str:
        patience.is_stopped = True
        return look(item)

    looker = Looker[int, str](patience, stops, "gave up {}".format, look.dropped.append)
    with pytest.raises(StoppedError):
        looker.look_at([101, 1, 2])
    look.may_end.set()
    eventually(lambda: look.dropped == ["saw 101"])
    assert 2 not in look.looked


def test_go_on_raises_once_it_was_stopped() -> None:
    patience = Patience()
    patience.go_on()
    patience.is_stopped = True
    with pytest.raises(StoppedError):
        patience.go_on()
