"""An event loop that has nothing but `time`, `call_at` and `create_future`, in the hands of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class FakeTimer:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """Its clock stands until it is moved, and its timers go off when it is told so. Its futures are real ones."""

    __slots__ = ("_now", "_timers")

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._timers: list[FakeTimer] = []

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> FakeTimer:
        self._timers.append(FakeTimer(when, callback))
        return self._timers[-1]

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()


class FakeAsyncio:
    """What stands for the module `_asyncio` of a limiter, and the test's hands on its loop."""

    def __init__(self) -> None:
        self._loop = FakeLoop()
        self.served: list[tuple[str, float]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def get_running_loop(self) -> FakeLoop:
        return self._loop

    get_event_loop = get_running_loop

    @property
    def now(self) -> float:
        return self._loop._now

    @property
    def timers(self) -> list[float]:
        """When the timers that are set go off."""
        return sorted(timer.when for timer in self._loop._timers if not timer.cancelled)

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def to(self, now: float) -> None:
        """Move the clock, and call what is due, all late timers at this instant."""
        self._loop._now = now
        due = [timer for timer in self._loop._timers if timer.when <= now]
        self._loop._timers = [timer for timer in self._loop._timers if timer.when > now]
        for timer in due:
            if not timer.cancelled:
                timer.callback()
        await self.settle()

    async def on_time(self, now: float) -> None:
        """Move the clock from timer to timer."""
        while self.timers and self.timers[0] <= now:
            await self.to(self.timers[0])
        await self.to(now)

    async def fire(self, now: float) -> None:
        """Move the clock, and call the next timer, early or not."""
        self._loop._now = now
        live = [timer for timer in self._loop._timers if not timer.cancelled]
        timer = min(live, key=lambda timer: timer.when)
        self._loop._timers.remove(timer)
        timer.callback()
        await self.settle()

    def add(self, limiter: Any, name: str = "") -> asyncio.Task[None]:
        """Start a task that waits, and note when it is served."""
        self._tasks.append(asyncio.create_task(self._run(limiter.wait(), name)))
        return self._tasks[-1]

    async def _run(self, wait: Coroutine[Any, Any, None], name: str) -> None:
        await wait
        self.served.append((name, self.now))

    @property
    def times(self) -> list[float]:
        return [time for _, time in self.served]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
