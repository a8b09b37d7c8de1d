"""What becomes of calls whose backend is stalled, lost, empty or out of reach: the policy, and Redis under it.

Clients get timeouts of a minute: where a call ends long before, it was the budget of the limiter that ended it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis_subjects import Subject, fresh_key, subject
from redis_workers import demand
from servers import Proxy, RedisServer, wait_until

from aiolimiter_fast import (
    BackendUnavailable,
    Decision,
    Limiter,
    Rate,
    RateItem,
    RedisBucket,
    RedisStateStore,
    SlidingWindowLog,
    StateBucket,
    _budget,
)
from aiolimiter_fast.buckets._outage import Outages

HOUR = 3_600_000
MINUTE = 60
PATIENT = f"socket_timeout={MINUTE}&socket_connect_timeout={MINUTE}"
# Seconds that a call has where it is to fail, and where it is not.
BUDGET = 0.02
PLENTY = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as made:
        yield made


@pytest.fixture
def link(server: RedisServer) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture(params=["sync", "async"])
def on(request: pytest.FixtureRequest, link: Proxy, server: RedisServer) -> Iterator[Subject]:
    with subject(request.param, f"redis://127.0.0.1:{link.port}/0?{PATIENT}") as made:
        made.raw.close()
        made.raw = redis.Redis.from_url(server.url)
        yield made


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No call takes half as long as the client would wait, and a backend is tried again at once."""
    monkeypatch.setattr(Outages, "pause", 0.0)
    began = time.monotonic()
    yield
    assert time.monotonic() - began < MINUTE / 2


@contextmanager
def hurried(bucket: Any) -> Iterator[None]:
    """Let the calls of a bucket end soon: those within are to fail."""
    outages = getattr(bucket, "store", bucket).outages
    outages.budget = BUDGET
    yield
    outages.budget = PLENTY


class Faults:
    """Ways for a link to fail, and how to mend it."""

    @staticmethod
    def stalled(link: Proxy) -> None:
        link.stalled = True

    @staticmethod
    def stalled_for_new_connections_too(link: Proxy) -> None:
        link.stalled = True
        link.reset()

    @staticmethod
    def refused(link: Proxy) -> None:
        link.refuse()

    @staticmethod
    def mend(link: Proxy) -> None:
        link.stalled = False
        if not link.is_open:
            link.accept()


FAULTS = [Faults.stalled, Faults.stalled_for_new_connections_too, Faults.refused]


@pytest.fixture(params=FAULTS, ids=lambda fault: fault.__name__)
def fail(request: pytest.FixtureRequest) -> Callable[[Proxy], None]:
    chosen: Callable[[Proxy], None] = request.param
    return chosen


@pytest.fixture(params=["log", "state"])
def made(request: pytest.FixtureRequest, on: Subject) -> Callable[..., Any]:
    """Makes a bucket of either kind."""

    def make(rates: list[Rate], **options: Any) -> Any:
        options = {"budget": PLENTY, **options}
        if request.param == "log":
            return on.bucket(rates, **options)
        return StateBucket(rates, store=RedisStateStore(on.client, fresh_key(), **options))

    return make


def test_by_default_the_call_raises_and_then_the_state_is_used_again(
    on: Subject, link: Proxy, made: Any, fail: Any
) -> None:
    bucket = made([Rate(3, HOUR)])
    assert on.put(bucket)
    fail(link)
    with hurried(bucket):
        for _ in range(2):
            with pytest.raises(BackendUnavailable) as caught:
                on.put(bucket)
            assert isinstance(caught.value.__cause__, (redis.RedisError, OSError, asyncio.TimeoutError))
        with pytest.raises(BackendUnavailable):
            on.run(bucket.count())
    Faults.mend(link)
    wait_until(lambda: answers(on, bucket), "an answer")
    assert on.put(bucket, 2) or on.put(bucket)  # what was under way may have arrived, and counts
    assert not on.put(bucket, 3)


def answers(on: Subject, bucket: Any) -> bool:
    try:
        on.run(bucket.count())
    except BackendUnavailable:
        return False
    return True


def test_open_admits_until_the_state_is_back(on: Subject, link: Proxy, made: Any, fail: Any) -> None:
    bucket = made([Rate(3, HOUR)], on_backend_error="open")
    assert on.put(bucket, 3)
    fail(link)
    with hurried(bucket):
        assert [on.put(bucket) for _ in range(3)] == [True] * 3
    Faults.mend(link)
    wait_until(lambda: not on.put(bucket), "a denial by the server")


def test_closed_denies_until_the_state_is_back(on: Subject, link: Proxy, made: Any, fail: Any) -> None:
    bucket = made([Rate(100, HOUR)], on_backend_error="closed")
    assert on.put(bucket)
    fail(link)
    with hurried(bucket):
        assert [on.put(bucket) for _ in range(3)] == [False] * 3
    assert bucket.failing_rate is bucket.rates[0]
    Faults.mend(link)
    wait_until(lambda: on.put(bucket), "an admission by the server")


def test_local_admits_the_share_until_the_state_is_back(on: Subject, link: Proxy, made: Any, fail: Any) -> None:
    bucket = made([Rate(4, HOUR)], on_backend_error="local", local_share=0.5)
    assert on.put(bucket)
    fail(link)
    item = RateItem("x", bucket.now(), 1)
    with hurried(bucket):
        assert [on.put(bucket) for _ in range(3)] == [True, True, False]
        assert not on.run(bucket.put(item))
    assert 0 < on.run(bucket.waiting(item)) <= HOUR + 1
    Faults.mend(link)
    wait_until(lambda: on.put(bucket), "an admission by the server")


def test_the_callers_timeout_is_the_budget(
    on: Subject, link: Proxy, fail: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_budget, "BUDGET", 2.0 * MINUTE)
    limiter = Limiter(on.bucket([Rate(3, HOUR)]))
    fail(link)

    async def acquire() -> bool:
        return await limiter.try_acquire_async("x", timeout=0.02)

    for call in (lambda: limiter.try_acquire("x", timeout=0.02), acquire):
        with pytest.raises(BackendUnavailable):
            on.run(call())


def test_without_a_timeout_there_is_a_budget_all_the_same(
    on: Subject, link: Proxy, fail: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_budget, "BUDGET", BUDGET)
    limiter = Limiter(on.bucket([Rate(3, HOUR)]))
    fail(link)
    for options in ({}, {"blocking": False}, {"timeout": 0}):
        with pytest.raises(BackendUnavailable):
            on.run(limiter.try_acquire("x", **options))


def test_a_call_that_waits_gets_through_when_the_server_is_back(on: Subject, link: Proxy) -> None:
    bucket = on.bucket([Rate(3, HOUR)], on_backend_error="closed", budget=BUDGET)
    bucket.outages.pause = 0.02
    limiter = Limiter(bucket)
    assert on.run(limiter.try_acquire("x"))
    link.stalled = True
    mending = threading.Timer(0.1, Faults.mend, [link])
    mending.start()
    assert on.run(limiter.try_acquire("x"))
    mending.join()


def test_an_answer_lost_on_its_way_is_counted_once_and_admits_nobody(on: Subject, link: Proxy, made: Any) -> None:
    bucket = made([Rate(5, HOUR)], budget=PLENTY)
    assert on.put(bucket)
    link.cut = True
    with pytest.raises(BackendUnavailable):
        on.put(bucket)
    assert on.run(bucket.count()) == 2
    assert on.put(bucket, 3)
    assert not on.put(bucket)


async def test_a_cancelled_decision_leaves_no_answer_for_the_next(link: Proxy, server: RedisServer) -> None:
    client = redis.asyncio.Redis.from_url(f"redis://127.0.0.1:{link.port}/0", max_connections=1)
    bucket = RedisBucket([Rate(1, HOUR)], client, fresh_key(), budget=MINUTE)
    assert await bucket.put(RateItem("x", 0))
    link.stalled = True
    call = asyncio.create_task(bucket.put(RateItem("x", 0)))
    await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    link.stalled = False
    assert await bucket.count() == 1
    await bucket.flush()
    assert await bucket.put(RateItem("x", 0)) is True
    await client.aclose()


def test_a_restarted_server_is_found_again_and_keeps_what_it_saved(redis_server: RedisServer) -> None:
    redis_server.stop()
    redis_server.settings |= {"appendonly": "yes", "appendfsync": "always"}
    redis_server.start()
    for kind in ("sync", "async"):
        with subject(kind, redis_server.url) as on:
            bucket = on.bucket([Rate(3, HOUR)], budget=PLENTY)
            assert on.put(bucket, 2)
            redis_server.kill()
            with hurried(bucket), pytest.raises(BackendUnavailable):
                on.put(bucket)
            redis_server.start()
            assert [on.put(bucket), on.put(bucket)] == [True, False]


def test_a_frozen_server_holds_nobody(redis_server: RedisServer) -> None:
    for kind in ("sync", "async"):
        with subject(kind, redis_server.url) as on:
            bucket = on.bucket([Rate(2, HOUR)], budget=PLENTY)
            assert on.put(bucket)
            redis_server.pause()
            with hurried(bucket), pytest.raises(BackendUnavailable):
                on.put(bucket)
            redis_server.resume()
            assert not on.put(bucket, 2)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_read_only_replica_is_an_outage(server: RedisServer, kind: str) -> None:
    with RedisServer(replicaof=f"127.0.0.1 {server.port}") as replica, subject(kind, replica.url) as on:
        bucket = on.bucket([Rate(2, HOUR)], budget=PLENTY)
        with pytest.raises(BackendUnavailable, match=r"READONLY|read only") as caught:
            on.put(bucket)
        assert isinstance(caught.value.__cause__, redis.ResponseError)
        assert on.put(on.bucket([Rate(2, HOUR)], budget=PLENTY, on_backend_error="open"), 2)


def test_an_exhausted_pool_is_an_outage(server: RedisServer) -> None:
    pools: tuple[Any, Any] = (
        redis.ConnectionPool.from_url(server.url, max_connections=1),
        redis.BlockingConnectionPool.from_url(server.url, max_connections=1, timeout=MINUTE),
    )
    for pool in pools:
        bucket = RedisBucket([Rate(2, HOUR)], redis.Redis(connection_pool=pool), fresh_key(), budget=PLENTY)
        taken = pool.get_connection()
        with hurried(bucket), pytest.raises(BackendUnavailable):
            bucket.put(RateItem("x", 0))
        pool.release(taken)
        wait_until(partial(bucket.put, RateItem("x", 0)), "an admission")
        pool.disconnect()


async def test_an_exhausted_asynchronous_pool_is_an_outage(server: RedisServer) -> None:
    pools: tuple[Any, Any] = (
        redis.asyncio.ConnectionPool.from_url(server.url, max_connections=1),
        redis.asyncio.BlockingConnectionPool.from_url(server.url, max_connections=1, timeout=MINUTE),
    )
    for pool in pools:
        bucket = RedisBucket([Rate(2, HOUR)], redis.asyncio.Redis(connection_pool=pool), fresh_key(), budget=PLENTY)
        taken = await pool.get_connection()
        with hurried(bucket), pytest.raises(BackendUnavailable):
            await bucket.put(RateItem("x", 0))
        await pool.release(taken)
        assert await bucket.put(RateItem("x", 0))
        await pool.disconnect()


def has_grown(file: Path, size: int) -> bool:
    return file.stat().st_size > size


def test_a_client_stopped_in_the_middle_of_decisions_stops_no_other(server: RedisServer, tmp_path: Path) -> None:
    key, spawn = fresh_key(), multiprocessing.get_context("spawn")
    files = [tmp_path / "stopped", tmp_path / "going"]
    workers = [spawn.Process(target=demand, args=(server.url, key, str(file)), daemon=True) for file in files]
    for worker in workers:
        worker.start()
    wait_until(lambda: all(file.exists() and file.stat().st_size > 3 for file in files), "the first admissions")
    for _ in range(3):
        assert workers[0].pid is not None
        os.kill(workers[0].pid, signal.SIGSTOP)
        before = files[1].stat().st_size
        wait_until(partial(has_grown, files[1], before + 20), "the other's going on")
        os.kill(workers[0].pid, signal.SIGCONT)
        before = files[0].stat().st_size
        wait_until(partial(has_grown, files[0], before + 3), "going on")
    for worker in workers:
        worker.kill()
        worker.join(30)


class Lost:
    """Ways for a state to be lost."""

    @staticmethod
    def flushed(on: Subject, link: Proxy, empty: RedisServer) -> None:
        on.raw.flushall()

    @staticmethod
    def failed_over(on: Subject, link: Proxy, empty: RedisServer) -> None:
        empty.call("FLUSHALL")
        link.target = empty.port
        link.reset()


@pytest.fixture(scope="module")
def empty() -> Iterator[RedisServer]:
    with RedisServer() as made:
        yield made


@pytest.mark.parametrize("lose", [Lost.flushed, Lost.failed_over], ids=["flushed", "failed over"])
class TestAStateThatIsLost:
    def test_open_begins_anew(self, on: Subject, link: Proxy, empty: RedisServer, made: Any, lose: Any) -> None:
        bucket = made([Rate(3, HOUR)], budget=PLENTY)
        assert on.put(bucket, 3)
        lose(on, link, empty)
        assert [on.put(bucket, 3), on.put(bucket)] == [True, False]

    def test_closed_takes_it_for_full(self, on: Subject, link: Proxy, empty: RedisServer, made: Any, lose: Any) -> None:
        bucket = made([Rate(3, HOUR)], budget=PLENTY, on_state_loss="closed")
        assert on.put(bucket)
        lose(on, link, empty)
        item = RateItem("x", bucket.now(), 1)
        assert not on.run(bucket.put(item))
        assert 0 < on.run(bucket.waiting(item)) <= HOUR + 1
        assert not on.put(bucket)

    def test_closed_fills_it_once_for_all_clients(
        self, on: Subject, link: Proxy, empty: RedisServer, lose: Any
    ) -> None:
        key = fresh_key()
        buckets = [on.bucket([Rate(3, 30)], key, budget=PLENTY, on_state_loss="closed") for _ in range(3)]
        limiters = [Limiter(bucket) for bucket in buckets]
        for each in limiters:
            assert on.run(each.try_acquire("x"))
        lose(on, link, empty)
        for each in limiters * 2:
            assert on.run(each.try_acquire("x", timeout=20))

    def test_raise_tells_it_once(self, on: Subject, link: Proxy, empty: RedisServer, made: Any, lose: Any) -> None:
        bucket = made([Rate(3, HOUR)], budget=PLENTY, on_state_loss="raise", on_backend_error="open")
        assert on.put(bucket)
        lose(on, link, empty)
        with pytest.raises(BackendUnavailable, match="has lost"):
            on.put(bucket)
        assert [on.put(bucket, 3), on.put(bucket)] == [True, False]


@pytest.mark.parametrize("policy", ["closed", "raise"])
def test_what_is_flushed_on_purpose_or_has_expired_is_not_lost(on: Subject, made: Any, policy: str) -> None:
    bucket = made([Rate(3, HOUR)], budget=PLENTY, on_state_loss=policy)
    other = made([Rate(3, HOUR)], budget=PLENTY, on_state_loss=policy)
    if isinstance(bucket, StateBucket):
        bucket.store._key = other.store._key  # type: ignore[attr-defined]
    else:
        other = on.bucket([Rate(3, HOUR)], bucket.bucket_key, budget=PLENTY, on_state_loss=policy)
    assert on.put(bucket)
    assert on.put(other)
    on.run(other.flush())
    assert [on.put(bucket, 3), on.put(bucket)] == [True, False]
    brief = made([Rate(3, 1)], budget=PLENTY, on_state_loss=policy)
    assert on.put(brief, 3)
    time.sleep(0.01)
    on.raw.flushall()
    assert on.put(brief, 3)


def test_during_the_pause_the_backend_is_spared_and_then_one_call_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outages, "pause", 3600.0)
    outages = Outages((KeyError,), on_backend_error="closed")
    tries: list[float] = []
    rates = [Rate(1, 1000)]

    def attempt(seconds: float) -> Decision:
        tries.append(seconds)
        if len(tries) == 2:
            assert not decide()  # somebody else, meanwhile
        if len(tries) < 3:
            raise KeyError("down")
        return Decision()

    def decide() -> bool:
        return outages.decide(SlidingWindowLog(), rates, 1, attempt).allowed

    assert [decide() for _ in range(3)] == [False] * 3
    assert len(tries) == 1
    outages._down_until = time.monotonic() - 1
    assert [decide() for _ in range(3)] == [False] * 3
    assert len(tries) == 2
    outages._down_until = time.monotonic() - 1
    assert [decide() for _ in range(3)] == [True] * 3
    assert len(tries) == 5


def test_errors_that_are_no_outage_come_through() -> None:
    outages = Outages((KeyError,), on_backend_error="open")

    def attempt(seconds: float) -> Decision:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        outages.decide(SlidingWindowLog(), [Rate(1, 1000)], 1, attempt)
