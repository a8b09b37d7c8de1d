"""Batches where asyncio does not run, on trio that is, through anyio; loaded there only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from aiolimiter_fast._permits import Permits
from aiolimiter_fast.batch._groups import collapsed
from aiolimiter_fast.batch._job import Job
from aiolimiter_fast.batch._results import Stream
from aiolimiter_fast.batch._workers import Sink

__all__ = ["AnyStream", "Pace", "Permitted", "Run", "amap", "clock"]

clock = anyio.current_time


class Pace:
    """One item every `1 / max_per_second` seconds, without a burst."""

    __slots__ = ("due", "interval")

    def __init__(self, max_per_second: float) -> None:
        self.interval = 1 / max_per_second
        self.due = float("-inf")

    def key_of(self, item: Any, /) -> Hashable:
        return None

    async def enter(self, key: Hashable, amount: float) -> None:
        start = max(self.due, clock())
        self.due = start + self.interval
        await anyio.sleep_until(start)

    def leave(self, key: Hashable) -> None:
        pass


class Permitted:
    """A limiter, asked again when it says that there will be room, since its own waits are asyncio's."""

    __slots__ = ("permits",)

    def __init__(self, limiter: Any) -> None:
        self.permits = Permits(limiter)

    def key_of(self, item: Any, /) -> Hashable:
        return None

    async def enter(self, key: Hashable, amount: float) -> None:
        permits = self.permits
        if permits.take is None or permits.wait_time is None:
            await permits.acquire(amount)
            return
        while not permits.take(amount):  # noqa: ASYNC110  # a limiter has no event
            await anyio.sleep(permits.pause(amount))

    def leave(self, key: Hashable) -> None:
        pass


class AnyStream(Stream):
    """A stream of results that any event loop's tasks can wait for."""

    __slots__ = ()

    async def _change(self) -> None:
        change = anyio.Event()
        self.waiters.append(change)
        await change.wait()

    def _wake(self) -> None:
        waiters, self.waiters = self.waiters, []
        for change in waiters:
            change.set()


class Run:
    """One batch: a task for each item, made when there is a place for it."""

    def __init__(self, job: Job, items: Any, most: int | None, sink: Sink | None) -> None:
        self.job = job
        self.items = items
        self.sink = sink
        self.places = None if most is None else anyio.Semaphore(most)
        self.closed = False
        self.pulling = anyio.CancelScope()

    def close(self) -> None:
        """Take no more items, and finish those that were taken."""
        self.closed = True
        self.pulling.cancel()

    async def __call__(self) -> None:
        job, gate, sink = self.job, self.job.gate, self.sink
        key, amount, index = None, 1.0, 0
        iterable = isinstance(self.items, Iterable)
        items: Any = iter(self.items) if iterable else aiter(self.items)
        async with anyio.create_task_group() as group:
            while True:
                if sink is not None and sink.full():
                    await sink.room()
                if self.places is not None:
                    await self.places.acquire()
                if self.closed:
                    break
                found = list(next_of(items)) if iterable else await self._pull(items)
                if not found:
                    break
                refusal = None
                if gate is not None:
                    try:
                        key, amount = gate.key_of(found[0]), job.amount(found[0])
                        await gate.enter(key, amount)
                    except Exception as error:
                        refusal = error
                group.start_soon(self._one, index, found[0], key, amount, refusal)
                index += 1

    async def _pull(self, items: AsyncIterator[Any]) -> list[Any]:
        with anyio.CancelScope() as self.pulling:
            try:
                return [await anext(items)]
            except StopAsyncIteration:
                pass
        return []

    async def _one(self, index: int, item: Any, key: Hashable, amount: float, failure: Exception | None) -> None:
        job = self.job
        result: Any = None
        if job.tally is not None:
            job.tally.start()
        if failure is None:
            try:
                if job.retry is not None:
                    result = await job.attempts(item, key, amount)
                else:
                    result = await job.function(item)
            except Exception as error:
                failure = error
            finally:
                if job.retry is None and job.gate is not None:
                    job.gate.leave(key)
        if job.tally is not None:
            job.tally.end(failed=failure is not None)
        if failure is not None:
            try:
                result = await job.mend(failure, item)
            finally:
                failure = None
        if self.sink is not None:
            self.sink.put(index, result)
        if self.places is not None:
            self.places.release()


def next_of(items: Any) -> Any:
    """The next item, or nothing."""
    for item in items:
        yield item
        return


@asynccontextmanager
async def amap(run: Run, results: Stream, endless: bool) -> AsyncIterator[Stream]:
    async def work() -> None:
        try:
            await run()
        finally:
            results.end()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            yield results
            results.discard()
            if endless:
                run.close()
    except BaseException as error:
        only = collapsed(error)
        if only is error:
            raise
        raise only from None
