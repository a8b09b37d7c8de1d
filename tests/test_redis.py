"""RedisBucket: its log, its waits, its expiry, and what it stores, on every kind of client."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import valkey
import valkey.asyncio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from redis_subjects import CLIENTS, ServerClock, Subject, fresh_key, now, subject
from servers import RedisCluster

from aiolimiter_fast import FixedWindow, InMemoryBucket, Limiter, Rate, RateItem, RedisBucket, SlidingWindowLog, _lua

HOUR = 3_600_000
ODD = ['it\'s "quoted"', "nul\0inside", "emoji 🚦", "{braces} [a-z]* ?", "a:b:c:1", "line\r\nbreak", "x" * 10_240, ""]


@pytest.fixture(params=CLIENTS)
def on(request: pytest.FixtureRequest, redis_url: str, redis_cluster: RedisCluster) -> Iterator[Subject]:
    with subject(request.param, redis_cluster.url if "cluster" in request.param else redis_url) as made:
        yield made


@pytest.fixture
def one(redis_url: str) -> Iterator[Subject]:
    with subject("sync", redis_url) as made:
        yield made


def test_every_rate_holds_and_the_first_that_is_full_is_named(on: Subject) -> None:
    rates = [Rate(2, HOUR), Rate(3, 2 * HOUR)]
    bucket = on.bucket(rates)
    assert [on.put(bucket) for _ in range(3)] == [True, True, False]
    assert bucket.failing_rate is rates[0]
    wider = on.bucket([Rate(3, 2 * HOUR)], bucket.bucket_key)
    assert [on.put(wider) for _ in range(2)] == [True, False]
    assert on.run(bucket.count()) == 3


def test_any_number_of_rates_holds(on: Subject) -> None:
    bucket = on.bucket([Rate(count + 3, HOUR * (count + 1) * count) for count in range(1, 40)])
    assert on.put(bucket, 4)
    assert not on.put(bucket)
    for limit in range(5, 40):
        wider = on.bucket(bucket.rates[limit - 4 :], bucket.bucket_key)
        assert [on.put(wider), on.put(wider)] == [True, False]
        assert wider.failing_rate is wider.rates[0]


def test_after_exactly_the_wait_there_is_room(on: Subject) -> None:
    bucket = on.bucket([Rate(3, 50)])
    assert on.put(bucket, 3)
    item = RateItem("x", now(), 2)
    for _ in range(20):
        if on.run(bucket.put(item)):
            break
        wait = on.run(bucket.waiting(item))
        assert 0 < wait <= 51
        time.sleep(wait / 1000)
        assert on.run(bucket.put(item))
        break


def test_a_million_permits_are_one_entry_of_less_than_a_kibibyte(on: Subject) -> None:
    million = 10**6
    bucket = on.bucket([Rate(million, HOUR), Rate(2 * million - 1, 2 * HOUR)])
    assert on.put(bucket, million)
    assert not on.put(bucket, 1)
    assert on.raw.zcard(bucket.bucket_key) == 1
    assert on.raw.memory_usage(bucket.bucket_key) < 1024
    assert on.run(bucket.count()) == million


def test_a_weight_that_never_fits_asks_no_server(one: Subject) -> None:
    bucket = RedisBucket([Rate(5, 1000)], redis.Redis(port=1), "k")
    item = RateItem("x", 0, 6)
    assert not bucket.put(item)
    assert bucket.waiting(item) == -1
    assert bucket.put(RateItem("x", 0, 0))
    assert bucket.wait_time(6) == float("inf")


@pytest.mark.parametrize("weight", [-1, 1.5, "1"])
def test_a_weight_that_makes_no_sense_is_refused_and_changes_nothing(one: Subject, weight: Any) -> None:
    bucket = one.bucket([Rate(5, 1000)])
    with pytest.raises((ValueError, TypeError)):
        bucket.put(RateItem("x", 0, weight))
    assert bucket.count() == 0


@pytest.mark.parametrize("name", ODD)
def test_any_name_is_stored_and_read_back(on: Subject, name: str) -> None:
    bucket = on.bucket([Rate(5, HOUR)])
    assert on.put(bucket, 2, name)
    item = on.run(bucket.peek(0))
    assert (item.name, item.weight) == (name, 2)


@pytest.mark.parametrize("key", [name for name in ODD if name])
def test_any_key_is_a_key(on: Subject, key: str) -> None:
    key = fresh_key() + key
    bucket = on.bucket([Rate(5, HOUR)], key)
    assert on.put(bucket)
    assert on.raw.zcard(key) == 1
    on.run(bucket.flush())
    assert not on.raw.exists(key)


@pytest.mark.parametrize("text", ["\ud800", "x" * 70_000])
def test_text_that_cannot_be_stored_is_refused(one: Subject, text: str) -> None:
    bucket = one.bucket([Rate(5, HOUR)])
    with pytest.raises(ValueError, match="name must be"):
        one.put(bucket, name=text)
    with pytest.raises(ValueError, match="bucket_key must be"):
        RedisBucket([Rate(5, HOUR)], one.client, text)
    assert bucket.count() == 0


def test_units_are_peeked_at_from_both_ends(on: Subject) -> None:
    bucket = on.bucket([Rate(10, HOUR)])
    for name, weight in (("a", 1), ("b", 3), ("c", 2)):
        assert on.put(bucket, weight, name)
    newest = [on.run(bucket.peek(index)) for index in range(7)]
    assert [item and item.name for item in newest] == ["c", "c", "b", "b", "b", "a", None]
    oldest = [on.run(bucket.peek(index)) for index in (-1, -2, -4, -5, -6, -7)]
    assert [item and item.name for item in oldest] == ["a", "b", "b", "c", "c", None]


def test_a_lost_script_is_sent_again(on: Subject) -> None:
    bucket = on.bucket([Rate(3, HOUR)])
    assert on.put(bucket)
    for _ in range(2):
        on.raw.script_flush()
        assert on.put(bucket)
    assert not on.put(bucket)


def test_what_is_left_and_how_long_it_takes_is_told_and_takes_nothing(one: Subject) -> None:
    limiter = Limiter(one.bucket([Rate(4, HOUR), Rate(6, 2 * HOUR)]))
    assert limiter.try_acquire("x", 3)
    assert limiter.remaining() == [1, 3]
    assert limiter.wait_time("x", 1) == 0
    assert 0 < limiter.wait_time("x", 2) <= HOUR / 1000 + 1
    assert limiter.remaining() == [1, 3]


def test_an_asynchronous_bucket_cannot_be_asked_from_synchronous_code(redis_url: str) -> None:
    with subject("async", redis_url) as on, pytest.raises(NotImplementedError):
        on.bucket([Rate(1, HOUR)]).remaining()


def test_every_key_expires_and_one_that_lost_its_expiry_gets_it_back(on: Subject) -> None:
    bucket = on.bucket([Rate(2, 1000), Rate(30, HOUR)])
    key = bucket.bucket_key
    assert on.put(bucket)
    assert on.raw.pttl(key) >= HOUR
    assert on.put(bucket)
    on.raw.persist(key)
    assert not on.put(bucket, 2)  # a denial is enough
    assert on.raw.pttl(key) >= HOUR


def test_admissions_that_keep_coming_renew_the_expiry(one: Subject) -> None:
    clock = ServerClock(one.raw)
    bucket = one.bucket([Rate(1000, 8000)])
    bucket._log = clock.told(_lua.LOG)
    assert one.put(bucket)
    for _ in range(10):
        one.raw.persist(bucket.bucket_key)
        clock.advance(1_000_000)  # an eighth of the interval
        assert one.put(bucket)
        assert one.raw.pttl(bucket.bucket_key) >= 8000


def test_what_has_left_every_window_is_forgotten(one: Subject) -> None:
    clock = ServerClock(one.raw)
    bucket = one.bucket([Rate(5, 10), Rate(20, 100)])
    bucket._log = clock.told(_lua.LOG)
    for _ in range(1000):
        assert one.put(bucket)
        clock.advance(10_001)
    assert one.raw.zcard(bucket.bucket_key) <= 20


STEPS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 40_000) | st.sampled_from([1000, 10_000, 9_999, 10_001])),
    max_size=40,
)  # fmt: skip
RATES = [[(4, 10)], [(3, 10), (6, 30), (8, 50)]]


@pytest.fixture(scope="module")
def timed(redis_url: str) -> Iterator[tuple[Subject, ServerClock]]:
    with subject("sync", redis_url) as on:
        yield on, ServerClock(on.raw)


@pytest.mark.parametrize("algorithm", [SlidingWindowLog, FixedWindow])
@pytest.mark.parametrize("rates", RATES)
@settings(max_examples=40)
@given(steps=STEPS)
def test_it_decides_as_the_bucket_in_memory_does(
    timed: tuple[Subject, ServerClock], rates: list[tuple[int, int]], algorithm: Any, steps: list[tuple[int, int]]
) -> None:
    on, clock = timed
    bucket = on.bucket([Rate(*rate) for rate in rates], algorithm=algorithm())
    bucket._log = clock.told(_lua.LOG)
    oracle = InMemoryBucket([Rate(*rate) for rate in rates], algorithm())
    for weight, pause in steps:
        clock.advance(pause // 1000 * 1000)  # the oracle knows whole milliseconds only
        item = RateItem("x", clock.now // 1000, weight)
        expected = oracle.put(item)
        mirror = RateItem("x", clock.now // 1000, weight)
        assert bucket.put(mirror) == expected
        if not expected:
            assert bucket.failing_rate is not None
            assert oracle.failing_rate is not None
            assert bucket.failing_rate.limit == oracle.failing_rate.limit
            wait = bucket.waiting(mirror)
            assert wait >= oracle.waiting(item)  # which minds only the first rate that is full
            if wait > 0 and weight <= rates[0][0]:
                for early, is_admitted in ((0, True), (1, False)):
                    clock.advance((wait - early) * 1000)
                    assert (bucket._asked(weight)[0] == 0) is is_admitted
                    clock.advance((early - wait) * 1000)
    on.raw.delete(bucket.bucket_key)


class Recount:
    """What a log of calls admits, by counting all of them each time."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def put(self, rates: list[tuple[int, int]], now: int, weight: int) -> bool:
        for limit, interval in rates:
            if sum(units for time, units in self.calls if time >= now - interval * 1000) + weight > limit:
                return False
        self.calls.append((now, weight))
        return True


@settings(max_examples=60)
@example(steps=[(1, 3, 0), (1, 1, 4001), (0, 2, 1)])
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from([0, 1, 4001, 6000, 10_001, 30_000])),
        max_size=60,
    )
)
def test_limiters_with_other_rates_at_one_key_do_not_mind_each_others_hints(
    timed: tuple[Subject, ServerClock], steps: list[tuple[int, int, int]]
) -> None:
    on, clock = timed
    key, oracle = fresh_key(), Recount()
    each = [[(3, 10), (12, 50)], [(3, 4), (12, 50)], [(5, 20), (7, 30), (11, 50)]]
    buckets = [on.bucket([Rate(*rate) for rate in rates], key) for rates in each]
    for bucket in buckets:
        bucket._log = clock.told(_lua.LOG)
    for which, weight, pause in steps:
        clock.advance(pause)
        assert on.put(buckets[which], weight) == oracle.put(each[which], clock.now, weight)
    on.raw.delete(key)


@pytest.mark.parametrize(
    ("limit", "commands"),
    [(1000, {"time", "zrange", "zadd"}), (2, {"time", "zrange", "zrangebyscore", "pttl"})],
    ids=["admitted", "denied"],
)
def test_a_decision_takes_few_commands_on_the_server(one: Subject, limit: int, commands: set[str]) -> None:
    bucket = one.bucket([Rate(limit, HOUR), Rate(limit + 1, 2 * HOUR), Rate(limit + 2, 4 * HOUR)])
    for _ in range(2):
        assert one.put(bucket)
    one.raw.config_resetstat()
    for _ in range(100):
        assert one.put(bucket) is (limit > 2)
    stats = one.raw.info("commandstats").items()
    calls = {name.removeprefix("cmdstat_"): each["calls"] for name, each in stats if each["calls"] > 2}
    calls.pop("evalsha", None)
    assert calls == dict.fromkeys(commands, 100)


def test_calls_of_any_weights_are_found_by_any_unit(one: Subject) -> None:
    bucket = one.bucket([Rate(10_000, HOUR)])
    weights = [1, 1, 500, 3, 1, 1, 70, 1, 1, 1, 900, 2, 2, 2]
    for index, weight in enumerate(weights):
        assert one.put(bucket, weight, str(index))
    names = [str(index) for index, weight in enumerate(weights) for _ in range(weight)][::-1]
    for unit in [*range(0, len(names), 13), *range(20), len(names) - 1]:
        item = bucket.peek(unit)
        assert item is not None
        assert item.name == names[unit]


def test_a_fixed_window_that_begins_before_the_longest_ones_is_minded(one: Subject) -> None:
    clock = ServerClock(one.raw)
    bucket = one.bucket([Rate(3, 10), Rate(6, 30), Rate(8, 50)], algorithm=FixedWindow())
    bucket._log = clock.told(_lua.LOG)
    begin = clock.now // 150_000 * 150_000
    answers = []
    for instant, weight in ((31, 3), (42, 2), (51, 1), (52, 1), (60, 1)):
        clock.set(begin + instant * 1000)
        answers.append(one.put(bucket, weight))
    assert answers == [True, True, True, False, True]


def test_calls_stay_in_order_when_the_server_clock_steps_back(one: Subject) -> None:
    clock = ServerClock(one.raw)
    bucket = one.bucket([Rate(3, HOUR)])
    bucket._log = clock.told(_lua.LOG)
    clock.set(time.time_ns() // 1000)
    assert one.put(bucket, name="a")
    clock.advance(-500_000)
    assert one.put(bucket, name="b")
    newest = bucket.peek(0)
    assert newest is not None
    assert (newest.name, bucket.count()) == ("b", 2)


def test_a_server_clock_that_steps_back_admits_nothing_more_and_locks_nobody_out(one: Subject) -> None:
    clock = ServerClock(one.raw)
    bucket = one.bucket([Rate(3, 1000)])
    bucket._log = clock.told(_lua.LOG)
    assert one.put(bucket, 3)
    clock.advance(-500_000)
    assert not one.put(bucket)
    clock.advance(-86_400_000_000)
    item = RateItem("x", 0)
    assert not bucket.put(item)
    assert bucket.waiting(item) <= 1001
    clock.advance(1_001_000)
    assert one.put(bucket, 3)


def test_it_counts_on_when_counting_would_become_inexact(one: Subject) -> None:
    clock = ServerClock(one.raw)
    most = 1 << 50
    bucket = one.bucket([Rate(most, 1000)])
    bucket._log = clock.told(_lua.LOG)
    for _ in range(10):
        assert one.put(bucket, most - 1)
        assert one.put(bucket, 1)
        assert not one.put(bucket, 1)
        clock.advance(1_000_001)
    with pytest.raises(ValueError, match="limit must be a whole number"):
        one.bucket([Rate((1 << 50) + 1, HOUR)])


@pytest.mark.parametrize(
    "options",
    [
        {"on_backend_error": "panic"},
        {"on_state_loss": "local"},
        {"on_backend_error": "local"},
        {"local_share": 0.5},
        {"on_backend_error": "local", "local_share": 0.0},
        {"on_backend_error": "local", "local_share": 0.01},
        {"on_backend_error": "local", "local_share": float("nan")},
        {"budget": 0},
        {"reference_format": True, "on_state_loss": "closed"},
    ],
)
def test_options_that_make_no_sense_are_refused(one: Subject, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|less than one permit|needs"):
        one.bucket([Rate(5, 1000)], **options)


def test_only_the_two_algorithms_that_run_on_the_server_are_taken(one: Subject) -> None:
    class Own(SlidingWindowLog):
        pass

    with pytest.raises(TypeError, match="algorithm must be"):
        one.bucket([Rate(5, 1000)], algorithm=Own())
    with pytest.raises(TypeError, match="redis must be a client"):
        RedisBucket([Rate(5, 1000)], object(), "k")  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"decode_responses": True}, {"protocol": 2}, {"single_connection_client": True}])
def test_a_client_may_be_set_up_in_any_way(redis_url: str, options: dict[str, Any]) -> None:
    with redis.Redis.from_url(redis_url, **options) as client:
        bucket = RedisBucket([Rate(2, HOUR)], client, fresh_key())
        assert [bucket.put(RateItem("é", 0)) for _ in range(3)] == [True, True, False]
        item = bucket.peek(0)
        assert item is not None
        assert item.name == "é"
        client.script_flush()
        assert bucket.count() == 2


def test_valkeys_own_client_will_do(redis_url: str) -> None:
    client = valkey.Valkey.from_url(redis_url)
    bucket = RedisBucket([Rate(2, HOUR)], client, fresh_key())  # type: ignore[arg-type]
    assert [bucket.put(RateItem("x", 0)) for _ in range(3)] == [True, True, False]
    client.close()  # type: ignore[no-untyped-call]


async def test_valkeys_own_asynchronous_client_will_do(redis_url: str) -> None:
    client = valkey.asyncio.Valkey.from_url(redis_url)
    bucket = RedisBucket([Rate(2, HOUR)], client, fresh_key())
    assert [await bucket.put(RateItem("x", 0)) for _ in range(3)] == [True, True, False]
    await client.aclose()


def test_who_programs_for_pyrate_limiter_finds_it_there() -> None:
    code = """
import aiolimiter_fast
aiolimiter_fast.install("pyrate_limiter")
from pyrate_limiter import RedisBucket, RedisStateStore
from pyrate_limiter.buckets import redis_bucket, redis_state
assert redis_bucket.RedisBucket is RedisBucket is aiolimiter_fast.RedisBucket
assert redis_state.RedisStateStore is RedisStateStore is aiolimiter_fast.RedisStateStore
assert redis_bucket.LuaScript.PUT_ITEM
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_threads_that_ask_do_not_disturb_those_that_take(one: Subject) -> None:
    bucket = one.bucket([Rate(150, HOUR), Rate(170, 2 * HOUR)])
    admitted: list[bool] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            bucket.remaining()

    takers = [
        threading.Thread(target=lambda: admitted.extend(bucket.put(RateItem("x", 0)) for _ in range(50)))
        for _ in range(4)
    ]
    lookers = [threading.Thread(target=look) for _ in range(2)]
    for thread in takers + lookers:
        thread.start()
    for thread in takers:
        thread.join()
    done.set()
    for thread in lookers:
        thread.join()
    assert (sum(admitted), bucket.count()) == (150, 150)


def test_nothing_imports_redis_but_the_user() -> None:
    code = "import sys, aiolimiter_fast as a; a.RedisBucket, a.RedisStateStore; assert 'redis' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
