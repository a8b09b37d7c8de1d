"""The limiters of `pacing` on an event loop of which nothing is used but `time`, `call_at` and `create_future`.

They go by the loop's own seconds and by its timers alone: a turn comes when the loop calls the timer, early or late.
"""

from __future__ import annotations

import asyncio
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any


class Turns:
    """The turns of one limiter. `limiter` has `rate` and what its kind needs; `running_loop` gives the loop."""

    def __init__(self, limiter: Any, running_loop: Callable[[], Any]) -> None:
        self.limiter = limiter
        self.running_loop = running_loop
        self.queue: deque[Any] = deque()
        self.timer: Any = None
        self.due = 0.0
        self.locked = self.breached = self.closed = False

    @property
    def interval(self) -> float:
        return float(1 / self.limiter.rate)

    async def wait(self) -> None:
        if self.breached:
            return
        if self.closed:
            raise RuntimeError(f"{self.limiter!r} is closed; reset() opens it again")
        if not self.locked:
            self.enter()
            return
        future = self.running_loop().create_future()
        self.queue.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.serve()  # the turn was not used
            raise

    def serve(self) -> bool:
        """Give one turn to the first who still waits; False if nobody does."""
        while self.queue:
            future = self.queue.popleft()
            if not future.done():
                future.set_result(None)
                return True
        return False

    def enter(self) -> None:
        """Let a caller pass at once."""
        self.locked = True
        self.start()

    def start(self) -> None:
        """Let the next tick be one interval away."""
        loop = self.running_loop()
        self.set_timer(loop, loop.time() + self.interval)

    def set_timer(self, loop: Any, when: float) -> None:
        self.due = when
        self.timer = loop.call_at(when, self.tick)

    def unset_timer(self) -> None:
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.cancel()

    def tick(self) -> None:
        raise NotImplementedError

    def unlock(self) -> None:
        self.timer = None
        self.locked = False

    def missed(self, now: float) -> tuple[int, float]:
        """Whole intervals by which the tick is late, and the rest of a second; that is negative if it is early."""
        interval = self.interval
        early = self.due - now
        if early <= 0:
            ticks, rest = divmod(-early, interval)
            return int(ticks), rest
        if early > interval:
            warnings.warn(
                f"Event loop is too fast: it called a timer {early * 1000:g} ms early, which is {early / interval:g}"
                " intervals of the limiter; its clock is inaccurate, and it wakes up more often than it needs to",
                ResourceWarning,
                stacklevel=2,
            )
        return 0, -early

    def cancel(self) -> None:
        while self.queue:
            self.queue.popleft().cancel()

    def breach(self) -> None:
        while self.serve():
            pass
        self.unset_timer()
        self.breached = True
        self.locked = self.closed = False

    def reset(self) -> None:
        self.cancel()
        self.unset_timer()
        self.locked = self.breached = self.closed = False

    def close(self) -> None:
        self.cancel()
        self.unset_timer()
        self.closed = True


class Ticking(Turns):
    """As `Limiter`: a late tick makes up for those that were missed, up to `max_burst`, and the next is on time."""

    def tick(self) -> None:
        if not self.queue:
            self.unlock()
            return
        loop = self.running_loop()
        now = loop.time()
        missed, rest = self.missed(now)
        for _ in range(min(missed + 1, self.limiter.max_burst)):
            if not self.serve():
                self.unlock()
                return
        self.set_timer(loop, now + self.interval - rest)


class Spaced(Turns):
    """As `StrictLimiter`: a tick gives one turn, and the next comes an interval after it was."""

    def tick(self) -> None:
        if self.serve():
            self.start()
        else:
            self.unlock()


class Dripping(Turns):
    """As `LeakyBucketLimiter`: each turn fills the bucket, each tick drains it, and a full one is waited for."""

    level = 0

    def enter(self) -> None:
        self.level += 1
        if self.timer is None:
            self.start()
        self.locked = self.level >= self.limiter.capacity

    def tick(self) -> None:
        loop = self.running_loop()
        now = loop.time()
        missed, rest = self.missed(now)
        capacity = self.limiter.capacity
        level = max(self.level - missed - 1, 0)
        while level < capacity and self.serve():
            level += 1
        self.level = level
        self.locked = level >= capacity
        self.timer = None
        if level:
            self.set_timer(loop, now + self.interval - rest)

    def reset(self) -> None:
        super().reset()
        self.level = 0
