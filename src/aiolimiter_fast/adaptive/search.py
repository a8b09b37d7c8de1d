"""The rate of a server that does not tell: additive increase, multiplicative decrease. Arithmetic only."""

from __future__ import annotations

from math import exp, inf

__all__ = ["Pacer", "Search"]

# Seconds by which a late start may be made up for.
LATENESS = 0.02


class Pacer:
    """Even spacing at a rate that may change."""

    __slots__ = ("next_at",)

    def __init__(self) -> None:
        self.next_at = -inf

    def take(self, amount: float, rate: float, now: float) -> None:
        self.next_at = max(self.next_at, now - min(LATENESS, 1 / rate)) + amount / rate


class Search:
    """Find the rate at which refusals begin, and stay just below it.

    The rate doubles twice a second until the first refusal. A spell of refusals, however many, is one signal. From one
    spell to the next, what the server admitted divided by the time is what it permits, whether it counts in
    windows or by a bucket: the rate goes on from a little less than that, comes back soon near to where refusals
    began, and then probes slowly: 1 % a second, and faster the longer nothing is refused. (The shape is that of CUBIC,
    RFC 9438; that what is delivered under pressure is what there is, is BBR's idea.)

    Attributes:
        rate: permits per second now.
        bad: the rate at which refusals began, or None.
    """

    __slots__ = ("_admitted", "_grown_at", "_mark", "_most", "_spell_at", "bad", "is_pressed", "least", "pacer", "rate")

    def __init__(self, start: float, least: float, most: float) -> None:
        self.least = least
        self._most = most
        self.rate = min(max(start, least), most)
        self.bad: float | None = None
        self.pacer = Pacer()
        self.is_pressed = False  # somebody had to wait for the rate
        self._mark: float | None = None
        self._admitted = 0.0
        self._grown_at = -inf
        self._spell_at = -inf

    def wait(self, now: float) -> float:
        seconds = self.pacer.next_at - now
        if seconds <= 0:
            return 0.0
        self.is_pressed = True
        return seconds

    def take(self, amount: float, now: float) -> None:
        if self._mark is None:
            self._mark = self._grown_at = now
        self.pacer.take(amount, self.rate, now)

    def admitted(self, amount: float, now: float) -> None:
        """The server has admitted a request."""
        self._admitted += amount
        since = min(now - self._grown_at, 0.25)
        self._grown_at = now
        if not self.is_pressed or since <= 0:
            return
        self.is_pressed = False
        if self.bad is None:
            self.rate *= 2 ** (2 * since)
        else:
            near = 0.97 * self.bad
            if self.rate < near:
                self.rate += (near - self.rate) * (1 - exp(-since / 2))
            quiet = min((now - self._spell_at) / 5, 7.0)
            self.rate += 0.01 * self.bad * since * (1 + quiet * quiet)
            self.bad = max(self.bad, self.rate)
        self.rate = min(self.rate, self._most)

    def refused(self, now: float) -> None:
        """A spell of refusals has begun."""
        mark = now if self._mark is None else self._mark
        elapsed = now - mark
        if elapsed < 1 and self.bad is not None:  # too short to have measured anything
            self.bad, self.rate = self.rate, self.rate * 0.7
        else:
            delivered = self._admitted / elapsed if elapsed > 0 else 0.0
            if self.bad is None:  # while it doubles, what was delivered says little
                self.bad, self.rate = self.rate, min(max(delivered, self.rate / 2), self.rate * 0.9)
            else:
                self.bad = min(self.rate, max(1.25 * delivered, self.least))
                self.rate = min(max(0.93 * delivered, 0.88 * self.bad), 0.95 * self.bad)
            self._mark, self._admitted = now, 0.0
        self.rate = max(self.rate, self.least)
        self.bad = max(self.bad, self.rate)
        self._spell_at = self._grown_at = now

    def restart(self, now: float) -> None:
        """What came until now, an outage for one, tells nothing of the rate."""
        self._mark = self._grown_at = now
        self._admitted = 0.0
