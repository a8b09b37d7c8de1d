"""RedisStateStore: GCRA on the server decides as in memory, by the server's clock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_subjects import CLIENTS, ServerClock, Subject, fresh_key, subject
from servers import RedisCluster

from aiolimiter_fast import (
    GCRA,
    InMemoryStateStore,
    Limiter,
    Rate,
    RateItem,
    RedisStateStore,
    StateAlgorithm,
    StateBucket,
    TokenBucket,
    _lua,
)

HOUR = 3_600_000
RATES = [
    [(4, 10, 4)],
    [(4, 10, 2), (6, 30, 9)],
    [(3, 7, 3), (11, 60, 11)],
    [(4, 8, 4), (5, 12, 5), (6, 18, 5), (7, 28, 6), (8, 40, 8)],
]


@pytest.fixture(params=CLIENTS)
def on(request: pytest.FixtureRequest, redis_url: str, redis_cluster: RedisCluster) -> Iterator[Subject]:
    with subject(request.param, redis_cluster.url if "cluster" in request.param else redis_url) as made:
        yield made


@pytest.fixture
def one(redis_url: str) -> Iterator[Subject]:
    with subject("sync", redis_url) as made:
        yield made


@pytest.fixture(scope="module")
def timed(redis_url: str) -> Iterator[tuple[Subject, ServerClock]]:
    with subject("sync", redis_url) as on:
        yield on, ServerClock(on.raw)


def test_a_burst_passes_and_no_more(on: Subject) -> None:
    bucket = StateBucket([Rate(60, HOUR, burst=3)], store=RedisStateStore(on.client, fresh_key()))
    assert [on.put(bucket) for _ in range(4)] == [True, True, True, False]
    item = RateItem("x", bucket.now(), 1)  # type: ignore[arg-type]
    assert not on.run(bucket.put(item))
    assert 0 < on.run(bucket.waiting(item)) <= 60_000
    assert on.run(bucket.count()) == 3
    assert not on.put(bucket, 4)
    on.run(bucket.flush())
    assert on.put(bucket, 3)


def test_every_state_expires_and_one_that_lost_its_expiry_gets_it_back(on: Subject) -> None:
    key = fresh_key()
    bucket = StateBucket([Rate(1, 1000), Rate(2, HOUR)], store=RedisStateStore(on.client, key))
    assert on.put(bucket)
    assert on.raw.pttl(key) >= HOUR
    on.raw.persist(key)
    assert not on.put(bucket)
    assert on.raw.pttl(key) >= HOUR


def test_a_limiter_waits_at_it_without_a_buffer(on: Subject) -> None:
    bucket = StateBucket([Rate(100, 1000, burst=1)], store=RedisStateStore(on.client, fresh_key()))
    limiter = Limiter(bucket)
    for _ in range(3):
        assert on.run(limiter.try_acquire("x"))
    limiter.close()


@pytest.mark.parametrize("algorithm", [GCRA, TokenBucket])
@pytest.mark.parametrize("rates", RATES)
@settings(max_examples=30)
@given(steps=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), max_size=40))
def test_it_decides_as_the_state_in_memory_does(
    timed: tuple[Subject, ServerClock], rates: list[tuple[int, int, int]], algorithm: Any, steps: list[tuple[int, int]]
) -> None:
    on, clock = timed
    store = RedisStateStore(on.client, fresh_key())
    told = clock.told(_lua.GCRA)
    store._scripts[_lua.GCRA.source] = told
    store._own = told
    bucket = StateBucket([Rate(*rate) for rate in rates], algorithm(), store)
    oracle = StateBucket([Rate(*rate) for rate in rates], algorithm(), InMemoryStateStore())
    for weight, pause in steps:
        clock.advance(pause * 1000)
        ours, theirs = (RateItem("x", clock.now // 1000, weight) for _ in range(2))
        assert bucket.put(ours) == oracle.put(theirs)
        if oracle.failing_rate is not None and weight <= min(rate[2] for rate in rates):
            assert bucket.waiting(ours) >= oracle.waiting(theirs) > 0
    on.raw.delete(store.key)


def test_an_algorithm_of_the_users_own_brings_its_script(one: Subject) -> None:
    class Every(StateAlgorithm):
        """Admits each second call."""

        def initial(self, rates: Any) -> Any:
            return (0,)

        def step(self, rates: Any, state: Any, now: int, weight: int) -> Any:
            raise AssertionError("this runs on the server")

        def redis_script(self) -> str:
            return """
                local seen = redis.call('HINCRBY', KEYS[1], 'tat1', 1)
                redis.call('PEXPIRE', KEYS[1], ARGV[3])
                if seen % 2 == 1 then return {-1, 0} end
                return {0, tonumber(ARGV[5]) + tonumber(ARGV[2])}
            """

        def redis_args(self, rates: Any) -> list[Any]:
            return [41]

    bucket = StateBucket([Rate(1, 1000)], Every(), RedisStateStore(one.client, fresh_key(), ttl_ms=5000))
    item = RateItem("x", 0)
    assert bucket.put(item)
    assert not bucket.put(item)
    assert bucket.waiting(item) == 42

    class Silent(Every):
        def redis_script(self) -> None:  # type: ignore[override]
            return None

    with pytest.raises(TypeError, match="no Redis implementation"):
        StateBucket([Rate(1, 1000)], Silent(), RedisStateStore(one.client, fresh_key())).put(item)


def test_buckets_of_any_algorithms_may_share_a_store(one: Subject) -> None:
    class Half(GCRA):
        def emission(self, rate: Rate) -> int:
            return 2 * super().emission(rate)

    class Never(GCRA):
        def redis_script(self) -> str:
            return "return {0, 42}"

    rates, store = [Rate(1000, HOUR, burst=1000)], RedisStateStore(one.client, fresh_key())
    once, half, never = (StateBucket(rates, algorithm(), store) for algorithm in (GCRA, Half, Never))
    assert one.put(once, 600)
    assert not one.put(once, 600)
    assert not one.put(never)
    assert one.put(half, 600)  # 600 at the rate itself are 300 at half of it
    assert not one.put(half, 200)
    assert not one.put(once)


def test_what_is_no_state_is_refused(one: Subject) -> None:
    key = fresh_key()
    bucket = StateBucket([Rate(1, 1000)], store=RedisStateStore(one.client, key))
    one.raw.set(key, "something")
    for ask in (lambda: one.put(bucket), bucket.count):
        with pytest.raises(ValueError, match="holds something else"):
            ask()
    one.raw.delete(key)
    one.raw.hset(key, "tat1", "never")
    with pytest.raises(ValueError, match="holds something else"):
        one.put(bucket)
    with pytest.raises(ValueError, match="ttl_ms"):
        RedisStateStore(one.client, key, ttl_ms=0)
