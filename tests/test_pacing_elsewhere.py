"""pacing on a loop that has only `time`, `call_at` and `create_future` does what asynciolimiter 1.2 does.

Each test runs on asynciolimiter as well, as the witness, unless it takes `pacing` alone.
"""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any
from weakref import ref

import pytest
from fake_loops import FakeAsyncio
from hypothesis import given
from hypothesis import strategies as st

KINDS = ("Limiter", "StrictLimiter", "LeakyBucketLimiter")


@pytest.fixture
async def fake(pacing_or_asynciolimiter: ModuleType, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeAsyncio]:
    fake = FakeAsyncio()
    monkeypatch.setattr(pacing_or_asynciolimiter, "_asyncio", fake)
    yield fake
    await fake.close()


@pytest.fixture
def module(pacing_or_asynciolimiter: ModuleType) -> Any:
    return pacing_or_asynciolimiter


async def filled(fake: FakeAsyncio, limiter: Any, waiters: int) -> None:
    """Start so many tasks at once."""
    for number in range(waiters):
        fake.add(limiter, str(number))
    await fake.settle()


class TestLimiter:
    async def test_the_first_call_passes_and_the_next_waits_for_a_tick(self, module: Any, fake: FakeAsyncio) -> None:
        limiter = module.Limiter(3)
        await filled(fake, limiter, 2)
        assert fake.served == [("0", 0.0)]
        assert fake.timers == [1 / 3]
        await fake.to(1 / 3)
        assert fake.served == [("0", 0.0), ("1", 1 / 3)]

    async def test_one_passes_each_tick_in_order_of_arrival(self, module: Any, fake: FakeAsyncio) -> None:
        limiter = module.Limiter(4)
        await filled(fake, limiter, 4)
        for tick in (0.25, 0.5, 0.75):
            await fake.to(tick)
        assert fake.served == [("0", 0.0), ("1", 0.25), ("2", 0.5), ("3", 0.75)]

    @pytest.mark.parametrize(
        ("now", "passed", "next_tick"), [(1.0, 1, 2.0), (1.5, 1, 2.0), (2.0, 2, 3.0), (3.75, 3, 4.0), (99.5, 4, 100.0)]
    )
    async def test_a_late_tick_makes_up_for_those_that_were_missed_and_keeps_the_grid(
        self, module: Any, fake: FakeAsyncio, now: float, passed: int, next_tick: float
    ) -> None:
        limiter = module.Limiter(1, max_burst=4)
        await filled(fake, limiter, 10)
        await fake.to(now)
        assert fake.times[1:] == [now] * passed
        assert fake.timers == [next_tick]

    async def test_a_tick_without_waiters_unlocks_and_sets_no_timer(self, module: Any, fake: FakeAsyncio) -> None:
        limiter = module.Limiter(1)
        await filled(fake, limiter, 1)
        await fake.to(1.0)
        assert fake.timers == []
        await fake.to(1.25)
        fake.add(limiter)
        await fake.settle()
        assert fake.times == [0.0, 1.25]
        assert fake.timers == [2.25]

    async def test_a_late_tick_with_too_few_waiters_unlocks_at_once(self, module: Any, fake: FakeAsyncio) -> None:
        limiter = module.Limiter(1)
        await filled(fake, limiter, 2)
        await fake.to(2.5)
        assert fake.timers == []
        await filled(fake, limiter, 2)
        assert fake.times == [0.0, 2.5, 2.5]
        assert fake.timers == [3.5]

    async def test_one_that_is_just_used_up_stays_locked_for_another_tick(self, module: Any, fake: FakeAsyncio) -> None:
        limiter = module.Limiter(1)
        await filled(fake, limiter, 3)
        await fake.to(2.5)
        fake.add(limiter)
        await fake.settle()
        assert fake.times == [0.0, 2.5, 2.5]
        assert fake.timers == [3.0]

    async def test_an_early_tick_passes_one_and_delays_the_next(self, module: Any, fake: FakeAsyncio) -> None:
        limiter = module.Limiter(1)
        await filled(fake, limiter, 3)
        await fake.fire(0.75)
        assert fake.times == [0.0, 0.75]
        assert fake.timers == [2.0]

    async def test_more_than_a_whole_tick_early_warns(self, module: Any, fake: FakeAsyncio) -> None:
        limiter = module.Limiter(1)
        await filled(fake, limiter, 3)
        with pytest.warns(ResourceWarning, match="Event loop is too fast"):
            await fake.fire(-0.5)
        assert fake.times == [0.0, -0.5]
        assert fake.timers == [2.0]

    async def test_a_new_rate_holds_from_the_next_tick(self, module: Any, fake: FakeAsyncio) -> None:
        limiter = module.Limiter(1)
        await filled(fake, limiter, 3)
        limiter.rate = 4
        assert limiter.rate == 4
        assert fake.timers == [1.0]
        await fake.to(1.0)
        assert fake.timers == [1.25]


class TestStrictLimiter:
    async def test_a_late_tick_passes_one_and_the_next_comes_an_interval_later(
        self, module: Any, fake: FakeAsyncio
    ) -> None:
        limiter = module.StrictLimiter(1)
        await filled(fake, limiter, 4)
        await fake.to(7.5)
        assert fake.times == [0.0, 7.5]
        assert fake.timers == [8.5]

    async def test_a_tick_without_waiters_unlocks(self, module: Any, fake: FakeAsyncio) -> None:
        limiter = module.StrictLimiter(1)
        await filled(fake, limiter, 1)
        await fake.to(1.0)
        assert fake.timers == []
        await filled(fake, limiter, 2)
        assert fake.times == [0.0, 1.0]

    async def test_a_new_rate_holds_from_the_next_tick(self, module: Any, fake: FakeAsyncio) -> None:
        limiter = module.StrictLimiter(1)
        await filled(fake, limiter, 3)
        limiter.rate = 4
        await fake.to(1.0)
        assert fake.timers == [1.25]


class TestLeakyBucketLimiter:
    async def test_capacity_passes_at_once_and_then_one_a_tick(self, module: Any, fake: FakeAsyncio) -> None:
        limiter = module.LeakyBucketLimiter(3, capacity=4)
        await filled(fake, limiter, 6)
        assert fake.times == [0.0] * 4
        assert fake.timers == [1 / 3]
        await fake.to(1 / 3)
        assert fake.times == [0.0] * 4 + [1 / 3]

    async def test_a_late_tick_drains_what_was_missed(self, module: Any, fake: FakeAsyncio) -> None:
        limiter = module.LeakyBucketLimiter(1, capacity=4)
        await filled(fake, limiter, 9)
        await fake.to(2.5)
        assert fake.times[4:] == [2.5, 2.5]
        assert fake.timers == [3.0]

    async def test_after_a_long_stall_a_full_bucket_passes_and_no_more(self, module: Any, fake: FakeAsyncio) -> None:
        limiter = module.LeakyBucketLimiter(1, capacity=4)
        await filled(fake, limiter, 12)
        await fake.to(100.25)
        assert fake.times[4:] == [100.25] * 4
        assert fake.timers == [101.0]

    async def test_an_empty_bucket_has_no_timer(self, module: Any, fake: FakeAsyncio) -> None:
        limiter = module.LeakyBucketLimiter(1, capacity=4)
        await filled(fake, limiter, 2)
        await fake.on_time(1.0)
        assert fake.timers == [2.0]
        await fake.on_time(2.0)
        assert fake.timers == []

    async def test_the_level_falls_while_nobody_waits(self, module: Any, fake: FakeAsyncio) -> None:
        limiter = module.LeakyBucketLimiter(1, capacity=2)
        await filled(fake, limiter, 2)
        await fake.on_time(1.5)
        await filled(fake, limiter, 2)
        assert fake.times == [0.0, 0.0, 1.5]
        await fake.to(2.0)
        assert fake.times == [0.0, 0.0, 1.5, 2.0]

    async def test_an_early_tick_drains_one_and_delays_the_next(self, module: Any, fake: FakeAsyncio) -> None:
        limiter = module.LeakyBucketLimiter(1, capacity=2)
        await filled(fake, limiter, 4)
        await fake.fire(0.5)
        assert fake.times == [0.0, 0.0, 0.5]
        assert fake.timers == [2.0]
        with pytest.warns(ResourceWarning, match="Event loop is too fast"):
            await fake.fire(0.5)

    async def test_reset_empties_it(self, module: Any, fake: FakeAsyncio) -> None:
        limiter = module.LeakyBucketLimiter(1, capacity=2)
        await filled(fake, limiter, 2)
        limiter.reset()
        assert fake.timers == []
        await filled(fake, limiter, 3)
        assert fake.times == [0.0] * 4

    def test_equal_ones_have_equal_dicts(self, module: Any) -> None:
        limiter = module.LeakyBucketLimiter(2, capacity=3)
        other = module.LeakyBucketLimiter(2, capacity=3)
        assert vars(limiter) == vars(other) != vars(module.LeakyBucketLimiter(2, capacity=4))


@pytest.mark.parametrize("kind", KINDS)
class TestAll:
    async def test_a_cancelled_task_takes_no_turn(self, module: Any, fake: FakeAsyncio, kind: str) -> None:
        limiter = self.make(module, kind)
        await filled(fake, limiter, 1)
        tasks = [fake.add(limiter, name) for name in "abc"]
        await fake.settle()
        tasks[0].cancel()
        tasks[1].cancel()
        await fake.to(1.0)
        assert fake.served[1:] == [("c", 1.0)]

    async def test_when_all_have_been_cancelled_the_tick_unlocks(
        self, module: Any, fake: FakeAsyncio, kind: str
    ) -> None:
        limiter = self.make(module, kind)
        await filled(fake, limiter, 1)
        task = fake.add(limiter)
        await fake.settle()
        task.cancel()
        await fake.to(1.0)
        assert fake.timers == []
        fake.add(limiter)
        await fake.settle()
        assert fake.times == [0.0, 1.0]

    async def test_cancel_cancels_the_waiters_and_leaves_the_turn_when_it_was(
        self, module: Any, fake: FakeAsyncio, kind: str
    ) -> None:
        limiter = self.make(module, kind)
        await filled(fake, limiter, 1)
        tasks = [fake.add(limiter) for _ in range(3)]
        await fake.settle()
        limiter.cancel()
        await fake.settle()
        assert all(task.cancelled() for task in tasks)
        fake.add(limiter)
        await fake.to(0.5)
        assert fake.times == [0.0]
        await fake.to(1.0)
        assert fake.times == [0.0, 1.0]

    async def test_breach_lets_all_pass_until_reset(self, module: Any, fake: FakeAsyncio, kind: str) -> None:
        limiter = self.make(module, kind)
        await filled(fake, limiter, 5)
        limiter.breach()
        await fake.settle()
        await filled(fake, limiter, 5)
        assert fake.times == [0.0] * 10
        assert fake.timers == []
        limiter.reset()
        await filled(fake, limiter, 2)
        assert len(fake.times) == 11
        assert fake.timers == [1.0]

    async def test_reset_cancels_and_starts_anew(self, module: Any, fake: FakeAsyncio, kind: str) -> None:
        limiter = self.make(module, kind)
        await filled(fake, limiter, 1)
        task = fake.add(limiter)
        await fake.to(0.5)
        limiter.reset()
        await fake.settle()
        assert task.cancelled()
        assert fake.timers == []
        fake.add(limiter)
        await fake.settle()
        assert fake.times == [0.0, 0.5]
        assert fake.timers == [1.5]

    async def test_close_cancels_and_stops_the_timer(self, module: Any, fake: FakeAsyncio, kind: str) -> None:
        limiter = self.make(module, kind)
        await filled(fake, limiter, 1)
        task = fake.add(limiter)
        await fake.settle()
        limiter.close()
        await fake.settle()
        assert task.cancelled()
        assert fake.timers == []

    async def test_wrap_waits_and_gives_what_its_argument_gives(
        self, module: Any, fake: FakeAsyncio, kind: str
    ) -> None:
        limiter = self.make(module, kind)
        ran: list[float] = []

        async def work() -> str:
            ran.append(fake.now)
            return "done"

        wrapped = [limiter.wrap(work()) for _ in range(2)]
        assert all(asyncio.iscoroutine(coroutine) for coroutine in wrapped)
        tasks = [asyncio.create_task(coroutine) for coroutine in wrapped]
        await fake.settle()
        assert ran == [0.0]
        await fake.to(1.0)
        assert ran == [0.0, 1.0]
        assert await asyncio.gather(*tasks) == ["done", "done"]

    def test_its_repr_evaluates_to_one_like_it(self, module: Any, kind: str) -> None:
        limiter = getattr(module, kind)(2)
        text = repr(limiter)
        assert text.startswith(f"{module.__name__}.{kind}(rate=2")
        import aiolimiter_fast.pacing

        names = {module.__name__.partition(".")[0]: module, "aiolimiter_fast": aiolimiter_fast}
        again = eval(text, names)
        assert (type(again), repr(again)) == (type(limiter), text)

    async def test_one_that_is_forgotten_still_serves_those_who_wait(
        self, module: Any, fake: FakeAsyncio, kind: str
    ) -> None:
        limiter = self.make(module, kind)
        await filled(fake, limiter, 2)
        forgotten = ref(limiter)
        del limiter
        await fake.to(1.0)
        await fake.on_time(9.0)
        assert fake.times == [0.0, 1.0]
        gc.collect()
        assert forgotten() is None

    @staticmethod
    def make(module: Any, kind: str) -> Any:
        """One call at once, one a second."""
        return module.LeakyBucketLimiter(1, capacity=1) if kind.startswith("Leaky") else getattr(module, kind)(1)


@pytest.mark.parametrize("kind", KINDS)
class TestOursAlone:
    @pytest.fixture
    def module(self, pacing: ModuleType) -> Any:
        return pacing

    @pytest.fixture
    async def fake(self, pacing: ModuleType, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeAsyncio]:
        fake = FakeAsyncio()
        monkeypatch.setattr(pacing, "_asyncio", fake)
        yield fake
        await fake.close()

    async def test_after_close_wait_fails_until_reset(self, module: Any, fake: FakeAsyncio, kind: str) -> None:
        limiter = TestAll.make(module, kind)
        limiter.close()
        with pytest.raises(RuntimeError, match=r"is closed; reset\(\)"):
            await limiter.wait()
        limiter.reset()
        await limiter.wait()

    async def test_a_turn_that_a_cancelled_task_did_not_use_goes_to_the_next(
        self, module: Any, fake: FakeAsyncio, kind: str
    ) -> None:
        limiter = TestAll.make(module, kind)
        await filled(fake, limiter, 1)
        first = fake.add(limiter, "first")
        fake.add(limiter, "second")
        await fake.settle()
        fake._loop._now = 1.0
        timer = fake._loop._timers.pop()
        timer.callback()
        first.cancel()
        await fake.settle()
        assert fake.served[1:] == [("second", 1.0)]

    async def test_the_loop_is_looked_up_at_each_call(
        self, module: Any, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limiter = TestAll.make(module, kind)
        await limiter.wait()  # on the test's own loop
        with monkeypatch.context() as patch:
            fake = FakeAsyncio()
            patch.setattr(module, "_asyncio", fake)
            await filled(fake, limiter, 1)
            assert fake.timers == [1.0]
        limiter.reset()
        await limiter.wait()


OPERATIONS = st.one_of(
    st.tuples(st.just("wait"), st.integers(1, 6)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("on_time"), st.integers(0, 30)),
    st.tuples(st.just("late"), st.integers(1, 90)),
    st.tuples(st.just("early"), st.integers(0, 40)),
    st.tuples(st.just("rate"), st.sampled_from((1, 2, 4, 16))),
    st.tuples(st.just("call"), st.sampled_from(("cancel", "breach", "reset", "reset"))),
)


def options_of(kind: str, most: int) -> dict[str, int]:
    return {"Limiter": {"max_burst": most}, "LeakyBucketLimiter": {"capacity": most}}.get(kind, {})


async def play(module: Any, kind: str, most: int, schedule: list[tuple[str, Any]]) -> Any:
    """Play a schedule in 64ths of a second, which floats hold exactly; return all that could be seen of it."""
    fake = FakeAsyncio()
    seen: list[Any] = []
    tasks: list[asyncio.Task[None]] = []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.setattr(module, "_asyncio", fake)
        limiter = getattr(module, kind)(4, **options_of(kind, most))
        for operation, value in schedule:
            if operation == "wait":
                tasks += [fake.add(limiter, str(len(tasks) + number)) for number in range(value)]
            elif operation == "cancel" and value < len(tasks):
                tasks[value].cancel()
            elif operation == "on_time":
                await fake.on_time(fake.now + value / 64)
            elif operation == "late":
                await fake.to(fake.now + value / 64)
            elif operation == "early" and fake.timers:
                await fake.fire(fake.timers[0] - value / 64)
            elif operation == "rate":
                limiter.rate = value
            elif operation == "call":
                getattr(limiter, value)()
            await fake.settle()
            seen.append((operation, list(fake.served), fake.timers, [task.cancelled() for task in tasks]))
        await fake.close()
    return seen, [warning.category for warning in caught]


@given(kind=st.sampled_from(KINDS), most=st.integers(1, 6), schedule=st.lists(OPERATIONS, max_size=30))
def test_any_schedule_goes_as_with_asynciolimiter(
    pacing: ModuleType, kind: str, most: int, schedule: list[tuple[str, Any]]
) -> None:
    import asynciolimiter

    assert asyncio.run(play(pacing, kind, most, schedule)) == asyncio.run(play(asynciolimiter, kind, most, schedule))
