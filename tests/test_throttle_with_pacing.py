"""Throttle keeps both bounds with every kind of limiter of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest

from aiolimiter_fast.testing import ManualClock

SPACING = 0.005  # seconds
LIMITERS: dict[str, Callable[[Any], Any]] = {
    "AsyncLimiter": lambda package: package.AsyncLimiter(1, SPACING),
    "pacing.Limiter": lambda package: package.pacing.Limiter(1 / SPACING, max_burst=1),
    "StrictLimiter": lambda package: package.StrictLimiter(1 / SPACING),
    "LeakyBucketLimiter": lambda package: package.LeakyBucketLimiter(1 / SPACING, capacity=1),
}


@pytest.mark.parametrize("make", LIMITERS.values(), ids=LIMITERS)
@pytest.mark.parametrize("work", [SPACING / 10, SPACING * 5], ids=["the rate binds", "the slots bind"])
async def test_neither_bound_is_exceeded_and_nobody_is_lost(
    package: ModuleType, clock: ManualClock, make: Callable[[Any], Any], work: float
) -> None:
    throttle = package.Throttle(make(package), max_concurrent=2)
    started: list[float] = []
    ended = under_way = most = 0

    async def visit() -> None:
        nonlocal ended, under_way, most
        async with throttle:
            started.append(clock.time())
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(work)
            under_way -= 1
        ended += 1

    tasks = [asyncio.create_task(visit()) for _ in range(20)]
    await clock.run(SPACING * 2.5)
    for task in tasks[10::3]:
        task.cancel()
    await clock.run(1)
    assert ended == len(started) == 16
    assert all(later - earlier > SPACING * 0.999 for earlier, later in pairwise(started))
    assert most == (1 if work < SPACING else 2)
    await asyncio.gather(*tasks, return_exceptions=True)
