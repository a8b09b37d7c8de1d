"""A Limiter at Redis: tasks, threads and processes that ask at once."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import redis_kills
from redis_subjects import CLIENTS, Subject, fresh_key, now, subject
from redis_workers import ask
from servers import Proxy, RedisCluster, wait_until

from aiolimiter_fast import (
    BucketAsyncWrapper,
    Limiter,
    Rate,
    RateItem,
    RedisBucket,
    RedisStateStore,
    StateBucket,
    clocks,
)

HOUR = 3_600_000
spawn = multiprocessing.get_context("spawn")


@pytest.fixture(params=CLIENTS)
def on(request: pytest.FixtureRequest, redis_url: str, redis_cluster: RedisCluster) -> Iterator[Subject]:
    with subject(request.param, redis_cluster.url if "cluster" in request.param else redis_url) as made:
        yield made


@pytest.fixture
def link(redis_url: str) -> Iterator[Proxy]:
    with Proxy(redis.ConnectionPool.from_url(redis_url).connection_kwargs["port"]) as proxy:
        yield proxy


def url_of(link: Proxy) -> str:
    return f"redis://127.0.0.1:{link.port}/0"


def test_calls_wait_for_their_turn_and_are_all_admitted(on: Subject) -> None:
    limiter = Limiter(on.bucket([Rate(2, 10)]))
    assert all(on.run(limiter.try_acquire("x")) for _ in range(7))

    async def together() -> list[bool]:
        return list(await asyncio.gather(*(limiter.try_acquire_async("x") for _ in range(7))))

    assert on.run(together()) == [True] * 7
    assert on.run(limiter.try_acquire("x", 3)) is False
    limiter.close()


def test_a_call_that_does_not_want_to_wait_is_refused(on: Subject) -> None:
    limiter = Limiter(on.bucket([Rate(1, HOUR)]))
    assert on.run(limiter.try_acquire("x", blocking=False)) is True
    assert on.run(limiter.try_acquire("x", blocking=False)) is False
    assert on.run(limiter.try_acquire("x", timeout=0)) is False
    assert on.run(limiter.try_acquire("x", timeout=0.01)) is False


async def until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("kind", ["log", "state"])
async def test_twenty_tasks_decide_at_once_over_a_slow_link(link: Proxy, kind: str) -> None:
    client = redis.asyncio.Redis.from_url(url_of(link))
    bucket: Any = RedisBucket([Rate(20, HOUR)], client, fresh_key(), budget=60)
    if kind == "state":
        bucket = StateBucket([Rate(20, HOUR)], store=RedisStateStore(client, fresh_key(), budget=60))
    limiter = Limiter(bucket)
    link.stalled = True  # none is answered before all are under way
    calls = [asyncio.create_task(limiter.try_acquire_async("x")) for _ in range(20)]
    await until(lambda: link.connections == 20)
    link.stalled = False
    assert await asyncio.gather(*calls) == [True] * 20
    assert await limiter.try_acquire_async("x", blocking=False) is False
    await client.aclose()


def test_twenty_threads_decide_at_once_over_a_slow_link(link: Proxy) -> None:
    client = redis.Redis.from_url(url_of(link))
    limiter = Limiter(RedisBucket([Rate(20, HOUR)], client, fresh_key(), budget=60))
    answers: list[Any] = []
    link.stalled = True
    threads = [threading.Thread(target=lambda: answers.append(limiter.try_acquire("x"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    wait_until(lambda: link.connections == 20, "the connecting of all")
    link.stalled = False
    for thread in threads:
        thread.join(60)
    assert answers == [True] * 20
    client.close()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", ["log", "state"])
async def test_a_synchronous_client_does_not_hold_the_loop(link: Proxy, kind: str, wrapped: bool) -> None:
    client = redis.Redis.from_url(url_of(link))
    bucket: Any = RedisBucket([Rate(1, HOUR)], client, fresh_key(), budget=60)
    if kind == "state":
        bucket = StateBucket([Rate(1, HOUR)], store=RedisStateStore(client, fresh_key(), budget=60))
    limiter = Limiter(BucketAsyncWrapper(bucket) if wrapped else bucket)
    link.stalled = True
    call = asyncio.create_task(limiter.try_acquire_async("x"))
    for _ in range(50):  # the ticker
        await asyncio.sleep(0.001)
    assert not call.done()
    link.stalled = False
    assert await call is True
    assert await limiter.try_acquire_async("x", blocking=False) is False
    limiter.close()
    client.close()


async def test_waits_of_calls_that_overlap_are_their_own(redis_url: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        bucket = RedisBucket([Rate(10, HOUR)], client, fresh_key())
        assert await bucket.put(RateItem("x", 0, 9))
        full, fits = RateItem("x", 0, 5), RateItem("x", 0, 1)
        assert not await bucket.put(full)
        assert await bucket.put(fits)
        assert bucket.failing_rate is None
        assert bucket.waiting(full) > 1000
        assert bucket.waiting(fits) == 0


@pytest.mark.parametrize("days", [-1, 1])
def test_the_clocks_of_clients_do_not_matter(on: Subject, monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    bucket = on.bucket([Rate(2, 20)])
    state = StateBucket([Rate(2, 20)], store=RedisStateStore(on.client, fresh_key()))
    for each in (bucket, state):
        assert on.put(each, 2)
        wrong = clocks.WallClock().now() + days * 86_400_000
        monkeypatch.setattr(clocks.WallClock, "now", lambda self, wrong=wrong: wrong)
        item = RateItem("x", now(), 2)
        assert not on.run(each.put(item)) or on.run(each.count()) <= 2
        assert on.run(each.waiting(item)) <= 21
        monkeypatch.undo()
        assert on.run(Limiter(each).try_acquire("x", timeout=5))


def processes(target: Any, arguments: list[tuple[Any, ...]]) -> list[Any]:
    started = [spawn.Process(target=target, args=each, daemon=True) for each in arguments]
    for process in started:
        process.start()
    return started


def test_four_processes_with_room_are_never_denied_and_then_always(redis_url: str) -> None:
    key, answers, rates = fresh_key(), spawn.SimpleQueue(), [(400, HOUR), (500, 2 * HOUR)]
    workers = processes(ask, [(redis_url, key, rates, 100, time.time() + 1, answers)] * 4)
    assert [answers.get() for _ in workers] == [100] * 4
    workers += processes(ask, [(redis_url, key, rates, 10, 0, answers)])
    assert answers.get() == 0
    for worker in workers:
        worker.join(30)


def kill(url: str, *how: str) -> Any:
    """What `redis_kills.py` reports."""
    command = [sys.executable, "-W", "error", str(Path(__file__).parent / "redis_kills.py"), url, *how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_processes_that_are_killed_at_any_moment_let_nothing_more_through_and_stop_nobody(redis_url: str) -> None:
    seen = kill(redis_url, "25", "0.06")
    assert max(seen["excess"] + seen["excess_in_log"]) <= 0, seen
    lost = (seen["kills"] + redis_kills.WORKERS) * redis_kills.HEAVIEST  # admitted, and killed before it was noted
    assert seen["admitted"] <= seen["logged"] <= seen["admitted"] + lost
    assert seen["admitted"] > redis_kills.RATES[0][0]


def test_only_what_was_surely_within_one_window_is_an_excess() -> None:
    assert redis_kills.worst_excess([(0, 1, 3), (5, 10, 3)], limit=5, interval=10) == 1
    assert redis_kills.worst_excess([(0, 1, 3), (5, 11, 3)], limit=5, interval=10) == -2


def test_the_same_processes_without_a_common_limit_are_found_out(redis_url: str) -> None:
    seen = kill(redis_url, "3", "0.1", "apart")
    assert max(seen["excess"]) > 0, seen
    assert max(seen["excess_in_log"]) > 0, seen
