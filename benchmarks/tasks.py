"""What CPU time does a task cost that has to wait for its permit?

All tasks start at once and each takes one permit. The physical limit is the same number of tasks,
each waiting for a future of its own, which somebody resolves in chunks of one burst per turn of the
loop: the task, its first step, one future, one wake-up and the second step cannot be avoided. There
is no decision, no clock and no timer in it, and the loop never sleeps. Time is CPU time of the
process, so that waiting is free and only work counts.

The column "slept" is that limit with one `call_later` of a period between two bursts: what it costs
on this machine to sleep at all, since work is slower after a sleep than in one go.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from functools import partial
from time import process_time
from typing import Any

from _candidates import RATE_LIMITERS, Candidate
from _measure import PEERS, Row, main, new_loop, ratios, run_on

# tasks, permits per period, period, bar
CROWDS = ((1_000, 50, 0.025, 2.5), (20_000, 1_000, 0.025, 1.5))


async def visit(acquire: Callable[[], Awaitable[Any]]) -> None:
    await acquire()


async def crowd(acquire: Callable[[], Awaitable[Any]], tasks: int) -> None:
    loop = asyncio.get_running_loop()
    for task in [loop.create_task(visit(acquire)) for _ in range(tasks)]:
        await task


async def bare_crowd(tasks: int, chunk: int, period: float) -> None:
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[None]] = []

    def wait() -> asyncio.Future[None]:
        future: asyncio.Future[None] = loop.create_future()
        futures.append(future)
        return future

    def resolve_chunk(start: int) -> None:
        for future in futures[start : start + chunk]:
            future.set_result(None)
        if start + chunk < tasks:
            loop.call_later(period, resolve_chunk, start + chunk)

    # in the turn after the tasks' first step
    loop.call_soon(loop.call_soon, resolve_chunk, 0)
    await crowd(wait, tasks)


def cpu_of_bare(loop_name: str, tasks: int, chunk: int, period: float) -> float:
    gc.collect()
    loop = new_loop(loop_name)
    start = process_time()
    run_on(loop, bare_crowd(tasks, chunk, period))
    return process_time() - start


def cpu_of(loop_name: str, candidate: Candidate, tasks: int, permits: int, period: float) -> float:
    gc.collect()
    loop = new_loop(loop_name)
    acquire = candidate.acquire(candidate.make(permits, period))
    start = process_time()
    run_on(loop, crowd(acquire, tasks))
    return process_time() - start


def rows(loop_name: str, quick: bool) -> list[Row]:
    answers = []
    for tasks, permits, period, bar in CROWDS:
        figures, limits = ratios(
            partial(cpu_of_bare, loop_name, tasks, permits, 0),
            {
                "slept": partial(cpu_of_bare, loop_name, tasks, permits, period),
                **{
                    candidate.name: partial(cpu_of, loop_name, candidate, tasks, permits, period)
                    for candidate in RATE_LIMITERS
                },
            },
            rounds=1 if quick else 4,
            budget=1 if quick else 2,
        )
        limits.values = [value / tasks * 1e6 for value in limits.values]
        what = f"CPU per task, {tasks:,} x ({permits}, {period}) / bare futures"
        answers.append(Row(what, loop_name, figures, bar, limit=limits, unit="us", peers=("slept", *PEERS)))
    return answers


if __name__ == "__main__":
    main({"tasks": rows}, __doc__)
