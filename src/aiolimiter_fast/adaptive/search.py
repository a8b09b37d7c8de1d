"""The rate of a server that does not tell: additive increase, multiplicative decrease. Arithmetic only."""

from __future__ import annotations

from collections import deque
from math import exp, inf

__all__ = ["Pacer", "Search"]

# Seconds by which a late start may be made up for.
LATENESS = 0.02
# Seconds over which what is delivered just now is counted.
RECENT = 1.0
LONG = 10
# Fewer permits than that tell nothing.
FEW = 10
# Seconds. A longer spell says that a window's quota is used; a shorter one may be a Retry-After rounded up.
SHORT = 1.5


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

    __slots__ = (
        "_admitted",
        "_grown_at",
        "_mark",
        "_most",
        "_patience",
        "_recent",
        "_spell_at",
        "_spells",
        "bad",
        "is_pressed",
        "least",
        "pacer",
        "rate",
    )

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
        self._spells = 0
        self._patience = 1.0  # how dear a refusal is: the longer it keeps all waiting, the more slowly it is risked
        self._recent: deque[tuple[int, float]] = deque()  # tenths of seconds, and what was admitted there

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
        if self._mark is not None and now >= self._mark:
            self._admitted += amount
        self._count(amount, now)
        since = min(now - self._grown_at, 0.25)
        self._grown_at = now
        if not self.is_pressed or since <= 0:
            return
        self.is_pressed = False
        if self.bad is None:
            self.rate *= 2 ** (2.5 * since)
        else:
            near = (0.96 if self._patience < 2 else 0.88) * self.bad
            if self.rate < near:
                self.rate += (near - self.rate) * (1 - exp(-since / 2))
            quiet = min((now - self._spell_at) / (4 * min(self._patience, 2.0)), 7.0)
            slope = 0.06 if self._spells == 1 else 0.01 / self._patience
            self.rate += (slope + 0.01 * quiet * quiet) * self.bad * since
            self.bad = max(self.bad, self.rate)
        self.rate = min(self.rate, self._most)

    def refused(self, now: float) -> None:
        """A spell of refusals has begun."""
        elapsed = 0.0 if self._mark is None else now - self._mark
        self._spells += 1
        if self.bad is None:  # while it doubles, the whole run says little
            delivered = self._delivered(RECENT, now)
            if sum(amount for _, amount in self._recent) < FEW:
                delivered = max(delivered, 0.25 * self.rate)
            self.bad, self.rate = min(self.rate, delivered), min(0.85 * delivered, 0.9 * self.rate)
        else:
            # Never far below what was delivered in the long run: refusals may cluster, where a window was filled fast.
            floor = min(0.7 * self._delivered(LONG, now), 0.9 * self.rate)
            if elapsed < 1:  # too short to have measured anything
                share = 0.88 if self.rate >= 0.9 * self.bad else 0.7  # where it was expected, or not
                self.bad, self.rate = self.rate, max(share * self.rate, floor)
            else:
                delivered = self._admitted / elapsed
                self.bad = min(self.rate, max(1.25 * delivered, floor))
                self.rate = max(min(max(0.93 * delivered, 0.88 * self.bad), 0.95 * self.bad), floor)
        if elapsed >= 1 or self._spells == 1:
            self._mark, self._admitted = now, 0.0
        self.rate = max(self.rate, self.least)
        self.bad = max(self.bad, self.rate)
        self._spell_at = self._grown_at = now

    def interrupted(self, now: float) -> None:
        """An outage has begun: what was delivered before it is what will be ventured after it."""
        if self._recent:
            self.rate = max(min(self.rate, self._delivered(LONG, now)), self.least)

    def recovered(self, spell: float, ramp: float, was_outage: bool, now: float) -> None:
        """Requests are let through again, after `spell` seconds, and for `ramp` seconds more slowly.

        An outage tells nothing of the rate. A short spell does not either, but one that lasts may be the rest of a
        window whose quota is used: that time belongs to what was delivered in it.
        """
        self._grown_at = self._spell_at = now
        if was_outage or spell <= SHORT:
            self._mark, self._admitted = now + ramp, 0.0
        self._patience = max(1.0, 5 * spell) if not was_outage else self._patience

    def _count(self, amount: float, now: float) -> None:
        tenth = int(now * 10)
        if self._recent and self._recent[-1][0] == tenth:
            self._recent[-1] = (tenth, self._recent[-1][1] + amount)
        else:
            self._recent.append((tenth, amount))
        while self._recent[0][0] < tenth - LONG * 10:
            self._recent.popleft()

    def _delivered(self, seconds: float, now: float) -> float:
        """Permits per second that the server admitted in the last seconds, or since the first, if that is shorter."""
        if not self._recent:
            return 0.0
        first = max(now - seconds, self._recent[0][0] / 10)
        admitted = sum(amount for tenth, amount in self._recent if tenth >= first * 10 - 1)
        return admitted / max(now - first, 0.1)
