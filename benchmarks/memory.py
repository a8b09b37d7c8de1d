"""How much memory does a waiting acquire hold, besides its task?

A crowd of tasks waits for a permit that is hours away. What the tasks themselves hold is measured
with the same tasks waiting on a future each, less those futures and the iterators through which
they are awaited, which are measured alone. What remains when that is taken off is the price of
waiting: futures, coroutines, heap entries, timers, with the unused ends of lists. One bare
`asyncio.Future` is the unit, its garbage collector header included. Everything is counted by
tracemalloc, which sees what goes through Python's allocators, as all candidates do.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

from _candidates import CANDIDATES, Candidate
from _measure import Row, Samples, main, new_loop, run_on

HOUR = 3600.0
FUTURES, AWAITED_FUTURES, BARE_TASKS = "futures", "awaited futures", "bare tasks"


async def visit(acquire: Callable[[], Awaitable[Any]]) -> None:
    await acquire()


def traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def held_by_crowd(acquire: Callable[[], Awaitable[Any]], tasks: int) -> float:
    """Return the bytes per waiting task."""
    loop = asyncio.get_running_loop()
    crowd: list[asyncio.Task[None] | None] = [None] * tasks
    before = traced()
    for index in range(tasks):
        crowd[index] = loop.create_task(visit(acquire))
    await settle()
    held = traced() - before
    if any(task is None or task.done() for task in crowd):
        raise RuntimeError("a task did not wait")
    return held / tasks


async def held_by_limiter(candidate: Candidate, tasks: int) -> float:
    acquire = candidate.acquire(candidate.make(1, HOUR))
    taker = asyncio.ensure_future(visit(acquire))
    await settle()
    held = await held_by_crowd(acquire, tasks)
    taker.cancel()
    return held


async def held_by_futures(wrap: Callable[[asyncio.Future[None]], Any], tasks: int) -> float:
    loop = asyncio.get_running_loop()
    held: list[Any] = [None] * tasks
    before = traced()
    for index in range(tasks):
        held[index] = wrap(loop.create_future())
    return (traced() - before) / tasks


async def held_by(what: str, tasks: int) -> float:
    if what == FUTURES:
        return await held_by_futures(lambda future: future, tasks)
    if what == AWAITED_FUTURES:
        return await held_by_futures(lambda future: future.__await__(), tasks)
    if what == BARE_TASKS:
        return await held_by_crowd(asyncio.get_running_loop().create_future, tasks)
    candidate = next(candidate for candidate in CANDIDATES if candidate.name == what)
    return await held_by_limiter(candidate, tasks)


def measure(loop_name: str, what: str, tasks: int) -> float:
    tracemalloc.start()
    return run_on(new_loop(loop_name), held_by(what, tasks))


def rows(loop_name: str, quick: bool) -> list[Row]:
    tasks = 2_000 if quick else 10_000
    whats = [FUTURES, AWAITED_FUTURES, BARE_TASKS, *(candidate.name for candidate in CANDIDATES)]
    # a process for each, because the tables that asyncio keeps of its tasks remember earlier crowds
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=1) as pool:
        held = dict(zip(whats, pool.starmap(measure, [(loop_name, what, tasks) for what in whats], 1), strict=True))
    future = held.pop(FUTURES)
    task = held.pop(BARE_TASKS) - held.pop(AWAITED_FUTURES)
    figures = {name: Samples([(value - task) / future]) for name, value in held.items()}
    what = f"memory per waiting acquire, {tasks:,} / one Future"
    return [Row(what, loop_name, figures, 2.0, limit=Samples([future]), unit="bytes")]


if __name__ == "__main__":
    main({"memory": rows}, __doc__)
