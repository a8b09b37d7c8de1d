"""RedisBucket and RedisStateStore keep the contract of a bucket, on either kind of client, and in either format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis
import redis.asyncio

from aiolimiter_fast import Rate, RedisBucket, RedisStateStore, StateBucket
from aiolimiter_fast.testing import BucketContract


def log(url: str, rates: list[Rate], key: str, **options: Any) -> Any:
    return RedisBucket(rates, redis.Redis.from_url(url), key, budget=30, **options)


class Owner(RedisBucket):
    """Closes its client, which a bucket leaves to the user."""

    def close(self) -> Any:
        client: Any = self.redis
        return client.aclose()


def log_async(url: str, rates: list[Rate], key: str) -> Any:
    return Owner.init(rates, redis.asyncio.Redis.from_url(url), key, budget=30)


def state(url: str, rates: list[Rate], key: str) -> Any:
    return StateBucket(rates, store=RedisStateStore(redis.Redis.from_url(url), key, budget=30))


class _AtRedis(BucketContract):
    shared = True
    persistent = True
    own_clock = True
    interval = 30
    url: str
    make: Callable[..., Any]

    @pytest.fixture(autouse=True)
    def _server(self, redis_url: str) -> Iterator[None]:
        self.url = redis_url
        yield
        with redis.Redis.from_url(redis_url) as client:
            client.flushdb()

    def make_bucket(self, rates: list[Rate], name: str) -> Any:
        return self.opener(rates, name)()

    def opener(self, rates: list[Rate], name: str) -> Callable[[], Any]:
        return partial(type(self).make, self.url, rates, f"contract:{name}")


class TestLog(_AtRedis):
    processes = True
    threads = True
    make = log


class TestAsynchronousLog(_AtRedis):
    make = log_async


class TestReferenceFormat(_AtRedis):
    threads = True
    heaviest = 10_000
    make = partial(log, reference_format=True)


class TestState(_AtRedis):
    threads = True
    keeps_names = False
    make = state


del BucketContract, _AtRedis
