"""A clock for tests: a loop and its limiters are told the time, and nothing sleeps."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

__all__ = ["ManualClock"]

SECOND = 1_000_000_000
# Turns of the loop after which it is said never to come to rest.
TURNS = 1_000_000


def _resolution(time: float) -> float:
    """By how much a loop may call a timer early: less than a nanosecond, but enough to change a float."""
    return max(2.0**-32, 2 * math.ulp(time))


class ManualClock:
    """A clock that stands still until it is told to move; it counts whole nanoseconds.

    Installed on an event loop, it is the time of all that waits there: limiters, `asyncio.sleep`, timeouts.
    Only `run`, `settle` and `advance` make it useful: a task that waits for a timer while nobody moves the
    clock waits for good.

    Argument: start, the first reading in seconds.

    Example:
        import asyncio
        from aiolimiter_fast import AsyncLimiter
        from aiolimiter_fast.testing import ManualClock

        async def main():
            with ManualClock().installed() as clock:
                limiter = AsyncLimiter(1, 60)
                await limiter.acquire()
                second = asyncio.create_task(limiter.acquire())
                await clock.run(59)
                assert not second.done()
                await clock.run(1)
                assert second.done()

        asyncio.run(main())
    """

    __slots__ = ("_ns",)

    def __init__(self, start: float = 1000.0) -> None:
        self._ns = round(start * SECOND)

    def time(self) -> float:
        """The reading in seconds, as `loop.time` gives it."""
        return self._ns / SECOND

    def time_ns(self) -> int:
        """The reading in nanoseconds."""
        return self._ns

    def advance(self, seconds: float) -> None:
        """Move the clock, back if `seconds` is negative, and let nothing run."""
        self._ns += round(seconds * SECOND)

    @contextmanager
    def installed(self, loop: asyncio.AbstractEventLoop | None = None) -> Iterator[ManualClock]:
        """Be the clock of `loop` (default: the running one) within a `with` block.

        What waits by this clock should end within the block too.

        Raises TypeError for loops that are not asyncio's own, uvloop's for one: their timers run elsewhere.
        """
        target = asyncio.get_running_loop() if loop is None else loop
        if not isinstance(target, asyncio.BaseEventLoop):
            raise TypeError(f"ManualClock drives asyncio's own event loops, got {target!r}")
        with mock.patch.multiple(target, time=self.time, _clock_resolution=_resolution(self.time())):
            yield self

    async def settle(self) -> None:
        """Let the running loop do all that can be done at this instant.

        Raises RuntimeError if it never comes to rest.
        """
        loop: Any = asyncio.get_running_loop()
        for _ in range(TURNS):
            loop._clock_resolution = _resolution(self.time())
            await asyncio.sleep(0)
            if not loop._ready and not (loop._scheduled and self._is_due(loop, self._ns)):
                return
        raise RuntimeError(f"the loop did not come to rest in {TURNS} turns")

    async def run(self, seconds: float, step: float | None = None) -> None:
        """Let time pass, and the loop do what falls due.

        Arguments:
            seconds: how long, 0 or more.
            step: seconds to move at a time; None moves from timer to timer, so that each is called on time.

        Raises ValueError if `seconds` is negative, or `step` shorter than a nanosecond.
        """
        if not seconds >= 0:
            raise ValueError(f"seconds must be 0 or more, got {seconds!r}")
        if step is not None and not round(step * SECOND) >= 1:
            raise ValueError(f"step must be at least a nanosecond, got {step!r}")
        loop: Any = asyncio.get_running_loop()
        end = self._ns + round(seconds * SECOND)
        await self.settle()
        while self._ns < end:
            self._ns = min(self._next_due(loop, end) if step is None else self._ns + round(step * SECOND), end)
            await self.settle()

    def _is_due(self, loop: Any, ns: int) -> bool:
        """Whether the loop, at `ns`, calls its first timer."""
        now = ns / SECOND
        due: bool = loop._scheduled[0].when() < now + _resolution(now)
        return due

    def _next_due(self, loop: Any, end: int) -> int:
        """The first nanosecond at which the loop calls its first timer."""
        if not loop._scheduled or not self._is_due(loop, end):
            return end
        ns = max(self._ns, math.floor(loop._scheduled[0].when() * SECOND) - 1)
        while not self._is_due(loop, ns):
            ns += 1
        return int(ns)
