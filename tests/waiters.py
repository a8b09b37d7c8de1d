"""Tasks at a limiter, and the instants at which they were served."""

from __future__ import annotations

import asyncio
from typing import Any

from aiolimiter_fast.testing import ManualClock


class Waiters:
    """Starts tasks that acquire; remembers who was served, in order, and how many seconds after the start."""

    def __init__(self, limiter: Any, clock: ManualClock) -> None:
        self.limiter = limiter
        self.clock = clock
        self.start = clock.time()
        self.served: list[tuple[str, float]] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.served]

    def add(self, name: str, amount: float = 1, **options: Any) -> asyncio.Task[None]:
        self._tasks.append(asyncio.create_task(self._run(name, amount, options)))
        return self._tasks[-1]

    async def _run(self, name: str, amount: float, options: dict[str, Any]) -> None:
        await self.limiter.acquire(amount, **options)
        self.served.append((name, round(self.clock.time() - self.start, 6)))
