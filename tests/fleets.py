"""Processes that demand permits of one limit without a pause, killed at any moment, and a record that survives them.

A worker appends to a file what came of a call, when the call has returned. One that is killed before that has used
nothing, so the record errs to one side only: it may lack an admission for each kill, and never tells of one that was
not made. What it shows beyond a limit is beyond the limit. Each entry is one write of a few bytes that do not cross a
page, which a kill cannot cut in two.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sqlite3
import struct
import time
from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aiolimiter_fast import PostgresBucket, Rate, RateItem, SQLiteBucket

if TYPE_CHECKING:
    from typing_extensions import Self

Limits = Sequence[tuple[int, int]]  # permits and milliseconds

MILLISECOND = 1_000_000
LAYOUT = struct.Struct("<qqqq")
# What no worker needs to import anew.
MODULES = ["aiolimiter_fast.buckets.postgres", "aiolimiter_fast.buckets.sqlite_bucket", "psycopg", "psycopg_pool"]
# One refusal of so many is recorded, as a sign of life.
SIGN = 64


def sqlite_bucket(path: str, limits: Limits) -> Any:
    return SQLiteBucket.init_from_file([Rate(*limit) for limit in limits], "limits", path)


def postgres_bucket(dsn: str, table: str, limits: Limits) -> Any:
    from psycopg_pool import ConnectionPool

    pool = ConnectionPool(dsn, min_size=1, max_size=1, open=True)
    return PostgresBucket(pool, table, [Rate(*limit) for limit in limits], budget=20)


class Careless:
    """A limiter that looks, and enters what it admits a moment later: one that keeps no limit."""

    def __init__(self, path: str, limits: Limits) -> None:
        self.conn = sqlite3.connect(path, timeout=20, isolation_level=None)
        self.conn.execute("PRAGMA journal_mode=WAL")
        self.conn.execute("CREATE TABLE IF NOT EXISTS log (at INTEGER, id INTEGER, PRIMARY KEY (at, id)) WITHOUT ROWID")
        self.limits = limits

    def now(self) -> int:
        return time.time_ns() // MILLISECOND

    def put(self, item: RateItem) -> bool:
        for limit, interval in self.limits:
            since = self.now() - interval
            if self.conn.execute("SELECT COUNT(*) FROM log WHERE at >= ?", (since,)).fetchone()[0] >= limit:
                return False
        time.sleep(0.001)
        self.conn.execute("INSERT INTO log VALUES (?, random())", (self.now(),))
        return True


class Call(NamedTuple):
    """A call that has returned, and nanoseconds of the machine's clock right before and right after it."""

    process: int
    admitted: int
    early: int
    late: int


def demand(open_bucket: Callable[[], Any], path: str) -> None:
    """What a worker does, for ever."""
    bucket = open_bucket()
    record = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
    process, calls = os.getpid(), 0
    while True:
        early = time.time_ns()
        admitted = bucket.put(RateItem("item", bucket.now()))
        late = time.time_ns()
        calls += 1
        if admitted or calls % SIGN == 1:
            os.write(record, LAYOUT.pack(process, admitted, early, late))


def admissions(open_bucket: Callable[[], Any], calls: int) -> int:
    """How many of so many calls are admitted."""
    bucket = open_bucket()
    admitted = sum(bool(bucket.put(RateItem("item", bucket.now()))) for _ in range(calls))
    bucket.close()
    return admitted


def processes() -> Any:
    """The context for processes. They start by a fork where that can be, in milliseconds, and not while importing."""
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(MODULES)
    return context


class Fleet:
    """Four workers, to be used in a `with` block.

    Arguments: open_bucket, what a worker opens its bucket with, to be pickled; path, the file for the record.
    """

    size = 4

    def __init__(self, open_bucket: Callable[[], Any], path: Path) -> None:
        self.open_bucket = open_bucket
        self.path = path
        self.kills = 0
        self.calls: list[Call] = []
        self.seen: set[int] = set()  # those that have been at work
        self.chance = random.Random(4)
        self.context = processes()
        self.workers: list[Any] = []

    def __enter__(self) -> Self:
        self.path.touch()
        self.workers = [self._start() for _ in range(self.size)]
        return self

    def _start(self) -> Any:
        worker = self.context.Process(target=demand, args=(self.open_bucket, str(self.path)), daemon=True)
        worker.start()
        return worker

    def kill(self) -> None:
        """Kill one that is at work with SIGKILL, and start another."""
        at_work: list[int] = []
        while not at_work:
            self.check()
            self._look()
            at_work = [index for index, worker in enumerate(self.workers) if worker.pid in self.seen]
            time.sleep(0 if at_work else 0.001)
        victim = self.chance.choice(at_work)
        self.workers[victim].kill()
        self.workers[victim].join()
        self.workers[victim] = self._start()
        self.kills += 1

    def _look(self) -> None:
        """See what has been recorded since."""
        with self.path.open("rb") as record:
            record.seek(len(self.calls) * LAYOUT.size)
            data = record.read()
        assert len(data) % LAYOUT.size == 0
        self.calls += [Call(*fields) for fields in LAYOUT.iter_unpack(data)]
        self.seen |= {call.process for call in self.calls[-(len(data) // LAYOUT.size or 1) :]}

    def check(self) -> None:
        """Raise AssertionError if one has ended by itself."""
        for worker in self.workers:
            assert worker.exitcode is None, f"a worker has ended with exit code {worker.exitcode}"

    def run(self, kills: int, pause: float = 0.1) -> None:
        """Let them work, and kill one at a random instant of each pause."""
        start = time.monotonic()
        for number in range(kills):
            due = start + (number + self.chance.random()) * pause
            time.sleep(max(due - time.monotonic(), 0))
            self.kill()

    def go_on(self, patience: float = 30.0) -> None:
        """Wait until each of those that are left has been admitted from now on."""
        begin, end = time.time_ns(), time.monotonic() + patience
        left = {worker.pid for worker in self.workers}
        while left:
            assert time.monotonic() < end, f"{len(left)} of {self.size} workers are not admitted any more"
            self.check()
            time.sleep(0.02)
            self._look()
            left -= {call.process for call in self.calls if call.admitted and call.early >= begin}

    def __exit__(self, *exc: object) -> None:
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.join()
            worker.close()
        self._look()


def most(calls: Iterable[Call], milliseconds: int) -> int:
    """The most admissions that were certainly within one window of this length, closed at both ends.

    Each was made at some instant of its call, so those of calls that began and ended in the window were made in it.
    """
    answer = 0
    lates: list[int] = []
    for _, admitted, early, late in sorted(calls, key=lambda call: -call.early):
        if admitted:
            insort(lates, late)
            while answer < len(lates) and lates[answer] - early <= milliseconds * MILLISECOND:
                answer += 1
    return answer


def longest_silence(calls: Iterable[Call]) -> float:
    """The longest time in seconds from one sign of life of a process to its next."""
    last: dict[int, int] = {}
    longest = 0
    for call in sorted(calls, key=lambda call: call.late):
        longest = max(longest, call.late - last.get(call.process, call.late))
        last[call.process] = call.late
    return longest / 1e9
