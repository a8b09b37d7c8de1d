"""Limiters that pace: asynciolimiter's three, and asyncio-throttle's Throttler.

On an event loop they wait through the engine. Where somebody has replaced `_asyncio` in this module, as
asynciolimiter's own tests do, they use nothing of its loop but `time`, `call_at` and `create_future`.
"""

from __future__ import annotations

import asyncio as _asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError
from math import ceil
from typing import TYPE_CHECKING, Any, TypeVar

from aiolimiter_fast import _arguments
from aiolimiter_fast._elsewhere import Dripping, Spaced, Ticking, Turns
from aiolimiter_fast._engine import engine
from aiolimiter_fast._version import __version__ as __version__
from aiolimiter_fast.errors import AcquireTimeout

if TYPE_CHECKING:
    from typing_extensions import Self

# As asynciolimiter's, whose name this module takes after `install()`; Throttler is another library's.
__all__ = ["LeakyBucketLimiter", "Limiter", "StrictLimiter"]
__author__ = "aiolimiter_fast authors"
__license__ = "MIT"

_T = TypeVar("_T")
_SECOND = 1_000_000_000
# For those who wait on any loop by the engine.
_STOCK: dict[str, Any] = {"_asyncio": _asyncio}


def _running_loop() -> Any:
    return _asyncio.get_running_loop()


class _Gate(engine.Gate):
    """What all have in common: the ways to wait."""

    def _wait_in_thread(self, call: str, timeout: float | None) -> None:
        outcome = self._sleep(timeout)
        if outcome == 0:
            raise AcquireTimeout(f"{call}(timeout={timeout!r}) would wait longer than its timeout", self._wait_time())
        if outcome < 0:
            raise CancelledError(f"{self!r} was cancelled")

    def __aenter__(self) -> Coroutine[Any, Any, None]:
        return self.wait()

    if TYPE_CHECKING:

        async def __aexit__(self, *exc: object) -> None: ...

    else:
        __aexit__ = engine.AsyncLimiter.__aexit__  # the extension's does not bind, which spares a bound method

    def __exit__(self, *exc: object) -> None:
        pass

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, None]:
        return self.wait()


class _Pacer(_Gate):
    """The methods that asynciolimiter's limiters share."""

    _line: Any
    _elsewhere: Turns | None
    _turns: type[Turns]
    _rate: float

    def __enter__(self) -> None:
        self.wait_sync()

    def wait_sync(self, timeout: float | None = None) -> None:
        """Wait for this thread's turn: `wait` for threads, in one line with the tasks.

        Arguments: timeout, seconds to wait at most, 0 or more; None waits as long as it takes.

        Raises AcquireTimeout, a TimeoutError with `retry_after` in seconds; concurrent.futures.CancelledError after
        `cancel`, `reset` or `close`; RuntimeError if the limiter is closed.
        """
        self._wait_in_thread("wait_sync", timeout)

    async def _wait_elsewhere(self) -> None:
        if self._elsewhere is None:
            self._elsewhere = self._turns(self, _running_loop)
            self._elsewhere.breached, self._elsewhere.closed = self._line._is_open()
        await self._elsewhere.wait()

    async def wrap(self, awaitable: Awaitable[_T]) -> _T:
        """Wait for a turn, then for `awaitable`, and return what it gives.

        A coroutine is closed if the wait fails or is cancelled.
        """
        try:
            await self.wait()
        except BaseException:
            if inspect.iscoroutine(awaitable):
                awaitable.close()
            raise
        return await awaitable

    def cancel(self) -> None:
        """Cancel all who wait. The next turn stays when it was."""
        self._line._cancel()
        if self._elsewhere is not None:
            self._elsewhere.cancel()

    def breach(self) -> None:
        """Let pass all who wait, and all who come until `reset`."""
        self._line._breach()
        if self._elsewhere is not None:
            self._elsewhere.breach()

    def reset(self) -> None:
        """Cancel all who wait, and be as new."""
        self._line._reset()
        if self._elsewhere is not None:
            self._elsewhere.reset()

    def close(self) -> None:
        """Cancel all who wait; from then on `wait` raises RuntimeError, until `reset`."""
        self._line._close()
        if self._elsewhere is not None:
            self._elsewhere.close()

    @property
    def rate(self) -> float:
        """Calls per second. Can be set while in use: those who wait are planned anew."""
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        self._pace(rate, self._most)

    @property
    def _most(self) -> int:
        return 1

    def _pace(self, rate: float, most: int) -> None:
        """Set both, or neither."""
        self._line._configure(_interval(rate), most)
        self._rate = rate

    def _describe(self) -> str:
        return f"rate={self._rate!r}"

    def __repr__(self) -> str:
        cls = type(self)
        module = cls.__module__
        if module == __name__ and sys.modules.get("asynciolimiter") is sys.modules[__name__]:
            module = "asynciolimiter"  # as which it can be evaluated, like asynciolimiter's
        return f"{module}.{cls.__qualname__}({self._describe()})"


class Limiter(_Pacer):
    """Let calls pass evenly, one every 1/rate seconds, and make up for the turns that the event loop was late for.

    Arguments:
        rate: calls per second; positive, 1e-9 to 1e12.
        max_burst: how many calls at most are let through at once where turns were missed; 1 or more.

    Turns that nobody waits for are not saved up: the first call after a pause passes, the next an interval later. A
    task that is cancelled when its turn has come leaves it to the next.

    Use it as `await limiter.wait()`, `async with limiter`, `async for _ in limiter` (a metronome), `limiter.wrap(...)`,
    and in threads as `limiter.wait_sync()` or `with limiter`. All wait in one line, in order of arrival.

    Raises ValueError or TypeError, naming argument, value and bound, for what makes no sense.

    Source of the algorithm: a virtual scheduling grid, as in ITU-T I.371, annex A, without a tolerance for early calls.

    Example:
        import asyncio
        from aiolimiter_fast import pacing

        async def main():
            limiter = pacing.Limiter(1000)
            for _ in range(10):
                await limiter.wait()

        asyncio.run(main())
    """

    _turns = Ticking

    def __init__(self, rate: float, *, max_burst: int = 5) -> None:
        self._use(engine.Ticks(), globals())
        self._max_burst = _arguments.whole("max_burst", max_burst, "calls")
        self._pace(rate, self._max_burst)

    @property
    def max_burst(self) -> int:
        """How many calls are let through at once at most. Can be set while in use."""
        return self._max_burst

    @max_burst.setter
    def max_burst(self, max_burst: int) -> None:
        most = _arguments.whole("max_burst", max_burst, "calls")
        self._pace(self._rate, most)
        self._max_burst = most

    @property
    def _most(self) -> int:
        return self._max_burst

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), (self._rate,), {"max_burst": self._max_burst})


class StrictLimiter(_Pacer):
    """Let no two calls pass closer to each other than 1/rate seconds.

    Arguments: rate, calls per second; positive, 1e-9 to 1e12.

    The distance is counted from when a call runs on, not from when it was due; so what is delivered is a little less
    than the rate. Between threads, or event loops, it is counted from when a call was let through. Use it as `Limiter`.

    Raises ValueError or TypeError, naming argument, value and bound, for what makes no sense.

    Source of the algorithm: a minimum inter-departure time (traffic shaping with a bucket of one).

    Example:
        import asyncio
        from aiolimiter_fast import StrictLimiter

        async def main():
            limiter = StrictLimiter(1000)
            for _ in range(10):
                async with limiter:
                    pass

        asyncio.run(main())
    """

    _turns = Spaced

    def __init__(self, rate: float) -> None:
        self._use(engine.Spacing(), globals())
        self._pace(rate, 1)

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), (self._rate,), {})


class LeakyBucketLimiter(_Pacer):
    """Let `capacity` calls pass at once, and then one every 1/rate seconds.

    Arguments:
        rate: calls per second; positive, 1e-9 to 1e12.
        capacity: calls that fill the bucket; 1 or more.

    Each call fills the bucket by one, and each 1/rate seconds it drains by one; a full one is waited for. Use it as
    `Limiter`.

    Raises ValueError or TypeError, naming argument, value and bound, for what makes no sense.

    Source of the algorithm: the leaky bucket as a meter, with a level of whole calls.

    Example:
        import asyncio
        from aiolimiter_fast import LeakyBucketLimiter

        async def main():
            limiter = LeakyBucketLimiter(1000, capacity=5)
            for _ in range(10):
                await limiter.wait()

        asyncio.run(main())
    """

    _turns = Dripping

    def __init__(self, rate: float, *, capacity: int = 10) -> None:
        self._use(engine.Drips(), globals())
        self._capacity = _arguments.whole("capacity", capacity, "calls")
        self._pace(rate, self._capacity)

    @property
    def capacity(self) -> int:
        """Calls that fill the bucket. Can be set while in use."""
        return self._capacity

    @capacity.setter
    def capacity(self, capacity: int) -> None:
        most = _arguments.whole("capacity", capacity, "calls")
        self._pace(self._rate, most)
        self._capacity = most

    @property
    def _most(self) -> int:
        return self._capacity

    def _describe(self) -> str:
        return f"rate={self._rate!r}, capacity={self._capacity!r}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), (self._rate,), {"capacity": self._capacity})


class Throttler(_Gate):
    """Let at most `rate_limit` calls pass in any `period` seconds, wherever these begin.

    Arguments:
        rate_limit: calls; 1 or more. A fraction counts as a whole, as in asyncio-throttle.
        period: seconds; 1e-9 to 1e9.
        retry_interval: seconds, without a meaning here. Nothing is polled: who waits is woken when there is room.

    All three can be set while in use. Those who wait are served in order of arrival, threads and tasks alike; a call
    counts from when it was let through. Use it as `async with throttler`, `await throttler.acquire()`, and in threads
    as `with throttler` or `throttler.acquire_sync()`. It may be used in several event loops, in turn or at once.

    Raises ValueError or TypeError, naming argument, value and bound, for what makes no sense.

    Source of the algorithm: the sliding-window log.

    Example:
        import asyncio
        from aiolimiter_fast import Throttler

        async def main():
            throttler = Throttler(rate_limit=100, period=0.1)
            for _ in range(10):
                async with throttler:
                    pass

        asyncio.run(main())
    """

    _line: Any

    def __init__(self, rate_limit: int, period: float = 1.0, retry_interval: float = 0.01) -> None:
        self._use(engine.Window(), _STOCK)
        _arguments.number("retry_interval", retry_interval)
        self._limit(rate_limit, period)
        self.retry_interval = retry_interval

    # The engine's own, which spares a frame: wait until another call may pass.
    acquire = engine.Gate.wait

    def __aenter__(self) -> Coroutine[Any, Any, None]:
        return self.acquire()

    def __enter__(self) -> None:
        self.acquire_sync()

    def acquire_sync(self, timeout: float | None = None) -> None:
        """Wait in this thread until another call may pass: `acquire` for threads.

        Arguments: timeout, seconds to wait at most, 0 or more; None waits as long as it takes.

        Raises AcquireTimeout, a TimeoutError with `retry_after` in seconds.
        """
        self._wait_in_thread("acquire_sync", timeout)

    def flush(self) -> None:
        """Forget the calls that are older than `period`; it is done anyway as calls come."""
        self._line._leak(self._now_ns() - round(self._period * _SECOND))

    @property
    def rate_limit(self) -> float:
        """Calls in any period."""
        return self._rate_limit

    @rate_limit.setter
    def rate_limit(self, rate_limit: float) -> None:
        self._limit(rate_limit, self._period)

    @property
    def period(self) -> float:
        """Seconds."""
        return self._period

    @period.setter
    def period(self, period: float) -> None:
        self._limit(self._rate_limit, period)

    def _limit(self, rate_limit: float, period: float) -> None:
        limit, seconds = _arguments.number("rate_limit", rate_limit), _arguments.number("period", period)
        if not 0 < limit <= _arguments.MAX_RATE:
            raise ValueError(f"rate_limit must be positive and at most {_arguments.MAX_RATE:g}, got {rate_limit!r}")
        _arguments.period("period", seconds)
        self._line._configure([None], [ceil(limit)], [ceil(seconds * _SECOND)])
        self._rate_limit, self._period = rate_limit, period

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rate_limit={self._rate_limit!r}, period={self._period!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._rate_limit, self._period, self.retry_interval)


def _interval(rate: float) -> float:
    """Nanoseconds between two calls."""
    permits = _arguments.number("rate", rate)
    if not 1 / _arguments.MAX_PERIOD <= permits <= _arguments.MAX_RATE:
        bounds = f"{1 / _arguments.MAX_PERIOD:g} to {_arguments.MAX_RATE:g}"
        raise ValueError(f"rate must be {bounds} calls per second, got {rate!r}")
    return _SECOND / permits


def _made(cls: Callable[..., _T], args: tuple[Any, ...], options: dict[str, Any]) -> _T:
    return cls(*args, **options)
