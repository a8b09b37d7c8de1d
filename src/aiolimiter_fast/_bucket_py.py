"""The engine in plain Python: the twin of `_bucket`, class by class and to the nanosecond.

It serves where no compiler is (PyPy, pure wheels), as an oracle in tests and as a baseline in benchmarks.
What is said in `_bucket.pyx` about the order of waiters, overtaking and giving back holds here too.
"""

from __future__ import annotations

import heapq
import os
import sys
import warnings
from collections.abc import Callable, Coroutine
from math import inf, isfinite
from types import GenericAlias, TracebackType
from typing import Any

from aiolimiter_fast import _arguments, _loop_py
from aiolimiter_fast._admission_py import Admission, Limited
from aiolimiter_fast._core.leaky import NEVER, Leak
from aiolimiter_fast._decorator import limited
from aiolimiter_fast._line_py import Line, Watched
from aiolimiter_fast._loop_py import SLICE, UNKNOWN, LoopTimer, TimerFd, clock_ns, forked
from aiolimiter_fast._pacing_py import Drips, Gate, Pace, Spacing, Ticks
from aiolimiter_fast._shared_py import Shared, SharedWindow
from aiolimiter_fast._shared_record_py import SharedRecord
from aiolimiter_fast._statements_py import Statements
from aiolimiter_fast._waiter_py import DONE, EXPIRED, GRANTED, LOST, REFUSED, WAITING, Expiry, Link, Waiter
from aiolimiter_fast._window_py import Window
from aiolimiter_fast.errors import REUSED_ACROSS_LOOPS, AcquireTimeout, LimitReached

__all__ = [
    "Admission", "AsyncLimiter", "Drips", "Gate", "LeakyBucket", "Limited", "Line", "LoopTimer", "Pace", "Shared",
    "SharedRecord", "SharedWindow", "Spacing", "Ticks", "TimerFd", "Watched", "Window", "attach", "forked",
]  # fmt: skip

REST = 20_000_000
RESERVE = 6_000_000
SECOND = 1_000_000_000

ONE: Any = 1


def attach(get_running_loop: Callable[[], Any], get_loop_timer: Callable[[Any], Any]) -> None:
    """Give the engine its event loops; called once by the waiting layer."""
    _loop_py.running_loop = get_running_loop
    _loop_py.loop_timer = get_loop_timer


def amount_of(amount: Any) -> float:
    if type(amount) is int or type(amount) is float:
        try:
            value = float(amount)
        except OverflowError:
            value = -1.0
        if value >= 0.0 and isfinite(value):
            return value
    return _arguments.amount(amount)


class LeakyBucket:
    """A leaky bucket that is told the time.

    Arguments: max_rate (permits), time_period (seconds), burst (permits; default max_rate).
    Instants are integer nanoseconds of any one clock. Source of the algorithm: ITU-T I.371, annex A.
    """

    __slots__ = ("_burst", "_leak")

    def __init__(self, max_rate: float, time_period: float, burst: float | None = None) -> None:
        rate, period, self._burst = _arguments.rate(max_rate, time_period, burst)
        self._leak = Leak(rate, period * SECOND, self._burst)

    def take(self, amount: float, now: int) -> int:
        """Admit `amount` permits at `now` and return 0, or return the wait in nanoseconds and take nothing."""
        wait = self.wait(amount, now)
        if not wait:
            self._leak.level += self._leak.cost(amount_of(amount))
        return wait

    def wait(self, amount: float, now: int) -> int:
        """Nanoseconds until `amount` permits fit, 0 if they do now; takes nothing."""
        value = amount_of(amount)
        if value > self._burst:
            raise ValueError(f"amount={amount!r} exceeds burst={self._burst:g}")
        self._leak.advance(now)
        return self._leak.due(self._leak.cost(value)) - now

    def level(self, now: int) -> float:
        """Permits in the bucket at `now`."""
        self._leak.advance(now)
        return self._leak.permits()


class AsyncLimiter(Statements):
    """Limit how often code runs: a leaky bucket that asyncio tasks wait at.

    The documentation is that of the extension's class of the same name.
    """

    __slots__ = ()

    __class_getitem__: Any = classmethod(GenericAlias)

    def __init__(
        self, max_rate: float, time_period: float = 60, *, burst: float | None = None, fair: bool = False
    ) -> None:
        if not isinstance(fair, bool):
            raise TypeError(f"fair must be a bool, got {fair!r}")
        if self._waiting:
            raise RuntimeError(f"{self!r} cannot be set up anew while tasks wait")
        self._configure(max_rate, time_period, burst)
        self._asked = None
        self._fair = fair

    async def acquire(self, amount: float = 1, *, block: bool = True, timeout: float | None = None) -> None:
        """Take permits, waiting until there is room."""
        cost = (amount is ONE and self._one) or self._cost_of(amount, "acquire")
        patience = NEVER
        if timeout is not None:
            if not block:
                raise ValueError(f"timeout={timeout!r} makes no sense with block=False")
            patience = int(min(_arguments.timeout(timeout), 4e9) * SECOND)
        while True:
            if self._decide(cost, True, block):
                return
            if not block:
                raise LimitReached(_arguments.no_room(amount), self._estimate(cost) / SECOND)
            if patience != NEVER:
                wait = 0 if self._served_within(cost, patience) else self._estimate(cost)
                if wait > patience:
                    raise AcquireTimeout(_arguments.timed_out(amount), wait / SECOND)
            if type(amount) is not int and type(amount) is not float:
                amount = amount_of(amount)
            waiter = Waiter(self, float(amount), cost)
            if patience != NEVER:
                waiter.expiry = Expiry(waiter, patience)
            try:
                self._enqueue(waiter)
                await waiter.future
            except BaseException:
                waiter.abandon()
                raise
            if waiter.state in (WAITING, LOST):
                waiter.abandon()  # somebody else resolved the future: ask again
                cost = self._cost_of(amount, "acquire")
                if waiter.expiry is not None:
                    patience = waiter.expiry.left()
                continue
            state, waiter.state = waiter.state, DONE
            if state == EXPIRED:
                wait_time = self.wait_time(amount) if waiter.amount <= self._limit else inf
                raise AcquireTimeout(_arguments.timed_out(amount), wait_time)
            if state == REFUSED:
                raise ValueError(_arguments.too_much("acquire", amount, self))
            return

    def try_acquire(self, amount: float = 1) -> bool:
        """Take permits if there is room now, and say whether; never waits. For any thread."""
        cost = (amount is ONE and self._one) or self._cost_of(amount, "try_acquire")
        return self._decide(cost, True, False)

    def has_capacity(self, amount: float = 1) -> bool:
        """Tell whether the bucket has room for `amount` permits now, whoever waits; takes nothing."""
        cost: int = amount is ONE and self._one
        if not cost:
            value = amount_of(amount)
            if value > self._limit:
                self._check_configured()
                return False
            cost = self._leak.cost(value)
        return self._decide(cost, False, False, True)

    def wait_time(self, amount: float = 1) -> float:
        """Seconds until `amount` permits would be admitted, behind those who wait; 0.0 if now. Takes nothing."""
        cost = self._cost_of(amount, "wait_time")
        return 0.0 if self._decide(cost, False, False) else self._estimate(cost) / SECOND

    def __aenter__(self) -> Coroutine[Any, Any, None]:
        return self.acquire()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        pass

    def __call__(self, function: Any = None, /, *, amount: float = 1) -> Any:
        """Limit an async function: `@limiter` takes one permit per call, `@limiter(amount=2)` two."""
        return limited(self, function, amount)

    @property
    def max_rate(self) -> float:
        """Permits per time_period. Can be set while in use: waiters are planned anew, the level stays."""
        return self._max_rate

    @max_rate.setter
    def max_rate(self, value: float) -> None:
        self._configure(value, self._time_period, self._burst if self._asked is None else self._asked[1])
        self._asked = None

    @property
    def time_period(self) -> float:
        """Seconds. Can be set while in use: waiters are planned anew, the level stays."""
        return self._time_period

    @time_period.setter
    def time_period(self, value: float) -> None:
        self._configure(self._max_rate, value, self._burst)

    @property
    def burst(self) -> float:
        """Permits that may pass at once. Can be set while in use; None follows max_rate."""
        return self._max_rate if self._burst is None else self._burst

    @burst.setter
    def burst(self, value: float | None) -> None:
        self._configure(self._max_rate, self._time_period, value)
        if self._asked is not None:
            self._asked = self._asked[0], value

    @property
    def fair(self) -> bool:
        """Whether waiters are served strictly first come, first served."""
        return self._fair

    def __repr__(self) -> str:
        self._check_configured()
        with self._lock:
            self._advance()
            notes = f"level: {self._leak.permits():f}, waiters: {self._waiting}"
            if self._waiting:
                wait = max(self._due(self._candidate().cost) - self._leak.last, 0)
                notes += f", waking in {wait // 1000} \N{MICRO SIGN}s"
        return f"<{_arguments.describe(self)} at {id(self):#x} [{notes}]>"

    def __getstate__(self) -> tuple[Any, ...]:
        self._check_configured()
        with self._lock:
            if self._waiting:
                raise TypeError(f"cannot pickle or copy {self!r} while tasks wait")
            self._advance()
            level = self._leak.permits()
        attributes = getattr(self, "__dict__", None)
        state = self._max_rate, self._time_period, self._burst, self._fair, level, attributes
        return state if self._asked is None else (*state, self._asked)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        max_rate, time_period, burst, fair, level, attributes, *asked = state
        AsyncLimiter.__init__(self, max_rate, time_period, burst=burst, fair=fair)
        self._asked = asked[0] if asked else None
        # The level as it was then; it leaks on from the first look at the clock.
        rate, period, limit = _arguments.rate(max_rate, time_period, burst)
        level = max(_arguments.number("level", level), 0.0)
        _arguments.drains(rate, period, max(limit, level))
        self._leak.configure(rate, period * SECOND, limit, level)
        self._one = self._leak.cost(1.0) if limit >= 1.0 else 0
        self._leak.last = NEVER
        if attributes:
            self.__dict__.update(attributes)

    def __reduce__(self) -> tuple[Any, ...]:
        return _arguments.newobj, (type(self),), self.__getstate__()

    def _check_configured(self) -> None:
        if self._limit < 0.0:
            raise AttributeError(f"{type(self).__name__}.__init__ did not call AsyncLimiter.__init__")

    def _configure(self, max_rate: float, time_period: float, burst: float | None) -> None:
        """Change rate, period or burst; keep the level, and plan those who wait anew."""
        rate, period, limit = _arguments.rate(max_rate, time_period, burst)
        with self._lock:
            if self._limit < 0.0:
                level = 0.0
            else:
                self._advance()
                level = self._leak.permits()
                _arguments.drains(rate, period, max(limit, level))
            permit = float(self._leak.permit)
            self._leak.configure(rate, period * SECOND, limit, level)
            self._max_rate, self._time_period, self._burst, self._limit = max_rate, time_period, burst, limit
            self._one = self._leak.cost(1.0) if limit >= 1.0 else 0
            waiters = self._waiters()
            self._configurations += 1
            self._overtaken, self._queued, passed = 0, 0, 0.0
            for waiter in reversed(waiters):
                waiter.cost = self._leak.cost(min(waiter.amount, limit))
                self._queued += waiter.cost
                # What has passed it, in the new units; more than the new burst counts no more than that.
                passed += float(waiter.passed) / permit
                waiter.passed = self._leak.cost(min(passed, limit)) - self._overtaken
                self._overtaken += waiter.passed
            self._queue = [(0 if self._fair else waiter.cost, order, waiter) for order, waiter in enumerate(waiters)]
            heapq.heapify(self._queue)
            for waiter in waiters:
                if waiter.amount > limit and waiter.state == WAITING:  # a wake-up runs Python code
                    self._remove(waiter)
                    waiter.state = REFUSED
                    waiter.wake(_loop_py.running_loop())
            self._plan(0)

    def _waiters(self) -> list[Waiter]:
        """Those who wait, in order of arrival."""
        waiters = []
        waiter = self._oldest
        while waiter is not None:
            waiters.append(waiter)
            waiter = waiter.later
        return waiters

    def _cost_of(self, amount: Any, caller: str) -> int:
        value = amount_of(amount)
        if value > self._limit:
            self._check_configured()
            raise ValueError(_arguments.too_much(caller, amount, self))
        return self._leak.cost(value)

    def _decide(self, cost: int, take: bool, waits: bool, alone: bool = False) -> bool:
        """Take `cost` if it is admitted now, and say so.

        `waits`: the caller will queue otherwise; `alone`: as if nobody waited.
        """
        leak = self._leak
        lock = self._lock
        try:
            # Half of what `with` costs; within the `try`, so that an interrupt upon it leaves nothing locked.
            lock.acquire()
            now = clock_ns()
            timer = self._quick
            # As nearly always: nobody waits, nothing is stated, the loop is open, and its clock is the stock one.
            if not self._waiting and timer is not None and (now < timer.trusted or timer.renew(now)):
                leak.advance(now)
                level = leak.level + cost
                if level > leak.capacity:
                    return False
                if take:
                    leak.level = level
                return True
        finally:
            lock.release()
        self._bind()
        with self._lock:
            self._advance()
            admitted = self._fits(cost) if alone else self._admits(cost, waits)
            if admitted and take:
                self._take(cost)
                if self._newest is not None:
                    self._newest.passed += cost
                    self._overtaken += cost
        return admitted

    def _admits(self, cost: int, waits: bool) -> bool:
        """Whether a newcomer is admitted now, after those in the queue whose time has come."""
        if self._waiting:
            if self._generation != _loop_py.generation:
                self._drop(False)
            elif not waits and self._release(SLICE):
                self._plan(0)
        if self._waiting and cost:
            passes = not self._fair and self._overtaken + cost <= self._leak.capacity
            if not passes or self._fits(self._candidate().cost):
                return False
        return self._fits(cost)

    def _served_within(self, cost: int, patience: int) -> bool:
        """Whether a newcomer would be admitted in time even behind all who wait."""
        return self._wait_of(self._queued + cost) <= patience

    def _estimate(self, cost: int) -> int:
        """Nanoseconds until a newcomer of this cost would be admitted if nobody else came or left."""
        with self._lock:
            passing = self._overtaken + cost > self._leak.capacity
            units = sum(
                waiter.cost
                for waiter in self._waiters()
                if self._fair or waiter.cost <= cost or (passing and waiter is self._oldest)
            )
            return max(self._wait_of(units + cost), 1)

    def _enqueue(self, waiter: Waiter) -> None:
        """Let `waiter` wait in the running loop."""
        loop = _loop_py.running_loop()
        if loop is None:
            raise RuntimeError("no running event loop")
        timer = self._timer
        if timer is None or timer.generation != _loop_py.generation or timer.loop_ref() is not loop:
            timer = _loop_py.loop_timer(loop)
        waiter.future = loop.create_future()
        with self._lock:
            for link in self._links:
                if link.timer is timer:
                    break
            else:
                link = Link(timer)
                self._links = [entry for entry in self._links if not entry.timer.is_closed()]
                self._links.append(link)
            if self._waiting == 0:
                self._generation = _loop_py.generation
            heapq.heappush(self._queue, (0 if self._fair else waiter.cost, self._arrivals, waiter))
            self._arrivals += 1
            self._waiting += 1
            self._queued += waiter.cost
            link.waiting += 1
            link.limiter = self
            waiter.earlier = self._newest
            if self._newest is not None:
                self._newest.later = waiter
            else:
                self._oldest = waiter
            self._newest = waiter
            waiter.link = link
            waiter.state = WAITING
            if waiter.expiry is not None:
                waiter.expiry.enter()
            if self._candidate() is waiter or link.deadline == NEVER:
                self._plan(0)

    def _remove(self, waiter: Waiter) -> None:
        """Take a waiter out of the queue."""
        waiter.state = DONE
        self._queued -= waiter.cost
        if waiter.expiry is not None:
            waiter.expiry.leave()
        if waiter.earlier is not None:
            waiter.earlier.later = waiter.later
            waiter.earlier.passed += waiter.passed
        else:
            self._oldest = waiter.later
            self._overtaken -= waiter.passed
        if waiter.later is not None:
            waiter.later.earlier = waiter.earlier
        else:
            self._newest = waiter.earlier
        waiter.earlier = waiter.later = None
        self._waiting -= 1
        waiter.link.waiting -= 1
        if not self._waiting:
            self._queue.clear()
        elif len(self._queue) > 2 * self._waiting + 64:
            self._queue = [entry for entry in self._queue if entry[2].state == WAITING]
            heapq.heapify(self._queue)

    def _candidate(self) -> Waiter:
        """Who is next: the smallest amount, unless the oldest has been passed often enough."""
        while self._queue[0][2].state != WAITING:
            heapq.heappop(self._queue)
        first = self._queue[0][2]
        assert self._oldest is not None
        if first is not self._oldest and self._overtaken + first.cost > self._leak.capacity:
            return self._oldest
        return first

    def _release(self, budget: int) -> int:
        """Grant what fits to those who are next, and wake them; say how many."""
        woken = 0
        here = _loop_py.running_loop()
        while self._waiting and woken < budget:
            waiter = self._candidate()
            if not self._fits(waiter.cost):
                break
            if waiter.earlier is not None:
                waiter.earlier.passed += waiter.cost
                self._overtaken += waiter.cost
            self._remove(waiter)
            self._take(waiter.cost)
            waiter.passed = self._leak.empty()
            waiter.state = GRANTED
            waiter.configuration = self._configurations
            if waiter.wake(here):
                woken += 1
            else:
                waiter.state = LOST
                self._leak.level = max(self._leak.level - waiter.cost, 0)
                self._hold.give_back(self._permits(waiter.cost))
        return woken

    def _plan(self, rest: int) -> None:
        """Enter the next deadline, at least `rest` ns away, in the heap of every loop that waits here."""
        deadline = NEVER
        if self._waiting:
            deadline = 0 if self._leak.last == NEVER else max(self._due(self._candidate().cost), self._leak.last + rest)
        for link in self._links:
            timer = link.timer
            if link.waiting == 0:
                timer.schedule(link, NEVER)
                link.limiter = None
            elif timer is self._timer:
                timer.schedule(link, deadline)
            else:  # another clock, perhaps
                timer.schedule(link, timer.now(0) + deadline - self._leak.last)

    def _rest(self) -> int:
        """How long a queue may rest between two servings without the bucket running empty."""
        if not self._waiting:
            return 0
        bridge = (self._leak.capacity - self._candidate().cost) // self._leak.drain
        return max(min(bridge - RESERVE, REST), 0)

    def _advance(self) -> None:
        """Let the level leak until now."""
        now = clock_ns() if self._timer is None else self._timer.now(UNKNOWN)
        if now != UNKNOWN:
            if now >= self._hold.opens:
                self._open(now)
            self._leak.advance(now)

    def _bind(self) -> None:
        """Adopt the running loop's clock if the limiter has met no loop yet, or if its loop was closed."""
        former = self._timer
        if former is not None and not former.is_closed():
            return
        loop = _loop_py.running_loop()
        if loop is None:
            return
        timer = _loop_py.loop_timer(loop)
        self._follow(timer)
        if timer.has_stock_clock() != (former is None or former.method is not None):
            self._leak.last = NEVER
        if former is not None:
            self._drop(True)
            _warn(REUSED_ACROSS_LOOPS)

    def _drop(self, closed_only: bool) -> None:
        """Forget waiters whose loop is closed, or all where the process was forked."""
        with self._lock:
            for waiter in self._waiters():
                if (not closed_only or waiter.link.timer.is_closed()) and waiter.state == WAITING:
                    self._remove(waiter)
                    waiter.state = LOST
                    waiter.future = None
            self._plan(0)
            if not closed_only:
                self._links = []


def _warn(text: str) -> None:
    """Warn at the line of the caller, which is outside this package."""
    if sys.version_info >= (3, 12):
        warnings.warn(text, RuntimeWarning, skip_file_prefixes=(os.path.dirname(__file__),))
    else:
        level, frame = 1, sys._getframe()
        while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
            level, frame = level + 1, frame.f_back
        warnings.warn(text, RuntimeWarning, stacklevel=level)


AsyncLimiter.__module__ = "aiolimiter_fast"
