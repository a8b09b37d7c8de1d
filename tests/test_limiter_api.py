"""Names, signatures and values of pyrate-limiter, side by side with the library itself."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import math
import pickle
import threading
import time
from abc import ABC
from types import ModuleType
from typing import Any
from unittest import mock

import pyrate_limiter
import pytest

# What comes with the stores over servers, and with the HTTP clients.
LATER = {
    "PgQueries", "PostgresBucket", "PostgresClock", "RedisBucket", "RedisStateStore", "SQLiteBucket", "SQLiteClock",
    "SQLiteQueries", "dedicated_sqlite_clock_connection", "create_sqlite_bucket", "create_sqlite_limiter",
    "LockLike",  # never comes: the type of an argument
}  # fmt: skip
MODULES = (
    "", "_version", "abstracts", "abstracts.algorithm", "abstracts.bucket", "abstracts.rate", "abstracts.store",
    "abstracts.wrappers", "buckets", "buckets.in_memory_bucket", "buckets.mp_bucket", "buckets.state_bucket", "clocks",
    "limiter", "limiter_factory", "utils",
)  # fmt: skip
CLASSES = (
    "AbstractBucket", "AbstractClock", "Algorithm", "BucketAsyncWrapper", "BucketFactory", "Decision", "Duration",
    "FixedWindow", "GCRA", "InMemoryBucket", "InMemoryStateStore", "Limiter", "LogAlgorithm", "MonotonicAsyncClock",
    "MonotonicClock", "MultiprocessBucket", "MultiprocessStateStore", "Rate", "RateItem", "SingleBucketFactory",
    "SlidingWindowLog", "StateAlgorithm", "StateBucket", "StateStore", "TokenBucket", "WallClock",
)  # fmt: skip
# Methods that are the reference's own business.
PRIVATE = {
    "__dict__", "__firstlineno__", "__getstate__", "__setstate__", "__slotnames__", "__static_attributes__",
    "__weakref__",
}  # fmt: skip


@pytest.fixture(params=[pyrate_limiter, None], ids=["reference", "ours"])
def either(request: pytest.FixtureRequest, package: ModuleType) -> Any:
    """The package under test, and the reference: what is asserted holds for both."""
    return request.param or package


def defined_in(name: str) -> dict[str, object]:
    """The public names of a module of the reference that it defines, or gives on as a package."""
    module: Any = importlib.import_module(f"pyrate_limiter.{name}".rstrip("."))
    names = getattr(module, "__all__", None) or [
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and str(getattr(value, "__module__", "")).startswith(module.__name__)
    ]
    return {key: getattr(module, key) for key in names if key not in LATER}


class TestNames:
    @pytest.mark.parametrize("module", MODULES)
    def test_each_name_of_each_module_is_at_the_same_path(self, package: Any, imported: None, module: str) -> None:
        ours = importlib.import_module(f"aiolimiter_fast.{module}".rstrip("."))
        assert [name for name in defined_in(module) if not hasattr(ours, name)] == []

    @pytest.mark.parametrize(
        ("module", "name"),
        [
            ("abstracts.algorithm", "ADMITTED"), ("abstracts.algorithm", "State"), ("abstracts.bucket", "Leaker"),
            ("limiter", "combined_lock"), ("limiter", "sleep"), ("limiter_factory", "LIMITER"),
            ("utils", "enforce_rate_list"), ("_version", "__version__"),
        ],
    )  # fmt: skip
    def test_so_are_those_that_it_does_not_list(self, package: Any, imported: None, module: str, name: str) -> None:
        assert hasattr(importlib.import_module(f"pyrate_limiter.{module}"), name)
        assert hasattr(importlib.import_module(f"aiolimiter_fast.{module}"), name)

    def test_the_top_level_lists_what_the_reference_lists(self, package: Any) -> None:
        assert set(pyrate_limiter.__all__) - LATER <= set(package.__all__)

    @pytest.mark.parametrize("name", CLASSES)
    def test_each_class_has_the_attributes_of_the_reference(self, package: Any, name: str) -> None:
        theirs, ours = getattr(pyrate_limiter, name), getattr(package, name)
        public = {attribute for attribute in dir(theirs) if not attribute.startswith("_")}
        special = {attribute for attribute in vars(theirs) if attribute.startswith("__")} - PRIVATE
        missing = {attribute for attribute in public | special if not hasattr(ours, attribute)}
        assert missing == set()

    @pytest.mark.parametrize("name", CLASSES)
    def test_its_public_methods_take_the_same_arguments(self, package: Any, name: str) -> None:
        theirs, ours = getattr(pyrate_limiter, name), getattr(package, name)
        methods = [key for key in dir(theirs) if not key.startswith("_") and inspect.isroutine(getattr(theirs, key))]
        if "__init__" in vars(theirs):
            methods.append("__init__")
        for method in methods:
            assert shape(getattr(ours, method)) == shape(getattr(theirs, method)), f"{name}.{method}"

    @pytest.mark.parametrize(
        ("module", "name"),
        [
            ("limiter", "combined_lock"), ("limiter_factory", "create_inmemory_limiter"),
            ("limiter_factory", "create_token_bucket_limiter"), ("limiter_factory", "init_global_limiter"),
            ("utils", "id_generator"), ("utils", "validate_rate_list"), ("utils", "enforce_rate_list"),
        ],
    )  # fmt: skip
    def test_so_do_the_functions(self, package: Any, imported: None, module: str, name: str) -> None:
        theirs = getattr(importlib.import_module(f"pyrate_limiter.{module}"), name)
        ours = getattr(importlib.import_module(f"aiolimiter_fast.{module}"), name)
        assert shape(ours) == shape(theirs)

    @pytest.mark.parametrize("name", CLASSES)
    def test_what_is_abstract_there_is_abstract_here(self, package: Any, name: str) -> None:
        theirs, ours = getattr(pyrate_limiter, name), getattr(package, name)
        assert getattr(ours, "__abstractmethods__", frozenset()) == getattr(theirs, "__abstractmethods__", frozenset())
        assert issubclass(ours, ABC) or not issubclass(theirs, ABC)

    @pytest.mark.parametrize(
        ("name", "attribute"),
        [
            (name, attribute)
            for name in ("AbstractBucket", "InMemoryBucket", "MultiprocessBucket", "BucketAsyncWrapper")
            for attribute in ("is_async",)
        ]
        + [("AbstractBucket", "failing_rate"), ("AbstractBucket", "_last_wait"), ("StateStore", "is_async")]
        + [("BucketFactory", "_leaker"), ("BucketFactory", "_leak_interval")],
    )
    def test_class_attributes_have_the_same_values(self, package: Any, name: str, attribute: str) -> None:
        assert getattr(getattr(package, name), attribute) == getattr(getattr(pyrate_limiter, name), attribute)


def shape(function: Any) -> list[tuple[str, Any, Any]]:
    """The parameters, their kinds and defaults, without `self` and those of the reference that are its own business."""
    return [
        (
            "item" if parameter.name == "_" else parameter.name,
            parameter.kind,
            getattr(parameter.default, "value", parameter.default),
        )
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    ]


class TestDuration:
    def test_members_and_their_values(self, either: Any) -> None:
        values = {member.name: member.value for member in either.Duration}
        assert values == {"SECOND": 1000, "MINUTE": 60_000, "HOUR": 3_600_000, "DAY": 86_400_000, "WEEK": 604_800_000}
        assert either.Duration(60_000) is either.Duration.MINUTE
        assert int(either.Duration.HOUR) == 3_600_000

    def test_they_multiply_and_add_up_to_whole_milliseconds(self, either: Any) -> None:
        Duration = either.Duration
        results = [
            Duration.SECOND * 1.5, 2 * Duration.SECOND, Duration.MINUTE * 0.0001, Duration.SECOND + 1.7,
            5 + Duration.SECOND, Duration.DAY + Duration.WEEK, sum([Duration.SECOND, Duration.MINUTE]),
        ]  # fmt: skip
        assert results == [1500, 2000, 6, 1001, 1005, 691_200_000, 61_000]
        assert {type(result) for result in results} == {int}

    def test_they_equal_whole_numbers_and_nothing_else(self, either: Any) -> None:
        second = either.Duration.SECOND
        others = [1000, second, either.Duration.MINUTE, 1000.0, "1000", None, 999, True]
        assert [second == other for other in others] == [True, True, False, False, False, False, False, False]
        assert [other == second for other in others] == [True, True, False, False, False, False, False, False]
        assert second != 1001
        with pytest.raises(TypeError, match="unhashable"):
            hash(second)

    @pytest.mark.parametrize("operation", ["a - b", "a < b", "a / 2", "-a"])
    def test_they_have_no_other_arithmetic(self, either: Any, operation: str) -> None:
        with pytest.raises(TypeError):
            eval(operation, {"a": either.Duration.MINUTE, "b": either.Duration.SECOND})

    @pytest.mark.parametrize(
        "milliseconds",
        [-5, 0, 1, 999, 1000, 1500, 59_999, 60_000, 90_000, 3_600_000, 86_400_000, 604_800_000, 10**12, 1234.5],
    )
    def test_a_length_is_readable_in_the_same_words(self, package: Any, milliseconds: float) -> None:
        assert package.Duration.readable(milliseconds) == pyrate_limiter.Duration.readable(milliseconds)  # type: ignore[arg-type]


class TestRate:
    @pytest.mark.parametrize(
        "arguments", [(5, 1000), (5, 1000, 7), (5, 1000, 5), (3, 1500.9), (2.5, 1000), (1, 604_800_000, 2)]
    )
    def test_attributes_and_words(self, package: Any, arguments: tuple[Any, ...]) -> None:
        ours, theirs = package.Rate(*arguments), pyrate_limiter.Rate(*arguments)
        for name in ("limit", "interval", "burst"):
            assert getattr(ours, name) == getattr(theirs, name)
            assert type(getattr(ours, name)) is type(getattr(theirs, name))
        assert (str(ours), repr(ours)) == (str(theirs), repr(theirs))

    def test_an_interval_may_be_a_duration(self, either: Any) -> None:
        rate = either.Rate(5, either.Duration.MINUTE)
        assert (rate.interval, type(rate.interval)) == (60_000, int)

    def test_two_rates_are_two_though_they_look_alike(self, either: Any) -> None:
        rate = either.Rate(1, 1000)
        assert rate != either.Rate(1, 1000)
        assert len({rate, either.Rate(1, 1000), rate}) == 2

    def test_it_can_be_changed_copied_and_given_attributes(self, either: Any, imported: None) -> None:
        rate = either.Rate(1, 1000)
        rate.limit, rate.note = 2, "mine"
        other = pickle.loads(pickle.dumps(rate))
        assert (other.limit, other.interval, other.burst, other.note) == (2, 1000, 1, "mine")

    @pytest.mark.parametrize(
        "arguments", [(0, 1000), (-1, 1000), (1, 0), (1, 0.5), (1, 1000, 0), (1, 1000, -3), (0, 0)]
    )
    def test_what_makes_no_sense_is_an_assertion_error(self, either: Any, arguments: tuple[Any, ...]) -> None:
        with pytest.raises(AssertionError):
            either.Rate(*arguments)


class TestRateItem:
    def test_it_is_three_attributes_that_can_be_set(self, either: Any) -> None:
        item = either.RateItem("a", 5)
        assert (item.name, item.timestamp, item.weight) == ("a", 5, 1)
        item.timestamp, item.mine = 7, True
        assert vars(item) == {"name": "a", "timestamp": 7, "weight": 1, "mine": True}
        assert str(item) == "RateItem(name=a, weight=1, timestamp=7)"
        assert item != either.RateItem("a", 7)

    def test_it_pickles(self, either: Any, imported: None) -> None:
        item = pickle.loads(pickle.dumps(either.RateItem("a", 5, 3)))
        assert (item.name, item.timestamp, item.weight) == ("a", 5, 3)


class TestUtils:
    @pytest.mark.parametrize(
        "rates",
        [
            [], [(1, 1)], [(1, 1), (2, 2)], [(1, 1), (2, 3)], [(1, 1), (3, 2)], [(2, 1), (2, 2)], [(1, 2), (2, 2)],
            [(3, 9), (2, 4)], [(1, 1), (2, 2), (3, 3)], [(10, 1), (11, 2), (22, 3)], [(10**17, 1), (10**17 + 1, 2)],
        ],
    )  # fmt: skip
    def test_rate_lists_are_judged_alike(self, package: Any, imported: None, rates: list[tuple[int, int]]) -> None:
        from aiolimiter_fast.utils import enforce_rate_list, validate_rate_list

        verdict = pyrate_limiter.validate_rate_list([pyrate_limiter.Rate(*rate) for rate in rates])
        ours = [package.Rate(*rate) for rate in rates]
        assert validate_rate_list(rates=ours) is package.validate_rate_list(ours) is verdict
        if verdict:
            enforce_rate_list(ours)
        else:
            with pytest.raises(ValueError, match="Invalid rate list"):
                enforce_rate_list(ours)

    @pytest.mark.parametrize(("size", "length"), [(0, 0), (1, 1), (10, 10), (32, 32), (50, 32)])
    def test_names_are_so_many_digits(self, either: Any, size: int, length: int) -> None:
        name = either.id_generator(size=size)
        assert len(name) == length
        assert set(name) <= set("0123456789abcdef")
        assert len(either.id_generator()) == 10
        assert either.id_generator() != either.id_generator()


class TestDecision:
    def test_it_is_a_frozen_value(self, either: Any) -> None:
        rate = either.Rate(1, 1)
        decision = either.Decision(rate, 5)
        assert decision == either.Decision(failing_rate=rate, retry_after_ms=5)
        assert (decision.allowed, either.Decision().allowed) == (False, True)
        assert (either.Decision().failing_rate, either.Decision().retry_after_ms) == (None, None)
        with pytest.raises(AttributeError):
            decision.failing_rate = None

    def test_every_admission_is_the_same_object(self, either: Any) -> None:
        from_path = (
            importlib.import_module(f"{either.Decision.__module__}").ADMITTED
            if either is pyrate_limiter
            else (either.abstracts.algorithm.ADMITTED)
        )
        rate = either.Rate(1, 1000)
        assert either.SlidingWindowLog().admit([rate], [0], 1) is from_path
        assert either.FixedWindow().admit([rate], [0], 1) is from_path
        assert either.GCRA().step([rate], (0,), 0, 1)[1] is from_path


RATES = [(3, 1000), (4, 1500), (9, 60_000)]


def rates_of(package: Any, *burst: int) -> list[Any]:
    return [package.Rate(*rate, *burst) for rate in RATES]


def place(rates: list[Any], rate: Any) -> int | None:
    return None if rate is None else rates.index(rate)


class TestAlgorithms:
    @pytest.mark.parametrize("name", ["SlidingWindowLog", "FixedWindow"])
    def test_logs_are_counted_alike(self, package: Any, name: str) -> None:
        ours, theirs = getattr(package, name)(), getattr(pyrate_limiter, name)()
        our_rates, their_rates = rates_of(package), rates_of(pyrate_limiter)
        for counts in [(0, 0, 0), (2, 3, 8), (3, 3, 3), (1, 4, 9), (2, 4, 4), (0, 3, 9)]:
            for weight in (0, 1, 2, 3, 4, 10):
                decided = []
                for algorithm, rates in ((ours, our_rates), (theirs, their_rates)):
                    seen: list[int] = []

                    def peek(index: int, seen: list[int] = seen) -> int | None:
                        seen.append(index)
                        return None if index > 5 else 5000 - 10 * index

                    decision = algorithm.decide(rates, counts, weight, 5432, peek)
                    decided.append((place(rates, decision.failing_rate), decision.retry_after_ms, seen))
                assert decided[0] == decided[1]

    @pytest.mark.parametrize("name", ["SlidingWindowLog", "FixedWindow"])
    def test_windows_begin_and_waits_end_alike(self, package: Any, name: str) -> None:
        ours, theirs = getattr(package, name)(), getattr(pyrate_limiter, name)()
        for mine, other in zip(rates_of(package), rates_of(pyrate_limiter), strict=True):
            assert ours.max_weight(mine) == theirs.max_weight(other)
            for now in (0, 1, 999, 1000, 1001, 123_456_789, -1):
                assert ours.window_start(mine, now) == theirs.window_start(other, now)
                assert ours.leak_bound(rates_of(package), now) == theirs.leak_bound(rates_of(pyrate_limiter), now)
                assert ours.blocking_offset(mine, 2) == theirs.blocking_offset(other, 2)
                for blocking in (None, now - 500, now):
                    assert ours.retry_after(mine, now, blocking) == theirs.retry_after(other, now, blocking)

    def test_a_list_of_counts_has_one_per_rate(self, either: Any) -> None:
        with pytest.raises(ValueError, match="zip"):
            either.SlidingWindowLog().admit(rates_of(either), [0], 1)

    @pytest.mark.parametrize("name", ["GCRA", "TokenBucket"])
    @pytest.mark.parametrize("burst", [(), (2,), (20,)])
    def test_states_step_alike(self, package: Any, name: str, burst: tuple[int, ...]) -> None:
        ours, theirs = getattr(package, name)(), getattr(pyrate_limiter, name)()
        mine, other = rates_of(package, *burst), rates_of(pyrate_limiter, *burst)
        state, their_state = ours.initial(mine), theirs.initial(other)
        assert tuple(state) == tuple(their_state)
        now = 1_700_000_000_000
        for pause, weight in [
            (0, 1),
            (0, 2),
            (100, 1),
            (333, 1),
            (1, 3),
            (2000, 3),
            (0, 21),
            (-500, 1),
            (10**6, 2),
        ] * 3:
            now += pause
            before = state
            state, decision = ours.step(mine, state, now, weight)
            their_state, expected = theirs.step(other, their_state, now, weight)
            assert tuple(state) == tuple(their_state)
            assert (place(mine, decision.failing_rate), decision.retry_after_ms) == (
                place(other, expected.failing_rate),
                expected.retry_after_ms,
            )
            assert decision.allowed or state is before
            assert ours.consumed(mine, state, now) == theirs.consumed(other, their_state, now)
        assert list(ours.redis_args(mine)) == list(theirs.redis_args(other))
        assert tuple(ours.decode(["5", "7"])) == tuple(theirs.decode(["5", "7"]))

    @pytest.mark.parametrize("now", [0, 1, 1_700_000_000_000, 2**52])
    def test_a_burst_admits_exactly_its_size_however_late_it_is(self, package: Any, now: int) -> None:
        algorithm = package.GCRA()
        for limit in (1, 2, 3, 7, 10, 60, 333, 1000, 2999, 3000):
            rates = [package.Rate(limit, 1000)]
            state = algorithm.initial(rates)
            for _ in range(limit):
                state, decision = algorithm.step(rates, state, now, 1)
                assert decision.allowed
            assert not algorithm.step(rates, state, now, 1)[1].allowed


class TestClocks:
    def test_they_read_what_they_say(self, either: Any) -> None:
        for name, read in (("MonotonicClock", time.monotonic_ns), ("WallClock", time.time_ns)):
            clock = getattr(either, name)()
            before = read() // 1_000_000
            now = clock.now()
            assert before <= now <= read() // 1_000_000
            assert type(now) is int
        assert asyncio.run(either.MonotonicAsyncClock().now()) <= time.monotonic_ns() // 1_000_000

    def test_they_are_clocks_and_pickle(self, either: Any, imported: None) -> None:
        for name in ("MonotonicClock", "WallClock", "MonotonicAsyncClock"):
            clock = getattr(either, name)()
            assert isinstance(clock, either.AbstractClock)
            assert type(pickle.loads(pickle.dumps(clock))) is type(clock)


class ManualClock:
    """Milliseconds, and the nanoseconds that in-memory buckets ask for."""

    def __init__(self, ms: int = 1_000_000) -> None:
        self.ms = ms

    def now(self) -> int:
        return self.ms


class ExactClock(ManualClock):
    def now_ns(self) -> int:
        return self.ms * 1_000_000


CLOCKS = [ManualClock, ExactClock]


@pytest.fixture(params=CLOCKS)
def clock(request: pytest.FixtureRequest) -> Any:
    return request.param()


def in_memory(package: Any, clock: Any, *rates: Any, **kwargs: Any) -> tuple[Any, Any]:
    bucket = package.InMemoryBucket(list(rates))
    bucket._clock = clock
    return package.Limiter(package.SingleBucketFactory(bucket, schedule_leak=False), **kwargs), bucket


class TestLimiter:
    def test_it_takes_a_rate_a_list_a_bucket_or_a_factory(self, either: Any) -> None:
        rate = either.Rate(1, 1000)
        bucket = either.InMemoryBucket([rate])
        factory = either.SingleBucketFactory(bucket)
        limiters = [either.Limiter(argument) for argument in (rate, [rate], bucket, factory)]
        for limiter in limiters:
            assert isinstance(limiter.bucket_factory, either.SingleBucketFactory)
            assert limiter.buffer_ms == 50
            assert len(limiter.buckets()) == 1
        assert limiters[2].bucket_factory.bucket is bucket
        assert limiters[3].bucket_factory is factory
        for limiter in limiters:
            limiter.close()

    @pytest.mark.parametrize("argument", [(), None, 5, "x", ("rate",), [], [5], {}])
    def test_anything_else_is_an_assertion_error(self, either: Any, argument: Any) -> None:
        with pytest.raises(AssertionError):
            either.Limiter(argument)

    def test_a_tuple_of_rates_is_refused(self, either: Any) -> None:
        with pytest.raises(AssertionError):
            either.Limiter((either.Rate(1, 1000),))

    def test_ill_formed_rates_are_a_value_error(self, either: Any) -> None:
        with pytest.raises(ValueError, match="Invalid rate list"):
            either.Limiter([either.Rate(1, 1000), either.Rate(1, 2000)])

    def test_rates_in_any_order_are_put_in_order(self, either: Any) -> None:
        short, long = either.Rate(1, 1000), either.Rate(2, 5000)
        bucket = either.InMemoryBucket([long, short])
        assert bucket.rates == [short, long]

    def test_its_lock_is_the_buckets_and_one_of_its_own(self, either: Any) -> None:
        lock = threading.RLock()

        class Bucket(either.InMemoryBucket):  # type: ignore[misc]
            def limiter_lock(self) -> Any:
                return lock

        limiter = either.Limiter(Bucket([either.Rate(1, 1000)]))
        assert limiter.lock[0] is lock
        assert len(limiter.lock) == 2
        limiter.close()

    def test_the_order_of_the_checks_is_the_references(self, either: Any, clock: Any) -> None:
        limiter, _ = in_memory(either, clock, either.Rate(1, 1000))
        rows: list[tuple[dict[str, Any], type[BaseException]]] = [
            ({"timeout": -5}, ValueError),
            ({"timeout": -0.5, "blocking": False}, ValueError),
            ({"timeout": 1, "blocking": False}, RuntimeError),
            ({"timeout": 0, "blocking": False}, RuntimeError),
            ({"timeout": None}, TypeError),
            ({"timeout": -5, "weight": 0}, ValueError),
            ({"weight": -1}, AssertionError),
            ({"weight": -1, "blocking": False, "timeout": 1}, RuntimeError),
        ]
        for arguments, error in rows:
            with pytest.raises(error):
                limiter.try_acquire("x", **arguments)
            if arguments.get("weight") != 0:
                with pytest.raises(error):
                    asyncio.run(limiter.try_acquire_async("x", **arguments))
        assert limiter.try_acquire("x", weight=0) is True
        assert asyncio.run(limiter.try_acquire_async("x", weight=0, timeout=-5)) is True
        assert limiter.try_acquire("x", blocking=False) is True

    def test_full_is_false_and_never_an_error(self, either: Any, clock: Any) -> None:
        limiter, bucket = in_memory(either, clock, either.Rate(2, 1000))
        assert [limiter.try_acquire("x", blocking=False) for _ in range(3)] == [True, True, False]
        assert bucket.failing_rate is bucket.rates[0]
        assert limiter.try_acquire("x", timeout=0) is False
        assert limiter.try_acquire("x", weight=3) is False  # at once: it can never fit
        assert asyncio.run(limiter.try_acquire_async("x", blocking=False)) is False
        assert asyncio.run(limiter.try_acquire_async("x", weight=3)) is False
        clock.ms += 1001
        assert limiter.try_acquire("x", weight=2, blocking=False) is True
        assert bucket.failing_rate is None

    @pytest.mark.parametrize("asynchronous", [False, True])
    def test_either_way_in_sets_the_failing_rate(self, either: Any, clock: Any, asynchronous: bool) -> None:
        limiter, bucket = in_memory(either, clock, either.Rate(1, 1000), either.Rate(2, 5000))

        def acquire(weight: int = 1) -> Any:
            if asynchronous:
                return asyncio.run(limiter.try_acquire_async("x", weight, blocking=False))
            return limiter.try_acquire("x", weight, blocking=False)

        assert acquire()
        assert bucket.failing_rate is None
        assert not acquire()
        assert bucket.failing_rate is bucket.rates[0]
        clock.ms += 2000
        assert acquire()
        assert bucket.failing_rate is None
        clock.ms += 2000
        assert not acquire()
        assert bucket.failing_rate is bucket.rates[1]

    def test_items_carry_name_weight_and_time(self, either: Any, clock: Any) -> None:
        limiter, bucket = in_memory(either, clock, either.Rate(9, 1000))
        limiter.try_acquire()
        clock.ms += 5
        limiter.try_acquire("b", 2)
        peeked = [bucket.peek(index) for index in (0, 1, 2, -1, -2)]
        assert [(item.name, item.weight, item.timestamp - 1_000_000) for item in peeked] == [
            ("b", 2, 5), ("b", 2, 5), ("pyrate", 1, 0), ("pyrate", 1, 0), ("b", 2, 5),
        ]  # fmt: skip
        assert bucket.peek(3) is bucket.peek(-3) is bucket.peek(99) is None
        assert bucket.count() == 3

    def test_sync_waits_go_through_the_sleep_of_the_module(self, either: Any) -> None:
        module = importlib.import_module("pyrate_limiter.limiter") if either is pyrate_limiter else either.limiter
        rate = either.Rate(1, 60_000)
        limiter = either.Limiter(rate)
        limiter.try_acquire("x")
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            limiter.bucket_factory.bucket.flush()

        with mock.patch.object(module, "sleep", sleep):
            assert limiter.try_acquire("x")
        assert len(slept) == 1
        assert 59 < slept[0] < 61
        limiter.close()

    def test_async_waits_go_through_asyncio_where_the_bucket_is_the_users(self, either: Any) -> None:
        class Bucket(either.InMemoryBucket):  # type: ignore[misc]
            def put(self, item: Any) -> bool:
                return bool(super().put(item))

        limiter = either.Limiter(Bucket([either.Rate(1, 60_000)]))
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            limiter.bucket_factory.bucket.flush()

        async def main() -> None:
            assert await limiter.try_acquire_async("x")
            with mock.patch("asyncio.sleep", sleep):
                assert await limiter.try_acquire_async("x")

        asyncio.run(main())
        assert len(slept) == 1
        assert 59 < slept[0] < 61
        limiter.close()

    def test_a_timeout_ends_after_its_time_and_gives_false(self, either: Any) -> None:
        module = importlib.import_module("pyrate_limiter.limiter") if either is pyrate_limiter else either.limiter
        limiter = either.Limiter(either.Rate(1, 60_000))
        limiter.try_acquire("x")
        slept: list[float] = []
        with mock.patch.object(module, "sleep", slept.append):
            assert limiter.try_acquire("x", timeout=5) is False
        assert 4 < sum(slept) <= 5
        limiter.close()

    @pytest.mark.parametrize("forced", [False, True])
    def test_handle_bucket_put_puts_and_waits(self, either: Any, forced: bool) -> None:
        limiter = either.Limiter(either.Rate(2, 60_000))
        bucket = limiter.bucket_factory.bucket

        def put(weight: int, blocking: bool, **kwargs: Any) -> Any:
            item = either.RateItem("x", bucket.now(), weight)
            result = limiter.handle_bucket_put(bucket, item, blocking, _force_async=forced, **kwargs)
            return asyncio.run(finish(result)) if inspect.isawaitable(result) else result

        assert put(2, blocking=False) is True
        assert put(1, blocking=False) is False
        assert put(3, blocking=True) is False
        assert bucket.count() == 2
        limiter.close()

    @pytest.mark.parametrize("forced", [False, True])
    def test_it_awaits_an_asynchronous_bucket(self, either: Any, forced: bool) -> None:
        bucket = either.BucketAsyncWrapper(either.InMemoryBucket([either.Rate(2, 60_000)]))
        limiter = either.Limiter(either.SingleBucketFactory(bucket, schedule_leak=False))

        async def main() -> list[bool]:
            item = either.RateItem("x", bucket.now(), 2)
            return [
                await limiter.handle_bucket_put(bucket, item, False, _force_async=forced),
                await limiter.handle_bucket_put(bucket, item, False, _force_async=forced),
            ]

        assert asyncio.run(main()) == [True, False]

    def test_dispose_takes_a_bucket_or_its_id_once(self, either: Any) -> None:
        bucket = either.InMemoryBucket([either.Rate(1, 1000)])
        limiter = either.Limiter(bucket)
        assert limiter.buckets() == [bucket]
        assert limiter.dispose(bucket) is True
        assert limiter.dispose(id(bucket)) is False
        assert limiter.buckets() == []
        assert limiter.try_acquire("x", blocking=False)  # the factory goes on using it
        with pytest.raises(AssertionError):
            limiter.dispose("x")
        limiter.close()

    def test_it_is_a_context_manager_that_closes(self, either: Any) -> None:
        with either.Limiter(either.Rate(1, 1000)) as limiter:
            bucket = limiter.bucket_factory.bucket
            bucket.close = mock.Mock()
        bucket.close.assert_called_once_with()
        assert limiter.try_acquire("x", blocking=False)

    def test_it_pickles_with_what_it_has_admitted(self, either: Any, imported: None) -> None:
        limiter = either.Limiter(either.Rate(3, 60_000), buffer_ms=7)
        limiter.try_acquire("a", 2)
        limiter.note = "mine"
        other = pickle.loads(pickle.dumps(limiter))
        assert (other.buffer_ms, other.note, other.buckets()) == (7, "mine", [])
        assert other.bucket_factory.bucket.count() == 2
        assert [other.try_acquire("x", blocking=False) for _ in range(2)] == [True, False]
        assert limiter.bucket_factory.bucket.count() == 2  # a copy
        limiter.close()


async def finish(awaitable: Any) -> Any:
    return await awaitable


class TestDecorator:
    def test_functions_of_both_kinds_are_limited_and_keep_their_names(self, either: Any, clock: Any) -> None:
        limiter, bucket = in_memory(either, clock, either.Rate(9, 1000))

        @limiter.as_decorator(name="sync", weight=2)  # type: ignore[untyped-decorator]
        def add(a: int, b: int = 1) -> int:
            """Sum."""
            return a + b

        @limiter.as_decorator(name="async")  # type: ignore[untyped-decorator]
        async def aadd(a: int, b: int = 1) -> int:
            """Sum."""
            return a + b

        assert (add(1, b=2), asyncio.run(aadd(1))) == (3, 2)
        assert (add.__name__, add.__doc__, aadd.__name__) == ("add", "Sum.", "aadd")
        assert inspect.iscoroutinefunction(aadd)
        assert not inspect.iscoroutinefunction(add)
        assert [(item.name, item.weight) for item in (bucket.peek(0), bucket.peek(1))] == [("async", 1), ("sync", 2)]

    def test_name_and_weight_are_keywords(self, either: Any, clock: Any) -> None:
        limiter, _ = in_memory(either, clock, either.Rate(9, 1000))
        with pytest.raises(TypeError):
            limiter.as_decorator("x")

    def test_a_weight_that_never_fits_is_a_runtime_error(self, either: Any, clock: Any) -> None:
        limiter, bucket = in_memory(either, clock, either.Rate(9, 1000))
        function = mock.Mock(__name__="f")
        words = "Rate limit for 'ratelimiter' can never admit weight=10; call denied."
        with pytest.raises(RuntimeError, match=words):
            limiter.as_decorator(weight=10)(function)()

        async def function_async() -> None:
            function()

        with pytest.raises(RuntimeError, match=words):
            asyncio.run(limiter.as_decorator(weight=10)(function_async)())
        function.assert_not_called()
        assert bucket.count() == 0

    def test_a_sync_function_cannot_use_an_asynchronous_bucket(self, either: Any) -> None:
        inner = either.InMemoryBucket([either.Rate(9, 1000)])
        bucket = either.BucketAsyncWrapper(inner)
        limiter = either.Limiter(either.SingleBucketFactory(bucket, schedule_leak=False))
        function = mock.Mock(__name__="f", return_value=5)
        with pytest.raises(RuntimeError, match="Can't use async bucket with sync decorator"):
            limiter.as_decorator()(function)()
        function.assert_not_called()
        assert inner.count() == 0
        assert limiter.as_decorator(weight=0)(function)() == 5


class TestCombinedLock:
    @pytest.fixture
    def combined_lock(self, either: Any) -> Any:
        if either is pyrate_limiter:
            return importlib.import_module("pyrate_limiter.limiter").combined_lock
        return either.limiter.combined_lock

    @pytest.mark.parametrize("blocking", [False, True])
    def test_it_holds_one_or_several(self, combined_lock: Any, blocking: bool) -> None:
        one, two = threading.Lock(), threading.Lock()
        with combined_lock(one, blocking):
            assert (one.locked(), two.locked()) == (True, False)
        with combined_lock((one, two), blocking, timeout=1):
            assert (one.locked(), two.locked()) == (True, True)
        assert (one.locked(), two.locked()) == (False, False)

    @pytest.mark.parametrize("arguments", [(False,), (True, 0), (True, 0.001)])
    def test_where_one_cannot_be_had_none_is_held(self, combined_lock: Any, arguments: Any) -> None:
        one, two = threading.Lock(), threading.Lock()
        with two, pytest.raises(TimeoutError), combined_lock([one, two], *arguments):
            pytest.fail("entered")
        assert (one.locked(), two.locked()) == (False, False)

    def test_it_lets_go_when_the_block_raises(self, combined_lock: Any) -> None:
        one = threading.Lock()
        with pytest.raises(ZeroDivisionError), combined_lock(one, True):
            1 / 0  # noqa: B018
        assert not one.locked()


class TestLimiterFactory:
    @pytest.fixture
    def factory(self, either: Any) -> Any:
        return either.limiter_factory

    def test_an_in_memory_limiter(self, either: Any, factory: Any) -> None:
        limiter = factory.create_inmemory_limiter()
        bucket = limiter.bucket_factory.bucket
        assert type(bucket) is either.InMemoryBucket
        assert [(rate.limit, rate.interval) for rate in bucket.rates] == [(3, 1000)]
        limiter.close()
        limiter = factory.create_inmemory_limiter(5, either.Duration.MINUTE, 0)
        assert [(rate.limit, rate.interval) for rate in limiter.bucket_factory.bucket.rates] == [(5, 60_000)]
        assert limiter.buffer_ms == 0
        limiter.close()

    def test_a_token_bucket_limiter(self, either: Any, factory: Any) -> None:
        limiter = factory.create_token_bucket_limiter(2, 60_000, burst=5)
        bucket = limiter.bucket_factory.bucket
        assert type(bucket) is either.StateBucket
        assert type(bucket.algorithm) is either.TokenBucket
        assert [limiter.try_acquire("x", blocking=False) for _ in range(6)] == [True] * 5 + [False]
        limiter.close()

    def test_the_global_limiter_of_a_worker(self, either: Any, factory: Any) -> None:
        bucket = either.InMemoryBucket([either.Rate(1, 1000)])
        with mock.patch.object(factory, "LIMITER", None):
            assert factory.init_global_limiter(bucket) is None
            assert isinstance(factory.LIMITER, either.Limiter)
            assert factory.LIMITER.bucket_factory.bucket is bucket
            factory.LIMITER.close()


class TestBuckets:
    def test_put_decision_tells_of_the_wait(self, either: Any) -> None:
        bucket = either.InMemoryBucket([either.Rate(1, 1000)])
        assert bucket.put_decision(either.RateItem("x", 0)).allowed
        decision = bucket.put_decision(either.RateItem("x", 400))
        assert (decision.failing_rate, decision.retry_after_ms) == (bucket.rates[0], 601)
        assert bucket.put_decision(either.RateItem("x", 400, 2)).retry_after_ms is None
        assert bucket.put_decision(either.RateItem("x", 400, 0)).allowed

    def test_waiting_goes_by_the_item_that_was_refused_and_then_by_the_log(self, either: Any) -> None:
        bucket = either.InMemoryBucket([either.Rate(3, 1000)])
        RateItem = either.RateItem
        assert bucket.waiting(RateItem("x", 0)) == 0
        for instant in (0, 100, 200):
            bucket.put(RateItem("x", instant))
        assert not bucket.put(RateItem("x", 300))
        assert [bucket.waiting(RateItem("x", at)) for at in (300, 900, 1001, 5000)] == [701, 101, 0, 0]
        assert [bucket.waiting(RateItem("x", 300, weight)) for weight in (2, 3, 4)] == [801, 901, -1]
        with pytest.raises(AssertionError):
            bucket.waiting(RateItem("x", 300, 0))
        assert bucket.put(RateItem("x", 300, 0))
        assert bucket.waiting(RateItem("x", 300)) == 0

    def test_leak_needs_the_time_and_says_how_many_have_gone(self, either: Any) -> None:
        bucket = either.InMemoryBucket([either.Rate(3, 1000), either.Rate(5, 3000)])
        for instant in (0, 1, 1000, 4000):
            assert bucket.put(either.RateItem("x", instant))
        assert bucket.count() == 4
        assert [bucket.leak(at) for at in (4000, 4001, 7000, 7001, 9000)] == [2, 1, 0, 1, 0]
        assert bucket.count() == 0
        with pytest.raises(AssertionError):
            bucket.leak(None)

    def test_flush_forgets_all(self, either: Any) -> None:
        bucket = either.InMemoryBucket([either.Rate(1, 1000)])
        bucket.put(either.RateItem("x", 0))
        bucket.put(either.RateItem("x", 0))
        bucket.flush()
        assert (bucket.count(), bucket.failing_rate, bucket.peek(0)) == (0, None, None)
        assert bucket.waiting(either.RateItem("x", 0)) == 0

    def test_the_failing_rate_can_be_set_from_outside(self, either: Any) -> None:
        bucket = either.InMemoryBucket([either.Rate(1, 1000)])
        bucket.put(either.RateItem("x", 0))
        bucket.failing_rate = bucket.rates[0]
        assert bucket.waiting(either.RateItem("x", 500)) == 501

    def test_rates_that_make_no_sense_leave_the_old_ones(self, either: Any) -> None:
        rate = either.Rate(1, 1000)
        bucket = either.InMemoryBucket([rate])
        for rates in ([], [either.Rate(1, 1000), either.Rate(1, 2000)]):
            with pytest.raises(ValueError, match="Invalid rate list"):
                bucket.rates = rates
        assert bucket.rates == [rate]

    def test_a_state_bucket_keeps_no_items(self, either: Any, clock: Any) -> None:
        bucket = either.StateBucket([either.Rate(2, 1000)], clock=clock)
        assert type(bucket.algorithm) is either.GCRA
        assert type(bucket.store) is either.InMemoryStateStore
        assert bucket.is_async is False
        now = bucket.now()
        assert [bucket.put(either.RateItem("x", now)) for _ in range(3)] == [True, True, False]
        assert (bucket.count(), bucket.peek(0), bucket.leak(now)) == (2, None, 0)
        assert [bucket.waiting(either.RateItem("x", now, weight)) for weight in (1, 2, 3)] == [500, 1000, -1]
        clock.ms += 750
        assert bucket.count() == 1
        bucket.flush()
        assert bucket.count() == 0
        assert bucket.failing_rate is None

    def test_a_state_bucket_pickles_with_its_state(self, either: Any, imported: None) -> None:
        bucket = either.StateBucket([either.Rate(2, 60_000)])
        bucket.put(either.RateItem("x", bucket.now(), 2))
        assert not pickle.loads(pickle.dumps(bucket)).put(either.RateItem("x", bucket.now()))

    def test_the_async_wrapper_awaits_all_but_the_clock(self, either: Any) -> None:
        inner = either.InMemoryBucket([either.Rate(2, 1000)])
        bucket = either.BucketAsyncWrapper(inner)
        assert bucket.bucket is inner
        assert bucket.is_async is True
        assert isinstance(bucket.now(), int)
        assert bucket.rates == inner.rates
        assert bucket.limiter_lock() is None

        async def main() -> list[Any]:
            item = either.RateItem("x", 0, 2)
            results = [await bucket.put(item), await bucket.put(item), await bucket.count(), await bucket.waiting(item)]
            results += [bucket.failing_rate, (await bucket.peek(0)).name, await bucket.leak(5000)]
            return [*results, await bucket.flush()]

        assert asyncio.run(main()) == [True, False, 2, 1001, inner.rates[0], "x", 2, None]
        with pytest.raises(AttributeError):
            bucket.failing_rate = None
        bucket.rates = [either.Rate(7, 1000)]
        assert inner.rates[0].limit == 7
        with pytest.raises(AssertionError):
            either.BucketAsyncWrapper(5)

    def test_a_multiprocess_bucket_needs_a_managers_list(self, either: Any) -> None:
        with pytest.raises(ValueError, match="items must be a ListProxy"):
            either.MultiprocessBucket([either.Rate(1, 1000)], [], threading.RLock())


class TestBucketFactory:
    def test_a_single_bucket_factory_wraps_and_gets(self, either: Any, clock: Any) -> None:
        bucket = either.InMemoryBucket([either.Rate(1, 1000)])
        bucket._clock = clock
        factory = either.SingleBucketFactory(bucket, schedule_leak=False)
        item = factory.wrap_item("x", 5)
        assert (type(item), item.name, item.timestamp, item.weight) == (either.RateItem, "x", clock.ms, 5)
        assert factory.get(item) is bucket
        assert factory.get_buckets() == []
        assert factory.owned_buckets() == [bucket]
        factory.schedule_leak(bucket)
        assert factory.get_buckets() == factory.owned_buckets() == [bucket]
        factory.close()
        factory.close()

    def test_an_awaitable_clock_makes_an_awaitable_item(self, either: Any) -> None:
        bucket = either.InMemoryBucket([either.Rate(1, 1000)])
        bucket._clock = either.MonotonicAsyncClock()
        factory = either.SingleBucketFactory(bucket, schedule_leak=False)
        assert asyncio.run(finish(factory.wrap_item("x", 5))).weight == 5

    def test_the_leak_interval_can_be_set_before_and_after(self, either: Any) -> None:
        bucket = either.InMemoryBucket([either.Rate(1, 1000)])
        factory = either.SingleBucketFactory(bucket, schedule_leak=False)
        assert factory.leak_interval == 10_000
        factory.leak_interval = 5000
        factory.schedule_leak(bucket)
        factory.leak_interval = 3000
        assert factory.leak_interval == 3000
        factory.close()

    def test_create_makes_and_schedules(self, either: Any) -> None:
        factory = either.SingleBucketFactory(either.InMemoryBucket([either.Rate(1, 1000)]), schedule_leak=False)
        bucket = factory.create(either.InMemoryBucket, [either.Rate(2, 1000)])
        assert factory.get_buckets() == [bucket]
        assert factory.dispose(bucket) is True
        factory.close()


class TestOfOurOwn:
    """What the reference does not have."""

    def test_remaining_and_wait_time_take_nothing(self, package: Any, clock: Any) -> None:
        limiter, bucket = in_memory(package, clock, package.Rate(3, 1000), package.Rate(5, 10_000))
        assert limiter.remaining() == [3, 5]  # also before the first call
        assert limiter.wait_time() == 0.0
        limiter.try_acquire("x", 2)
        clock.ms += 400
        limiter.try_acquire("x")
        assert limiter.remaining("whoever") == [0, 2]
        assert limiter.wait_time("whoever", 2) == pytest.approx(0.6, abs=0.0011)
        assert limiter.wait_time(weight=3) == pytest.approx(9.6, abs=0.0011)
        assert limiter.wait_time(weight=4) == float("inf")
        assert limiter.wait_time(weight=0) == 0.0
        assert bucket.count() == 3

    @pytest.mark.parametrize("weight", [1, 2, 3])
    def test_the_wait_is_the_true_one(self, package: Any, weight: int) -> None:
        clock = ManualClock()
        limiter, _ = in_memory(package, clock, package.Rate(3, 1000), package.Rate(5, 4000))
        for pause in (0, 10, 500, 700, 3):
            clock.ms += pause
            limiter.try_acquire("x", blocking=False)
        wait = math.ceil(round(limiter.wait_time(weight=weight) * 1e9) / 1e6)
        clock.ms += wait - 1
        assert not limiter.try_acquire("x", weight, blocking=False)
        clock.ms += 1
        assert limiter.try_acquire("x", weight, blocking=False)

    def test_they_go_by_the_algorithm(self, package: Any, clock: Any) -> None:
        bucket = package.InMemoryBucket([package.Rate(2, 1000)], algorithm=package.FixedWindow())
        bucket._clock = clock
        limiter = package.Limiter(bucket)
        clock.ms = 10_900
        assert limiter.remaining() == [2]
        limiter.try_acquire("x", 2)
        assert limiter.remaining() == [0]
        assert limiter.wait_time() == 0.1
        assert limiter.wait_time(weight=3) == float("inf")
        clock.ms = 11_000
        assert limiter.remaining() == [2]
        assert limiter.wait_time(weight=2) == 0.0

    def test_a_state_bucket_tells_too(self, package: Any, clock: Any) -> None:
        bucket = package.StateBucket([package.Rate(4, 1000, burst=2)], clock=clock)
        limiter = package.Limiter(bucket)
        assert (limiter.remaining(), limiter.wait_time(weight=2)) == ([2], 0.0)
        limiter.try_acquire("x", 2)
        assert (limiter.remaining(), limiter.wait_time(weight=2)) == ([0], 0.5)
        assert limiter.wait_time(weight=3) == float("inf")

    def test_buckets_that_cannot_tell_say_so(self, package: Any) -> None:
        bucket = package.InMemoryBucket([package.Rate(1, 1000)])
        bucket._clock = package.MonotonicAsyncClock()
        limiter = package.Limiter(package.SingleBucketFactory(bucket, schedule_leak=False))
        for ask in (limiter.remaining, limiter.wait_time):
            with pytest.raises(NotImplementedError):
                ask()

    def test_counters_tell_what_has_come_of_the_calls(self, package: Any, clock: Any) -> None:
        limiter, _ = in_memory(package, clock, package.Rate(2, 1000))
        assert limiter.counters == package.Counters(0, 0, 0, 0.0)
        for _ in range(3):
            limiter.try_acquire("x", blocking=False)
        limiter.try_acquire("x", weight=3)
        clock.ms += 1001

        async def main() -> None:
            for _ in range(4):
                await limiter.try_acquire_async("x", blocking=False)

        asyncio.run(main())
        assert limiter.counters == (4, 4, 0, 0.0)
        assert limiter.counters._fields == ("admitted", "refused", "waiting", "waited")

    def test_rates_can_be_replaced_and_the_log_stays(self, package: Any, clock: Any) -> None:
        limiter, bucket = in_memory(package, clock, package.Rate(2, 10_000))
        limiter.try_acquire("x", 2)
        limiter.rates = package.Rate(3, 10_000)
        assert limiter.remaining() == [1]
        limiter.rates = [package.Rate(9, 20_000), package.Rate(1, 1000)]
        assert [rate.limit for rate in limiter.rates] == [1, 9]
        assert limiter.remaining() == [0, 7]
        clock.ms += 1001
        assert [limiter.try_acquire("x", blocking=False) for _ in range(2)] == [True, False]
        assert bucket.failing_rate is limiter.rates[0]
        with pytest.raises(ValueError, match="Invalid rate list"):
            limiter.rates = []
        assert limiter.remaining() == [0, 6]

    def test_who_waits_is_planned_anew_when_rates_are_replaced(self, package: Any) -> None:
        async def main() -> None:
            limiter = package.Limiter(package.Rate(1, 3_600_000))
            await limiter.try_acquire_async("x")
            waiter = asyncio.create_task(limiter.try_acquire_async("y"))
            await asyncio.sleep(0)
            assert limiter.counters.waiting == 1
            limiter.rates = package.Rate(2, 3_600_000)
            assert await waiter
            assert limiter.counters[:3] == (2, 0, 0)

        asyncio.run(main())

    def test_no_limiter_in_memory_starts_a_thread(self, package: Any) -> None:
        before = threading.active_count()
        limiters = [package.Limiter(package.Rate(1, 1000)) for _ in range(100)]
        assert all(limiter.try_acquire("x") for limiter in limiters)
        assert threading.active_count() == before
