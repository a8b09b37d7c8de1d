"""asynciolimiter's limiters on the engine, by a manual clock that is the loop's own, and in threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import gc
import pickle
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import pairwise
from math import inf
from types import ModuleType
from typing import Any
from weakref import ref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from late_loops import demand

from aiolimiter_fast import AcquireTimeout, LimiterError
from aiolimiter_fast.testing import ManualClock

KINDS = ("Limiter", "StrictLimiter", "LeakyBucketLimiter")
HOUR = 3600.0


async def until_granted(task: Any) -> None:
    """Let the loop run until what `task` waits for has come; it has not run on yet."""
    for _ in range(100):
        if task._fut_waiter.done():
            return
        await asyncio.sleep(0)
    raise AssertionError(f"{task} waits on")


def make(module: Any, kind: str, rate: float = 1) -> Any:
    """One call at once, and then `rate` a second."""
    return module.LeakyBucketLimiter(rate, capacity=1) if kind.startswith("Leaky") else getattr(module, kind)(rate)


class Callers:
    """Tasks that wait, and when they were served."""

    def __init__(self, limiter: Any, clock: ManualClock) -> None:
        self.limiter = limiter
        self.clock = clock
        self.start = clock.time()
        self.served: list[tuple[str, float]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def add(self, name: str = "") -> asyncio.Task[None]:
        self.tasks.append(asyncio.create_task(self._run(name)))
        return self.tasks[-1]

    async def _run(self, name: str) -> None:
        await self.limiter.wait()
        self.served.append((name, self.clock.time() - self.start))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.served]

    @property
    def times(self) -> list[float]:
        return [time for _, time in self.served]

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def callers(limiter: Any, clock: ManualClock, *names: str) -> Callers:
    them = Callers(limiter, clock)
    for name in names:
        them.add(name)
    await clock.settle()
    return them


class TestTheirTurns:
    async def test_limiter_passes_one_at_once_and_then_one_each_interval(
        self, pacing: ModuleType, clock: ManualClock
    ) -> None:
        them = await callers(pacing.Limiter(4), clock, *"abcd")
        await clock.run(1)
        assert them.served == [("a", 0.0), ("b", 0.25), ("c", 0.5), ("d", 0.75)]

    async def test_fractions_of_a_nanosecond_add_up(self, pacing: ModuleType, clock: ManualClock) -> None:
        them = await callers(pacing.Limiter(3e6), clock, *["x"] * 301)
        await clock.run(1e-4, step=1e-7)
        assert len(them.served) == 301

    async def test_a_late_loop_makes_up_for_a_burst_and_keeps_the_grid(
        self, pacing: ModuleType, clock: ManualClock
    ) -> None:
        them = await callers(pacing.Limiter(1, max_burst=3), clock, *["x"] * 10)
        clock.advance(7.5)
        await clock.settle()
        await clock.run(1)
        assert them.times == [0.0, 7.5, 7.5, 7.5, 8.0]
        await them.close()

    async def test_turns_that_nobody_waits_for_are_not_saved_up(self, pacing: ModuleType, clock: ManualClock) -> None:
        limiter = pacing.Limiter(1)
        await callers(limiter, clock, "first")
        await clock.run(10.25)
        them = await callers(limiter, clock, *"abc")
        await clock.run(2)
        assert them.times == [0.0, 1.0, 2.0]

    async def test_strict_limiter_counts_from_when_the_last_call_ran_on(
        self, pacing: ModuleType, clock: ManualClock
    ) -> None:
        them = await callers(pacing.StrictLimiter(1), clock, *"abcd")
        clock.advance(1.5)
        loop: Any = asyncio.get_running_loop()
        while "b" not in them.names:  # granted in one turn of the loop, and resumed a quarter of a second later
            if any(not handle._cancelled for handle in loop._ready):
                clock.advance(0.25)
            await asyncio.sleep(0)
        second = them.times[1]
        assert second > 1.5
        await clock.run(5)
        assert them.times[2:] == [second + 1, second + 2]

    async def test_strict_limiter_never_bursts_after_a_stall(self, pacing: ModuleType, clock: ManualClock) -> None:
        them = await callers(pacing.StrictLimiter(1), clock, *"abcd")
        clock.advance(50.5)
        await clock.settle()
        await clock.run(2)
        assert them.times == [0.0, 50.5, 51.5, 52.5]

    async def test_a_bucket_passes_its_capacity_and_then_one_each_interval(
        self, pacing: ModuleType, clock: ManualClock
    ) -> None:
        them = await callers(pacing.LeakyBucketLimiter(2, capacity=3), clock, *"abcde")
        await clock.run(1)
        assert them.times == [0.0, 0.0, 0.0, 0.5, 1.0]

    async def test_a_bucket_that_stood_full_for_long_admits_a_full_one(
        self, pacing: ModuleType, clock: ManualClock
    ) -> None:
        them = await callers(pacing.LeakyBucketLimiter(1, capacity=3), clock, *["x"] * 12)
        clock.advance(100.5)
        await clock.settle()
        await clock.run(1)
        assert them.times == [0.0] * 3 + [100.5] * 3 + [101.0]
        await them.close()


@pytest.mark.parametrize("kind", KINDS)
class TestAll:
    async def test_ten_thousand_are_served_in_order(self, pacing: ModuleType, kind: str, clock: ManualClock) -> None:
        limiter = make(pacing, kind, 10_000)
        them = await callers(limiter, clock, *map(str, range(10_000)))
        await clock.run(2)
        assert them.names == [str(number) for number in range(10_000)]
        assert [round(time * 10_000, 3) for time in them.times] == list(range(10_000))

    async def test_they_pass_without_a_turn_of_the_loop_where_there_is_room(
        self, pacing: ModuleType, kind: str
    ) -> None:
        wait = make(pacing, kind).wait()
        with pytest.raises(StopIteration) as stop:
            wait.send(None)
        assert stop.value.value is None
        with pytest.raises(RuntimeError, match="cannot reuse"):
            wait.send(None)

    async def test_nothing_is_taken_before_it_is_awaited(self, pacing: ModuleType, kind: str) -> None:
        limiter = make(pacing, kind, 1 / HOUR)
        for _ in range(3):
            limiter.wait().close()
        await limiter.wait()

    async def test_one_that_is_never_awaited_warns(self, pacing: ModuleType, kind: str) -> None:
        with pytest.warns(RuntimeWarning, match="wait.* was never awaited"):
            make(pacing, kind).wait()

    async def test_asyncio_takes_it_as_a_coroutine(self, pacing: ModuleType, kind: str) -> None:
        limiter = make(pacing, kind, 10_000)
        wait = limiter.wait()
        assert asyncio.iscoroutine(wait)
        await asyncio.create_task(wait)
        await asyncio.wait_for(limiter.wait(), 60)
        await asyncio.gather(limiter.wait(), limiter.wait())

    async def test_a_wait_that_times_out_takes_no_turn(self, pacing: ModuleType, kind: str, clock: ManualClock) -> None:
        limiter = make(pacing, kind)
        await limiter.wait()
        impatient = asyncio.ensure_future(asyncio.wait_for(limiter.wait(), 0.5))
        await clock.run(0.5)
        with pytest.raises(asyncio.TimeoutError):
            await impatient
        them = await callers(limiter, clock, "patient")
        await clock.run(0.5)
        assert them.times == [0.5]

    async def test_a_turn_of_a_task_cancelled_before_it_ran_on_goes_to_the_next(
        self, pacing: ModuleType, kind: str, clock: ManualClock
    ) -> None:
        limiter = make(pacing, kind)
        them = await callers(limiter, clock, "now", "cancelled", "next", "last")
        clock.advance(1)
        await until_granted(them.tasks[1])
        them.tasks[1].cancel()
        await clock.settle()
        assert them.served == [("now", 0.0), ("next", 1.0)]
        await clock.run(1)
        assert them.served[2:] == [("last", 2.0)]

    async def test_a_turn_that_was_given_back_with_nobody_waiting_is_there_for_who_comes(
        self, pacing: ModuleType, kind: str, clock: ManualClock
    ) -> None:
        limiter = make(pacing, kind)
        them = await callers(limiter, clock, "now", "cancelled")
        clock.advance(1)
        await until_granted(them.tasks[1])
        them.tasks[1].cancel()
        await clock.settle()
        them.add("next")
        await clock.settle()
        assert them.served == [("now", 0.0), ("next", 1.0)]

    async def test_cancelled_ones_leave_the_line_at_once(
        self, pacing: ModuleType, kind: str, clock: ManualClock
    ) -> None:
        limiter = make(pacing, kind)
        them = await callers(limiter, clock, *["x"] * 1000)
        for task in them.tasks[1:]:
            task.cancel()
        await clock.settle()
        last = await callers(limiter, clock, "last")
        await clock.run(1)
        assert last.times == [1.0]

    async def test_a_new_rate_plans_those_who_wait_anew(
        self, pacing: ModuleType, kind: str, clock: ManualClock
    ) -> None:
        limiter = make(pacing, kind, 1 / HOUR)
        them = await callers(limiter, clock, *"abc")
        await clock.run(1)
        limiter.rate = 0.5
        assert limiter.rate == 0.5
        await clock.run(3)
        assert them.times == [0.0, 2.0, 4.0]
        limiter.rate = 1 / HOUR
        late = await callers(limiter, clock, "late")
        await clock.run(HOUR - 1)
        assert late.times == []
        await clock.run(1)
        assert late.times == [HOUR]

    async def test_async_with_waits_and_gives_none(self, pacing: ModuleType, kind: str, clock: ManualClock) -> None:
        limiter = make(pacing, kind)
        entered: list[float] = []

        async def enter() -> None:
            async with limiter as nothing:
                assert nothing is None
                entered.append(clock.time())

        tasks = [asyncio.create_task(enter()) for _ in range(2)]
        await clock.run(1)
        assert entered == [1000.0, 1001.0]
        await asyncio.gather(*tasks)
        limiter.reset()
        with pytest.raises(KeyError):
            async with limiter:
                raise KeyError

    async def test_async_for_is_a_metronome_that_does_not_drift(
        self, pacing: ModuleType, kind: str, clock: ManualClock
    ) -> None:
        beats: list[float] = []

        async def beat() -> None:
            async for nothing in make(pacing, kind):
                assert nothing is None
                beats.append(clock.time() - 1000)
                if len(beats) == 5:
                    break
                await asyncio.sleep(0.75)

        task = asyncio.create_task(beat())
        await clock.run(4)
        await task
        assert beats == [0.0, 1.0, 2.0, 3.0, 4.0]

    async def test_cancel_leaves_the_turn_when_it_was(self, pacing: ModuleType, kind: str, clock: ManualClock) -> None:
        limiter = make(pacing, kind)
        them = await callers(limiter, clock, *"abc")
        await clock.run(0.5)
        limiter.cancel()
        await clock.settle()
        assert [task.cancelled() for task in them.tasks] == [False, True, True]
        again = await callers(limiter, clock, "again")
        await clock.run(0.5)
        assert again.times == [0.5]

    async def test_breach_lets_all_pass_until_reset(self, pacing: ModuleType, kind: str, clock: ManualClock) -> None:
        limiter = make(pacing, kind)
        them = await callers(limiter, clock, *["x"] * 1000)
        limiter.breach()
        await clock.settle()
        assert them.times == [0.0] * 1000
        for _ in range(10):
            await limiter.wait()
        limiter.reset()
        after = await callers(limiter, clock, *"ab")
        await clock.run(1)
        assert after.times == [0.0, 1.0]

    async def test_close_cancels_and_fails_from_then_on(
        self, pacing: ModuleType, kind: str, clock: ManualClock
    ) -> None:
        limiter = make(pacing, kind)
        them = await callers(limiter, clock, *"ab")
        limiter.close()
        await clock.settle()
        assert them.tasks[1].cancelled()
        with pytest.raises(RuntimeError, match=r"is closed; reset\(\)"):
            await limiter.wait()
        with pytest.raises(RuntimeError, match=r"is closed; reset\(\)"):
            limiter.wait_sync()
        limiter.reset()
        await limiter.wait()

    async def test_wrap_gives_what_its_argument_gives(self, pacing: ModuleType, kind: str, clock: ManualClock) -> None:
        limiter = make(pacing, kind)

        async def work(value: int) -> int:
            return value

        tasks = [asyncio.create_task(limiter.wrap(work(value))) for value in range(3)]
        await clock.run(2)
        assert await asyncio.gather(*tasks) == [0, 1, 2]

    async def test_wrap_closes_the_coroutine_where_the_wait_is_cancelled(
        self, pacing: ModuleType, kind: str, clock: ManualClock
    ) -> None:
        limiter = make(pacing, kind)
        await limiter.wait()

        async def work() -> None:
            raise AssertionError("it must not run")

        inner: Any = work()
        task = asyncio.create_task(limiter.wrap(inner))
        await clock.settle()
        task.cancel()
        await clock.settle()
        assert inner.cr_frame is None  # closed: nothing warns

    async def test_bad_rates_are_refused_and_change_nothing(self, pacing: ModuleType, kind: str) -> None:
        limiter = make(pacing, kind, 2)
        for rate in (0, -1, float("nan"), float("inf"), 1e13, 1e-10):
            with pytest.raises(ValueError, match="rate must be"):
                make(pacing, kind, rate)
            with pytest.raises(ValueError, match="rate must be"):
                limiter.rate = rate
        for wrong in ("1", None, True, b"1", [1]):
            with pytest.raises(TypeError, match="rate must be a number"):
                limiter.rate = wrong
        assert limiter.rate == 2

    def test_it_can_be_copied_and_pickled(self, pacing: ModuleType, kind: str) -> None:
        limiter = make(pacing, kind, 2.5)
        for again in (copy.copy(limiter), copy.deepcopy(limiter), pickle.loads(pickle.dumps(limiter))):
            assert again is not limiter
            assert repr(again) == repr(limiter)
            assert vars(again) == vars(limiter)

    def test_one_that_is_dropped_goes_at_once(self, pacing: ModuleType, kind: str) -> None:
        limiter = make(pacing, kind, 10_000)
        asyncio.run(self._pass(limiter))
        gone = ref(limiter)
        gc.disable()
        try:
            del limiter
            assert gone() is None
        finally:
            gc.enable()

    @staticmethod
    async def _pass(limiter: Any) -> None:
        await limiter.wait()
        await limiter.wait()

    def test_it_serves_several_loops_one_after_the_other(self, pacing: ModuleType, kind: str) -> None:
        limiter = make(pacing, kind, 1000)
        for _ in range(3):
            asyncio.run(self._pass(limiter))

    def test_waiters_of_a_closed_loop_do_not_hold_up_the_others(self, pacing: ModuleType, kind: str) -> None:
        limiter = make(pacing, kind, 10)
        with closing(asyncio.new_event_loop()) as loop:
            tasks: list[Any] = [loop.create_task(limiter.wait()) for _ in range(5)]
            loop.call_soon(loop.stop)
            loop.run_forever()
            for task in tasks:
                task._log_destroy_pending = False
        asyncio.run(self._pass(limiter))
        del tasks, task

    def test_a_subclass_without_init_says_so(self, pacing: ModuleType, kind: str) -> None:
        class Forgetful(getattr(pacing, kind)):  # type: ignore[misc]
            def __init__(self) -> None:
                pass

        with pytest.raises(AttributeError):
            Forgetful().wait()
        with pytest.raises(AttributeError):
            Forgetful().wait_sync()

    def test_a_subclass_names_itself(self, pacing: ModuleType, kind: str) -> None:
        class Mine(getattr(pacing, kind)):  # type: ignore[misc]
            pass

        assert repr(Mine(2)).startswith(f"{__name__}.TestAll.test_a_subclass_names_itself.<locals>.Mine(rate=2")


@pytest.mark.parametrize("kind", KINDS)
class TestThreads:
    def test_a_thread_waits_for_its_turn(self, pacing: ModuleType, kind: str) -> None:
        limiter = make(pacing, kind, 200)
        instants = []
        for _ in range(3):
            limiter.wait_sync()
            instants.append(limiter._now_ns())
        assert instants[2] - instants[1] > 0
        assert instants[2] - instants[0] >= 9_000_000
        with limiter as nothing:
            assert nothing is None

    def test_threads_and_loops_wait_in_one_line(self, pacing: ModuleType, kind: str) -> None:
        limiter = make(pacing, kind, 400)
        served: list[str] = []
        limiter.wait_sync()

        def in_thread() -> None:
            limiter.wait_sync()
            served.append("thread")

        async def in_loop() -> None:
            for _ in range(5):
                await limiter.wait()
                served.append("task")

        threads = [threading.Thread(target=in_thread) for _ in range(5)]
        threads.append(threading.Thread(target=asyncio.run, args=(in_loop(),)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(served) == ["task"] * 5 + ["thread"] * 5

    def test_it_gives_up_after_its_timeout(self, pacing: ModuleType, kind: str) -> None:
        limiter = make(pacing, kind, 1 / HOUR)
        limiter.wait_sync(timeout=0)
        for timeout in (0, 0.01):
            with pytest.raises(AcquireTimeout, match="would wait longer") as caught:
                limiter.wait_sync(timeout=timeout)
            assert isinstance(caught.value, TimeoutError)
            assert isinstance(caught.value, LimiterError)
            assert HOUR - 60 < caught.value.retry_after <= HOUR
        for wrong in (-1, float("nan")):
            with pytest.raises(ValueError, match="timeout must be"):
                limiter.wait_sync(timeout=wrong)

    @pytest.mark.parametrize("method", ["cancel", "reset", "close"])
    def test_a_sleeping_thread_can_be_cancelled(self, pacing: ModuleType, kind: str, method: str) -> None:
        limiter = make(pacing, kind, 1 / HOUR)
        limiter.wait_sync()
        assert self._meanwhile(limiter, getattr(limiter, method)) == ["CancelledError"]

    def test_breach_wakes_a_sleeping_thread(self, pacing: ModuleType, kind: str) -> None:
        limiter = make(pacing, kind, 1 / HOUR)
        limiter.wait_sync()
        assert self._meanwhile(limiter, limiter.breach) == ["passed"]

    def test_a_new_rate_wakes_a_sleeping_thread(self, pacing: ModuleType, kind: str) -> None:
        limiter = make(pacing, kind, 1 / HOUR)
        limiter.wait_sync()
        assert self._meanwhile(limiter, lambda: setattr(limiter, "rate", 1e6)) == ["passed"]

    @staticmethod
    def _meanwhile(limiter: Any, act: Callable[[], None]) -> list[str]:
        """What becomes of a thread that sleeps as `act` is called."""
        outcome: list[str] = []

        def wait() -> None:
            try:
                limiter.wait_sync()
            except concurrent.futures.CancelledError:
                outcome.append("CancelledError")
            else:
                outcome.append("passed")

        thread = threading.Thread(target=wait)
        thread.start()
        while limiter._wait_time() < 1.5 * HOUR and thread.is_alive():  # nobody is in the line yet
            pass
        act()
        thread.join(60)
        return outcome

    def test_tasks_of_another_loop_are_cancelled_there(self, pacing: ModuleType, kind: str) -> None:
        limiter = make(pacing, kind, 1 / HOUR)
        limiter.wait_sync()
        outcome: list[str] = []

        async def wait() -> None:
            with suppress(asyncio.CancelledError):
                await limiter.wait()
                outcome.append("passed")

        thread = threading.Thread(target=asyncio.run, args=(wait(),))
        thread.start()
        while limiter._wait_time() < 1.5 * HOUR:
            pass
        limiter.cancel()
        thread.join(60)
        assert not thread.is_alive()
        assert outcome == []


class TestBounds:
    @pytest.mark.parametrize(("kind", "option"), [("Limiter", "max_burst"), ("LeakyBucketLimiter", "capacity")])
    def test_bad_bounds_are_refused_and_change_nothing(self, pacing: ModuleType, kind: str, option: str) -> None:
        limiter = getattr(pacing, kind)(1, **{option: 3})
        for value in (0, -1, 2.5, float("nan"), float("inf"), 1e13):
            with pytest.raises(ValueError, match=f"{option} must be"):
                getattr(pacing, kind)(1, **{option: value})
            with pytest.raises(ValueError, match=f"{option} must be"):
                setattr(limiter, option, value)
        for wrong in ("1", None, True):
            with pytest.raises(TypeError, match=f"{option} must be a number"):
                setattr(limiter, option, wrong)
        assert getattr(limiter, option) == 3

    async def test_a_greater_capacity_lets_pass_those_who_fit(self, pacing: ModuleType, clock: ManualClock) -> None:
        limiter = pacing.LeakyBucketLimiter(1, capacity=2)
        them = await callers(limiter, clock, *"abcdef")
        limiter.capacity = 4
        await clock.settle()
        assert them.times == [0.0] * 4
        limiter.capacity = 2
        await clock.run(3)
        assert them.times == [0.0] * 4 + [3.0]
        await them.close()

    async def test_a_greater_burst_makes_up_for_more(self, pacing: ModuleType, clock: ManualClock) -> None:
        limiter = pacing.Limiter(1, max_burst=1)
        them = await callers(limiter, clock, *["x"] * 9)
        limiter.max_burst = 4
        clock.advance(10.5)
        await clock.settle()
        assert them.times == [0.0] + [10.5] * 4
        await them.close()


STEPS = st.one_of(
    st.tuples(st.just("wait"), st.integers(1, 6)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("run"), st.integers(0, 40)),
    st.tuples(st.just("stall"), st.integers(1, 90)),
    st.tuples(st.just("call"), st.sampled_from(("cancel", "breach", "reset", "reset"))),
)


async def play(module: Any, kind: str, most: int, schedule: list[tuple[str, Any]]) -> Any:
    """Play a schedule, in 64ths of a second, on a limiter of 4 a second; return who was served when, and cancelled."""
    options = {"Limiter": {"max_burst": most}, "LeakyBucketLimiter": {"capacity": most}}.get(kind, {})
    seen: list[Any] = []
    with ManualClock().installed() as clock:
        limiter = getattr(module, kind)(4, **options)
        them = Callers(limiter, clock)
        for operation, value in schedule:
            if operation == "wait":
                for _ in range(value):
                    them.add(str(len(them.tasks)))
            elif operation == "cancel" and value < len(them.tasks):
                them.tasks[value].cancel()
            elif operation == "run":
                await clock.run(value / 64)
            elif operation == "stall":
                clock.advance(value / 64)
            elif operation == "call":
                getattr(limiter, value)()
            await clock.settle()
            seen.append((operation, list(them.served), [task.cancelled() for task in them.tasks]))
        limiter.reset()
        await them.close()
    return seen


@given(kind=st.sampled_from(KINDS), most=st.integers(1, 6), schedule=st.lists(STEPS, max_size=30))
def test_any_schedule_goes_as_with_asynciolimiter(
    pacing: ModuleType, kind: str, most: int, schedule: list[tuple[str, Any]]
) -> None:
    import asynciolimiter

    assert asyncio.run(play(pacing, kind, most, schedule)) == asyncio.run(play(asynciolimiter, kind, most, schedule))


@pytest.mark.parametrize("workers", [1, 20])
@pytest.mark.parametrize("rate", [1000, 700])
def test_strict_limiter_keeps_its_distance_in_a_late_loop(pacing: ModuleType, rate: int, workers: int) -> None:
    instants = demand(pacing.StrictLimiter(rate), 5000, workers, seed=rate)
    assert min(later - earlier for earlier, later in pairwise(instants)) >= 1e9 / rate


@pytest.mark.parametrize("workers", [1, 20])
def test_limiter_never_exceeds_a_burst_over_its_rate_in_a_late_loop(pacing: ModuleType, workers: int) -> None:
    instants = demand(pacing.Limiter(1000, max_burst=5), 5000, workers, seed=workers)
    lowest = inf
    for number, instant in enumerate(instants):
        lowest = min(lowest, number - instant / 1e6)
        # Those of a late tick, the one that the grid brings right after it, and one that ran on late before.
        assert number + 1 - instant / 1e6 - lowest <= 5 + 2


@pytest.mark.parametrize("kind", KINDS)
@given(rate=st.floats(0.01, 1e5), workers=st.integers(1, 8), seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_both_engines_decide_alike_to_the_nanosecond(
    both_pacings: tuple[ModuleType, ModuleType], kind: str, rate: float, workers: int, seed: int
) -> None:
    first, second = (demand(getattr(module, kind)(rate), 200, workers, seed) for module in both_pacings)
    assert first == second
