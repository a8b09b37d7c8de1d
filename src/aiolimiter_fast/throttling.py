"""Throttling as the throttler package names it: decorators, and how many run at once.

Its stopwatch, `Timer`, limits nothing and is not here.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Callable, Coroutine
from math import floor
from typing import Any, ParamSpec, TypeVar

from aiolimiter_fast import _arguments
from aiolimiter_fast.pacing import StrictLimiter, Throttler

__all__ = [
    "ExecutionTimer", "Throttler", "ThrottlerSimultaneous", "execution_timer", "execution_timer_async", "throttle",
    "throttle_simultaneous",
]  # fmt: skip

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Async = Callable[_P, Coroutine[Any, Any, _T]]


class ThrottlerSimultaneous(asyncio.Semaphore):
    """Let at most `count` tasks be inside `async with` at once: asyncio's own semaphore.

    Arguments: count, tasks; a whole number, 1 or more.
    """

    def __init__(self, count: int) -> None:
        super().__init__(_arguments.whole("count", count, "tasks"))


class ExecutionTimer:
    """Let `with` or `async with` be entered at most once every `period` seconds.

    Arguments:
        period: seconds; 1e-9 to 1e9.
        align_sleep: from the second entry on, enter when the wall clock shows a multiple of `period` since the epoch.

    Raises ValueError or TypeError, naming argument, value and bound, for what makes no sense.
    """

    __slots__ = ("_align_sleep", "_limiter", "_next", "_period")

    def __init__(self, period: float = 60.0, align_sleep: bool = False) -> None:
        self._period = _arguments.period("period", period)
        self._align_sleep = align_sleep
        self._limiter = StrictLimiter(1 / self._period)
        self._next = 0.0

    def _wait(self) -> float:
        """Seconds until the wall clock allows the next entry; if it does now, this is it."""
        now = time.time()
        if now >= self._next:
            self._next = (floor(now / self._period) + 1) * self._period
            return 0.0
        return self._next - now

    def __enter__(self) -> None:
        if not self._align_sleep:
            self._limiter.wait_sync()
            return
        while wait := self._wait():
            time.sleep(wait)

    def __exit__(self, *exc: object) -> None:
        pass

    async def __aenter__(self) -> None:
        if not self._align_sleep:
            await self._limiter.wait()
            return
        while wait := self._wait():  # noqa: ASYNC110
            await asyncio.sleep(wait)

    async def __aexit__(self, *exc: object) -> None:
        pass


def throttle(rate_limit: int, period: float = 1.0) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Make a decorator: at most `rate_limit` calls of the function, async or not, start in any `period` seconds.

    Each decorated function has a limit of its own. Arguments and errors are those of Throttler.
    """
    Throttler(rate_limit, period)
    return lambda function: _guarded(function, Throttler(rate_limit, period))


def throttle_simultaneous(count: int) -> Callable[[_Async[_P, _T]], _Async[_P, _T]]:
    """Make a decorator: at most `count` calls of the async function run at once.

    Raises ValueError or TypeError for a count below 1 or not whole, TypeError for a function that is not async.
    """
    ThrottlerSimultaneous(count)

    def decorate(function: _Async[_P, _T]) -> _Async[_P, _T]:
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"throttle_simultaneous decorates async functions, got {function!r}")
        return _guarded(function, ThrottlerSimultaneous(count))

    return decorate


def execution_timer(period: float = 60.0, align_sleep: bool = False) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Make a decorator: calls of the function, async or not, start at least `period` seconds apart.

    Arguments and errors are those of ExecutionTimer.
    """
    ExecutionTimer(period, align_sleep)
    return lambda function: _guarded(function, ExecutionTimer(period, align_sleep))


# The package has this name too, from when the other one was for plain functions only.
execution_timer_async = execution_timer


def _guarded(function: Callable[_P, _T], guard: Any) -> Callable[_P, _T]:
    """The function within `guard`."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def guarded_async(*args: Any, **kwargs: Any) -> Any:
            async with guard:
                return await function(*args, **kwargs)

        return guarded_async  # type: ignore[return-value]

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        with guard:
            return function(*args, **kwargs)

    return guarded
