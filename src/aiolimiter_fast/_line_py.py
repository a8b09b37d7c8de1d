"""The twin of `_bucket/line.pxi` and `_bucket/call.pxi`: callers in order of arrival, threads and tasks alike."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiolimiter_fast import _loop_py
from aiolimiter_fast._core.leaky import NEVER
from aiolimiter_fast._forking import deciding
from aiolimiter_fast._loop_py import SLICE, Event, LoopTimer, clock_ns
from aiolimiter_fast._waiter_py import CREATED, DONE, EXPIRED, GRANTED, LOST, REFUSED, WAITING

if TYPE_CHECKING:
    from aiolimiter_fast._admission_py import Admission

# Nanoseconds that a thread sleeps at a time, at most: platforms bound it, and Windows lets no Ctrl-C end it.
LONGEST_SLEEP = 100_000_000 if sys.platform == "win32" else 86_400_000_000_000
# Where a clock other than the monotonic one has not moved as far as was slept, so long at least to the next look.
LEAST_PAUSE = 1_000_000


def text_of(name: Any) -> str:
    """A name as a string that runs no code of anybody's when it goes."""
    return name if type(name) is str else str.__str__(str(name))


class Watched:
    """An object whose attributes a fast path of the extension may rely on; the twin looks each time."""

    __slots__ = ()


class Ticket(Event):
    """A line's entry in the deadline heap of one loop: when the first in line is due."""

    __slots__ = ("line", "timer", "waiting")

    def __init__(self, timer: LoopTimer) -> None:
        super().__init__()
        # None while nobody of this loop waits.
        self.line: Line | None = None
        self.timer = timer
        self.waiting = 0

    def serve(self, budget: int) -> int:
        with deciding:
            line = self.line
            if line is None:  # nobody waits any more, as of a moment ago
                return 0
            now = line._now()
            woken = line._release(now, budget)
            line._plan(now)
            if woken == 0 and line._clock_ns is not None and self.deadline != NEVER:
                self.timer.schedule(self, max(self.deadline, self.timer.now(0) + LEAST_PAUSE))
        return woken

    def lose(self) -> None:
        line = self.line
        if line is not None:
            line._drop(True)


class Patience(Event):
    """The end of one task's patience, in the deadline heap of its loop."""

    __slots__ = ("timer", "waiter")

    def __init__(self, timer: LoopTimer, waiter: Waiter) -> None:
        super().__init__()
        self.timer = timer
        # None once it has been served, or has left.
        self.waiter: Waiter | None = waiter

    def serve(self, budget: int) -> int:
        """Turn the caller away, unless there is room for it at the last moment."""
        with deciding:
            self.timer.schedule(self, NEVER)
            waiter = self.waiter
            if waiter is None:
                return 0
            line = waiter.line
            now = line._now()
            woken = line._release(now, SLICE)
            if waiter.state == WAITING:
                line._turn_away(waiter, EXPIRED, _loop_py.running_loop())
            line._plan(now)
        return woken


class Waiter:
    """A caller in the line: a task by its future, a thread by a lock."""

    __slots__ = (
        "block", "called", "cleared", "expiry", "future", "granted", "limiter", "line", "name", "patience", "since",
        "sleeps_until", "state", "ticket", "weight",
    )  # fmt: skip

    def __init__(self, limiter: Admission | None, line: Line, name: str, weight: int, patience: int) -> None:
        self.limiter = limiter
        self.line = line
        self.name = name
        self.weight = weight
        self.patience = patience
        self.block = True
        self.state = CREATED
        self.ticket: Ticket | None = None
        self.expiry: Patience | None = None
        self.future: Any = None
        # Of a thread: its lock is released, for it to wake up and hold it again.
        self.called = False
        self.since = self.granted = self.cleared = self.sleeps_until = 0

    def resolve(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def wake(self, here: Any) -> bool:
        """Let the caller run on; False if nobody is left to run. `here`: the loop that runs in this thread."""
        try:
            if self.ticket is None:
                if not self.called:
                    self.called = True
                    self.future.release()
                return True
            loop = self.ticket.timer.loop_ref()
            if loop is None:
                return False
            if loop is here:
                self.future.set_result(None)
            else:
                loop.call_soon_threadsafe(self.resolve)
        except Exception:  # the future is cancelled, or its loop closed
            return False
        return True

    def forget_patience(self) -> None:
        expiry, self.expiry = self.expiry, None
        if expiry is not None:
            expiry.waiter = None
            expiry.timer.schedule(expiry, NEVER)

    def abandon(self) -> None:
        """Leave the line, or give back what was granted and not used."""
        line = self.line
        with deciding:
            state, self.state = self.state, DONE
            if state == WAITING:
                line._remove(self, DONE)
            else:
                self.forget_patience()
                if state == GRANTED:
                    line._give_back(self)
            line._renew()
            if line._line:
                now = line._now()
                line._release(now, SLICE)
                line._plan(now)
            elif state == WAITING:
                line._plan(0)  # or the heap would hold the line until the deadline


async def wait_in_line(waiter: Waiter, decide: Callable[[str, int, bool], int]) -> tuple[bool, int | None]:
    """Wait as a task: whether it was admitted, and how long it waited (ns), None if it did not have to."""
    line = waiter.line
    while True:
        waits = waiter.block and waiter.patience > 0
        decision = decide(waiter.name, waiter.weight, waits)
        if decision != 0 or not waits:
            return decision == 1, None
        loop = _loop_py.running_loop()
        timer = _loop_py.loop_timer(loop)
        waiter.future = loop.create_future()
        try:
            with deciding:
                if waiter.patience != NEVER:
                    waiter.expiry = Patience(timer, waiter)
                    timer.schedule(waiter.expiry, timer.now(0) + waiter.patience)
                now = waiter.since = line._now()
                waiter.ticket = line._ticket(timer)
                if line._due(waiter.weight, now) == NEVER:  # the rates were changed a moment ago
                    waiter.state = REFUSED
                    waiter.future.set_result(None)
                else:
                    line._enqueue(waiter, now)
                    if line._first() is waiter or waiter.ticket.deadline == NEVER:
                        line._plan(now)
            await waiter.future
        except BaseException:
            waiter.abandon()
            raise
        waited = line._now() - waiter.since
        if waiter.state in (WAITING, LOST):
            waiter.abandon()  # somebody else resolved the future: ask again, with what is left of the patience
            if waiter.patience != NEVER:
                waiter.patience = max(waiter.patience - waited, 0)
            continue
        state, waiter.state = waiter.state, DONE
        waiter.forget_patience()
        return state == GRANTED, waited


def sleep_in_line(waiter: Waiter) -> tuple[bool, int]:
    """Wait as a thread: whether it was admitted, and how long it waited (ns)."""
    line = waiter.line
    end = NEVER if waiter.patience == NEVER else min(clock_ns() + waiter.patience, NEVER)
    waiter.future = threading.Lock()
    waiter.future.acquire()
    woken = True
    try:
        with deciding:
            now = until = waiter.since = line._now()
            if line._due(waiter.weight, now) == NEVER:  # the rates were changed a moment ago
                waiter.state = REFUSED
            else:
                line._enqueue(waiter, now)
                until = waiter.sleeps_until = line._foresee(waiter, 0, now)
        while waiter.state == WAITING:
            left = end if end == NEVER else end - clock_ns()  # of the thread, whatever the line's clock
            pause = until - now
            if not woken and line._clock_ns is not None:
                pause = max(pause, LEAST_PAUSE)
            pause = min(pause, left, LONGEST_SLEEP)
            woken = pause > 0 and waiter.future.acquire(True, pause / 1e9)
            with deciding:
                if woken:
                    waiter.called = False
                now = line._now()
                if waiter.state == WAITING:
                    line._release(now, SLICE)
                if waiter.state == WAITING and end != NEVER and clock_ns() >= end:
                    line._remove(waiter, EXPIRED)
                line._plan(now)
                if waiter.state == WAITING:
                    until = waiter.sleeps_until = line._foresee(waiter, 0, now)
        admitted = waiter.state == GRANTED
        waiter.state = DONE
    except BaseException:
        waiter.abandon()
        raise
    return admitted, now - waiter.since


class Line(Watched):
    """Callers in order of arrival, and the clock by which they are served; a subclass is the meter that admits them."""

    __slots__ = ("_cleared", "_clock_ns", "_generation", "_line", "_passed", "_tickets")

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._cleared = 0
        self._clock_ns = None
        self._generation = _loop_py.generation
        self._line = OrderedDict()
        self._passed = 0
        self._tickets = []
        return self

    _cleared: int
    _clock_ns: Callable[[], int] | None
    _generation: int
    _line: OrderedDict[Waiter, None]
    _passed: int
    _tickets: list[Ticket]

    def _due(self, weight: int, now: int) -> int:
        raise NotImplementedError

    def _claim(self, weight: int, now: int) -> bool:
        """Take `weight`, which fits, where others decide as well; False if one of them was first."""
        return True

    def _charge(self, weight: int, name: str, now: int) -> int:
        """Enter `weight`, which fits and was claimed; say which instant it carries."""
        raise NotImplementedError

    def _refund(self, weight: int, instant: int) -> None:
        raise NotImplementedError

    def _foresee(self, last: Waiter | None, weight: int, now: int) -> int:
        raise NotImplementedError

    def _bound(self) -> int:
        return 0

    def _judge(self, admitted: bool) -> None:
        """Raise what has kept a caller who waited from being admitted, if it was an error."""

    def _refresh(self) -> None:
        """Take note of what was changed since."""

    def _now(self) -> int:
        return clock_ns() if self._clock_ns is None else self._clock_ns()

    def _renew(self) -> None:
        """In a forked child, forget the parent's waiters."""
        if self._line and self._generation != _loop_py.generation:
            self._drop(False)

    def _enter(self, weight: int, name: str, now: int, waits: bool) -> int:
        """Take `weight` if it is admitted now: 1; 0 if not, -1 if never. `waits`: the caller will queue otherwise."""
        if self._line:
            self._renew()
            if self._release(now, SLICE):
                self._plan(now)
        while True:
            due = self._due(weight, now)
            if due > now:
                return -1 if due == NEVER else 0
            if self._line and (waits or weight > self._bound() - self._passed):
                return 0
            if self._claim(weight, now):
                break
        if self._line:
            self._passed += weight
        self._charge(weight, name, now)
        return 1

    def _first(self) -> Waiter:
        return next(iter(self._line))

    def _enqueue(self, waiter: Waiter, now: int) -> None:
        if not self._line:
            self._generation = _loop_py.generation
            self._passed = 0
        self._line[waiter] = None
        waiter.state = WAITING
        waiter.since = now
        if waiter.ticket is not None:
            waiter.ticket.waiting += 1
            waiter.ticket.line = self

    def _remove(self, waiter: Waiter, state: int) -> None:
        """Take a waiter out of the line."""
        if waiter is self._first():
            self._passed = 0
        del self._line[waiter]
        waiter.state = state
        if waiter.ticket is not None:
            waiter.ticket.waiting -= 1
        waiter.forget_patience()

    def _release(self, now: int, budget: int) -> int:
        """Serve those whose time has come, in order, and wake them; say how many."""
        woken = 0
        self._refresh()
        here = _loop_py.running_loop()
        while self._line and woken < budget:
            waiter = self._first()
            due = self._due(waiter.weight, now)
            if now < due < NEVER:
                break
            if due != NEVER and not self._claim(waiter.weight, now):
                continue
            if due == NEVER:  # since a change of rates
                self._turn_away(waiter, REFUSED, here)
                continue
            waiter.granted = self._charge(waiter.weight, waiter.name, now)
            waiter.cleared = self._cleared
            self._remove(waiter, GRANTED)
            if waiter.wake(here):
                woken += 1
            elif waiter.state == GRANTED:
                waiter.state = LOST
                self._give_back(waiter)
        return woken

    def _turn_away(self, waiter: Waiter, state: int, here: Any) -> None:
        self._remove(waiter, state)
        waiter.wake(here)

    def _give_back(self, waiter: Waiter) -> None:
        """Take back what a waiter was granted and has not used."""
        if waiter.cleared == self._cleared:
            self._refund(waiter.weight, waiter.granted)

    def _replan(self) -> None:
        """Serve, turn away or plan anew those who wait, after a change."""
        with deciding:
            self._renew()
            if not self._line:
                return
            now = self._now()
            here = _loop_py.running_loop()
            for waiter in list(self._line):
                if waiter.state == WAITING and self._due(waiter.weight, now) == NEVER:
                    self._turn_away(waiter, REFUSED, here)
            self._release(now, SLICE)
            self._plan(now)

    def _plan(self, now: int) -> None:
        """See that whoever is first is served in time: by every loop that waits here, or by its own thread."""
        deadline = NEVER
        if self._line:
            waiter = self._first()
            deadline = max(self._due(waiter.weight, now), now)
            if waiter.ticket is None and deadline < waiter.sleeps_until:
                waiter.sleeps_until = deadline
                waiter.wake(None)
        for ticket in self._tickets:
            timer = ticket.timer
            if ticket.waiting == 0:
                ticket.line = None
                timer.schedule(ticket, NEVER)
            elif deadline == NEVER or (self._clock_ns is None and timer.has_stock_clock()):
                timer.schedule(ticket, deadline)
            else:
                timer.schedule(ticket, timer.now(0) + max(deadline - now, 0))

    def _ticket(self, timer: LoopTimer) -> Ticket:
        for ticket in self._tickets:
            if ticket.timer is timer:
                return ticket
        ticket = Ticket(timer)
        self._tickets = [entry for entry in self._tickets if not entry.timer.is_closed()]
        self._tickets.append(ticket)
        return ticket

    def _drop(self, closed_only: bool) -> None:
        """Forget waiters whose loop is closed, or all where the process was forked."""
        with deciding:
            for waiter in list(self._line):
                lost = waiter.ticket is not None and waiter.ticket.timer.is_closed()
                if (lost or not closed_only) and waiter.state == WAITING:
                    self._remove(waiter, LOST)
            if not closed_only:
                self._tickets = []
            self._plan(self._now() if self._line else 0)
