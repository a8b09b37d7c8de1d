"""A database of SQLite: its connection, and transactions on a table of it."""

from __future__ import annotations

import os
import random
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakSet

from aiolimiter_fast.buckets._sqlite import RunTable, Table, open_table

__all__ = ["PATIENCE", "Database", "Ledger"]

T = TypeVar("T")

# Seconds to wait for other processes where the caller sets no other bound: as long as the sqlite3 module does.
PATIENCE = 5.0
# Seconds from one look at whether the file is still at its path to the next.
LOOK_EVERY = 0.1
# Seconds from one try to get the file's lock to the next: the first, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.0002, 0.003
CHANGED = r"no such (table|column)|has (no|\d+) column"
BUSY = ("database is locked", "database schema is locked", "database table is locked")


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else holds the lock."""
    code = getattr(error, "sqlite_errorcode", None)  # from Python 3.11 on
    return str(error).startswith(BUSY) if code is None else code & 0xFF in (5, 6)  # SQLITE_BUSY, SQLITE_LOCKED


def is_changed(error: sqlite3.Error) -> bool:
    """Whether a statement does not fit the table as it now is."""
    return isinstance(error, sqlite3.IntegrityError) or re.search(CHANGED, str(error)) is not None


def set_up(conn: sqlite3.Connection, deadline: float) -> None:
    """Let readers and writers of the file not wait for each other, nor for the disk at each commit."""
    while True:
        try:
            conn.execute("PRAGMA journal_mode=WAL").close()
            conn.execute("PRAGMA synchronous=NORMAL").close()
        except sqlite3.OperationalError as error:  # noqa: PERF203
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)
        else:
            return


def connect(path: str) -> sqlite3.Connection:
    """A connection for threads, in autocommit mode, that never waits inside SQLite."""
    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)


def file_at(path: str) -> tuple[int, int] | None:
    """Which file is at a path; None for none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


class Database:
    """One connection and its lock; `execute` is that of its cursor.

    A connection of our own, known by its path, is closed before the process forks, and opened again on both sides when
    it is needed: SQLite's locks do not survive a fork. One that was given belongs to the process that gave it.
    """

    __slots__ = ("__weakref__", "_conn", "_file", "closed", "execute", "mutex", "path")

    def __init__(self, source: sqlite3.Connection | str) -> None:
        self.mutex = threading.RLock()
        self.closed = False
        self.path = None if isinstance(source, sqlite3.Connection) else source
        self._file: tuple[int, int] | None = None
        self._use(None if isinstance(source, str) else source)
        with making:
            databases.add(self)

    def _use(self, conn: sqlite3.Connection | None) -> None:
        self._conn = conn
        # None: `open` has to be called first.
        self.execute: Callable[..., sqlite3.Cursor] | None = None
        if conn is not None:
            cursor = conn.cursor()
            cursor.row_factory = None
            self.execute = cursor.execute

    def open(self, seconds: float) -> Callable[..., sqlite3.Cursor]:
        """Open the connection again where that can be; give what executes statements."""
        if self.closed:
            raise RuntimeError("the bucket is closed")
        if self.path is None:
            raise RuntimeError(
                "the bucket's connection was opened before the process forked, and SQLite cannot share it: make the"
                " bucket in the child, or make it with init_from_file"
            )
        conn = connect(self.path)
        try:
            set_up(conn, time.monotonic() + seconds)
            self._file = file_at(self.path)
        except BaseException:
            conn.close()
            raise
        self._use(conn)
        assert self.execute is not None
        return self.execute

    def look(self) -> None:
        """Let go of a file that is not at its path any more: others work on another one, or on none."""
        if self.path is not None and self._conn is not None and file_at(self.path) != self._file:
            self.suspend()

    @property
    def conn(self) -> sqlite3.Connection | None:
        """The connection; None when closed."""
        with self.mutex:
            if self._conn is None and not self.closed and self.path is not None:
                self.open(PATIENCE)
            return self._conn

    def rollback(self) -> None:
        """Undo what the transaction did, if there is one."""
        if self._conn is not None and self._conn.in_transaction:
            self._conn.rollback()

    def suspend(self) -> None:
        """Close a connection of our own until it is needed again; its lock is held."""
        if self.path is not None and self._conn is not None and not self._conn.in_transaction:
            conn = self._conn
            self._use(None)
            conn.close()

    def forked(self) -> None:
        """In a child: do not touch a connection that was open, not even to close it."""
        if self._conn is not None:
            inherited.append(self._conn)
            self._use(None)

    def close(self) -> None:
        """Close the connection for good."""
        with self.mutex:
            self.closed = True
            conn = self._conn
            self._use(None)
            if conn is not None:
                conn.close()


inherited: list[sqlite3.Connection] = []
databases: WeakSet[Database] = WeakSet()
held: list[Database] = []
# Held across a fork as well, so that no database is added while they are looked through, or missed.
making = threading.RLock()


def _before_fork() -> None:
    making.acquire()
    for database in list(databases):
        database.mutex.acquire()
        held.append(database)
        database.suspend()


def _after_fork() -> None:
    while held:
        held.pop().mutex.release()
    making.release()


def _after_fork_in_child() -> None:
    for database in held:
        database.forked()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


class Ledger:
    """A table in a database, read and changed in transactions; found, made or taken over when it is needed.

    Arguments:
        database: where it is.
        lock: what is held around each transaction; None for the database's mutex alone.
        name: the table's.
        terms: how many rates a decision looks at, and whether windows are fixed.
        create, reference: as for `open_table`.

    Attributes:
        entry: how one statement enters an item, where nothing is in the way of that: the cursor's method, a statement
            for now and one for any time, and how to take and release the mutex. Else None.
        look_at: the instant of `time.monotonic()` at which to see next whether the file is still at its path.
    """

    __slots__ = (
        "_lose",
        "_options",
        "database",
        "entry",
        "found",
        "is_plain",
        "lock",
        "log",
        "look_at",
        "name",
        "terms",
    )

    def __init__(
        self,
        database: Database,
        lock: Any,
        name: str,
        terms: tuple[int, bool],
        create: bool,
        reference: bool,
    ) -> None:
        self.database, self.name, self.terms = database, name, terms
        self.lock: Any = database.mutex if lock is None else lock
        self.is_plain = lock is None and database.path is not None
        self.log: Table | None = None
        self.found = False  # the table was there, or was made, once
        self.look_at = 0.0
        self.entry: tuple[Any, str, str, Any, Any] | None = None
        self._options = create, reference

    def prepare(self, rates: int) -> None:
        """Look at so many rates from now on; the mutex is held."""
        self.terms = rates, self.terms[1]
        self.entry = None
        if self.log is not None:
            self.log.prepare(rates)

    def run(
        self,
        action: Callable[[Any, Table, Any], T],
        argument: Any,
        write: bool,
        seconds: Callable[[], float],
        lose: Callable[[Any, Table], None],
    ) -> T:
        """Call `action(execute, log, argument)` in one transaction, and return what it does.

        Arguments:
            write: false where it changes nothing.
            seconds: tells how long to wait for others.
            lose: called with `execute` and a table that had to be made though there had been one before.

        Raises sqlite3.OperationalError where others do not let go, and what SQLite or the action raise.
        """
        lock, mutex = self.lock, self.database.mutex
        if lock is mutex:
            if not (lock.acquire(False) or lock.acquire(timeout=seconds())):
                raise sqlite3.OperationalError("another thread is in a transaction of this bucket")
            try:
                return self._transact(action, argument, write, seconds, lose)
            finally:
                lock.release()
        if not lock.acquire(timeout=seconds()):
            raise sqlite3.OperationalError("another thread or process holds the lock of this bucket")
        try:
            with mutex:
                return self._transact(action, argument, write, seconds, lose)
        finally:
            lock.release()

    def _transact(
        self,
        action: Callable[[Any, Table, Any], T],
        argument: Any,
        write: bool,
        seconds: Callable[[], float],
        lose: Callable[[Any, Table], None],
    ) -> T:
        database, started, tries, deadline, is_anew = self.database, time.monotonic(), 0, 0.0, False
        if started >= self.look_at:
            self.look_at = started + LOOK_EVERY
            database.look()
        while True:
            try:
                execute = database.execute or self._reopen(seconds())
                execute("BEGIN IMMEDIATE" if write or self.log is None else "BEGIN")
                result = action(execute, self.log or self._find(execute, lose), argument)
                execute("COMMIT")
            except sqlite3.DatabaseError as error:  # noqa: PERF203
                self.entry = None
                if str(error).startswith("cannot start a transaction"):
                    raise RuntimeError("the bucket's connection has a transaction open: commit it first") from error
                database.rollback()
                if is_changed(error) and self.log is not None and not is_anew:
                    # Another process has brought the table into another format, or removed it; not twice, since from
                    # here on it is looked for and used in one transaction.
                    self.log, is_anew = None, True
                    continue
                if not is_busy(error):
                    if type(error) is sqlite3.DatabaseError:  # the file is damaged, or no database
                        raise sqlite3.OperationalError(str(error)) from error
                    raise
                tries += 1
                deadline = deadline or started + seconds()
                if time.monotonic() >= deadline:
                    raise
                time.sleep(random.uniform(0.5, 1) * min(FIRST_PAUSE * tries, LONGEST_PAUSE))
            except BaseException:
                database.rollback()
                raise
            else:
                log = self.log
                if self.is_plain and isinstance(log, RunTable):
                    self.entry = execute, log.enter, log.enter_at, database.mutex.acquire, database.mutex.release
                return result

    def _reopen(self, seconds: float) -> Callable[..., sqlite3.Cursor]:
        """Open the connection; what is there may be another table."""
        self.log = None
        return self.database.open(seconds)

    def _find(self, execute: Any, lose: Callable[[Any, Table], None]) -> Table:
        """Find the table, or make it."""
        create, reference = self._options
        log, made = open_table(execute, self.name, *self.terms, create=create, reference=reference)
        lost = made and self.found
        self.log, self.found = log, True
        if lost:
            lose(execute, log)
        return log

    def close(self) -> None:
        """Close the connection. What was admitted stays in the table."""
        self.entry = None
        self.database.close()
