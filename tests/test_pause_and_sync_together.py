"""A pause or a statement, with several loops and threads, and with everything else that may happen to a limiter."""

from __future__ import annotations

import asyncio
import selectors
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from test_worst_window import excess

SECOND = 1_000_000_000


class TestLoopsAndThreads:
    def test_outside_a_loop_instants_are_monotonic(self, AsyncLimiter: Any, monkeypatch: Any) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.pause_until(time.monotonic() + 1000)
        assert not limiter.try_acquire()
        assert 999 < limiter.wait_time() <= 1000
        limiter.resume()
        assert limiter.try_acquire()

    def test_a_pause_is_taken_along_to_a_loop_of_another_clock(self, AsyncLimiter: Any, simulation: Any) -> None:
        limiter = AsyncLimiter(10, 1)
        limiter.pause_until(time.monotonic() + 1000)
        with closing(simulation(limiter)) as sim:
            sim.acquire(1)
            sim.run(998 * SECOND)
            assert sim.admitted == []
            sim.run(2 * SECOND)
            assert len(sim.admitted) == 1

    def test_two_loops_in_turn_obey_one_pause(self, AsyncLimiter: Any, simulation: Any) -> None:
        limiter = AsyncLimiter(1, 1)
        with closing(simulation(limiter)) as first:
            first.inside(lambda: limiter.pause_until(first.clock.time() + 10))
            first.acquire(1)
            with closing(simulation(limiter)) as other:
                other.clock.advance(5000)  # its clock is nobody else's
                other.acquire(1)
                other.run(9 * SECOND)
                assert other.admitted == []
                first.run(10 * SECOND)
                assert [instant for instant, _ in first.admitted] == [10 * SECOND]
                other.run(1 * SECOND)
                other.inside(lambda: limiter.pause_until(other.clock.time() + 20))  # by its own clock
                first.acquire(1)
                first.run(20 * SECOND - 1)
                other.settle()
                assert (len(first.admitted), len(other.admitted)) == (1, 0)
                first.run(1)
                other.settle()
                assert (len(first.admitted), len(other.admitted)) == (1, 1)
                first.run(SECOND)
                assert len(first.admitted) == 2

    def test_a_thread_pauses_a_loop_of_another_clock(self, AsyncLimiter: Any, simulation: Any) -> None:
        limiter = AsyncLimiter(1, 1)
        with closing(simulation(limiter)) as sim:
            sim.acquire(1)
            limiter.pause_until(time.monotonic() + 1000)
            sim.acquire(1)
            sim.run(998 * SECOND)
            assert len(sim.admitted) == 1
            sim.run(2 * SECOND)
            assert len(sim.admitted) == 2

    def test_a_pause_from_another_thread_reaches_a_sleeping_loop(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(1, 0.05)
        served: list[int] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            await limiter.acquire()
            tasks = [asyncio.create_task(work(number)) for number in range(3)]
            await asyncio.sleep(0)
            await loop.run_in_executor(None, pause)
            await asyncio.sleep(0.2)  # four would have gone
            assert served == []
            await loop.run_in_executor(None, limiter.resume)
            await asyncio.gather(*tasks)

        def pause() -> None:
            limiter.pause_until(time.monotonic() + 3600)

        async def work(number: int) -> None:
            await limiter.acquire()
            served.append(number)

        asyncio.run(asyncio.wait_for(main(), 30))
        assert served == [0, 1, 2]

    def test_waiters_of_two_loops_are_held_and_let_go_from_a_third(self, AsyncLimiter: Any) -> None:
        limiter = AsyncLimiter(1000, 1, burst=1)
        ready, paused = threading.Barrier(3), threading.Event()
        early: list[str] = []
        late: list[str] = []

        async def main(name: str) -> None:
            async def work() -> None:
                await limiter.acquire()
                (late if paused.is_set() else early).append(name)

            limiter.pause_until(asyncio.get_running_loop().time() + 3600)
            tasks = [asyncio.create_task(work()) for _ in range(50)]
            await asyncio.sleep(0)
            await asyncio.to_thread(ready.wait)
            await asyncio.gather(*tasks)

        threads = [threading.Thread(target=asyncio.run, args=(main(name),)) for name in "ab"]
        for thread in threads:
            thread.start()
        ready.wait(30)
        paused.set()
        limiter.resume()
        for thread in threads:
            thread.join(30)
        assert early == []
        assert sorted(late) == ["a"] * 50 + ["b"] * 50

    def test_a_paused_loop_sleeps(self, AsyncLimiter: Any) -> None:
        class Counting(selectors.DefaultSelector):
            rounds = 0

            def select(self, timeout: float | None = None) -> Any:
                Counting.rounds += 1
                return super().select(timeout)

        async def main() -> int:
            limiter = AsyncLimiter(1000, 1)
            tasks = []
            limiter.pause_until(asyncio.get_running_loop().time() + 3600)
            tasks = [asyncio.create_task(limiter.acquire()) for _ in range(1000)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            before = Counting.rounds
            await asyncio.sleep(0.1)
            rounds = Counting.rounds - before
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            return rounds

        with closing(asyncio.SelectorEventLoop(Counting())) as loop:
            assert loop.run_until_complete(main()) <= 4


def steps_with(*amounts: float) -> Any:
    return st.lists(
        st.one_of(
            st.tuples(st.just("acquire"), st.sampled_from([1, 1, 2, 3, *amounts])),
            st.tuples(st.just("try"), st.sampled_from([1, 1, 2, *amounts])),
            st.tuples(st.just("cancel"), st.integers(0, 20)),
            st.tuples(st.just("grant and cancel"), st.integers(1, 3)),
            st.tuples(st.just("run"), st.integers(0, 2500)),  # ms
            st.tuples(st.just("pause"), st.integers(-100, 3000)),
            st.tuples(st.just("sync"), st.tuples(st.integers(0, 8), st.integers(0, 5000))),
            st.tuples(st.just("room"), st.integers(0, 4)),
            st.tuples(st.just("limit"), st.sampled_from([3, 4, 8, 100])),
            st.tuples(st.just("drain"), st.just(0)),
            st.tuples(st.just("resume"), st.just(0)),
        ),
        max_size=40,
    )


class Model:
    """What must hold, whatever the bucket does: the sum of what is admitted under each statement."""

    def __init__(self) -> None:
        self.open: list[list[Any]] = []  # until, left
        self.admitted: list[tuple[int, Fraction]] = []

    def admit(self, instant: int, amount: float) -> None:
        self.admitted.append((instant, Fraction(amount)))
        for until, left in self.open:
            assert instant >= until or amount <= left, (instant, amount, self.open)
        self.open = [[until, left - Fraction(amount)] for until, left in self.open if instant < until]


def play(sim: Any, steps: list[Any]) -> tuple[list[Any], list[tuple[int, Fraction]]]:
    """Play the steps through; return all that could be seen, and what was admitted when."""
    model = Model()
    seen: list[Any] = []
    counted = 0
    limiter = sim.limiter
    with closing(sim):

        def account() -> None:
            nonlocal counted
            for instant, call in sim.admitted[counted:]:
                model.admit(instant, sim.amounts[call])
            counted = len(sim.admitted)

        def state(function: Callable[[], None], until: int, left: int) -> None:
            def call() -> None:
                function()
                model.open.append([until, Fraction(left)])

            account()
            sim.inside(call)

        value: Any
        for verb, value in steps:
            if verb == "acquire":
                sim.acquire(value)
            elif verb == "try":
                taken = sim.inside(partial(limiter.try_acquire, value))
                account()  # those whose time had come go first
                if taken:
                    model.admit(sim.now, value)
                seen.append(taken)
            elif verb == "cancel":
                for call in sim.waiting[value : value + 1]:
                    sim.cancel(call)
            elif verb == "grant and cancel":
                sim.clock.advance(0.4)
                sim.turn()  # grants what is due, and resumes nobody
                for call in sim.waiting[:value]:
                    sim.cancel(call)
            elif verb == "run":
                sim.run(value * 1_000_000)
            elif verb == "pause":
                when = sim.clock.time() + value / 1000
                state(partial(limiter.pause_until, when), round(when * 1e9) - 1000 * SECOND, 0)
            elif verb == "sync":
                remaining, reset = value
                told = {"remaining": remaining, "reset": reset / 1000}
                state(partial(limiter.sync, **told), sim.now + reset * 1_000_000, remaining)
            elif verb == "room":
                sim.inside(partial(limiter.sync, remaining=value))
            elif verb == "limit":
                sim.inside(partial(limiter.sync, limit=value))
            elif verb == "drain":
                sim.inside(limiter.drain)
            else:
                account()
                model.open.clear()
                sim.inside(limiter.resume)
            account()
            seen.append((sim.now, len(sim.admitted), len(sim.waiting), sim.inside(lambda: limiter.wait_time(1))))
        sim.run(60 * SECOND)
        account()
        assert sim.waiting == []
        seen += sim.admitted
    return seen, model.admitted


STEPS = steps_with(0.5, 0.25)


@settings(max_examples=150 if sys.implementation.name == "cpython" else 40)
@given(steps=STEPS, fair=st.booleans())
def test_no_window_holds_more_than_was_stated(AsyncLimiter: Any, simulation: Any, steps: list[Any], fair: bool) -> None:
    _, admitted = play(simulation(AsyncLimiter(4, 1, burst=6, fair=fair)), steps)
    assert excess(admitted, Fraction(4), Fraction(6)) <= 0


@settings(max_examples=100)
@given(steps=STEPS, fair=st.booleans())
def test_both_engines_do_the_same(both_engines: Any, simulation: Any, steps: list[Any], fair: bool) -> None:
    one, other = (play(simulation(each.AsyncLimiter(4, 1, burst=6, fair=fair)), steps) for each in both_engines)
    assert one == other
