"""WorkerPool: a bounded number of workers for a stream without end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from aiolimiter_fast._permits import is_limiter
from aiolimiter_fast.batch._groups import grouped
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


class WorkerPool(Generic[T, R]):
    """Hand items to a handler, by a bounded number of workers.

    Arguments:
        handler: an async function of one item.
        workers: how many items are handled at once, 1 or more.
        limiter: what a permit for each item comes from, when its handling starts: an AsyncLimiter, a Limiter, any object
            with an async `acquire()` or `wait()`, or a Throttle; None: no rate.
        queue_size: how many items may wait for a worker, 1 or more; then `put` waits.
        keep_outcomes: let the outcomes be iterated over: `queue_size` of them wait at most, then the workers wait for
            whoever reads them. False drops them, and reports errors to the loop's exception handler.

    Use it as `async with WorkerPool(...) as pool:`, and in the block `await pool.put(item)`. `async for outcome in pool`,
    in the block or in another task, gives an Outcome for each item as it ends, and ends after `close()` or the end of
    the block. A block that just ends waits until all is handled, and drops outcomes that nobody reads meanwhile. A block
    that ends with an exception cancels the handlers; then `unfinished` holds every item that was put and whose handler
    has not ended. A handler that raises has an outcome with its error, and its worker goes on.

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
        self._workers: set[asyncio.Task[None]] = set()
        self._busy: dict[asyncio.Task[None], T] = {}
        self._outcomes: deque[Outcome] = deque()
        self._changes: list[asyncio.Future[None]] = []
        self._putting = 0
        self._entered = self._closed = self._ended = False
        self._errors: list[BaseException] = []
        self._unfinished: list[T] = []

    @property
    def unfinished(self) -> list[T]:
        """The items that were put and not handled to the end, once a pool was cancelled: first those in hand."""
        return list(self._unfinished)

    @property
    def queued(self) -> int:
        """How many items wait for a worker."""
        return self._queue.qsize() if self._entered else 0

    @property
    def running(self) -> int:
        """How many items are in a worker's hands, those that wait for a permit included."""
        return len(self._busy)

    async def put(self, item: T) -> None:
        """Hand in an item, waiting while the queue is full.

        Raises RuntimeError if the pool is closed, or has not been entered. If it is cancelled, the item was not put.
        """
        if not self._entered or self._closed:
            raise RuntimeError(f"put() needs an open pool; this one {'is closed' if self._closed else 'is not entered'}")
        self._putting += 1
        try:
            await self._queue.put(item)
        finally:
            self._putting -= 1
            self._change()

    def close(self) -> None:
        """Take no more items. Those that were put, or wait to be, are handled."""
        self._closed = True
        self._change()

    async def join(self) -> None:
        """Wait until every item that was put is handled."""
        while self._putting or (self._entered and self._queue._unfinished_tasks):  # type: ignore[attr-defined]
            await self._changed()

    def __aiter__(self) -> AsyncIterator[Outcome]:
        if not self._keep:
            raise RuntimeError("a pool with keep_outcomes=False has none to iterate over")
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[Outcome]:
        while True:
            while self._outcomes:
                outcome = self._outcomes.popleft()
                self._change()
                yield outcome
            if self._ended or (self._closed and self._is_done()):
                return
            await self._changed()
