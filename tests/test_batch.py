"""Batches: what aiometer does, asked of aiometer and of us; see test_batch_extras.py for what it does not do."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from functools import partial
from typing import Any

import aiometer
import anyio
import pytest

import aiolimiter_fast
from aiolimiter_fast import batch
from aiolimiter_fast.testing import ManualClock

LIBRARIES = {"aiometer": aiometer, "ours": batch}


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Any:
    return LIBRARIES[request.param]


class Failure(Exception):
    pass


async def within(clock: ManualClock, main: Any, seconds: float = 100) -> Any:
    """What comes of `main` while the clock runs."""
    task = asyncio.ensure_future(main)
    await clock.run(seconds)
    assert task.done()
    return await task


class Log:
    """Starts and ends, with their instants."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.began = clock.time()
        self.events: list[tuple[float, str, Any]] = []

    def note(self, what: str, item: Any) -> None:
        self.events.append((round(self.clock.time() - self.began, 6), what, item))

    def of(self, what: str) -> list[tuple[float, Any]]:
        return [(instant, item) for instant, event, item in self.events if event == what]

    async def sleep(self, item: float) -> float:
        self.note("start", item)
        try:
            await asyncio.sleep(item)
        except asyncio.CancelledError:
            self.note("cancelled", item)
            raise
        self.note("end", item)
        return item

    async def fail(self, item: float) -> None:
        await self.sleep(item)
        raise Failure(item)


@pytest.fixture
def log(clock: ManualClock) -> Log:
    return Log(clock)


async def test_items_start_in_order_and_at_once(library: Any, log: Log, clock: ManualClock) -> None:
    await within(clock, library.run_on_each(log.sleep, [3, 1, 2]))
    assert log.of("start") == [(0, 3), (0, 1), (0, 2)]
    assert log.of("end") == [(1, 1), (2, 2), (3, 3)]


async def test_max_at_once_bounds_those_who_run(library: Any, log: Log, clock: ManualClock) -> None:
    await within(clock, library.run_on_each(log.sleep, [3, 1, 2, 1, 1], max_at_once=2))
    assert log.of("start") == [(0, 3), (0, 1), (1, 2), (3, 1), (3, 1)]


async def test_max_per_second_spaces_the_starts(library: Any, log: Log, clock: ManualClock) -> None:
    await within(clock, library.run_on_each(log.sleep, [5, 4, 3, 2], max_per_second=2))
    assert [instant for instant, _ in log.of("start")] == pytest.approx([0, 0.5, 1, 1.5])


async def test_both_bounds_hold_together(library: Any, log: Log, clock: ManualClock) -> None:
    await within(clock, library.run_on_each(log.sleep, [3, 3, 1, 1], max_at_once=2, max_per_second=1))
    assert [instant for instant, _ in log.of("start")] == pytest.approx([0, 1, 3, 4])


async def test_a_slow_start_leaves_no_burst_behind(library: Any, log: Log, clock: ManualClock) -> None:
    await within(clock, library.run_on_each(log.sleep, [10, 0, 0, 0], max_at_once=1, max_per_second=1))
    assert [instant for instant, _ in log.of("start")] == pytest.approx([0, 10, 11, 12])


async def test_run_on_each_raises_a_group_even_of_one(library: Any, log: Log, clock: ManualClock) -> None:
    async def fail(item: float) -> None:
        await (log.fail(item) if item == 2 else log.sleep(item))

    with pytest.raises(Exception, match="errors in a") as caught:
        await within(clock, library.run_on_each(fail, [1, 2, 3]))
    assert type(caught.value).__name__ == "ExceptionGroup"
    assert [type(error) for error in caught.value.exceptions] == [Failure]  # type: ignore[attr-defined]
    assert log.of("cancelled") == [(2, 3)]


async def test_run_all_gives_results_in_the_order_of_the_functions(library: Any, log: Log, clock: ManualClock) -> None:
    functions = [partial(log.sleep, seconds) for seconds in (3, 1, 2)]
    assert await within(clock, library.run_all(functions)) == [3, 1, 2]
    assert await library.run_all([]) == []


async def test_run_all_raises_one_exception_as_it_is(library: Any, log: Log, clock: ManualClock) -> None:
    functions = [partial(log.fail, 1), partial(log.sleep, 2)]
    with pytest.raises(Failure, match="1"):
        await within(clock, library.run_all(functions))
    assert log.of("cancelled") == [(1, 2)]


async def test_run_all_raises_several_exceptions_in_a_group(library: Any, log: Log, clock: ManualClock) -> None:
    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise Failure("stubborn")

    with pytest.raises(Exception, match="errors in a") as caught:
        await within(clock, library.run_all([partial(log.fail, 1), stubborn]))
    assert {str(error) for error in caught.value.exceptions} == {"1", "stubborn"}  # type: ignore[attr-defined]


async def test_run_any_gives_the_first_result_when_all_have_ended(library: Any, log: Log, clock: ManualClock) -> None:
    task = asyncio.ensure_future(library.run_any([partial(log.sleep, 3), partial(log.sleep, 1)]))
    await clock.run(2)
    assert not task.done()
    await clock.run(1)
    assert await task == 1
    assert log.of("end") == [(1, 1), (3, 3)]


async def test_run_any_raises_what_any_of_them_raises(library: Any, log: Log, clock: ManualClock) -> None:
    with pytest.raises(Failure):
        await within(clock, library.run_any([partial(log.sleep, 1), partial(log.fail, 2)]))
    if library is batch:  # aiometer groups it with the end of an iteration that it broke off
        with pytest.raises(Failure):
            await within(clock, library.run_any([partial(log.fail, 1), partial(log.sleep, 2)]))


async def test_run_any_of_nothing_has_no_result(library: Any) -> None:
    with pytest.raises(StopAsyncIteration):
        await library.run_any([])


async def test_amap_gives_results_as_they_complete(library: Any, log: Log, clock: ManualClock) -> None:
    async def main() -> list[tuple[int, float]]:
        async with library.amap(log.sleep, [3, 1, 2], _include_index=True) as results:
            return [result async for result in results]

    assert await within(clock, main()) == [(1, 1), (2, 2), (0, 3)]


async def test_leaving_amap_early_waits_for_all(library: Any, log: Log, clock: ManualClock) -> None:
    async def main() -> None:
        async with library.amap(log.sleep, [1, 2, 3], max_at_once=1) as results:
            async for _ in results:
                break

    await within(clock, main())
    assert log.of("end") == [(1, 1), (3, 2), (6, 3)]


async def test_workers_do_not_wait_for_a_consumer_of_a_list(library: Any, log: Log, clock: ManualClock) -> None:
    async def main() -> list[float]:
        async with library.amap(log.sleep, [1] * 50, max_at_once=10) as results:
            await asyncio.sleep(20)
            assert len(log.of("end")) == 50
            return [result async for result in results]

    assert await within(clock, main()) == [1] * 50


async def test_an_exception_in_the_block_cancels_the_items(library: Any, log: Log, clock: ManualClock) -> None:
    async def main() -> None:
        async with library.amap(log.sleep, [5, 6]):
            await asyncio.sleep(1)
            raise Failure("block")

    with pytest.raises(Failure, match="block"):
        await within(clock, main())
    assert sorted(log.of("cancelled")) == [(1, 5), (1, 6)]


async def test_an_exception_of_an_item_cancels_the_block(library: Any, log: Log, clock: ManualClock) -> None:
    async def main() -> None:
        try:
            async with library.amap(log.fail, [1]):
                await log.sleep(50)
        except Failure:
            log.note("caught", None)
        task = asyncio.current_task()
        assert not (hasattr(task, "cancelling") and task.cancelling())  # type: ignore[union-attr]
        await asyncio.sleep(1)  # whoever catches it is not cancelled

    await within(clock, main())
    assert log.of("cancelled") == [(1, 50)]
    assert log.of("caught") == [(1, None)]


async def test_an_exception_that_comes_as_the_block_ends_cancels_nobody(
    library: Any, log: Log, clock: ManualClock
) -> None:
    async def fail(item: int) -> None:
        raise Failure(item)

    async def main() -> None:
        with pytest.raises(Failure):
            async with library.amap(fail, [1]):
                pass
        await asyncio.sleep(1)

    await within(clock, main())


async def test_being_cancelled_cancels_the_items(library: Any, log: Log, clock: ManualClock) -> None:
    async def mapped() -> None:
        async with library.amap(log.sleep, [50, 60]) as results:
            async for _ in results:
                pass

    for main in (library.run_on_each(log.sleep, [50, 60]), mapped()):
        log.events.clear()
        task = asyncio.ensure_future(main)
        await clock.run(1)
        task.cancel()
        await clock.settle()
        assert task.cancelled()
        assert {item for _, item in log.of("cancelled")} == {50, 60}


@pytest.mark.parametrize("entry", ["run_all", "run_any"])
async def test_lambdas_are_refused(library: Any, entry: str) -> None:
    with pytest.raises(ValueError, match=r"(?s)lambda expression detected in .*functools.partial") as caught:
        await getattr(library, entry)([lambda: asyncio.sleep(0)])
    assert entry in str(caught.value)


@pytest.mark.parametrize("name", ["max_at_once", "max_per_second"])
@pytest.mark.parametrize("value", [0, -1])
async def test_bounds_are_positive(library: Any, name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"'{name}' must be > 0"):
        await library.run_on_each(asyncio.sleep, [0], **{name: value})
    with pytest.raises(ValueError, match=f"'{name}' must be > 0"):
        async with library.amap(asyncio.sleep, [0], **{name: value}):
            pass


async def test_max_at_once_is_a_whole_number(library: Any) -> None:
    with pytest.raises(TypeError):
        await library.run_on_each(asyncio.sleep, [0], max_at_once=1.5)


async def test_each_item_has_a_context_of_its_own(library: Any) -> None:
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(-1)

    async def visit(item: int) -> tuple[int, int]:
        before = variable.get()
        variable.set(item)
        await asyncio.sleep(0)
        return before, variable.get()

    async with library.amap(visit, range(10), max_at_once=2) as results:
        assert sorted([result async for result in results]) == [(-1, item) for item in range(10)]
    assert variable.get() == -1


async def test_an_item_may_have_a_timeout_and_cancel_scopes_of_its_own(library: Any, clock: ManualClock) -> None:
    async def visit(item: int) -> bool:
        with anyio.move_on_after(1) as scope:
            await asyncio.sleep(item)
        try:
            await asyncio.wait_for(asyncio.sleep(item), 1.5)
        except asyncio.TimeoutError:
            return True
        return bool(scope.cancel_called)

    async def main() -> list[bool]:
        return [
            bool(value) for value in await library.run_all([partial(visit, n) for n in (0, 2, 0, 3)], max_at_once=1)
        ]

    assert await within(clock, main()) == [False, True, False, True]


async def test_it_runs_within_a_cancel_scope_of_anyio(library: Any, log: Log, clock: ManualClock) -> None:
    async def main() -> bool:
        with anyio.move_on_after(5) as scope:
            await library.run_on_each(log.sleep, [1, 50], max_at_once=5)
        await asyncio.sleep(1)
        return scope.cancelled_caught

    assert await within(clock, main())
    assert log.of("cancelled") == [(5, 50)]


async def test_an_item_that_cancels_itself_is_as_if_it_had_never_been(clock: ManualClock) -> None:
    # aiometer ends the whole batch then, without a word.
    async def visit(item: int) -> int:
        if item == 1:
            raise asyncio.CancelledError
        await asyncio.sleep(item)
        return item

    async def main() -> list[int]:
        async with batch.amap(visit, [0, 1, 2, 3]) as results:
            return [result async for result in results]

    assert await within(clock, main()) == [0, 2, 3]
    with pytest.raises(asyncio.CancelledError):
        await batch.run_all([partial(visit, 1), partial(visit, 0)])


async def test_results_can_be_sent_to_a_channel(library: Any) -> None:
    async def double(item: int) -> int:
        return 2 * item

    send, receive = anyio.create_memory_object_stream[Any](10)
    with send, receive:
        await library.run_on_each(double, [1, 2], _include_index=True, _send_to=send)
        await library.run_on_each(double, [3], _send_to=send)
        assert [receive.receive_nowait() for _ in range(3)] == [(0, 2), (1, 4), 6]


async def test_any_awaitable_will_do(library: Any) -> None:
    loop = asyncio.get_running_loop()

    def future(item: int) -> asyncio.Future[int]:
        made = loop.create_future()
        loop.call_soon(made.set_result, item)
        return made

    async with library.amap(future, [1, 2]) as results:
        assert sorted([result async for result in results]) == [1, 2]


def on(backend: str, function: Callable[..., Any]) -> Any:
    return anyio.run(function, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_all_names_work_on_every_loop(library: Any, backend: str) -> None:
    async def double(item: int) -> int:
        await anyio.sleep(0.001 * item)
        return 2 * item

    async def main() -> None:
        seen: list[int] = []

        async def see(item: int) -> None:
            seen.append(await double(item))

        await library.run_on_each(see, [1, 2, 3], max_at_once=1, max_per_second=1000)
        assert seen == [2, 4, 6]
        assert await library.run_all([partial(double, 2), partial(double, 1)]) == [4, 2]
        assert await library.run_any([partial(double, 30), partial(double, 1)]) == 2
        async with library.amap(double, [3, 0], _include_index=True) as results:
            assert [result async for result in results] == [(1, 0), (0, 6)]
        with pytest.raises(StopAsyncIteration):
            await library.run_any([])

        async def fail(item: int) -> None:
            raise Failure(item)

        with pytest.raises(Failure):
            async with library.amap(fail, [1]):
                await anyio.sleep(60)
        with pytest.raises(Failure):
            async with library.amap(double, [1000]):
                raise Failure

    on(backend, main)


def test_the_names_are_those_of_the_package() -> None:
    for name in ("amap", "run_all", "run_any", "run_on_each"):
        assert getattr(aiolimiter_fast, name) is getattr(batch, name)
        assert name in aiometer.__all__
