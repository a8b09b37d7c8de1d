"""Do limiters that pace deliver their rate, keep their distance, and what does a call cost?

Cost: awaiting a call that passes at once, over awaiting an empty coroutine function. asynciolimiter's Limiter passes
one call per tick at once, which no loop can repeat; its LeakyBucketLimiter stands for it.

Delivered share: of a crowd of tasks that ask without a pause, in real time; a call counts when its task goes on. The
physical limit is a plain thread without a loop that sleeps until the next slot, with as large a burst: what it misses,
the machine took.

Distance of StrictLimiter(1000):
- in virtual time, where each turn of the loop takes a random while and sleeps end late: the smallest gap between two
  calls as their tasks go on, in milliseconds, of a million calls (`--quick`: 20,000). Nothing but the limiter decides;
- in real time, certain: gaps under a millisecond although counted from the wake-up of the loop's turn before the first
  call went on, so that none is the doing of the clock's reader (only under asyncio, whose selector can be watched);
- in real time, as seen by the tasks: here a preempted reader of the clock makes gaps too, long ones and short ones.

Jitter: how far the gaps between calls of Limiter(1000) are from a millisecond.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import pairwise
from math import ceil
from time import monotonic_ns
from typing import Any

import asynciolimiter
import throttler
from _candidates import TWIN
from _measure import OURS, Row, Samples, WatchedSelector, interleave, main, new_loop, ratios, run_on
from asyncio_throttle.throttler import Throttler as PollingThrottler
from cost import cost, empty, fresh, over_acquire, over_empty, over_nothing, over_wait
from delivered import SLEEPER, sleeper_share

from aiolimiter_fast import pacing

PEERS = ("twin", "asynciolimiter", "throttler", "asyncio-throttle")
MODULES: dict[str, Any] = {OURS: pacing, "twin": TWIN.pacing, "asynciolimiter": asynciolimiter}
THROTTLERS: dict[str, Any] = {
    OURS: pacing.Throttler,
    "twin": TWIN.pacing.Throttler,
    "throttler": throttler.Throttler,
    "asyncio-throttle": PollingThrottler,
}
WORKERS = 20
MS = 1_000_000


async def over_entering(limiter: Any, n: int) -> float:
    """As `over_acquire`, for what can only be entered."""
    start = monotonic_ns()
    for _ in range(n):
        await limiter.__aenter__()
    return (monotonic_ns() - start) / 1e9


def acquire_of(limiter: Any) -> Callable[[], Awaitable[Any]]:
    call: Callable[[], Awaitable[Any]] = getattr(limiter, "wait", None) or limiter.__aenter__
    return call


def cost_rows(loop_name: str, quick: bool) -> list[Row]:
    n, rounds = (2_000, 15) if quick else (3_000, 50)
    loop = new_loop(loop_name)
    asyncio.set_event_loop(loop)
    buckets = {name: module.LeakyBucketLimiter(1000, capacity=10**9) for name, module in MODULES.items()}
    questions: list[tuple[str, dict[str, tuple[Any, Any]]]] = [
        ("await Limiter.wait()", {name: (over_wait, MODULES[name].Limiter(1e9)) for name in (OURS, "twin")}),
        ("await LeakyBucketLimiter.wait()", {name: (over_wait, bucket) for name, bucket in buckets.items()}),
        (
            "await Throttler.acquire()",
            {
                name: (over_acquire if hasattr(kind, "acquire") else over_entering, kind(1000, 1e-6))
                for name, kind in THROTTLERS.items()
            },
        ),
    ]
    answers = []
    for what, subjects in questions:
        measures = {
            name: partial(cost, loop, fresh(over_nothing), fresh(timed), limiter, n)
            for name, (timed, limiter) in subjects.items()
        }
        baseline = partial(cost, loop, fresh(over_nothing), fresh(over_empty), empty, n)
        figures, limits = ratios(baseline, measures, rounds, 4.0)
        limits.values = [value / n * 1e9 for value in limits.values]
        answers.append(Row(f"{what} / await empty()", loop_name, figures, 1.1, limit=limits, unit="ns", peers=PEERS))
    for bucket in buckets.values():
        bucket.close()
    asyncio.set_event_loop(None)
    loop.close()
    return answers


async def demand(
    acquire: Callable[[], Awaitable[Any]], seconds: float, selector: WatchedSelector | None = None
) -> tuple[list[int], list[int]]:
    """When each call went on, and when the loop woke up for the turn before that, in nanoseconds."""
    went_on: list[int] = []
    woken: list[int] = []
    end = monotonic_ns() + int(seconds * 1e9)

    async def work() -> None:
        while True:
            await acquire()
            now = monotonic_ns()
            if now >= end:
                return
            went_on.append(now)
            if selector is not None:
                woken.append(selector.woken_before)

    tasks = [asyncio.create_task(work()) for _ in range(WORKERS)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return went_on, woken


Watcher = Callable[[list[int], list[int]], None]


def share(loop_name: str, module: Any, kind: str, rate: float, seconds: float, *watchers: Watcher) -> float:
    selector = WatchedSelector() if loop_name == "asyncio" else None
    limiter = getattr(module, kind)(rate)
    instants, woken = run_on(new_loop(loop_name, selector), demand(limiter.wait, seconds, selector))
    for watch in watchers:
        watch(instants, woken)
    return len(instants) / (rate * seconds)


def delivered_rows(loop_name: str, quick: bool) -> list[Row]:
    rounds, seconds = (1, 0.5) if quick else (3, 1.5)
    answers = []
    jitter = [(part, {name: Samples() for name in MODULES}) for part in (0.5, 0.99, 0.999)]

    def note_jitter(name: str, instants: list[int], woken: list[int]) -> None:
        off = sorted(abs(later - earlier - MS) / 1000 for earlier, later in pairwise(instants))
        for part, samples in jitter:
            samples[name].values.append(off[int(part * len(off))])

    for rate, bar in ((1_000, 0.995), (10_000, 0.99), (50_000, 0.95)):
        measures = {
            name: partial(
                share, loop_name, module, "Limiter", rate, seconds, *[partial(note_jitter, name)] * (rate == 1_000)
            )
            for name, module in MODULES.items()
        }
        measures[SLEEPER] = partial(sleeper_share, (5, 5 / rate, 1, bar), seconds)
        what = f"delivered share, Limiter({rate:,}), {WORKERS} tasks"
        figures = interleave(measures, rounds)
        limit = figures.pop(SLEEPER)
        answers.append(Row(what, loop_name, figures, bar, at_least=True, limit=limit, peers=PEERS))
    for part, samples in jitter:
        answers.append(Row(f"gap jitter of Limiter(1,000), p{100 * part:g}, us", loop_name, samples, peers=PEERS))
    return answers


def strict_rows(loop_name: str, quick: bool) -> list[Row]:
    rounds, seconds = (1, 0.5) if quick else (3, 2.0)
    certain = {name: Samples() for name in MODULES}
    seen = {name: Samples() for name in MODULES}

    def note_gaps(name: str, instants: list[int], woken: list[int]) -> None:
        seen[name].values.append(sum(later - earlier < MS for earlier, later in pairwise(instants)))
        certain[name].values.append(sum(later - early < MS for early, later in zip(woken, instants[1:], strict=False)))

    measures = {
        name: partial(share, loop_name, module, "StrictLimiter", 1_000, seconds, partial(note_gaps, name))
        for name, module in MODULES.items()
    }
    measures[SLEEPER] = partial(sleeper_share, (1, 0.001, 1, 0.95), seconds)
    figures = interleave(measures, rounds)
    limit = figures.pop(SLEEPER)
    what = "StrictLimiter(1,000)"
    answers = [
        Row(f"delivered share, {what}, {WORKERS} tasks", loop_name, figures, 0.95, True, limit=limit, peers=PEERS)
    ]
    if loop_name == "asyncio":
        answers.append(Row(f"gaps under 1 ms of {what}, certain", loop_name, certain, 0.0, worst=True, peers=PEERS))
    answers.append(Row(f"gaps under 1 ms of {what}, as seen", loop_name, seen, worst=True, peers=PEERS))
    return answers


class LateSelector(selectors.DefaultSelector):
    """A selector that sleeps in virtual time and oversleeps; turns without a sleep take a while as well."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.now_ns = 10**12
        self._random = random.Random(seed)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is scheduled, everybody would wait for ever")
        late = 5e7 if self._random.random() < 0.001 else 20_000
        self.now_ns += ceil(max(timeout, 0) * 1e9) + int(self._random.expovariate(1 / late))
        return super().select(0)


class LateLoop(asyncio.SelectorEventLoop):
    def __init__(self, seed: int) -> None:
        self.late = LateSelector(seed)
        super().__init__(self.late)

    def time(self) -> float:
        return self.late.now_ns / 1e9


def smallest_gap(module: Any, calls: int) -> float:
    """Milliseconds."""
    loop = LateLoop(calls)
    limiter = module.StrictLimiter(1_000)
    smallest = last = 10**18
    left = calls

    async def work() -> None:
        nonlocal smallest, last, left
        while left > 0:
            left -= 1
            await limiter.wait()
            now = loop.late.now_ns
            smallest = min(smallest, now - last if last < now else 10**18)
            last = now

    async def crowd() -> None:
        await asyncio.gather(*(work() for _ in range(WORKERS)))

    run_on(loop, crowd())
    return smallest / MS


def virtual_rows(quick: bool) -> list[Row]:
    calls = 20_000 if quick else 1_000_000
    measures = {name: partial(smallest_gap, module, calls) for name, module in MODULES.items()}
    what = f"smallest of {calls:,} gaps, StrictLimiter(1,000), virtual time, ms"
    return [Row(what, "asyncio", interleave(measures, 1), 1.0, at_least=True, peers=PEERS)]


def throttled(loop_name: str, kind: Any, limit: int, period: float, seconds: float, over: Samples) -> float:
    instants, _ = run_on(new_loop(loop_name), demand(acquire_of(kind(limit, period)), seconds))
    width = int(period * 1e9)
    worst = max(bisect_right(instants, start + width) - index - limit for index, start in enumerate(instants))
    over.values.append(worst)
    periods = int(seconds / period)
    counted = [instant for instant in instants if width <= instant - instants[0] < periods * width]
    return len(counted) / (limit * (periods - 1))


def throttler_rows(loop_name: str, quick: bool) -> list[Row]:
    rounds, seconds = (1, 0.55) if quick else (2, 2.05)
    answers = []
    for limit, period in ((10, 0.1), (100, 0.01)):
        over = {name: Samples() for name in THROTTLERS}
        measures = {
            name: partial(throttled, loop_name, kind, limit, period, seconds, over[name])
            for name, kind in THROTTLERS.items()
        }
        what = f"Throttler({limit}, {period:g}), {WORKERS} tasks"
        figures = interleave(measures, rounds)
        answers.append(Row(f"delivered share, {what}", loop_name, figures, 0.98, at_least=True, peers=PEERS))
        answers.append(Row(f"worst period of {what}, as seen, over", loop_name, over, worst=True, peers=PEERS))
    return answers


def rows(loop_name: str, quick: bool) -> list[Row]:
    answers = [
        *cost_rows(loop_name, quick), *delivered_rows(loop_name, quick), *strict_rows(loop_name, quick),
        *throttler_rows(loop_name, quick),
    ]  # fmt: skip
    return answers + (virtual_rows(quick) if loop_name == "asyncio" else [])


if __name__ == "__main__":
    main({"pacing": rows}, __doc__)
