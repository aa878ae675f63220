"""Looks that may hang: each costs itself only, and is remembered until it comes back."""

import os
import time
from collections.abc import Callable, Iterator
from errno import EAGAIN
from pathlib import Path
from typing import TypeVar

import pytest
from watcher import eventually

from mountd.kernel import errands, patience, road
from mountd.kernel.errands import ask
from mountd.kernel.patience import Looker, Patience, StoppedError
from mountd.kernel.served import NoChildError, ServedError, may_wait

_SHORT = 2.0
_T = TypeVar("_T")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (patience, errands):
        monkeypatch.setattr(module, "PATIENCE", _SHORT)


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


class Hanging:
    """A look at numbers: those over 10 are served, over 100 hang until `release`, below 0 fail."""

    def __init__(self, folder: Path) -> None:
        self._release = folder / "release"
        self._log = folder / "log"
        self._log.touch()
        self.patience = Patience()
        self.others = children()

    def release(self) -> None:
        self._release.touch()

    @property
    def looked(self) -> list[int]:
        return [int(line.split()[1]) for line in self._log.read_text().splitlines()]

    @property
    def lookers(self) -> set[int]:
        """Which processes did."""
        return {int(line.split()[0]) for line in self._log.read_text().splitlines()}

    def __call__(self, item: int) -> str:
        if abs(item) > 10 and not may_wait():
            raise ServedError(str(item), 1)
        with self._log.open("a") as log:
            log.write(f"{os.getpid()} {item}\n")
        while item > 100 and not self._release.exists():
            time.sleep(0.01)
        if item < 0:
            raise OSError(-item, "failed")
        return f"saw {item}"

    def looker(self, patience: Patience) -> Looker[int, str]:
        return Looker(patience, self, lambda item, _: f"gave up {item}", key=str)


@pytest.fixture
def look(tmp_path: Path) -> Iterator[Hanging]:
    """Children that it keeps are gone afterwards."""
    look = Hanging(tmp_path)
    yield look
    look.release()
    eventually(lambda: all_are_gone(look), "its children are gone")


def all_are_gone(look: Hanging) -> bool:
    look.patience.collect()
    road._bury_abandoned()  # noqa: SLF001 - the next child would
    return children() <= look.others


def has_rung(patience: Patience, rung: list[None]) -> bool:
    patience.collect()
    return bool(rung)


def timed(call: Callable[[], _T]) -> tuple[_T, float]:
    begin = time.monotonic()
    return call(), time.monotonic() - begin


def test_what_waits_for_nobody_is_looked_at_here_and_without_a_child(look: Hanging) -> None:
    assert look.looker(Patience()).look_at([3, 1, 2]) == ["saw 3", "saw 1", "saw 2"]
    assert look.lookers == {os.getpid()}
    assert look.looker(Patience()).look_at([]) == []


def test_answers_are_in_the_order_of_what_was_asked(look: Hanging) -> None:
    numbers = [*range(50, 0, -1)]
    assert look.looker(Patience()).look_at(numbers) == [f"saw {number}" for number in numbers]
    assert sorted(look.looked) == sorted(numbers)
    assert os.getpid() in look.lookers
    assert len(look.lookers) >= 2


def test_many_that_hang_cost_one_patience_together_and_the_others_nothing(look: Hanging) -> None:
    numbers = [
        number for pair in zip(range(1, 21), range(101, 121), strict=True) for number in pair
    ]
    answers, seconds = timed(lambda: look.looker(Patience()).look_at(numbers))
    assert answers == [f"{'saw' if each <= 100 else 'gave up'} {each}" for each in numbers]
    assert seconds >= _SHORT


def test_what_hangs_is_not_looked_at_again_until_it_comes_back(look: Hanging) -> None:
    rung: list[None] = []
    patience = Patience(lambda: rung.append(None))
    looker = look.looker(patience)
    assert looker.look_at([101, 1]) == ["gave up 101", "saw 1"]
    for _ in range(20):
        assert looker.look_at([101, 1]) == ["gave up 101", "saw 1"]
        assert look.looker(patience).look_at([101]) == ["gave up 101"]  # of another pass
    assert look.looked.count(101) == 1
    assert len(children() - look.others) == 1
    assert len(patience.descriptors) == 1
    assert not rung
    look.release()
    eventually(lambda: has_rung(patience, rung))
    assert looker.look_at([101]) == ["saw 101"]


def test_a_child_that_is_killed_counts_as_back(look: Hanging) -> None:
    rung: list[None] = []
    patience = Patience(lambda: rung.append(None))
    assert look.looker(patience).look_at([101]) == ["gave up 101"]
    patience.kill()
    eventually(lambda: has_rung(patience, rung))


def test_two_processes_have_nothing_in_common(look: Hanging) -> None:
    assert look.looker(Patience()).look_at([101]) == ["gave up 101"]
    assert look.looker(Patience()).look_at([101]) == ["gave up 101"]
    assert look.looked == [101, 101]


@pytest.mark.parametrize("items", [[-5], [1, -5, 2], [101, -15, 1], [-15, -15]])
def test_what_a_look_raises_is_raised(look: Hanging, items: list[int]) -> None:
    with pytest.raises(OSError, match="failed") as caught:
        look.looker(look.patience).look_at(items)
    assert caught.value.errno == -min(items)


def test_a_stop_ends_a_look_long_before_its_patience(
    look: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mountd.kernel.patience.PATIENCE", 60.0)
    patience = look.patience

    def stops(item: int) -> str:
        patience.is_stopped = True
        return look(item)

    looker = Looker[int, str](patience, stops, lambda item, _: f"gave up {item}", key=str)
    with pytest.raises(StoppedError):
        looker.look_at([101, 1, 2])
    with pytest.raises(StoppedError):
        patience.go_on()
    assert 2 not in look.looked


def test_without_a_child_to_be_had_the_served_alone_are_given_up(
    look: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_fork() -> int:
        raise BlockingIOError(EAGAIN, os.strerror(EAGAIN))

    monkeypatch.setattr(os, "fork", no_fork)
    given_up: list[OSError] = []

    def give_up(item: int, error: OSError) -> str:
        given_up.append(error)
        return f"gave up {item}"

    looker = Looker[int, str](Patience(), look, give_up, key=str)
    assert looker.look_at([1, 11, 2, 12]) == ["saw 1", "gave up 11", "saw 2", "gave up 12"]
    assert all(isinstance(each, NoChildError) for each in given_up)


@pytest.mark.fault(11, "what a child has open")
def test_a_child_has_none_of_our_descriptors(tmp_path: Path) -> None:
    kept = os.open(tmp_path, os.O_PATH)
    try:
        assert ask(_held) == "yes"
        assert str(tmp_path) not in ask(_what_is_open)
    finally:
        os.close(kept)
        errands._of_thread.__dict__.clear()  # noqa: SLF001 - the child that stays for this thread


def _held() -> str:
    if not may_wait():
        raise ServedError("it", 1)
    return "yes"


def _what_is_open() -> list[str]:
    if not may_wait():
        raise ServedError("it", 1)
    numbers = os.listdir("/proc/self/fd")
    return [os.readlink(f"/proc/self/fd/{each}") for each in numbers if _is_open(each)]


def _is_open(number: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{number}")
