"""The connections that limits hold on to between calls: few, the pool's own, never a stale one or another process's."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import redis.asyncio
from redis_subjects import Subject, fresh_key, subject
from servers import Proxy

from aiolimiter_fast import Rate, RateItem, RedisBucket, RedisStateStore, StateBucket
from aiolimiter_fast.buckets import _redis_client
from aiolimiter_fast.errors import BackendUnavailable

HOUR = 3_600_000


@pytest.fixture(params=["sync", "async"])
def on(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Subject]:
    with subject(request.param, redis_url) as made:
        yield made


def held(client: Any) -> int:
    return len(_redis_client.holdings_of(client.connection_pool).stack)


def connected(on: Subject) -> int:
    """Connections of this test's client, which has a name for it."""
    return sum(each["name"] == "limits" for each in on.raw.client_list())


def test_calls_in_turn_share_one_connection_whatever_the_limit(on: Subject) -> None:
    buckets: list[Any] = [on.bucket([Rate(10, HOUR)]) for _ in range(20)]
    buckets += [StateBucket([Rate(10, HOUR)], store=RedisStateStore(on.client, fresh_key())) for _ in range(20)]
    for bucket in buckets * 2:
        assert on.put(bucket)
    assert held(on.client) == 1
    on.client.connection_pool.connection_kwargs["client_name"] = "limits"
    on.run(on.client.ping())
    assert connected(on) == 1  # the user's own, since the other is in use


def test_a_connection_that_the_server_has_closed_is_not_used_again(on: Subject) -> None:
    bucket = on.bucket([Rate(10, HOUR)])
    for _ in range(3):
        assert on.put(bucket)
        on.raw.client_kill_filter(_type="normal", skipme=True)
    assert on.put(bucket)
    assert on.run(bucket.count()) == 4


def test_a_client_that_was_closed_connects_again(on: Subject) -> None:
    bucket = on.bucket([Rate(10, HOUR)])
    for _ in range(3):
        assert on.put(bucket)
        on.run(on.client.connection_pool.disconnect())
    assert on.put(bucket)
    assert held(on.client) == 1


def test_a_small_pool_has_all_its_connections_back_after_each_call(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, max_connections=1) as client:
        bucket = RedisBucket([Rate(10, HOUR)], client, fresh_key())
        for _ in range(3):
            assert bucket.put(RateItem("x", 0))
            assert client.ping()
        assert held(client) == 0


def test_of_many_threads_connections_few_are_kept_and_the_rest_given_back(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, max_connections=64) as client:
        bucket = RedisBucket([Rate(1000, HOUR)], client, fresh_key())
        together = threading.Barrier(16)

        def put() -> None:
            together.wait()
            for _ in range(20):
                assert bucket.put(RateItem("x", 0))

        threads = [threading.Thread(target=put) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert bucket.count() == 320
        assert 0 < held(client) <= 64 // _redis_client.SHARE
        taken = [client.connection_pool.get_connection() for _ in range(60)]  # what the user may have
        for each in taken:
            client.connection_pool.release(each)


def test_a_connection_has_its_timeout_again_when_the_pool_gets_it_back(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, socket_timeout=7, max_connections=2) as client:
        assert RedisBucket([Rate(1, HOUR)], client, fresh_key(), budget=3).put(RateItem("x", 0))
        connection: Any = client.connection_pool.get_connection()
        assert connection._sock.gettimeout() == 7
        client.connection_pool.release(connection)


def test_threads_that_find_one_connection_idle_keep_to_their_budget_where_the_server_stalls(redis_url: str) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with Proxy(urlsplit(redis_url).port or 6379) as proxy:
            for _ in range(4):
                proxy.stalled = False
                pool = redis.ConnectionPool(port=proxy.port, max_connections=8, socket_timeout=None)
                bucket = RedisBucket([Rate(100, HOUR)], redis.Redis(connection_pool=pool), fresh_key(), budget=5)
                assert bucket.put(RateItem("x", 0))
                bucket.outages.budget = 0.1
                proxy.stalled = True
                start = threading.Barrier(6)

                def put(bucket: RedisBucket = bucket, start: threading.Barrier = start) -> None:
                    start.wait()
                    with pytest.raises(BackendUnavailable):
                        bucket.put(RateItem("x", 0))

                threads = [threading.Thread(target=put, daemon=True) for _ in range(6)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(20)
                assert not any(thread.is_alive() for thread in threads)
                pool.disconnect()
    finally:
        sys.setswitchinterval(interval)


def test_a_pool_goes_with_its_connections_when_nobody_has_it_any_more(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    bucket = RedisBucket([Rate(10, HOUR)], client, fresh_key())
    assert bucket.put(RateItem("x", 0))
    connection: Any = _redis_client.holdings_of(client.connection_pool).stack[0].connection()
    gone = [weakref.ref(each) for each in (client.connection_pool, connection, connection._sock)]
    client.close()
    del client, bucket, connection
    gc.collect()
    assert [each() for each in gone] == [None] * 3


def test_a_forked_child_has_connections_of_its_own(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        bucket = RedisBucket([Rate(400, HOUR)], client, fresh_key(), budget=30)
        assert bucket.put(RateItem("x", 0))
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                os._exit(not all(bucket.put(RateItem("x", 0)) for _ in range(100)))
            children.append(child)
        assert all(bucket.put(RateItem("x", 0)) for _ in range(100))
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
        assert bucket.count() == 301


def test_a_client_may_be_used_in_one_loop_after_another(redis_url: str) -> None:
    client = redis.asyncio.Redis.from_url(redis_url)
    bucket = RedisBucket([Rate(10, HOUR)], client, fresh_key())

    async def put() -> None:
        assert await bucket.put(RateItem("x", 0))
        assert await bucket.put(RateItem("x", 0))
        await client.connection_pool.disconnect()

    for _ in range(3):
        asyncio.run(put())


async def test_tasks_that_are_cancelled_at_any_moment_leave_connections_fit_for_others(redis_url: str) -> None:
    client = redis.asyncio.Redis.from_url(redis_url)
    bucket = RedisBucket([Rate(10_000, HOUR)], client, fresh_key(), budget=30)
    assert await bucket.put(RateItem("x", 0))
    for turns in range(12):
        call = asyncio.create_task(bucket.put(RateItem("x", 0)))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        other = RedisBucket([Rate(1, HOUR)], client, fresh_key(), budget=30)
        assert [await other.put(RateItem("x", 0)) for _ in range(2)] == [True, False]
    await client.aclose()
