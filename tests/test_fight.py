"""Somebody who keeps undoing a mount is answered ever more slowly, until it has lasted."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd.core.fight import Fight, undone

_MOST_A_MINUTE = 10
"""Five at once, and those after 1, 2, 4, 8 and 16 s."""
_LASTING = st.one_of(st.floats(0, 0.01), st.floats(0, 70), st.floats(0, 700), st.just(60.0))


def repairs(*lasted: float) -> list[tuple[float, float]]:
    """What was undone when, and put back when, if each repair lasts so many seconds."""
    fight, now = Fight(), 1000.0
    found = []
    for seconds in lasted:
        fight = undone(fight, now)
        repaired = max(now, fight.until)
        found.append((now, repaired))
        now = repaired + seconds
    return found


def waits(*lasted: float) -> list[float]:
    return [round(repaired - now, 3) for now, repaired in repairs(*lasted)]


@given(st.lists(_LASTING, max_size=60))
def test_no_minute_has_more_than_a_few_repairs(lasted: list[float]) -> None:
    times = [repaired for _, repaired in repairs(*lasted)]
    for first, later in zip(times, times[_MOST_A_MINUTE:], strict=False):
        assert later - first >= 60


@given(st.lists(_LASTING, max_size=60))
def test_each_wait_is_none_or_the_first_or_twice_the_one_before_up_to_five_minutes(
    lasted: list[float],
) -> None:
    for before, after in pairwise(waits(*lasted)):
        assert after in (0, 1, min(2 * before, 300))


def test_five_repairs_come_at_once_then_waits_double_to_five_minutes() -> None:
    assert waits(*[0.5] * 16) == [*[0] * 5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_repairs_that_are_rare_never_wait() -> None:
    assert waits(*[15.1] * 50) == [0] * 50


@pytest.mark.parametrize(("undoings", "long"), [(6, 60), (11, 64), (14, 512), (15, 600), (40, 600)])
def test_a_fight_is_over_when_a_repair_lasted_a_minute_and_twice_the_latest_wait(
    undoings: int, long: float
) -> None:
    lasted = [0.0] * (undoings - 1)
    *_, last, again = waits(*lasted, long, 0)
    assert again == min(2 * last, 300) > 0
    assert waits(*lasted, long + 0.1, *[0] * 6)[undoings:] == [*[0] * 5, 1]


def test_a_fight_may_go_on_for_ever() -> None:
    assert waits(*[0.5] * 3000)[-1] == 300


def test_a_fight_is_over_only_after_its_latest_repair_has_lasted() -> None:
    fight = Fight()
    for _ in range(6):
        fight = undone(fight, 0)
    assert (fight.until, fight.wait) == (1, 1)
    assert [fight.is_over(at) for at in (0, 1, 60.9, 61.1)] == [False, False, False, True]
    assert not Fight().is_over(1e9)
