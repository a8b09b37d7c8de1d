"""The bucket in PostgreSQL, for processes on any number of hosts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiolimiter_fast.abstracts.algorithm import ADMITTED, Algorithm, Decision, FixedWindow, SlidingWindowLog
from aiolimiter_fast.abstracts.rate import Rate, RateItem
from aiolimiter_fast.buckets import _postgres
from aiolimiter_fast.buckets._outage import BackendBucket, Outages
from aiolimiter_fast.buckets._postgres import advisory_lock_id
from aiolimiter_fast.buckets._postgres_links import link_to
from aiolimiter_fast.buckets._readings import Reading
from aiolimiter_fast.clocks import PostgresClock
from aiolimiter_fast.errors import BackendUnavailable

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool, ConnectionPool

__all__ = ["PostgresBucket", "Queries", "advisory_lock_id"]

NANOSECONDS = 1_000_000
# Permits up to which the running total has room for thousands of full windows.
MOST = 1 << 50
# Admissions from one pruning to the next.
PRUNE_EVERY = 64


class Queries:
    """SQL for tables of pyrate-limiter's format, for `psycopg.sql`. A bucket uses none of it."""

    CREATE_BUCKET_TABLE = "CREATE TABLE IF NOT EXISTS {table} (name VARCHAR, weight SMALLINT, item_timestamp TIMESTAMP)"
    CREATE_INDEX_ON_TIMESTAMP = "CREATE INDEX IF NOT EXISTS {index} ON {table} (item_timestamp)"
    LOCK_TABLE = "LOCK TABLE {table} IN EXCLUSIVE MODE NOWAIT"
    COUNT = "SELECT COUNT(*) FROM {table}"
    COUNT_WINDOW = (
        "SELECT COUNT(*) FROM {table} WHERE item_timestamp >= TO_TIMESTAMP(%s) - %s * INTERVAL '1 milliseconds'"
    )
    PUT = (
        "INSERT INTO {table} (name, weight, item_timestamp) SELECT %s, %s, TO_TIMESTAMP(%s) FROM generate_series(1, %s)"
    )
    FLUSH = "DELETE FROM {table}"
    PEEK = (
        "SELECT name, weight, extract(epoch FROM item_timestamp::TIMESTAMPTZ) * 1000 AS item_timestamp FROM {table}"
        " ORDER BY item_timestamp DESC LIMIT 1 OFFSET %s"
    )
    LEAK = "DELETE FROM {table} WHERE item_timestamp < TO_TIMESTAMP(%s)"
    LEAK_COUNT = "SELECT COUNT(*) FROM {table} WHERE item_timestamp < TO_TIMESTAMP(%s)"


class PostgresBucket(BackendBucket):
    """A log of what was admitted, in a table of a PostgreSQL database; each decision is one statement there.

    Arguments:
        pool: a ConnectionPool or AsyncConnectionPool of psycopg_pool.
        table: the limit's name, in lower case at most 51 bytes without NUL. The table `ratelimit___<table>` is made if
            missing, with a function that decides; one in pyrate-limiter's format is taken over and counts in full.
        rates: one Rate or more, each longer, larger and slower than the one before.
        algorithm: SlidingWindowLog (default) or FixedWindow.
        reference_format: read and write pyrate-limiter's format, one row per unit, while both libraries use the table.
        on_backend_error: what to do when the server fails or does not answer: "raise" BackendUnavailable (default);
            "open" admits; "closed" denies; "local" decides by a limiter in this process.
        on_state_loss: what to take a table for that has vanished, by a failover to an empty server for one: "open",
            empty (default); "closed", full; "raise" BackendUnavailable once.
        local_share: the share of each limit that "local" admits in this process, above 0 and at most 1.
        budget: seconds that a call may take, the wait for a connection included. Default the timeout of the limiter's
            caller and 50 ms, or a second where there is none.

    Decisions wait for each other in the server, under an advisory lock that ends with the statement; who is denied and
    waits for permits holds no connection. The time is the server's, so neither clocks nor time zones of clients matter;
    if it steps back, what was admitted counts as admitted just now. An item whose time stamp is this bucket's `now()`
    is decided at the server's time, any other at its time stamp. Methods are to be awaited where the pool is
    asynchronous; a synchronous pool holds up no event loop.

    Raises ValueError or TypeError for arguments that make no sense, or for a table in an unknown format.

    Example:
        from psycopg_pool import ConnectionPool
        from aiolimiter_fast import Duration, Limiter, PostgresBucket, Rate

        pool = ConnectionPool("dbname=limits")
        limiter = Limiter(PostgresBucket(pool, "api", [Rate(10, Duration.SECOND)]))
    """

    def __init__(
        self,
        pool: ConnectionPool | AsyncConnectionPool,
        table: str,
        rates: list[Rate],
        algorithm: Algorithm | None = None,
        *,
        reference_format: bool = False,
        on_backend_error: str = "raise",
        on_state_loss: str = "open",
        local_share: float | None = None,
        budget: float | None = None,
    ) -> None:
        import psycopg
        from psycopg import errors

        if algorithm is not None:
            if type(algorithm) not in (SlidingWindowLog, FixedWindow):
                raise TypeError(f"algorithm must be SlidingWindowLog or FixedWindow, got {algorithm!r}")
            self._algorithm = algorithm
        self._link: Any = link_to(pool)
        self._full_tbl = _postgres.checked(table)
        self.table = table.lower()
        self.pool = pool
        self._clock = PostgresClock(pool)
        self.is_async = self._link.is_async
        self.blocks = not self.is_async
        failures = (psycopg.OperationalError, psycopg.InterfaceError, errors.ReadOnlySqlTransaction)
        self.outages = Outages(failures, on_backend_error, on_state_loss, local_share, budget)
        # What says that the table is not as it was: removed, or brought into another format by another process.
        self._changes = (
            errors.UndefinedTable, errors.UndefinedFunction, errors.UndefinedColumn, errors.NotNullViolation,
            errors.InvalidSchemaName,
        )  # fmt: skip
        self._reference = reference_format
        self._statements: _postgres.Statements | None = None
        self._found = False  # the table was there, or was made, once
        self._scheduled = False
        self._puts = 0
        self.rates = rates
        if not self.is_async:
            self._prepare()

    def _prepare(self) -> None:
        """Find or make the table at once, so that what is wrong with it is said here."""
        try:
            self.outages.ask(self._follow)
        except BackendUnavailable:
            if self.outages.on_backend_error == "raise":
                raise

    @property
    def rates(self) -> list[Rate]:
        """The rates by rising interval. Can be set while in use: the log stays."""
        return self._rates

    @rates.setter
    def rates(self, rates: list[Rate]) -> None:
        BackendBucket.rates.fset(self, rates)  # type: ignore[attr-defined]
        for rate in self._rates:
            if rate.limit != int(rate.limit) or rate.limit > MOST:
                raise ValueError(f"limit must be a whole number up to {MOST} for PostgreSQL, got {rate!r}")
        if self.outages.local_share is not None:
            self.outages.local(self._algorithm, self._rates)
        self._statements = None

    def now(self) -> int:
        """The wall clock's time in milliseconds, of this machine. Decisions are made by the server's."""
        return Reading(time.time_ns() // NANOSECONDS)

    def _known(self, item: RateItem) -> Decision | None:
        """What needs no server; refuses what it could not store."""
        if not isinstance(item.weight, int):
            raise TypeError(f"weight must be a whole number, got {item.weight!r}")
        name = item.name
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, got {name!r}")
        if "\0" in name:
            raise ValueError(f"name must have no NUL for PostgreSQL, got {name!r}")
        if not name.isascii():
            name.encode()  # raises UnicodeEncodeError, a ValueError
        return super()._known(item)

    def _decide(self, item: RateItem, seconds: float) -> Any:
        return self._asked(self._put, item, seconds)

    def _put(self, statements: _postgres.Statements, item: RateItem) -> tuple[str, Any, Any]:
        """The statement, its arguments, and what reads the answer."""
        self._puts += 1
        prune = self._scheduled and not self._puts % PRUNE_EVERY
        timestamp = item.timestamp
        if type(timestamp) is Reading:
            put = statements.put_and_prune if prune else statements.put
            return put, (item.weight, item.name), self._read
        return statements.put_at, (item.weight, item.name, int(timestamp), prune), self._read

    def _read(self, row: Any) -> Decision:
        if row[0] is None:
            return ADMITTED
        failing, wait = row[0]
        return Decision(self._rates[failing - 1], None if wait < 0 else wait)

    # How a statement is asked: after the table was found, and once more if it turns out to have changed.

    def _asked(self, action: Callable[..., Any], argument: Any, seconds: float) -> Any:
        if self.is_async:
            return self._asked_async(action, argument, seconds)
        deadline = time.monotonic() + seconds
        for last in (False, True):
            statements = self._statements or self._follow(deadline - time.monotonic())
            statement, arguments, read = action(statements, argument)
            try:
                return read(self._link.ask(statement, arguments, deadline - time.monotonic()))
            except self._changes:
                self._statements = None
                if last:
                    raise
        raise AssertionError  # not reached

    async def _asked_async(self, action: Callable[..., Any], argument: Any, seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        for last in (False, True):
            statements = self._statements or await self._follow_async(deadline - time.monotonic())
            statement, arguments, read = action(statements, argument)
            try:
                return read(await self._link.ask(statement, arguments, deadline - time.monotonic()))
            except self._changes:
                self._statements = None
                if last:
                    raise
        raise AssertionError  # not reached

    def _steps(self) -> _postgres.Steps:
        terms = [(int(rate.limit), rate.interval) for rate in self._rates]
        full = self._found and self.outages.on_state_loss == "closed"
        return _postgres.set_up(self._full_tbl, terms, type(self._algorithm) is FixedWindow, self._reference, full)

    def _follow(self, seconds: float) -> _postgres.Statements:
        return self._known_as(self._link.follow(self._steps(), seconds))

    async def _follow_async(self, seconds: float) -> _postgres.Statements:
        return self._known_as(await self._link.follow(self._steps(), seconds))

    def _known_as(self, statements: _postgres.Statements) -> _postgres.Statements:
        is_lost = self._found and statements.made
        self._statements, self._found = statements, True
        if is_lost and self.outages.on_state_loss == "raise":
            raise BackendUnavailable(f"the server has lost the table {self._full_tbl!r}")
        return statements

    def _look(self, action: Callable[..., Any], argument: Any = None) -> Any:
        """Ask what is no decision."""

        def attempt(seconds: float) -> Any:
            return self._asked(action, argument, seconds)

        return self.outages.ask_async(attempt) if self.is_async else self.outages.ask(attempt)

    def count(self) -> Any:
        """Units in the log; where nobody has scheduled the bucket, also those that have left the longest window."""

        def action(statements: _postgres.Statements, _: Any) -> Any:
            return statements.count_since if self._scheduled else statements.count, (), _number

        return self._look(action)

    def leak(self, current_timestamp: int | None = None) -> Any:
        """Forget what is in no window any more at `current_timestamp` (ms), or by the server's clock where that is this
        bucket's `now()`; return how many units. It needs not be called where the bucket is scheduled by a factory.
        """
        if current_timestamp is None:
            raise AssertionError("leak() needs the current timestamp, got None")
        if type(current_timestamp) is Reading:
            return self._look(lambda statements, _: (statements.leak, (), _number))
        algorithm: Any = self._algorithm
        bound = int(algorithm.leak_bound(self._rates, current_timestamp))
        return self._look(lambda statements, bound: (statements.leak_at, (bound,), _number), bound)

    def scheduled(self) -> None:
        """Remove now and then, from now on, what has left the longest window."""
        self._scheduled = True

    def peek(self, index: int) -> Any:
        """The item to which the unit at `index` belongs: 0 is the newest, -1 the oldest; None if there is none."""
        if index >= 0:
            return self._look(lambda statements, index: (statements.newest, (index, index), _item), index)
        return self._look(lambda statements, index: (statements.oldest, (-index,), _item), index)

    def flush(self) -> Any:
        """Forget everything that was admitted."""
        self.failing_rate = self._last_wait = None
        return self._look(lambda statements, _: (statements.flush, (), _nothing))

    def remaining(self) -> list[int]:
        """Permits left now, per rate in order of interval."""
        counts = self._ask_now(lambda statements, _: (statements.used, (), list))
        return [max(int(rate.limit) - count, 0) for rate, count in zip(self._rates, counts, strict=True)]

    def wait_time(self, weight: int = 1) -> float:
        """Seconds until `weight` permits would be admitted; inf if never."""
        if weight > self._rates[0].limit:
            return float("inf")
        if self._reference:
            raise NotImplementedError("wait_time() is not there for reference_format")
        if type(self._algorithm) is FixedWindow and all(left >= weight for left in self.remaining()):
            return 0.0
        milliseconds = self._ask_now(lambda statements, weight: (statements.wait, {"units": weight}, _number), weight)
        return max(float(milliseconds), 0.0) / 1000

    def _ask_now(self, action: Callable[..., Any], argument: Any = None) -> Any:
        if self.is_async:
            raise NotImplementedError("an asynchronous pool cannot be asked from synchronous code")
        return self._look(action, argument)

    def close(self) -> Any:
        """Close the pool, as pyrate-limiter does. An asynchronous one needs its running loop, and can be awaited."""
        pool: Any = self.pool
        if not self.is_async:
            return pool.close()
        try:
            return asyncio.ensure_future(pool.close(), loop=asyncio.get_running_loop())
        except RuntimeError:
            return None


def _number(row: Any) -> int:
    return int(row[0])


def _nothing(row: Any) -> None:
    return None


def _item(row: Any) -> RateItem | None:
    return None if row is None else RateItem(row[0], int(row[1]), int(row[2]))
