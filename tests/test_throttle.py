"""Throttle: at most N at once and at most R per second, whatever is cancelled and whoever is slow."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections import defaultdict
from collections.abc import Hashable
from typing import Any

import pytest

from aiolimiter_fast import Limiter, Rate, Throttle
from aiolimiter_fast.testing import ManualClock


class Work:
    """What ran when: every start, and how many ran at once, in all and by key."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.began = clock.time()
        self.starts: list[tuple[float, Any]] = []
        self.running: dict[Hashable, int] = defaultdict(int)
        self.most: dict[Hashable, int] = defaultdict(int)

    @property
    def instants(self) -> list[float]:
        return [instant for instant, _ in self.starts]

    async def run(self, throttle: Any, name: Any, seconds: float, key: Hashable = None, amount: float = 1) -> None:
        async with throttle.at(key, amount):
            await self.inside(name, seconds, key)

    async def inside(self, name: Any, seconds: float, key: Hashable = None) -> None:
        self.starts.append((round(self.clock.time() - self.began, 9), name))
        for counted in {key, "all"}:
            self.running[counted] += 1
            self.most[counted] = max(self.most[counted], self.running[counted])
        try:
            await asyncio.sleep(seconds)
        finally:
            for counted in {key, "all"}:
                self.running[counted] -= 1


@pytest.fixture
def work(clock: ManualClock) -> Work:
    return Work(clock)


async def ended(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def test_as_many_run_at_once_as_allowed_and_no_more(work: Work, clock: ManualClock) -> None:
    throttle = Throttle(None, 3)
    tasks = [asyncio.create_task(work.run(throttle, name, 1)) for name in range(7)]
    await clock.run(10)
    await asyncio.gather(*tasks)
    assert work.starts == [(0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (1, 5), (2, 6)]


async def test_as_many_start_per_second_as_allowed(work: Work, clock: ManualClock, AsyncLimiter: Any) -> None:
    throttle = Throttle(AsyncLimiter(2, 1, burst=1), 10)
    tasks = [asyncio.create_task(work.run(throttle, name, 0)) for name in range(4)]
    await clock.run(10)
    await asyncio.gather(*tasks)
    assert work.starts == [(0, 0), (0.5, 1), (1, 2), (1.5, 3)]


async def test_a_permit_is_dated_when_the_work_starts(work: Work, clock: ManualClock, AsyncLimiter: Any) -> None:
    throttle = Throttle(AsyncLimiter(1, 1), 1)
    tasks = [asyncio.create_task(work.run(throttle, "long", 10))]
    tasks += [asyncio.create_task(work.run(throttle, name, 0)) for name in range(3)]
    await clock.run(20)
    await asyncio.gather(*tasks)
    assert work.instants == [0, 10, 11, 12]  # a second apart, though ten seconds' permits were there to be hoarded


async def test_the_limiter_outside_a_semaphore_dates_permits_too_early(
    work: Work, clock: ManualClock, AsyncLimiter: Any
) -> None:
    limiter, semaphore = AsyncLimiter(1, 1), asyncio.Semaphore(1)

    async def run(name: Any, seconds: float) -> None:
        async with limiter, semaphore:
            await work.inside(name, seconds)

    tasks = [asyncio.create_task(run("long", 10))] + [asyncio.create_task(run(name, 0)) for name in range(3)]
    await clock.run(20)
    await asyncio.gather(*tasks)
    assert work.instants == [0, 10, 10, 10]  # three in an instant: the rate is exceeded where it matters


async def test_a_slow_key_does_not_hold_up_a_fast_one(work: Work, clock: ManualClock, AsyncLimiter: Any) -> None:
    throttle = Throttle(lambda key: AsyncLimiter(1, 60) if key == "slow" else AsyncLimiter(100, 1), 2)
    slow = [asyncio.create_task(work.run(throttle, "slow", 0, "slow")) for _ in range(50)]
    await clock.settle()
    fast = [asyncio.create_task(work.run(throttle, "fast", 0, "fast")) for _ in range(50)]
    await clock.settle()
    assert all(task.done() for task in fast)
    assert [name for _, name in work.starts] == ["slow"] + ["fast"] * 50
    await ended(*slow)


async def test_the_limiter_inside_a_semaphore_lets_a_slow_key_hold_up_a_fast_one(
    work: Work, clock: ManualClock, AsyncLimiter: Any
) -> None:
    limiters = {"slow": AsyncLimiter(1, 60), "fast": AsyncLimiter(100, 1)}
    semaphore = asyncio.Semaphore(2)

    async def run(key: str) -> None:
        async with semaphore, limiters[key]:
            await work.inside(key, 0)

    slow = [asyncio.create_task(run("slow")) for _ in range(50)]
    await clock.settle()
    fast = [asyncio.create_task(run("fast")) for _ in range(50)]
    await clock.run(59)
    assert [name for _, name in work.starts] == ["slow"]
    await ended(*slow, *fast)


async def test_a_slow_key_starts_on_time_though_fast_ones_want_every_slot(
    work: Work, clock: ManualClock, AsyncLimiter: Any
) -> None:
    throttle = Throttle(lambda key: AsyncLimiter(1, 10) if key == "slow" else AsyncLimiter(1e6, 1), 2)
    slow = [asyncio.create_task(work.run(throttle, "slow", 0.1, "slow")) for _ in range(3)]
    fast = [asyncio.create_task(work.run(throttle, "fast", 0.5, "fast")) for _ in range(200)]
    await clock.run(30)
    late = [instant - 10 * turn for turn, (instant, name) in enumerate(s for s in work.starts if s[1] == "slow")]
    assert len(late) == 3
    assert all(0 <= seconds <= 0.5 for seconds in late)  # no more than one slot's turn
    assert work.most["all"] == 2
    await ended(*slow, *fast)


async def test_free_slots_go_round_the_keys(work: Work, clock: ManualClock) -> None:
    throttle = Throttle(None, 1)
    tasks = [asyncio.create_task(work.run(throttle, f"{key}{turn}", 1, key)) for key in "abc" for turn in range(3)]
    await clock.run(20)
    await asyncio.gather(*tasks)
    assert [name for _, name in work.starts] == ["a0", "a1", "b0", "c0", "a2", "b1", "c1", "b2", "c2"]


async def test_one_key_has_no_more_slots_than_its_share(work: Work, clock: ManualClock) -> None:
    throttle = Throttle(None, 5, max_per_key=2)
    tasks = [asyncio.create_task(work.run(throttle, key, 1, key)) for key in "aaaaaabb"]
    await clock.run(20)
    await asyncio.gather(*tasks)
    assert work.starts[:4] == [(0, "a"), (0, "a"), (0, "b"), (0, "b")]
    assert (work.most["a"], work.most["b"], work.most["all"]) == (2, 2, 4)
    assert work.instants[4:] == [1, 1, 2, 2]


async def test_within_a_key_the_order_is_strict_whatever_the_amounts(
    work: Work, clock: ManualClock, AsyncLimiter: Any
) -> None:
    throttle = Throttle(AsyncLimiter(10, 1), 3)
    amounts = [10, 9, 1, 5, 10, 1, 1, 7]
    tasks = [asyncio.create_task(work.run(throttle, n, 0, amount=amount)) for n, amount in enumerate(amounts)]
    await clock.run(60)
    await asyncio.gather(*tasks)
    assert [name for _, name in work.starts] == list(range(8))


async def test_a_newcomer_does_not_pass_those_who_wait(work: Work, clock: ManualClock, AsyncLimiter: Any) -> None:
    throttle = Throttle(AsyncLimiter(10, 1), None)
    first = asyncio.create_task(work.run(throttle, "first", 0, amount=8))
    big = asyncio.create_task(work.run(throttle, "big", 0, amount=8))
    await clock.settle()
    small = asyncio.create_task(work.run(throttle, "small", 0, amount=1))
    await clock.run(10)
    assert [name for _, name in work.starts] == ["first", "big", "small"]
    await asyncio.gather(first, big, small)


async def test_ten_thousand_wait_and_start_in_order(work: Work, clock: ManualClock, AsyncLimiter: Any) -> None:
    throttle = Throttle(AsyncLimiter(1000, 1), 100)
    tasks = [asyncio.create_task(work.run(throttle, name, 0.01)) for name in range(10_000)]
    await clock.run(20)
    await asyncio.gather(*tasks)
    assert [name for _, name in work.starts] == list(range(10_000))
    assert work.instants[-1] == pytest.approx(9, abs=0.1)  # of the manual clock: none was lost
    assert work.most["all"] == 100


async def test_a_task_cancelled_between_its_slot_and_its_start_gives_it_back(work: Work, clock: ManualClock) -> None:
    throttle = Throttle(None, 1)
    async with throttle:
        granted = asyncio.create_task(work.run(throttle, "granted", 0))
        following = asyncio.create_task(work.run(throttle, "following", 0))
        await clock.settle()
    granted.cancel()  # its slot is kept for it, and it has not run yet
    await clock.settle()
    assert granted.cancelled()
    assert [name for _, name in work.starts] == ["following"]
    assert (throttle.running, throttle.waiting) == (0, 0)
    await following


@pytest.mark.parametrize("turns", range(5))
async def test_a_task_cancelled_around_its_grant_starts_or_gives_its_permit_back(
    work: Work, clock: ManualClock, AsyncLimiter: Any, turns: int
) -> None:
    limiter = AsyncLimiter(1, 10)
    throttle = Throttle(limiter, 1)
    async with throttle:
        pass
    granted = asyncio.create_task(work.run(throttle, "granted", 1))
    await clock.settle()
    clock.advance(10)  # its permit is due: the timer, the grant and the start come in the next turns
    for _ in range(turns):
        await asyncio.sleep(0)
    granted.cancel()
    await clock.settle()
    assert granted.cancelled()
    assert limiter.has_capacity() == (not work.starts)
    assert (throttle.running, throttle.waiting) == (0, 0)
    assert turns or not work.starts


async def test_a_slow_limiter_that_is_cancelled_spends_nothing(clock: ManualClock, AsyncLimiter: Any) -> None:
    limiter = AsyncLimiter(2, 10)
    throttle = Throttle(limiter, 1)
    for _ in range(2):
        async with throttle:
            pass
    waiting = asyncio.create_task(throttle.enter())
    await clock.settle()
    assert (throttle.running, throttle.waiting) == (0, 1)
    await ended(waiting)
    assert (throttle.running, throttle.waiting) == (0, 0)
    await clock.run(5)
    assert limiter.has_capacity(1)
    assert not limiter.has_capacity(1.1)


async def test_an_error_within_gives_the_slot_back(AsyncLimiter: Any) -> None:
    throttle = Throttle(AsyncLimiter(100, 1), 1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with throttle:
                raise ZeroDivisionError
    assert throttle.running == 0


async def test_an_amount_that_never_fits_is_an_error_and_holds_nothing(AsyncLimiter: Any, clock: ManualClock) -> None:
    throttle = Throttle(lambda key: AsyncLimiter(5, 1), 1)
    for _ in range(2):
        with pytest.raises(ValueError, match="exceeds max_rate=5"):
            await throttle.enter("key", 6)
    async with throttle.at("key"):
        queued = asyncio.create_task(throttle.enter("key", 6))
        following = asyncio.create_task(throttle.enter("key", 1))
        await clock.settle()
    await clock.settle()
    with pytest.raises(ValueError, match="exceeds max_rate=5"):
        await queued
    await following
    throttle.leave("key")
    assert (throttle.running, throttle.waiting) == (0, 0)


@pytest.mark.parametrize("seed", range(12))
async def test_neither_bound_is_exceeded_though_tasks_are_cancelled_at_random(
    work: Work, clock: ManualClock, AsyncLimiter: Any, seed: int
) -> None:
    dice = random.Random(seed)
    rates = {key: dice.choice([(1, 1), (5, 1), (20, 2)]) for key in "abcd"}
    per_key = dice.choice([None, 2])
    throttle = Throttle(lambda key: AsyncLimiter(*rates[key]), 4, max_per_key=per_key)
    tasks: list[asyncio.Task[None]] = []
    for name in range(400):
        key = dice.choice("aabcd")
        tasks.append(asyncio.create_task(work.run(throttle, (key, name), dice.choice([0, 0.01, 0.7]), key)))
        if dice.random() < 0.5:
            dice.choice(tasks).cancel()
        if dice.random() < 0.3:
            await asyncio.sleep(0)  # a turn, so that some are cancelled between their grant and their start
        if dice.random() < 0.1:
            await clock.run(dice.random())
    await clock.run(2000)
    assert all(task.done() for task in tasks), seed
    assert work.most["all"] <= 4, seed
    for key, (permits, period) in rates.items():
        assert per_key is None or work.most[key] <= per_key, seed
        instants = [instant for instant, (its, _) in work.starts if its == key]
        for first, start in enumerate(instants):
            for count, end in enumerate(instants[first:], 1):
                assert count <= permits + (end - start) * permits / period + 1e-6, seed
        names = [name for _, (its, name) in work.starts if its == key]
        assert names == sorted(names), seed
    assert (throttle.running, throttle.waiting) == (0, 0), seed
    await asyncio.gather(*(throttle.enter("a", 0) for _ in range(per_key or 4)))  # all slots are there again
    assert throttle.running == (per_key or 4)


async def test_cancelled_tasks_cost_the_others_no_permit(work: Work, clock: ManualClock, AsyncLimiter: Any) -> None:
    throttle = Throttle(AsyncLimiter(10, 1), 5)
    tasks = [asyncio.create_task(work.run(throttle, name, 0)) for name in range(200)]
    await clock.settle()
    for task in tasks[10::2]:
        task.cancel()
        await asyncio.sleep(0)
    await clock.run(60)
    assert len(work.starts) == 10 + 95
    assert work.instants[-1] == pytest.approx(9.5)


async def test_keys_are_forgotten_when_nobody_needs_them(clock: ManualClock, AsyncLimiter: Any) -> None:
    throttle = Throttle(AsyncLimiter(1e6, 1), 10)
    for key in range(1000):
        async with throttle.at(key):
            assert throttle.keys <= 2
    assert throttle.keys <= 1


async def test_keys_that_come_and_are_cancelled_leave_nothing_behind(clock: ManualClock) -> None:
    throttle = Throttle(None, 1)
    async with throttle:
        for key in range(300):
            task = asyncio.create_task(throttle.enter(f"hostile {key}"))
            await asyncio.sleep(0)
            await ended(task)
        assert throttle.keys == 1
        assert not throttle._ready


async def test_an_idle_key_does_not_win_a_second_burst(work: Work, clock: ManualClock, AsyncLimiter: Any) -> None:
    throttle = Throttle(lambda key: AsyncLimiter(2, 10), 10)
    for _ in range(3):  # each time the key has been idle, and is remembered since its limiter is not as new
        tasks = [asyncio.create_task(work.run(throttle, "x", 0, "key")) for _ in range(2)]
        await clock.run(1)
    await clock.run(60)
    await asyncio.gather(*tasks)
    assert work.instants[:2] == [0, 0]
    assert work.instants[2:] == [5, 10, 15, 20]


async def test_hostile_keys_cannot_grow_memory(clock: ManualClock, AsyncLimiter: Any) -> None:
    throttle = Throttle(lambda key: AsyncLimiter(1, 3600), 10, max_keys=50)
    for key in range(2000):
        async with throttle.at(key):
            pass
    assert throttle.keys == 50
    await clock.run(3600)
    async with throttle.at("next"):
        pass
    assert throttle.keys == 1  # the others are as good as new by now


async def test_the_bound_can_change_while_in_use(work: Work, clock: ManualClock) -> None:
    throttle = Throttle(None, 1)
    tasks = [asyncio.create_task(work.run(throttle, name, 10)) for name in range(6)]
    await clock.run(1)
    throttle.max_concurrent = 3
    await clock.run(1)
    assert work.instants == [0, 1, 1]
    throttle.max_concurrent = 1
    await clock.run(15)
    assert work.instants == [0, 1, 1, 11]
    throttle.max_concurrent = None
    await clock.run(1)
    assert len(work.starts) == 6
    await ended(*tasks)
    assert (throttle.running, throttle.waiting) == (0, 0)


@pytest.mark.parametrize("share", ["one", "by key"])
async def test_a_limiter_of_buckets_fits(share: str) -> None:
    limiter = Limiter(Rate(2, 3_600_000))
    throttle = Throttle(limiter if share == "one" else lambda key: limiter, 3)
    await asyncio.gather(*(throttle.enter("key") for _ in range(2)))
    assert not limiter.try_acquire("key", blocking=False)
    throttle.leave("key")
    throttle.leave("key")
    with pytest.raises(ValueError, match="whole number"):
        await throttle.enter("key", 0.5)
    with pytest.raises(ValueError, match="can never be admitted"):
        await throttle.enter("key", 3)
    assert (throttle.running, throttle.waiting) == (0, 0)


async def test_tasks_wait_at_a_limiter_of_buckets_in_order_though_some_are_cancelled() -> None:
    throttle, started = Throttle(Limiter(Rate(5, 20)), 2), []

    async def run(name: int) -> None:
        async with throttle.at("ab"[name % 2]):
            started.append(name)

    tasks = [asyncio.create_task(run(name)) for name in range(40)]
    for task in tasks[6::3]:
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait(tasks)
    for key in (0, 1):
        names = [name for name in started if name % 2 == key]
        assert names == sorted(names)
    assert len(started) == sum(not task.cancelled() for task in tasks)
    assert (throttle.running, throttle.waiting) == (0, 0)


async def test_a_limiter_is_asked_under_the_key() -> None:
    names = []

    class Named:
        async def try_acquire_async(self, name: str, weight: int) -> bool:
            names.append((name, weight))
            return True

    throttle = Throttle(Named(), 2)
    for key, amount in (("host", 1), (("a", 1), 2), (None, 3)):
        async with throttle.at(key, amount):
            pass
    assert names == [("host", 1), ("('a', 1)", 2), ("pyrate", 3)]


class Strange:
    """A limiter of somebody else's: `acquire()` alone, that passes one a second."""

    def __init__(self) -> None:
        self.amounts: list[float] = []

    async def acquire(self, amount: float = 1) -> None:
        self.amounts.append(amount)
        await asyncio.sleep(1)


class Pacing:
    """A limiter that is waited for."""

    async def wait(self) -> None:
        await asyncio.sleep(1)


@pytest.mark.parametrize("limiter", [Strange(), Pacing()], ids=["acquire", "wait"])
async def test_any_object_that_lets_one_wait_is_a_limiter(work: Work, clock: ManualClock, limiter: Any) -> None:
    throttle = Throttle(limiter, 3)
    tasks = [asyncio.create_task(work.run(throttle, name, 0, amount=name)) for name in (1, 2)]
    await clock.run(10)
    await asyncio.gather(*tasks)
    assert [name for _, name in work.starts] == [1, 2]
    assert work.instants[0] == 1
    if isinstance(limiter, Strange):
        assert limiter.amounts == [1, 2]
    else:
        assert work.instants[1] == 3


async def test_the_first_of_each_key_alone_waits_at_a_strange_limiter(work: Work, clock: ManualClock) -> None:
    throttle = Throttle(Strange(), 2)
    tasks = [asyncio.create_task(throttle.enter()) for _ in range(10)]
    await clock.settle()
    assert (throttle.waiting, throttle._free) == (10, 1)
    await ended(*tasks)
    assert (throttle.running, throttle._free) == (0, 2)


async def test_a_subclass_with_its_own_acquire_is_asked_by_it(clock: ManualClock, AsyncLimiter: Any) -> None:
    calls = []

    class Counting(AsyncLimiter):  # type: ignore[misc]
        async def acquire(self, amount: float = 1, **options: Any) -> None:
            calls.append(amount)
            await super().acquire(amount, **options)

    throttle = Throttle(Counting(10, 1), 1)
    async with throttle:
        pass
    assert calls == [1]


async def test_it_decorates_async_functions(work: Work, clock: ManualClock, AsyncLimiter: Any) -> None:
    throttle = Throttle(lambda key: AsyncLimiter(4, 1), 10, key=lambda host, size: host)

    @throttle(amount=lambda host, size: size)
    async def fetch(host: str, size: int) -> str:
        """Fetch."""
        await work.inside((host, size), 0)
        return host * size

    assert (fetch.__name__, fetch.__doc__) == ("fetch", "Fetch.")
    tasks = [asyncio.create_task(fetch(host, size)) for host, size in (("a", 3), ("a", 3), ("b", 1))]
    await clock.run(5)
    assert [task.result() for task in tasks] == ["aaa", "aaa", "b"]
    assert work.starts == [(0, ("a", 3)), (0, ("b", 1)), (0.5, ("a", 3))]


def test_it_decorates_plain_functions() -> None:
    throttle = Throttle(None, 1)

    @throttle
    def double(number: int) -> int:
        assert throttle.running == 1
        return 2 * number

    assert double(4) == 8
    assert throttle.running == 0


def test_threads_keep_both_bounds(AsyncLimiter: Any) -> None:
    limiter = AsyncLimiter(20, 0.05)
    throttle = Throttle(limiter, 3)
    lock, running, most, done = threading.Lock(), 0, 0, 0

    def run() -> None:
        nonlocal running, most, done
        for _ in range(10):
            with throttle:
                with lock:
                    running += 1
                    most = max(most, running)
                with lock:
                    running -= 1
                    done += 1

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == 80
    assert most <= 3
    assert (throttle.running, throttle.waiting) == (0, 0)


def test_threads_wait_at_a_limiter_of_buckets() -> None:
    throttle = Throttle(Limiter(Rate(5, 20)), 2)
    entered = []

    def run() -> None:
        for _ in range(5):
            with throttle.at("key"):
                entered.append(1)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entered) == 15


@pytest.mark.filterwarnings("ignore:This AsyncLimiter instance")  # its first loop may end before the others
def test_threads_and_loops_share_one_throttle(AsyncLimiter: Any) -> None:
    throttle = Throttle(AsyncLimiter(1e6, 1), 2)
    lock, running, most, done = threading.Lock(), 0, 0, 0

    def enter() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)

    def leave() -> None:
        nonlocal running, done
        with lock:
            running -= 1
            done += 1

    async def visit() -> None:
        async with throttle:
            enter()
            await asyncio.sleep(0)
            leave()

    async def visits() -> None:
        await asyncio.gather(*(visit() for _ in range(200)))

    def run(turn: int) -> None:
        if turn % 2:
            asyncio.run(visits())
            return
        for _ in range(200):
            with throttle:
                enter()
                leave()

    threads = [threading.Thread(target=run, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == 800
    assert most <= 2
    assert (throttle.running, throttle.waiting) == (0, 0)


def test_those_who_waited_in_a_loop_that_is_gone_hold_nothing_up(AsyncLimiter: Any) -> None:
    throttle = Throttle(None, 1)

    async def main() -> None:
        await throttle.enter()
        task = asyncio.ensure_future(throttle.enter())
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(main())
    gc.collect()
    throttle.leave()
    with throttle:
        assert throttle.running == 1


def test_threads_wait_at_a_limiter_that_has_a_method_for_them() -> None:
    class Both(Pacing):
        waits = 0

        def wait_sync(self) -> None:
            self.waits += 1

    limiter = Both()
    throttle = Throttle(limiter, 1)
    with throttle:
        assert throttle.running == 1
    with throttle.at("key", 2):
        pass
    assert limiter.waits == 3


def test_threads_are_told_where_only_tasks_can_wait() -> None:
    throttle = Throttle(Strange(), 1)
    with pytest.raises(TypeError, match="threads cannot wait"), throttle:
        pass
    assert (throttle.running, throttle.waiting) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_concurrent": 0}, ValueError, "max_concurrent must be at least 1, got 0"),
        ({"max_concurrent": 1.5}, TypeError, "max_concurrent must be a whole number, got 1.5"),
        ({"max_concurrent": True}, TypeError, "max_concurrent must be a whole number, got True"),
        ({"max_per_key": -1}, ValueError, "max_per_key must be at least 1, got -1"),
        ({"max_keys": 0}, ValueError, "max_keys must be at least 1, got 0"),
        ({"limiter": 5}, TypeError, "limiter must be a limiter, or a function .* got 5"),
        ({"limiter": Limiter}, TypeError, "limiter must be a limiter, or a function"),
        ({"key": "host"}, TypeError, "key must be a function, got 'host'"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Throttle(**arguments)


async def test_bad_calls_change_nothing(AsyncLimiter: Any) -> None:
    throttle = Throttle(AsyncLimiter(5, 1), 1)
    with pytest.raises(ValueError, match="amount must be 0 or more, got -1"):
        throttle.at("key", -1)
    with pytest.raises(TypeError, match="unhashable"):
        throttle.at([])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="decorates functions"):
        throttle(5)  # type: ignore[call-overload]
    with pytest.raises(RuntimeError, match="nobody has entered at key 'key'"):
        throttle.leave("key")
    with pytest.raises(TypeError, match="limiter must have acquire"):
        await Throttle(lambda key: None).enter("key")
    with pytest.raises(ValueError, match="max_concurrent must be at least 1"):
        throttle.max_concurrent = 0
    assert (throttle.max_concurrent, throttle.running, throttle.waiting) == (1, 0, 0)
