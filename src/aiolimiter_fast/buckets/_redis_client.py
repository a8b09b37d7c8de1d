"""One command at a Redis or Valkey within so many seconds, with the user's client and its pool of connections.

A command is sent once: the clients' own retries, which may run a script twice, are left aside.
"""

from __future__ import annotations

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


CHUNK = 1 << 16
# What the clients raise for an error that begins with this word.
ERRORS = {
    "ASK": "AskError",
    "CLUSTERDOWN": "ClusterDownError",
    "LOADING": "BusyLoadingError",
    "MOVED": "MovedError",
    "NOSCRIPT": "NoScriptError",
    "READONLY": "ReadOnlyError",
    "TRYAGAIN": "TryAgainError",
}
PLAIN = {"Connection", "SSLConnection", "UnixDomainSocketConnection"}
MODULES = {f"{package}.{name}" for package in ("redis", "valkey") for name in ("connection", "asyncio.connection")}
PENDING = object()


class Refusal:
    """An error that the server answered."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def answered(data: bytes) -> Any:
    """The answer that the data are, in RESP 2 or 3, without messages pushed before it; PENDING if more is to come."""
    at = 0
    try:
        while True:
            pushed = data[at : at + 1] == b">"
            value, at = parsed(data, at)
            if not pushed:
                return value
    except IndexError:
        return PENDING


def parsed(data: bytes, at: int) -> tuple[Any, int]:
    """The value at a place, and where it ends. Raises IndexError if it is not all there."""
    end = data.find(b"\r\n", at)
    if end < 0:
        raise IndexError
    kind, text, at = data[at], data[at + 1 : end], end + 2
    if kind == 58:  # :
        return int(text), at
    if kind in (36, 61):  # $ =
        size = int(text)
        if size < 0:
            return None, at
        if len(data) < at + size + 2:
            raise IndexError
        return data[at : at + size], at + size + 2
    if kind in (42, 62, 126):  # * > ~
        values = []
        for _ in range(int(text)):
            value, at = parsed(data, at)
            values.append(value)
        return values, at
    if kind == 45:  # -
        return Refusal(text.decode(errors="replace")), at
    return (None if kind == 95 else text), at  # _


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
        connection = self._take(pool, end)
        try:
            return self._exchange(connection, self._wire(script, key, arguments, by_source), end)
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

    def _exchange(self, connection: Any, wire: bytes, end: float) -> Any:
        """Send a command and read its answer: on the bare socket where that is what the connection does, too."""
        link = connection._sock if is_plain(connection) else None
        if link is None:
            connection.send_packed_command([wire], check_health=False)
            if not connection.can_read(timeout=max(end - time.monotonic(), 0)):
                raise self.package.TimeoutError("the server did not answer in time")
            return connection.read_response(disable_decoding=True)
        link.settimeout(max(end - time.monotonic(), 1e-6))
        try:
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
        finally:
            with suppress(OSError):
                link.settimeout(connection.socket_timeout)
        return self._checked(answer)

    def _pool_of(self, key: bytes, end: float) -> Any:
        node = self.client.get_node_from_key(key)
        if node is None:
            raise self.package.ConnectionError("no node of the cluster is known to have the key")
        return self.client.get_redis_connection(node).connection_pool

    def _take(self, pool: Any, end: float) -> Any:
        """A connection: at once where a live one is idle, else from a thread that can be given up."""
        if is_idle(pool):
            return self._getter(pool)()
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


def streams(connection: Any) -> tuple[Any, Any]:
    """Reader and writer of an asynchronous connection that does no more than to send and to receive; else None."""
    if not is_plain(connection):
        return None, None
    return getattr(connection, "_reader", None), getattr(connection, "_writer", None)


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
            wire = self._wire(script, key, arguments, by_source)
            reader, writer = streams(connection)
            if writer is not None and is_readable(writer.get_extra_info("socket")):
                await connection.disconnect(nowait=True)  # the loop has not seen yet that it is over
                await connection.connect()
                reader, writer = streams(connection)
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
