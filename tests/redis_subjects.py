"""RedisBucket on each kind of client, called in one way; and servers that are told the time."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.cluster import RedisCluster as AsyncCluster
from redis.cluster import RedisCluster as SyncCluster
from servers import close_cluster_client

from aiolimiter_fast import RateItem, RedisBucket, WallClock, _lua

CLIENTS: dict[str, tuple[Callable[[str], Any], bool]] = {
    "sync": (redis.Redis.from_url, False),
    "async": (redis.asyncio.Redis.from_url, False),
    "sync cluster": (SyncCluster.from_url, True),
    "async cluster": (AsyncCluster.from_url, True),
}


class Subject:
    """A client, how to await what it gives, and a synchronous client `raw` to look at what is stored."""

    def __init__(self, kind: str, url: str) -> None:
        make, is_cluster = CLIENTS[kind]
        self.loop = asyncio.new_event_loop()
        self.client: Any = self.run(self._made(make, url))
        self.raw: Any = (SyncCluster if is_cluster else redis.Redis).from_url(url)
        self.is_async = kind.startswith("async")

    @staticmethod
    async def _made(make: Callable[[str], Any], url: str) -> Any:
        return make(url)

    def run(self, result: Any) -> Any:
        async def settle(awaitable: Awaitable[Any]) -> Any:
            return await awaitable

        return self.loop.run_until_complete(settle(result)) if isinstance(result, Awaitable) else result

    def bucket(self, rates: list[Any], key: str | None = None, **options: Any) -> RedisBucket:
        made: RedisBucket = self.run(RedisBucket.init(rates, self.client, key or fresh_key(), **options))
        return made

    def put(self, bucket: Any, weight: int = 1, name: str = "x") -> bool:
        admitted: bool = self.run(bucket.put(RateItem(name, bucket.now(), weight)))
        return admitted

    def close(self) -> None:
        if self.is_async:
            self.run(self.client.aclose())
        else:
            close(self.client)
        close(self.raw)
        self.loop.close()


def close(client: Any) -> None:
    if isinstance(client, SyncCluster):
        close_cluster_client(client)
    else:
        client.close()


@contextmanager
def subject(kind: str, url: str) -> Iterator[Subject]:
    with ExitStack() as exit_stack:
        made = Subject(kind, url)
        exit_stack.callback(made.close)
        yield made


def now() -> int:
    """What buckets in Redis date items by, which matters to nobody."""
    return WallClock().now()


def fresh_key() -> str:
    return f"test:{uuid.uuid4().hex}"


class ServerClock:
    """The time as scripts see it that are made by `told`, in microseconds since the epoch."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.key = fresh_key()
        self.set(1_800_000_000_000_000)

    def set(self, now: int) -> None:
        self.now = now
        self.client.delete(self.key)
        self.client.rpush(self.key, now // 10**6, now % 10**6)

    def advance(self, microseconds: int) -> None:
        self.set(self.now + microseconds)

    def told(self, script: _lua.Script) -> _lua.Script:
        return _lua.Script(script.source.replace("redis.call('TIME')", f"redis.call('LRANGE', '{self.key}', 0, 1)"))
