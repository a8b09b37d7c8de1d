"""aiolimiter itself as an oracle: the same calls at the same times are admitted at the same instants.

Numbers are dyadic, so that its floats are exact. Amounts are equal within a schedule, or few: then aiolimiter lets
nobody be passed by more than one burst either.
"""

from __future__ import annotations

from typing import Any

import aiolimiter
from hypothesis import given, settings
from hypothesis import strategies as st

SECOND = 1_000_000_000
# Rates per second and bursts whose permits are whole fractions of a second.
RATES = st.sampled_from([(1, 1.0), (2, 1.0), (4, 0.5), (8, 2.0), (16, 1.0), (5, 5.0), (10, 10.0)])
# An eighth of a second, or many.
PAUSES = st.integers(0, 24).map(lambda eighths: eighths * SECOND // 8)


def drive(simulation: Any, limiter: Any, steps: list[tuple[str, Any]]) -> list[tuple[int, int]]:
    sim = simulation(limiter)
    try:
        for step, value in steps:
            if step == "acquire":
                sim.acquire(value)
            elif step == "cancel" and sim.waiting:
                sim.cancel(sim.waiting[value % len(sim.waiting)])
            elif step == "pause":
                sim.run(value)
        sim.run(200 * SECOND)
        assert not sim.waiting
        admitted: list[tuple[int, int]] = sim.admitted
        return admitted
    finally:
        sim.close()


@settings(max_examples=120, deadline=None)
@given(
    rate=RATES,
    amount=st.sampled_from([0.5, 1, 1.0]),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("acquire"), st.just(None)),
            st.tuples(st.just("acquire"), st.just(None)),
            st.tuples(st.just("cancel"), st.integers(0, 100)),
            st.tuples(st.just("pause"), PAUSES),
        ),
        max_size=40,
    ),
)
def test_equal_amounts_are_admitted_at_the_same_instants(
    AsyncLimiter: Any, simulation: Any, rate: tuple[float, float], amount: float, steps: list[tuple[str, Any]]
) -> None:
    steps = [(step, amount if step == "acquire" else value) for step, value in steps]
    ours = drive(simulation, AsyncLimiter(*rate), steps)
    theirs = drive(simulation, aiolimiter.AsyncLimiter(*rate), steps)
    assert ours == theirs


@settings(max_examples=120, deadline=None)
@given(
    # Those who come later want no more than one burst in all: nobody is passed by more.
    amounts=st.lists(st.sampled_from([0.5, 1, 2, 3, 4]), min_size=1, max_size=6).filter(
        lambda all_: sum(all_[1:]) <= 4
    ),
    pauses=st.lists(st.tuples(PAUSES, st.sampled_from([0.5, 1, 2, 4])), max_size=8),
)
def test_a_crowd_of_different_amounts_is_served_in_the_same_order_at_the_same_instants(
    AsyncLimiter: Any, simulation: Any, amounts: list[float], pauses: list[tuple[int, float]]
) -> None:
    steps: list[tuple[str, Any]] = [("acquire", amount) for amount in amounts]
    for pause, amount in pauses:
        steps += [("pause", 100 * SECOND + pause), ("acquire", amount)]
    assert drive(simulation, AsyncLimiter(4, 2.0), steps) == drive(simulation, aiolimiter.AsyncLimiter(4, 2.0), steps)


@settings(max_examples=150, deadline=None)
@given(
    rate=RATES.filter(lambda rate: rate[0] > 1),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("acquire"), st.sampled_from([0, 0.25, 0.5, 1, 1, 2])),
            st.tuples(st.just("acquire"), st.sampled_from([0, 0.25, 0.5, 1, 1, 2])),
            st.tuples(st.just("cancel"), st.integers(0, 100)),
            st.tuples(st.just("pause"), PAUSES),
        ),
        min_size=20,
        max_size=60,
    ),
)
def test_any_schedule_is_admitted_alike_until_somebody_would_be_passed_by_more_than_a_burst(
    AsyncLimiter: Any, simulation: Any, rate: tuple[float, float], steps: list[tuple[str, Any]]
) -> None:
    amounts = [value for step, value in steps if step == "acquire"]
    ours = drive(simulation, AsyncLimiter(*rate), steps)
    theirs = drive(simulation, aiolimiter.AsyncLimiter(*rate), steps)
    # Those who were cancelled count as if they had waited on, so that the comparison ends early rather than late.
    order = {call: place for place, (_, call) in enumerate(theirs)}
    passed = dict.fromkeys(range(len(amounts)), 0.0)
    for place, (_, call) in enumerate(theirs):
        for earlier in range(call):
            if order.get(earlier, len(theirs)) > place:
                passed[earlier] += amounts[call]
        if max(passed.values()) > rate[0]:
            theirs, ours = theirs[:place], ours[:place]
            break
    assert ours == theirs


@settings(max_examples=80, deadline=None)
@given(
    calls=st.lists(st.tuples(PAUSES, st.sampled_from([0, 0.5, 1, 2, 5, 9])), max_size=30),
)
def test_has_capacity_tells_the_same(AsyncLimiter: Any, simulation: Any, calls: list[tuple[int, float]]) -> None:
    def answers(limiter: Any) -> list[bool]:
        sim = simulation(limiter)
        try:
            found = []
            for pause, amount in calls:
                sim.run(pause)
                found.append(sim.inside(lambda amount=amount: limiter.has_capacity(amount)))
                if found[-1]:
                    sim.acquire(amount)
            return found
        finally:
            sim.close()

    assert answers(AsyncLimiter(8, 4.0)) == answers(aiolimiter.AsyncLimiter(8, 4.0))
