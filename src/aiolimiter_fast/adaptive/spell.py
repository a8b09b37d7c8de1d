"""A spell of refusals, the pauses in it, and the ramp after it. Arithmetic only."""

from __future__ import annotations

import random
from math import inf

from aiolimiter_fast.adaptive.flights import NEAR, SAME, Flights
from aiolimiter_fast.adaptive.search import Pacer, Search

__all__ = ["Spell"]

# Seconds. Pauses where the server does not say: the first, the longest, and the longest in an outage of ten times that.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 5.0
OUTAGE_PAUSE = 1.0
# Seconds by which a pause is longer by chance, at most.
MOST_JITTER = 0.5
# At which share of the rate the ramp begins.
LOWEST = 0.4


class Spell:
    """What the refusals of one moment, however many, have to say.

    A spell begins with a refusal and lasts until a request that was sent after its last pause is let through: while it
    lasts, one goes ahead and the others wait. Then the rate ramps up.

    Arguments:
        search: it is told of spells.
        jitter: by which share of itself a pause is longer, by chance.
        ramp: the seconds, at most, over which the rate comes back.
        max_pause: the longest pause in seconds.

    Attributes:
        chance: where the jitter comes from.
        paused_until: the instant until which nobody goes.
    """

    __slots__ = (
        "_backoff", "_began", "_counts", "_is_outage", "_jitter", "_lasted", "_max_pause", "_pacer", "_ramp",
        "_ramp_end", "_ramp_start", "_resumed_at", "_search", "_stated", "chance", "paused_until",
    )  # fmt: skip

    def __init__(self, search: Search, jitter: float, ramp: float, max_pause: float) -> None:
        self._search = search
        self._jitter = jitter
        self._ramp = ramp
        self._max_pause = max_pause
        self.chance = random.Random()
        self.paused_until = -inf
        self._resumed_at = -inf  # when one may go ahead
        # Of the present spell, if there is one: since when; whether it tells of a rate; whether it is an outage; the
        # longest pause that was asked for; how often the one that went ahead was refused.
        self._began: float | None = None
        self._counts = self._is_outage = False
        self._stated = 0.0
        self._backoff = 0
        self._lasted = 0.0  # the last one, in seconds
        self._ramp_start = self._ramp_end = -inf
        self._pacer = Pacer()

    def wait(self, now: float, flights: Flights) -> float:
        """Seconds until a request may go, as far as refusals are concerned; inf until a response comes."""
        if now < self.paused_until - SAME:
            return self.paused_until - now
        if self._began is not None and flights.since(self._resumed_at):
            return inf  # one goes ahead
        return max(self._pacer.next_at - now, 0.0) if now < self._ramp_end else 0.0

    def take(self, amount: float, rate: float, now: float) -> None:
        """A request goes, where `rate` a second would."""
        if now < self._ramp_end:
            done = (now - self._ramp_start) / (self._ramp_end - self._ramp_start)
            self._pacer.take(amount, max(rate * (LOWEST + (1 - LOWEST) * done), self._search.least), now)

    def refused(
        self, sent: float, now: float, stated: float, is_outage: bool, is_told: bool, latency: float
    ) -> float | None:
        """A request that was sent then is refused; the instant until which all wait, None if that is old news.

        Arguments:
            stated: seconds for which the server wants no request; 0 if it did not say.
            is_outage: a 503, which tells nothing of the rate.
            is_told: the server tells its quotas, and the rate is not searched for.
        """
        is_straggler = sent < self._resumed_at - NEAR
        if self._began is None:
            if is_straggler:  # of a spell that is over
                return None
            self._began = now
            self._counts = not is_told and not is_outage
            self._is_outage = False
            self._stated = 0.0
            self._backoff = 0
            self._search.refused(sent, True)
        else:
            if not is_straggler:
                self._backoff += 1
            elif stated == 0:
                return None
            self._search.refused(sent, False)
        if is_outage and not self._is_outage:
            self._is_outage = True
            self._search.interrupted(now)
        self._stated = max(self._stated, stated)
        seconds = min(stated or self._pause(now, is_outage, latency), self._max_pause)
        jitter = min(self._jitter * seconds, MOST_JITTER) * self.chance.random()
        until = now + min(seconds + jitter, self._max_pause)
        if until > self.paused_until:
            self.paused_until = self._resumed_at = until
        return until

    def _pause(self, now: float, is_outage: bool, latency: float) -> float:
        """Seconds, where the server does not say."""
        if is_outage or self._began is None:
            first = max(2 * latency, FIRST_PAUSE, self._lasted / 4)
            lasted = 0.0 if self._began is None else now - self._began
            longest = min(max(OUTAGE_PAUSE, 0.1 * lasted), LONGEST_PAUSE)
            return min(first * 2.0 ** min(self._backoff, 30), longest)
        return min(self._search.pause(now, now - self._began), LONGEST_PAUSE)

    def passed(self, sent: float, now: float) -> None:
        """A request that was sent then is let through."""
        if self._began is None or sent < self._resumed_at - NEAR:
            return
        self._lasted = now - self._began
        length = min(self._ramp, self._lasted if self._is_outage else self._lasted / 4)
        self._ramp_start, self._ramp_end = now, now + length
        self._pacer.next_at = -inf
        self._search.recovered(sent, self._stated, self._counts and not self._is_outage, now)
        self._began = None

    def pause_until(self, instant: float) -> None:
        self.paused_until = max(self.paused_until, instant)

    def resume(self, now: float) -> None:
        self.paused_until = min(self.paused_until, now)
        self._resumed_at = min(self._resumed_at, now)
