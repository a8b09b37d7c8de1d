"""Batches on asyncio: a few workers instead of a task for each item.

One worker at a time leads: it alone asks for the next item, and for its permit. So items start in order, no more than
one is waiting ahead, and an input without end is consumed as it is needed. The leader runs the item's first step, and
goes on to the next item if that was all. If the item waits for something, another worker takes the lead.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterable, Callable, Generator, Iterable
from contextvars import Context, copy_context
from time import monotonic
from types import CoroutineType
from typing import Any, Protocol, cast

from aiolimiter_fast.batch._groups import grouped, is_exit
from aiolimiter_fast.batch._job import Job

__all__ = ["Crew", "Sink", "is_cancelled", "isolated"]

# Seconds for which items that never wait may hold the loop.
SLICE = 0.0005


class Sink(Protocol):
    """Where results go."""

    def put(self, index: int, result: Any, /) -> None: ...
    def skip(self, index: int, /) -> None: ...
    def full(self) -> bool: ...
    async def room(self) -> None: ...


class Source:
    """The items of an iterable."""

    __slots__ = ("items",)

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = iter(items)

    def close(self) -> None:
        pass


class AsyncSource:
    """The items of an async iterable, each asked for when a worker wants it.

    They are read in one task, since what an async generator opens belongs to the task that runs it.
    """

    __slots__ = ("arrived", "ended", "error", "found", "items", "task", "wanted")

    def __init__(self, items: AsyncIterable[Any]) -> None:
        loop = asyncio.get_running_loop()
        self.items = items
        self.found: list[Any] = []
        self.ended = False
        self.error: BaseException | None = None
        self.wanted: asyncio.Future[None] = loop.create_future()
        self.arrived: asyncio.Future[None] = loop.create_future()
        self.task = loop.create_task(self._read())

    async def _read(self) -> None:
        try:
            await self.wanted
            async for item in self.items:
                self.found.append(item)
                self.wanted = self.wanted.get_loop().create_future()
                self._announce()
                await self.wanted
        except Exception as error:
            self.error = error
        finally:
            self.ended = True
            self._announce()

    def _announce(self) -> None:
        if not self.arrived.done():
            self.arrived.set_result(None)

    async def next(self) -> tuple[Any, ...]:
        """A tuple of the next item, or of nothing at the end."""
        while not self.found:
            if self.ended:
                if self.error is not None:
                    raise self.error
                return ()
            self.arrived = self.arrived.get_loop().create_future()
            if not self.wanted.done():
                self.wanted.set_result(None)
            await self.arrived
        return (self.found.pop(),)

    def close(self) -> None:
        self.task.cancel()


@types.coroutine
def rest(coroutine: Any, context: Context, step: Any) -> Generator[Any, Any, Any]:
    """Await a coroutine that has taken its first step in a context of its own."""
    run, send, throw = context.run, coroutine.send, coroutine.throw
    while True:
        advance: Callable[[Any], Any] = send
        value: Any = None
        try:
            value = yield step
        except GeneratorExit:
            run(coroutine.close)
            raise
        except BaseException as error:
            advance, value = throw, error
        try:
            step = run(advance, value)
        except StopIteration as stop:
            return stop.value


async def awaited(awaitable: Any) -> Any:
    return await awaitable


async def isolated(function: Any, item: Any) -> Any:
    """Call an async function in a context of its own, as a task would, but in this task."""
    context = copy_context()
    coroutine = context.run(function, item)
    if type(coroutine) is not CoroutineType:
        coroutine = awaited(coroutine)
    try:
        step = context.run(coroutine.send, None)
    except StopIteration as stop:
        return stop.value
    return await rest(coroutine, context, step)


def is_cancelled(worker: Any) -> bool:
    """Whether somebody wants this task to end. (Python 3.10 does not tell.)"""
    return hasattr(worker, "cancelling") and worker.cancelling() > 0


def _nothing() -> None:
    pass


class Crew:
    """The workers of one batch.

    Arguments:
        job: what is done for each item.
        items: an iterable or an async iterable.
        most: how many run at once; None: any number.
        sink: where results go; None drops them.
        failed: called at the first failure, when the workers have been told to stop.
        ended: called when no worker is left.
    """

    __slots__ = (
        "ahead", "closed", "count", "ended", "errors", "exhausted", "failed", "idle", "interrupted", "job", "leading",
        "loop", "most", "resting", "sink", "slice_end", "source", "standby", "stopping", "workers",
    )  # fmt: skip

    def __init__(
        self,
        job: Job,
        items: Any,
        most: int | None,
        sink: Sink | None,
        failed: Callable[[], object] = _nothing,
        ended: Callable[[], object] = _nothing,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.job = job
        self.source = Source(items) if isinstance(items, Iterable) else AsyncSource(items)
        self.most = most
        self.sink = sink
        self.failed = failed
        self.ended = ended
        self.errors: list[BaseException] = []
        self.workers: set[asyncio.Task[None]] = set()
        self.count = 0
        self.exhausted = False
        self.closed = False  # no more items are wanted
        self.stopping = False
        self.interrupted = False
        self.leading = False
        # Workers that have not run yet. They take the lead one after the other, all in one turn of the loop; twice
        # as many are made the next time, until one is not needed.
        self.standby: set[asyncio.Task[None]] = set()
        self.ahead = 1
        self.resting = False
        self.slice_end = monotonic() + SLICE
        self.idle: asyncio.Future[None] | None = None
        self._spawn()

    async def join(self) -> BaseException | None:
        """Wait until no worker is left; return what went wrong. Cancelled, stop the workers and wait for them."""
        cancelled = None
        while self.workers:
            self.idle = self.loop.create_future()
            try:
                await self.idle
            except asyncio.CancelledError as error:
                cancelled = cancelled or error
                self.interrupted = True
                if not self.stopping:  # else they have been told, and may be cleaning up
                    self.stop()
        self.source.close()
        failure = grouped(self.errors) if self.errors else None
        try:
            if failure is not None and not (cancelled is not None and is_exit(failure)):
                return failure
            if cancelled is not None:
                raise cancelled
            return None
        finally:
            self.errors = []
            del cancelled, failure

    def close(self) -> None:
        """Take no more items, and finish those that were taken."""
        self.closed = True
        self.source.close()

    def stop(self) -> None:
        """Cancel the workers."""
        self.stopping = True
        for worker in self.workers:
            worker.cancel()
        self.source.close()

    def _spawn(self) -> None:
        most = self.ahead if self.most is None else min(self.ahead, self.most - len(self.workers))
        for _ in range(most):
            # Not by the loop's factory: eager tasks would start each other, one within the other.
            worker = asyncio.Task(self._work(), loop=self.loop)
            self.standby.add(worker)
            self.workers.add(worker)
            worker.add_done_callback(self._ended)
        if most:
            self.ahead *= 2

    def _ended(self, worker: asyncio.Task[None]) -> None:
        self.workers.discard(worker)
        self.standby.discard(worker)
        error = None if worker.cancelled() else worker.exception()
        if error is not None:
            self.errors.append(error)
            if not self.stopping:
                self.stop()
                self.failed()
        elif not (self.stopping or self.exhausted or self.leading or self.standby):
            self._spawn()  # somebody has cancelled the worker, but not the batch
        if not self.workers:
            self.ended()
            if self.idle is not None and not self.idle.done():
                self.idle.set_result(None)

    def _hand_over(self) -> None:
        """Let another worker lead."""
        self.leading = False
        if not self.standby and not self.exhausted:
            self._spawn()

    async def _work(self) -> None:
        job, gate, tally, sink = self.job, self.job.gate, self.job.tally, self.sink
        source = self.source
        items = source.items if isinstance(source, Source) else None
        key: Any = None
        leads = False
        self.standby.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        if self.leading:  # and waits for something: nobody else is needed now
            self.ahead = 1
        try:
            while not (self.exhausted or self.stopping):
                if not leads:
                    if self.leading:
                        return
                    leads = self.leading = True
                if sink is not None and sink.full():
                    await sink.room()
                if self.closed:
                    self.exhausted = True
                    return
                if items is not None:
                    try:
                        item = next(items)
                    except StopIteration:
                        self.exhausted = True
                        return
                else:
                    found = await source.next()  # type: ignore[union-attr]
                    if not found:
                        self.exhausted = True
                        return
                    item = found[0]
                index = self.count
                self.count += 1
                amount = 1.0
                inside = False
                failure: BaseException | None = None
                result: Any = None
                if tally is not None:
                    tally.start()
                context = copy_context()
                try:
                    if gate is not None:
                        key, amount = gate.key_of(item), job.amount(item)
                        await gate.enter(key, amount)
                        inside = True
                    if job.retry is None:
                        coroutine: Any = context.run(job.function, item)
                        if type(coroutine) is not CoroutineType:
                            coroutine = awaited(coroutine)
                    else:
                        inside = False
                        coroutine = job.attempts(item, key, amount)
                    try:
                        step = context.run(coroutine.send, None)
                    except StopIteration as stop:
                        result = stop.value
                    else:
                        leads = False
                        self._hand_over()
                        result = await rest(coroutine, context, step)
                except BaseException as error:
                    if not self._is_failure(error):
                        raise
                    failure = error
                finally:
                    if inside and gate is not None:
                        gate.leave(key)
                if failure is not None:
                    if tally is not None:
                        tally.end(failed=True)
                    if job.on_error == "raise" and isinstance(failure, asyncio.CancelledError):
                        if sink is not None:  # as if it had never been: so it is in anyio's task groups, and asyncio's
                            sink.skip(index)
                        continue
                    if leads and callable(job.on_error):  # which may take its time
                        leads = False
                        self._hand_over()
                    try:
                        result = await job.mend(failure, item)
                    finally:
                        failure = None
                elif tally is not None:
                    tally.end(failed=False)
                if sink is not None:
                    sink.put(index, result)
                result = coroutine = item = None
                if leads and (self.resting or monotonic() > self.slice_end):
                    await self._rest()
        finally:
            if leads:
                self.leading = False

    def _is_failure(self, error: BaseException) -> bool:
        """Whether an item has failed, rather than its worker been told to stop."""
        if not isinstance(error, asyncio.CancelledError):
            return isinstance(error, Exception)
        return not self.stopping and not is_cancelled(asyncio.current_task())

    async def _rest(self) -> None:
        """Let the loop do what else there is, after a slice of items that have never waited for anything."""
        if not self.resting:
            self.resting = True
            self.loop.call_soon(self._resume)
        await asyncio.sleep(0)

    def _resume(self) -> None:
        self.resting = False
        self.slice_end = monotonic() + SLICE
