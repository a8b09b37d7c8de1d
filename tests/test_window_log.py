"""The sliding-window log of the engines, against a list of time stamps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

SECOND = 1_000_000_000


@dataclass(frozen=True)
class Limit:
    limit: int
    interval: int


class Oracle:
    """Every unit that was admitted, by its time."""

    def __init__(self, limits: list[Limit]) -> None:
        self.limits = limits
        self.units: list[int] = []

    def failing(self, weight: int, now: int) -> Limit | None:
        for rate in self.limits:
            if sum(time >= now - rate.interval for time in self.units) + weight > rate.limit:
                return rate
        return None

    def take(self, weight: int, now: int) -> Limit | None:
        failing = self.failing(weight, now)
        if failing is None:
            self.units += [now] * weight
        return failing


def window(engine: Any, *limits: Limit) -> Any:
    log = engine.Window()
    configure(log, list(limits))
    return log


def configure(log: Any, limits: list[Limit]) -> None:
    log._configure(limits, [rate.limit for rate in limits], [rate.interval for rate in limits])


LIMITS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 40)), min_size=1, max_size=4).map(
    lambda steps: [
        Limit(sum(limit for limit, _ in steps[: i + 1]), sum(interval for _, interval in steps[: i + 1]))
        for i in range(len(steps))
    ]
)
STEPS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), max_size=120)


@given(limits=LIMITS, steps=STEPS)
def test_admits_what_a_list_of_time_stamps_admits_and_names_the_same_rate(
    engine: Any, limits: list[Limit], steps: list[tuple[int, int]]
) -> None:
    log, oracle, now = window(engine, *limits), Oracle(limits), 0
    for pause, weight in steps:
        now += pause
        assert log._take("x", weight, now) is oracle.take(weight, now)


@given(limits=LIMITS, steps=STEPS)
def test_after_the_wait_of_the_rate_it_has_room_and_a_nanosecond_before_it_has_none(
    engine: Any, limits: list[Limit], steps: list[tuple[int, int]]
) -> None:
    log, oracle, now = window(engine, *limits), Oracle(limits), 0
    for pause, weight in steps:
        now += pause
        rate = log._take("x", weight, now)
        if rate is None:
            oracle.take(weight, now)
        elif weight <= rate.limit:
            due = log._rate_due(weight, rate, now)
            for instant, room in ((due - 1, False), (due, True)):
                used = sum(time >= instant - rate.interval for time in oracle.units)
                assert (used + weight <= rate.limit) is room


@given(limits=LIMITS, steps=STEPS)
def test_no_window_of_any_rate_holds_more_than_its_limit_and_the_log_no_more_than_the_longest(
    engine: Any, limits: list[Limit], steps: list[tuple[int, int]]
) -> None:
    log, now = window(engine, *limits), 0
    log._leaks = True
    admitted: list[int] = []
    for pause, weight in steps:
        now += pause
        if log._take("x", weight, now) is None:
            admitted += [now] * weight
        assert log._units() <= limits[-1].limit
    for rate in limits:
        assert all(sum(start <= time <= start + rate.interval for time in admitted) <= rate.limit for start in admitted)


@given(limits=LIMITS, steps=STEPS)
def test_units_in_the_log_are_found_by_their_place(
    engine: Any, limits: list[Limit], steps: list[tuple[int, int]]
) -> None:
    log, now = window(engine, *limits), 0
    units: list[tuple[str, int, int]] = []
    for number, (pause, weight) in enumerate(steps):
        now += pause
        if log._take(str(number), weight, now) is None:
            units += [(str(number), now, weight)] * weight
    held = sum(weight for _, _, weight in log._entries())
    units = units[len(units) - held :]
    assert [log._unit(index) for index in range(held)] == units[::-1]
    assert log._unit(held) is None
    assert log._unit(-held) is None
    if held > 1:
        assert log._unit(-1) == units[0]


@given(limits=LIMITS, steps=STEPS, later=LIMITS)
def test_new_rates_see_what_the_log_still_holds(
    engine: Any, limits: list[Limit], steps: list[tuple[int, int]], later: list[Limit]
) -> None:
    log, now = window(engine, *limits), 0
    for pause, weight in steps:
        now += pause
        log._take("x", weight, now)
    entries = log._entries()
    configure(log, later)
    oracle = Oracle(later)
    oracle.units = [time for _, time, weight in entries for _ in range(weight)]
    for pause, weight in steps:
        now += pause
        assert log._take("x", weight, now) is oracle.take(weight, now)


def test_a_heavy_weight_is_one_entry(engine: Any) -> None:
    log = window(engine, Limit(10**6, SECOND))
    assert log._take("x", 10**6, 0) is None
    assert log._entries() == [("x", 0, 10**6)]


def test_a_weight_beyond_what_one_entry_holds_is_counted_in_full(engine: Any) -> None:
    rate = Limit(10**12, SECOND)
    log = window(engine, rate)
    assert log._take("x", 10**12 - 1, 0) is None
    assert log._units() == 10**12 - 1
    assert log._take("x", 2, 0) is rate
    assert log._take("x", 1, 0) is None
    assert log._take("x", 10**12, SECOND + 1) is None


def test_a_clock_that_goes_back_admits_nothing_more(engine: Any) -> None:
    rate = Limit(1, SECOND)
    log = window(engine, rate)
    assert log._take("x", 1, 100 * SECOND) is None
    assert log._take("x", 1, 50 * SECOND) is rate
    assert log._take("x", 1, 101 * SECOND) is rate
    assert log._take("x", 1, 101 * SECOND + 1) is None


def test_gone_units_are_told_until_leak_is_called(engine: Any) -> None:
    log = window(engine, Limit(2, SECOND))
    for now in range(0, 40 * SECOND, 10 * SECOND):
        assert log._take("x", 1, now) is None
    assert log._units() == 4
    assert log._entries() == [("x", 30 * SECOND, 1)]
    assert log._leak(29 * SECOND) == 3
    assert log._leak(31 * SECOND) == 1
    assert log._units() == 0


@pytest.mark.parametrize("units", [1, 100_000])
def test_the_ring_gives_memory_back(engine: Any, units: int) -> None:
    log = window(engine, Limit(100_000, SECOND))
    for now in range(units):
        assert log._take("x", 1, now) is None
    assert log._units() == units
    assert log._leak(2 * SECOND) == units
    assert log._entries() == []
    assert log._take("x", 1, 3 * SECOND) is None
    assert log._entries() == [("x", 3 * SECOND, 1)]
