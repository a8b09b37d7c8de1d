"""InMemoryBucket and Limiter through whole lives, against a list of time stamps and against pyrate-limiter."""

from __future__ import annotations

import asyncio
import contextlib
from types import ModuleType
from typing import Any

import pyrate_limiter
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

MS = 1_000_000


def stacked(steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Rates that make sense together, each longer, larger and no faster than the one before."""
    rates = [steps[0]]
    for more, longer in steps[1:]:
        limit, interval = rates[-1]
        if (limit + more) * interval <= limit * (interval + longer):
            rates.append((limit + more, interval + longer))
    return rates


RATES = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 40)), min_size=1, max_size=4).map(stacked)
WEIGHTS = st.sampled_from([1, 1, 1, 2, 3, 5, 8, 0])


class Clock:
    """Milliseconds by which both go."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def now(self) -> int:
        return self.ms


class ExactClock(Clock):
    """Nanoseconds too, so that the limiter decides in the engine."""

    def __init__(self) -> None:
        super().__init__()
        self.part = 0

    def now_ns(self) -> int:
        return self.ms * MS + self.part


class Subject:
    """A package's bucket, and the limiter on it; nothing leaks it but the test."""

    def __init__(self, package: Any, rates: list[tuple[int, int]], clock: Clock) -> None:
        self.package = package
        self.rates = [package.Rate(*rate) for rate in rates]
        self.bucket = package.InMemoryBucket(self.rates)
        self.bucket._clock = clock
        self.limiter = package.Limiter(package.SingleBucketFactory(self.bucket, schedule_leak=False))

    def replace_rates(self, rates: list[tuple[int, int]]) -> None:
        self.bucket.rates = self.rates = [self.package.Rate(*rate) for rate in rates]

    @property
    def failing(self) -> int | None:
        rate = self.bucket.failing_rate
        return None if rate is None else self.rates.index(rate)


class Naive:
    """A list of time stamps in nanoseconds, one per unit: what the bound means."""

    def __init__(self, rates: list[tuple[int, int]]) -> None:
        self.rates = rates
        self.units: list[int] = []

    @property
    def smallest(self) -> int:
        return min(limit for limit, _ in self.rates)

    def used(self, interval: int, now: int) -> int:
        return sum(instant >= now - interval * MS for instant in self.units)

    def failing(self, weight: int, now: int) -> int | None:
        for index, (limit, interval) in enumerate(self.rates):
            if self.used(interval, now) + weight > limit:
                return index
        return None

    def take(self, weight: int, now: int) -> int | None:
        failing = self.failing(weight, now)
        if failing is None:
            self.units += [now] * weight
        return failing

    def wait(self, weight: int, now: int) -> int:
        """Nanoseconds until there is room for `weight`."""
        instants = [now, *(unit + interval * MS + 1 for unit in self.units for _, interval in self.rates)]
        return min(i for i in instants if i >= now and self.failing(weight, i) is None) - now


class AgainstReference(RuleBasedStateMachine):
    """The same calls, in the same milliseconds: the same answers."""

    packages: tuple[Any, ...]
    clock_type: type[Clock]

    @initialize(rates=RATES)
    def start(self, rates: list[tuple[int, int]]) -> None:
        self.clock = self.clock_type()
        self.last_put: Any = None
        self.theirs = Subject(pyrate_limiter, rates, self.clock)
        self.ours = [Subject(package, rates, self.clock) for package in self.packages]
        self.naive = Naive(rates)
        # Our log forgets what has left the longest window, and cannot know of it after a change of rates.
        self.longest = max(interval for _, interval in rates)

    @property
    def all(self) -> list[Subject]:
        return [self.theirs, *self.ours]

    def same(self, results: list[Any]) -> Any:
        assert all(result == results[0] for result in results[1:]), results
        return results[0]

    @rule(milliseconds=st.one_of(st.integers(0, 12), st.integers(0, 200)))
    def time_passes(self, milliseconds: int) -> None:
        self.clock.ms += milliseconds

    @rule(weight=WEIGHTS, name=st.sampled_from("ab"))
    def put(self, weight: int, name: str) -> None:
        items = [subject.package.RateItem(name, self.clock.ms, weight) for subject in self.all]
        admitted = self.same([bool(s.bucket.put(item)) for s, item in zip(self.all, items, strict=True)])
        if weight:
            failing = self.naive.take(weight, self.clock.ms * MS)
            assert admitted is (failing is None)
            assert self.theirs.failing == failing
        self.same([s.bucket.waiting(item) for s, item in zip(self.all, items, strict=True) if weight or admitted])

    @rule(weight=WEIGHTS)
    def put_decision(self, weight: int) -> None:
        decisions = [s.bucket.put_decision(s.package.RateItem("d", self.clock.ms, weight)) for s in self.all]
        self.same([decision.allowed for decision in decisions])
        self.same([decision.retry_after_ms for decision in decisions])
        if weight:
            self.naive.take(weight, self.clock.ms * MS)

    @rule(weight=st.integers(1, 6), later=st.integers(0, 50))
    def waiting(self, weight: int, later: int) -> None:
        """Also for another weight than that refused, and for a later item."""
        items = [s.package.RateItem("w", self.clock.ms + later, weight) for s in self.all]
        waits = [s.bucket.waiting(item) for s, item in zip(self.all, items, strict=True)]
        # The reference says by how much too late it is asked: so -1 has two meanings there.
        late = self.theirs.failing is None or weight <= self.theirs.rates[self.theirs.failing].limit
        self.same([max(wait, 0) if late else wait for wait in waits])
        assert not late or min(waits[1:]) >= 0

    @rule(weight=WEIGHTS, name=st.sampled_from("xy"))
    def try_acquire(self, weight: int, name: str) -> None:
        admitted = self.same([s.limiter.try_acquire(name, weight, blocking=False) for s in self.all])
        if weight:
            assert admitted is (self.naive.take(weight, self.clock.ms * MS) is None)

    @rule(weight=WEIGHTS)
    def try_acquire_async(self, weight: int) -> None:
        results = [run(s.limiter.try_acquire_async("async", weight, blocking=False)) for s in self.all]
        admitted = self.same(results)
        if weight:
            assert admitted is (self.naive.take(weight, self.clock.ms * MS) is None)

    @rule(excess=st.integers(1, 3), timeout=st.sampled_from([-1, 0, 7.5]))
    def what_never_fits_is_refused_at_once(self, excess: int, timeout: float) -> None:
        weight = self.theirs.rates[0].limit + excess
        assert not self.same([s.limiter.try_acquire("never", weight, timeout=0) for s in self.all])
        if self.theirs.failing == 0:
            assert not self.same([s.limiter.try_acquire("never", weight, timeout=timeout) for s in self.all])

    @rule()
    def leak(self) -> None:
        self.same([s.bucket.leak(self.clock.ms) for s in self.all])

    @rule()
    def flush(self) -> None:
        for subject in self.all:
            subject.bucket.flush()
        self.naive.units.clear()

    @precondition(lambda self: self.theirs.bucket.count())
    @rule()
    def rates_are_changed_when_the_log_is_leaked(self) -> None:
        """A larger limit on the same windows, on the same objects."""
        self.leak()
        for subject in self.all:
            for rate in subject.rates:
                rate.limit += 1
            subject.bucket._last_wait = None  # the reference goes on telling the old wait
        self.naive.rates = [(limit + 1, interval) for limit, interval in self.naive.rates]

    @rule(rates=RATES)
    def rates_are_replaced(self, rates: list[tuple[int, int]]) -> None:
        self.leak()
        for subject in self.all:
            subject.replace_rates(rates)
            subject.bucket.failing_rate = None  # the reference goes on naming a rate that is not there any more
        bound = self.clock.ms * MS - self.longest * MS
        self.naive.units = [unit for unit in self.naive.units if unit >= bound]
        self.naive.rates = rates
        self.longest = max(interval for _, interval in rates)

    @invariant()
    def the_buckets_look_alike(self) -> None:
        if not hasattr(self, "ours"):
            return
        self.same([subject.bucket.count() for subject in self.all])
        self.same([subject.failing for subject in self.all])
        held = sum(unit >= (self.clock.ms - self.longest) * MS for unit in self.naive.units)
        for index in range(held + 1):
            # The reference finds what has expired until it is leaked.
            if index < held:
                self.same([describe(subject.bucket.peek(index)) for subject in self.all])

    @invariant()
    def remaining_and_wait_time_are_the_naive_ones(self) -> None:
        if not hasattr(self, "ours"):
            return
        now = self.clock.ms * MS
        for subject in self.ours:
            assert subject.limiter.remaining() == [
                max(limit - self.naive.used(interval, now), 0) for limit, interval in self.naive.rates
            ]
            for weight in (1, 2):
                wait = subject.limiter.wait_time(weight=weight)
                if weight > self.naive.smallest:
                    assert wait == float("inf")
                else:
                    assert round(wait * 1e9) == self.naive.wait(weight, now)


def describe(item: Any) -> tuple[str, int, int] | None:
    return None if item is None else (item.name, item.timestamp, item.weight)


class Loop:
    """A loop for one coroutine after the other."""

    runner: asyncio.AbstractEventLoop | None = None


def run(coroutine: Any) -> Any:
    assert Loop.runner is not None
    return Loop.runner.run_until_complete(coroutine)


@contextlib.contextmanager
def loop() -> Any:
    Loop.runner = asyncio.new_event_loop()
    try:
        yield
    finally:
        Loop.runner.close()
        Loop.runner = None


class ExactlyAgainstAList(RuleBasedStateMachine):
    """Nanoseconds, which the reference does not know: the engines alike, and like a list."""

    packages: tuple[Any, ...]

    @initialize(rates=RATES, start=st.sampled_from([1_000_000, 0, -60, -1_000_000]))
    def start(self, rates: list[tuple[int, int]], start: int) -> None:
        self.clock = ExactClock()
        self.clock.ms = start
        self.subjects = [Subject(package, rates, self.clock) for package in self.packages]
        self.naive = Naive(rates)
        self.admitted: list[int] = []

    @rule(
        nanoseconds=st.one_of(st.integers(0, 5), st.integers(0, 30 * MS), st.sampled_from([MS, 10 * MS, 10 * MS + 1]))
    )
    def time_passes(self, nanoseconds: int) -> None:
        self.clock.ms, self.clock.part = divmod(self.clock.now_ns() + nanoseconds, MS)

    @rule(weight=st.integers(1, 6), asynchronous=st.booleans())
    def acquire(self, weight: int, asynchronous: bool) -> None:
        now = self.clock.now_ns()
        failing = self.naive.take(weight, now)
        for subject in self.subjects:
            if asynchronous:
                admitted = run(subject.limiter.try_acquire_async("x", weight, blocking=False))
            else:
                admitted = subject.limiter.try_acquire("x", weight, blocking=False)
            assert admitted is (failing is None)
            assert subject.failing == failing
        if failing is None:
            self.admitted += [now] * weight

    @rule(weight=st.integers(1, 5))
    def at_the_end_of_the_wait_it_fits_and_a_nanosecond_before_it_does_not(self, weight: int) -> None:
        waits = {subject.limiter.wait_time(weight=weight) for subject in self.subjects}
        assert len(waits) == 1
        wait = waits.pop()
        if wait == float("inf"):
            assert weight > self.naive.smallest
            return
        assert round(wait * 1e9) == self.naive.wait(weight, self.clock.now_ns())
        if wait:
            self.time_passes(round(wait * 1e9) - 1)
            self.acquire_is(weight, False)
            self.time_passes(1)
        self.acquire_is(weight, True)

    def acquire_is(self, weight: int, admitted: bool) -> None:
        assert (self.naive.failing(weight, self.clock.now_ns()) is None) is admitted
        self.acquire(weight, False)

    @rule(place=st.integers(0, 3), limit=st.integers(1, 20), interval=st.integers(1, 150))
    def a_rate_is_changed_in_place(self, place: int, limit: int, interval: int) -> None:
        """To anything, so that the order of the list may not be that of the intervals any more."""
        rates = list(self.naive.rates)
        rates[place % len(rates)] = (limit, interval)
        longest = max(interval for _, interval in self.naive.rates)
        for subject in self.subjects:
            # What has left the longest window so far is forgotten.
            subject.bucket.leak(-(-self.clock.now_ns() // MS))
            subject.rates[place % len(rates)].limit = limit
            subject.rates[place % len(rates)].interval = interval
        bound = (-(-self.clock.now_ns() // MS) - longest) * MS
        self.naive.units = [unit for unit in self.naive.units if unit >= bound]
        self.naive.rates = rates

    @invariant()
    def the_engines_are_alike(self) -> None:
        if not hasattr(self, "subjects"):
            return
        first, *others = self.subjects
        for other in others:
            assert other.bucket._entries() == first.bucket._entries()
            assert other.bucket.count() == first.bucket.count()
            assert other.limiter.remaining() == first.limiter.remaining()
            assert other.limiter.counters == first.limiter.counters
            assert other.limiter.wait_time() == first.limiter.wait_time()

    @invariant()
    def the_room_that_is_left_is_that_of_the_list(self) -> None:
        if hasattr(self, "subjects"):
            now = self.clock.now_ns()
            expected = [max(limit - self.naive.used(interval, now), 0) for limit, interval in self.naive.rates]
            for subject in self.subjects:
                assert subject.limiter.remaining() == expected


def check(machine: type[RuleBasedStateMachine], **attributes: Any) -> None:
    with loop():
        run_state_machine_as_test(
            type(machine.__name__, (machine,), attributes), settings=settings(max_examples=60, stateful_step_count=40)
        )


def test_answers_waits_counts_and_items_are_those_of_pyrate_limiter(package: ModuleType) -> None:
    check(AgainstReference, packages=(package,), clock_type=Clock)


def test_so_they_are_where_the_engine_decides(package: ModuleType) -> None:
    check(AgainstReference, packages=(package,), clock_type=ExactClock)


def test_the_limiter_is_exact_to_the_nanosecond(package: ModuleType) -> None:
    check(ExactlyAgainstAList, packages=(package,))


def test_the_engines_are_alike_to_the_nanosecond(both_packages: tuple[ModuleType, ModuleType]) -> None:
    check(ExactlyAgainstAList, packages=both_packages)
