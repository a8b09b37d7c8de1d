"""Run an async function on many items: aiometer's names, for any input, with any limiter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence, Sized
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from types import FunctionType, TracebackType
from typing import Any, Literal, TypeVar, cast, overload

from aiolimiter_fast import _arguments
from aiolimiter_fast._permits import is_limiter
from aiolimiter_fast.batch._groups import collapsed
from aiolimiter_fast.batch._job import Gate, Job
from aiolimiter_fast.batch._progress import Progress, Tally
from aiolimiter_fast.batch._results import Collected, Stream
from aiolimiter_fast.leaky import AsyncLimiter
from aiolimiter_fast.throttle import Throttle

__all__ = ["Progress", "amap", "run_all", "run_any", "run_on_each"]

T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V")

Items = Iterable[T] | AsyncIterable[T]
Handler = Callable[[Exception, T], V]
Report = Callable[[Progress], object]

# Results that may wait for a consumer where the input has no length and `max_at_once` does not say.
BUFFER = 100


async def run_on_each(
    async_fn: Callable[[T], Awaitable[object]],
    args: Items[T],
    *,
    max_at_once: int | None = None,
    max_per_second: float | None = None,
    limiter: Any = None,
    weight: float | Callable[[T], float] = 1,
    on_error: Literal["raise", "return"] | Handler[T, object] = "raise",
    retry: Any = None,
    progress: bool | Report = False,
    _include_index: bool = False,
    _send_to: Any = None,
) -> None:
    """Run `async_fn` on each item.

    Items start in order. None is asked for before there is a place for it, so an input without end needs no more
    memory than a short one, as long as `max_at_once` is given, or a limiter holds it back.

    Arguments:
        async_fn: a function of one item, that returns an awaitable. Each call has a copy of the context of its own.
        args: the items, an iterable or an async iterable.
        max_at_once: how many run at once, 1 or more; None: any number.
        max_per_second: how many start per second, evenly, without a burst; positive. None: any number.
        limiter: what the permits come from in place of max_per_second, an AsyncLimiter, a Limiter, any object with an
            async `acquire()` or `wait()`, or a Throttle, which may be shared with other batches.
        weight: permits for an item, or a function of the item that says how many; needs `limiter`.
        on_error: "raise" ends the batch when an item fails, and cancels the others; "return" goes on, with the
            exception for a result; a function of exception and item goes on with what it returns, or awaits.
        retry: a tenacity.AsyncRetrying, or another object that is called with a function and its argument, or that
            gives context managers for its attempts to `async for`. Each attempt takes a permit.
        progress: True shows a bar, by rich; or a function that is called with a Progress at most every 0.1 s, and at
            the start and the end.

    Raises the exceptions of items in an ExceptionGroup, even if it is one (before Python 3.11, if the exceptiongroup
    package is there, which anyio installs; else the first as it is); ValueError or TypeError, before anything starts,
    for arguments that make no sense.

    Runs on asyncio, and on trio if anyio is installed; on trio a Throttle cannot be the limiter.

    Example:
        import asyncio
        from aiolimiter_fast import AsyncLimiter, run_on_each

        async def visit(page):
            print(page)

        asyncio.run(run_on_each(visit, range(10), max_at_once=5, limiter=AsyncLimiter(100, 1)))
    """
    batch = Batch(async_fn, args, max_at_once, max_per_second, limiter, weight, on_error, retry, progress)
    if _send_to is not None:
        batch.send_to(_send_to, _include_index)
    error = await batch.run(None)
    if error is not None:
        try:
            raise error
        finally:
            del error


@overload
def amap(
    async_fn: Callable[[T], Awaitable[U]],
    args: Items[T],
    *,
    max_at_once: int | None = None,
    max_per_second: float | None = None,
    limiter: Any = None,
    weight: float | Callable[[T], float] = 1,
    on_error: Literal["raise"] = "raise",
    retry: Any = None,
    progress: bool | Report = False,
    ordered: bool = False,
    _include_index: Literal[False] = False,
) -> AbstractAsyncContextManager[AsyncIterator[U]]: ...


@overload
def amap(
    async_fn: Callable[[T], Awaitable[U]],
    args: Items[T],
    *,
    max_at_once: int | None = None,
    max_per_second: float | None = None,
    limiter: Any = None,
    weight: float | Callable[[T], float] = 1,
    on_error: Literal["raise"] = "raise",
    retry: Any = None,
    progress: bool | Report = False,
    ordered: bool = False,
    _include_index: Literal[True],
) -> AbstractAsyncContextManager[AsyncIterator[tuple[int, U]]]: ...


@overload
def amap(
    async_fn: Callable[[T], Awaitable[U]],
    args: Items[T],
    *,
    max_at_once: int | None = None,
    max_per_second: float | None = None,
    limiter: Any = None,
    weight: float | Callable[[T], float] = 1,
    on_error: Literal["return"],
    retry: Any = None,
    progress: bool | Report = False,
    ordered: bool = False,
) -> AbstractAsyncContextManager[AsyncIterator[U | Exception]]: ...


@overload
def amap(
    async_fn: Callable[[T], Awaitable[U]],
    args: Items[T],
    *,
    max_at_once: int | None = None,
    max_per_second: float | None = None,
    limiter: Any = None,
    weight: float | Callable[[T], float] = 1,
    on_error: Handler[T, Awaitable[V]] | Handler[T, V],
    retry: Any = None,
    progress: bool | Report = False,
    ordered: bool = False,
) -> AbstractAsyncContextManager[AsyncIterator[U | V]]: ...


def amap(
    async_fn: Callable[[Any], Awaitable[Any]],
    args: Items[Any],
    *,
    max_at_once: int | None = None,
    max_per_second: float | None = None,
    limiter: Any = None,
    weight: float | Callable[[Any], float] = 1,
    on_error: Any = "raise",
    retry: Any = None,
    progress: bool | Report = False,
    ordered: bool = False,
    _include_index: bool = False,
) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
    """Run `async_fn` on each item, and iterate over the results as they complete.

    Use it as `async with amap(...) as results:`, and `async for result in results:` in the block. Leaving the block
    waits for all items. If the input has no length, it waits for those that were taken from it; and a consumer that is
    slower than the workers holds them back, where `max_at_once` results wait for it. (An input that has a length is
    run to the end though nobody looks, as in aiometer.)

    Arguments: as for `run_on_each`, and
        ordered: give the results in the order of the input.

    An exception in the block cancels the items, one of an item the block. Raises that exception as it is, or several in
    an ExceptionGroup.

    Example:
        import asyncio
        from aiolimiter_fast import amap

        async def double(number):
            return 2 * number

        async def main():
            async with amap(double, range(5), max_at_once=2, ordered=True) as results:
                return [result async for result in results]

        assert asyncio.run(main()) == [0, 2, 4, 6, 8]
    """
    batch = Batch(async_fn, args, max_at_once, max_per_second, limiter, weight, on_error, retry, progress)
    return Block(batch, bool(ordered), bool(_include_index))


@overload
async def run_all(
    async_fns: Items[Callable[[], Awaitable[T]]],
    *,
    max_at_once: int | None = None,
    max_per_second: float | None = None,
    limiter: Any = None,
    weight: float | Callable[[Callable[[], Awaitable[T]]], float] = 1,
    on_error: Literal["raise"] = "raise",
    retry: Any = None,
    progress: bool | Report = False,
) -> list[T]: ...


@overload
async def run_all(
    async_fns: Items[Callable[[], Awaitable[T]]],
    *,
    max_at_once: int | None = None,
    max_per_second: float | None = None,
    limiter: Any = None,
    weight: float | Callable[[Callable[[], Awaitable[T]]], float] = 1,
    on_error: Literal["return"],
    retry: Any = None,
    progress: bool | Report = False,
) -> list[T | Exception]: ...


@overload
async def run_all(
    async_fns: Items[Callable[[], Awaitable[T]]],
    *,
    max_at_once: int | None = None,
    max_per_second: float | None = None,
    limiter: Any = None,
    weight: float | Callable[[Callable[[], Awaitable[T]]], float] = 1,
    on_error: Handler[Callable[[], Awaitable[T]], Awaitable[V]] | Handler[Callable[[], Awaitable[T]], V],
    retry: Any = None,
    progress: bool | Report = False,
) -> list[T | V]: ...


async def run_all(
    async_fns: Items[Callable[[], Awaitable[Any]]],
    *,
    max_at_once: int | None = None,
    max_per_second: float | None = None,
    limiter: Any = None,
    weight: float | Callable[[Any], float] = 1,
    on_error: Any = "raise",
    retry: Any = None,
    progress: bool | Report = False,
) -> list[Any]:
    """Call each function, and return the results in the order of the functions.

    Arguments: async_fns, functions without arguments that return awaitables, from an iterable or an async iterable;
    the others as for `run_on_each`.

    Raises the exception of one that fails as it is, or several in an ExceptionGroup, having cancelled the others;
    ValueError if a lambda expression is among them.
    """
    batch = Batch(
        caller(async_fns, "run_all"), async_fns, max_at_once, max_per_second, limiter, weight, on_error, retry, progress
    )
    collected = Collected()
    error = await batch.run(collected)
    if error is None and not collected.complete():
        error = asyncio.CancelledError()  # of a function that was cancelled; as when one awaits its task
    if error is not None:
        try:
            raise collapsed(error)
        finally:
            del error
    return collected.results


async def run_any(
    async_fns: Items[Callable[[], Awaitable[T]]],
    *,
    max_at_once: int | None = None,
    max_per_second: float | None = None,
    limiter: Any = None,
    weight: float | Callable[[Callable[[], Awaitable[T]]], float] = 1,
    on_error: Any = "raise",
    retry: Any = None,
    progress: bool | Report = False,
) -> T:
    """Call each function, and return the first result.

    The others are not cancelled: as in aiometer, it returns when all have ended. (If the input has no length, no more
    are started.)

    Arguments: as for `run_all`.

    Raises the exception of one that fails, even after the first result; StopAsyncIteration if there are none;
    ValueError if a lambda expression is among them.
    """
    batch = Batch(
        caller(async_fns, "run_any"), async_fns, max_at_once, max_per_second, limiter, weight, on_error, retry, progress
    )
    async with Block(batch, False, False) as results:
        return cast(T, await anext(results))


class Batch:
    """The arguments of a batch, checked."""

    def __init__(
        self,
        function: Any,
        items: Any,
        max_at_once: Any,
        max_per_second: Any,
        limiter: Any,
        weight: Any,
        on_error: Any,
        retry: Any,
        progress: Any,
    ) -> None:
        if not callable(function):
            raise TypeError(f"async_fn must be a function, got {function!r}")
        if not isinstance(items, (Iterable, AsyncIterable)):
            raise TypeError(f"args must be iterable or async iterable, got {items!r}")
        if max_at_once is not None:
            if not isinstance(max_at_once, int) or isinstance(max_at_once, bool):
                raise TypeError(f"'max_at_once' must be a whole number, got {max_at_once!r}")
            if max_at_once <= 0:
                raise ValueError(f"'max_at_once' must be > 0, got {max_at_once!r}")
        if max_per_second is not None:
            if limiter is not None:
                raise ValueError(f"max_per_second={max_per_second!r} and a limiter cannot be given both")
            if max_per_second != float("inf") and _arguments.number("'max_per_second'", max_per_second) <= 0:
                raise ValueError(f"'max_per_second' must be > 0, got {max_per_second!r}")
        if limiter is not None and not isinstance(limiter, Throttle) and not is_limiter(limiter):
            raise TypeError(f"limiter must have acquire(), wait() or try_acquire_async(), got {limiter!r}")
        if not callable(weight):
            _arguments.amount(weight)
        if limiter is None and weight != 1:
            raise ValueError(f"weight={weight!r} needs a limiter")
        if not callable(on_error) and on_error not in ("raise", "return"):
            raise ValueError(f'on_error must be "raise", "return" or a function, got {on_error!r}')
        if retry is not None and not callable(retry) and not isinstance(retry, AsyncIterable):
            raise TypeError(f"retry must be called with a function, or be iterated by `async for`, got {retry!r}")
        if not isinstance(progress, bool) and not callable(progress):
            raise TypeError(f"progress must be a bool or a function, got {progress!r}")
        self.function: Any = function
        self.items: Any = items
        self.total: int | None = len(cast(Sized, items)) if isinstance(items, Sized) else None
        self.most = max_at_once
        self.max_per_second = max_per_second
        self.limiter = limiter
        self.weight: Any = weight
        self.on_error = on_error
        self.retry = retry
        self.progress = progress

    def send_to(self, channel: Any, include_index: bool) -> None:
        """Let each result be sent to a channel, before its item ends."""
        function = self.function

        async def send(pair: tuple[int, Any]) -> None:
            result = await function(pair[1])
            await channel.send((pair[0], result) if include_index else result)

        self.items, self.function = enumerate(self.items), send

    def job(self, gate: Gate | None, clock: Callable[[], float]) -> Job:
        report = self.progress
        if report is True:
            from aiolimiter_fast.batch._rich import Bar

            report = Bar()
        tally = Tally(report, self.total, clock) if report else None
        return Job(self.function, gate, self.weight, self.on_error, self.retry, tally)

    def asyncio_job(self) -> Job:
        gate: Throttle | None = None
        if isinstance(self.limiter, Throttle):
            gate = self.limiter
        elif self.limiter is not None:
            gate = Throttle(self.limiter)
        elif self.max_per_second is not None and self.max_per_second <= _arguments.MAX_RATE:
            gate = Throttle(AsyncLimiter(self.max_per_second, 1, burst=1))
        return self.job(gate, asyncio.get_running_loop().time)

    def anyio_job(self, anyio: Any) -> Job:
        gate: Gate | None = None
        if isinstance(self.limiter, Throttle):
            raise TypeError(f"a Throttle waits on asyncio only, got {self.limiter!r}")
        if self.limiter is not None:
            gate = anyio.Permitted(self.limiter)
        elif self.max_per_second is not None:
            gate = anyio.Pace(self.max_per_second)
        return self.job(gate, anyio.clock)

    async def run(self, sink: Collected | None) -> BaseException | None:
        """Run all; return what went wrong."""
        if on_asyncio():
            from aiolimiter_fast.batch._workers import Crew

            job = self.asyncio_job()
            try:
                return await Crew(job, self.items, self.most, sink).join()
            finally:
                close(job)
        anyio = load_anyio()
        job = self.anyio_job(anyio)
        try:
            await anyio.Run(job, self.items, self.most, sink)()
        except Exception as error:
            return error
        finally:
            close(job)
        return None


class Block(AbstractAsyncContextManager[AsyncIterator[Any]]):
    """A batch that runs while an `async with` block does."""

    def __init__(self, batch: Batch, ordered: bool, include_index: bool) -> None:
        self.batch = batch
        self.ordered = ordered
        self.include_index = include_index
        self.running: Any = None
        self.job: Job | None = None

    async def __aenter__(self) -> AsyncIterator[Any]:
        if self.running is not None:
            raise RuntimeError("amap() has been entered already")
        batch, endless = self.batch, self.batch.total is None
        most = (batch.most or BUFFER) if endless else None
        if on_asyncio():
            from aiolimiter_fast.batch._amap import Amap

            self.job = batch.asyncio_job()
            results = Stream(most, self.ordered, self.include_index)
            self.running = Amap(self.job, batch.items, batch.most, results, endless)
            return results
        anyio = load_anyio()
        self.job = batch.anyio_job(anyio)
        results = anyio.AnyStream(most, self.ordered, self.include_index)
        run = anyio.Run(self.job, batch.items, batch.most, results)
        self.running = anyio.amap(run, results, endless)
        return cast(AsyncIterator[Any], await self.running.__aenter__())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.running.__aexit__(kind, error, traceback)
        finally:
            if self.job is not None:
                close(self.job)


def close(job: Job) -> None:
    if job.tally is not None:
        job.tally.close()


def on_asyncio() -> bool:
    """Whether the caller is a task of asyncio's. (The loop alone does not tell: trio can run as its guest.)"""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


def load_anyio() -> Any:
    try:
        return import_module("aiolimiter_fast.batch._anyio")
    except ImportError as error:
        raise RuntimeError("batches need asyncio, or anyio: pip install aiolimiter-fast[anyio]") from error


def caller(functions: Any, entry: str) -> Callable[[Any], Any]:
    """What calls one of the functions; raises ValueError for lambda expressions."""

    def check(function: Any) -> None:
        if isinstance(function, FunctionType) and function.__name__ == "<lambda>":
            raise ValueError(
                f"{entry}: lambda expression detected in the functions, {function!r}. Lambdas made in a loop all see"
                " the last value of its variable; make functools.partial(function, value) of each instead"
            )

    if isinstance(functions, Sequence):
        for function in functions:
            check(function)
        return lambda function: function()

    def call(function: Any) -> Any:
        check(function)
        return function()

    return call
