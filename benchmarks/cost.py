"""What does a call cost when there is room?

Awaiting calls are compared with awaiting an empty coroutine function, plain calls with one
`time.monotonic()`. All loops are written out as a user would write them; the cost of the empty
loop is taken off both sides. Every candidate runs its own copy of the code, so that none spoils
the inline caches of another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from time import perf_counter
from types import FunctionType
from typing import Any

from _candidates import CANDIDATES
from _measure import Row, main, new_loop, ratios

Timed = Callable[[Any, int], Coroutine[Any, Any, float]]


async def empty() -> None:
    pass


async def over_nothing(subject: Any, n: int) -> float:
    start = perf_counter()
    for _ in range(n):
        pass
    return perf_counter() - start


async def over_empty(empty: Any, n: int) -> float:
    start = perf_counter()
    for _ in range(n):
        await empty()
    return perf_counter() - start


async def over_acquire(limiter: Any, n: int) -> float:
    start = perf_counter()
    for _ in range(n):
        await limiter.acquire()
    return perf_counter() - start


async def over_wait(limiter: Any, n: int) -> float:
    start = perf_counter()
    for _ in range(n):
        await limiter.wait()
    return perf_counter() - start


async def over_async_with(limiter: Any, n: int) -> float:
    start = perf_counter()
    for _ in range(n):
        async with limiter:
            pass
    return perf_counter() - start


async def over_monotonic(monotonic: Any, n: int) -> float:
    start = perf_counter()
    for _ in range(n):
        monotonic()
    return perf_counter() - start


async def over_has_capacity(limiter: Any, n: int) -> float:
    start = perf_counter()
    for _ in range(n):
        limiter.has_capacity()
    return perf_counter() - start


async def over_try_acquire(limiter: Any, n: int) -> float:
    start = perf_counter()
    for _ in range(n):
        limiter.try_acquire()
    return perf_counter() - start


def fresh(function: Timed) -> Timed:
    """A copy with inline caches of its own."""
    assert isinstance(function, FunctionType)
    return FunctionType(function.__code__.replace(), function.__globals__)


# what, the bar, the physical limit, and the loop by the method that the candidate must have
COSTS: tuple[tuple[str, float, Timed, Any, dict[str, Timed]], ...] = (
    ("await acquire() / await empty()", 1.0, over_empty, empty, {"acquire": over_acquire, "wait": over_wait}),
    ("async with / await empty()", 2.0, over_empty, empty, {"__aexit__": over_async_with}),
    ("has_capacity() / monotonic()", 1.5, over_monotonic, time.monotonic, {"has_capacity": over_has_capacity}),
    ("try_acquire() / monotonic()", 1.5, over_monotonic, time.monotonic, {"try_acquire": over_try_acquire}),
)


def cost(loop: asyncio.AbstractEventLoop, nothing: Timed, timed: Timed, subject: Any, n: int) -> float:
    return loop.run_until_complete(timed(subject, n)) - loop.run_until_complete(nothing(None, n))


def rows(loop_name: str, quick: bool) -> list[Row]:
    n, rounds = (2_000, 15) if quick else (3_000, 50)
    loop = new_loop(loop_name)
    asyncio.set_event_loop(loop)
    answers = []
    for what, bar, limit, subject, forms in COSTS:
        measures = {}
        for candidate in CANDIDATES:
            limiter = candidate.roomy()
            for method, timed in forms.items():
                if hasattr(limiter, method):
                    measures[candidate.name] = partial(cost, loop, fresh(over_nothing), fresh(timed), limiter, n)
        figures, limits = ratios(partial(cost, loop, fresh(over_nothing), fresh(limit), subject, n), measures, rounds)
        limits.values = [value / n * 1e9 for value in limits.values]
        answers.append(Row(what, loop_name, figures, bar, limit=limits, unit="ns"))
    asyncio.set_event_loop(None)
    loop.close()
    return answers


if __name__ == "__main__":
    main({"cost": rows}, __doc__)
