"""How much of what is permitted is admitted under steady demand, and is the bound kept meanwhile?

A crowd of tasks asks for permits without a pause. The share is what was admitted over
`floor(burst + rate * elapsed)`, in real time. A permit counts when its task goes on, so one that
was granted at the end, but whose task has not had its turn, is missing. The worst window is the
largest excess over `burst + rate * window` in permits, over all windows of all these runs, told in
two ways:

- certain: the decision behind an admission falls between the wake-up of the loop's previous turn
  and the instant the task goes on. Each window is credited with its longest possible length, so
  any excess is real. (Only under asyncio, whose selector can be watched.)
- as seen: between the instants at which the tasks went on. A task that goes on late moves closer
  to the next one, so this may exceed the bound although every decision kept it.

The physical limit is a plain thread without a loop that sleeps until the next slot and takes it,
with the kernel's timer slack switched off where there is one. What it misses, the machine took.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import floor
from time import monotonic_ns, sleep
from typing import Any

from _candidates import RATE_LIMITERS, Candidate
from _measure import OURS, Row, Samples, WatchedSelector, interleave, main, new_loop, run_on
from window import DEMANDS, TOLERANCE, Demand, worst_excess

SLEEPER = "sleeper"
PR_SET_TIMERSLACK = 29


async def demand(
    acquire: Callable[[], Awaitable[Any]], workers: int, seconds: float, selector: WatchedSelector | None
) -> tuple[list[int], list[int], int]:
    """Return when each admission may have been decided at the earliest, when its task went on,
    and how long it all took, in nanoseconds."""
    loop = asyncio.get_running_loop()
    earliest: list[int] = []
    latest: list[int] = []

    async def work() -> None:
        while True:
            await acquire()
            now = monotonic_ns()
            if now >= end:
                return
            latest.append(now)
            if selector is not None:
                earliest.append(selector.woken_before)

    tasks = [loop.create_task(work()) for _ in range(workers)]
    # from here on there is demand: the tasks take their first step when this one sleeps
    start = monotonic_ns()
    end = start + int(seconds * 1e9)
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return earliest, latest, end - start


@contextmanager
def no_timer_slack() -> Iterator[None]:
    """Have the kernel wake this thread on time, and not within the 50 us that Linux allows itself."""
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_TIMERSLACK, 1)
    try:
        yield
    finally:
        libc.prctl(PR_SET_TIMERSLACK, 0)  # the default again


def sleeper_share(demanded: Demand, seconds: float) -> float:
    permits, period, _, _ = demanded
    rate = permits / period
    interval, burst = 1e9 / rate, 1e9 * period
    start = monotonic_ns()
    end = start + int(seconds * 1e9)
    admitted = 0
    dry_at = float(start)  # when the bucket will have leaked dry
    with no_timer_slack():
        while (now := monotonic_ns()) < end:
            early = max(dry_at, now) + interval - burst - now
            if early > 0:
                sleep(early / 1e9)
            else:
                dry_at = max(dry_at, now) + interval
                admitted += 1
    return admitted / floor(permits + rate * seconds)


def share(
    loop_name: str,
    candidate: Candidate,
    demanded: Demand,
    seconds: float,
    certain: Samples,
    seen: Samples,
) -> float:
    permits, period, workers, _ = demanded
    rate = permits / period
    selector = WatchedSelector() if loop_name == "asyncio" else None
    acquire = candidate.acquire(candidate.make(permits, period))
    earliest, latest, elapsed = run_on(new_loop(loop_name, selector), demand(acquire, workers, seconds, selector))
    seen.values.append(worst_excess(latest, latest, rate / 1e9, permits))
    if selector is not None:
        certain.values.append(worst_excess(earliest, latest, rate / 1e9, permits))
    return len(latest) / floor(permits + rate * elapsed / 1e9)


def rows(loop_name: str, quick: bool) -> list[Row]:
    rounds, seconds = (1, 0.3) if quick else (2, 1.2)
    certain = {candidate.name: Samples() for candidate in RATE_LIMITERS}
    seen = {candidate.name: Samples() for candidate in RATE_LIMITERS}
    answers = []
    for demanded in DEMANDS:
        permits, period, workers, bar = demanded
        rate = permits / period
        duration = max(seconds, 120 / rate)  # so long that one missed slot is less than 1 %
        measures = {
            candidate.name: partial(
                share, loop_name, candidate, demanded, duration, certain[candidate.name], seen[candidate.name]
            )
            for candidate in RATE_LIMITERS
        }
        measures[SLEEPER] = partial(sleeper_share, demanded, duration)
        figures = interleave(measures, 1)
        # the peers once, since a second takes a second
        for name, samples in interleave({name: measures[name] for name in (SLEEPER, OURS)}, rounds - 1).items():
            figures[name].values += samples.values
        limit = figures.pop(SLEEPER)
        what = f"delivered share, {rate:,.0f}/s, burst {permits}, {workers} tasks"
        answers.append(Row(what, loop_name, figures, bar, at_least=True, limit=limit))
    if loop_name == "asyncio":
        answers.append(Row("worst window, certain, permits over", loop_name, certain, TOLERANCE, worst=True))
    answers.append(Row("worst window, as seen, permits over", loop_name, seen, worst=True))
    return answers


if __name__ == "__main__":
    main({"delivered": rows}, __doc__)
