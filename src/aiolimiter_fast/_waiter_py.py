"""The twin of `_bucket/events.pxi` and of a waiting `Acquire`: who waits at a limiter, and the deadlines of that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiolimiter_fast import _loop_py
from aiolimiter_fast._core.leaky import NEVER
from aiolimiter_fast._loop_py import SLICE, Event, LoopTimer

if TYPE_CHECKING:
    from aiolimiter_fast._bucket_py import AsyncLimiter

CREATED, WAITING, GRANTED, EXPIRED, REFUSED, LOST, DONE = range(7)


class Link(Event):
    """A limiter's entry in the deadline heap of one loop: when the next waiter is due."""

    __slots__ = ("limiter", "timer", "waiting")

    def __init__(self, timer: LoopTimer) -> None:
        super().__init__()
        # None while nobody of this loop waits.
        self.limiter: AsyncLimiter | None = None
        self.timer = timer
        self.waiting = 0

    def serve(self, budget: int) -> int:
        """Wake the limiter's waiters that are due, and say how many; then enter its next deadline."""
        limiter = self.limiter
        if limiter is None:  # nobody waits any more, as of a moment ago
            return 0
        with limiter._lock:
            if limiter._timer is not self.timer and limiter._timer is not None and limiter._timer.is_closed():
                limiter._follow(self.timer)  # or its clock would stand still for those who wait here
                limiter._leak.last = NEVER
            limiter._advance()
            woken = limiter._release(budget)
            rests = 0 < woken < budget and self.timer.fd >= 0 and self.timer.has_stock_clock()
            limiter._plan(limiter._rest() if rests else 0)
        return woken

    def lose(self) -> None:
        if self.limiter is not None:
            self.limiter._drop(True)


class Expiry(Event):
    """The end of one caller's patience, in the deadline heap of its loop."""

    __slots__ = ("end", "patience", "waiter")

    def __init__(self, waiter: Waiter, patience: int) -> None:
        super().__init__()
        self.waiter = waiter
        self.patience = patience
        self.end = NEVER

    def enter(self) -> None:
        timer = self.waiter.link.timer
        last = self.waiter.limiter._leak.last
        self.end = timer.now(0 if last == NEVER else last) + self.patience
        timer.schedule(self, self.end)

    def leave(self) -> None:
        self.waiter.link.timer.schedule(self, NEVER)

    def left(self) -> int:
        """The patience that is left of it, for a caller who has to ask again."""
        return max(self.end - self.waiter.link.timer.now(self.end - self.patience), 0)

    def serve(self, budget: int) -> int:
        """Turn the caller away, unless there is room for it at the last moment."""
        waiter = self.waiter
        limiter = waiter.limiter
        with limiter._lock:
            limiter._advance()
            woken = limiter._release(SLICE)
            if waiter.state == WAITING:
                limiter._remove(waiter)
                waiter.state = EXPIRED
                waiter.wake(_loop_py.running_loop())
            limiter._plan(0)
        return woken


class Waiter:
    """A caller in the queue; the same as a waiting `Acquire` of the extension."""

    __slots__ = (
        "amount", "configuration", "cost", "earlier", "expiry", "future", "later", "limiter", "link", "passed",
        "state",
    )  # fmt: skip

    def __init__(self, limiter: AsyncLimiter, amount: float, cost: int) -> None:
        self.limiter = limiter
        self.amount = amount
        self.cost = cost
        self.state = CREATED
        self.passed = 0
        self.configuration = 0
        self.future: Any = None
        self.link: Link
        self.earlier: Waiter | None = None
        self.later: Waiter | None = None
        self.expiry: Expiry | None = None

    def resolve(self) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def wake(self, here: Any) -> bool:
        """Let the waiting task run on; False if nobody is left to run. `here`: the loop that runs in this thread."""
        loop = self.link.timer.loop_ref()
        try:
            if loop is here:
                self.future.set_result(None)
            elif loop is None:
                return False
            else:
                loop.call_soon_threadsafe(self.resolve)
        except Exception:  # the future is cancelled, or its loop closed
            return False
        return True

    def abandon(self) -> None:
        """Leave the queue, or give back what was granted and not used."""
        limiter = self.limiter
        with limiter._lock:
            state, self.state = self.state, DONE
            if state == WAITING:
                limiter._remove(self)
                limiter._plan(0)
            elif state == GRANTED and self.configuration == limiter._configurations:
                # else its level was another's measure
                limiter._advance()
                cost = limiter._leak.cost(self.amount)
                limiter._leak.give_back(cost, self.passed)
                limiter._hold.give_back(limiter._permits(cost))
                limiter._plan(0)
