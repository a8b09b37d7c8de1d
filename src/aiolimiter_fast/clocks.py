"""Clocks that date what is put into a bucket, in whole milliseconds."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from inspect import iscoroutinefunction
from typing import Any

from aiolimiter_fast._engine import engine

__all__ = ["AbstractClock", "MonotonicAsyncClock", "MonotonicClock", "PostgresClock", "WallClock"]

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


class PostgresClock(AbstractClock):
    """The time of a PostgreSQL server; the local time of day where that cannot be had, which is logged.

    Argument: pool, a pool of psycopg_pool. With an asynchronous one, `now` is to be awaited.
    """

    QUERY = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    log = logging.getLogger(__name__)

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    def now(self) -> Any:
        if iscoroutinefunction(getattr(self.pool, "getconn", None)):
            return self._now_async()
        try:
            with self.pool.connection() as conn, conn.cursor() as cursor:
                cursor.execute(self.QUERY)
                return int(cursor.fetchone()[0])
        except Exception:
            return self._local()

    async def _now_async(self) -> int:
        try:
            async with self.pool.connection() as conn, conn.cursor() as cursor:
                await cursor.execute(self.QUERY)
                return int((await cursor.fetchone())[0])
        except Exception:
            return self._local()

    def _local(self) -> int:
        self.log.warning("the server's time cannot be had, the local time is taken", exc_info=True)
        return WallClock().now()
