"""WorkerPool: no item is lost, no handler ends a worker, and a full queue holds the producer back."""

from __future__ import annotations

import asyncio
import contextvars
import random
from contextlib import suppress
from typing import Any

import pytest

from aiolimiter_fast import Throttle, WorkerPool
from aiolimiter_fast.pool import Outcome
from aiolimiter_fast.testing import ManualClock


class Failure(Exception):
    pass


async def double(item: int) -> int:
    await asyncio.sleep(1)
    return 2 * item


async def outcomes(pool: WorkerPool[Any, Any]) -> list[Outcome]:
    return [outcome async for outcome in pool]


async def within(clock: ManualClock, main: Any, seconds: float = 1000) -> Any:
    task = asyncio.ensure_future(main)
    await clock.run(seconds)
    assert task.done()
    return await task


async def test_each_item_has_an_outcome(clock: ManualClock) -> None:
    async def main() -> list[Outcome]:
        async with WorkerPool(double, workers=2) as pool:
            for item in range(4):
                await pool.put(item)
            pool.close()
            return await outcomes(pool)

    assert await within(clock, main(), 2) == [Outcome(item, 2 * item, None) for item in range(4)]


async def test_as_many_items_are_handled_at_once_as_there_are_workers(clock: ManualClock) -> None:
    running = most = 0

    async def work(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1

    async def main() -> None:
        async with WorkerPool(work, workers=3, keep_outcomes=False) as pool:
            for item in range(20):
                await pool.put(item)

    await within(clock, main(), 7)
    assert most == 3


async def test_a_permit_is_taken_when_the_handling_starts(clock: ManualClock, AsyncLimiter: Any) -> None:
    began, starts = clock.time(), []

    async def work(seconds: int) -> None:
        starts.append(round(clock.time() - began, 6))
        await asyncio.sleep(seconds)

    async def main() -> None:
        async with WorkerPool(work, workers=2, limiter=AsyncLimiter(1, 1)) as pool:
            for seconds in (10, 10, 0, 0, 0):
                await pool.put(seconds)

    await within(clock, main())
    assert starts == [0, 1, 10, 11, 12]


async def test_a_full_queue_holds_the_producer_back(clock: ManualClock) -> None:
    async def main() -> None:
        put = 0

        async def produce() -> None:
            nonlocal put
            while put < 100:
                await pool.put(put)
                put += 1

        async with WorkerPool(double, workers=2, queue_size=5, keep_outcomes=False) as pool:
            producer = asyncio.create_task(produce())
            await asyncio.sleep(0.5)
            assert (put, pool.queued, pool.running) == (7, 5, 2)
            await asyncio.sleep(1)
            assert (put, pool.queued, pool.running) == (9, 5, 2)
            await producer

    await within(clock, main())


async def test_outcomes_that_nobody_reads_hold_the_workers_back(clock: ManualClock) -> None:
    handled = []

    async def work(item: int) -> int:
        handled.append(item)
        return item

    async def main() -> list[Outcome]:
        async with WorkerPool(work, workers=2, queue_size=3) as pool:
            producer = asyncio.create_task(produce(pool, 50))
            await asyncio.sleep(10)
            assert len(handled) <= 3 + 2
            read = [await anext(pool) for _ in range(20)]
            await asyncio.sleep(10)
            assert len(handled) <= 20 + 3 + 2
            read += await outcomes(pool)
            await producer
            return read

    async def produce(pool: WorkerPool[int, int], items: int) -> None:
        for item in range(items):
            await pool.put(item)
        pool.close()

    assert sorted(outcome.item for outcome in await within(clock, main())) == list(range(50))


async def test_what_nobody_has_read_can_still_be_read_after_the_block(clock: ManualClock) -> None:
    async def main() -> list[Outcome]:
        async with WorkerPool(double, workers=2, queue_size=3) as pool:
            for item in range(5):
                await pool.put(item)
        return await outcomes(pool)

    assert sorted(outcome.item for outcome in await within(clock, main())) == list(range(5))


async def test_a_handler_that_fails_does_not_end_its_worker(clock: ManualClock) -> None:
    async def work(item: int) -> int:
        await asyncio.sleep(0)
        if item % 3 == 1:
            raise Failure(item)
        if item % 3 == 2:
            raise asyncio.CancelledError
        return item

    def broken(item: int) -> Any:
        raise Failure(item)

    async def main(handler: Any) -> list[Outcome]:
        async with WorkerPool(handler, workers=1) as pool:
            for item in range(6):
                await pool.put(item)
        return await outcomes(pool)

    kinds = [type(outcome.error) for outcome in await within(clock, main(work))]
    assert kinds == [type(None), Failure, asyncio.CancelledError] * 2
    assert [type(outcome.error) for outcome in await within(clock, main(broken))] == [Failure] * 6


async def test_errors_are_not_silent_where_outcomes_are_not_kept(clock: ManualClock) -> None:
    reports: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))

    async def work(item: int) -> None:
        raise Failure(item)

    async with WorkerPool(work, workers=1, keep_outcomes=False) as pool:
        await pool.put(7)
        with pytest.raises(RuntimeError, match="keep_outcomes=False"):
            aiter(pool)
    assert [str(report["exception"]) for report in reports] == ["7"]


async def test_an_exception_in_the_block_cancels_and_reports_what_is_not_finished(clock: ManualClock) -> None:
    cancelled = []

    async def work(item: int) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise

    pool = WorkerPool(work, workers=2, queue_size=3)
    producers = []
    with suppress(Failure):
        async with pool:
            producers = [asyncio.create_task(pool.put(item)) for item in range(8)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            raise Failure
    assert sorted(cancelled) == [0, 1]
    assert sorted(pool.unfinished) == list(range(8))  # those who waited for room in the queue included
    assert all(producer.done() for producer in producers)
    assert [outcome async for outcome in pool] == []


async def test_a_drain_that_is_cancelled_reports_what_is_not_finished(clock: ManualClock) -> None:
    pools = []

    async def main() -> None:
        async with WorkerPool(double, workers=1) as pool:
            pools.append(pool)
            for item in range(5):
                await pool.put(item)

    task = asyncio.create_task(main())
    await clock.run(2.5)
    task.cancel()
    await clock.settle()
    assert task.cancelled()
    assert pools[0].unfinished == [2, 3, 4]
    assert [outcome.item for outcome in await outcomes(pools[0])] == [0, 1]


async def test_a_handler_may_clean_up_and_even_finish_when_cancelled(clock: ManualClock) -> None:
    async def stubborn(item: int) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
        return "finished"

    async def main() -> WorkerPool[int, str]:
        pool = WorkerPool(stubborn, workers=1)
        try:
            async with pool:
                await pool.put(0)
                await pool.put(1)
                await asyncio.sleep(1)
                raise Failure
        except Failure:
            return pool
        raise AssertionError

    pool = await within(clock, main())
    assert pool.unfinished == [1]
    assert await outcomes(pool) == [Outcome(0, "finished", None)]


@pytest.mark.parametrize("seed", range(20))
async def test_no_item_is_lost_whatever_is_cancelled(clock: ManualClock, AsyncLimiter: Any, seed: int) -> None:
    dice = random.Random(seed)
    throttle = Throttle(AsyncLimiter(20, 1), 3)
    running = most = 0
    starts: list[float] = []

    async def work(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        starts.append(clock.time())
        try:
            await asyncio.sleep(dice.choice([0, 0.1, 0.3]))
            if dice.random() < 0.2:
                raise Failure(item)
        finally:
            running -= 1

    put: list[int] = []
    read: list[Any] = []

    async def produce(pool: WorkerPool[int, None], first: int) -> None:
        for item in range(first, first + 40):
            await pool.put(item)
            put.append(item)

    async def consume(pool: WorkerPool[int, None]) -> None:
        async for outcome in pool:
            read.append(outcome.item)

    pool = WorkerPool(work, workers=4, limiter=throttle, queue_size=5)

    async def main() -> None:
        async with pool:
            await asyncio.gather(*(produce(pool, 100 * number) for number in range(3)), consume(pool))

    task = asyncio.create_task(main())
    for _ in range(dice.randrange(20)):
        await clock.run(dice.choice([0, 0.1, 0.25]))
        if dice.random() < 0.2 and pool._workers:
            dice.choice(list(pool._workers)).cancel()
    await asyncio.sleep(0)
    task.cancel()
    await clock.run(10)
    assert task.cancelled(), seed
    read += [outcome.item for outcome in await outcomes(pool)]
    assert sorted(read + pool.unfinished) == sorted(put), seed
    assert (running, throttle.running, throttle.waiting, pool.running) == (0, 0, 0, 0), seed
    assert most <= 3, seed
    for first, start in enumerate(starts):
        for count, end in enumerate(starts[first:], 1):
            assert count <= 20 + (end - start) * 20 + 1e-6, seed


async def test_an_item_cancelled_while_it_waits_for_its_permit_is_reported(
    clock: ManualClock, AsyncLimiter: Any
) -> None:
    limiter = AsyncLimiter(1, 60)
    pool = WorkerPool(double, workers=3, limiter=limiter)
    with suppress(Failure):
        async with pool:
            for item in range(5):
                await pool.put(item)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            raise Failure
    assert sorted(pool.unfinished) == list(range(5))


async def test_a_worker_that_somebody_cancels_is_replaced(clock: ManualClock) -> None:
    async def main() -> list[Outcome]:
        async with WorkerPool(double, workers=2) as pool:
            for item in range(6):
                await pool.put(item)
            await asyncio.sleep(0.5)
            for worker in list(pool._workers):
                worker.cancel()
        return await outcomes(pool)

    results = await within(clock, main())
    assert sorted(outcome.item for outcome in results) == list(range(6))
    assert sum(isinstance(outcome.error, asyncio.CancelledError) for outcome in results) == 2


async def test_handlers_that_never_wait_leave_the_loop_its_turns() -> None:
    turns, running = 0, True

    async def count() -> None:
        nonlocal turns
        while running:
            turns += 1
            await asyncio.sleep(0)

    async def work(item: int) -> None:
        pass

    counting = asyncio.create_task(count())
    async with WorkerPool(work, workers=1, queue_size=1000, keep_outcomes=False) as pool:
        for item in range(1000):
            await pool.put(item)
    running = False
    await counting
    assert turns >= 900


async def test_each_item_has_a_context_of_its_own() -> None:
    variable = contextvars.ContextVar("variable", default=0)

    async def work(item: int) -> int:
        before = variable.get()
        variable.set(item)
        await asyncio.sleep(0)
        return before

    async with WorkerPool(work, workers=1) as pool:
        for item in range(1, 5):
            await pool.put(item)
    assert [outcome.result for outcome in await outcomes(pool)] == [0] * 4


async def test_join_waits_for_what_was_put_and_the_pool_goes_on(clock: ManualClock) -> None:
    async def main() -> list[Outcome]:
        async with WorkerPool(double, workers=2) as pool:
            await pool.put(1)
            await pool.join()
            assert (pool.queued, pool.running) == (0, 0)
            await pool.put(2)
        return await outcomes(pool)

    assert [outcome.result for outcome in await within(clock, main())] == [2, 4]


async def test_nothing_is_put_before_it_is_entered_nor_after_it_is_closed() -> None:
    pool = WorkerPool(double)
    with pytest.raises(RuntimeError, match="not entered"):
        await pool.put(1)
    async with pool:
        pool.close()
        with pytest.raises(RuntimeError, match="closed"):
            await pool.put(1)
    with pytest.raises(RuntimeError, match="entered already"):
        async with pool:
            pass
    assert pool.unfinished == []


def test_an_exit_of_the_program_ends_the_pool() -> None:
    async def leave(item: int) -> None:
        raise SystemExit(3)

    async def main() -> None:
        async with WorkerPool(leave) as pool:
            await pool.put(1)
            await asyncio.sleep(60)

    with pytest.raises(SystemExit, match="3"):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"handler": 5}, TypeError, "handler must be an async function, got 5"),
        ({"workers": 0}, ValueError, "workers must be at least 1, got 0"),
        ({"workers": 1.0}, TypeError, "workers must be a whole number, got 1.0"),
        ({"queue_size": -1}, ValueError, "queue_size must be at least 1, got -1"),
        ({"queue_size": True}, TypeError, "queue_size must be a whole number, got True"),
        ({"limiter": 5}, TypeError, "limiter must have .* got 5"),
        ({"keep_outcomes": 1}, TypeError, "keep_outcomes must be a bool, got 1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        WorkerPool(**{"handler": double, **arguments})
