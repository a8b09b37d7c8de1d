"""The arithmetic of the leaky bucket, told the time: seconds and permits in, nanoseconds out."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

SECOND = 10**9
DAY = 86_400 * SECOND
WEEK = 7 * DAY
YEARS = 2**61  # ns: 73 years of uptime


# (max_rate, time_period, burst), then rows of (t, amount, admitted, wait), t and wait in nanoseconds.
TABLES: dict[str, tuple[tuple[Any, ...], list[tuple[int, float, bool, int]]]] = {
    "a first burst of max_rate passes, then one permit per interval": (
        (2, 1),
        [
            (0, 1, True, 0),
            (0, 1, True, 0),
            (0, 1, False, SECOND // 2),
            (SECOND // 2 - 1, 1, False, 1),
            (SECOND // 2, 1, True, 0),
            (SECOND // 2, 0.5, False, SECOND // 4),
            (SECOND, 1, True, 0),
        ],
    ),
    "a large amount waits for the whole of it": (
        (10, 1),
        [
            (0, 10, True, 0),
            (0, 10, False, SECOND),
            (SECOND // 2, 10, False, SECOND // 2),
            (SECOND // 2, 5, True, 0),
            (SECOND // 2, 10, False, SECOND),
        ],
    ),
    "nothing is saved up beyond the burst": (
        (10, 1),
        [
            (0, 10, True, 0),
            (DAY, 10, True, 0),
            (DAY, 0.5, False, SECOND // 20),
        ],
    ),
    "a burst of one spaces permits evenly": (
        (100, 1, 1),
        [
            (0, 1, True, 0),
            (0, 1, False, SECOND // 100),
            (SECOND // 100 - 1, 1, False, 1),
            (SECOND // 100, 1, True, 0),
            (SECOND // 50, 1, True, 0),
        ],
    ),
    "a burst above the rate": (
        (1, 1, 3),
        [
            (0, 3, True, 0),
            (0, 3, False, 3 * SECOND),
            (2 * SECOND, 2, True, 0),
            (2 * SECOND, 1, False, SECOND),
        ],
    ),
    "nothing is free, whatever the level": (
        (1, 1),
        [
            (0, 0, True, 0),
            (0, 1, True, 0),
            (0, 0, True, 0),
            (0, 1, False, SECOND),
        ],
    ),
    "ten tenths are one permit": (
        (1, 1),
        [(0, 0.1, True, 0)] * 10 + [(0, 0.1, False, SECOND // 10), (SECOND // 10, 0.1, True, 0)],
    ),
    "one per week": (
        (1, WEEK / SECOND),
        [
            (0, 1, True, 0),
            (0, 1, False, WEEK),
            (WEEK - 1, 1, False, 1),
            (WEEK, 1, True, 0),
            (WEEK, 1, False, WEEK),
        ],
    ),
    "a thousand million per second": (
        (1e9, 1),
        [
            (0, 1e9, True, 0),
            (0, 1, False, 1),
            (1, 1, True, 0),
            (1, 1, False, 1),
            (1, 0.5, False, 1),
            (2, 0.5, True, 0),
            (2, 0.5, True, 0),
            (2, 0.5, False, 1),
            (SECOND + 2, 1e9, True, 0),
        ],
    ),
    "an interval that is no whole number of nanoseconds": (
        (3, 1, 2),
        [
            (0, 2, True, 0),
            (0, 1, False, 333_333_334),
            (333_333_333, 1, False, 1),
            (333_333_334, 1, True, 0),
            (333_333_334, 1, False, 333_333_333),  # the third of a nanosecond that was waited too long counts
            (666_666_667, 1, True, 0),
            (SECOND, 1, True, 0),
        ],
    ),
    "after years of uptime": (
        (1000, 1, 1),
        [
            (YEARS, 1, True, 0),
            (YEARS + SECOND // 1000 - 1, 1, False, 1),
            (YEARS + SECOND // 1000, 1, True, 0),
        ],
    ),
    "a clock that goes back leaks nothing and is followed from there": (
        (10, 1),
        [
            (DAY, 10, True, 0),
            (DAY - 5, 1, False, SECOND // 10),
            (0, 1, False, SECOND // 10),
            (SECOND // 10, 1, True, 0),
            (SECOND // 10, 1, False, SECOND // 10),
        ],
    ),
    "a clock that jumps a day ahead and back admits one burst for the day, and does not stall": (
        (10, 1),
        [
            (0, 10, True, 0),
            (DAY, 10, True, 0),
            (DAY, 1, False, SECOND // 10),
            (1, 1, False, SECOND // 10),
            (1 + SECOND // 10, 1, True, 0),
            (1 + SECOND // 10, 1, False, SECOND // 10),
        ],
    ),
    "a clock below zero": (
        (10, 1),
        [
            (-YEARS, 10, True, 0),
            (-YEARS, 1, False, SECOND // 10),
            (-YEARS + SECOND // 10, 1, True, 0),
        ],
    ),
}


@pytest.mark.parametrize("table", TABLES)
def test_admits_as_the_table_says(engine: Any, table: str) -> None:
    arguments, rows = TABLES[table]
    bucket = engine.LeakyBucket(*arguments)
    for row, (t, amount, admitted, wait) in enumerate(rows):
        assert bucket.wait(amount, t) == wait, f"row {row}"
        assert bucket.take(amount, t) == wait, f"row {row}"
        assert admitted == (wait == 0), f"row {row} contradicts itself"


@pytest.mark.parametrize(
    ("max_rate", "time_period", "count"),
    [(7, 3, 10_000_000), (10, 1, 500_000), (1 / 3, 0.7, 500_000), (1e9, 1, 500_000), (1, WEEK / SECOND, 50_000)],
)
def test_ten_million_tenths_stay_within_the_bound_and_reach_it_to_one_part_in_a_thousand_million(
    engine: Any, max_rate: float, time_period: float, count: int
) -> None:
    """A tenth is 1/10, the decimal that the caller wrote. The twin takes a tenth of these."""
    if engine.__name__.endswith("_py"):
        count //= 10
    take, wait_for = (bucket := engine.LeakyBucket(max_rate, time_period, 10)).take, bucket.wait
    start = now = 2**40
    # Tenths that leak in a nanosecond, as a ratio of whole numbers.
    rate = 10 * Fraction(max_rate) / (Fraction(time_period) * SECOND)
    taken = 0
    while taken < count:
        while taken < 2 * count and not take(0.1, now):
            taken += 1
        allowed = 100 + (now - start) * rate
        assert taken <= allowed
        now += wait_for(9, now)
    # All that has leaked but for less than a tenth that does not fit yet.
    assert allowed - taken < 1 + allowed / 10**9


# From one per week to a thousand million per second.
rates = st.floats(1, 1e6)
periods = st.sampled_from([0.001, 0.025, 0.7, 1.0, 60.0, WEEK / SECOND])
instants = st.integers(-YEARS, YEARS)


@given(data=st.data(), max_rate=rates, period=periods, start=instants)
def test_waiting_as_long_as_told_admits_and_a_nanosecond_less_does_not(
    engine: Any, data: st.DataObject, max_rate: float, period: float, start: int
) -> None:
    burst = data.draw(st.floats(1e-3, 1e6).filter(lambda burst: max(burst, 1) * period / max_rate < 1e9))
    bucket = engine.LeakyBucket(max_rate, period, burst)
    amounts = st.floats(0, 1).map(lambda share: share * burst)
    now = start
    for amount in data.draw(st.lists(amounts, min_size=1, max_size=20)):
        now += data.draw(st.integers(0, 10**6))
        wait = bucket.take(amount, now)
        if wait:
            assert bucket.take(amount, now + wait - 1) == 1 or wait == 1
            now += wait
            assert bucket.take(amount, now) == 0


@given(max_rate=rates, now=instants, elapsed=st.integers(0, 2**60), burst=st.floats(1, 1e6))
def test_a_full_bucket_leaks_at_its_rate_and_is_never_below_empty(
    engine: Any, max_rate: float, now: int, elapsed: int, burst: float
) -> None:
    bucket = engine.LeakyBucket(max_rate, 1, burst)
    bucket.take(burst, now)
    expected = max(Fraction(burst) - Fraction(max_rate) * elapsed / SECOND, Fraction(0))
    assert bucket.level(now + elapsed) == pytest.approx(float(expected), abs=burst * 1e-9)


@given(
    steps=st.lists(st.one_of(st.integers(-2 * DAY, 2 * DAY), st.integers(-SECOND, SECOND)), min_size=1, max_size=50),
    amounts=st.lists(st.integers(1, 10), min_size=1, max_size=5),
)
def test_a_clock_that_wanders_admits_no_more_than_its_movement_forwards_allows(
    engine: Any, steps: list[int], amounts: list[int]
) -> None:
    bucket = engine.LeakyBucket(10, 1)
    now = YEARS
    forwards = taken = 0
    for step in steps:
        now += step
        forwards += max(step, 0)
        for amount in amounts:
            wait = bucket.take(amount, now)
            assert 0 <= wait <= SECOND
            taken += amount * (wait == 0)
        assert taken * SECOND <= 10 * SECOND + 10 * forwards


@given(max_rate=rates, period=periods, amount=st.floats(0, 1), nows=st.lists(instants, min_size=1, max_size=30))
def test_both_engines_tell_the_same_waits(
    both_engines: Any, max_rate: float, period: float, amount: float, nows: list[int]
) -> None:
    extension, twin = (engine.LeakyBucket(max_rate, period, 1) for engine in both_engines)
    for now in nows:
        assert extension.take(amount, now) == twin.take(amount, now)
        assert extension.level(now) == twin.level(now)


def test_a_wait_takes_nothing(engine: Any) -> None:
    bucket = engine.LeakyBucket(1, 1)
    assert bucket.wait(1, 0) == 0
    assert bucket.level(0) == 0
    assert bucket.take(1, 0) == 0
    assert bucket.wait(1, 0) == SECOND
    assert bucket.level(0) == 1


def test_an_amount_over_the_burst_is_refused_by_name(engine: Any) -> None:
    bucket = engine.LeakyBucket(10, 1, 5)
    for method in (bucket.take, bucket.wait):
        with pytest.raises(ValueError, match=r"amount=6 exceeds burst=5"):
            method(6, 0)
    assert bucket.level(0) == 0
