"""AdaptiveLimiter under Throttle: a limiter for each key, slots in common, permits dated when the request leaves."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from aiolimiter_fast import AdaptiveLimiter, Observation, Throttle
from aiolimiter_fast.testing import ManualClock


def quick(**options: Any) -> AdaptiveLimiter:
    """One that nothing holds up but what it is told."""
    defaults: dict[str, Any] = {"spend": "greedy", "start_rate": 1e12, "jitter": 0, "ramp": 0}
    return AdaptiveLimiter(**defaults | options)


def left(remaining: float, reset: float = 100.0) -> Observation:
    return Observation(limit=100.0, remaining=remaining, reset_after=reset)


class Limiters:
    """What Throttle asks for the limiter of a key, and remembers them."""

    def __init__(self) -> None:
        self.made: dict[Any, AdaptiveLimiter] = {}

    def __call__(self, key: Any) -> AdaptiveLimiter:
        assert key not in self.made
        self.made[key] = quick()
        return self.made[key]


async def test_each_key_learns_its_own_quota(clock: ManualClock) -> None:
    limiters = Limiters()
    throttle = Throttle(limiters, max_concurrent=10)
    done: list[str] = []

    async def client(key: str, remaining: float) -> None:
        async with throttle.at(key):
            limiter = limiters.made[key]
            sent_at = limiter.time()
            await asyncio.sleep(0.1)
            limiter.observe(left(remaining), 200, sent_at=sent_at)
            done.append(key)

    first = [asyncio.create_task(client("poor", 0)), asyncio.create_task(client("rich", 50))]
    await clock.run(1)
    assert sorted(done) == ["poor", "rich"]
    more = [asyncio.create_task(client(key, 50)) for key in ("poor", "rich", "rich")]
    await clock.run(50)
    assert sorted(done) == ["poor", "rich", "rich", "rich"]  # who waits for the poor one's quota holds no slot
    await clock.run(60)
    await asyncio.gather(*first, *more)
    assert all(limiter.in_flight == limiter.waiting == 0 for limiter in limiters.made.values())


async def test_a_permit_is_taken_when_the_slot_is_free(clock: ManualClock) -> None:
    limiter = quick()
    throttle = Throttle(limiter, max_concurrent=2)
    sent: list[float] = []

    async def client() -> None:
        async with throttle:
            sent.append(limiter.time())
            assert limiter.in_flight <= 2
            await asyncio.sleep(1)
            limiter.observe(left(100 - len(sent)), 200, sent_at=sent[-1])

    tasks = [asyncio.create_task(client()) for _ in range(6)]
    await clock.run(10)
    await asyncio.gather(*tasks)
    assert [round(at - 1000) for at in sent] == [0, 0, 1, 1, 2, 2]
    assert limiter.in_flight == 0


async def test_a_pause_of_one_key_holds_up_no_other(clock: ManualClock) -> None:
    limiters = Limiters()
    throttle = Throttle(limiters, max_concurrent=1)
    async with throttle.at("down"):
        limiters.made["down"].observe({"Retry-After": "30"}, 503)

    async def client(key: str) -> None:
        async with throttle.at(key):
            limiters.made[key].observe({}, 200)

    down = [asyncio.create_task(client("down")) for _ in range(5)]
    up = [asyncio.create_task(client("up")) for _ in range(5)]
    await clock.run(1)
    assert all(task.done() for task in up)
    assert not any(task.done() for task in down)
    await clock.run(40)
    await asyncio.gather(*down, *up)


async def test_cancelled_while_the_limiter_makes_it_wait_it_takes_nothing(clock: ManualClock) -> None:
    limiter = quick()
    throttle = Throttle(limiter, max_concurrent=1)
    limiter.pause_until(clock.time() + 10)

    async def client() -> None:
        async with throttle:
            limiter.forget()

    first, second = asyncio.create_task(client()), asyncio.create_task(client())
    await clock.run(5)
    first.cancel()
    await clock.run(6)
    assert first.cancelled()
    assert second.done()
    assert limiter.in_flight == limiter.waiting == 0


@pytest.mark.parametrize("turns", range(6))
async def test_cancelled_in_any_turn_of_being_let_in_it_leaves_its_slot(clock: ManualClock, turns: int) -> None:
    """A permit that was taken and not told of counts as in flight, until it is forgotten or its time is over."""
    limiter = quick(flight_timeout=5)
    throttle = Throttle(limiter, max_concurrent=1)
    limiter.sync(limit=100, remaining=2, reset=1000)

    async def client() -> None:
        async with throttle:
            sent_at = limiter.time()
            try:
                await asyncio.sleep(0.01)
                limiter.observe(left(1), 200, sent_at=sent_at)
            except asyncio.CancelledError:
                limiter.forget(sent_at)
                raise

    task = asyncio.create_task(client())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await clock.run(1)
    after = asyncio.create_task(client())
    await clock.run(10)
    assert after.done()
    assert limiter.in_flight == limiter.waiting == 0


def test_threads_share_the_slots_and_the_quota() -> None:
    limiter = quick()
    throttle = Throttle(limiter, max_concurrent=3)
    limiter.sync(limit=100, remaining=40, reset=1000)
    lock = threading.Lock()
    running = most = served = 0

    def work() -> None:
        nonlocal running, most, served
        for _ in range(5):
            with throttle:
                sent_at = limiter.time()
                with lock:
                    running += 1
                    served += 1
                    most = max(most, running)
                    limiter.observe(left(40 - served), 200, sent_at=sent_at)
                with lock:
                    running -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert served == 40
    assert most <= 3
    assert limiter.in_flight == 0
    assert not limiter.try_acquire()


def test_tasks_and_threads_of_one_key_go_on_when_the_window_ends() -> None:
    """Threads here ask again when it was said to be worth it; what a response says meanwhile does not wake them."""
    limiter = quick()
    throttle = Throttle(limiter, max_concurrent=2)
    limiter.sync(limit=10, remaining=0, reset=0.02)
    done: list[str] = []

    def work() -> None:
        with throttle:
            done.append("thread")
            limiter.observe(left(5), 200)

    async def main() -> None:
        async def client() -> None:
            async with throttle:
                done.append("task")
                limiter.observe(left(5), 200)

        await asyncio.gather(asyncio.to_thread(work), client())

    asyncio.run(main())
    assert sorted(done) == ["task", "thread"]
    assert limiter.in_flight == 0
