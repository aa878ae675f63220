"""Somebody who keeps undoing a mount is answered ever more slowly, until it has lasted."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mountd.watch.fight import OF_ALL, OF_ONE, Fight, Telling, undone

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


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdefgh"),
            st.integers(1, 3),
            st.one_of(st.floats(0, 0.1), st.floats(0, 9)),
            st.booleans(),
        ),
        max_size=150,
    )
)
def test_no_more_is_told_than_the_rates_allow_and_the_rest_is_counted(
    news: list[tuple[str, int, float, bool]],
) -> None:
    telling, now, told, left_out = Telling(), 1000.0, 0, 0
    by_name: dict[str, int] = {}
    for name, records, seconds, is_done in news:
        now += seconds
        if telling.has_room(name, records, now, is_done=is_done):
            told += records
            by_name[name] = by_name.get(name, 0) + records
        else:
            telling.leave_out(name, records, now)
            left_out += records
    passed = now - 1000
    assert told <= OF_ALL.at_once + passed / OF_ALL.seconds + 0.01
    assert all(each <= OF_ONE.at_once + passed / OF_ONE.seconds + 0.01 for each in by_name.values())
    assert told + left_out == sum(records for _, records, _, _ in news)
    assert telling.close(now)[0] == left_out
    assert telling.due is None


def test_what_was_left_out_is_said_after_the_storm_and_each_minute_while_it_goes_on() -> None:
    telling = Telling()
    assert telling.due is None
    telling.leave_out("a", 1, 100)
    assert telling.due == 110
    for second in range(101, 200):
        telling.leave_out("a", 1, second)
    assert telling.due == 160
    assert telling.close(160) == (100, 1, 60)


def test_one_repair_of_each_volume_is_told_at_once_however_many_there_are() -> None:
    telling = Telling()
    telling.volumes = 500
    assert all(telling.has_room(str(each), 2, 10, is_done=True) for each in range(500))
    assert not telling.has_room("one more", 2, 10, is_done=True)
    assert not telling.has_room("one more", 1, 10)
