"""What a server says is left, put together from responses that arrive in any order. Arithmetic only."""

from __future__ import annotations

from math import floor, inf

from aiolimiter_fast.adaptive.flights import NEAR, SAME, Flights
from aiolimiter_fast.adaptive.observation import Observation
from aiolimiter_fast.adaptive.sliding import CLOSE, Sliding

__all__ = ["Quota"]

# Seconds until it is worth asking a server that does not say when there is more.
NO_RESET = 0.5
# After so many responses, and a minute, without a word a quota is forgotten.
UNSAID = 20
# What servers round resets to, and a little more.
ROUNDING = 1.05
# Where parts of the quota came back so often in a row, it comes back all the time.
RETURNS = 3
# Seconds over which it is measured how much comes back, at least.
MEASURED = 0.25
# Resets that are told in milliseconds may be rounded down.
MILLISECOND = 0.001
# Shares of the limit: of a new window so much is left at least; if it is less than half, then none has begun.
FULL = 0.8
HALF = 0.5
# The share of it that is kept in hand where it comes back all the time.
RESERVE = 0.02
# Seconds that windows last.
USUAL = (1, 2, 5, 10, 15, 20, 30)


class Quota:
    """One of a server's quotas.

    Within a window what is left only falls, so the least that was said is the latest, whatever the order in which the
    responses came, and every request that was answered is counted in it. What may not be counted is in flight.
    Where quota comes back all the time (token buckets, sliding windows), what was said may also rise: that is believed
    if the request was sent after the answer on which the present value rests had arrived, and never of a late one.

    Attributes:
        limit: permits in a window, or None.
        left: permits left when it was last said, or None.
        reset: the instant at which there will be more, or None.
        window: the window's length in seconds, as far as it was said or seen, or None.
        seen: when it was last heard of.
    """

    __slots__ = (
        "_answered", "_base", "_base_at", "_is_exact", "_is_guessed", "_is_refilled", "_is_sliding", "_length",
        "_max_pause", "_others", "_refill", "_refill_answered", "_refill_at", "_refill_base", "_returns", "_sliding",
        "_whole", "is_periodic", "left", "limit", "reset", "reset_at", "said", "seen", "unsaid", "window",
    )  # fmt: skip

    def __init__(self, max_pause: float, limit: float | None = None) -> None:
        self._max_pause = max_pause
        self.limit = limit
        self.left: float | None = None
        self.reset: float | None = None
        self.reset_at: float | None = None
        self.window: float | None = None
        self._is_exact = False  # `reset` is told finer than in seconds
        self._returns = 0  # how often in a row a part of it had come back
        self.is_periodic = True  # as far as is known, one window follows upon another
        self.said = -inf  # when that came on which `left` rests
        self.seen = -inf
        self.unsaid = 0  # responses since then that said nothing of it
        # What others take of it: what was left at some moment, and how many of our own were answered since.
        self._base = self._answered = self._others = 0.0
        self._base_at = -inf
        # What comes back of it per second, where it comes back all the time; measured from a base, too.
        self._refill = 0.0
        self._refill_base = self._refill_answered = 0.0
        self._refill_at = -inf
        # A sliding window: whether it seems to be one, its log, and its length, if that is not told.
        self._is_sliding = False
        self._is_refilled = False  # it is none: something came back before the first request could, or too little
        self._sliding = Sliding()
        self._length: float | None = None
        self._is_guessed = False
        # The first window may end so much earlier than was told in whole seconds.
        self._whole = -inf

    def observe(self, seen: Observation, sent: float, now: float, amount: float, flying: float) -> None:
        """Take in what the response to a request for `amount`, sent at `sent`, said; `flying` are in flight still."""
        is_newer = sent >= self.said
        is_changed = False
        if seen.limit is not None and (is_newer or self.limit is None):
            is_changed = self.limit is not None and seen.limit != self.limit
            self.limit = seen.limit
        remaining = seen.remaining
        if remaining is None and seen.used is not None and self.limit is not None:
            remaining = max(self.limit - seen.used, 0.0)
        if seen.window is not None:
            self.window = seen.window
        if remaining is None:
            return
        self.seen, self.unsaid = now, 0
        at = (min(sent, now) + now) / 2
        self._see_length(seen, at, now)
        before = self._sliding.told_at
        self._sliding.observe(remaining, at, amount, self._length or self.window or 1.0, amount == 0 and sent <= now)
        self._answered += amount
        self._refill_answered += amount
        if amount > 0 and self._is_over(sent) and self.limit is not None and remaining < HALF * self.limit:
            self._returns = max(self._returns, 1)  # a window has ended, and none begun
        if self._sliding.is_wrong or (amount == 0 and self._is_sliding and self._is_guessed and not is_changed):
            self._is_sliding, self._is_refilled = False, True
        if self.left is not None and not is_newer:
            if remaining < self.left and not self._is_of_the_window_before(seen, now):
                self.left, self.said = remaining, now
                self._see_reset(seen, sent, now, False, False)
            return
        if self.left is None or remaining > self.left or self._base_at == -inf:
            self._base, self._base_at, self._answered = remaining, now, 0.0
        elif now > self._base_at:
            others = max(self._base - remaining - self._answered - flying, 0.0) / (now - self._base_at)
            self._others += (others - self._others) * 0.3
        rose = self.left is None or remaining > self.left
        if is_changed:
            pass  # a larger quota is none that comes back
        elif self.left is not None and self.limit is not None and remaining > self.left - amount:
            self._returns = self._returns + 1 if remaining < FULL * self.limit else 0
            self._is_sliding = not self._is_refilled and self._is_explained(remaining - self.left, before, at, now)
        elif amount == 0 and not self._is_sliding:
            self._returns = 0  # refused, though more was expected to be there
        self.left, self.said = remaining, now
        self._see_refill(remaining, now)
        self._see_reset(seen, sent, now, True, rose)

    def _is_of_the_window_before(self, seen: Observation, now: float) -> bool:
        """Whether a late response speaks of a window that ended before the present one began."""
        if seen.reset_after is None or self.reset is None or not self.window:
            return False
        return self.reset - (now + seen.reset_after) > max(self.window / 2, ROUNDING if _is_rounded(seen) else 0.0)

    def _is_over(self, sent: float) -> bool:
        return self.reset is not None and sent >= self.reset

    def _see_length(self, seen: Observation, at: float, now: float) -> None:
        """How long a window is, where that is told in whole seconds, rounded up: most are of whole seconds."""
        if self._sliding.first < inf or seen.reset_after is None or seen.window is not None or not _is_rounded(seen):
            return
        self._is_guessed = True
        length = float(floor(now + seen.reset_after - at))
        if length in USUAL or (length >= 60 and length % 60 == 0):
            self._length, self._whole = length, at + length

    def _is_explained(self, rose: float, before: float, at: float, now: float) -> bool:
        """Whether what has come back since an earlier response is what had been admitted a window ago."""
        window = self._length or self.window
        if not window or (self._is_guessed and self._length is None) or now - at > window / 8:
            return False
        if at - self._sliding.first < 0.9 * window:
            self._is_refilled = True
            return False
        slack = 0.1 * window
        return rose <= self._sliding.between(before - window - slack, at - window + slack) + 1

    def _see_refill(self, remaining: float, now: float) -> None:
        """Measure what comes back: what is left now, with what was taken since it was measured last."""
        elapsed = now - self._refill_at
        if elapsed < MEASURED:
            return
        if elapsed < inf:
            came = max(remaining - self._refill_base + self._refill_answered, 0.0) / elapsed
            self._refill += (came - self._refill) * 0.5
        self._refill_base, self._refill_at, self._refill_answered = remaining, now, 0.0

    def _see_reset(self, seen: Observation, sent: float, now: float, is_newer: bool, rose: bool) -> None:
        if seen.reset_after is None:
            if is_newer:
                self.reset = None
            return
        is_rounded = _is_rounded(seen)
        reset = now + seen.reset_after + (0.0 if is_rounded else MILLISECOND)
        self._is_exact = not is_rounded
        if seen.window is None and (self.window is None or seen.reset_after > self.window):
            if self.window is not None and seen.reset_after > 1.1 * self.window + (ROUNDING if is_rounded else 0.0):
                self._is_refilled = True  # no later request of a sliding window waits longer than the first
            self.window = max(seen.reset_after, 1e-3)
        is_new_window = rose and self.limit is not None and self.left is not None and self.left >= FULL * self.limit
        if self.reset is not None and self.reset > now and not is_new_window:
            # The same window, told in whole seconds: each answer bounds its end from above.
            if is_rounded and abs(reset - self.reset) <= ROUNDING:
                self.reset = min(reset, self.reset)
                return
            if not is_newer:
                return
        elif self.reset is not None and is_rounded and sent < self.reset and not rose:
            return  # sent before the end of the window, answered there, arrived after it
        elif self.reset is not None and is_rounded and seen.window and self.is_periodic:
            following = self.reset + seen.window
            if 0 < reset - following <= ROUNDING:
                reset = following
        self.reset, self.reset_at = reset, seen.reset_at

    def exhaust(self, now: float, until: float) -> None:
        """A refusal that does not count: nothing is left until then."""
        self.left, self.said = 0.0, now
        if self.reset is None or until < self.reset or self.reset <= now:
            self.reset = until

    def is_known(self, now: float) -> bool:
        """Whether what was said is still worth something: the server may have ceased to speak of it."""
        if self.left is None:
            return False
        return self.unsaid < UNSAID or now - self.seen <= max(60.0, 2 * (self.window or 0.0))

    @property
    def rate(self) -> float | None:
        """Permits per second that it comes to."""
        return None if self.limit is None or not self.window or self.limit <= 0 else self.limit / self.window

    def more_at(self) -> float:
        """When it is worth asking, though nothing is left."""
        if self.reset is None:
            return self.said + NO_RESET
        return min(self.reset, self.said + self._max_pause)

    def wait(self, amount: float, now: float, flights: Flights, even: bool) -> float:
        """Seconds until `amount` may go; inf until some response comes.

        Arguments: even, spread what is left over what is left of the window.
        """
        if self.left is None:
            return 0.0
        flying, latency, last = flights.permits, flights.latency, flights.last
        need = amount if self.limit is None else min(amount, self.limit)
        spare = self.left - flying
        if even and last > -inf and self._returns >= 1 and self.limit is not None:
            if self._is_sliding:
                return self._wait_for_window(amount, need, self.limit, now, flights)
            return self._wait_for_returns(amount, need, self.limit, now, flying, latency, last)
        if spare >= need and (flying == 0 or spare - need >= self._others * 2 * latency):
            if not even or last == -inf or self.reset is None or self.reset <= now:
                return 0.0
            # What is sent last has to arrive before the window ends, and of its end we were told half a trip late.
            gap = amount * max(self.reset - latency - last, 0.0) / (spare + amount)
            if last < self._whole:  # the last goes when the first will have come back, and shows whether it does
                gap = min(gap, amount * (self._whole + latency + CLOSE - last) / spare)
            return max(last + min(gap, self._max_pause) - now, 0.0)
        if now < self.more_at() - SAME:
            return inf if flying and spare + flying >= need else self.more_at() - now
        return inf if flights.since(self.more_at()) else 0.0

    def _wait_for_window(self, amount: float, need: float, limit: float, now: float, flights: Flights) -> float:
        """Seconds, in a sliding window: it is known from our own requests what comes back, and when."""
        window = self._length or self.window or 1.0
        ahead = min(flights.shortest, flights.latency) / 2
        spare = self._sliding.spare(now + ahead, limit, window, flights) - self._others * flights.latency
        if spare >= need:
            rate = limit / window + max(spare - need - 1.0, 0.0) / max(min(window / 3, 2.0), 4 * flights.latency)
            return max(flights.last + min(amount / rate, self._max_pause) - now, 0.0)
        until = self._sliding.next_back(now + ahead, window) - ahead
        if until == inf and not flights.permits:
            until = self.more_at()
        return max(until - now, NEAR)

    def _wait_for_returns(
        self, amount: float, need: float, limit: float, now: float, flying: float, latency: float, last: float
    ) -> float:
        """Seconds, where quota comes back all the time: then `reset` is always near, and says little.

        As much goes as comes back, and with it, over about a window, what is left beyond a reserve. How long a window
        is, is seen in a sliding one: what was taken in it, divided by what comes back.
        """
        spare = self.left - flying if self.left is not None else 0.0
        reserve = min(max(1.0, RESERVE * limit), 0.3 * limit)
        window = self.window or 1.0
        if self._returns >= RETURNS and self._refill > 0:
            whole = min((limit - spare) / self._refill, window)
            rate = self._refill + (spare - reserve) / max(whole / 3, min(whole, 2.0), 4 * latency)
            rate = max(rate, 0.5 * limit / window)
        else:
            rate = 0.95 * limit / window
        if spare >= need:
            return max(last + min(amount / rate, self._max_pause) - now, 0.0)
        if flying:
            return inf
        until = self.more_at()
        if not self._is_exact or self._returns >= RETURNS:  # a bucket tells when it will be full
            until = min(until, self.said + (3 if self._is_exact else 1) * (need + reserve - spare) / rate)
        return max(until - now, 0.0)


def _is_rounded(seen: Observation) -> bool:
    """Whether the reset was told in whole seconds."""
    told = seen.reset_after if seen.reset_at is None else seen.reset_at
    return told is not None and told == int(told)
