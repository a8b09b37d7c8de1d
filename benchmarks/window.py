"""Does any window of any length hold more admissions than `burst + rate * window`?

What a limiter promises holds for the instants of its decisions, so they are told exactly: the loop
runs in virtual time, which stands still during a turn, moves only while the loop sleeps, and wakes
up late by random amounts. The figure is the largest excess over the bound in permits, over all
windows; a limiter that spends its whole burst at once and keeps its promise scores 0. Limiters
that read the system's clock cannot be driven this way. (`delivered.py` looks at real time.)
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from _candidates import RATE_LIMITERS, Candidate
from _measure import Row, interleave, main, run_on

Demand = tuple[int, float, int, float]  # permits, period, workers, and the bar for the delivered share

DEMANDS: tuple[Demand, ...] = (
    (1, 1 / 100, 20, 0.99),
    (1, 1 / 1_000, 20, 0.95),
    (1, 1 / 5_000, 20, 0.90),
    (1, 1 / 10_000, 20, 0.80),
    (100, 0.01, 1_000, 0.99),
    (1_000, 0.01, 1_000, 0.90),
)

TOLERANCE = 1e-6  # permits; the clocks are floats


def worst_excess(earliest: Sequence[float], latest: Sequence[float], rate: float, burst: float) -> float:
    """Return the largest `count - (burst + rate * window)` over all windows, in O(n).

    Admission `i` was decided between `earliest[i]` and `latest[i]`; both ascend. A window is
    credited with its longest possible length, so what is reported is certain. With both sequences
    the same, it is exact.
    """
    worst = float("-inf")
    start = float("inf")  # the smallest count-so-far minus the permits leaked so far
    origin = earliest[0]
    for index, (early, late) in enumerate(zip(earliest, latest, strict=True)):
        start = min(start, index - rate * (early - origin))
        worst = max(worst, index + 1 - rate * (late - origin) - start)
    return worst - burst


class SleepyClock(selectors.DefaultSelector):
    """A selector that sleeps in virtual time, and oversleeps."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.now = 1000.0
        self._random = random.Random(seed)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is scheduled, everybody would wait for ever")
        if timeout > 0:
            # mostly a scheduling delay, now and then a long stall
            stall = 0.05 if self._random.random() < 0.01 else 0.0002
            self.now += timeout + self._random.expovariate(1 / stall)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, seed: int) -> None:
        self.clock = SleepyClock(seed)
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


async def demand(acquire: Callable[[], Awaitable[Any]], workers: int, seconds: float) -> list[float]:
    loop = asyncio.get_running_loop()
    admitted: list[float] = []
    end = loop.time() + seconds

    async def work() -> None:
        while loop.time() < end:
            await acquire()
            admitted.append(loop.time())

    tasks = [loop.create_task(work()) for _ in range(workers)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return admitted


def excess(candidate: Candidate, permits: float, period: float, workers: int, admissions: int, seed: int) -> float:
    rate = permits / period
    acquire = candidate.acquire(candidate.make(permits, period))
    admitted = run_on(VirtualLoop(seed), demand(acquire, workers, admissions / rate))
    return worst_excess(admitted, admitted, rate, permits)


def rows(loop_name: str, quick: bool) -> list[Row]:
    admissions, rounds = (2_000, 1) if quick else (10_000, 2)
    if loop_name != "asyncio":
        return []  # uvloop brings its own clock
    row = Row("worst window in virtual time, permits over", loop_name, {}, TOLERANCE, worst=True)
    for seed in range(rounds):
        for permits, period, workers, _ in DEMANDS:
            measured = interleave(
                {
                    candidate.name: partial(excess, candidate, permits, period, workers, admissions, seed)
                    for candidate in RATE_LIMITERS
                    if candidate.loop_clock
                },
                rounds=1,
            )
            for name, samples in measured.items():
                row.figures.setdefault(name, samples).values[:] += samples.values
    return [row]


if __name__ == "__main__":
    main({"window": rows}, __doc__)
