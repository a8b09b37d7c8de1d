"""Tasks and threads at a Limiter, and the instants at which they were served."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from aiolimiter_fast.testing import ManualClock

SECOND = 1_000_000_000
HOUR_MS = 3_600_000


class Clock:
    """A clock for buckets out of any function that counts nanoseconds; how often it was read."""

    def __init__(self, read: Callable[[], int]) -> None:
        self.read = read
        self.reads = 0

    def now_ns(self) -> int:
        self.reads += 1
        return self.read()

    def now(self) -> int:
        return self.now_ns() // 1_000_000


class Milliseconds:
    """A clock for buckets that counts milliseconds only."""

    def __init__(self, read: Callable[[], int]) -> None:
        self.read = read

    def now(self) -> int:
        return self.read() // 1_000_000


def limiter_on(package: ModuleType, clock: Any, *rates: tuple[int, int], **options: Any) -> Any:
    """A limiter with one bucket in memory, which goes by `clock`. Rates are (limit, milliseconds)."""
    bucket = package.InMemoryBucket([package.Rate(limit, interval) for limit, interval in rates])
    bucket._clock = clock
    return package.Limiter(bucket, **options)


def logged(limiter: Any) -> list[tuple[str, int, int]]:
    """What the one bucket has in its log: name, instant (ns), weight."""
    entries: list[tuple[str, int, int]] = limiter.bucket_factory.bucket._entries()
    return entries


def worst(entries: Iterable[tuple[str, int, int]], milliseconds: int) -> int:
    """The most units in any window of this length, closed at both ends."""
    times = [(time, weight) for _, time, weight in entries]
    return max(
        sum(weight for time, weight in times if begin <= time <= begin + milliseconds * 1_000_000) for begin, _ in times
    )


class Callers:
    """Starts tasks that acquire; remembers who was served or turned away, and how many seconds after the start."""

    def __init__(self, limiter: Any, clock: ManualClock) -> None:
        self.limiter = limiter
        self.clock = clock
        self.start = clock.time()
        self.served: list[tuple[str, float]] = []
        self.refused: list[tuple[str, float]] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.served]

    def add(self, name: str, weight: int = 1, **options: Any) -> asyncio.Task[None]:
        return asyncio.create_task(self._run(name, weight, options))

    async def _run(self, name: str, weight: int, options: dict[str, Any]) -> None:
        admitted = await self.limiter.try_acquire_async(name, weight, **options)
        assert type(admitted) is bool
        (self.served if admitted else self.refused).append((name, round(self.clock.time() - self.start, 6)))


class Thread(threading.Thread):
    """Calls a function in a thread; `result` waits for what comes of it."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        super().__init__(daemon=True)
        self._call: Callable[[], Any] = lambda: function(*arguments, **options)
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # raised again in `result`
            self._error = error

    def result(self) -> Any:
        self.join(60)
        if self.is_alive():
            raise TimeoutError("still running after a minute")
        if self._error is not None:
            raise self._error
        return self._result


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("not within a minute")
        time.sleep(0.001)
