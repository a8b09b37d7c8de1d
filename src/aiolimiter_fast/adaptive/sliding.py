"""What comes back of a sliding window, foretold from what was sent. Arithmetic only."""

from __future__ import annotations

from bisect import bisect_right
from math import inf

from aiolimiter_fast.adaptive.flights import Flights

__all__ = ["CLOSE", "Sliding"]

# A log that is longer forgets its oldest half: then less is foretold than comes back.
LONGEST = 20_000
# Seconds by which instants at which requests arrived are known, at best.
CLOSE = 0.002
# By which share of the window the foretold is believed later after a refusal, at first and at most; and in how many
# windows half of the doubt is forgotten.
DOUBT, MOST_DOUBT, FORGOTTEN = 0.01, 0.04, 16


class Sliding:
    """A sliding window's log as we know it: what was admitted comes back one window later.

    So nobody has to wait for a response to learn of it. What the latest response said is left, less what arrived after
    it, and with what has come back since, is what a request will find. That a request arrives halfway between its
    departure and its answer is a guess; a wrong one is so for all requests, and does no harm.

    Attributes:
        first: when the first request arrived; inf until there was one.
        is_wrong: refusals have shown that it is no such window, or one of another length.
        told_at: when the latest did of those that were answered.
    """

    __slots__ = ("_amounts", "_are_weighed", "_arrived", "_doubt", "_doubted", "_told", "first", "is_wrong", "told_at")

    def __init__(self) -> None:
        self._arrived: list[float] = []  # when each that was admitted did, in order
        self._amounts: list[float] = []
        self._are_weighed = False  # not all amounts are 1
        self._told = 0.0
        self.told_at = -inf
        self._doubt = 0.0
        self._doubted = -inf
        self.first = inf
        self.is_wrong = False

    def observe(self, remaining: float, at: float, amount: float, window: float, is_refusal: bool) -> None:
        """Take in the response to a request that arrived at `at`; `amount` is what it took."""
        if amount > 0:
            index = bisect_right(self._arrived, at)
            self._arrived.insert(index, at)
            self._amounts.insert(index, amount)
            self._are_weighed |= amount != 1
            self.first = min(self.first, at)
            old = bisect_right(self._arrived, at - 2 * window - 10.0)
            if len(self._arrived) > LONGEST:
                old = LONGEST // 2
            if old > 1000 or old > len(self._arrived) // 2:
                del self._arrived[:old], self._amounts[:old]
        elif is_refusal and at - self._doubted > window / 2:
            self._doubt = max(2 * self._doubt_at(at, window), DOUBT)
            self.is_wrong |= self._doubt > MOST_DOUBT
            self._doubted = at
        if at >= self.told_at:
            self._told, self.told_at = remaining, at

    def between(self, begin: float, end: float) -> float:
        """What was admitted of what arrived after `begin` and until `end`."""
        since, until = bisect_right(self._arrived, begin), bisect_right(self._arrived, end)
        return sum(self._amounts[since:until]) if self._are_weighed else max(until - since, 0)

    def spare(self, at: float, limit: float, window: float, flights: Flights) -> float:
        """What a request will find that arrives at `at`."""
        late = self._late(at, window)
        back = self.between(self.told_at - window + CLOSE, at - window - late)
        told = self._told + back - self.between(self.told_at, inf)
        uncounted = flights.permits_since(self.told_at - flights.longest / 2)  # the others were there before
        return min(told - uncounted, limit - self.between(at - window - late, inf) - flights.permits)

    def next_back(self, at: float, window: float) -> float:
        """When, from `at` on, more will have come back; inf if nothing will."""
        late = self._late(at, window)
        index = bisect_right(self._arrived, at - window - late)
        return self._arrived[index] + window + late if index < len(self._arrived) else inf

    def _late(self, at: float, window: float) -> float:
        return CLOSE + self._doubt_at(at, window) * window

    def _doubt_at(self, at: float, window: float) -> float:
        return self._doubt * 0.5 ** max((at - self._doubted) / (FORGOTTEN * window), 0.0) if self._doubt else 0.0
