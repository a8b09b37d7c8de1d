"""The twin of `_bucket/window.pxi`: the sliding-window log with its line."""

from __future__ import annotations

from typing import Any

from aiolimiter_fast._core.leaky import NEVER
from aiolimiter_fast._core.window import RateWindow, WindowLog
from aiolimiter_fast._forking import deciding
from aiolimiter_fast._line_py import Line, Waiter, text_of
from aiolimiter_fast._loop_py import clock_ns


class Window(Line):
    """A log of what was admitted, for any number of rates, and the line of those who wait for room in it.

    The documentation is that of the extension's class of the same name.
    """

    __slots__ = ("_gone", "_last_denial", "_leaks_", "_log", "_rate_objects")

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._gone = 0
        self._last_denial = (None, None)
        self._leaks_ = False
        self._log = WindowLog()
        self._rate_objects = []
        return self

    _gone: int
    _last_denial: tuple[Any, Any]
    _leaks_: bool
    _log: WindowLog
    _rate_objects: list[Any]

    def _due(self, weight: int, now: int) -> int:
        self._log.advance(now)
        return self._log.due(weight)

    def _charge(self, weight: int, name: str, now: int) -> int:
        """Take `weight`, which fits; say which instant it carries."""
        log = self._log
        longest = max(log.rates, key=lambda rate: rate.interval).tail
        if log.first < longest:
            units = log.forget(longest)
            if not self._leaks_:
                self._gone += units
        log.append(now, weight, name)
        return log.times[-1]

    def _refund(self, weight: int, instant: int) -> None:
        self._log.take_back(weight, instant)

    def _bound(self) -> int:
        return self._log.rates[0].limit

    def _foresee(self, last: Waiter | None, weight: int, now: int) -> int:
        """Play the line through: each waiter's permits join the log at the instant when they fit."""
        log, size, instant = self._log, len(self._log.times), now
        log.advance(now)
        log.stated_due(0)
        stated = [[row.until, row.limit - row.used] for row in log.rows[len(log.rates) :]]
        ahead: list[tuple[int, int]] = []
        tails = [[rate.tail, rate.used] for rate in log.rates]
        for waiter in [*self._line, None]:
            units = weight if waiter is None else waiter.weight
            if any(units > rate.limit for rate in log.rates):
                if waiter is last:
                    return NEVER
                units = 0
            for rate, tail in zip(log.rates, tails, strict=True):
                while units > rate.limit - tail[1]:
                    place = tail[0] - size
                    time, gone = (log.times[tail[0]], log.weights[tail[0]]) if place < 0 else ahead[place]
                    instant = max(instant, time + rate.interval + 1)
                    tail[1] -= gone
                    tail[0] += 1
            for entry in stated:
                if units > entry[1]:
                    instant = max(instant, entry[0])
                entry[1] -= units
            for tail in tails:
                tail[1] += units
            ahead.append((instant, units))
            if waiter is last:
                break
        return instant

    def _configure(self, rates: list[Any], limits: list[int], intervals: list[int]) -> None:
        with deciding:
            known = [(rate.limit, rate.interval) for rate in self._log.rates]
            changed = known != list(zip(limits, intervals, strict=True))
            if changed:
                self._log.configure([RateWindow(*numbers) for numbers in zip(limits, intervals, strict=True)])
            if changed or any(new is not old for new, old in zip(rates, self._rate_objects, strict=False)):
                self._rate_objects = rates
                failing = self._last_denial[0]
                self._last_denial = (failing if failing in rates else None, None)
            if changed:
                self._replan()

    def _look(self, rates: list[Any]) -> None:
        """See the extension, which does not look at the rates each time."""

    def _is_current(self) -> bool:
        return False

    def _refresh(self) -> None:
        """Read the rates again if one of them may have been changed."""

    def _take(self, name: Any, weight: int, now: int) -> Any:
        """Admit `weight` at `now` and return None, or return the rate that has no room."""
        name = text_of(name)
        with deciding:
            self._log.advance(now)
            failing = self._failing(weight)
            if failing is not None and self._log.due(weight) > now:
                self._deny(failing, None)
                return failing
            self._charge(weight, name, now)
            self._deny(None, None)
            return None

    def _append(self, name: Any, weight: int, now: int) -> None:
        name = text_of(name)
        with deciding:
            self._log.append(now, weight, name)

    def _failing(self, weight: int) -> Any:
        index = self._log.failing(weight)
        return self._rate_objects[min(index, len(self._rate_objects) - 1)] if index >= 0 else None

    def _rate_due(self, weight: int, rate: Any, now: int) -> int:
        with deciding:
            self._log.advance(now)
            due = self._log.rate_due(self._log.rates[self._rate_objects.index(rate)], weight)
            return max(due, self._log.stated_due(weight))

    def _count_since(self, instant: int) -> int:
        with deciding:
            return sum(self._log.weights[self._log.find(instant) :])

    def _leak(self, instant: int) -> int:
        with deciding:
            gone, self._gone = self._gone, 0
            gone += self._log.forget(self._log.find(instant))
            self._replan()
            return gone

    def _unit(self, index: int) -> tuple[Any, int, int] | None:
        with deciding:
            return self._log.unit(index)

    def _entries(self) -> list[tuple[Any, int, int]]:
        with deciding:
            return list(self._log.entries())

    def _units(self) -> int:
        return self._log.units + self._gone

    def _clear(self) -> None:
        with deciding:
            self._log.forget(len(self._log.times))
            self._log.latest = -NEVER
            self._cleared += 1
            self._gone = 0
            self._deny(None, None)
            self._replan()

    def _wait_time(self, weight: int, instant: int | None) -> int:
        with deciding:
            self._renew()
            now = clock_ns() if instant is None else instant
            due = self._foresee(None, weight, now)
            return -1 if due == NEVER else due - now

    def _room(self, instant: int | None) -> list[int]:
        with deciding:
            self._log.advance(clock_ns() if instant is None else instant)
            left = self._log.stated_left()
            return [max(min(rate.limit - rate.used, left), 0) for rate in self._log.rates]

    def _state(self, wait: int, left: int) -> None:
        """Admit at most `left` units within `wait` ns from now."""
        with deciding:
            self._renew()
            now = self._now()
            self._be_at(now)
            if wait > 0 and self._log.state(now + wait, left) and self._line:
                self._plan(now)

    def _be_at(self, now: int) -> bool:
        """Be at `now`, and say whether there is a place for an entry."""
        if not self._log.rates:
            raise ValueError("the bucket has no rates")
        self._log.advance(now)
        return True

    def _unstate(self) -> None:
        """Forget all statements."""
        with deciding:
            del self._log.rows[len(self._log.rates) :]
            self._replan()

    def _spend(self, name: str, left: int) -> None:
        """Enter as much as if all but `left` units of what there is room for had been admitted."""
        with deciding:
            self._renew()
            while True:
                now = self._now()
                if not self._be_at(now):
                    return
                weight = min(rate.limit - rate.used for rate in self._log.rates) - left
                if weight <= 0:
                    return
                if self._claim(weight, now):
                    break
            self._charge(weight, name, now)
            self._log.count_stated(-weight)  # they are of what was really admitted
            if self._line:
                self._plan(now)

    def _deny(self, rate: Any, wait: Any) -> None:
        self._last_denial = (rate, wait)

    def _denial(self) -> tuple[Any, Any]:
        return self._last_denial

    @property
    def _leaks(self) -> bool:
        return self._leaks_

    @_leaks.setter
    def _leaks(self, leaks: bool) -> None:
        self._leaks_ = leaks
        self._gone = 0
