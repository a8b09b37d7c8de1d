"""One command at a Redis or Valkey within so many seconds, with the user's client and its pool of connections.

A command is sent once: the clients' own retries, which may run a script twice, are left aside. It goes over the bare
socket or stream of a connection that does no more than to send and to receive; anything else is asked as its makers
meant it. A few such connections are held on to between calls, since asking the pool takes as long as the rest.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import select
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any
from weakref import WeakKeyDictionary, ref

from aiolimiter_fast._budget import MARGIN, bounded
from aiolimiter_fast._forking import forks
from aiolimiter_fast._lua import Script
from aiolimiter_fast.buckets._redis_wire import ERRORS, PENDING, Arguments, Refusal, answered, command, encoded, packed

__all__ = ["AsyncLink", "Link", "link_to"]

CHUNK = 1 << 16
PLAIN = {"Connection", "SSLConnection", "UnixDomainSocketConnection"}
MODULES = {f"{package}.{name}" for package in ("redis", "valkey") for name in ("connection", "asyncio.connection")}
# The part of a pool's connections that may be held on to.
SHARE = 16


def link_to(client: Any) -> Link | AsyncLink:
    """The link for a client of redis-py or valkey-py, synchronous or asynchronous, of one server or a cluster.

    Raises TypeError for anything else.
    """
    roots = (cls.__module__.partition(".")[0] for cls in type(client).__mro__)
    package = next((root for root in roots if root in ("redis", "valkey", "fakeredis")), None)
    if package is None or not hasattr(client, "execute_command"):
        raise TypeError(f"redis must be a client of redis-py or valkey-py, got {client!r}")
    errors = sys.modules["valkey.exceptions" if package == "valkey" else "redis.exceptions"]
    modules = {cls.__module__ for cls in type(client).__mro__}
    asynchronous = inspect.iscoroutinefunction(type(client).execute_command) or any(
        name.startswith(("redis.asyncio", "valkey.asyncio")) for name in modules
    )
    return (AsyncLink if asynchronous else Link)(client, errors)


class _Base:
    """What both links know of their client."""

    def __init__(self, client: Any, errors: Any) -> None:
        self.client = client
        self.package = errors
        self.errors: tuple[type[Exception], ...] = (
            errors.RedisError if hasattr(errors, "RedisError") else errors.ValkeyError,
        )
        # Whether to let the client itself find the node next time, since nodes have moved or gone.
        self.astray = False
        # The connection of a client that has only one, and the nodes of a cluster, are for the client to see to.
        self.is_cluster = hasattr(client, "get_node_from_key")
        self._heads: dict[tuple[Script, bytes, int, bool], bytes] = {}
        self._get: tuple[Any, Any] = None, None
        self._known: tuple[Any, Holdings | None] = None, None
        self.is_single = bool(getattr(client, "single_connection_client", False))

    def _checked(self, answer: Any) -> Any:
        """An answer that is no error; else its exception, as the client would raise it."""
        if not isinstance(answer, Refusal):
            return answer
        code, _, rest = answer.text.partition(" ")
        name = ERRORS.get(code)
        if name is None:
            raise self.package.ResponseError(answer.text)
        raise getattr(self.package, name)(rest)

    def _wire(self, script: Script, key: bytes, arguments: Arguments, by_source: bool) -> bytes:
        which = script, key, arguments.count, by_source
        head = self._heads.get(which)
        if head is None:
            words = command(script, key, Arguments(()), by_source)
            head = self._heads[which] = b"*%d\r\n%b" % (len(words) + arguments.count, packed(*words))
        return head + arguments.wire

    def _holdings(self, pool: Any) -> Holdings:
        known, holdings = self._known
        if known is not pool or holdings is None or holdings.forks != forks():
            holdings = holdings_of(pool)
            self._known = pool, holdings
        return holdings

    def _getter(self, pool: Any) -> Any:
        known, get = self._get
        if known is not pool:
            get = getter(pool)
            self._get = pool, get
        return get


def getter(pool: Any) -> Any:
    """The pool's `get_connection`, told a command where it must be, as before redis-py 5.3."""
    first = next(iter(inspect.signature(pool.get_connection).parameters.values()), None)
    is_needed = first is not None and first.default is first.empty and first.kind is not first.VAR_POSITIONAL
    return partial(pool.get_connection, "EVALSHA") if is_needed else pool.get_connection


class Held:
    """A connection, and the bare socket or streams of one that does no more than to send and to receive, else None.

    It is a weak reference, so that a pool and its connections go when the user lets go of them.
    """

    __slots__ = ("connection", "end", "is_late", "loop", "noise", "sink", "source", "timer")

    def __init__(self, connection: Any, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.connection = ref(connection)
        self.loop = loop
        self.is_late = False
        self.end: float | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.source: Any = None
        self.sink: Any = None
        link: Any = None
        if is_plain(connection):
            if loop is None:
                self.sink = link = getattr(connection, "_sock", None)
            else:
                self.source, self.sink = getattr(connection, "_reader", None), getattr(connection, "_writer", None)
                link = self.sink and self.sink.get_extra_info("socket")
        # Gives something true once anything, the end included, has come on the socket.
        self.noise = bool if link is None else watch(link)

    def is_usable(self, connection: Any) -> bool:
        """Whether it is as open and quiet as it was left."""
        if self.loop is None:
            return connection._sock is self.sink and not self.noise()
        return (
            connection._writer is self.sink
            and self.loop is asyncio.get_running_loop()
            and not (self.source.at_eof() or self.sink.is_closing())
            and not self.noise()
        )

    def due(self, end: float) -> None:
        """End what is awaited of the connection, and it, at this instant, unless `end` is None by then.

        The timer stays for the calls to come: it is set anew once a budget, not once a call.
        """
        self.end = end
        if self.timer is None or self.timer.when() > end:
            if self.timer is not None:
                self.timer.cancel()
            assert self.loop is not None
            self.timer = self.loop.call_at(end, self._expire)

    def _expire(self) -> None:
        self.timer = None
        end, loop = self.end, self.loop
        if end is None or loop is None:
            return
        if loop.time() < end:
            self.timer = loop.call_at(end, self._expire)
        else:
            self.is_late = True
            self.sink.transport.abort()


class Holdings:
    """What links hold on to of a pool. For the pool these connections are in use, and it closes them like others."""

    __slots__ = ("forks", "lock", "most", "stack")

    def __init__(self, pool: Any) -> None:
        self.forks = forks()  # a child leaves its parent's connections alone
        # From the look whether a connection is idle until it is had: a pool that has none left would connect instead.
        self.lock = threading.Lock()
        most = getattr(pool, "max_connections", 0)
        self.most = min(most // SHARE, 32) if type(pool).__module__ in MODULES and isinstance(most, int) else 0
        self.stack: list[Held] = []


_holdings: WeakKeyDictionary[Any, Holdings] = WeakKeyDictionary()


def holdings_of(pool: Any) -> Holdings:
    try:
        holdings = _holdings.get(pool) or _holdings.setdefault(pool, Holdings(pool))
        if holdings.forks != forks():
            holdings = _holdings[pool] = Holdings(pool)
    except TypeError:  # somebody's own pool, which has no weak references
        return Holdings(None)
    return holdings


class Link(_Base):
    """The link of a synchronous client. Threads may share it."""

    is_async = False
    # Threads that connect at once, and the seconds after which one is given up for lost.
    MOST_CONNECTING = 32
    LOST = 5.0

    def __init__(self, client: Any, errors: Any) -> None:
        super().__init__(client, errors)
        self._process = 0
        self._freed = threading.Condition()
        self._connecting: list[float] = []  # when each of them began

    def script(self, script: Script, key: bytes, arguments: Arguments, seconds: float) -> Any:
        """Run a script, sending its source only where the server does not know it."""
        end = time.monotonic() + seconds
        try:
            return self._run(script, key, arguments, end)
        except self.package.NoScriptError:
            return self._run(script, key, arguments, end, by_source=True)

    def _run(self, script: Script, key: bytes, arguments: Arguments, end: float, by_source: bool = False) -> Any:
        if self.is_single or self.astray:
            return self._through_client(command(script, key, arguments, by_source), end)
        pool = self.client.connection_pool if not self.is_cluster else self._pool_of(key, end)
        holdings = self._holdings(pool)
        held, connection = self._taken(pool, holdings, end)
        try:
            return self._exchange(held, connection, self._wire(script, key, arguments, by_source), end)
        except (self.package.MovedError, self.package.AskError, self.package.TryAgainError):
            self.astray = True
            return self._through_client(command(script, key, arguments, by_source), end)
        except self.package.ResponseError:
            raise
        except BaseException:
            self.astray = self.is_cluster
            held.sink = None
            connection.disconnect()  # its answer may still come
            raise
        finally:
            if held.sink is not None and len(holdings.stack) < holdings.most:
                holdings.stack.append(held)
            else:
                self._release(pool, holdings, held, connection)

    def _taken(self, pool: Any, holdings: Holdings, end: float) -> tuple[Held, Any]:
        stack = holdings.stack
        while stack:
            try:
                held = stack.pop()
            except IndexError:  # other threads take, too
                break
            connection = held.connection()
            if connection is not None:
                if held.is_usable(connection):
                    return held, connection
                self._release(pool, holdings, held, connection)
        connection = self._take(pool, holdings, end)
        return Held(connection), connection

    @staticmethod
    def _release(pool: Any, holdings: Holdings, held: Held, connection: Any) -> None:
        if held.sink is not None:
            with suppress(OSError):
                held.sink.settimeout(connection.socket_timeout)
        is_locked = holdings.lock.acquire(timeout=MARGIN)  # what is closed is not to come before what was seen idle
        try:
            pool.release(connection)
        finally:
            if is_locked:
                holdings.lock.release()

    def _exchange(self, held: Held, connection: Any, wire: bytes, end: float) -> Any:
        """Send a command and read its answer."""
        link = held.sink
        if link is None:
            connection.send_packed_command([wire], check_health=False)
            if not connection.can_read(timeout=max(end - time.monotonic(), 0)):
                raise self.package.TimeoutError("the server did not answer in time")
            return connection.read_response(disable_decoding=True)
        try:
            link.settimeout(max(end - time.monotonic(), 1e-6))
            link.sendall(wire)
            data = link.recv(CHUNK)
            if data == b":0\r\n":
                return 0
            while (answer := answered(data)) is PENDING:
                link.settimeout(max(end - time.monotonic(), 1e-6))
                more = link.recv(CHUNK)
                if not more:
                    raise self.package.ConnectionError("the server closed the connection")
                data += more
        except TimeoutError as error:
            raise self.package.TimeoutError("the server did not answer in time") from error
        return self._checked(answer)

    def _pool_of(self, key: bytes, end: float) -> Any:
        node = self.client.get_node_from_key(key)
        if node is None:
            raise self.package.ConnectionError("no node of the cluster is known to have the key")
        return self.client.get_redis_connection(node).connection_pool

    def _take(self, pool: Any, holdings: Holdings, end: float) -> Any:
        """A connection: at once where a live one is idle, else from a thread that can be given up."""
        if holdings.lock.acquire(timeout=max(end - time.monotonic(), 0)):
            try:
                if is_idle(pool):
                    return self._getter(pool)()
            finally:
                holdings.lock.release()
        if self._process != os.getpid():  # threads, and the locks they hold, stay behind when a process forks
            self._process, self._freed, self._connecting = os.getpid(), threading.Condition(), []
        started = self._connecting
        with self._freed:
            while (now := time.monotonic()) < end:
                started[:] = [instant for instant in started if instant > now - self.LOST]
                if len(started) < self.MOST_CONNECTING:
                    break
                self._freed.wait(min(end - now, self.LOST))
            else:
                raise self.package.TimeoutError("no connection in time")
            started.append(now)
        queue: SimpleQueue[Any] = SimpleQueue()
        state = threading.Lock()  # whoever takes it first decides what becomes of the connection

        def connect() -> None:
            try:
                made = self._getter(pool)()
            except BaseException as error:
                made = error
            with self._freed:
                if now in started:
                    started.remove(now)
                self._freed.notify()
            if state.acquire(False):
                queue.put(made)
            elif not isinstance(made, BaseException):
                pool.release(made)

        return self._outcome(connect, queue, state, end, "no connection")

    def _through_client(self, command: tuple[Any, ...], end: float) -> Any:
        """Let the client do it in a thread that can be given up."""
        queue: SimpleQueue[Any] = SimpleQueue()
        state = threading.Lock()

        def run() -> None:
            try:
                result = self.client.execute_command(*command)
                self.astray = False
            except BaseException as error:
                result = error
            queue.put(result)

        return encoded(self._outcome(run, queue, state, end, "no answer"), self.client)

    def _outcome(self, work: Any, queue: SimpleQueue[Any], state: threading.Lock, end: float, what: str) -> Any:
        threading.Thread(target=work, name="aiolimiter_fast redis", daemon=True).start()
        try:
            outcome = queue.get(timeout=max(end - time.monotonic(), 0))
        except Empty:
            if state.acquire(False):
                raise self.package.TimeoutError(f"{what} in time") from None
            outcome = queue.get()  # it has just come
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def is_plain(connection: Any) -> bool:
    """Whether the connection does no more than to send and to receive."""
    return type(connection).__name__ in PLAIN and type(connection).__module__ in MODULES


def is_idle(pool: Any) -> bool:
    """Whether the pool has a connection that is open and quiet; False also where that cannot be seen."""
    idle = getattr(pool, "_available_connections", None)
    if idle is None:
        idle = getattr(getattr(pool, "pool", None), "queue", ())
    try:
        link = idle[-1]._sock  # type: ignore[index]  # what it is not, is caught
        return link is not None and not is_readable(link)
    except (AttributeError, IndexError, OSError, ValueError):
        return False


def is_readable(link: Any) -> bool:
    """Whether something, the end included, has come on a socket."""
    return bool(watch(link)())


def watch(link: Any) -> Any:
    """What gives something true when anything, the end included, has come on a socket."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(link, select.POLLIN | select.POLLERR | select.POLLHUP)
        return partial(poll.poll, 0)
    return lambda: select.select([link], [], [], 0)[0]


class AsyncLink(_Base):
    """The link of an asynchronous client."""

    is_async = True

    async def script(self, script: Script, key: bytes, arguments: Arguments, seconds: float) -> Any:
        """Run a script, sending its source only where the server does not know it."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        if not (self.is_cluster or self.is_single):
            pool = self.client.connection_pool
            holdings = self._holdings(pool)
            while holdings.stack:
                held = holdings.stack.pop()
                connection = held.connection()
                if connection is None:
                    continue
                if not held.is_usable(connection):
                    await pool.release(connection)
                    continue
                held.due(end)
                try:
                    return await self._run(pool, held, connection, self._wire(script, key, arguments, False))
                except self.package.NoScriptError:
                    break
                finally:
                    held.end = None
        return await bounded(self._anew(script, key, arguments), end - loop.time())

    async def _anew(self, script: Script, key: bytes, arguments: Arguments) -> Any:
        """Run a script on a connection that is to be had first. Whoever awaits it bounds the time."""
        try:
            return await self._once(script, key, arguments, by_source=False)
        except self.package.NoScriptError:
            return await self._once(script, key, arguments, by_source=True)

    async def _once(self, script: Script, key: bytes, arguments: Arguments, by_source: bool) -> Any:
        if self.is_cluster or self.is_single:
            words = command(script, key, arguments, by_source)
            return encoded(await self.client.execute_command(*words), self.client)
        pool, loop = self.client.connection_pool, asyncio.get_running_loop()
        connection = await self._getter(pool)()
        held = Held(connection, loop)
        if held.noise():
            try:
                await connection.disconnect(nowait=True)  # the loop has not seen yet that it is over
                await connection.connect()
            except BaseException:
                await pool.release(connection)
                raise
            held = Held(connection, loop)
        return await self._run(pool, held, connection, self._wire(script, key, arguments, by_source))

    async def _run(self, pool: Any, held: Held, connection: Any, wire: bytes) -> Any:
        """Send a command and read its answer; then hold on to the connection, or give it back."""
        try:
            reader, writer = held.source, held.sink
            if reader is None or writer is None:
                await connection.send_packed_command([wire], check_health=False)
                return await connection.read_response(disable_decoding=True)
            writer.write(wire)
            data = await reader.read(CHUNK)
            if data == b":0\r\n":
                return 0
            while (answer := answered(data)) is PENDING:
                more = await reader.read(CHUNK)
                if not more:
                    raise self.package.ConnectionError("the server closed the connection")
                data += more
            return self._checked(answer)
        except self.package.ResponseError:
            raise
        except BaseException as error:
            held.sink = None
            await connection.disconnect(nowait=True)  # its answer may still come
            if held.is_late and not isinstance(error, asyncio.CancelledError):
                raise self.package.TimeoutError("the server did not answer in time") from error
            raise
        finally:
            holdings = self._holdings(pool)
            if held.sink is not None and not held.is_late and len(holdings.stack) < holdings.most:
                holdings.stack.append(held)
            else:
                await pool.release(connection)
