"""The twin of `_bucket/meters.pxi` and `_bucket/pacing.pxi`: the meters of `pacing`, and the limiters on them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from math import ceil, floor
from typing import Any

from aiolimiter_fast import _arguments, _loop_py
from aiolimiter_fast._core.leaky import NEVER
from aiolimiter_fast._forking import deciding
from aiolimiter_fast._line_py import Line, Waiter, sleep_in_line, wait_in_line
from aiolimiter_fast._loop_py import SLICE, UNKNOWN, LoopTimer, clock_ns
from aiolimiter_fast._waiter_py import LOST
from aiolimiter_fast._window_py import Window

# Nanoseconds ahead, at most: no sum overflows in the extension.
FARTHEST = 3e18


class Pace(Line):
    """A meter whose permits fall due one interval after the other; see the extension's class of the same name."""

    __slots__ = ("_breached", "_closed", "_interval", "_most", "_part", "_whole")

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._breached = self._closed = False
        self._interval = self._part = 0.0
        self._most = self._whole = 0
        return self

    _breached: bool
    _closed: bool
    _interval: float
    _most: int
    _part: float
    _whole: int

    def _tick(self) -> int:
        """The first whole nanosecond that is not before the next tick."""
        return self._whole + (self._part > 0.0)

    def _move(self, intervals: float) -> None:
        total = self._part + min(intervals * self._interval, FARTHEST)
        self._whole += floor(total)
        self._part = total - floor(total)

    def _begin(self, now: int) -> None:
        """Let the next tick be one interval away."""
        self._whole, self._part = now, 0.0
        self._move(1.0)

    def _passed_by(self, now: int) -> float:
        """How many ticks there were until `now`, which is not before the next one."""
        return floor(min((float(now - self._whole) - self._part) / self._interval, FARTHEST)) + 1.0

    def _in_intervals(self, intervals: float) -> int:
        """The instant so many intervals after the next tick."""
        return self._whole + int(min(ceil(self._part + intervals * self._interval), FARTHEST))

    def _step(self, now: int) -> bool:
        """Let a caller pass whom nobody precedes, if the meter allows it."""
        raise NotImplementedError

    def _after(self, ahead: int, now: int) -> int:
        """When somebody behind `ahead` others will be served."""
        raise NotImplementedError

    def _restart(self) -> None:
        """Be as new."""
        raise NotImplementedError

    def _resume(self, now: int) -> None:
        """Note that a caller who waited runs on."""

    def _enter(self, weight: int, name: Any, now: int, waits: bool) -> int:
        if self._breached:
            return 1
        self._renew()
        return int(not self._closed and not self._line and self._step(now))

    def _foresee(self, last: Waiter | None, weight: int, now: int) -> int:
        ahead = 0
        for waiter in self._line:
            if waiter is last:
                break
            ahead += 1
        return now if self._breached else max(self._after(ahead, now), now)

    def _configure(self, interval: float, most: int) -> None:
        """Set the interval (ns) and how many permits may pass at once; those who wait are planned anew."""
        with deciding:
            self._renew()
            if 0.0 < self._interval != interval:
                self._rescale(interval)
            self._interval = interval
            self._most = most
            self._replan()

    def _rescale(self, interval: float) -> None:
        """Let the tick before the next one stay where it was, as the interval changes."""
        self._move(-1.0)
        self._interval = interval
        self._move(1.0)

    def _cancel(self) -> None:
        """Send away all who wait."""
        waiters = []
        with deciding:
            self._renew()
            while self._line:
                waiter = self._first()
                waiter.block = False
                self._remove(waiter, LOST)
                waiters.append(waiter)
            self._plan(0)
        here = _loop_py.running_loop()
        for waiter in waiters:
            if waiter.ticket is None:
                waiter.wake(here)
                continue
            loop = waiter.ticket.timer.loop_ref()
            try:
                if loop is here:
                    waiter.future.cancel()
                elif loop is not None:
                    loop.call_soon_threadsafe(waiter.future.cancel)
            except Exception:  # its loop is closed
                pass

    def _breach(self) -> None:
        """Let everybody pass from now on."""
        with deciding:
            self._renew()
            self._breached = True
            self._closed = False
            while self._line:
                self._release(self._now(), SLICE)
            self._plan(0)
            self._restart()

    def _close(self) -> None:
        """Let nobody pass from now on."""
        self._closed = not self._breached
        self._cancel()

    def _is_open(self) -> tuple[bool, bool]:
        """Whether everybody passes, and whether nobody does."""
        return self._breached, self._closed

    def _reset(self) -> None:
        """Send away all who wait, and be as new."""
        self._cancel()
        with deciding:
            self._breached = self._closed = False
            self._cleared += 1
            self._restart()


class Ticks(Pace):
    """The meter of `pacing.Limiter`: one permit a tick; those of ticks that came late are given together."""

    __slots__ = ("_credit", "_locked")

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._restart()
        return self

    _credit: int
    _locked: bool

    def _restart(self) -> None:
        self._locked = False
        self._credit = 0

    def _step(self, now: int) -> bool:
        if self._locked and now < self._tick():
            return False
        self._locked = True
        self._credit = 0
        self._begin(now)
        return True

    def _due(self, weight: int, now: int) -> int:
        return self._tick() if self._locked and not self._credit and not self._breached else now

    def _charge(self, weight: int, name: str, now: int) -> int:
        self._credit = max(self._credit - 1, 0)
        return now

    def _refund(self, weight: int, instant: int) -> None:
        if self._locked:
            self._credit = min(self._credit + 1, self._most)
            self._settle()

    def _settle(self) -> None:
        """Unlock if permits are left and nobody waits for them."""
        if self._credit and not self._line:
            self._locked = False
            self._credit = 0

    def _release(self, now: int, budget: int) -> int:
        # Once: what waits longer than a burst's worth of ticks waits for the next ones.
        if self._locked and not self._credit and not self._breached and self._line and now >= self._tick():
            ticks = self._passed_by(now)
            self._move(ticks)
            self._credit = int(min(ticks, self._most))
        woken = super()._release(now, budget)
        self._settle()
        return woken

    def _after(self, ahead: int, now: int) -> int:
        return self._in_intervals(float(ahead - self._credit)) if self._locked and self._credit <= ahead else now


class Spacing(Pace):
    """The meter of `StrictLimiter`: an interval at least between two calls, counted from when the first runs on."""

    __slots__ = ("_before", "_last")

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._restart()
        return self

    _before: int
    _last: int

    def _restart(self) -> None:
        self._last = self._before = self._whole = UNKNOWN
        self._part = 0.0

    def _called(self, now: int) -> None:
        self._last = now
        self._begin(now)

    def _step(self, now: int) -> bool:
        if now < self._tick():
            return False
        self._before = self._last
        self._called(now)
        return True

    def _due(self, weight: int, now: int) -> int:
        return now if self._breached else self._tick()

    def _charge(self, weight: int, name: str, now: int) -> int:
        if not self._breached:
            self._before = self._last
            self._called(now)
        return now

    def _refund(self, weight: int, instant: int) -> None:
        if instant == self._last:
            self._last = self._before
            if self._last == UNKNOWN:
                self._restart()
            else:
                self._begin(self._last)

    def _resume(self, now: int) -> None:
        # The timer stays as it is: it goes off early, and is set again then.
        if now > self._last != UNKNOWN and not self._breached:  # unless it is as new since the grant
            self._called(now)
            if self._clock_ns is not None and self._line:  # another clock's timers need not be spared
                self._plan(now)

    def _after(self, ahead: int, now: int) -> int:
        return self._in_intervals(float(ahead))

    def _rescale(self, interval: float) -> None:
        self._interval = interval
        if self._last != UNKNOWN:
            self._begin(self._last)


class Drips(Pace):
    """The meter of `LeakyBucketLimiter`: a level of whole permits, `most` of them at most, that sinks by one a tick."""

    __slots__ = ("_level", "_since")

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._since = 0
        self._restart()
        return self

    _level: int
    _since: int

    def _restart(self) -> None:
        self._level = 0

    def _drain(self, now: int) -> None:
        if self._level and now >= self._tick():
            ticks = self._passed_by(now)
            self._move(ticks)
            self._level = int(max(self._level - ticks, 0.0))

    def _step(self, now: int) -> bool:
        self._drain(now)
        if self._level >= self._most:
            return False
        if self._level == 0:
            self._begin(now)
        self._rise(now)
        return True

    def _rise(self, now: int) -> None:
        if self._level == 0:
            self._since = now
        self._level += 1

    def _due(self, weight: int, now: int) -> int:
        if self._breached:
            return now
        self._drain(now)
        return now if self._level < self._most else self._in_intervals(float(self._level - self._most))

    def _charge(self, weight: int, name: str, now: int) -> int:
        if not self._breached:
            self._rise(now)
        return now

    def _refund(self, weight: int, instant: int) -> None:
        # If the bucket was empty since, the permit has gone.
        if self._level and self._since <= instant:
            self._level -= 1

    def _after(self, ahead: int, now: int) -> int:
        self._drain(now)
        ahead += self._level - self._most
        return self._in_intervals(float(ahead)) if ahead >= 0 else now


class Gate:
    """A limiter on a line: `wait` for tasks, `_sleep` for threads. Its subclass says what `_wait_elsewhere` is.

    The clock is that of the loop that it was used in last; that of threads, and of stock loops, is the monotonic one.
    """

    __slots__ = ("__weakref__", "_elsewhere", "_line", "_names", "_timer")

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._elsewhere = self._timer = None
        return self

    _elsewhere: Any
    _line: Any
    _names: dict[str, Any]
    _timer: LoopTimer | None

    def _use(self, line: Line, names: dict[str, Any]) -> None:
        """Wait in this line, unless `_asyncio` among these global names is another."""
        self._line = line
        self._names = names

    def wait(self) -> Coroutine[Any, Any, None]:
        """Wait for this caller's turn; at once if nobody is before it and the rate allows it."""
        if self._names.get("_asyncio") is not asyncio:
            elsewhere: Coroutine[Any, Any, None] = self._wait_elsewhere()  # type: ignore[attr-defined]
            return elsewhere
        return self._wait_here()

    async def _wait_here(self) -> None:
        self._check_open()
        self._bind()
        if self._decide("", 1, True) == 1:
            return
        _, waited = await wait_in_line(Waiter(None, self._line, "", 1, NEVER), self._decide)
        if waited is not None:
            self._resume()

    def _decide(self, name: Any, weight: int, waits: bool) -> int:
        with deciding:
            line = self._line
            decision: int = line._enter(weight, name, line._now(), waits)
            return decision

    def _sleep(self, timeout: float | None) -> int:
        """Wait in this thread: 1 when it may go on, 0 if the timeout (seconds, or None) has passed, -1 if cancelled."""
        line = self._line
        patience = NEVER
        if timeout is not None:
            patience = int(min(_arguments.timeout(timeout), 4e9) * 1e9)
        self._check_open()
        with deciding:
            now = line._now()
            line._renew()
            if line._line:
                line._release(now, SLICE)  # their loops may not run
                line._plan(now)
            decision = line._enter(1, "", now, True)
        if decision == 1:
            return 1
        if patience == 0:
            return 0
        waiter = Waiter(None, line, "", 1, patience)
        if sleep_in_line(waiter)[0]:
            self._resume()
            return 1
        return 0 if waiter.block else -1

    def _wait_time(self) -> float:
        """Seconds until a newcomer would be served."""
        with deciding:
            now = self._line._now()
            return float((self._line._foresee(None, 1, now) - now) / 1e9)

    def _now_ns(self) -> int:
        """The time of its clock in nanoseconds."""
        now: int = self._line._now()
        return now

    def _resume(self) -> None:
        if isinstance(self._line, Pace):
            with deciding:
                self._line._resume(self._line._now())

    def _check_open(self) -> None:
        if isinstance(self._line, Pace) and self._line._closed:
            raise RuntimeError(f"{self!r} is closed; reset() opens it again")

    def _bind(self) -> None:
        """Go by the clock of the running loop."""
        line, timer = self._line, self._timer
        loop = _loop_py.running_loop()
        if timer is not None and timer.loop_ref() is loop and timer.generation == _loop_py.generation:
            if line._clock_ns is None and (clock_ns() < timer.trusted or timer.renew(clock_ns())):
                return
        else:
            timer = _loop_py.loop_timer(loop)
        clock = None
        if not timer.has_stock_clock():
            clock = line._clock_ns if timer is self._timer and line._clock_ns is not None else timer._now_ns
        with deciding:
            if not line._line:
                self._timer = timer
                if clock is not line._clock_ns:  # instants of one clock say nothing about another
                    line._clock_ns = clock
                    line._cleared += 1
                    if isinstance(line, Window):
                        line._clear()
                    else:
                        line._restart()
