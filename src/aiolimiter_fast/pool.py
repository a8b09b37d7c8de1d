"""WorkerPool: a bounded number of workers for a stream without end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from aiolimiter_fast._permits import is_limiter
from aiolimiter_fast.batch._groups import grouped, is_exit
from aiolimiter_fast.batch._workers import is_cancelled, isolated
from aiolimiter_fast.throttle import Throttle, whole_number

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Outcome", "WorkerPool"]

T = TypeVar("T")
R = TypeVar("R")


class Outcome(NamedTuple):
    """What came of an item: its result, or the error that the handler raised, the other being None."""

    item: Any
    result: Any
    error: BaseException | None


class WorkerPool(AsyncIterator[Outcome], Generic[T, R]):
    """Hand items to a handler, by a bounded number of workers.

    Arguments:
        handler: an async function of one item.
        workers: how many items are handled at once, 1 or more.
        limiter: what a permit for each item comes from, when its handling starts: an AsyncLimiter, a Limiter, any
            object with an async `acquire()` or `wait()`, or a Throttle; None: no rate.
        queue_size: how many items may wait for a worker, 1 or more; then `put` waits.
        keep_outcomes: let the outcomes be iterated over: `queue_size` of them wait at most, then the workers wait for
            whoever reads them. False drops them, and reports errors to the loop's exception handler.

    Use it as `async with WorkerPool(...) as pool:`, and in the block `await pool.put(item)`. `async for outcome in
    pool`, in the block or in another task, gives an Outcome for each item as it ends, and ends after `close()` or the
    end of the block. A block that just ends waits until all is handled, and what nobody has read by then can still be
    read. A block that ends with an exception cancels the handlers; then `unfinished` holds every item that was put and
    whose handler has not ended. A handler that raises has an outcome with its error, and its worker goes on.

    A pool belongs to one event loop, and is used once.

    Raises ValueError or TypeError, naming argument, value and bound, for what makes no sense.

    Example:
        import asyncio
        from aiolimiter_fast import AsyncLimiter, WorkerPool

        async def double(number):
            return 2 * number

        async def main():
            async with WorkerPool(double, workers=3, limiter=AsyncLimiter(1000, 1), queue_size=10) as pool:
                for number in range(5):
                    await pool.put(number)
                pool.close()
                return sorted([outcome.result async for outcome in pool])

        assert asyncio.run(main()) == [0, 2, 4, 6, 8]
    """

    def __init__(
        self,
        handler: Callable[[T], Awaitable[R]],
        workers: int = 10,
        limiter: Any = None,
        queue_size: int = 100,
        *,
        keep_outcomes: bool = True,
    ) -> None:
        if not callable(handler):
            raise TypeError(f"handler must be an async function, got {handler!r}")
        if limiter is not None and not isinstance(limiter, Throttle) and not is_limiter(limiter):
            raise TypeError(f"limiter must have acquire(), wait() or try_acquire_async(), got {limiter!r}")
        if not isinstance(keep_outcomes, bool):
            raise TypeError(f"keep_outcomes must be a bool, got {keep_outcomes!r}")
        self._handler = handler
        self._size = whole_number("workers", workers)
        self._queue_size = whole_number("queue_size", queue_size)
        self._throttle = limiter if limiter is None or isinstance(limiter, Throttle) else Throttle(limiter)
        self._keep = keep_outcomes
        self._queue: asyncio.Queue[T] = asyncio.Queue(self._queue_size)
        self._workers: set[asyncio.Task[None]] = set()
        self._in_hand: dict[asyncio.Task[None], T] = {}
        self._outcomes: deque[Outcome] = deque()
        self._changes: list[asyncio.Future[None]] = []
        self._putting = 0  # calls of `put`
        self._pending = 0  # items put and not handled
        # Each step follows the one before: open, no more items, the workers told to stop, no worker left.
        self._open = self._closed = self._stopping = self._ended = False
        self._errors: list[BaseException] = []
        self._unfinished: list[T] = []

    @property
    def unfinished(self) -> list[T]:
        """The items that were put and not handled to the end when the pool was cancelled: first those in hand."""
        return list(self._unfinished)

    @property
    def queued(self) -> int:
        """How many items wait for a worker."""
        return self._queue.qsize()

    @property
    def running(self) -> int:
        """How many items are in a worker's hands, those that wait for a permit included."""
        return len(self._in_hand)

    async def put(self, item: T) -> None:
        """Hand in an item, waiting while the queue is full. Cancelled, it has not put the item.

        Raises RuntimeError if the pool is closed, or not entered yet.
        """
        if not self._open or self._closed:
            raise RuntimeError(f"put() needs an open pool: this one is {'closed' if self._closed else 'not entered'}")
        self._putting += 1
        try:
            await self._queue.put(item)
            self._pending += 1
        finally:
            self._putting -= 1
            self._change()

    def close(self) -> None:
        """Take no more items. Those that were put, or wait to be, are handled."""
        self._closed = True
        self._change()

    async def join(self) -> None:
        """Wait until every item that was put is handled."""
        while self._putting or self._pending:
            await self._changed()

    def __aiter__(self) -> Self:
        if not self._keep:
            raise RuntimeError("a pool with keep_outcomes=False has none to iterate over")
        return self

    async def __anext__(self) -> Outcome:
        while not self._outcomes:
            if self._ended or (self._closed and not self._putting and not self._pending):
                raise StopAsyncIteration
            await self._changed()
        outcome = self._outcomes.popleft()
        self._change()
        return outcome

    async def __aenter__(self) -> Self:
        if self._open:
            raise RuntimeError("a pool is used once: this one has been entered already")
        self._open = True
        for _ in range(self._size):
            self._hire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        cancellations: list[BaseException] = []
        if error is None and not self._errors:
            try:
                await self.join()
            except asyncio.CancelledError as cancellation:
                cancellations.append(cancellation)
        self._stopping = True
        for worker in self._workers:
            worker.cancel()
        while self._workers:
            cancellations += await self._changed_or_cancelled()
        # What is left in the queue, and what those hand in who are still waiting for room in it.
        self._unfinished += self._in_hand.values()
        self._in_hand.clear()
        while self._putting or not self._queue.empty():
            while not self._queue.empty():
                self._unfinished.append(self._queue.get_nowait())
            if self._putting:
                cancellations += await self._changed_or_cancelled()
        self._ended = True
        self._change()
        failure = grouped(self._errors) if self._errors else None
        try:
            cancelled = bool(cancellations) or isinstance(error, asyncio.CancelledError)
            if failure is not None and not (cancelled and is_exit(failure)):
                raise failure from None
            if cancellations and error is None:
                raise cancellations[0]
        finally:
            del cancellations, failure

    def _hire(self) -> None:
        worker = asyncio.get_running_loop().create_task(self._work())
        self._workers.add(worker)
        worker.add_done_callback(self._leave)

    def _leave(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        self._change()
        if not worker.cancelled() and worker.exception() is not None:
            self._errors.append(cast(BaseException, worker.exception()))
        elif not self._stopping:  # somebody has cancelled the worker, but not the pool
            if worker in self._in_hand:
                self._report(worker, Outcome(self._in_hand[worker], None, asyncio.CancelledError()))
            self._hire()

    async def _work(self) -> None:
        worker = cast("asyncio.Task[None]", asyncio.current_task())
        while not self._stopping:
            item = self._in_hand[worker] = await self._queue.get()
            try:
                outcome = Outcome(item, await self._handle(item), None)
            except asyncio.CancelledError as error:
                if self._is_told_to_stop(worker):
                    raise
                outcome = Outcome(item, None, error)
            except Exception as error:
                outcome = Outcome(item, None, error)
            self._report(worker, outcome)
            del item, outcome
            await asyncio.sleep(0)  # for the sake of others, where queue and handler never wait
            while self._is_unread():
                await self._changed()

    def _is_told_to_stop(self, worker: asyncio.Task[None]) -> bool:
        return self._stopping or is_cancelled(worker)

    def _is_unread(self) -> bool:
        """Whether the workers wait for somebody to read outcomes."""
        return len(self._outcomes) >= self._queue_size and not (self._closed or self._stopping)

    async def _handle(self, item: T) -> R:
        if self._throttle is None:
            return cast(R, await isolated(self._handler, item))
        key = self._throttle.key_of(item)
        await self._throttle.enter(key)
        try:
            return cast(R, await isolated(self._handler, item))
        finally:
            self._throttle.leave(key)

    def _report(self, worker: asyncio.Task[None], outcome: Outcome) -> None:
        del self._in_hand[worker]
        self._pending -= 1
        self._queue.task_done()
        if self._keep:
            self._outcomes.append(outcome)
        elif outcome.error is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"a handler of {self!r} failed", "exception": outcome.error}
            )
        self._change()

    async def _changed(self) -> None:
        """Wait until something has changed."""
        change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changes.append(change)
        try:
            await change
        finally:
            if change in self._changes:
                self._changes.remove(change)

    async def _changed_or_cancelled(self) -> list[BaseException]:
        """Wait until something has changed, or this task is cancelled; give what it was cancelled by."""
        try:
            await self._changed()
        except asyncio.CancelledError as cancellation:
            return [cancellation]
        return []

    def _change(self) -> None:
        changes, self._changes = self._changes, []
        for change in changes:
            if not change.done():
                change.set_result(None)
