"""One command at a Redis or Valkey within so many seconds, with the user's client and its pool of connections.

A command is sent once: the clients' own retries, which may run a script twice, are left aside.
"""

from __future__ import annotations

import inspect
import select
import sys
import threading
import time
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from aiolimiter_fast._lua import Script

__all__ = ["AsyncLink", "Link", "link_to"]


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


class Arguments:
    """Arguments of a script, as values and as they go over the wire."""

    __slots__ = ("values", "wire")

    def __init__(self, values: tuple[Any, ...], wire: bytes | None = None) -> None:
        self.values = values
        self.wire = packed(*values) if wire is None else wire


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
        self._heads: dict[tuple[Script, bytes, bool], bytes] = {}
        self._get: tuple[Any, Any] = None, None
        self.is_single = bool(getattr(client, "single_connection_client", False))

    def _wire(self, script: Script, key: bytes, arguments: Arguments, by_source: bool) -> bytes:
        head = self._heads.get((script, key, by_source))
        if head is None:
            head = self._heads[script, key, by_source] = packed(*command(script, key, Arguments(()), by_source))
        return b"*%d\r\n%b%b" % (4 + len(arguments.values), head, arguments.wire)

    def _getter(self, pool: Any) -> Any:
        known, get = self._get
        if known is not pool:
            get = getter(pool)
            self._get = pool, get
        return get


def command(script: Script, key: bytes, arguments: Arguments, by_source: bool) -> tuple[Any, ...]:
    name, body = ("EVAL", script.source) if by_source else ("EVALSHA", script.digest)
    return name, body, 1, key, *arguments.values


def packed(*values: bytes | str | int) -> bytes:
    """Values as arguments of a command, as they go over the wire."""
    parts = []
    for value in values:
        part = value if isinstance(value, bytes) else str(value).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(part), part))
    return b"".join(parts)


def getter(pool: Any) -> Any:
    """The pool's `get_connection`, told a command where it must be, as before redis-py 5.3."""
    first = next(iter(inspect.signature(pool.get_connection).parameters.values()), None)
    is_needed = first is not None and first.default is first.empty and first.kind is not first.VAR_POSITIONAL
    return partial(pool.get_connection, "EVALSHA") if is_needed else pool.get_connection


class Link(_Base):
    """The link of a synchronous client. Threads may share it."""

    is_async = False
    # Threads that wait for connections, and the seconds after which one is given up for lost.
    MOST_CONNECTING = 4
    LOST = 5.0

    def __init__(self, client: Any, errors: Any) -> None:
        super().__init__(client, errors)
        self._lock = threading.Lock()
        self._connecting: dict[Any, list[float]] = {}

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
        connection = self._take(pool, end)
        try:
            connection.send_packed_command([self._wire(script, key, arguments, by_source)], check_health=False)
            if not connection.can_read(timeout=max(end - time.monotonic(), 0)):
                raise self.package.TimeoutError("the server did not answer in time")
            return connection.read_response(disable_decoding=True)
        except (self.package.MovedError, self.package.AskError, self.package.TryAgainError):
            self.astray = True
            return self._through_client(command(script, key, arguments, by_source), end)
        except self.package.ResponseError:
            raise
        except BaseException:
            self.astray = self.is_cluster
            connection.disconnect()  # its answer may still come
            raise
        finally:
            pool.release(connection)

    def _pool_of(self, key: bytes, end: float) -> Any:
        node = self.client.get_node_from_key(key)
        if node is None:
            raise self.package.ConnectionError("no node of the cluster is known to have the key")
        return self.client.get_redis_connection(node).connection_pool

    def _take(self, pool: Any, end: float) -> Any:
        """A connection: at once where a live one is idle, else from a thread that can be given up."""
        if is_idle(pool):
            return self._getter(pool)()
        now = time.monotonic()
        with self._lock:
            queue: SimpleQueue[Any]
            started = self._connecting.setdefault(pool, [])
            started[:] = [instant for instant in started if instant > now - self.LOST]
            if len(started) >= self.MOST_CONNECTING:
                raise self.package.ConnectionError("too many connections are being made already")
            started.append(now)
        queue = SimpleQueue()
        state = threading.Lock()  # whoever takes it first decides what becomes of the connection

        def connect() -> None:
            try:
                made = self._getter(pool)()
            except BaseException as error:
                made = error
            with self._lock:
                if now in started:
                    started.remove(now)
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
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(link, select.POLLIN | select.POLLERR | select.POLLHUP)
        return bool(poll.poll(0))
    return bool(select.select([link], [], [], 0)[0])


class AsyncLink(_Base):
    """The link of an asynchronous client. Whoever awaits it bounds the time."""

    is_async = True

    async def script(self, script: Script, key: bytes, arguments: Arguments, seconds: float) -> Any:
        """Run a script, sending its source only where the server does not know it."""
        try:
            return await self._run(script, key, arguments)
        except self.package.NoScriptError:
            return await self._run(script, key, arguments, by_source=True)

    async def _run(self, script: Script, key: bytes, arguments: Arguments, by_source: bool = False) -> Any:
        if self.is_cluster or self.is_single:
            words = command(script, key, arguments, by_source)
            return encoded(await self.client.execute_command(*words), self.client)
        pool = self.client.connection_pool
        connection = await self._getter(pool)()
        try:
            await connection.send_packed_command([self._wire(script, key, arguments, by_source)], check_health=False)
            return await connection.read_response(disable_decoding=True)
        except self.package.ResponseError:
            raise
        except BaseException:
            await connection.disconnect(nowait=True)  # its answer may still come
            raise
        finally:
            await pool.release(connection)


def encoded(answer: Any, client: Any) -> Any:
    """An answer as it came over the wire, where the client has decoded it."""
    if isinstance(answer, str):
        encoder = client.get_encoder()
        return answer.encode(encoder.encoding, encoder.encoding_errors)
    return [encoded(part, client) for part in answer] if isinstance(answer, list) else answer
