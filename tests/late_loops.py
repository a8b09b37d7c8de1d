"""A loop in virtual time that is late: each turn takes a random while, and sleeps end late."""

from __future__ import annotations

import asyncio
import random
import selectors
from math import ceil
from typing import Any


class LateSelector(selectors.DefaultSelector):
    """Sleeps in virtual time, whole nanoseconds; time also passes between turns that do not sleep."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.now_ns = 10**12
        self.random = random.Random(seed)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing is scheduled, everybody would wait for ever")
        late = 5e7 if self.random.random() < 0.001 else 30_000  # now and then a long stall
        self.now_ns += ceil(max(timeout, 0) * 1e9) + int(self.random.expovariate(1 / late))
        return super().select(0)


class LateLoop(asyncio.SelectorEventLoop):
    def __init__(self, seed: int) -> None:
        self.late = LateSelector(seed)
        super().__init__(self.late)

    def time(self) -> float:
        return self.late.now_ns / 1e9


def demand(limiter: Any, calls: int, workers: int, seed: int) -> list[int]:
    """The instants, in nanoseconds, at which calls of so many workers ran on."""
    loop = LateLoop(seed)
    instants: list[int] = []

    async def work() -> None:
        while len(instants) < calls:
            await limiter.wait()
            instants.append(loop.late.now_ns)

    async def crowd() -> None:
        await asyncio.gather(*(work() for _ in range(workers)))

    try:
        loop.run_until_complete(crowd())
    finally:
        loop.close()
    return instants
