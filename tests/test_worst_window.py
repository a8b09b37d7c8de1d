"""Whatever happens, no window holds more than burst + rate * its length: checked in exact arithmetic."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import pytest

SECOND = 1_000_000_000


def excess(admitted: list[tuple[int, Fraction]], rate: Fraction, burst: Fraction) -> Fraction:
    """By how much the worst window exceeds its bound; not above 0 if all is well. One pass: the sum to each instant
    less the smallest (sum before an instant - rate * instant) so far."""
    worst = -burst
    total = Fraction(0)
    lowest: Fraction | None = None
    for instant, amount in sorted(admitted):
        line = rate * instant / SECOND
        lowest = total - line if lowest is None else min(lowest, total - line)
        total += amount
        worst = max(worst, total - line - lowest - burst)
    return worst


def test_the_measure_sees_one_permit_too_many() -> None:
    one = Fraction(1)
    assert excess([(0, one), (SECOND, one)], one, one) == 0
    assert excess([(0, one), (SECOND - 1, one)], one, one) == Fraction(1, SECOND)
    assert excess([(5, one), (5, one), (5, one)], one, Fraction(2)) == 1


def amount_between(rng: random.Random, burst: float) -> float:
    return rng.choice([1, 1, 1, 0.1, 0.25, 2, 3, burst])


@pytest.mark.parametrize("seed", range(12))
def test_random_schedules_with_cancellations_after_the_grant(AsyncLimiter: Any, simulation: Any, seed: int) -> None:
    rng = random.Random(seed)
    max_rate, period, burst = rng.choice([(3, 1, 3), (10, 1, 1), (7, 0.5, 20), (100, 3, 5)])
    fair = rng.random() < 0.3
    limiter = AsyncLimiter(max_rate, period, burst=burst, fair=fair)
    sim = simulation(limiter)
    spent: list[tuple[int, Fraction]] = []
    try:
        for _ in range(400):
            action = rng.random()
            if action < 0.5:
                sim.acquire(min(amount_between(rng, burst), burst), settle=rng.random() < 0.5)
            elif action < 0.6:
                sim.clock.advance(rng.expovariate(max_rate / period))
                sim.turn()  # grants what is due, and resumes nobody
                for call in rng.sample(sim.waiting, min(len(sim.waiting), 3)):
                    sim.cancel(call)
            elif action < 0.7:
                amount = min(amount_between(rng, burst), burst)
                if sim.inside(lambda amount=amount: limiter.try_acquire(amount)):
                    spent.append((sim.now, Fraction(str(amount))))
            else:
                sim.run(round(rng.expovariate(max_rate / period) * SECOND))
        admitted = spent + [(instant, Fraction(str(min(sim.amounts[call], burst)))) for instant, call in sim.admitted]
        assert len(admitted) > 20
        assert excess(admitted, Fraction(max_rate) / Fraction(period), Fraction(burst)) <= 0
    finally:
        sim.close()


@pytest.mark.parametrize("seed", range(8))
def test_changes_of_rate_never_let_more_pass_than_the_rates_of_the_time(
    AsyncLimiter: Any, simulation: Any, seed: int
) -> None:
    """The bound is then the burst plus the integral of the rate; time is stretched so that the rate is one."""
    rng = random.Random(seed)
    limiter = AsyncLimiter(4, 1, burst=4)
    sim = simulation(limiter)
    changes: list[tuple[int, int]] = [(0, 4)]
    try:
        for _ in range(200):
            action = rng.random()
            if action < 0.6:
                sim.acquire(rng.choice([1, 1, 0.5, 2]))
            elif action < 0.7:
                rate = rng.choice([1, 2, 4, 8])
                changes.append((sim.now, rate))
                sim.inside(lambda rate=rate: setattr(limiter, "max_rate", rate))
            else:
                sim.run(rng.randrange(SECOND))

        def permitted(instant: int) -> int:
            ends = [start for start, _ in changes[1:]] + [instant]
            return sum(
                rate * max(min(end, instant) - start, 0) for (start, rate), end in zip(changes, ends, strict=True)
            )

        stretched = [(permitted(instant), Fraction(str(sim.amounts[call]))) for instant, call in sim.admitted]
        # A level kept in new units is rounded up, by less than a billionth of a permit.
        assert excess(stretched, Fraction(1), Fraction(4)) <= 0
        assert len(stretched) > 20
    finally:
        sim.close()
