"""A service in this process that meters its callers, for the examples: it shares no code with the limiters."""

from __future__ import annotations

import asyncio
import random
import time


class Refused(Exception):
    """Too many requests per second, or too many at once."""


class Flaked(Exception):
    """The service has failed, as services do."""


class Service:
    """Admit `rate` requests per second with a burst of `burst`, and `at_once` at once; refuse what is above.

    A request takes about `seconds`, and fails with probability `flakes`.
    """

    def __init__(self, rate: float, burst: int, at_once: int, *, seconds: float = 0.01, flakes: float = 0.0) -> None:
        self.rate, self.burst, self.at_once = rate, burst, at_once
        self.seconds, self.flakes = seconds, flakes
        self.level, self.updated, self.running = 0.0, time.monotonic(), 0
        self.requests = self.refused = 0
        self.dice = random.Random(1)

    async def get(self, page: int) -> str:
        now = time.monotonic()
        self.level = max(0.0, self.level - (now - self.updated) * self.rate)
        self.updated = now
        self.requests += 1
        if self.level + 1 > self.burst + 1e-3 or self.running >= self.at_once:
            self.refused += 1
            raise Refused(page)
        self.level += 1
        self.running += 1
        try:
            await asyncio.sleep(self.dice.uniform(0.5, 1.5) * self.seconds)
        finally:
            self.running -= 1
        if self.dice.random() < self.flakes:
            raise Flaked(page)
        return f"page {page}"
