"""A Limiter that is told what a server's headers say, over buckets of every kind."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
import re
import time
from fractions import Fraction
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from callers import Callers, Clock, limiter_on, worst
from hypothesis import given, settings
from test_pause_and_sync_together import play, steps_with

from aiolimiter_fast.testing import ManualClock

SECOND_MS = 1000
HOUR_MS = 3_600_000


def callers_at(package: ModuleType, clock: ManualClock, *rates: tuple[int, int]) -> Callers:
    return Callers(limiter_on(package, Clock(clock.time_ns), *rates), clock)


class TestPause:
    async def test_nobody_is_admitted_before_the_instant(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (10, SECOND_MS))
        limiter = callers.limiter
        limiter.pause_until(clock.time() + 5)
        assert not limiter.try_acquire("x", blocking=False)
        assert not await limiter.try_acquire_async("x", blocking=False)
        assert limiter.remaining() == [0]
        assert limiter.wait_time() == 5.0
        callers.add("a")
        await clock.run(5 - 1e-9)
        assert callers.served == []
        await clock.run(1e-9)
        assert callers.served == [("a", 5.0)]
        assert limiter.remaining() == [9]  # a window that is empty has all of its room

    async def test_those_who_wait_already_wait_on_in_order(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (2, SECOND_MS))
        for name in "abcde":
            callers.add(name)
        await clock.run(0.5)
        callers.limiter.pause_until(clock.time() + 10)
        await clock.run(20)
        assert callers.served == [("a", 0), ("b", 0), ("c", 10.5), ("d", 10.5), ("e", 11.5)]

    async def test_it_is_never_shortened_but_by_resume(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (2, SECOND_MS))
        limiter, start = callers.limiter, clock.time()
        limiter.pause_until(start + 10)
        limiter.pause_until(start + 5)
        limiter.pause_until(start - 5)
        assert limiter.wait_time() == 10.0
        limiter.pause_until(start + 20)
        assert limiter.wait_time() == 20.0
        for name in "abc":
            callers.add(name)
        await clock.run(1)
        limiter.resume()
        await clock.run(2)
        assert callers.served == [("a", 1.0), ("b", 1.0), ("c", 2.0)]
        limiter.resume()  # nothing to end

    async def test_a_timeout_ends_in_time(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (2, SECOND_MS))
        callers.limiter.pause_until(clock.time() + 10)
        callers.add("impatient", timeout=3)
        callers.add("patient", timeout=30)
        await clock.run(20)
        assert callers.refused == [("impatient", 3.0)]
        assert callers.served == [("patient", 10.0)]

    async def test_more_than_the_limit_is_refused_at_once(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (2, SECOND_MS))
        callers.limiter.pause_until(clock.time() + 10)
        callers.add("never", 3)
        await clock.settle()
        assert callers.refused == [("never", 0)]
        assert callers.limiter.wait_time(weight=3) == math.inf

    async def test_a_grant_cancelled_in_a_pause_wakes_nobody(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (1, SECOND_MS))
        callers.add("first")
        leaver = callers.add("leaver")
        callers.add("next")
        await clock.settle()

        def strike() -> None:  # right after the grant, before the task runs on
            callers.limiter.pause_until(clock.time() + 5)
            leaver.cancel()

        asyncio.get_running_loop().call_at(clock.time() + 1 + 1e-9, strike)
        await clock.run(6)
        assert callers.names == ["first"]
        await clock.run(1)
        assert callers.served[1:] == [("next", 6.0)]

    async def test_one_pauses_while_a_turn_is_being_served(self, package: ModuleType, clock: ManualClock) -> None:
        limiter = limiter_on(package, Clock(clock.time_ns), (2, SECOND_MS))
        served = []

        async def work(name: str) -> None:
            await limiter.try_acquire_async(name)
            served.append((name, clock.time() - 1000))
            if name == "c":
                limiter.pause_until(clock.time() + 10)

        tasks = [asyncio.create_task(work(name)) for name in "abcdef"]
        await clock.settle()
        clock.advance(2)
        await clock.run(30)
        assert served == [("a", 0), ("b", 0), ("c", 2), ("d", 2), ("e", 12), ("f", 12)]
        await asyncio.gather(*tasks)

    async def test_ten_thousand_wait_on_one_timer_and_go_in_order(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        callers = callers_at(package, clock, (10_000, SECOND_MS))
        callers.limiter.pause_until(clock.time() + 100)
        for number in range(10_000):
            callers.add(str(number))
        await clock.settle()
        loop: Any = asyncio.get_running_loop()
        timers = [handle for handle in loop._scheduled if not handle.cancelled()]
        assert [handle.when() for handle in timers] == [clock.time() + 100]
        await clock.run(50)
        callers.limiter.resume()
        await clock.settle()
        assert callers.served == [(str(number), 50.0) for number in range(10_000)]

    async def test_a_copy_is_not_paused(self, package: ModuleType, clock: ManualClock, imported: None) -> None:
        limiter = package.Limiter(package.Rate(2, SECOND_MS))
        limiter.pause_until(clock.time() + 5)
        for other in (copy.deepcopy(limiter), pickle.loads(pickle.dumps(limiter))):
            assert other.try_acquire("x", blocking=False)
        assert not limiter.try_acquire("x", blocking=False)

    async def test_rates_that_are_set_meanwhile_leave_it(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (2, SECOND_MS))
        limiter = callers.limiter
        limiter.sync(remaining=2, reset=10)
        limiter.rates = [package.Rate(5, SECOND_MS), package.Rate(50, HOUR_MS)]
        assert [limiter.try_acquire("x", blocking=False) for _ in range(3)] == [True, True, False]
        assert limiter.wait_time() == 10.0

    async def test_the_bucket_itself_obeys(self, package: ModuleType, clock: ManualClock) -> None:
        limiter = limiter_on(package, Clock(clock.time_ns), (2, SECOND_MS))
        limiter.pause_until(clock.time() + 5)
        bucket = limiter.bucket_factory.bucket
        item = package.RateItem("x", bucket.now())
        assert not bucket.put(item)
        assert bucket.failing_rate is bucket.rates[0]
        assert bucket.waiting(item) == 5000
        await clock.run(5)
        assert bucket.put(package.RateItem("x", bucket.now()))

    def test_names_have_buckets_of_their_own(self, package: ModuleType) -> None:
        class PerName(package.BucketFactory):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                self.buckets = {name: package.InMemoryBucket([package.Rate(2, HOUR_MS)]) for name in "ab"}

            def wrap_item(self, name: str, weight: int = 1) -> Any:
                return package.RateItem(name, time.monotonic_ns() // 10**6, weight)

            def get(self, item: Any) -> Any:
                return self.buckets[item.name]

        limiter = package.Limiter(PerName())
        limiter.pause_until(time.monotonic() + 3600, name="a")
        limiter.sync(name="b", remaining=1)
        assert not limiter.try_acquire("a", blocking=False)
        assert limiter.remaining("a") == [0]
        assert [limiter.try_acquire("b", blocking=False) for _ in range(2)] == [True, False]
        limiter.resume("a")
        assert limiter.try_acquire("a", blocking=False)


class TestDrainAndSync:
    async def test_what_is_drained_counts_as_used(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (4, SECOND_MS), (20, HOUR_MS))
        callers.add("a")
        await clock.settle()
        callers.limiter.drain()
        assert callers.limiter.remaining() == [0, 16]
        callers.add("b")
        await clock.run(2)
        assert callers.served == [("a", 0), ("b", 1.0)]

    async def test_what_remains_lowers_the_room_and_never_raises_it(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        limiter = limiter_on(package, Clock(clock.time_ns), (4, SECOND_MS), (20, HOUR_MS))
        limiter.sync(remaining=3.9)
        assert limiter.remaining() == [3, 19]
        limiter.sync(remaining=8)
        limiter.sync(remaining=1e300)
        assert limiter.remaining() == [3, 19]

    async def test_no_more_than_remains_until_the_reset(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (2, SECOND_MS))
        callers.limiter.sync(remaining=5, reset=60)
        for number in range(8):
            callers.add(str(number))
        await clock.run(70)
        assert [instant for _, instant in callers.served] == [0, 0, 1.0, 1.0, 2.0, 60.0, 60.0, 61.0]

    async def test_a_late_response_raises_nothing(self, package: ModuleType, clock: ManualClock) -> None:
        limiter = limiter_on(package, Clock(clock.time_ns), (10, SECOND_MS))
        limiter.sync(remaining=2, reset=60)
        limiter.sync(remaining=9, reset=60)
        limiter.sync(remaining=9, reset=30)
        assert [limiter.try_acquire("x", blocking=False) for _ in range(3)] == [True, True, False]

    async def test_each_statement_holds_until_its_own_reset(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (10, SECOND_MS))
        callers.limiter.sync(remaining=1, reset=5)
        callers.limiter.sync(remaining=3, reset=60)
        callers.limiter.pause_until(clock.time() + 2)
        assert callers.limiter.wait_time() == 2.0
        for name in "abcd":
            callers.add(name)
        await clock.settle()
        assert callers.limiter.wait_time() == 60.0
        await clock.run(70)
        assert callers.served == [("a", 2.0), ("b", 5.0), ("c", 5.0), ("d", 60.0)]

    async def test_any_number_of_statements_is_kept_in_little_room(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        limiter = limiter_on(package, Clock(clock.time_ns), (1000, SECOND_MS))
        for number in range(1, 100):
            limiter.sync(remaining=number, reset=number)
        for number in range(99, 0, -1):
            limiter.sync(remaining=number, reset=number + 0.5)
        admitted = 0
        for number in range(1, 100):
            while limiter.try_acquire("x", blocking=False):
                admitted += 1
            assert admitted <= number
            await clock.run(1)
        await clock.run(100)
        assert limiter.remaining() == [1000]

    async def test_resume_forgets_what_was_stated(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (2, SECOND_MS))
        callers.limiter.sync(remaining=0, reset=3600)
        callers.add("a")
        await clock.run(1)
        callers.limiter.resume()
        await clock.settle()
        assert callers.served == [("a", 1.0)]

    async def test_a_grant_cancelled_at_the_worst_moment_is_given_back(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        callers = callers_at(package, clock, (1, SECOND_MS))
        callers.add("first")
        await clock.settle()
        callers.limiter.sync(remaining=1, reset=3600)
        leaver = callers.add("leaver")
        callers.add("next")
        await clock.settle()
        asyncio.get_running_loop().call_at(clock.time() + 1 + 1e-9, leaver.cancel)
        await clock.run(10)
        assert leaver.cancelled()
        assert callers.names == ["first", "next"]  # the last that remained

    async def test_a_grant_from_before_it_gives_nothing_back_to_it(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        callers = callers_at(package, clock, (3, SECOND_MS))
        callers.add("first", 3)
        leaver = callers.add("leaver")
        await clock.settle()

        def strike() -> None:
            callers.limiter.sync(remaining=1, reset=3600)
            leaver.cancel()

        asyncio.get_running_loop().call_at(clock.time() + 1 + 1e-9, strike)
        await clock.run(10)
        assert [callers.limiter.try_acquire("x", blocking=False) for _ in range(2)] == [True, False]

    async def test_entries_that_leave_the_windows_still_count(self, package: ModuleType, clock: ManualClock) -> None:
        limiter = limiter_on(package, Clock(clock.time_ns), (100, 10))
        limiter.sync(remaining=50, reset=3600)
        admitted = 0
        for _ in range(300):
            admitted += limiter.try_acquire("x", blocking=False)
            await clock.run(0.1)
        assert admitted == 50

    async def test_a_grant_is_given_back_however_many_have_left(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (1, 100))
        callers.limiter.sync(remaining=302, reset=3600)
        for _ in range(300):
            assert callers.limiter.try_acquire("x", blocking=False)
            await clock.run(0.1 + 1e-9)
        callers.add("first")
        await clock.settle()
        leaver = callers.add("leaver")
        callers.add("next")
        await clock.settle()
        asyncio.get_running_loop().call_at(clock.time() + 0.1 + 1e-9, leaver.cancel)
        for _ in range(10):
            await clock.run(1)
        assert callers.names == ["first", "next"]

    async def test_what_is_drained_was_not_admitted(self, package: ModuleType, clock: ManualClock) -> None:
        limiter = limiter_on(package, Clock(clock.time_ns), (10, SECOND_MS))
        limiter.sync(remaining=5, reset=60)
        limiter.drain()
        await clock.run(1.1)
        assert limiter.remaining() == [5]

    async def test_the_last_place_for_a_statement_keeps_the_stricter_one(
        self, package: ModuleType, clock: ManualClock
    ) -> None:
        limiter = limiter_on(package, Clock(clock.time_ns), (1000, SECOND_MS))
        for number in (10, 20, 30, 40, 50, 60, 70, 80, 75):
            limiter.sync(remaining=number, reset=number)
        await clock.run(71)
        assert limiter.remaining() == [75]
        await clock.run(4)
        assert limiter.remaining()[0] in (75, 80)

    async def test_a_limit_lowers_the_rate_and_gives_it_back(self, package: ModuleType, clock: ManualClock) -> None:
        callers = callers_at(package, clock, (10, SECOND_MS))
        limiter = callers.limiter
        callers.add("a", 8)
        callers.add("b", 8)
        await clock.settle()
        limiter.sync(limit=4)
        await clock.settle()
        assert callers.refused == [("b", 0)]
        assert str(limiter.rates) == "[limit=4/1000]"
        limiter.sync(limit=7.5)
        assert str(limiter.rates) == "[limit=7/1000]"
        limiter.sync(limit=1000)
        assert str(limiter.rates) == "[limit=10/1000]"

    async def test_rates_that_are_set_are_not_lowered_any_more(self, package: ModuleType, clock: ManualClock) -> None:
        limiter = limiter_on(package, Clock(clock.time_ns), (10, SECOND_MS))
        limiter.sync(limit=4)
        limiter.rates = package.Rate(8, SECOND_MS)
        limiter.sync(limit=1000)
        assert str(limiter.rates) == "[limit=8/1000]"

    async def test_a_limit_says_nothing_of_several_rates(self, package: ModuleType, clock: ManualClock) -> None:
        limiter = limiter_on(package, Clock(clock.time_ns), (10, SECOND_MS), (100, HOUR_MS))
        with pytest.raises(ValueError, match="limit=4 does not say which of"):
            limiter.sync(limit=4, remaining=0)
        assert limiter.remaining() == [10, 100]


NO_NUMBERS: list[Any] = [True, "1", b"1", [], 1j]
BAD = [
    *[(TypeError, name, value) for name in ("limit", "remaining", "reset", "when") for value in NO_NUMBERS],
    *[(ValueError, name, value) for name in ("limit", "remaining", "reset", "when") for value in (math.nan, math.inf)],
    *[(ValueError, name, -1) for name in ("limit", "remaining", "reset")],
    *[(ValueError, name, 1.1e9) for name in ("reset", "when")],
    (TypeError, "when", None), (ValueError, "limit", 0), (ValueError, "limit", 0.5),
]  # fmt: skip


@pytest.mark.parametrize(("error", "name", "value"), BAD)
async def test_what_makes_no_sense_is_refused_and_changes_nothing(
    package: ModuleType, clock: ManualClock, error: type[Exception], name: str, value: Any
) -> None:
    limiter = limiter_on(package, Clock(clock.time_ns), (10, SECOND_MS))
    call = partial(limiter.sync, **({"limit": 3, "remaining": 3, "reset": 3} | {name: value}))
    if name == "when":
        call = partial(limiter.pause_until, value)
    with pytest.raises(error, match=rf"{name}.*{re.escape(repr(value))}"):
        call()
    assert limiter.remaining() == [10]
    assert str(limiter.rates) == "[limit=10/1000]"


class AsBucket:
    """A Limiter in the words of an AsyncLimiter, so that the same play is played with it."""

    def __init__(self) -> None:
        self.limiter: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.limiter, name)

    async def acquire(self, amount: int) -> None:
        if not await self.limiter.try_acquire_async("x", amount):
            raise ValueError

    def try_acquire(self, amount: int) -> bool:
        admitted: bool = self.limiter.try_acquire("x", amount, blocking=False)
        return admitted

    def wait_time(self, amount: int) -> float:
        wait: float = self.limiter.wait_time("x", amount)
        return wait


def play_on(package: ModuleType, simulation: Any, steps: list[Any]) -> tuple[list[Any], list[tuple[int, Fraction]]]:
    sim = simulation(AsBucket())
    sim.limiter.limiter = limiter_on(package, Clock(sim.clock.time_ns), (4, SECOND_MS))
    return play(sim, steps)


STEPS = steps_with()


@settings(max_examples=120)
@given(steps=STEPS)
def test_no_window_holds_more_than_was_stated(package: ModuleType, simulation: Any, steps: list[Any]) -> None:
    _, admitted = play_on(package, simulation, steps)
    assert not admitted or worst([("", instant, int(weight)) for instant, weight in admitted], SECOND_MS) <= 4


@settings(max_examples=100)
@given(steps=STEPS)
def test_both_engines_do_the_same(both_packages: Any, simulation: Any, steps: list[Any]) -> None:
    one, other = (play_on(package, simulation, steps) for package in both_packages)
    assert one == other
