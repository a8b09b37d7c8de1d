"""Clocks that date what is put into a bucket, in whole milliseconds."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable

from aiolimiter_fast._engine import engine

__all__ = ["AbstractClock", "MonotonicAsyncClock", "MonotonicClock", "WallClock"]

NANOSECONDS = 1_000_000


class AbstractClock(ABC):
    """A clock.

    One that also has `now_ns`, whole nanoseconds, serves in-memory buckets exactly; its `now` is then to be the same
    instant.
    """

    @abstractmethod
    def now(self) -> int | Awaitable[int]:
        """Milliseconds since any fixed instant."""


class MonotonicClock(AbstractClock, engine.Watched):
    """The machine's monotonic clock: no daylight saving, no one who sets it, and none who freezes it for a test."""

    _read = staticmethod(time.monotonic_ns)

    def now(self) -> int:
        return self._read() // NANOSECONDS


class MonotonicAsyncClock(AbstractClock):
    """The monotonic clock, to be awaited."""

    async def now(self) -> int:
        return time.monotonic_ns() // NANOSECONDS


class WallClock(AbstractClock):
    """The time of day, for what outlives a restart or is shared between machines."""

    def now(self) -> int:
        return time.time_ns() // NANOSECONDS
