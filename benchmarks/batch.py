"""What does a batch cost for each item, and does its memory grow with the input?

The function does nothing, or gives way once, so that what is measured is the batch itself: 100,000 items, 100 at once.
`TaskGroup` is what one writes without a library: a task for each item, and a semaphore. All are measured in
each round, and are ratios to aiometer in the same round, whose time is given as the limit.

Memory is the peak that tracemalloc sees, of 1,000,000 items over that of 10,000, the items coming from a generator.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from time import perf_counter
from typing import Any

import aiometer
from _measure import OURS, Row, Samples, interleave, main, new_loop, run_on

from aiolimiter_fast import WorkerPool, amap, run_on_each

PEERS = ("amap", "WorkerPool", "TaskGroup", "aiometer")
AT_ONCE = 100

Function = Callable[[int], Awaitable[None]]
Batch = Callable[[Function, Iterable[int]], Awaitable[None]]


async def nothing(item: int) -> None:
    pass


async def give_way(item: int) -> None:
    await asyncio.sleep(0)


async def ours(function: Function, items: Iterable[int]) -> None:
    await run_on_each(function, items, max_at_once=AT_ONCE)


async def our_amap(function: Function, items: Iterable[int]) -> None:
    async with amap(function, items, max_at_once=AT_ONCE) as results:
        async for _ in results:
            pass


async def our_pool(function: Function, items: Iterable[int]) -> None:
    async with WorkerPool(function, AT_ONCE, keep_outcomes=False) as pool:
        for item in items:
            await pool.put(item)


async def of_aiometer(function: Function, items: Iterable[int]) -> None:
    await aiometer.run_on_each(function, items, max_at_once=AT_ONCE)  # type: ignore[arg-type]


async def by_hand(function: Function, items: Iterable[int]) -> None:
    semaphore = asyncio.Semaphore(AT_ONCE)

    async def visit(item: int) -> None:
        async with semaphore:
            await function(item)

    if hasattr(asyncio, "TaskGroup"):
        async with asyncio.TaskGroup() as group:
            for item in items:
                group.create_task(visit(item))
    else:
        await asyncio.gather(*(visit(item) for item in items))


CANDIDATES: dict[str, Batch] = {
    OURS: ours,
    "amap": our_amap,
    "WorkerPool": our_pool,
    "TaskGroup": by_hand,
    "aiometer": of_aiometer,
}


def seconds(loop_name: str, batch: Batch, function: Function, items: int) -> float:
    async def timed() -> float:
        start = perf_counter()
        await batch(function, range(items))
        return perf_counter() - start

    gc.collect()
    return run_on(new_loop(loop_name), timed())


def peak(loop_name: str, batch: Batch, items: int) -> float:
    async def run() -> float:
        tracemalloc.start()
        await batch(nothing, (number for number in range(items)))
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return float(held)

    gc.collect()
    return run_on(new_loop(loop_name), run())


def growth(loop_name: str, batch: Batch, few: int, many: int) -> float:
    peak(loop_name, batch, few)  # with what is imported at the first time
    return peak(loop_name, batch, many) / peak(loop_name, batch, few)


def rows(loop_name: str, quick: bool) -> list[Row]:
    items, rounds = (10_000, 3) if quick else (100_000, 3)
    answers = []
    for what, function in (("no-op", nothing), ("sleep(0)", give_way)):
        figures = interleave(
            {name: partial(seconds, loop_name, batch, function, items) for name, batch in CANDIDATES.items()}, rounds
        )
        unit = figures["aiometer"].values[:]
        for samples in figures.values():
            samples.values = [value / of_round for value, of_round in zip(samples.values, unit, strict=True)]
        limits = Samples([value / items * 1e6 for value in unit])
        text = f"time per item, {items:,} x {what}, {AT_ONCE} at once / aiometer"
        answers.append(Row(text, loop_name, figures, 0.5, limit=limits, unit="us", peers=PEERS))
    if loop_name == "asyncio":
        few, many = (1_000, 20_000) if quick else (10_000, 1_000_000)
        flat = {name: CANDIDATES[name] for name in (OURS, "amap", "WorkerPool")}
        measures: dict[str, Any] = {name: partial(growth, loop_name, batch, few, many) for name, batch in flat.items()}
        if quick:  # a task for each of a million items needs gigabytes
            measures["TaskGroup"] = partial(growth, loop_name, by_hand, few, many)
        text = f"peak memory, {many:,} items / {few:,}"
        answers.append(Row(text, "-", interleave(measures, 1), 1.1, limit=Samples([1.0]), peers=PEERS))
    return answers


if __name__ == "__main__":
    main({"batch": rows}, __doc__)
