"""What every bucket must do, as tests for pytest: subclass BucketContract, and let it make your bucket."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from inspect import isawaitable
from pathlib import Path
from typing import Any

import pytest

from aiolimiter_fast.abstracts import AbstractBucket, Rate, RateItem, StateAlgorithm
from aiolimiter_fast.limiter import Limiter

__all__ = ["HOSTILE_NAMES", "BucketContract"]

HOUR = 3_600_000
HOSTILE_NAMES = (
    "", " ", "it's", '"quoted"', "`tick`", "a;b--c", "{brace}", "{hash}:tag", "%s", "%", "_", "*", "?", "[a-z]", "a\\b",
    "../up", "a/b", "line\nbreak", "nul\0byte", "\U0001f6a6", "\u0000", "e\u0301", "x" * 10_240, "'; DROP TABLE items",
)  # fmt: skip


class Schedule:
    """Puts items into a bucket, and knows for each what may come of it.

    A bucket that goes by its items' time stamps is told the time, so that is certain. Of one with a clock of its own
    the time of a decision is known to lie between two readings, and what both allow is accepted.
    """

    def __init__(self, contract: BucketContract, bucket: Any) -> None:
        self.contract = contract
        self.bucket = bucket
        self.time = contract.now(bucket)
        # What was admitted: weight, and the earliest and latest time it can have been at.
        self.entries: list[tuple[int, int, int]] = []

    def sleep(self, milliseconds: int) -> None:
        """Let time pass."""
        if self.contract.own_clock:
            self.time = self.contract.now(self.bucket)
        self.time += milliseconds
        if self.contract.own_clock:
            while (left := self.time - self.contract.now(self.bucket)) > 0:
                time.sleep(left / 1000)

    def put(self, weight: int = 1, name: str = "item") -> bool:
        """Put an item, and check what came of it."""
        contract, bucket = self.contract, self.bucket
        if contract.own_clock:
            self.time = contract.now(bucket)
        early = self.time
        admitted = contract.put(bucket, weight, early, name)
        # A reading is cut off to milliseconds, which the bucket's own clock need not be.
        late = contract.now(bucket) + 1 if contract.own_clock else early
        failing = [self._failing(rate, weight, early, late) for rate in bucket.rates]
        if admitted:
            assert True not in failing, f"admitted weight {weight} at {early}, over a limit, after {self.entries}"
            assert bucket.failing_rate is None
            self.entries.append((weight, early, late))
        else:
            assert failing != [False] * len(failing), f"denied weight {weight} at {early}, with room: {self.entries}"
            first = next(i for i, fails in enumerate(failing) if fails is not False)
            if failing[first] is True:
                assert bucket.failing_rate is bucket.rates[first]
            assert any(bucket.failing_rate is rate for rate in bucket.rates)
        return admitted

    def _failing(self, rate: Rate, weight: int, early: int, late: int) -> bool | None:
        """Whether the rate has to refuse; None if it may."""
        algorithm = self.bucket._algorithm
        if not isinstance(algorithm, StateAlgorithm):
            surely = sum(w for w, first, _ in self.entries if first >= late - rate.interval)
            perhaps = sum(w for w, _, last in self.entries if last >= early - rate.interval)
            return True if surely + weight > rate.limit else False if perhaps + weight <= rate.limit else None
        emission, instants = -(-rate.interval * 1000 // rate.limit), [0, 0]
        for units, first, last in self.entries:
            instants = [
                max(arrival, at * 1000) + units * emission for arrival, at in zip(instants, (first, last), strict=True)
            ]
        fit = [
            weight <= rate.burst and max(arrival, at * 1000) + (weight - rate.burst) * emission <= at * 1000
            for arrival, at in ((instants[0], late), (instants[1], early))
        ]
        return True if not fit[0] else False if fit[1] else None


def _put_in_process(opener: Callable[[], Any], tries: int, started: Any, results: Any) -> None:
    """Put items; `tries` 0: without end, until killed."""
    loop = asyncio.new_event_loop()

    def done(value: Any) -> Any:
        async def result() -> Any:
            return await value

        return loop.run_until_complete(result()) if isawaitable(value) else value

    bucket = done(opener())
    admitted = number = 0
    while not tries or number < tries:
        admitted += bool(done(bucket.put(RateItem("item", done(bucket.now())))))
        number += 1
        if number == 1:
            started.set()
    results.put(admitted)
    done(bucket.close())
    loop.close()


class BucketContract:
    """The contract of AbstractBucket: subclass it as `TestMyBucket`, with `make_bucket`.

    `make_bucket` may give an awaitable, and so may the bucket's methods: they are awaited on one event loop per test.
    The attributes say what the bucket claims to be; what it does not claim is not tested.

    Attributes of the class:
        threads: it may be called from several threads at once; it is not to be awaited.
        processes: it is one limit for several processes; `opener` makes it in another one.
        shared: two buckets made by the same name are one limit, as long as one is open.
        persistent: what it holds outlives `close`; made again by the same name it is still there.
        own_clock: it goes by a clock of its own, a server's say, and not by its items' time stamps.
        keeps_names: `peek` gives the name of the item that was put.
        interval: milliseconds of the limits that are waited for; longer for slow stores.
        heaviest: the weight of the heaviest item that is tried.

    Attribute of the test: folder, an empty directory.

    Example:
        from aiolimiter_fast import InMemoryBucket
        from aiolimiter_fast.testing import BucketContract

        class TestInMemoryBucket(BucketContract):
            threads = True

            def make_bucket(self, rates, name):
                return InMemoryBucket(rates)
    """

    threads: bool = False
    processes: bool = False
    shared: bool = False
    persistent: bool = False
    own_clock: bool = False
    keeps_names: bool = True
    interval: int = 100
    heaviest: int = 1_000_000
    folder: Path

    def make_bucket(self, rates: list[Rate], name: str) -> Any:
        """The bucket, or an awaitable of it. The same name means the same limit where that is shared or persistent."""
        raise NotImplementedError("make_bucket(rates, name) is to make the bucket under test")

    def opener(self, rates: list[Rate], name: str) -> Callable[[], Any]:
        """A function, to be pickled, that makes the bucket of that name in another process."""
        raise NotImplementedError("opener(rates, name) is to give a function that other processes call")

    # What the tests are made of.

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for claim, tests in _CLAIMS.items():
            for test in tests:
                own = getattr(BucketContract, test)
                if getattr(cls, test) in (None, own):  # what is no function is no test
                    setattr(cls, test, own if getattr(cls, claim) else None)

    @pytest.fixture(autouse=True)
    def _surroundings(self, tmp_path: Path) -> Iterator[None]:
        with self.set_up(tmp_path):
            yield

    @contextmanager
    def set_up(self, folder: Path) -> Iterator[None]:
        """What a test needs around it, for those who call tests themselves."""
        self.folder = folder
        self._name = f"contract_{uuid.uuid4().hex[:12]}"
        self._loop = asyncio.new_event_loop()
        self._open: list[Any] = []
        try:
            yield
        finally:
            for bucket in self._open:
                self.result(bucket.flush())
                self.close(bucket)
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def result(self, value: Any) -> Any:
        """`value`, or what comes of awaiting it."""

        async def awaited() -> Any:
            return await value

        while isawaitable(value):
            value = self._loop.run_until_complete(awaited())
        return value

    def bucket(self, *rates: Rate, suffix: str = "") -> Any:
        """A bucket, closed when the test ends."""
        bucket = self.result(self.make_bucket(list(rates), self._name + suffix))
        assert isinstance(bucket, AbstractBucket)
        self._open.append(bucket)
        return bucket

    def close(self, bucket: Any) -> None:
        """Close a bucket; override it to close more than `bucket.close` does."""
        self.result(bucket.close())

    def now(self, bucket: Any) -> int:
        now = self.result(bucket.now())
        assert isinstance(now, int)
        return now

    def put(self, bucket: Any, weight: int = 1, timestamp: int | None = None, name: str = "item") -> bool:
        item = RateItem(name, self.now(bucket) if timestamp is None else timestamp, weight)
        admitted = self.result(bucket.put(item))
        assert admitted is True or admitted is False
        return admitted

    def waiting(self, bucket: Any, weight: int, timestamp: int) -> int:
        wait = self.result(bucket.waiting(RateItem("item", timestamp, weight)))
        assert isinstance(wait, int)
        return wait

    def count(self, bucket: Any) -> int:
        count = self.result(bucket.count())
        assert isinstance(count, int)
        return count

    @staticmethod
    def is_log(bucket: Any) -> bool:
        return not isinstance(bucket._algorithm, StateAlgorithm)

    # The tests.

    def test_it_admits_up_to_the_limit_and_names_the_rate_that_refuses(self) -> None:
        bucket = self.bucket(Rate(3, HOUR))
        assert bucket.failing_rate is None
        assert [self.put(bucket) for _ in range(5)] == [True] * 3 + [False] * 2
        assert bucket.failing_rate is bucket.rates[0]

    def test_weights_count_in_full(self) -> None:
        bucket = self.bucket(Rate(10, HOUR))
        assert [self.put(bucket, weight) for weight in (6, 5, 4, 1)] == [True, False, True, False]

    def test_an_item_of_no_weight_takes_nothing_and_clears_the_denial(self) -> None:
        bucket = self.bucket(Rate(1, HOUR))
        assert [self.put(bucket, weight) for weight in (0, 1, 1)] == [True, True, False]
        assert self.put(bucket, 0)
        assert bucket.failing_rate is None
        assert self.waiting(bucket, 1, self.now(bucket)) == 0
        assert self.count(bucket) == 1

    def test_a_negative_weight_makes_no_room(self) -> None:
        bucket = self.bucket(Rate(2, HOUR))
        self.put(bucket, 2)
        with suppress(AssertionError, ValueError):
            self.put(bucket, -2)
        assert not self.put(bucket)

    def test_a_weight_that_never_fits_is_refused_for_good_and_takes_nothing(self) -> None:
        bucket = self.bucket(Rate(2, HOUR), Rate(4, 2 * HOUR))
        for weight in (3, 5):
            assert not self.put(bucket, weight)
            assert bucket.failing_rate is bucket.rates[0]
            assert self.waiting(bucket, weight, self.now(bucket)) == -1
        assert self.count(bucket) == 0
        assert self.put(bucket, 2)

    def test_the_heaviest_weight_is_counted_in_full(self) -> None:
        bucket = self.bucket(Rate(self.heaviest, HOUR))
        assert [self.put(bucket, weight) for weight in (self.heaviest - 1, 2, 1, 1)] == [True, False, True, False]

    def test_rates_come_back_in_order_and_bad_ones_are_refused(self) -> None:
        bucket = self.bucket(Rate(5, 2 * HOUR), Rate(3, HOUR))
        assert [(rate.limit, rate.interval) for rate in bucket.rates] == [(3, HOUR), (5, 2 * HOUR)]
        with pytest.raises(ValueError, match="rate"):
            self.result(self.make_bucket([], self._name))
        with pytest.raises(ValueError, match="rate"):
            self.result(self.make_bucket([Rate(5, HOUR), Rate(3, 2 * HOUR)], self._name))

    def test_the_time_is_whole_milliseconds_that_do_not_fall(self) -> None:
        bucket = self.bucket(Rate(1, HOUR))
        times = [self.now(bucket) for _ in range(3)]
        assert times == sorted(times)

    @pytest.mark.parametrize("seed", range(3))
    def test_it_decides_as_a_list_of_time_stamps_would(self, seed: int) -> None:
        chance, unit = random.Random(seed), self.interval
        bucket = self.bucket(Rate(4, unit), Rate(7, 3 * unit), Rate(9, 5 * unit))
        schedule = Schedule(self, bucket)
        for _ in range(20 if self.own_clock else 400):
            schedule.sleep(chance.choice((0, 0, 1, unit // 3, unit - 1, unit, unit + 1)))
            schedule.put(chance.choice((1, 1, 1, 2, 4, 5)))

    @pytest.mark.parametrize("weight", [1, 2, 4])
    def test_after_exactly_the_wait_it_admits_and_a_millisecond_earlier_it_does_not(self, weight: int) -> None:
        bucket = self.bucket(Rate(4, self.interval))
        schedule = Schedule(self, bucket)
        schedule.put(1)
        schedule.sleep(self.interval // 4)
        while schedule.put(3):
            schedule.sleep(self.interval // 10)
        for _ in range(3):
            if schedule.put(weight):
                continue
            early = schedule.time
            wait = self.waiting(bucket, weight, early)
            late = self.now(bucket) if self.own_clock else early
            assert 0 < wait <= self.interval + 1
            if not self.own_clock:
                assert self.waiting(bucket, weight, early + wait - 1) == 1
                assert self.waiting(bucket, weight, early + wait) == 0
                schedule.sleep(wait - 1)
                assert not schedule.put(weight)
                schedule.sleep(1)
            else:
                schedule.sleep(max(wait - self.interval // 10, 0))
                admitted = schedule.put(weight)
                assert not admitted or self.now(bucket) >= early + wait - 1
                if admitted:
                    continue
                schedule.time = late
                schedule.sleep(wait)
            assert schedule.put(weight)

    def test_several_rates_are_waited_for_one_after_the_other(self) -> None:
        unit = self.interval
        bucket = self.bucket(Rate(2, unit), Rate(3, 3 * unit))
        schedule = Schedule(self, bucket)
        admitted = 0
        for _ in range(40):
            if schedule.put():
                admitted += 1
            else:
                schedule.sleep(max(self.waiting(bucket, 1, schedule.time), 1))
            if admitted == 7:
                break
        assert admitted == 7

    def test_put_decision_tells_what_put_and_waiting_tell(self) -> None:
        bucket = self.bucket(Rate(2, HOUR))
        now = self.now(bucket)
        decisions = [self.result(bucket.put_decision(RateItem("item", now, weight))) for weight in (0, 2, 1, 3)]
        assert [decision.allowed for decision in decisions] == [True, True, False, False]
        assert decisions[2].failing_rate is decisions[3].failing_rate is bucket.rates[0]
        assert decisions[2].retry_after_ms is None or 0 < decisions[2].retry_after_ms <= HOUR + 1
        assert decisions[3].retry_after_ms is None

    def test_count_peek_and_leak_tell_of_units(self) -> None:
        bucket = self.bucket(Rate(5, HOUR))
        assert (self.count(bucket), self.result(bucket.peek(0))) == (0, None)
        assert self.result(bucket.leak(self.now(bucket))) == 0
        start = self.now(bucket)  # no item is to be older than what the bucket was asked before
        self.put(bucket, 2, start, "first")
        self.put(bucket, 3, start + 1, "second")
        assert not self.put(bucket, 1, start + 2)
        assert self.count(bucket) == 5
        if self.is_log(bucket):
            units = [self.result(bucket.peek(index)) for index in range(5)]
            times = [unit.timestamp for unit in units]
            assert times == sorted(times, reverse=True)
            if not self.own_clock:
                assert times == [start + 1] * 3 + [start] * 2
            if self.keeps_names:
                assert [unit.name for unit in units] == ["second"] * 3 + ["first"] * 2
        assert self.result(bucket.peek(5)) is None
        assert self.result(bucket.leak(self.now(bucket))) == 0
        assert self.count(bucket) == 5

    def test_what_has_left_every_window_leaks_and_the_rest_stays(self) -> None:
        bucket = self.bucket(Rate(3, self.interval), Rate(4, 3 * self.interval))
        schedule = Schedule(self, bucket)
        schedule.put(2)
        schedule.sleep(3 * self.interval + 2)
        schedule.put(1)
        before = self.count(bucket)
        gone = self.result(bucket.leak(schedule.time))
        if self.is_log(bucket):
            assert gone in (0, 2)
            assert before - gone == self.count(bucket) == 1
        else:
            assert gone == 0
        assert not schedule.put(3)

    def test_flush_forgets_everything(self) -> None:
        bucket = self.bucket(Rate(2, HOUR))
        assert self.put(bucket, 2)
        assert not self.put(bucket)
        assert self.result(bucket.flush()) is None
        assert bucket.failing_rate is None
        assert self.count(bucket) == 0
        assert self.result(bucket.peek(0)) is None
        assert self.put(bucket, 2)
        assert not self.put(bucket)

    @pytest.mark.parametrize("name", HOSTILE_NAMES, ids=range(len(HOSTILE_NAMES)))
    def test_an_item_of_any_name_is_kept_or_refused_with_an_error(self, name: str) -> None:
        bucket = self.bucket(Rate(2, HOUR))
        try:
            admitted = self.put(bucket, 1, name=name)
        except (TypeError, ValueError):
            assert self.count(bucket) == 0
        else:
            assert admitted
            assert self.count(bucket) == 1
            if self.keeps_names and self.is_log(bucket):
                assert self.result(bucket.peek(0)).name == name
        assert self.put(bucket)

    @pytest.mark.parametrize("name", HOSTILE_NAMES[1:], ids=range(1, len(HOSTILE_NAMES)))
    def test_a_bucket_of_any_name_is_a_limit_of_its_own_or_refused_with_an_error(self, name: str) -> None:
        plain = self.bucket(Rate(1, HOUR))
        near = self.bucket(Rate(1, HOUR), suffix="xx")
        try:
            bucket = self.bucket(Rate(1, HOUR), suffix=name)
        except (TypeError, ValueError):
            pass
        else:
            assert self.put(bucket)
            if self.shared:
                assert not self.put(self.bucket(Rate(1, HOUR), suffix=name))
            self.result(bucket.flush())
            assert self.put(bucket)
        assert [self.put(other) for other in (plain, near)] == [True, True]

    def test_buckets_of_one_name_are_one_limit(self) -> None:
        first, second = self.bucket(Rate(3, HOUR)), self.bucket(Rate(3, HOUR))
        assert [self.put(bucket) for bucket in (first, second, first, second, first)] == [True] * 3 + [False] * 2
        assert self.count(first) == self.count(second) == 3
        self.result(first.flush())
        assert self.count(second) == 0
        assert self.put(second)

    def test_what_it_holds_outlives_it(self) -> None:
        first = self.bucket(Rate(3, HOUR))
        assert self.put(first, 2)
        self._open.remove(first)
        self.close(first)
        second = self.bucket(Rate(3, HOUR))
        assert [self.put(second), self.put(second)] == [True, False]

    def test_threads_get_exactly_the_limit(self) -> None:
        bucket = self.bucket(Rate(100, HOUR))

        def work(_: int) -> int:
            return sum(bool(bucket.put(RateItem("item", bucket.now()))) for _ in range(30))

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(work, range(2))) == 60
            assert sum(pool.map(work, range(4))) == 40
        assert self.count(bucket) == 100

    def test_tasks_get_exactly_the_limit(self) -> None:
        bucket = self.bucket(Rate(30, HOUR))

        async def put() -> Any:
            now = bucket.now()
            admitted = bucket.put(RateItem("item", await now if isawaitable(now) else now))
            return await admitted if isawaitable(admitted) else admitted

        async def main() -> int:
            return sum(await asyncio.gather(*(put() for _ in range(40))))

        assert self._loop.run_until_complete(main()) == 30

    def test_processes_get_exactly_the_limit(self) -> None:
        rates = [Rate(100, HOUR)]
        bucket = self.bucket(*rates)
        assert self._in_processes(self.opener(rates, self._name), 2, 30) == 60
        assert self._in_processes(self.opener(rates, self._name), 2, 30) == 40
        assert not self.put(bucket)
        assert self.count(bucket) == 100

    def test_a_killed_process_stops_nobody(self) -> None:
        rates = [Rate(self.heaviest, HOUR)]
        bucket = self.bucket(*rates)
        context = multiprocessing.get_context("spawn")
        for _ in range(2):
            started = context.Event()
            victim = context.Process(
                target=_put_in_process, args=(self.opener(rates, self._name), 0, started, None), daemon=True
            )
            victim.start()
            assert started.wait(60)
            victim.kill()
            victim.join()
            victim.close()
            before = self.count(bucket)
            assert self.put(bucket)
            assert self.count(bucket) <= before + 1  # what is owed may have leaked meanwhile

    def _in_processes(self, opener: Callable[[], Any], processes: int, tries: int) -> int:
        """Put items from several processes at once; how many were admitted."""
        context = multiprocessing.get_context("spawn")
        results: Any = context.SimpleQueue()
        started = context.Event()  # to be kept until all workers have opened it
        workers = [
            context.Process(target=_put_in_process, args=(opener, tries, started, results), daemon=True)
            for _ in range(processes)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
            assert worker.exitcode == 0
            worker.close()
        admitted = sum(results.get() for _ in range(processes))
        results.close()
        return int(admitted)

    def test_a_limiter_decides_at_once_where_it_is_not_to_wait(self) -> None:
        limiter = Limiter(self.bucket(Rate(3, HOUR)), buffer_ms=0)
        tries = [self.result(limiter.try_acquire("item", blocking=False)) for _ in range(5)]
        assert tries == [True] * 3 + [False] * 2
        assert self.result(limiter.try_acquire("item", 4)) is False
        self._dispose(limiter)

    @pytest.mark.parametrize("asynchronous", [False, True], ids=["threads", "asyncio"])
    def test_a_limiter_waits_as_long_as_it_must(self, asynchronous: bool) -> None:
        bucket = self.bucket(Rate(2, self.interval, 1))
        limiter = Limiter(bucket, buffer_ms=0)
        spans = []
        for _ in range(5):
            early = self.now(bucket)
            acquire = limiter.try_acquire_async if asynchronous else limiter.try_acquire
            assert self.result(acquire("item")) is True
            spans.append((early, self.now(bucket)))
        if self.is_log(bucket):
            assert all(late - early >= self.interval for (early, _), (_, late) in zip(spans, spans[2:], strict=False))
        self._dispose(limiter)

    def test_tasks_that_wait_at_a_limiter_are_all_served(self) -> None:
        bucket = self.bucket(Rate(4, self.interval))
        limiter = Limiter(bucket, buffer_ms=0)

        async def main() -> list[bool]:
            return list(await asyncio.gather(*(limiter.try_acquire_async("item") for _ in range(10))))

        assert self._loop.run_until_complete(main()) == [True] * 10
        self._dispose(limiter)

    def test_threads_that_wait_at_a_limiter_are_all_served(self) -> None:
        bucket = self.bucket(Rate(4, self.interval))
        limiter = Limiter(bucket, buffer_ms=0)
        with ThreadPoolExecutor(5) as pool:
            assert list(pool.map(lambda _: limiter.try_acquire("item"), range(10))) == [True] * 10
        self._dispose(limiter)

    def _dispose(self, limiter: Limiter) -> None:
        """Stop the limiter's leaker; the bucket is closed later."""
        for bucket in limiter.buckets():
            limiter.dispose(bucket)

        async def turn() -> None:
            await asyncio.sleep(0)

        self._loop.run_until_complete(turn())


# Tests that only those need to pass who claim so.
_CLAIMS = {
    "threads": ("test_threads_get_exactly_the_limit", "test_threads_that_wait_at_a_limiter_are_all_served"),
    "processes": ("test_processes_get_exactly_the_limit", "test_a_killed_process_stops_nobody"),
    "shared": ("test_buckets_of_one_name_are_one_limit",),
    "persistent": ("test_what_it_holds_outlives_it",),
}
