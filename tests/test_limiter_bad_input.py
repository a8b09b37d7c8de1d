"""Each argument of each public call, with what makes no sense: an error that names it, and nothing is changed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HOUR = 3_600_000
NAN, INFINITY = float("nan"), float("inf")
# (argument, value, error, words)
Row = tuple[str, Any, type[BaseException], str]

NOT_NUMBERS: list[Any] = [None, "5", b"5", [5], object, True, 1j]
RATE: list[Row] = [
    *[("limit", value, TypeError, "limit must be a number") for value in NOT_NUMBERS],
    *[("limit", value, ValueError, "limit must be finite") for value in (NAN, INFINITY, -INFINITY)],
    *[("limit", value, AssertionError, "limit must be at least 1 permit") for value in (0, -1, 0.5, -(10**30))],
    *[("interval", value, TypeError, "interval must be a number") for value in NOT_NUMBERS],
    *[("interval", value, ValueError, "interval must be finite") for value in (NAN, INFINITY, 10**400)],
    *[("interval", value, AssertionError, "interval must be at least 1 millisecond") for value in (0, 0.9, -1000)],
    *[("burst", value, TypeError, "burst must be a number") for value in NOT_NUMBERS[1:]],
    *[("burst", value, ValueError, "burst must be finite") for value in (NAN, INFINITY)],
    *[("burst", value, AssertionError, "burst must be at least 1 permit") for value in (0, -3)],
]
LIMITER: list[Row] = [
    *[("argument", value, AssertionError, "(?i)not ") for value in (None, 5, "x", (), [], [5], [None], {}, object())],
    *[("buffer_ms", value, TypeError, "buffer_ms must be a number") for value in NOT_NUMBERS],
    *[("buffer_ms", value, ValueError, "buffer_ms must be") for value in (-1, -0.5, NAN, INFINITY)],
]
ACQUIRE: list[Row] = [
    *[("weight", value, TypeError, "weight must be a whole number") for value in (None, "1", 1.0, NAN, True, [1])],
    *[("weight", value, AssertionError, "weight must be >= 0") for value in (-1, -(10**30))],
    *[("timeout", value, TypeError, "timeout must be a number of seconds") for value in (None, "1", True, [1])],
    *[("timeout", value, ValueError, "timeout must be -1 or >= 0") for value in (-2, -0.5, NAN, -INFINITY, -(10**400))],
]


def describe(row: Row) -> str:
    text = repr(row[1])
    return f"{row[0]}={text[:12]}"


def state(limiter: Any) -> tuple[Any, ...]:
    bucket = limiter.bucket_factory.bucket
    entries = bucket._entries() if hasattr(bucket, "_entries") else bucket.count()
    rates = [(rate.limit, rate.interval, rate.burst) for rate in bucket.rates]
    return limiter.counters, entries, rates, limiter.buffer_ms, bucket.failing_rate


def refuses(call: Any, error: type[BaseException], words: str, value: Any) -> None:
    with pytest.raises(error, match=words) as caught:
        call()
    assert caught.type is error
    if isinstance(value, (int, float, str)) and abs(len(repr(value))) < 100:
        assert repr(value) in str(caught.value)


@pytest.fixture(params=["engine", "calls", "state"])
def limiter(request: pytest.FixtureRequest, package: Any) -> Any:
    """A limiter on each path: the engine's, that for buckets of any kind, and over a state."""
    rates = [package.Rate(2, HOUR)]
    bucket = package.StateBucket(rates) if request.param == "state" else package.InMemoryBucket(rates)
    if request.param == "calls":
        bucket.put = bucket.put
    limiter = package.Limiter(bucket)
    assert limiter.try_acquire("x")
    return limiter


@pytest.mark.parametrize("row", RATE, ids=describe)
def test_rate(package: ModuleType, row: Row) -> None:
    argument, value, error, words = row
    arguments = {"limit": 1, "interval": 1000, argument: value}
    refuses(lambda: package.Rate(**arguments), error, words, value)


@pytest.mark.parametrize("row", LIMITER, ids=describe)
def test_limiter(package: ModuleType, row: Row) -> None:
    argument, value, error, words = row
    arguments = {"argument": package.Rate(1, 1000), argument: value}
    refuses(lambda: package.Limiter(**arguments), error, words, None)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("row", ACQUIRE, ids=describe)
def test_acquire(package: ModuleType, limiter: Any, row: Row, asynchronous: bool) -> None:
    argument, value, error, words = row
    before = state(limiter)
    if asynchronous:
        refuses(lambda: asyncio.run(limiter.try_acquire_async("x", **{argument: value})), error, words, value)
    else:
        refuses(lambda: limiter.try_acquire("x", **{argument: value}), error, words, value)
    assert state(limiter) == before
    assert limiter.try_acquire("x", blocking=False)
    assert not limiter.try_acquire("x", blocking=False)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("timeout", [0, 1, 0.5, INFINITY])
def test_a_timeout_without_waiting(limiter: Any, timeout: float, asynchronous: bool) -> None:
    before = state(limiter)

    def call() -> Any:
        if asynchronous:
            return asyncio.run(limiter.try_acquire_async("x", blocking=False, timeout=timeout))
        return limiter.try_acquire("x", blocking=False, timeout=timeout)

    refuses(call, RuntimeError, "Can't set timeout with non-blocking", timeout)
    assert state(limiter) == before


@pytest.mark.parametrize("timeout", [10**400, 1e300, INFINITY, 2**63])
def test_a_timeout_beyond_all_time_is_a_long_one(limiter: Any, timeout: float) -> None:
    assert limiter.try_acquire("x", timeout=timeout) is True
    assert limiter.try_acquire("x", 3, timeout=timeout) is False
    assert asyncio.run(limiter.try_acquire_async("x", 3, timeout=timeout)) is False


@pytest.mark.parametrize("weight", [3, 2**31, 2**61, 2**62, 2**63, 10**30])
def test_a_weight_beyond_the_limit_is_refused_at_once(limiter: Any, weight: int) -> None:
    assert limiter.try_acquire("x", weight) is False
    assert limiter.try_acquire("x", weight, blocking=False) is False
    assert asyncio.run(limiter.try_acquire_async("x", weight)) is False
    assert limiter.wait_time(weight=weight) == INFINITY
    assert limiter.try_acquire("x", blocking=False)


@pytest.mark.parametrize("row", [row for row in ACQUIRE if row[0] == "weight"], ids=describe)
def test_wait_time(limiter: Any, row: Row) -> None:
    _, value, error, words = row
    before = state(limiter)
    refuses(lambda: limiter.wait_time("x", value), error, words, value)
    assert state(limiter) == before


@pytest.mark.parametrize("row", [row for row in ACQUIRE if row[0] == "weight"], ids=describe)
def test_a_decorator_is_told_when_it_is_called(limiter: Any, row: Row) -> None:
    _, value, error, words = row
    before = state(limiter)
    function = limiter.as_decorator(weight=value)(lambda: pytest.fail("called"))
    refuses(function, error, words, value)
    assert state(limiter) == before


@pytest.mark.parametrize(
    ("rates", "error"),
    [([], ValueError), ("x", (AttributeError, TypeError)), (None, TypeError), ([5], (AttributeError, TypeError))],
)
def test_rates_that_are_none_leave_the_old_ones(limiter: Any, rates: Any, error: Any) -> None:
    before = state(limiter)
    with pytest.raises(error):
        limiter.rates = rates
    assert state(limiter) == before
    assert limiter.try_acquire("x", blocking=False)


def test_rates_that_do_not_go_together_leave_the_old_ones(package: Any, limiter: Any) -> None:
    before = state(limiter)
    for rates in (
        [package.Rate(5, 1000), package.Rate(5, 2000)],
        [package.Rate(5, 1000), package.Rate(7, 1000)],
        [package.Rate(5, 1000), package.Rate(50, 2000)],
        [limiter.rates[0], 5],
    ):
        with pytest.raises((ValueError, TypeError, AttributeError)):
            limiter.rates = rates
        assert state(limiter) == before


@pytest.mark.parametrize("weight", [-1, -(10**30)])
def test_a_negative_weight_is_not_put(package: Any, limiter: Any, weight: int) -> None:
    before = state(limiter)
    bucket = limiter.bucket_factory.bucket
    refuses(lambda: bucket.put(package.RateItem("x", bucket.now(), weight)), ValueError, "weight must be 0", weight)
    assert state(limiter) == before


def test_algorithms_of_the_wrong_kind(package: Any) -> None:
    rates = [package.Rate(1, 1000)]
    for algorithm in (package.GCRA(), 5, package.SlidingWindowLog):
        with pytest.raises(TypeError, match="algorithm must be a LogAlgorithm"):
            package.InMemoryBucket(rates, algorithm=algorithm)
    for algorithm in (package.SlidingWindowLog(), 5, package.GCRA):
        with pytest.raises(TypeError, match="algorithm must be a StateAlgorithm"):
            package.StateBucket(rates, algorithm=algorithm)


def test_what_is_no_bucket_is_neither_leaked_nor_disposed(package: Any) -> None:
    factory = package.SingleBucketFactory(package.InMemoryBucket([package.Rate(1, 1000)]))
    nothing: list[Any] = ["x", None, 5.0, []]
    for value in nothing:
        with pytest.raises(AssertionError, match="bucket"):
            factory.dispose(value)
    with pytest.raises(AttributeError):
        factory.schedule_leak(5)
    assert len(factory.get_buckets()) == 1


def test_a_factory_of_the_users_own_has_no_rates_to_set(package: Any) -> None:
    class Factory(package.BucketFactory):  # type: ignore[misc]
        def wrap_item(self, name: str, weight: int = 1) -> Any:
            return package.RateItem(name, 0, weight)

        def get(self, item: Any) -> Any:
            return package.InMemoryBucket([package.Rate(1, 1000)])

    limiter = package.Limiter(Factory())
    with pytest.raises(AttributeError, match="rates of their own"):
        limiter.rates  # noqa: B018
    with pytest.raises(AttributeError, match="rates of their own"):
        limiter.rates = [package.Rate(1, 1000)]
    assert limiter.remaining("x") == [1]


def test_all_of_it_holds_where_asserts_are_dropped(package: ModuleType) -> None:
    """The same tables in an interpreter with -O, which has no assert statements."""
    program = """
        import asyncio, re, sys
        sys.path.insert(0, sys.argv[1])
        import test_limiter_bad_input as table
        import aiolimiter_fast as package

        if __debug__:
            raise SystemExit("asserts are on")

        def check(call, row):
            try:
                call()
            except row[2] as error:
                if not re.search(row[3], str(error)):
                    raise SystemExit(f"{row}: {error}")
            else:
                raise SystemExit(f"{row}: no error")

        for row in table.RATE:
            check(lambda: package.Rate(**{"limit": 1, "interval": 1000, row[0]: row[1]}), row)
        for row in table.LIMITER:
            check(lambda: package.Limiter(**{"argument": package.Rate(1, 1000), row[0]: row[1]}), row)
        limiter = package.Limiter(package.Rate(1, 1000))
        for row in table.ACQUIRE:
            check(lambda: limiter.try_acquire("x", **{row[0]: row[1]}), row)
            check(lambda: asyncio.run(limiter.try_acquire_async("x", **{row[0]: row[1]})), row)
        item = package.RateItem("x", 0, 0)
        limiter.bucket_factory.bucket.failing_rate = limiter.rates[0]
        check(lambda: limiter.bucket_factory.bucket.waiting(item), ("", 0, AssertionError, "weight must be positive"))
        check(lambda: limiter.bucket_factory.bucket.leak(None), ("", 0, AssertionError, "timestamp"))
        check(lambda: limiter.dispose("x"), ("", 0, AssertionError, "bucket"))
        check(lambda: package.BucketAsyncWrapper(5), ("", 0, AssertionError, "bucket"))
        if limiter.counters.admitted or limiter.counters.refused:
            raise SystemExit(limiter.counters)
    """
    import textwrap

    twin = not hasattr(package.Limiter, "__pyx_vtable__")
    result = subprocess.run(
        [sys.executable, "-O", "-c", textwrap.dedent(program), str(Path(__file__).parent)],
        env={**os.environ, "AIOLIMITER_FAST_NO_EXTENSIONS": "1" if twin else ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


class TestMemory:
    """Only of the extension: the twin is not promised to be small."""

    @pytest.fixture
    def extension(self, both_packages: tuple[ModuleType, ModuleType]) -> Any:
        return both_packages[0]

    def bytes_for(self, build: Any) -> int:
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            kept = build()
            after = tracemalloc.get_traced_memory()[0]
            del kept
        finally:
            tracemalloc.stop()
        return after - before

    def filled(self, package: Any, permits: int, weight: int = 1) -> Any:
        limiter = package.Limiter(package.Rate(permits, HOUR))
        for _ in range(permits // weight):
            limiter.try_acquire("x", weight, blocking=False)
        assert limiter.remaining() == [0]
        return limiter

    def test_100_000_permits_take_less_than_24_bytes_each(self, extension: Any) -> None:
        self.filled(extension, 10)
        assert self.bytes_for(lambda: self.filled(extension, 100_000)) < 24 * 100_000

    def test_a_heavy_call_takes_no_more_than_a_light_one(self, extension: Any) -> None:
        self.filled(extension, 10)
        light = self.bytes_for(lambda: self.filled(extension, 1))
        heavy = self.bytes_for(lambda: self.filled(extension, 1000, 1000))
        assert abs(heavy - light) < 100

    def test_the_ring_gives_back_what_it_does_not_need(self, extension: Any) -> None:
        clock = type("Clock", (), {"now": lambda self: self.ms, "now_ns": lambda self: self.ms * 10**6, "ms": 0})()

        def build() -> Any:
            bucket = extension.InMemoryBucket([extension.Rate(100_000, HOUR)])
            bucket._clock = clock
            limiter = extension.Limiter(bucket)
            for _ in range(100_000):
                limiter.try_acquire("x", blocking=False)
            clock.ms += 2 * HOUR
            assert limiter.try_acquire("x", blocking=False)
            return limiter

        build()
        assert self.bytes_for(build) < 100_000
