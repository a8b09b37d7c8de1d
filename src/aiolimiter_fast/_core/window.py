"""The twin of `window.pxd`: the sliding-window log, told the time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

from aiolimiter_fast._core.leaky import NEVER

# Entries at the front of the lists that may be dead before they are cut off.
SLACK = 64
# Statements kept at most.
STATED = 8


class RateWindow:
    """One rate, and what of the log is inside its window; or a statement, that counts until its own end."""

    __slots__ = ("interval", "limit", "tail", "until", "used")

    def __init__(self, limit: int, interval: int, until: int = NEVER) -> None:
        self.limit = limit
        self.interval = interval
        self.until = until
        # Units of the entries from `tail` on, and the place of the first of them.
        self.used = 0
        self.tail = 0


class WindowLog:
    """Entries (time, weight, name) for any number of stacked rates by rising interval."""

    __slots__ = ("first", "latest", "names", "rates", "rows", "times", "units", "weights")

    def __init__(self) -> None:
        self.rates: list[RateWindow] = []
        # The rates, then what somebody has stated: at most so much until then.
        self.rows: list[RateWindow] = []
        self.times: list[int] = []
        self.weights: list[int] = []
        self.names: list[Any] = []
        # Place of the first entry that is not forgotten.
        self.first = 0
        # The instant up to which the windows have been moved.
        self.latest = -NEVER
        self.units = 0

    def configure(self, rates: list[RateWindow]) -> None:
        for rate in rates:
            rate.used, rate.tail = self.units, self.first
        self.rows = rates + self.rows[len(self.rates) :]
        self.rates = rates

    def advance(self, now: int) -> None:
        """Move every rate past the entries that have left its window."""
        times, size = self.times, len(self.times)
        self.latest = max(self.latest, now)
        for rate in self.rates:
            bound = now - rate.interval
            while rate.tail < size and times[rate.tail] < bound:
                rate.used -= self.weights[rate.tail]
                rate.tail += 1

    def failing(self, weight: int) -> int:
        """The first rate or statement that has no room for `weight`, -1 if all have."""
        for index, rate in enumerate(self.rows):
            if weight > rate.limit - rate.used:
                return index
        return -1

    def rate_due(self, rate: RateWindow, weight: int) -> int:
        """The first instant at which one rate has room for `weight`; NEVER, or -NEVER if it has it now."""
        excess = weight - (rate.limit - rate.used)
        if excess <= 0:
            return -NEVER
        if weight > rate.limit:
            return NEVER
        place = rate.tail
        while True:
            excess -= self.weights[place]
            if excess <= 0:
                return self.times[place] + rate.interval + 1
            place += 1

    def due(self, weight: int) -> int:
        return max(self.stated_due(weight), *[self.rate_due(rate, weight) for rate in self.rates])

    def stated_due(self, weight: int) -> int:
        """The first instant at which no statement refuses `weight`; those that are over are forgotten."""
        due, count = -NEVER, len(self.rates)
        if len(self.rows) > count:
            stated = [row for row in self.rows[count:] if row.until > self.latest]
            self.rows[count:] = stated
            for row in stated:
                if weight > row.limit - row.used:
                    due = max(due, row.until)
        return due

    def stated_left(self) -> int:
        """What the statements leave, as far as they stand."""
        stated = (row for row in self.rows[len(self.rates) :] if row.until > self.latest)
        return min((row.limit - row.used for row in stated), default=NEVER)

    def state(self, until: int, left: int) -> bool:
        """Obey one statement more; False where another covers it."""
        count = len(self.rates)
        stated = self.rows[count:]
        if any(row.until >= until and row.limit - row.used <= left for row in stated):
            return False
        stated = [row for row in stated if row.until > until or row.limit - row.used < left]
        if len(stated) == STATED:
            last = stated[-1]
            last.until = max(last.until, until)
            last.limit = min(last.limit, last.used + left)
        else:
            stated.append(RateWindow(left, NEVER, until))
            stated[-1].tail = len(self.times)
        self.rows[count:] = stated
        return True

    def count_stated(self, weight: int) -> None:
        """Count units for the statements alone, or take them off again."""
        for row in self.rows[len(self.rates) :]:
            row.used += weight

    def append(self, now: int, weight: int, name: Any) -> None:
        """Enter an entry. It is never older than what was seen before: a clock may go back, a caller may be held up."""
        last = self.times[-1] if len(self.times) > self.first else now
        self.times.append(max(now, self.latest, last))
        self.weights.append(weight)
        self.names.append(name)
        self.units += weight
        for row in self.rows:
            row.used += weight

    def forget(self, place: int) -> int:
        """Forget the entries before `place`, and say how many units that were."""
        units = sum(self.weights[self.first : place])
        for rate in self.rates:
            if rate.tail < place:
                rate.used -= sum(self.weights[rate.tail : place])
        for row in self.rows:
            row.tail = max(row.tail, place)
        self.first = max(self.first, place)
        self.units -= units
        if self.first > SLACK and 2 * self.first > len(self.times):
            for row in self.rows:
                row.tail -= self.first
            del self.times[: self.first], self.weights[: self.first], self.names[: self.first]
            self.first = 0
        return units

    def find(self, instant: int) -> int:
        """The place of the first entry at or after `instant`."""
        return bisect_left(self.times, instant, self.first)

    def take_back(self, weight: int, instant: int) -> None:
        """Take out what was entered at `instant`, as far as it is not forgotten."""
        place = self.find(instant)
        while weight > 0 and place < len(self.times) and self.times[place] == instant:
            part = min(weight, self.weights[place])
            for row in self.rows:
                if row.tail <= place:
                    row.used -= part
            self.weights[place] -= part
            self.units -= part
            weight -= part
            place += 1
        while len(self.times) > self.first and not self.weights[-1]:
            for entries in (self.times, self.weights, self.names):
                entries.pop()
        for row in self.rows:
            row.tail = min(row.tail, len(self.times))

    def entries(self) -> Iterator[tuple[Any, int, int]]:
        """All (name, time, weight), the oldest first."""
        for place in range(self.first, len(self.times)):
            if self.weights[place]:
                yield self.names[place], self.times[place], self.weights[place]

    def unit(self, index: int) -> tuple[Any, int, int] | None:
        """The entry of the unit at `index`: 0 is the newest, -1 the oldest."""
        if index <= -self.units:
            return None
        left = index if index >= 0 else -1 - index
        places = range(self.first, len(self.times))
        for place in reversed(places) if index >= 0 else places:
            left -= self.weights[place]
            if left < 0:
                return self.names[place], self.times[place], self.weights[place]
        return None
