"""Buckets, factories, clocks and algorithms of the user's own, and methods replaced at any time.

What is written here against pyrate-limiter runs unchanged on this package; tests of `either` run on both.
"""

from __future__ import annotations

import asyncio
import importlib
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any
from unittest import mock

import pyrate_limiter
import pytest

HOUR = 3_600_000


@pytest.fixture(params=[pyrate_limiter, None], ids=["reference", "ours"])
def either(request: pytest.FixtureRequest, package: ModuleType) -> Any:
    return request.param or package


@pytest.fixture(params=["sync", "async"])
def acquire(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """One call that does not wait, by either way in."""

    def acquire_sync(limiter: Any, name: str = "x", weight: int = 1, **kwargs: Any) -> Any:
        return limiter.try_acquire(name, weight, blocking=False, **kwargs)

    def acquire_async(limiter: Any, name: str = "x", weight: int = 1, **kwargs: Any) -> Any:
        return run(limiter.try_acquire_async(name, weight, blocking=False, **kwargs))

    return {"sync": acquire_sync, "async": acquire_async}[request.param]


def run(awaitable: Any) -> Any:
    async def main() -> Any:
        return await awaitable

    return asyncio.run(main())


class ManualClock:
    """Of the user's own, without a base class."""

    def __init__(self, ms: int = 1_000_000) -> None:
        self.ms = ms

    def now(self) -> int:
        return self.ms


class ExactClock(ManualClock):
    def now_ns(self) -> int:
        return self.ms * 1_000_000


def fast(package: Any, limit: int = 2, interval: int = HOUR) -> Any:
    """A limiter that decides in the engine, and has done so once."""
    limiter = package.Limiter(package.Rate(limit, interval))
    assert limiter.try_acquire("x", blocking=False)
    assert limiter.try_acquire("x", 0)
    limiter.bucket_factory.bucket.flush()
    return limiter


class TestBuckets:
    @pytest.fixture
    def Plain(self, either: Any) -> Any:  # noqa: N802
        """A bucket that calls no `super().__init__()`, written as its documentation says."""

        class Plain(either.AbstractBucket):  # type: ignore[misc]
            def __init__(self, rates: list[Any]) -> None:
                self.rates = rates
                self.items: list[Any] = []

            def put(self, item: Any) -> bool:
                now = item.timestamp
                for rate in self.rates:
                    used = sum(entry.weight for entry in self.items if entry.timestamp >= now - rate.interval)
                    if used + item.weight > rate.limit:
                        self.failing_rate = rate
                        return False
                self.failing_rate = None
                self.items.append(item)
                return True

            def leak(self, current_timestamp: int | None = None) -> int:
                return 0

            def flush(self) -> None:
                self.items.clear()

            def count(self) -> int:
                return len(self.items)

            def peek(self, index: int) -> Any:
                return self.items[-1 - index] if index < len(self.items) else None

        return Plain

    def test_a_plain_one_limits(self, either: Any, Plain: Any, acquire: Any) -> None:
        bucket = Plain([either.Rate(3, 2 * HOUR), either.Rate(2, HOUR)])
        bucket._clock = clock = ManualClock()
        assert [rate.limit for rate in bucket.rates] == [2, 3]
        with either.Limiter(either.SingleBucketFactory(bucket, schedule_leak=False)) as limiter:
            assert [acquire(limiter) for _ in range(3)] == [True, True, False]
            assert bucket.failing_rate is bucket.rates[0]
            assert bucket.waiting(either.RateItem("x", clock.ms)) == HOUR + 1
            clock.ms += HOUR + 1
            assert acquire(limiter)
            assert not acquire(limiter)
            assert bucket.failing_rate is bucket.rates[1]

    def test_its_defaults_are_class_attributes(self, either: Any, Plain: Any) -> None:
        bucket = Plain([either.Rate(1, 1000)])
        assert (bucket.failing_rate, bucket.is_async, bucket.limiter_lock()) == (None, None, None)
        assert bucket.waiting(either.RateItem("x", 0)) == 0
        assert isinstance(bucket.now(), int)
        with bucket as entered:
            assert entered is bucket

    def test_its_decisions_are_told(self, either: Any, Plain: Any) -> None:
        bucket = Plain([either.Rate(1, 1000)])
        assert bucket.put_decision(either.RateItem("x", 0)).allowed
        decision = bucket.put_decision(either.RateItem("x", 0))
        assert (decision.failing_rate, decision.retry_after_ms) == (bucket.rates[0], None)

    def test_who_waits_sleeps_as_long_as_it_says_and_the_buffer(self, either: Any, Plain: Any) -> None:
        bucket = Plain([either.Rate(1, HOUR)])
        limiter = either.Limiter(either.SingleBucketFactory(bucket, schedule_leak=False), buffer_ms=30)
        module = importlib.import_module("pyrate_limiter.limiter") if either is pyrate_limiter else either.limiter
        bucket.waiting = lambda item: 170
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 3:
                bucket.flush()

        assert limiter.try_acquire("x")
        with mock.patch.object(module, "sleep", sleep):
            assert limiter.try_acquire("x")
        assert slept == [0.2, 0.2, 0.2]
        assert bucket.count() == 1

    @pytest.mark.parametrize("missing", ["put", "leak", "flush", "count", "peek"])
    def test_one_without_a_method_cannot_be_made(self, either: Any, Plain: Any, missing: str) -> None:
        incomplete = type("Incomplete", (Plain,), {missing: getattr(either.AbstractBucket, missing)})
        with pytest.raises(TypeError, match=missing):
            incomplete([either.Rate(1, 1000)])

    def test_an_asynchronous_one_is_awaited(self, either: Any) -> None:
        class Asynchronous(either.InMemoryBucket):  # type: ignore[misc]
            is_async = True

            async def put(self, item: Any) -> bool:
                await asyncio.sleep(0)
                return bool(super().put(item))

            async def waiting(self, item: Any) -> int:
                await asyncio.sleep(0)
                return int(super().waiting(item))

        bucket = Asynchronous([either.Rate(2, 300)])
        limiter = either.Limiter(either.SingleBucketFactory(bucket, schedule_leak=False), buffer_ms=1)

        async def main() -> list[Any]:
            results = [await limiter.try_acquire("sync", blocking=False)]
            results += [await limiter.try_acquire_async("async", blocking=False) for _ in range(2)]
            results += [await limiter.try_acquire_async("never", 3)]
            return [*results, await limiter.try_acquire_async("waits")]

        assert asyncio.run(main()) == [True, True, False, False, True]

    @pytest.mark.parametrize("method", ["put", "waiting", "peek", "now", "leak", "count", "flush", "close"])
    @pytest.mark.parametrize("where", ["object", "class", "subclass"])
    def test_a_replaced_method_of_an_in_memory_bucket_is_called(self, either: Any, method: str, where: str) -> None:
        bucket_class = type("Bucket", (either.InMemoryBucket,), {})
        original = getattr(either.InMemoryBucket, method)
        calls: list[Any] = []

        def spy(self: Any, *args: Any) -> Any:
            calls.append(args)
            return original(self, *args)

        if where == "subclass":
            setattr(bucket_class, method, spy)
        bucket = bucket_class([either.Rate(1, HOUR)])
        limiter = either.Limiter(either.SingleBucketFactory(bucket, schedule_leak=False))
        assert limiter.try_acquire("x", blocking=False)
        if where == "object":
            setattr(bucket, method, spy.__get__(bucket))
        if where == "class":
            setattr(bucket_class, method, spy)
        calls.clear()
        if method == "peek":
            bucket.failing_rate, bucket._last_wait = bucket.rates[0], None
            bucket.waiting(either.RateItem("x", bucket.now()))
        elif method in ("put", "now"):
            assert limiter.try_acquire("x", blocking=False) is False
        elif method == "waiting":
            assert limiter.try_acquire("x", timeout=0.001) is False
        elif method == "close":
            limiter.close()
        else:
            getattr(bucket, method)(*([0] if method == "leak" else []))
        assert calls


class TestFactories:
    def test_many_keys_have_buckets_of_their_own(self, either: Any, acquire: Any) -> None:
        class ByName(either.BucketFactory):  # type: ignore[misc]
            def __init__(self) -> None:
                self.by_name: dict[str, Any] = {}
                # Not before the buckets' own clock, by which the reference's thread leaks them.
                self.clock = ManualClock(time.monotonic_ns() // 10**6)

            def wrap_item(self, name: str, weight: int = 1) -> Any:
                return either.RateItem(name, self.clock.now(), weight)

            def get(self, item: Any) -> Any:
                if item.name not in self.by_name:
                    self.by_name[item.name] = self.create(either.InMemoryBucket, [either.Rate(1, HOUR)])
                return self.by_name[item.name]

        factory = ByName()
        with either.Limiter(factory) as limiter:
            assert [acquire(limiter, name) for name in "abab"] == [True, True, False, False]
            assert limiter.buckets() == list(factory.by_name.values())
            assert limiter.dispose(factory.by_name["a"])
            assert limiter.buckets() == [factory.by_name["b"]]
            factory.clock.ms += HOUR + 1
            assert acquire(limiter, "a")

    @pytest.mark.parametrize("asynchronous", ["wrap_item", "get", "both"])
    def test_what_is_asynchronous_is_awaited(self, either: Any, asynchronous: str) -> None:
        class Factory(either.BucketFactory):  # type: ignore[misc]
            def __init__(self) -> None:
                self.bucket = either.InMemoryBucket([either.Rate(2, HOUR)])

            def wrap_item(self, name: str, weight: int = 1) -> Any:
                item = either.RateItem(name, self.bucket.now(), weight)
                return later(item) if asynchronous != "get" else item

            def get(self, item: Any) -> Any:
                return later(self.bucket) if asynchronous != "wrap_item" else self.bucket

        async def later(value: Any) -> Any:
            await asyncio.sleep(0)
            return value

        limiter = either.Limiter(Factory())

        async def main() -> list[Any]:
            results = [await limiter.try_acquire_async("x", blocking=False), await limiter.try_acquire("x")]
            return [*results, await limiter.try_acquire("x", blocking=False), await limiter.try_acquire("x", 3)]

        assert asyncio.run(main()) == [True, True, False, False]

    @pytest.mark.parametrize("missing", ["wrap_item", "get"])
    def test_one_without_a_method_cannot_be_made(self, either: Any, missing: str) -> None:
        methods = {name: lambda *args: None for name in ("wrap_item", "get") if name != missing}
        with pytest.raises(TypeError, match=missing):
            type("Incomplete", (either.BucketFactory,), methods)()

    def test_puts_and_wraps_are_as_many_as_the_references(self, either: Any, acquire: Any) -> None:
        class Counting(either.SingleBucketFactory):  # type: ignore[misc]
            wraps = gets = 0

            def wrap_item(self, name: str, weight: int = 1) -> Any:
                self.wraps += 1
                return super().wrap_item(name, weight)

            def get(self, item: Any) -> Any:
                self.gets += 1
                return super().get(item)

        bucket = either.InMemoryBucket([either.Rate(2, HOUR)])
        bucket.put = put = mock.Mock(side_effect=bucket.put)
        factory = Counting(bucket, schedule_leak=False)
        limiter = either.Limiter(factory)
        assert [acquire(limiter) for _ in range(3)] == [True, True, False]
        assert (factory.wraps, factory.gets, put.call_count) == (3, 3, 3)
        assert acquire(limiter, weight=0)
        assert (factory.wraps, factory.gets, put.call_count) == (3, 3, 3)

    def test_closing_closes_every_bucket_and_swallows_errors(self, either: Any) -> None:
        buckets = [either.InMemoryBucket([either.Rate(1, 1000)]) for _ in range(3)]
        factory = either.SingleBucketFactory(buckets[0], schedule_leak=False)
        for bucket in buckets:
            bucket.close = mock.Mock(side_effect=ZeroDivisionError)
        for bucket in buckets[1:]:
            factory.schedule_leak(bucket)
        either.Limiter(factory).close()
        assert [bucket.close.call_count for bucket in buckets] == [1, 1, 1]
        assert factory.get_buckets() == []

    def test_a_factory_with_state_hooks_of_its_own_pickles(self, either: Any, imported: None) -> None:
        factory = either.SingleBucketFactory(either.InMemoryBucket([either.Rate(1, HOUR)]))
        factory.bucket.put(either.RateItem("x", factory.bucket.now()))
        copy = pickle.loads(pickle.dumps(factory))
        assert copy.get_buckets() == []
        assert copy.bucket.count() == 1
        copy.__setstate__(copy.__getstate__())
        factory.close()


class TestClocks:
    @pytest.mark.parametrize("clock", [ManualClock, ExactClock])
    def test_one_assigned_to_the_bucket_is_the_time(self, either: Any, clock: Any, acquire: Any) -> None:
        limiter = fast(either)
        limiter.bucket_factory.bucket._clock = manual = clock(5_000)
        assert [acquire(limiter) for _ in range(3)] == [True, True, False]
        manual.ms += HOUR
        assert not acquire(limiter)
        manual.ms += 1
        assert acquire(limiter)
        assert limiter.bucket_factory.bucket.peek(0).timestamp == 5_000 + HOUR + 1
        limiter.close()

    def test_a_subclass_of_the_abstract_one(self, either: Any, acquire: Any) -> None:
        class Clock(either.AbstractClock):  # type: ignore[misc]
            ms = 77

            def now(self) -> int:
                return self.ms

        limiter = fast(either)
        limiter.bucket_factory.bucket._clock = Clock()
        assert acquire(limiter)
        assert limiter.bucket_factory.bucket.peek(0).timestamp == 77
        with pytest.raises(TypeError, match="now"):
            type("Incomplete", (either.AbstractClock,), {})()
        limiter.close()

    def test_one_to_be_awaited(self, either: Any) -> None:
        bucket = either.InMemoryBucket([either.Rate(2, HOUR)])
        bucket._clock = either.MonotonicAsyncClock()
        limiter = either.Limiter(either.SingleBucketFactory(bucket, schedule_leak=False))

        async def main() -> list[Any]:
            results = [await limiter.try_acquire_async("x", blocking=False) for _ in range(3)]
            return [*results, await limiter.try_acquire("x", blocking=False)]

        assert asyncio.run(main()) == [True, True, False, False]

    def test_the_time_of_day_admits_by_the_day(self, package: Any, acquire: Any) -> None:
        limiter = fast(package)
        limiter.bucket_factory.bucket._clock = package.WallClock()
        with mock.patch("time.time_ns", return_value=10**18):
            assert [acquire(limiter) for _ in range(3)] == [True, True, False]
        with mock.patch("time.time_ns", return_value=10**18 + (HOUR + 1) * 10**6):
            assert acquire(limiter)
        limiter.close()

    def test_a_patched_monotonic_clock_is_read(self, either: Any, acquire: Any) -> None:
        limiter = fast(either)
        start = limiter.bucket_factory.bucket.now()
        with mock.patch.object(either.MonotonicClock, "now", return_value=start + 5):
            assert [acquire(limiter) for _ in range(3)] == [True, True, False]
            assert limiter.bucket_factory.bucket.peek(0).timestamp == start + 5
        with mock.patch.object(either.MonotonicClock, "now", return_value=start + HOUR + 6):
            assert acquire(limiter)
        limiter.close()


class TestAlgorithms:
    def test_one_of_the_users_own_decides(self, package: Any, acquire: Any) -> None:
        class Even(package.SlidingWindowLog):  # type: ignore[misc]
            """Refuses odd weights."""

            def admit(self, rates: Any, counts: Any, weight: int) -> Any:
                return package.Decision(rates[0]) if weight % 2 else super().admit(rates, counts, weight)

        bucket = package.InMemoryBucket([package.Rate(4, HOUR)], algorithm=Even())
        limiter = package.Limiter(package.SingleBucketFactory(bucket, schedule_leak=False))
        assert [acquire(limiter, weight=weight) for weight in (1, 2, 3, 2, 2)] == [False, True, False, True, False]

    def test_one_assigned_later_decides_from_then_on(self, either: Any, acquire: Any) -> None:
        limiter = fast(either)
        bucket = limiter.bucket_factory.bucket
        bucket._clock = clock = ManualClock(10 * HOUR + HOUR - 1)
        assert [acquire(limiter) for _ in range(3)] == [True, True, False]
        clock.ms += 1
        assert not acquire(limiter)
        bucket._algorithm = either.FixedWindow()
        assert [acquire(limiter) for _ in range(3)] == [True, True, False]
        bucket._algorithm = either.SlidingWindowLog()
        clock.ms += 1
        assert not acquire(limiter)
        limiter.close()

    @pytest.mark.parametrize("where", ["object", "class"])
    def test_a_patched_one_decides(self, package: Any, acquire: Any, where: str) -> None:
        limiter = fast(package)
        algorithm = limiter.bucket_factory.bucket._algorithm
        target = algorithm if where == "object" else type(algorithm)
        never = mock.Mock(return_value=package.Decision(limiter.bucket_factory.bucket.rates[0]))
        assert acquire(limiter)
        with mock.patch.object(target, "admit", never):
            assert not acquire(limiter)
        assert never.call_count == 1
        assert acquire(limiter)
        assert not acquire(limiter)
        limiter.close()

    @pytest.mark.parametrize("missing", ["admit", "window_start", "retry_after"])
    def test_a_log_algorithm_without_a_method_cannot_be_made(self, either: Any, missing: str) -> None:
        names = {"admit", "window_start", "retry_after"} - {missing}
        with pytest.raises(TypeError, match=missing):
            type("Incomplete", (either.LogAlgorithm,), {name: lambda *args: None for name in names})()

    @pytest.mark.parametrize("missing", ["initial", "step"])
    def test_nor_a_state_algorithm(self, either: Any, missing: str) -> None:
        names = {"initial", "step"} - {missing}
        with pytest.raises(TypeError, match=missing):
            type("Incomplete", (either.StateAlgorithm,), {name: lambda *args: None for name in names})()

    def test_a_state_algorithm_and_a_store_of_the_users_own(self, either: Any, acquire: Any) -> None:
        class Once(either.StateAlgorithm):  # type: ignore[misc]
            """Admits `limit` permits, ever."""

            def initial(self, rates: Any) -> Any:
                return (0,) * len(rates)

            def step(self, rates: Any, state: Any, now: int, weight: int) -> Any:
                if state[0] + weight > rates[0].limit:
                    return state, either.Decision(rates[0])
                return (state[0] + weight,), either.Decision()

        class Store(either.StateStore):  # type: ignore[misc]
            state: Any = None

            def check(self, algorithm: Any, rates: Any, now: int, weight: int) -> Any:
                self.state, decision = algorithm.step(rates, self.read(algorithm, rates), now, weight)
                return decision

            def read(self, algorithm: Any, rates: Any) -> Any:
                return self.state or algorithm.initial(rates)

            def reset(self) -> None:
                self.state = None

        bucket = either.StateBucket([either.Rate(2, 1)], algorithm=Once(), store=Store())
        limiter = either.Limiter(bucket)
        assert [acquire(limiter) for _ in range(3)] == [True, True, False]
        assert bucket.store.state == (2,)
        bucket.flush()
        assert acquire(limiter)
        limiter.close()


class TestLimiters:
    def test_a_subclass_that_overrides_try_acquire_is_what_the_decorator_calls(self, package: Any) -> None:
        class Counting(package.Limiter):  # type: ignore[misc]
            def __init__(self, *args: Any) -> None:
                super().__init__(*args)
                self.calls: list[Any] = []

            def try_acquire(self, *args: Any, **kwargs: Any) -> Any:
                self.calls.append(args)
                return super().try_acquire(*args, **kwargs)

            async def try_acquire_async(self, *args: Any, **kwargs: Any) -> bool:
                self.calls.append(args)
                return bool(await super().try_acquire_async(*args, **kwargs))

        async def double(x: int) -> int:
            return 2 * x

        limiter = Counting(package.Rate(2, HOUR))
        assert limiter.as_decorator(name="f")(lambda x: 2 * x)(3) == 6
        assert run(limiter.as_decorator(name="g", weight=1)(double)(4)) == 8
        assert len(limiter.calls) == 2
        assert limiter.try_acquire("x", blocking=False) is False
        limiter.close()

    def test_a_method_replaced_on_the_object_is_what_the_decorator_calls(self, package: Any) -> None:
        limiter = package.Limiter(package.Rate(1, HOUR))
        function = limiter.as_decorator()(lambda: 5)
        assert function() == 5
        with mock.patch.object(limiter, "try_acquire", return_value=True) as try_acquire:
            assert [function() for _ in range(3)] == [5, 5, 5]
        assert try_acquire.call_count == 3
        assert not limiter.try_acquire("x", blocking=False)
        limiter.close()

    def test_attributes_can_be_added(self, either: Any) -> None:
        limiter = either.Limiter(either.Rate(1, HOUR))
        limiter.mine = 5
        assert limiter.mine == 5
        del limiter.mine
        assert not hasattr(limiter, "mine")
        limiter.close()


class TestNothingIsStale:
    """The fast path is left when anything it relies on is changed, and comes back when that is undone."""

    @pytest.fixture
    def limiter(self, package: Any) -> Any:
        return fast(package)

    def test_a_rate_changed_in_place_counts_from_the_next_call_on(self, limiter: Any, acquire: Any) -> None:
        rate = limiter.rates[0]
        assert [acquire(limiter) for _ in range(3)] == [True, True, False]
        rate.limit = 4
        assert [acquire(limiter) for _ in range(3)] == [True, True, False]
        rate.limit = 1
        assert not acquire(limiter)
        limiter.bucket_factory.bucket.flush()
        assert [acquire(limiter) for _ in range(2)] == [True, False]
        limiter.bucket_factory.bucket._clock = clock = ExactClock()
        limiter.bucket_factory.bucket.flush()
        assert acquire(limiter)
        clock.ms += 1001
        assert not acquire(limiter)
        rate.interval = 1000
        assert acquire(limiter)

    def test_a_rate_changed_before_a_call_is_awaited_counts(self, limiter: Any) -> None:
        async def main() -> list[bool]:
            calls = [limiter.try_acquire_async("x", blocking=False) for _ in range(3)]
            limiter.rates[0].limit = 1
            return [await call for call in calls]

        assert asyncio.run(main()) == [True, False, False]

    def test_a_rate_changed_while_somebody_waits_counts_for_who_waits(self, package: Any) -> None:
        async def main() -> None:
            limiter = package.Limiter(package.Rate(2, 50))
            await limiter.try_acquire_async("x", 2)
            waiter = asyncio.create_task(limiter.try_acquire_async("y"))
            await asyncio.sleep(0)
            assert limiter.counters.waiting == 1
            limiter.rates[0].interval = HOUR
            await asyncio.sleep(0.15)
            assert not waiter.done()
            limiter.rates[0].interval = 1
            assert limiter.try_acquire("z", blocking=False)  # whoever comes next sees to it
            assert await waiter

        asyncio.run(main())

    def test_the_longest_window_keeps_what_it_needs_whatever_the_order(self, package: Any, acquire: Any) -> None:
        bucket = package.InMemoryBucket([package.Rate(1, 1000), package.Rate(9, 60_000)])
        bucket._clock = clock = ExactClock()
        limiter = package.Limiter(bucket)
        assert acquire(limiter)
        bucket.rates[0].interval = 2 * HOUR
        bucket.rates[0].limit = 2
        clock.ms += HOUR
        assert acquire(limiter)
        clock.ms += 1
        assert not acquire(limiter)
        clock.ms += HOUR
        assert acquire(limiter)
        assert not acquire(limiter)

    @pytest.mark.parametrize("clock", [ManualClock, ExactClock])
    def test_a_clock_assigned_is_read_and_so_is_the_old_one_put_back(
        self, limiter: Any, acquire: Any, clock: Any
    ) -> None:
        bucket = limiter.bucket_factory.bucket
        old = bucket._clock
        bucket._clock = clock(bucket.now() - 10 * HOUR)
        assert acquire(limiter)
        assert bucket.peek(0).timestamp == bucket._clock.ms
        bucket._clock = old
        before = bucket.now()
        assert acquire(limiter)
        assert before <= bucket.peek(0).timestamp <= bucket.now()
        bucket.flush()
        bucket._clock = clock(5)
        assert acquire(limiter)
        del bucket._clock
        assert acquire(limiter)
        assert bucket.peek(0).timestamp >= before

    def test_a_bucket_put_in_its_place_is_used(self, package: Any, limiter: Any, acquire: Any) -> None:
        old, new = limiter.bucket_factory.bucket, package.InMemoryBucket([package.Rate(5, HOUR)])
        assert acquire(limiter)
        limiter.bucket_factory.bucket = new
        assert acquire(limiter, weight=5)
        assert (old.count(), new.count()) == (1, 5)
        limiter.bucket_factory.bucket = old
        assert acquire(limiter)
        assert (old.count(), new.count()) == (2, 5)

    def test_a_factory_put_in_its_place_is_used(self, package: Any, limiter: Any, acquire: Any) -> None:
        old, bucket = limiter.bucket_factory, package.InMemoryBucket([package.Rate(5, HOUR)])
        limiter.bucket_factory = package.SingleBucketFactory(bucket)
        assert acquire(limiter, weight=5)
        limiter.bucket_factory = old
        assert [acquire(limiter) for _ in range(3)] == [True, True, False]
        assert bucket.count() == 5

    def test_what_is_put_in_its_place_before_a_call_is_awaited_is_used(self, package: Any, limiter: Any) -> None:
        other = package.InMemoryBucket([package.Rate(5, HOUR)])
        deny = package.InMemoryBucket([package.Rate(5, HOUR)])
        deny.put = mock.Mock(return_value=False)

        async def main() -> list[bool]:
            results = []
            for bucket in (other, deny):
                call = limiter.try_acquire_async("x", blocking=False)
                limiter.bucket_factory.bucket = bucket
                results.append(await call)
                task = asyncio.create_task(limiter.try_acquire_async("x", blocking=False))
                results.append(await task)
            return results

        assert asyncio.run(main()) == [True, True, False, False]
        assert other.count() == 2
        assert deny.put.call_count == 2

    def test_a_call_that_leaves_the_fast_path_can_be_closed_and_cancelled(self, package: Any, limiter: Any) -> None:
        async def wait(item: Any) -> bool:
            await asyncio.sleep(3600)
            return True

        async def main() -> None:
            calls = [limiter.try_acquire_async("x") for _ in range(3)]
            limiter.bucket_factory.bucket.put = wait
            task = asyncio.create_task(calls[0])
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            calls[1].send(None)
            calls[1].close()
            calls[2].close()
            for call in calls:
                with pytest.raises(RuntimeError):
                    call.send(None)

        asyncio.run(main())

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("bucket_factory.bucket", "put"), ("bucket_factory.bucket", "now"), ("bucket_factory", "get"),
            ("bucket_factory", "wrap_item"), ("bucket_factory.bucket._clock", "now"),
            ("bucket_factory.bucket._algorithm", "decide"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("where", ["object", "class"])
    def test_a_patched_method_is_called_as_long_as_it_is_patched(
        self, limiter: Any, acquire: Any, path: str, name: str, where: str
    ) -> None:
        target = limiter
        for part in path.split("."):
            target = getattr(target, part)
        if where == "class":
            target = type(target)
        original = getattr(target, name)
        for _ in range(3):
            limiter.bucket_factory.bucket.flush()
            assert acquire(limiter)
            with mock.patch.object(target, name, autospec=True, side_effect=original) as spy:
                assert acquire(limiter)
                assert not acquire(limiter)
                assert spy.call_count >= 2
            calls = spy.call_count
            assert not acquire(limiter)
            assert spy.call_count == calls

    def test_a_patched_base_class_is_noticed(self, package: Any, limiter: Any, acquire: Any) -> None:
        with mock.patch.object(package.AbstractBucket, "now", autospec=True, return_value=5) as now:
            assert acquire(limiter)
        assert now.called
        assert limiter.bucket_factory.bucket.peek(0).timestamp == 5

    def test_buffer_ms_counts_from_when_it_is_set(self, either: Any) -> None:
        module = importlib.import_module("pyrate_limiter.limiter") if either is pyrate_limiter else either.limiter
        limiter = fast(either, 1)
        bucket = limiter.bucket_factory.bucket
        bucket.waiting = lambda item: 100
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            bucket.flush()

        with mock.patch.object(module, "sleep", sleep):
            for limiter.buffer_ms in (0, 7, 400):
                assert limiter.try_acquire("x")
                assert limiter.try_acquire("x")
        assert slept == [0.1, 0.107, 0.107, 0.5, 0.5]
        limiter.close()

    def test_two_limiters_may_share_a_bucket(self, package: Any, acquire: Any) -> None:
        bucket = package.InMemoryBucket([package.Rate(2, HOUR)])
        one, two = package.Limiter(bucket), package.Limiter(bucket)
        assert [acquire(one), acquire(two), acquire(one), acquire(two)] == [True, True, False, False]
        bucket.rates = [package.Rate(4, HOUR)]
        assert [acquire(one), acquire(two), acquire(one), acquire(two)] == [True, True, False, False]

    def test_one_rate_may_be_in_two_buckets(self, package: Any, acquire: Any) -> None:
        rate = package.Rate(1, HOUR)
        limiters = [package.Limiter(rate), package.Limiter([rate])]
        assert [acquire(limiter) for limiter in limiters for _ in range(2)] == [True, False, True, False]
        rate.limit = 2
        assert [acquire(limiter) for limiter in limiters for _ in range(2)] == [True, False, True, False]

    def test_calls_that_wait_elsewhere_are_counted(self, package: Any, limiter: Any) -> None:
        async def main() -> None:
            bucket = limiter.bucket_factory.bucket
            bucket.put = mock.Mock(side_effect=[False, True])
            bucket.waiting = lambda item: 1
            started = limiter.counters
            task = asyncio.create_task(limiter.try_acquire_async("x"))
            await asyncio.sleep(0)
            assert limiter.counters.waiting == 1
            assert await task
            assert limiter.counters[:3] == (started.admitted + 1, started.refused, 0)
            assert limiter.counters.waited > started.waited

        asyncio.run(main())


class TestOrder:
    async def test_tasks_at_a_bucket_of_the_users_own_are_dated_when_their_turn_comes(self, package: Any) -> None:
        """Who has waited for its turn is not put with the time at which it came."""
        bucket = package.InMemoryBucket([package.Rate(1, 40)])
        bucket.put = put = mock.Mock(side_effect=bucket.put)
        limiter = package.Limiter(package.SingleBucketFactory(bucket, schedule_leak=False), buffer_ms=0)
        order: list[int] = []

        async def work(number: int) -> None:
            assert await limiter.try_acquire_async(str(number))
            order.append(number)

        await asyncio.gather(*(work(number) for number in range(6)))
        assert order == list(range(6))
        stamps = [call.args[0].timestamp for call in put.call_args_list]
        assert stamps == sorted(stamps)
        # One denial for each, and perhaps another where a sleep ended early.
        assert put.call_count <= 6 + 5 + 5
        assert limiter.counters[:3] == (6, 0, 0)

    async def test_one_that_gives_up_in_its_turn_hands_it_on(self, package: Any) -> None:
        bucket = package.InMemoryBucket([package.Rate(1, HOUR)])
        bucket.put = mock.Mock(side_effect=bucket.put)
        limiter = package.Limiter(package.SingleBucketFactory(bucket, schedule_leak=False))
        assert await limiter.try_acquire_async("x")
        tasks = [asyncio.create_task(limiter.try_acquire_async(str(number))) for number in range(5)]
        await asyncio.sleep(0.001)
        assert limiter.counters.waiting == 5
        for task in (tasks[0], tasks[3], tasks[1]):
            task.cancel()
            await asyncio.wait([task])
        last = asyncio.create_task(limiter.try_acquire_async("last", timeout=0.05))
        assert await last is False
        bucket.flush()
        bucket.rates = [package.Rate(9, HOUR)]
        tasks[2].cancel()
        assert await tasks[4]
        await asyncio.wait(tasks)
        assert limiter.counters.waiting == 0


def test_programs_written_for_pyrate_limiter_run_on_the_installed_name(package: ModuleType) -> None:
    program = """
        import aiolimiter_fast
        assert "pyrate_limiter" in aiolimiter_fast.install("pyrate_limiter")

        from pyrate_limiter import AbstractBucket, BucketFactory, Duration, InMemoryBucket, Limiter, Rate, RateItem
        from pyrate_limiter.abstracts.algorithm import ADMITTED, State
        from pyrate_limiter.abstracts.bucket import Leaker
        from pyrate_limiter.abstracts.wrappers import BucketAsyncWrapper
        from pyrate_limiter.buckets.in_memory_bucket import InMemoryBucket as Same
        from pyrate_limiter.buckets.mp_bucket import MultiprocessBucket
        from pyrate_limiter.buckets.state_bucket import InMemoryStateStore, StateBucket
        from pyrate_limiter.clocks import MonotonicClock
        from pyrate_limiter.limiter import SingleBucketFactory, combined_lock
        from pyrate_limiter.utils import enforce_rate_list
        from pyrate_limiter import limiter_factory
        import pickle, pyrate_limiter.limiter
        from unittest import mock

        assert Same is InMemoryBucket is aiolimiter_fast.InMemoryBucket
        limiter = limiter_factory.create_inmemory_limiter(2, Duration.HOUR)
        with mock.patch("pyrate_limiter.limiter.sleep") as sleep:
            assert [limiter.try_acquire("x", timeout=5) for _ in range(3)] == [True, True, False]
        assert sleep.called
        assert not pickle.loads(pickle.dumps(limiter)).try_acquire("x", blocking=False)
        try:
            import pyrate_limiter.extras.nothing
        except ModuleNotFoundError:
            pass
        else:
            raise AssertionError
    """
    engine = importlib.import_module("os").environ | {
        "AIOLIMITER_FAST_NO_EXTENSIONS": "" if hasattr(package.Limiter, "__pyx_vtable__") else "1"
    }
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        env=engine, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_lock_that_a_bucket_gives_is_held_around_each_step(either: Any, acquire: Any) -> None:
    lock = mock.MagicMock(wraps=threading.RLock())
    held: list[int] = []

    class Locked(either.InMemoryBucket):  # type: ignore[misc]
        def limiter_lock(self) -> Any:
            return lock

        def put(self, item: Any) -> bool:
            held.append(lock.acquire.call_count - lock.release.call_count)
            return bool(super().put(item))

    limiter = either.Limiter(either.SingleBucketFactory(Locked([either.Rate(1, HOUR)]), schedule_leak=False))
    limiter.lock = (lock, threading.RLock())
    assert acquire(limiter)
    assert not acquire(limiter)
    assert held == [1, 1]
