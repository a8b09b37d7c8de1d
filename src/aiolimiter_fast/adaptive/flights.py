"""The requests in flight: sent, and not answered yet. Arithmetic only."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from math import inf

__all__ = ["NEAR", "SAME", "Flights"]

# Seconds. A wait that is shorter is over, since floats can be no nearer; instants that are nearer are the same one.
SAME = 1e-9
NEAR = 1e-6
# Seconds that a response is thought to take before there was any.
FIRST_LATENCY = 0.05
# By which share of it what was the shortest or longest comes nearer to the next.
FADING = 0.003


class Flights:
    """When each request in flight was sent, in order, and for how many permits.

    Attributes:
        permits: those of all in flight.
        last: when the last request was sent.
        latency: seconds that responses took of late.
        shortest: seconds that the quickest of them took, and
        longest: the slowest.
    """

    __slots__ = ("_amounts", "_sent", "_timeout", "last", "latency", "longest", "permits", "shortest")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._sent: list[float] = []
        self._amounts: list[float] = []
        self.permits = 0.0
        self.last = -inf
        self.latency = FIRST_LATENCY
        self.shortest = inf
        self.longest = 0.0

    def __len__(self) -> int:
        return len(self._sent)

    def depart(self, amount: float, now: float) -> None:
        self._sent.append(now)
        self._amounts.append(amount)
        self.permits += amount
        self.last = now

    def land(self, sent_at: float | None, now: float) -> float:
        """Strike off the one that was sent then, or that which has waited longest, and say when it was sent."""
        index = 0 if sent_at is None else max(bisect_right(self._sent, sent_at + NEAR) - 1, 0)
        if index >= len(self._sent):
            return now if sent_at is None else min(sent_at, now)
        self.permits -= self._amounts.pop(index)
        sent = self._sent.pop(index)
        return sent if sent_at is None else min(sent_at, now)

    def answered(self, sent: float, now: float) -> None:
        """Learn how long a response took."""
        took = min(max(now - sent, 1e-3), 10.0)
        self.latency += (took - self.latency) * 0.2
        self.shortest = min(took, self.shortest + (took - self.shortest) * FADING) if self.shortest < inf else took
        self.longest = max(took, self.longest + (took - self.longest) * FADING)

    def expire(self, now: float) -> None:
        """Strike off those whose response is not to be expected any more."""
        while self._sent and self._sent[0] + self._timeout <= now + SAME:
            self.permits -= self._amounts.pop(0)
            del self._sent[0]
        if not self._sent:
            self.permits = 0.0  # no dust

    def until_expiry(self, now: float) -> float:
        """Seconds until the first is struck off; inf where there is none."""
        return max(self._sent[0] + self._timeout - now, SAME) if self._sent else inf

    def since(self, instant: float) -> int:
        """How many were sent from then on."""
        return len(self._sent) - bisect_left(self._sent, instant - NEAR)

    def permits_since(self, instant: float) -> float:
        """For how many permits those are that were sent from then on."""
        return sum(self._amounts[bisect_left(self._sent, instant - NEAR) :])
