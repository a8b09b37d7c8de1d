"""Connections to PostgreSQL that answer in time: of a pool, synchronous or asynchronous."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from aiolimiter_fast.buckets._postgres import Statements, Steps

__all__ = ["AsyncLink", "Link", "link_to"]

# The share of its seconds after which an asynchronous call ends by itself. If it were cancelled, psycopg would wait for
# the server, and nobody would be told what was waited for.
EARLY = 0.95


class Watch:
    """Ends calls that do not: shuts the connection's socket down at a deadline, so that its wait fails.

    psycopg waits for a server that accepts and never answers for as long as the kernel does. One thread looks after
    all calls of the process, and ends a while after the last.
    """

    tick = 0.01
    idle = 2.0

    def __init__(self) -> None:
        self._calls: dict[Any, float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def forked(self) -> None:
        """In a child: the thread has stayed behind."""
        self._calls.clear()
        self._lock, self._thread = threading.Lock(), None

    def begin(self, conn: Any, deadline: float) -> None:
        self._calls[conn] = deadline
        if self._thread is None:
            with self._lock:
                self._thread = threading.Thread(target=self._run, name="aiolimiter_fast postgres", daemon=True)
                self._thread.start()

    def end(self, conn: Any) -> None:
        """The call has ended. A connection whose time was over is closed, since it may be cut off any moment."""
        if self._calls.pop(conn, None) is None:
            with self._lock:
                conn.close()

    def _run(self) -> None:
        used = time.monotonic()
        while True:
            time.sleep(self.tick)
            now = time.monotonic()
            if self._calls:
                used = now
            elif now > used + self.idle:
                # A call that begins from here on starts another thread; one that has begun is seen below.
                self._thread = None
                if not self._calls:
                    return
            for conn, deadline in list(self._calls.items()):
                if deadline <= now:
                    with self._lock:
                        if self._calls.pop(conn, None) is not None:
                            cut(conn)


watch = Watch()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=watch.forked)


def cut(conn: Any) -> None:
    """Let whoever waits for an answer on a connection wait no longer."""
    with suppress(Exception):
        link = socket.socket(fileno=conn.pgconn.socket)
        try:
            link.shutdown(socket.SHUT_RDWR)
        finally:
            link.detach()


def is_open(conn: Any) -> bool:
    """Whether the server has not closed an idle connection: then nothing is sent that nobody would answer."""
    try:
        conn.pgconn.consume_input()
        conn.pgconn.consume_input()  # the end itself, where the first gave the server's last words
    except Exception:
        return False
    return True


class Link:
    """A pool of connections. Its calls end within the seconds that they are given."""

    is_async = False

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    def _connection(self, deadline: float) -> Any:
        while True:
            conn = self.pool.getconn(max(deadline - time.monotonic(), 0.001))
            if is_open(conn):
                return conn
            conn.close()
            self.pool.putconn(conn)

    def ask(self, statement: str, arguments: Any, seconds: float) -> Any:
        """The first row of one statement, which is a transaction of its own."""
        from psycopg.rows import tuple_row

        deadline = time.monotonic() + seconds
        conn = self._connection(deadline)
        try:
            watch.begin(conn, deadline)
            try:
                alone = conn.autocommit
                if not alone:
                    conn.autocommit = True
                try:
                    cursor = conn.cursor(row_factory=tuple_row).execute(statement, arguments)
                    return cursor.fetchone() if cursor.description else None
                finally:
                    if not alone and not conn.closed:
                        conn.autocommit = False
            finally:
                watch.end(conn)
        finally:
            self.pool.putconn(conn)

    def follow(self, steps: Steps, seconds: float) -> Statements:
        """What comes of steps, all in one transaction."""
        from psycopg.rows import tuple_row

        deadline = time.monotonic() + seconds
        conn = self._connection(deadline)
        try:
            watch.begin(conn, deadline)
            try:
                with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
                    statement, arguments = next(steps)
                    while True:
                        cursor.execute(statement, arguments)
                        rows = cursor.fetchall() if cursor.description else []
                        try:
                            statement, arguments = steps.send(rows)
                        except StopIteration as stop:
                            result: Statements = stop.value
                            return result
            finally:
                watch.end(conn)
        finally:
            self.pool.putconn(conn)


class AsyncLink:
    """`Link` for an asynchronous pool."""

    is_async = True

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    async def _connection(self, deadline: float) -> Any:
        while True:
            conn = await self.pool.getconn(max(EARLY * (deadline - time.monotonic()), 0.001))
            if is_open(conn):
                return conn
            await conn.close()
            await self.pool.putconn(conn)

    @staticmethod
    def _watched(conn: Any, deadline: float) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        return loop.call_later(max(EARLY * (deadline - time.monotonic()), 0), cut, conn)

    async def ask(self, statement: str, arguments: Any, seconds: float) -> Any:
        """The first row of one statement, which is a transaction of its own."""
        from psycopg.rows import tuple_row

        deadline = time.monotonic() + seconds
        conn = await self._connection(deadline)
        try:
            timer = self._watched(conn, deadline)
            try:
                alone = conn.autocommit
                if not alone:
                    await conn.set_autocommit(True)
                try:
                    cursor = await conn.cursor(row_factory=tuple_row).execute(statement, arguments)
                    return await cursor.fetchone() if cursor.description else None
                finally:
                    if not alone and not conn.closed:
                        await conn.set_autocommit(False)
            finally:
                timer.cancel()
        finally:
            await self.pool.putconn(conn)

    async def follow(self, steps: Steps, seconds: float) -> Statements:
        """What comes of steps, all in one transaction."""
        from psycopg.rows import tuple_row

        deadline = time.monotonic() + seconds
        conn = await self._connection(deadline)
        try:
            timer = self._watched(conn, deadline)
            try:
                async with conn.transaction(), conn.cursor(row_factory=tuple_row) as cursor:
                    statement, arguments = next(steps)
                    while True:
                        await cursor.execute(statement, arguments)
                        rows = await cursor.fetchall() if cursor.description else []
                        try:
                            statement, arguments = steps.send(rows)
                        except StopIteration as stop:
                            result: Statements = stop.value
                            return result
            finally:
                timer.cancel()
        finally:
            await self.pool.putconn(conn)


def link_to(pool: Any) -> Link | AsyncLink:
    """The link for a pool of psycopg_pool. Raises TypeError for anything else."""
    from psycopg_pool import AsyncConnectionPool, ConnectionPool

    if isinstance(pool, AsyncConnectionPool):
        return AsyncLink(pool)
    if isinstance(pool, ConnectionPool):
        return Link(pool)
    raise TypeError(f"pool must be a ConnectionPool or AsyncConnectionPool of psycopg_pool, got {pool!r}")
