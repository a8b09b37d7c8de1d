"""The twin of `_bucket/statements.pxi`: an AsyncLimiter's state, and what it is told by those who read headers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import ceil
from typing import Any

from aiolimiter_fast import _arguments, _loop_py
from aiolimiter_fast._core.hold import DUST, PAUSED, Hold
from aiolimiter_fast._core.leaky import NEVER, Leak
from aiolimiter_fast._loop_py import LoopTimer, clock_ns
from aiolimiter_fast._waiter_py import Link, Waiter


class Blank:
    """The state of a limiter before `__init__`; a class of its own, as `__new__` would hide the limiter's signature."""

    __slots__ = (
        "__weakref__", "_arrivals", "_asked", "_burst", "_configurations", "_fair", "_generation", "_hold", "_leak",
        "_limit", "_links", "_lock", "_max_rate", "_newest", "_odd_clock", "_oldest", "_one", "_overtaken", "_queue",
        "_queued", "_quick", "_time_period", "_timer", "_waiting",
    )  # fmt: skip

    _lock: threading.RLock
    _leak: Leak
    _limit: float
    _max_rate: float
    _time_period: float
    _burst: float | None
    _fair: bool
    # Cost of one permit; 0 where more than the burst.
    _one: int
    _timer: LoopTimer | None
    # The same, but None while a statement stands: no call is decided without a look at those then.
    _quick: LoopTimer | None
    # Statements.
    _hold: Hold
    # Their instants are not of the monotonic clock.
    _odd_clock: bool
    # Rate and burst as given, where `sync` has lowered them.
    _asked: tuple[float, float | None] | None
    # Entries (cost, arrival, waiter); those of waiters that have left are passed over.
    _queue: list[tuple[int, int, Waiter]]
    _waiting: int
    _oldest: Waiter | None
    _newest: Waiter | None
    _overtaken: int
    _queued: int
    _arrivals: int
    _configurations: int
    _generation: int
    _links: list[Link]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._lock = threading.RLock()
        self._leak = Leak(1.0, 1.0, 1.0)
        self._limit = -1.0
        self._one = 0
        self._hold = Hold()
        self._fair = self._odd_clock = False
        self._timer = self._quick = self._oldest = self._newest = self._asked = None
        self._queue, self._links = [], []
        self._waiting = self._overtaken = self._queued = self._arrivals = self._configurations = 0
        self._generation = _loop_py.generation
        return self


class Statements(Blank):
    """What the limiter has been told by those who read a server's headers: the twin of `_bucket/statements.pxi`."""

    __slots__ = ()

    def pause_until(self, when: float) -> None:
        """Admit nobody before the instant `when`, as a 429 with Retry-After asks for. From any thread."""
        instant = _arguments.number("when", when)
        self._check_configured()
        self._bind()
        loop = _loop_py.running_loop()
        here = None if loop is None else _loop_py.loop_timer(loop)
        with self._lock:
            self._advance()
            now = clock_ns() if here is None else here.now(clock_ns())
            _arguments.soon(instant, now / 1e9)
            until = round(max(instant * 1e9, -4.6e18))
            if self._leak.last == NEVER:  # a loop whose clock gives nothing
                self._leak.last = now
            mine = self._timer
            odd = (mine is not None and not mine.has_stock_clock()) or (here is not None and not here.has_stock_clock())
            if here is not mine and odd:
                until += self._leak.last - now
            self._enter(until, PAUSED)
            self._plan(0)

    def resume(self) -> None:
        """End the pause, as if its time had come, and forget what `sync` was told is left. From any thread."""
        self._check_configured()
        self._bind()
        with self._lock:
            self._advance()
            if self._hold.entries:
                if self._hold.entries[0][1] < 1.0 - DUST:
                    self._leak.level = max(self._leak.level, self._floor())
                self._hold.clear()
                self._quick = self._timer
                self._plan(0)

    def drain(self) -> None:
        """Give up what room there is: the next permits come at the rate. From any thread."""
        self._check_configured()
        self._bind()
        self._leave_room(0.0, -1.0)

    def sync(self, *, limit: float | None = None, remaining: float | None = None, reset: float | None = None) -> None:
        """State what a server allows, for those who read its headers themselves. From any thread."""
        permits, seconds = _arguments.stated(limit, remaining, reset)
        self._check_configured()
        self._bind()
        if limit is not None:
            self._obey(limit)
        if remaining is not None:
            self._leave_room(permits, seconds)

    def _obey(self, limit: float) -> None:
        """Let neither rate nor burst be more than what the server allows."""
        with self._lock:
            max_rate, burst = (self._max_rate, self._burst) if self._asked is None else self._asked
            lowered = min(max_rate, limit), None if burst is None else min(burst, limit)
            if lowered != (self._max_rate, self._burst):
                self._configure(lowered[0], self._time_period, lowered[1])
            self._asked = None if lowered == (max_rate, burst) else (max_rate, burst)

    def _leave_room(self, permits: float, seconds: float) -> None:
        """Admit no more than `permits` within `seconds`; if these are below 0, have no more room than that now."""
        leak = self._leak
        with self._lock:
            self._advance()
            if seconds >= 0.0:
                self._enter(leak.last + ceil(seconds * 1e9), permits)
            else:
                level = max(leak.level, leak.capacity - leak.cost(min(permits, self._limit)))
                if level == leak.level:
                    return
                leak.level = level
            # Grants that nobody has used yet are not given back: what was stated may have counted them as well as not.
            self._configurations += 1
            self._plan(0)

    def _enter(self, until: int, left: float) -> None:
        """Obey one statement more; the caller has looked at the clock, and plans."""
        if until > self._leak.last and self._hold.state(until, left):
            self._odd_clock = self._timer is not None and not self._timer.has_stock_clock()
            self._quick = None

    def _floor(self) -> int:
        """The least level of a bucket that somebody may have waited at: room for one, so that no burst follows."""
        return max(self._leak.capacity - self._leak.permit, 0)

    def _open(self, now: int) -> None:
        """Forget the statements that are over at `now`."""
        hold, leak = self._hold, self._leak
        while now >= hold.opens:
            until, left = hold.entries[0]
            if leak.last != NEVER and until > leak.last:
                leak.advance(until)
            if left < 1.0 - DUST:
                leak.level = max(leak.level, self._floor())
            hold.pop()
        if not hold.entries:
            self._quick = self._timer

    def _fits(self, cost: int) -> bool:
        """Whether there is room, the clock having been looked at."""
        return self._leak.fits(cost) and self._hold.failing(self._permits(cost)) is None

    def _permits(self, cost: int) -> float:
        return float(cost) / float(self._leak.permit)

    def _take(self, cost: int) -> None:
        self._leak.level += cost
        self._hold.take(self._permits(cost))

    def _due(self, cost: int) -> int:
        """The first instant at which `cost` fits, as far as is known now; at or before `last` if it does already."""
        failing = self._hold.failing(self._permits(cost))
        if failing is None:
            return self._leak.due(cost)
        until, left = failing
        return self._leak.due_from(cost, until, self._floor() if left < 1.0 - DUST else 0)

    def _wait_of(self, units: int) -> int:
        """Nanoseconds until so many units are admitted, as far as is known now."""
        leak, pause = self._leak, 0
        level = leak.level
        failing = self._hold.failing(self._permits(units))
        if failing is not None:
            pause = failing[0] - leak.last
            level = max(level - pause * leak.drain, 0)
            if failing[1] < 1.0 - DUST:
                level = max(level, self._floor())
            units -= int(max(failing[1], 0.0) * float(leak.permit))
        return pause + max(-((leak.capacity - level - units) // leak.drain), 0)

    def _follow(self, timer: LoopTimer) -> None:
        """Go by the clock of another loop, as the limiter's own was closed; a pause lasts as long as it would have."""
        last, hold = self._leak.last, self._hold
        self._timer = timer
        self._quick = None if hold.entries else timer
        if hold.entries and last != NEVER:
            shift = timer.now(last) - last
            odd = not timer.has_stock_clock()
            if odd or self._odd_clock:
                hold.shift(shift)
            self._odd_clock = odd

    # Of AsyncLimiter.

    _check_configured: Callable[[], None]
    _bind: Callable[[], None]
    _advance: Callable[[], None]
    _plan: Callable[[int], None]
    _configure: Callable[[float, float, float | None], None]
