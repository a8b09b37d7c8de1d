"""The bucket in an SQLite database, for the processes of one machine, and for what is to outlive a restart."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from aiolimiter_fast.abstracts.algorithm import ADMITTED, Algorithm, Decision, FixedWindow, LogAlgorithm, SlidingWindowLog
from aiolimiter_fast.abstracts.bucket import AbstractBucket
from aiolimiter_fast.abstracts.rate import Rate, RateItem
from aiolimiter_fast.buckets import _sqlite
from aiolimiter_fast.buckets._readings import Reading
from aiolimiter_fast.clocks import AbstractClock
from aiolimiter_fast.utils import dedicated_sqlite_clock_connection

__all__ = ["Queries", "SQLiteBucket", "SQLiteClock"]

NANOSECONDS = 1_000_000
# Seconds to wait for other processes.
PATIENCE = 5.0
# Seconds from one try to get the file's lock to the next: the first, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.0003, 0.01
# Admissions from one pruning to the next.
PRUNE_EVERY = 64
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
    LEAK = (
        'DELETE FROM "{table}" WHERE rowid IN (SELECT rowid FROM "{table}" ORDER BY item_timestamp LIMIT {count})'
    )
    COUNT_BEFORE_LEAK = 'SELECT COUNT(*) FROM "{table}" WHERE item_timestamp < {lower_bound}'
    FLUSH = 'DELETE FROM "{table}"'
    DROP_TABLE = 'DROP TABLE IF EXISTS "{table}"'
    DROP_INDEX = 'DROP INDEX IF EXISTS "{index}"'
    COUNT_ALL = 'SELECT COUNT(*) FROM "{table}"'
    GET_ALL_ITEM = 'SELECT * FROM "{table}" ORDER BY item_timestamp'
    GET_FIRST_ITEM = 'SELECT name, item_timestamp FROM "{table}" ORDER BY item_timestamp'
    GET_LAG = (
        "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - MIN(item_timestamp) FROM \"{table}\""
    )
    PEEK = 'SELECT * FROM "{table}" ORDER BY item_timestamp DESC LIMIT 1 OFFSET {count}'


# What a decision goes by: the item's time, its own, where each window starts, units in all and per window.
_View = tuple[int, int, list[int], int, list[int]]


class SQLiteBucket(AbstractBucket):
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

    Each decision is one transaction, which takes the file's write lock from its beginning: one process that is killed
    at any moment leaves an item entered or not, and stops nobody. The time is the wall clock's, and if that steps back,
    what was admitted counts as admitted just now. An item whose time stamp is this bucket's `now()` is decided at the
    time of its transaction, any other at its time stamp.

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
    needs_leak = False
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
    ) -> None:
        if not isinstance(conn, sqlite3.Connection):
            raise TypeError(f"conn must be a sqlite3.Connection, got {conn!r}")
        if getattr(conn, "autocommit", None) is False:
            raise ValueError("conn must not have autocommit=False: the bucket begins its own transactions")
        self._open(rates, conn, table, algorithm, create_new_table, reference_format)
        self._limiter_lock = lock
        if lock is not None:
            self.lock = lock

    def _open(
        self,
        rates: list[Rate],
        source: sqlite3.Connection | Callable[[], sqlite3.Connection],
        table: str,
        algorithm: Algorithm | None,
        create_new_table: bool,
        reference_format: bool,
    ) -> None:
        if algorithm is not None:
            if not isinstance(algorithm, LogAlgorithm):
                raise TypeError(f"algorithm must be a LogAlgorithm, got {algorithm!r}")
            self._algorithm = algorithm
        self._is_counting = type(self._algorithm) in (SlidingWindowLog, FixedWindow)
        _sqlite.quoted(table)
        self.table = table
        self._create, self._reference = create_new_table, reference_format
        self._log: _sqlite.Table | None = None
        self._puts = 0
        self.rates = rates
        self._database = _sqlite.Database(source)
        self.lock: Any = self._database.mutex
        self._limiter_lock: Any = None
        try:
            self._run(lambda execute, log, _: None, None)
        except BaseException:
            self._database.close()
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
    ) -> SQLiteBucket:
        """Make a bucket in a file, with a connection of its own; it can be pickled, and used in forked processes.

        Arguments:
            db_path: the file; None makes one in the folder for temporary files.
            use_file_lock: hold the lock `db_path + ".lock"` (by the package filelock) around each decision. Only a
                process that uses pyrate-limiter on the same file with its file lock needs that.

        Raises ValueError for use_file_lock without db_path, ImportError for it without filelock.
        """
        if db_path is None:
            if use_file_lock:
                raise ValueError("db_path must be given with use_file_lock=True, got None")
            db_path = str(Path(gettempdir(), f"pyrate_limiter_{time.time()}.sqlite"))
        path = str(db_path)
        lock = _file_lock(path) if use_file_lock else None
        self = cls.__new__(cls)
        with nullcontext() if lock is None else lock:
            self._open(rates, partial(_connect, path), table, algorithm, create_new_table, reference_format)
        if lock is not None:
            self.lock = lock
        self._made_from = (rates, table, path, create_new_table, use_file_lock, algorithm, reference_format)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self._made_from is None:
            raise TypeError("an SQLiteBucket on a given connection cannot be pickled: make it with init_from_file")
        return _reopen, (type(self), self._scheduled, *self._made_from)

    @property
    def conn(self) -> sqlite3.Connection | None:
        """The connection; None when closed."""
        conn: sqlite3.Connection | None = self._database.conn
        return conn

    @property
    def rates(self) -> list[Rate]:
        """The rates by rising interval. Can be set while in use: the log stays."""
        return self._rates

    @rates.setter
    def rates(self, rates: list[Rate]) -> None:
        AbstractBucket.rates.fset(self, rates)  # type: ignore[attr-defined]
        if self._log is not None:
            self._log.prepare(len(self._rates))

    def now(self) -> int:
        """The wall clock's time in milliseconds."""
        return Reading(time.time_ns() // NANOSECONDS)

    def put(self, item: RateItem) -> bool:
        """Store the item if every rate has room for its weight, and say whether.

        Raises sqlite3.OperationalError if another process holds the file's lock for too long.
        """
        weight = item.weight
        if weight <= 0:
            if weight < 0:
                raise ValueError(f"weight must be 0 or more, got {weight!r}")
            self.failing_rate = self._last_wait = None
            return True
        if not isinstance(item.name, str):
            raise TypeError(f"name must be a string, got {item.name!r}")
        decision: Decision = self._run(self._put, item)
        rate, wait = decision.failing_rate, decision.retry_after_ms
        self._last_wait = None if wait is None else (weight, item.timestamp + wait)
        self.failing_rate = rate
        return rate is None

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
        if decision.failing_rate is None:
            log.append(execute, at, total, weight, item.name)
            self._puts += 1
            if self._scheduled and not self._puts % PRUNE_EVERY:
                log.prune(execute, self._bound(at))
        return decision

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
                    return log.time_of(execute, offset, total, start)
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

    def _run(self, action: Callable[..., Any], argument: Any, write: bool = True) -> Any:
        """Call `action(execute, log, argument)` in one transaction; `write` false: it changes nothing."""
        lock, database = self.lock, self._database
        if not lock.acquire(timeout=PATIENCE):
            raise sqlite3.OperationalError("another thread holds the lock of this bucket")
        try:
            if lock is database.mutex:
                return self._transact(action, argument, write)
            with database.mutex:
                return self._transact(action, argument, write)
        finally:
            lock.release()

    def _transact(self, action: Callable[..., Any], argument: Any, write: bool) -> Any:
        database, tries = self._database, 0
        while True:
            try:
                execute = database.execute or database.open()
                execute("BEGIN IMMEDIATE" if write else "BEGIN")
                result = action(execute, self._log or self._find(execute), argument)
                execute("COMMIT")
            except (sqlite3.OperationalError, sqlite3.IntegrityError) as error:
                if str(error).startswith("cannot start a transaction"):
                    raise RuntimeError("the bucket's connection has a transaction open: commit it first") from error
                database.rollback()
                if _sqlite.is_changed(error) and self._log is not None:
                    # Another process has brought the table into another format, or removed it.
                    self._log, write = None, True
                    continue
                if not _sqlite.is_busy(error):
                    raise
                tries += 1
                if tries == 1:
                    deadline = time.monotonic() + PATIENCE
                elif time.monotonic() >= deadline:
                    raise
                # Who waits least is served first: nobody waits long.
                time.sleep(random.uniform(0.5, 1) * min(FIRST_PAUSE * 1.5**tries, LONGEST_PAUSE))
            except BaseException:
                database.rollback()
                raise
            else:
                return result

    def _find(self, execute: Any) -> _sqlite.Table:
        self._log = _sqlite.open_table(
            execute, self.table, len(self._rates), create=self._create, reference=self._reference
        )
        return self._log

    def leak(self, current_timestamp: int | None = None) -> int:
        """Forget what is in no window any more at `current_timestamp` (ms); return how many units, 0 after `close`."""
        if self._database.closed:
            return 0
        if current_timestamp is None:
            raise AssertionError("leak() needs the current timestamp, got None")
        bound = self._bound(current_timestamp)
        return int(self._run(lambda execute, log, bound: log.leak(execute, bound), bound))

    def scheduled(self) -> None:
        """Remove now and then, from now on, what has left the longest window."""
        self._scheduled = True

    def flush(self) -> None:
        """Forget everything that was admitted."""
        self._run(lambda execute, log, _: log.flush(execute), None)
        self.failing_rate = self._last_wait = None

    def count(self) -> int:
        """Units in the log; those that have left the longest window count only where nobody has scheduled the bucket."""
        since = self._bound(self.now()) if self._scheduled else None
        return int(self._run(lambda execute, log, since: log.count(execute, since), since, write=False))

    def peek(self, index: int) -> RateItem | None:
        """The item to which the unit at `index` belongs: 0 is the newest, -1 the oldest."""
        entry = self._run(lambda execute, log, index: log.unit(execute, index), index, write=False)
        return None if entry is None else RateItem(*entry)

    def remaining(self) -> list[int]:
        """Permits left now, per rate in order of interval."""
        now = self.now()

        def left(execute: Any, log: _sqlite.Table, now: int) -> list[int]:
            counts = log.use(execute, self._starts(now))[2]
            return [max(rate.limit - count, 0) for rate, count in zip(self._rates, counts, strict=True)]

        result: list[int] = self._run(left, now, write=False)
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

        return float(self._run(longest, now)) / 1000

    def limiter_lock(self) -> Any:
        """The lock that was given, which a limiter is to hold as well."""
        return self._limiter_lock

    def close(self) -> None:
        """Close the connection. What was admitted stays in the table."""
        self._database.close()


def _connect(path: str) -> sqlite3.Connection:
    conn = _sqlite.connect(path)
    try:
        _sqlite.set_up(conn, time.monotonic() + PATIENCE)
    except BaseException:
        conn.close()
        raise
    return conn


def _file_lock(path: str) -> Any:
    try:
        from filelock import FileLock
    except ImportError as error:
        raise ImportError("use_file_lock=True needs the package filelock: pip install filelock") from error
    return FileLock(path + ".lock")


def _reopen(cls: type[SQLiteBucket], scheduled: bool, *arguments: Any) -> SQLiteBucket:
    bucket = cls.init_from_file(*arguments[:6], reference_format=arguments[6])
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
