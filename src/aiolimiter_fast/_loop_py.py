"""The twin of `_bucket/loop.pxi`: event loops, their clock, deadlines and timer."""

from __future__ import annotations

import heapq
import os
import sys
import threading
import time
from collections.abc import Callable
from types import BuiltinMethodType, MethodType
from typing import Any
from weakref import ref

from aiolimiter_fast._core.leaky import NEVER

# How many waiters one turn of the loop wakes at most: their own steps run before the next turn.
SLICE = 256

# For so long (ns) a loop is believed to be open and to have the clock that it had when last looked at.
TRUST = 5_000

clock_ns = time.monotonic_ns
CLOCK_RESOLUTION = time.get_clock_info("monotonic").resolution


# Of the waiting layer, which sets them: the loop that runs in this thread or None, and a loop's LoopTimer.
running_loop: Callable[[], Any] = lambda: None  # noqa: E731
loop_timer: Callable[[Any], Any] = lambda loop: None  # noqa: E731


# What a clock says that makes no sense.
UNKNOWN = -NEVER
# As `armed`: the descriptor has gone off, and is readable until it is set anew.
FIRED = -NEVER

# Forks since this process's ancestor started.
generation = 0


def forked() -> None:
    """Disown what belongs to the parent's loops; called in a forked child."""
    global generation
    generation += 1


if sys.version_info >= (3, 13) and sys.platform == "linux":

    def _timerfd_create() -> int:
        return os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_CLOEXEC | os.TFD_NONBLOCK)

    def _timerfd_arm(fd: int, deadline: int) -> None:
        initial = 0 if deadline == NEVER else max(deadline, 1)
        os.timerfd_settime_ns(fd, flags=os.TFD_TIMER_ABSTIME, initial=initial)

else:

    def _timerfd_create() -> int:
        raise OSError("no timer descriptor")

    def _timerfd_arm(fd: int, deadline: int) -> None:
        raise NotImplementedError


class TimerFd:
    """The timer descriptor of one loop. Only the loop's own reader table holds it, so it is closed with the loop."""

    __slots__ = ("_fd", "_timer")

    def __init__(self, timer: LoopTimer) -> None:
        self._fd = -1
        self._timer = timer
        self._fd = timer.fd = _timerfd_create()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._timer.fd = -1
            if self._timer.is_closed():
                self._timer.lose_all()

    def fileno(self) -> int:
        return self._fd

    def disown(self) -> None:
        """Say that the loop refused this descriptor."""

    def __call__(self) -> None:
        self._timer.armed = FIRED
        self._timer.fire()


class Alarm:
    """The callback of one `loop.call_at`; if it goes before it was called, so has the loop."""

    __slots__ = ("_timer",)

    def __init__(self, timer: LoopTimer) -> None:
        self._timer: LoopTimer | None = timer

    def __del__(self) -> None:
        if self._timer is not None and self._timer.is_closed():
            self._timer.lose_all()

    def __call__(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.armed = NEVER
            timer.fire()


class Event:
    """An entry in a loop's heap of deadlines."""

    __slots__ = ("deadline",)

    def __init__(self) -> None:
        self.deadline = NEVER

    def serve(self, budget: int) -> int:
        """Do what is due now; say how many waiters that woke, `budget` at most."""
        raise NotImplementedError

    def lose(self) -> None:
        """Forget those who wait: their loop is closed."""


class LoopTimer:
    """One event loop's clock and its heap of deadlines, served by one timer."""

    __slots__ = (
        "__weakref__", "armed", "fd", "generation", "handle", "heap", "lock", "loop_ref", "method", "order",
        "scheduled", "trusted",
    )  # fmt: skip

    def __init__(self, loop: Any, stock: bool) -> None:
        self.fd = -1
        self.armed = NEVER
        # Until then the loop is believed to be open, and its clock to be the one that `clock_ns` reads.
        self.trusted = UNKNOWN
        self.generation = generation
        self.lock = threading.RLock()
        self.loop_ref = ref(loop)
        # `time` of the loop's class where that is a stock clock, else None.
        self.method: Any = type(loop).time if stock else None
        # Weak reference to the pending call_at, which only the loop holds.
        self.handle: Callable[[], Any] | None = None
        # Entries (deadline, order, event) of events that have moved on since are passed over.
        self.heap: list[tuple[int, int, Event]] = []
        self.scheduled = 0
        self.order = 0

    def is_closed(self) -> bool:
        loop = self.loop_ref()
        return loop is None or loop.is_closed()

    def renew(self, now: int) -> bool:
        """Whether the loop is open and its clock the stock one, by a new look."""
        loop = self.loop_ref()
        if loop is None or loop.is_closed() or not self.has_stock_clock(loop):
            return False
        self.trusted = now + TRUST
        return True

    def has_stock_clock(self, loop: Any = None) -> bool:
        """Look whether the loop has its class's clock still: tests set a `time` of their own on the loop object."""
        stock = self.method
        if stock is None:
            return False
        if loop is None and (loop := self.loop_ref()) is None:
            return True
        method = loop.time
        if type(method) is MethodType:
            return method.__func__ is stock
        return type(method) is BuiltinMethodType and method.__self__ is loop

    def now(self, otherwise: int) -> int:
        """The loop's time, or `otherwise` where its clock gives no sensible one."""
        now = clock_ns()
        if now < self.trusted or self.has_stock_clock():
            return now
        loop = self.loop_ref()
        if loop is not None:
            reading: float = loop.time() * 1e9
            if -4.6e18 < reading < 4.6e18:
                return round(reading)
        return otherwise

    def schedule(self, event: Event, deadline: int) -> None:
        """Put or move an event to `deadline`; NEVER takes it out."""
        if self.generation != generation:  # the parent's; a thread that did not come along may hold the lock
            event.deadline = deadline
            return
        with self.lock:
            if event.deadline != deadline:
                self.scheduled += (event.deadline == NEVER) - (deadline == NEVER)
                event.deadline = deadline
                if deadline != NEVER:
                    self.order += 1
                    heapq.heappush(self.heap, (deadline, self.order, event))
                if len(self.heap) > 2 * self.scheduled + 64:
                    # One entry for each event is left, the newest; older ones hold deadlines of the past.
                    live = {id(entry[2]): entry for entry in sorted(self.heap) if entry[0] == entry[2].deadline}
                    self.heap = list(live.values())
                    heapq.heapify(self.heap)
            self.arm()

    def first(self) -> Event | None:
        """The event with the first deadline."""
        with self.lock:
            while self.heap and self.heap[0][0] != self.heap[0][2].deadline:
                heapq.heappop(self.heap)
            return self.heap[0][2] if self.heap else None

    def arm(self) -> None:
        """Set the one timer for the first deadline."""
        with self.lock:
            first = self.first()
            deadline = NEVER if first is None else first.deadline
            if deadline == self.armed or self.generation != generation:
                return
            loop = self.loop_ref()
            if self.fd >= 0 and self.has_stock_clock():
                self.armed = deadline
                _timerfd_arm(self.fd, deadline)
            elif loop is running_loop():
                self.call_at(deadline)
            elif loop is not None and not loop.is_closed():
                try:
                    loop.call_soon_threadsafe(self.arm)
                except RuntimeError:
                    if not loop.is_closed():  # by now
                        raise

    def call_at(self, deadline: int) -> None:
        if self.fd >= 0:
            _timerfd_arm(self.fd, NEVER)
        handle = None if self.handle is None else self.handle()
        self.handle = None
        self.armed = NEVER
        if handle is not None:
            handle.cancel()
        loop = self.loop_ref()
        if deadline == NEVER or loop is None or loop.is_closed():
            return
        when = deadline / 1e9
        if when * 1e9 < deadline:
            when *= 1.0 + 2.3e-16
        if CLOCK_RESOLUTION > 1e-6 and self.has_stock_clock():
            when += CLOCK_RESOLUTION  # where the clock ticks coarsely, loops fire up to a tick early
        self.handle = ref(loop.call_at(when, Alarm(self)))
        self.armed = deadline

    def lose_all(self) -> None:
        """Forget all who wait in this loop, which is closed: nothing else would let go of them."""
        while (event := self.first()) is not None:
            self.schedule(event, NEVER)
            event.lose()

    def fire(self) -> None:
        """Serve what is due, a slice at most, and set the timer for the rest."""
        now = self.now(UNKNOWN)
        budget = SLICE
        try:
            while budget > 0 and (event := self.first()) is not None and event.deadline <= now:
                budget -= 1
                budget -= event.serve(budget)
        finally:
            self.arm()
