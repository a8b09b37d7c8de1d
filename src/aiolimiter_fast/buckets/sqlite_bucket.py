"""The bucket in an SQLite database, for the processes of one machine, and for what is to outlive a restart."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from aiolimiter_fast._budget import deadline as call_deadline
from aiolimiter_fast._budget import seconds_left
from aiolimiter_fast.abstracts.algorithm import (
    ADMITTED,
    Algorithm,
    Decision,
    FixedWindow,
    LogAlgorithm,
    SlidingWindowLog,
)
from aiolimiter_fast.abstracts.rate import Rate, RateItem
from aiolimiter_fast.buckets import _sqlite
from aiolimiter_fast.buckets._outage import BackendBucket, Outages
from aiolimiter_fast.buckets._readings import Reading
from aiolimiter_fast.buckets._sqlite_database import PATIENCE, Database, Ledger
from aiolimiter_fast.clocks import AbstractClock
from aiolimiter_fast.errors import BackendUnavailable
from aiolimiter_fast.utils import dedicated_sqlite_clock_connection

__all__ = ["Queries", "SQLiteBucket", "SQLiteClock"]

NANOSECONDS = 1_000_000
# Admissions from one pruning to the next.
PRUNE_EVERY = 256
# Milliseconds by which the newest entry may be ahead of the clock before it is said that the clock went back.
AHEAD = 1000


class Queries:
    """SQL for tables of pyrate-limiter's format, to be filled in with `str.format`; quotes in names are to be doubled.

    A bucket uses none of it. A table that is made by it is taken over by the first bucket that opens it.
    """

    CREATE_BUCKET_TABLE = 'CREATE TABLE IF NOT EXISTS "{table}" (name VARCHAR, item_timestamp INTEGER)'
    CREATE_INDEX_ON_TIMESTAMP = 'CREATE INDEX IF NOT EXISTS "{index_name}" ON "{table_name}" (item_timestamp)'
    COUNT_BEFORE_INSERT = (
        'SELECT :interval{index} AS interval, COUNT(*) FROM "{table}" WHERE item_timestamp >= :start{index}'
    )
    PUT_ITEM = 'INSERT INTO "{table}" (name, item_timestamp) VALUES (?, ?)'
    LEAK = 'DELETE FROM "{table}" WHERE rowid IN (SELECT rowid FROM "{table}" ORDER BY item_timestamp LIMIT {count})'
    COUNT_BEFORE_LEAK = 'SELECT COUNT(*) FROM "{table}" WHERE item_timestamp < {lower_bound}'
    FLUSH = 'DELETE FROM "{table}"'
    DROP_TABLE = 'DROP TABLE IF EXISTS "{table}"'
    DROP_INDEX = 'DROP INDEX IF EXISTS "{index}"'
    COUNT_ALL = 'SELECT COUNT(*) FROM "{table}"'
    GET_ALL_ITEM = 'SELECT * FROM "{table}" ORDER BY item_timestamp'
    GET_FIRST_ITEM = 'SELECT name, item_timestamp FROM "{table}" ORDER BY item_timestamp'
    GET_LAG = "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - MIN(item_timestamp) FROM \"{table}\""
    PEEK = 'SELECT * FROM "{table}" ORDER BY item_timestamp DESC LIMIT 1 OFFSET {count}'


# What a decision goes by: the item's time, its own, where each window starts, units in all and per window.
_View = tuple[int, int, list[int], int, list[int]]


class SQLiteBucket(BackendBucket):
    """A log of what was admitted, in a table of an SQLite database.

    Arguments:
        rates: one Rate or more, each longer, larger and slower than the one before.
        conn: a connection that this bucket may use, and close; from several threads if check_same_thread is false.
        table: the name of the table, any text without NUL. It is made if missing; one in pyrate-limiter's format is
            taken over, and what it holds counts in full.
        lock: a lock to hold around each decision, which is then the limiter's lock too. None is needed: SQLite's own
            keeps threads and processes apart.
        algorithm: a LogAlgorithm; default SlidingWindowLog.
        create_new_table: False refuses a missing table.
        reference_format: read and write pyrate-limiter's format, one row per unit, while both libraries use the table.
        on_backend_error: what to do when the file stays locked, or fails: "raise" BackendUnavailable (default); "open"
            admits; "closed" denies; "local" decides by a limiter in this process.
        on_state_loss: what to take a table for that has vanished with its file, or was dropped: "open", empty
            (default); "closed", full; "raise" BackendUnavailable once.
        local_share: the share of each limit that "local" admits in this process, above 0 and at most 1.
        budget: seconds that a call may wait for others. Default the timeout of the limiter's caller and 50 ms, or 5
            seconds where there is none.

    Each decision is one transaction, which takes the file's write lock from its beginning: one process that is killed
    at any moment leaves an item entered or not, and stops nobody. A refusal needs no lock where the bucket has a
    connection of its own. The time is the wall clock's, and if that steps back, what was admitted counts as admitted
    just now. An item whose time stamp is this bucket's `now()` is decided at the time of its transaction, any other at
    its time stamp.

    Where the bucket is scheduled by a factory, decisions remove what has left the longest window: no thread does.

    Raises ValueError for rates that make no sense together, or for a table in an unknown format.

    Example:
        import sqlite3
        from aiolimiter_fast import Rate, RateItem, SQLiteBucket

        with SQLiteBucket([Rate(2, 60_000)], sqlite3.connect(":memory:"), "requests") as bucket:
            assert bucket.put(RateItem("a", bucket.now(), weight=2))
            assert not bucket.put(RateItem("b", bucket.now()))
    """

    is_async = False
    blocks = True
    tries_at_once = 1
    _scheduled = False
    _made_from: tuple[Any, ...] | None = None

    def __init__(
        self,
        rates: list[Rate],
        conn: sqlite3.Connection,
        table: str,
        lock: Any = None,
        algorithm: Algorithm | None = None,
        *,
        create_new_table: bool = True,
        reference_format: bool = False,
        on_backend_error: str = "raise",
        on_state_loss: str = "open",
        local_share: float | None = None,
        budget: float | None = None,
    ) -> None:
        if not isinstance(conn, sqlite3.Connection):
            raise TypeError(f"conn must be a sqlite3.Connection, got {conn!r}")
        if getattr(conn, "autocommit", None) is False:
            raise ValueError("conn must not have autocommit=False: the bucket begins its own transactions")
        self._limiter_lock = lock
        self._open(
            rates, conn, table, lock, algorithm, create_new_table, reference_format,
            (on_backend_error, on_state_loss, local_share, budget),
        )  # fmt: skip

    def _open(
        self,
        rates: list[Rate],
        source: sqlite3.Connection | str,
        table: str,
        lock: Any,
        algorithm: Algorithm | None,
        create_new_table: bool,
        reference_format: bool,
        policy: tuple[Any, ...],
    ) -> None:
        if algorithm is not None:
            if not isinstance(algorithm, LogAlgorithm):
                raise TypeError(f"algorithm must be a LogAlgorithm, got {algorithm!r}")
            self._algorithm = algorithm
        self._is_counting = type(self._algorithm) in (SlidingWindowLog, FixedWindow)
        _sqlite.quoted(table)
        self.table = table
        self.outages = Outages((sqlite3.OperationalError,), *policy)
        self._puts = 0
        terms = 1, type(self._algorithm) is FixedWindow
        self._ledger = Ledger(Database(source), lock, table, terms, create_new_table, reference_format)
        self._ledger.is_plain &= self._is_counting
        self.rates = rates
        try:
            self.outages.ask(lambda _: self._run(lambda *_: None, None))
        except BackendUnavailable:
            if self.outages.on_backend_error == "raise":
                self._ledger.close()
                raise
        except BaseException:
            self._ledger.close()
            raise

    @classmethod
    def init_from_file(
        cls,
        rates: list[Rate],
        table: str = "rate_bucket",
        db_path: str | None = None,
        create_new_table: bool = True,
        use_file_lock: bool = False,
        algorithm: Algorithm | None = None,
        *,
        reference_format: bool = False,
        on_backend_error: str = "raise",
        on_state_loss: str = "open",
        local_share: float | None = None,
        budget: float | None = None,
    ) -> SQLiteBucket:
        """Make a bucket in a file, with a connection of its own; it can be pickled, and used in forked processes.

        Arguments:
            db_path: the file; None makes one in the folder for temporary files.
            use_file_lock: hold the lock `db_path + ".lock"` (by the package filelock) around each decision. Only
                beside a process that uses pyrate-limiter on the file, with its file lock, is that needed.

        Raises ValueError for use_file_lock without db_path, ImportError for it without filelock.
        """
        if db_path is None:
            if use_file_lock:
                raise ValueError("db_path must be given with use_file_lock=True, got None")
            db_path = str(Path(gettempdir(), f"pyrate_limiter_{time.time()}.sqlite"))
        path = str(db_path)
        policy = on_backend_error, on_state_loss, local_share, budget
        self = cls.__new__(cls)
        self._limiter_lock = None
        lock = _file_lock(path) if use_file_lock else None
        self._open(rates, path, table, lock, algorithm, create_new_table, reference_format, policy)
        self._made_from = (rates, table, path, create_new_table, use_file_lock, algorithm, reference_format, policy)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self._made_from is None:
            raise TypeError("an SQLiteBucket on a given connection cannot be pickled: make it with init_from_file")
        return _reopen, (type(self), self._scheduled, *self._made_from)

    @property
    def conn(self) -> sqlite3.Connection | None:
        """The connection; None when closed."""
        return self._ledger.database.conn

    @property
    def lock(self) -> Any:
        """What is held around each transaction."""
        return self._ledger.lock

    @property
    def rates(self) -> list[Rate]:
        """The rates by rising interval. Can be set while in use: the log stays."""
        return self._rates

    @rates.setter
    def rates(self, rates: list[Rate]) -> None:
        with self._ledger.database.mutex:
            BackendBucket.rates.fset(self, rates)  # type: ignore[attr-defined]
            self._ledger.prepare(len(self._rates))
        if self.outages.local_share is not None:
            self.outages.local(self._algorithm, self._rates)

    def now(self) -> int:
        """The wall clock's time in milliseconds."""
        return Reading(time.time_ns() // NANOSECONDS)

    def put(self, item: RateItem) -> bool:
        """Store the item if every rate has room for its weight, and say whether.

        Raises BackendUnavailable by the policy for outages, ValueError or TypeError for a wrong weight or name.
        """
        # What is plain is decided here at the least cost: a statement alone is a transaction that may write from its
        # beginning. Whatever is in the way, `_put_in_full` sees to it.
        ledger, weight, name, timestamp = self._ledger, item.weight, item.name, item.timestamp
        entry, kind = ledger.entry, type(timestamp)
        if (
            entry is None
            or (kind is not Reading and kind is not int)
            or type(weight) is not int
            or not 0 < weight < _sqlite.MOST
            or type(name) is not str
            or self.failing_rate is not None
            or getattr(item, "noted", None) is not None
            or time.monotonic() >= ledger.look_at
        ):
            return self.put_decision(item).failing_rate is None
        execute, enter, enter_at, acquire, release = entry
        if not acquire(False):
            return self.put_decision(item).failing_rate is None
        try:
            terms = self._terms(weight, name, timestamp)
            entered = execute(enter if kind is Reading else enter_at, terms).rowcount == 1
        except (sqlite3.DatabaseError, OverflowError):  # the latter from a limit that SQLite has no number for
            entered = False
        finally:
            release()
        if not entered:
            return self._put_in_full(item, True).failing_rate is None
        self._puts += 1
        if self._puts >= PRUNE_EVERY and self._scheduled:
            ledger.entry = None  # once
        return True

    def put_decision(self, item: RateItem) -> Decision:
        """Put the item, and say what came of it."""
        return self._put_in_full(item, self._ledger.is_plain or self.failing_rate is not None)

    def _put_in_full(self, item: RateItem, doubtful: bool) -> Decision:
        """Put an item of any kind; `doubtful`: see first whether it is refused, which takes nobody's lock."""
        weight, outages = item.weight, self.outages
        if not isinstance(weight, int):
            raise TypeError(f"weight must be a whole number, got {weight!r}")
        if not isinstance(item.name, str):
            raise TypeError(f"name must be a string, got {item.name!r}")
        if weight <= 0 or outages._down_until or (weight > self._rates[0].limit and self._is_counting):
            decision: Decision = super().put_decision(item)
            return decision
        try:
            refusal = self._run(self._refuse, item, write=False) if doubtful and self._ledger.is_plain else None
            decision = refusal or self._run(self._put if doubtful else self._enter, item)
        except outages.errors as error:
            self._ledger.entry = None
            decision = outages._failed(error, self._algorithm, self._rates, weight)
        return self._note(item, decision)

    def _refuse(self, execute: Any, log: _sqlite.Table, item: RateItem) -> Decision | None:
        """Refuse the item; None if there may be room."""
        at = self.now() if type(item.timestamp) is Reading else item.timestamp
        starts = self._starts(at)
        newest, total, counts = log.use(execute, starts)
        if newest is None or newest > at:
            return None
        decision = self._judge(execute, log, (at, at, starts, total, counts), item.weight, self._rates, counts)
        return None if decision.failing_rate is None else decision

    def _decide(self, item: RateItem, seconds: float) -> Decision:
        decision: Decision = self._run(self._put, item)
        return decision

    def _enter(self, execute: Any, log: _sqlite.Table, item: RateItem) -> Decision:
        """Put the item, which will most likely be admitted."""
        if self._is_counting and isinstance(log, _sqlite.RunTable):
            at = self.now() if type(item.timestamp) is Reading else item.timestamp
            with suppress(OverflowError):
                if execute(log.enter_at, self._terms(item.weight, item.name, at)).rowcount == 1:
                    return self._admitted(execute, log, at)
        return self._put(execute, log, item)

    def _terms(self, weight: int, name: str, timestamp: int) -> list[Any]:
        """The parameters of a statement that enters an item."""
        terms: list[Any] = [weight, name, timestamp]
        for rate in self._rates:
            terms += rate.limit, rate.interval
        return terms

    def _admitted(self, execute: Any, log: _sqlite.Table, at: int) -> Decision:
        """Remove now and then what has left the longest window."""
        self._puts += 1
        if self._puts >= PRUNE_EVERY:
            self._puts = 0
            if self._scheduled:
                log.prune(execute, self._bound(at))
        return ADMITTED

    def _put(self, execute: Any, log: _sqlite.Table, item: RateItem) -> Decision:
        weight, rates = item.weight, self._rates
        view = self._look(execute, log, item.timestamp)
        _, at, _, total, counts = view
        if self._is_counting:  # what the algorithm would say, if it is to admit
            decision = ADMITTED
            for index, count in enumerate(counts):
                if rates[index].limit - count < weight:
                    decision = self._judge(execute, log, view, weight, rates, counts)
                    break
        else:
            decision = self._judge(execute, log, view, weight, rates, counts)
        if decision.failing_rate is not None:
            return decision
        log.append(execute, at, total, weight, item.name)
        return self._admitted(execute, log, at)

    def _look(self, execute: Any, log: _sqlite.Table, timestamp: int) -> _View:
        """See what each rate's window holds at the time of a decision."""
        now = at = self.now() if type(timestamp) is Reading else timestamp
        starts = self._starts(at)
        newest, total, counts = log.use(execute, starts)
        if newest is not None and newest > at:
            at = self._catch_up(execute, log, newest, at)
            starts = self._starts(at)
            newest, total, counts = log.use(execute, starts)
        return now, at, starts, total, counts

    def _starts(self, at: int) -> list[int]:
        """Where each rate's window starts."""
        algorithm: Any = self._algorithm
        if type(algorithm) is SlidingWindowLog:
            return [at - rate.interval for rate in self._rates]
        return [algorithm.window_start(rate, at) for rate in self._rates]

    def _judge(
        self,
        execute: Any,
        log: _sqlite.Table,
        view: _View,
        weight: int,
        rates: Sequence[Rate],
        counts: Sequence[int],
    ) -> Decision:
        """Let the algorithm decide; the wait is counted from the item's own time stamp."""

        now, at, starts, total, used = view

        def time_of(offset: int) -> int | None:
            # The shortest window that holds the unit is that of the rate that refused, so the unit is near its start.
            for start, count in zip(starts, used, strict=True):
                if count > offset:
                    return log.time_of(execute, offset, total, start, count)
            return None

        algorithm: Any = self._algorithm
        decision: Decision = algorithm.decide(rates, counts, weight, at, time_of)
        if decision.retry_after_ms is None or at == now:
            return decision
        return Decision(decision.failing_rate, decision.retry_after_ms + at - now)

    def _catch_up(self, execute: Any, log: _sqlite.Table, newest: int, at: int) -> int:
        """The time of a decision after an entry that is later than its clock."""
        if type(at) is not Reading or newest - at <= AHEAD:
            return newest
        # The clock went back. Whatever the entries say, they were made before now.
        log.redate(execute, at)
        return at

    def _bound(self, now: int) -> int:
        algorithm: Any = self._algorithm
        bound: int = algorithm.leak_bound(self._rates, now)
        return bound

    def _seconds(self) -> float:
        """Seconds that a call may take."""
        budget = self.outages.budget
        return PATIENCE if budget is None and call_deadline.get() is None else seconds_left(budget)

    def _query(self, action: Callable[..., Any], argument: Any = None, write: bool = True) -> Any:
        """`_run` what is no decision."""
        return self.outages.ask(lambda _: self._run(action, argument, write))

    def _run(self, action: Callable[..., Any], argument: Any, write: bool = True) -> Any:
        """Call `action(execute, log, argument)` in one transaction; `write` false: it changes nothing."""
        return self._ledger.run(action, argument, write, self._seconds, self._lose)

    def _lose(self, execute: Any, log: _sqlite.Table) -> None:
        """Act on the loss of the table, in the transaction that made another."""
        if self.outages.on_state_loss == "closed":
            log.append(execute, self.now(), 0, int(self._rates[-1].limit), "lost")
        if self.outages.on_state_loss == "raise":
            execute("COMMIT")
            raise BackendUnavailable(f"the table {self.table!r} was lost")

    def leak(self, current_timestamp: int | None = None) -> int:
        """Forget what is in no window any more at `current_timestamp` (ms); return how many units, 0 after `close`."""
        if self._ledger.database.closed:
            return 0
        if current_timestamp is None:
            raise AssertionError("leak() needs the current timestamp, got None")
        bound = self._bound(current_timestamp)
        return int(self._query(lambda execute, log, bound: log.leak(execute, bound), bound))

    def scheduled(self) -> None:
        """Remove now and then, from now on, what has left the longest window."""
        self._scheduled = True

    def flush(self) -> None:
        """Forget everything that was admitted."""
        self._query(lambda execute, log, _: log.flush(execute))
        self.failing_rate = self._last_wait = None

    def count(self) -> int:
        """Units in the log; where nobody has scheduled the bucket, also those that have left the longest window."""
        since = self._bound(self.now()) if self._scheduled else None
        return int(self._query(lambda execute, log, since: log.count(execute, since), since, write=False))

    def peek(self, index: int) -> RateItem | None:
        """The item to which the unit at `index` belongs: 0 is the newest, -1 the oldest."""
        entry = self._query(lambda execute, log, index: log.unit(execute, index), index, write=False)
        return None if entry is None else RateItem(*entry)

    def remaining(self) -> list[int]:
        """Permits left now, per rate in order of interval."""
        now = self.now()

        def left(execute: Any, log: _sqlite.Table, now: int) -> list[int]:
            counts = log.use(execute, self._starts(now))[2]
            return [max(rate.limit - count, 0) for rate, count in zip(self._rates, counts, strict=True)]

        result: list[int] = self._query(left, now, write=False)
        return result

    def wait_time(self, weight: int = 1) -> float:
        """Seconds until `weight` permits would be admitted; inf if never."""
        rates = self._rates
        if any(weight > self._algorithm.max_weight(rate) for rate in rates):
            return float("inf")
        now = Reading(self.now())

        def longest(execute: Any, log: _sqlite.Table, now: int) -> int:
            view = self._look(execute, log, now)
            decisions = (
                self._judge(execute, log, view, weight, [rate], [count])
                for rate, count in zip(rates, view[4], strict=True)
            )
            return max(decision.retry_after_ms or 0 for decision in decisions)

        return float(self._query(longest, now)) / 1000

    def limiter_lock(self) -> Any:
        """The lock that was given, which a limiter is to hold as well."""
        return self._limiter_lock

    def close(self) -> None:
        """Close the connection. What was admitted stays in the table."""
        self._ledger.close()


def _file_lock(path: str) -> Any:
    try:
        from filelock import FileLock
    except ImportError as error:
        raise ImportError("use_file_lock=True needs the package filelock: pip install filelock") from error
    return FileLock(path + ".lock")


def _reopen(cls: type[SQLiteBucket], scheduled: bool, *arguments: Any) -> SQLiteBucket:
    *positional, reference_format, policy = arguments
    names = ("on_backend_error", "on_state_loss", "local_share", "budget")
    bucket = cls.init_from_file(*positional, reference_format=reference_format, **dict(zip(names, policy, strict=True)))
    bucket._scheduled = scheduled
    return bucket


class SQLiteClock(AbstractClock):
    """The time of day, as SQLite tells it.

    Argument: conn, a connection, or an SQLiteBucket whose connection is used under its lock.
    """

    QUERY = "SELECT CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"

    def __init__(self, conn: sqlite3.Connection | SQLiteBucket) -> None:
        self._bucket = conn if isinstance(conn, SQLiteBucket) else None
        self.lock: Any = None if self._bucket is None else self._bucket.lock
        self._conn = None if isinstance(conn, SQLiteBucket) else conn

    @property
    def conn(self) -> sqlite3.Connection | None:
        """The connection."""
        return self._conn if self._bucket is None else self._bucket.conn

    @classmethod
    def default(cls) -> SQLiteClock:
        """A clock on a connection of its own."""
        return cls(dedicated_sqlite_clock_connection())

    def now(self) -> int:
        """Milliseconds since 1970."""
        with nullcontext() if self.lock is None else self.lock:
            conn = self.conn
            if conn is None:
                raise RuntimeError("the clock's connection is closed")
            cursor = conn.cursor()
            cursor.row_factory = None
            milliseconds = int(cursor.execute(self.QUERY).fetchone()[0])
            cursor.close()
        return milliseconds if self._bucket is None else Reading(milliseconds)
