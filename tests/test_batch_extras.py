"""Batches: what aiometer does not do. Inputs without end, limiters, errors, retries, progress, and order."""

from __future__ import annotations

import asyncio
import gc
import io
import random
import sys
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import tenacity

from aiolimiter_fast import AsyncLimiter as Selected
from aiolimiter_fast import Limiter, Rate, Throttle, amap, run_all, run_any, run_on_each
from aiolimiter_fast.batch import Progress, _groups, _workers
from aiolimiter_fast.testing import ManualClock


class Failure(Exception):
    pass


async def double(item: int) -> int:
    await asyncio.sleep(0)
    return 2 * item


async def fail(item: int) -> int:
    await asyncio.sleep(0)
    raise Failure(item)


async def odd_fails(item: int) -> int:
    await asyncio.sleep(0)
    if item % 2:
        raise Failure(item)
    return item


async def within(clock: ManualClock, main: Any, seconds: float = 1000) -> Any:
    task = asyncio.ensure_future(main)
    await clock.run(seconds)
    assert task.done()
    return await task


class Source:
    """Numbers without end, and how many were taken."""

    def __init__(self) -> None:
        self.taken = 0
        self.tasks: set[Any] = set()
        self.closed = False

    def __iter__(self) -> Iterator[int]:
        while True:
            self.taken += 1
            yield self.taken - 1

    async def read(self) -> AsyncIterator[int]:
        try:
            while True:
                self.tasks.add(asyncio.current_task())
                await asyncio.sleep(0)
                self.taken += 1
                yield self.taken - 1
        finally:
            self.closed = True

    def items(self, kind: str) -> Any:
        return iter(self) if kind == "iterable" else self.read()


# Inputs.


@pytest.mark.parametrize("kind", ["iterable", "async iterable"])
async def test_no_item_is_taken_before_there_is_a_place_for_it(clock: ManualClock, kind: str) -> None:
    source = Source()

    async def minute(item: int) -> None:
        await asyncio.sleep(60)

    task = asyncio.create_task(run_on_each(minute, source.items(kind), max_at_once=5))
    await clock.run(59)
    assert source.taken == 5
    await clock.run(60)
    assert source.taken == 10
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("kind", ["iterable", "async iterable"])
async def test_a_limiter_holds_an_input_back_too(clock: ManualClock, AsyncLimiter: Any, kind: str) -> None:
    source = Source()
    task = asyncio.create_task(run_on_each(double, source.items(kind), limiter=AsyncLimiter(10, 1)))
    await clock.run(1.95)
    assert source.taken == 10 + 19 + 1  # one more waits for its permit
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


@pytest.mark.parametrize("kind", ["iterable", "async iterable"])
async def test_a_slow_consumer_holds_an_endless_input_back(clock: ManualClock, kind: str) -> None:
    source, seen = Source(), []

    async def main() -> None:
        async with amap(double, source.items(kind), max_at_once=4) as results:
            async for result in results:
                seen.append(result)
                await asyncio.sleep(1)
                assert source.taken <= len(seen) + 4 + 4
                if len(seen) == 20:
                    break

    await within(clock, main())
    taken = source.taken
    assert taken <= 28
    await clock.run(10)
    assert source.taken == taken  # nobody reads on
    assert sorted(seen) == [2 * number for number in range(20)]


async def test_leaving_an_endless_input_early_ends_what_was_taken(clock: ManualClock) -> None:
    ended = []

    async def work(item: int) -> int:
        await asyncio.sleep(1 + item)
        ended.append(item)
        return item

    async def main() -> None:
        async with amap(work, Source().items("iterable"), max_at_once=3) as results:
            async for _ in results:
                break

    await within(clock, main())
    assert ended[:3] == [0, 1, 2]
    assert len(ended) <= 4


async def test_leaving_does_not_wait_for_a_producer_that_gives_nothing(clock: ManualClock) -> None:
    async def silent() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(1e6)

    async def main() -> int:
        async with amap(double, silent(), max_at_once=3) as results:
            async for result in results:
                return result
        raise AssertionError

    assert await within(clock, main(), 1) == 2


async def test_an_async_generator_is_read_in_one_task() -> None:
    source = Source()
    async with amap(double, source.read(), max_at_once=3, ordered=True) as results:
        async for result in results:
            if result == 200:
                break
    assert len(source.tasks) == 1


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_error_of_the_input_ends_the_batch(asynchronous: bool) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise Failure("input")

    async def broken_async() -> AsyncIterator[int]:
        yield 1
        raise Failure("input")

    items = broken_async if asynchronous else broken
    with pytest.raises(Failure, match="input"):
        async with amap(double, items(), on_error="return") as results:
            assert [result async for result in results] == [2]
    with pytest.raises(Exception, match="errors in a batch"):
        await run_on_each(double, items())


async def test_memory_does_not_grow_with_the_input() -> None:
    async def peak(items: int) -> int:
        gc.collect()
        tracemalloc.start()
        await run_on_each(double, (number for number in range(items)), max_at_once=20)
        async with amap(double, (number for number in range(items)), max_at_once=20) as results:
            async for _ in results:
                pass
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    await peak(500)
    small = await peak(500)
    assert await peak(10_000) < small + 20_000


async def test_items_that_never_wait_leave_the_loop_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_workers, "SLICE", 0.0)
    turns = 0
    running = True

    async def count() -> None:
        nonlocal turns
        while running:
            turns += 1
            await asyncio.sleep(0)

    async def nothing(item: int) -> None:
        pass

    counting = asyncio.create_task(count())
    await run_on_each(nothing, range(1000), max_at_once=10)
    running = False
    await counting
    assert turns >= 500


async def test_a_batch_that_never_waits_can_be_cancelled() -> None:
    async def nothing(item: int) -> None:
        pass

    task = asyncio.create_task(run_on_each(nothing, iter(Source())))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_many_items_start_in_few_turns_of_the_loop() -> None:
    turns, running = 0, 0
    most = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def work(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 1000:
            everybody.set()
        await everybody.wait()

    everybody = asyncio.Event()
    counting = asyncio.create_task(count())
    await run_on_each(work, range(1000))
    counting.cancel()
    assert most == 1000
    assert turns < 100


# Limiters.


async def test_weights_are_taken_from_the_limiter(clock: ManualClock, AsyncLimiter: Any) -> None:
    starts = []
    began = clock.time()

    async def start(item: int) -> None:
        starts.append((round(clock.time() - began, 6), item))

    main = run_on_each(start, [10, 1, 5, 10], limiter=AsyncLimiter(10, 1), weight=lambda item: item)
    await within(clock, main)
    assert starts == [(0, 10), (0.1, 1), (0.6, 5), (1.6, 10)]
    await within(clock, run_on_each(start, [1, 2], limiter=AsyncLimiter(10, 1), weight=10))
    assert starts[-1][0] - starts[-2][0] == pytest.approx(1)


async def test_batches_share_a_throttle(clock: ManualClock, AsyncLimiter: Any) -> None:
    throttle = Throttle(AsyncLimiter(10, 1), 3)
    running = most = done = 0

    async def work(item: int) -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        done += 1

    async def main() -> None:
        await asyncio.gather(*(run_on_each(work, range(20), max_at_once=5, limiter=throttle) for _ in range(3)))

    task = asyncio.create_task(main())
    await clock.run(1)
    assert 18 <= done <= 20
    await clock.run(10)
    await task
    assert (done, most, throttle.running, throttle.waiting) == (60, 3, 0, 0)


async def test_a_throttle_with_keys_asks_for_the_item_s(clock: ManualClock, AsyncLimiter: Any) -> None:
    throttle = Throttle(lambda key: AsyncLimiter(1, 1), key=lambda item: item[0])
    began, starts = clock.time(), []

    async def start(item: str) -> None:
        starts.append((round(clock.time() - began, 6), item))

    await within(clock, run_on_each(start, ["a1", "b1", "b2", "a2"], limiter=throttle))
    assert starts == [(0, "a1"), (0, "b1"), (1, "b2"), (1, "a2")]


async def test_a_limiter_of_buckets_will_do() -> None:
    limiter = Limiter(Rate(3, 3_600_000))
    async with amap(double, range(3), limiter=limiter) as results:
        assert sorted([result async for result in results]) == [0, 2, 4]
    assert limiter.remaining() == [0]


async def test_a_rate_is_not_carried_over_from_call_to_call(clock: ManualClock) -> None:
    for _ in range(3):
        await within(clock, run_on_each(double, [1], max_per_second=0.001), 0)


async def test_any_rate_from_slow_to_infinite_will_do(clock: ManualClock) -> None:
    await within(clock, run_on_each(double, range(50), max_per_second=float("inf")), 0)
    await within(clock, run_on_each(double, range(50), max_per_second=1e15), 0)
    await within(clock, run_on_each(double, range(3), max_per_second=0.01), 200)


# Errors.


async def test_errors_can_be_results() -> None:
    results = await run_all([partial(odd_fails, number) for number in range(4)], on_error="return")
    assert [str(result) for result in results] == ["0", "1", "2", "3"]
    assert [isinstance(result, Failure) for result in results] == [False, True, False, True]
    async with amap(odd_fails, range(3), on_error="return", ordered=True) as mapped:
        assert [str(result) async for result in mapped] == ["0", "1", "2"]
    await run_on_each(fail, range(100), on_error="return", max_at_once=3)
    assert isinstance(await run_any([partial(fail, 1)], on_error="return"), Failure)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_function_can_say_what_an_error_is_worth(asynchronous: bool) -> None:
    def mend(error: Exception, item: int) -> tuple[str, int]:
        return str(error), item

    async def mend_later(error: Exception, item: int) -> tuple[str, int]:
        await asyncio.sleep(0)
        return str(error), item

    async with amap(odd_fails, range(3), on_error=mend_later if asynchronous else mend, ordered=True) as results:
        assert [result async for result in results] == [0, ("1", 1), 2]


async def test_a_function_that_raises_ends_the_batch() -> None:
    def worse(error: Exception, item: int) -> None:
        raise LookupError(item) from error

    with pytest.raises(LookupError, match="3"):
        await run_all([partial(double, 0), partial(fail, 3)], on_error=lambda error, _: worse(error, 3))


async def test_an_item_that_cannot_even_be_called_has_failed() -> None:
    def broken(item: int) -> Any:
        raise Failure(item)

    assert [str(error) for error in await run_all([partial(broken, 1)], on_error="return")] == ["1"]
    with pytest.raises(Failure):
        await run_all([partial(broken, 1)])


async def test_an_item_that_never_fits_has_failed(AsyncLimiter: Any) -> None:
    def weigh(item: int) -> int:
        return 10 // item

    options: Any = {"limiter": AsyncLimiter(5, 1), "weight": weigh, "ordered": True}
    async with amap(double, [5, 1, 0, 4], on_error=lambda error, item: type(error), **options) as results:
        assert [result async for result in results] == [10, ValueError, ZeroDivisionError, 8]
    with pytest.raises(ValueError, match="exceeds max_rate=5"):
        async with amap(double, [1], **options):
            pass


@pytest.mark.parametrize("factory", [getattr(asyncio, "eager_task_factory", None)])  # Python 3.12
async def test_tasks_that_start_eagerly_do_not_start_within_each_other(factory: Any) -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        assert await run_all([partial(double, number) for number in range(3000)]) == list(range(0, 6000, 2))
    finally:
        loop.set_task_factory(None)


async def test_before_exception_groups_the_first_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stubborn(item: int) -> None:
        try:
            await asyncio.sleep(60 * item)
            raise Failure("first")
        except asyncio.CancelledError:
            raise Failure("second") from None

    monkeypatch.setattr(_groups, "BaseExceptionGroup", None)
    with pytest.raises(Failure, match="first") as caught:
        await run_on_each(stubborn, [0, 1])
    assert str(caught.value.__context__) == "second"


# Retries.


class Flaky:
    """Fails `failures` times for each item, and then does not."""

    def __init__(self, clock: ManualClock, failures: int) -> None:
        self.clock = clock
        self.began = clock.time()
        self.failures = failures
        self.calls: list[tuple[float, int]] = []

    async def __call__(self, item: int) -> int:
        self.calls.append((round(self.clock.time() - self.began, 6), item))
        await asyncio.sleep(0)
        if sum(its == item for _, its in self.calls) <= self.failures:
            raise Failure(item)
        return item


class Iterated:
    """A policy that can be iterated over, and no more."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy

    def __aiter__(self) -> Any:
        return self.policy.copy().__aiter__()


@pytest.mark.parametrize("form", ["called", "iterated"])
async def test_each_attempt_takes_a_permit(clock: ManualClock, AsyncLimiter: Any, form: str) -> None:
    policy: Any = tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(3))
    if form == "iterated":
        policy = Iterated(policy)
    flaky = Flaky(clock, 2)

    async def main() -> list[int]:
        limiter = AsyncLimiter(1, 1)
        async with amap(flaky, [1, 2], limiter=limiter, retry=policy, ordered=True, max_at_once=1) as results:
            return [result async for result in results]

    assert await within(clock, main()) == [1, 2]
    assert flaky.calls == [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]


@pytest.mark.parametrize("seed", range(3))
async def test_retries_that_overlap_do_not_meet(clock: ManualClock, seed: int) -> None:
    async def pause(state: Any) -> None:
        await asyncio.sleep(0)

    wait = tenacity.wait_random(0, 0.1)
    policy = tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(4), wait=wait, before=pause, after=pause)
    throttle = Throttle(None, 7)
    dice = random.Random(seed)
    calls: dict[int, int] = {}

    async def flaky(item: int) -> int:
        calls[item] = calls.get(item, 0) + 1
        await asyncio.sleep(dice.random())
        if calls[item] < 1 + item % 4:
            raise Failure(item)
        return item

    async def main() -> list[int]:
        return await run_all([partial(flaky, number) for number in range(60)], retry=policy, limiter=throttle)

    assert await within(clock, main()) == list(range(60))
    assert calls == {number: 1 + number % 4 for number in range(60)}
    assert throttle.running == 0


async def test_a_policy_that_gives_up_is_an_error_like_any_other(clock: ManualClock, AsyncLimiter: Any) -> None:
    policy = tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(2), reraise=True)
    throttle = Throttle(AsyncLimiter(100, 1), 1)
    results = await within(clock, run_all([partial(fail, 1), partial(double, 2)], retry=policy, on_error="return"))
    assert (str(results[0]), results[1]) == ("1", 4)
    with suppress(Failure):
        await within(clock, run_all([partial(fail, 1)], retry=policy, limiter=throttle))
    assert throttle.running == 0


async def test_a_policy_that_never_tries_holds_nothing() -> None:
    async def refuse(function: Any, item: int) -> str:
        return "refused"

    throttle = Throttle(None, 1)
    async with amap(double, [1, 2, 3], retry=refuse, limiter=throttle) as results:
        assert [result async for result in results] == ["refused"] * 3  # type: ignore[comparison-overlap]
    assert throttle.running == 0


# Progress.


async def test_progress_is_reported(clock: ManualClock) -> None:
    reports: list[Progress] = []

    async def work(item: int) -> int:
        await asyncio.sleep(1)
        return await odd_fails(item)

    main = run_on_each(work, range(4), max_at_once=1, on_error="return", progress=reports.append)
    await within(clock, main, 4)
    assert reports[0] == Progress(total=4, done=0, failed=0, running=0, waiting=4, rate=0, time_left=None)
    assert reports[2] == Progress(total=4, done=1, failed=1, running=0, waiting=2, rate=1, time_left=2)
    assert reports[-1] == Progress(total=4, done=2, failed=2, running=0, waiting=0, rate=1, time_left=0)


async def test_progress_is_known_without_a_total(clock: ManualClock) -> None:
    reports: list[Progress] = []

    async def main() -> None:
        async with amap(double, iter(range(3)), progress=reports.append) as results:
            async for _ in results:
                pass

    await within(clock, main(), 0)
    assert reports[-1] == Progress(total=None, done=3, failed=0, running=0, waiting=None, rate=0, time_left=None)
    assert len(reports) == 2  # the clock stood still


async def test_progress_can_be_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console
    from rich.progress import Progress as Display

    from aiolimiter_fast.batch import _rich

    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100)
    monkeypatch.setattr(_rich, "Display", partial(Display, console=console))
    await run_on_each(odd_fails, range(4), progress=True, on_error="return")
    assert "4/4" in written.getvalue()
    assert "2 failed" in written.getvalue()


# Order, and cancellation.


@pytest.mark.parametrize("seed", range(5))
async def test_results_come_in_order_if_so_wanted(clock: ManualClock, seed: int) -> None:
    dice = random.Random(seed)
    source = Source()

    async def work(item: int) -> int:
        await asyncio.sleep(dice.choice([0, 0.1, 5]))
        return item

    async def main() -> list[int]:
        seen = []
        async with amap(work, source.items("iterable"), max_at_once=5, ordered=True) as results:
            async for result in results:
                seen.append(result)
                assert source.taken <= len(seen) + 10
                if len(seen) == 100:
                    break
        return seen

    assert await within(clock, main()) == list(range(100))


@pytest.mark.parametrize("seed", range(10))
async def test_neither_bound_is_exceeded_and_nothing_is_left_when_a_batch_is_cancelled(
    clock: ManualClock, AsyncLimiter: Any, seed: int
) -> None:
    dice = random.Random(seed)
    throttle = Throttle(AsyncLimiter(10, 1), 4)
    running = most = 0
    starts: list[float] = []

    async def work(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        starts.append(clock.time())
        try:
            await asyncio.sleep(dice.choice([0, 0.05, 0.5]))
            if dice.random() < 0.02:
                raise Failure(item)
        finally:
            running -= 1

    batches = []
    for _ in range(20):
        most_at_once = dice.choice([None, 1, 3, 10])
        items = iter(Source()) if most_at_once else range(30)
        batches.append(asyncio.create_task(run_on_each(work, items, max_at_once=most_at_once, limiter=throttle)))
        await clock.run(dice.choice([0, 0.1, 0.7]))
        dice.choice(batches).cancel()
        if dice.random() < 0.5:
            await asyncio.sleep(0)
    for task in batches:
        task.cancel()
    await clock.run(1)
    assert all(task.done() for task in batches), seed
    await asyncio.gather(*batches, return_exceptions=True)
    assert (running, throttle.running, throttle.waiting) == (0, 0, 0), seed
    assert most <= 4, seed
    for first, start in enumerate(starts):
        for count, end in enumerate(starts[first:], 1):
            assert count <= 10 + (end - start) * 10 + 1e-6, seed
    assert len(asyncio.all_tasks()) == 1, seed


async def test_a_worker_that_somebody_cancels_does_not_end_the_batch(clock: ManualClock) -> None:
    seen = []

    async def work(item: int) -> None:
        if item == 2:
            asyncio.current_task().cancel()  # type: ignore[union-attr]
        await asyncio.sleep(1)
        seen.append(item)

    await within(clock, run_on_each(work, range(6), max_at_once=2))
    assert seen == [0, 1, 3, 4, 5]


async def test_a_batch_that_is_cancelled_twice_still_waits_for_its_items(clock: ManualClock) -> None:
    cleaned = []

    async def work(item: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(1)
            cleaned.append(item)

    task = asyncio.create_task(run_on_each(work, range(3)))
    await clock.run(1)
    task.cancel()
    await clock.settle()
    task.cancel()
    await clock.settle()
    assert not task.done()
    await clock.run(2)
    assert task.cancelled()
    assert len(cleaned) == 3


async def test_a_block_is_entered_once() -> None:
    block = amap(double, [1])
    async with block:
        pass
    with pytest.raises(RuntimeError, match="entered already"):
        async with block:
            pass


def test_an_exit_of_the_program_is_not_grouped() -> None:
    async def leave(item: int) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit, match="3"):
        asyncio.run(run_on_each(leave, [1, 2]))


# On trio.


def test_the_extras_work_on_trio(AsyncLimiter: Any) -> None:
    reports: list[Progress] = []

    async def work(item: int) -> int:
        await anyio.lowlevel.checkpoint()
        if item == 3:
            raise Failure(item)
        return item

    async def numbers() -> AsyncGenerator[int, None]:
        for number in range(1000):
            await anyio.lowlevel.checkpoint()
            yield number

    async def main() -> None:
        policy = tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(2), reraise=True)
        options: Any = {"limiter": AsyncLimiter(1000, 0.01), "weight": 2, "retry": policy, "progress": reports.append}
        async with (
            aclosing(numbers()) as items,
            amap(work, items, max_at_once=3, on_error="return", ordered=True, **options) as results,
        ):
            seen = []
            async for result in results:
                seen.append(str(result))
                if len(seen) == 10:
                    break
        assert seen == [str(number) for number in range(10)]
        assert reports[-1].done >= 9
        assert await run_all([partial(work, 3)], on_error=lambda error, item: 7) == [7]
        limiter, never = AsyncLimiter(5, 1), []
        await run_on_each(work, [1], limiter=limiter, weight=6, on_error=lambda error, item: never.append(error))
        assert [str(error) for error in never] == ["try_acquire(amount=6) exceeds max_rate=5"]

        async def silent() -> AsyncGenerator[int, None]:
            yield 1
            await anyio.sleep(3600)

        async with aclosing(silent()) as items, amap(work, items) as results:
            async for _ in results:
                break
        with pytest.raises(TypeError, match="a Throttle waits on asyncio only"):
            await run_on_each(work, [1], limiter=Throttle(None, 1))
        with pytest.raises(Exception, match="Exceptions from"):
            await run_on_each(work, [3])

    anyio.run(main, backend="trio")


def test_without_anyio_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import trio

    monkeypatch.setitem(sys.modules, "aiolimiter_fast.batch._anyio", None)

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"pip install aiolimiter-fast\[anyio\]"):
            await run_on_each(double, [1])

    trio.run(main)


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_at_once": True}, TypeError, "'max_at_once' must be a whole number, got True"),
        ({"max_per_second": "1"}, TypeError, "'max_per_second' must be a number, got '1'"),
        ({"max_per_second": float("nan")}, ValueError, "'max_per_second' must be finite, got nan"),
        ({"max_per_second": 1, "limiter": Selected(1)}, ValueError, "max_per_second=1 and a limiter"),
        ({"limiter": 5}, TypeError, "limiter must have .* got 5"),
        ({"weight": 2}, ValueError, "weight=2 needs a limiter"),
        ({"weight": -1, "limiter": Selected(1)}, ValueError, "amount must be 0 or more, got -1"),
        ({"on_error": "ignore"}, ValueError, 'on_error must be "raise", "return" or a function, got \'ignore\''),
        ({"retry": 3}, TypeError, "retry must be called .* got 3"),
        ({"progress": 1}, TypeError, "progress must be a bool or a function, got 1"),
        ({"args": 5}, TypeError, "args must be iterable or async iterable, got 5"),
        ({"async_fn": 5}, TypeError, "async_fn must be a function, got 5"),
    ],
)
async def test_bad_arguments_are_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"async_fn": double, "args": [1], **arguments}
    with pytest.raises(error, match=message):
        await run_on_each(**arguments)
    with pytest.raises(error, match=message):
        amap(**arguments)
