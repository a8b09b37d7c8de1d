"""What do the calls of Limiter cost, how much of the rate do they deliver, and what does a permit weigh?

Calls are compared as in cost.py: plain ones with one `time.monotonic()`, awaited ones with awaiting an empty
coroutine function. Every call is admitted. The decorator is what it adds to the bare call of a function.

The delivered share is that of waiting workers, threads or tasks, who ask again as soon as they are admitted, over
the permits of all whole intervals; the first is not counted, since there the window is empty. The worst window is the
largest number of admissions in any interval, closed at both ends, less the limit. An admission was decided after the
loop's previous turn began (under uvloop and in threads: after the call) and before its caller went on; each window is
credited with its longest possible length, so any excess is certain.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import tracemalloc
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import accumulate
from operator import itemgetter
from time import monotonic_ns, perf_counter
from typing import Any

import limits
import pyrate_limiter
import throttled
import token_bucket
from _candidates import TWIN
from _measure import OURS, Row, Samples, WatchedSelector, interleave, main, new_loop, ratios, run_on
from cost import cost, empty, fresh, over_empty, over_monotonic, over_nothing
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

import aiolimiter_fast

PEERS = ("twin", "pyrate-limiter", "limits", "throttled-py", "token-bucket")
PACKAGES = {OURS: aiolimiter_fast, "twin": TWIN, "pyrate-limiter": pyrate_limiter}
SECOND = 1000
MANY = 10**6


async def over_non_blocking(limiter: Any, n: int) -> float:
    start = perf_counter()
    for _ in range(n):
        limiter.try_acquire("x", blocking=False)
    return perf_counter() - start


async def over_call(call: Any, n: int) -> float:
    start = perf_counter()
    for _ in range(n):
        call()
    return perf_counter() - start


async def over_async(limiter: Any, n: int) -> float:
    start = perf_counter()
    for _ in range(n):
        await limiter.try_acquire_async("x")
    return perf_counter() - start


def nothing() -> None:
    pass


async def over_decorated(functions: Any, n: int) -> float:
    """What the decorator adds."""
    bare, decorated = functions
    return await over_call(decorated, n) - await over_call(bare, n)


def made(package: Any, *rates: tuple[int, int]) -> Any:
    return package.Limiter([package.Rate(*rate) for rate in rates])


def others() -> dict[str, Callable[[], Any]]:
    """One call each of the libraries with an interface of their own."""
    item = limits.RateLimitItemPerSecond(MANY)
    quota = throttled.rate_limiter.per_sec(MANY, burst=MANY)
    bucket = token_bucket.Limiter(MANY, MANY, token_bucket.MemoryStorage())
    return {
        "limits": partial(MovingWindowRateLimiter(MemoryStorage()).hit, item, "x"),
        "throttled-py": throttled.Throttled(
            key="x", using="token_bucket", quota=quota, store=throttled.store.MemoryStore()
        ).limit,
        "token-bucket": partial(bucket.consume, b"x"),
    }


def cost_rows(quick: bool) -> list[Row]:
    n, rounds, budget = (1_000, 9, 1.0) if quick else (2_000, 40, 4.0)
    loop = new_loop("asyncio")
    asyncio.set_event_loop(loop)
    one, three = ((MANY, SECOND),), ((MANY, SECOND), (2 * MANY, 10 * SECOND), (3 * MANY, 60 * SECOND))
    questions: list[tuple[str, float, Any, Any, dict[str, tuple[Any, Any]]]] = []
    for what, bar, rates in (("one rate", 2.0, one), ("three rates", 2.5, three)):
        subjects: dict[str, tuple[Any, Any]] = {
            name: (over_non_blocking, made(package, *rates)) for name, package in PACKAGES.items()
        }
        if rates is one:
            subjects |= {name: (over_call, call) for name, call in others().items()}
        questions.append(
            (f'try_acquire("x", blocking=False), {what} / monotonic()', bar, over_monotonic, time.monotonic, subjects)
        )
    decorated = {
        name: (over_decorated, (nothing, made(package, *one).as_decorator(name="x")(nothing)))
        for name, package in PACKAGES.items()
    }
    questions.append(("decorator over the bare call / monotonic()", 3.0, over_monotonic, time.monotonic, decorated))
    tasks = {name: (over_async, made(package, *one)) for name, package in PACKAGES.items()}
    questions.append(('await try_acquire_async("x") / await empty()', 1.5, over_empty, empty, tasks))
    answers = []
    for what, bar, limit, subject, candidates in questions:
        measures = {
            name: partial(cost, loop, fresh(over_nothing), fresh(timed), candidate, n)
            for name, (timed, candidate) in candidates.items()
        }
        baseline = partial(cost, loop, fresh(over_nothing), fresh(limit), subject, n)
        figures, samples = ratios(baseline, measures, rounds, budget)
        samples.values = [value / n * 1e9 for value in samples.values]
        answers.append(Row(what, "asyncio", figures, bar, limit=samples, unit="ns", peers=PEERS))
    asyncio.set_event_loop(None)
    loop.close()
    return answers


Admissions = list[tuple[int, int]]  # each was decided between these two instants


async def demand_of_tasks(
    acquire: Callable[[], Awaitable[Any]], workers: int, seconds: float, selector: WatchedSelector | None
) -> Admissions:
    admitted: Admissions = []
    end = monotonic_ns() + int(seconds * 1e9)

    async def work() -> None:
        while (asked := monotonic_ns()) < end:
            await acquire()
            admitted.append((asked if selector is None else selector.woken_before, monotonic_ns()))

    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return admitted


def demand_of_threads(acquire: Callable[[], Any], workers: int, seconds: float) -> Admissions:
    admitted: Admissions = []
    end = monotonic_ns() + int(seconds * 1e9)

    def work() -> None:
        while (asked := monotonic_ns()) < end:
            acquire()
            admitted.append((asked, monotonic_ns()))

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return admitted


def certain_excess(admitted: Admissions, limit: int, width: int) -> int:
    """The largest number over `limit` that was certainly admitted within `width`, closed at both ends."""
    by_end = sorted(admitted, key=itemgetter(1))
    latest = [late for _, late in by_end]
    earliest = list(accumulate(reversed([early for early, _ in by_end]), min))[::-1]
    return max(bisect_right(latest, early + width) - index for index, early in enumerate(earliest)) - limit


def share(package: Any, loop_name: str, limit: int, interval: int, seconds: float, over: Samples) -> float:
    limiter = made(package, (limit, interval))
    if loop_name == "threads":
        admitted = demand_of_threads(partial(limiter.try_acquire, "x"), 20, seconds)
    else:
        selector = WatchedSelector() if loop_name == "asyncio" else None
        acquire = partial(limiter.try_acquire_async, "x")
        admitted = run_on(new_loop(loop_name, selector), demand_of_tasks(acquire, 20, seconds, selector))
    limiter.close()
    width = interval * 1_000_000
    over.values.append(certain_excess(admitted, limit, width))
    intervals = int(seconds * 1000 / interval)
    start = min(late for _, late in admitted)
    counted = sum(start + width <= late < start + intervals * width for _, late in admitted)
    return counted / (limit * (intervals - 1))


def delivered_rows(loop_name: str, quick: bool) -> list[Row]:
    rounds, seconds = (1, 1.1) if quick else (3, 2.1)
    answers = []
    for rate in (100, 2_000, 50_000):
        over = {name: Samples() for name in PACKAGES}
        measures = {
            name: partial(share, package, loop_name, rate // 10, 100, seconds, over[name])
            for name, package in PACKAGES.items()
        }
        figures = interleave(measures, rounds)
        what = f"delivered share, Rate({rate // 10}, 100), 20 workers"
        answers.append(Row(what, loop_name, figures, 0.98, at_least=True, peers=PEERS))
        answers.append(
            Row(f"{what}: worst window, certain, permits over", loop_name, over, 0.0, worst=True, peers=PEERS)
        )
    return answers


def held_by_full_window(package: Any, permits: int) -> float:
    limiter = made(package, (permits, 3600 * SECOND))
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(permits):
        limiter.try_acquire("x", blocking=False)
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return held / permits


def threads_started(package: Any, limiters: int) -> float:
    started: list[Any] = []
    before = threading.active_count()
    for _ in range(limiters):
        limiter = made(package, (10, SECOND))
        started.append(threading.active_count() - before)
        limiter.close()
        del limiter
    return float(max(started))


def memory_rows(quick: bool) -> list[Row]:
    permits, limiters = (20_000, 50) if quick else (100_000, 1_000)
    weights = {name: partial(held_by_full_window, package, permits) for name, package in PACKAGES.items()}
    threads = {name: partial(threads_started, package, limiters) for name, package in PACKAGES.items()}
    return [
        Row(f"bytes per permit, window of {permits:,}", "-", interleave(weights, 1), 24.0, peers=PEERS),
        Row(f"threads at once, {limiters} limiters made and dropped", "-", interleave(threads, 1), 0.0, peers=PEERS),
    ]


def rows(loop_name: str, quick: bool) -> list[Row]:
    if loop_name == "uvloop":
        return delivered_rows(loop_name, quick)
    return [
        *cost_rows(quick), *delivered_rows(loop_name, quick), *delivered_rows("threads", quick), *memory_rows(quick)
    ]  # fmt: skip


if __name__ == "__main__":
    main({"limiter": rows}, __doc__)
