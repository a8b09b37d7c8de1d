"""The rate of a server that does not tell. Arithmetic only."""

from __future__ import annotations

from math import exp, inf

from aiolimiter_fast.adaptive.history import MEMORY, History, fit

__all__ = ["Pacer", "Search"]

# Seconds by which a late start may be made up for.
LATENESS = 0.02
# While nothing is refused the rate doubles in this share of the time that responses take, and in no less than that.
DOUBLING = 0.6
FASTEST = 0.1
# Seconds: what was delivered before an outage is what will be ventured after it.
LONG = 10.0
# Fewer permits than that tell nothing.
FEW = 8
ALMOST_NOTHING = 3
# Seconds: a Retry-After up to that says little of a window, since it is rounded up to a whole second.
ROUNDED = 1.5
# Seconds after the first request at which windows may end.
MARKS = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0)
# Until it is ventured to go beyond what is thought to be permitted it takes so many times what the last spell took, and
# so many permits.
CAUTION = 8.0
CAUTION_STATED = 12.0
ENOUGH = 30.0
# Spells that follow soon upon each other count as one, up to so many.
IN_A_ROW = 20


class Pacer:
    """Even spacing at a rate that may change."""

    __slots__ = ("next_at",)

    def __init__(self) -> None:
        self.next_at = -inf

    def take(self, amount: float, rate: float, now: float) -> None:
        self.next_at = max(self.next_at, now - min(LATENESS, 1 / rate)) + amount / rate


class Search:
    """Find the rate at which refusals begin, and stay just below it.

    The rate doubles until the first refusal. A spell of refusals, however many, is one signal: when it is over, what
    the server admitted from one spell to the next, divided by the time with that of the spell, is what it permits,
    whether it counts in windows or by a bucket. (That what is delivered under pressure is what there is, is BBR's
    idea.) The rate goes on from a little less than that, comes back near to it, stays there for as long as what the
    spell cost warrants, and then goes beyond it, slowly at first and then faster. (The shape is CUBIC's, RFC 9438.)

    Attributes:
        rate: permits per second now.
        least: permits per second that are tried in any case.
        pacer: when the next permit may go.
    """

    __slots__ = (
        "_begins", "_caution", "_cycle", "_estimate", "_grown_at", "_history", "_in_a_row", "_is_pressed", "_is_rough",
        "_latency", "_most", "_near", "_period", "_refused_first", "_refused_last", "_resumed", "_resumed_first",
        "_spell", "_tau", "least", "pacer", "rate",
    )  # fmt: skip

    def __init__(self, start: float, least: float, most: float) -> None:
        self.least = least
        self._most = most
        self.rate = min(max(start, least), most)
        self.pacer = Pacer()
        self._history = History()
        self._is_pressed = False  # somebody had to wait for the rate
        self._grown_at = -inf
        self._latency = 0.0  # seconds that a response takes
        # What is known: permits per second, None until the first refusal, and how long the server's window seems to be.
        self._estimate: float | None = None
        self._period = 1.0
        self._is_rough = False  # the estimate rests on the first spell alone
        # Instants at which requests were sent. The first of the present cycle, which goes from the end of a spell to
        # that of the next that counts; the first and the last that were refused in this spell; what ended the last one.
        self._cycle = self._resumed = -inf
        self._refused_first = self._refused_last = -inf
        # The first refused one of the last spell that counted, and that which ended it.
        self._spell = self._resumed_first = -inf
        self._begins: list[float] = []  # of the last spells that counted
        self._in_a_row = 0
        # How the rate comes back: near to the estimate in about `tau` seconds; beyond it after `caution` seconds.
        self._near = 0.98
        self._tau = 1.0
        self._caution = 1.0

    def wait(self, now: float) -> float:
        seconds = self.pacer.next_at - now
        if seconds <= 0:
            return 0.0
        self._is_pressed = True
        return seconds

    def take(self, amount: float, now: float) -> None:
        if self._cycle == -inf:
            self._cycle = self._resumed = self._grown_at = now
        self.pacer.take(amount, self.rate, now)

    def admitted(self, amount: float, sent: float, now: float, latency: float) -> None:
        """The server has admitted a request that was sent then."""
        self._history.add(amount, sent)
        self._latency = latency
        seconds = min(now - self._grown_at, 0.25)
        self._grown_at = now
        if self._is_pressed and seconds > 0:
            self._is_pressed = False
            self._grow(seconds, now)

    def _grow(self, seconds: float, now: float) -> None:
        if self._estimate is None:
            self.rate *= 2 ** (seconds / max(FASTEST, DOUBLING * self._latency))
        elif self.rate < self._near * self._estimate:
            self.rate += (self._estimate - self.rate) * (1 - exp(-seconds / self._tau))
        else:
            late = max((now - self._resumed) / self._caution - 1, 0.0)
            slope = (0.015 + 0.3 * late * late) / self._caution
            if self._is_rough:
                slope = max(slope, 0.06 / max(self._period, 1.0))
            self.rate += max(self._estimate, self.rate) * slope * seconds
        self.rate = min(self.rate, self._most)

    def refused(self, sent: float, is_first: bool) -> None:
        """A request that was sent then is refused, the first one of a spell or another."""
        if is_first:
            self._refused_first = self._refused_last = sent
            if self._cycle == -inf:
                self._cycle = self._resumed = sent
        else:
            self._refused_last = max(self._refused_last, sent)

    def pause(self, now: float, elapsed: float) -> float:
        """Seconds until it is worth asking again, where the server does not say, in a spell that lasts so long."""
        admitted = max(self._history.between(self._cycle, self._refused_first), 1.0)
        rate = self._estimate or admitted / max(self._refused_first - self._cycle, 0.1)
        # Those that ask are refused: the fewer a window holds, the fewer may be.
        few, most = (25, 0.4) if self._estimate is None else (60, 0.8)
        share = min(max(few / admitted, 0.08), most)
        seconds = max(0.05, self._latency / 2, min(2 / rate, 1.0), share * elapsed)
        for mark in (*MARKS, self._period):
            end = self._cycle + mark
            if now < end < now + seconds + max(1.5 * self._latency, 0.1 * seconds):
                return end + 0.01 + 0.2 * self._latency - now
        return seconds

    def interrupted(self, now: float) -> None:
        """An outage has begun: what was delivered before it is what will be ventured after it."""
        if self._history.total:
            delivered = self._history.between(now - LONG, now) / min(max(now - self._cycle, 0.1), LONG)
            self.rate = max(min(self.rate, delivered), self.least)

    def recovered(self, sent: float, stated: float, counts: bool, now: float) -> None:
        """Requests are let through again.

        Arguments:
            sent: when the first that was let through was sent.
            stated: the longest pause that the server asked for in that spell; 0 if it asked for none.
            counts: whether that tells anything of the rate; an outage does not.
        """
        self._grown_at = now
        if not counts:
            self._cycle = self._resumed = sent
            return
        begin = self._refused_first
        is_rounded = stated > 0 and sent - begin <= ROUNDED
        if self._estimate is None and self._history.between(self._cycle, begin) < ALMOST_NOTHING:
            self.rate = max(0.5 * self.rate, self.least)
            self._cycle = self._resumed = sent
            return
        if self._estimate is None:
            self._learn_first(begin, sent, stated, is_rounded)
        elif begin - self._resumed < 0.5 * self._period and self._in_a_row < IN_A_ROW:
            self._learn_soon(begin, self._estimate)
            self._resumed = sent
            self.rate = max(self.rate, self.least)
            return
        else:
            self._learn_more(begin, sent, stated, is_rounded)
        self._in_a_row = 0
        self.rate = max(self.rate, self.least)
        self._estimate = max(self._estimate or 0.0, self.rate)
        dear = CAUTION_STATED if stated else CAUTION
        self._caution = min(max(dear * (sent - begin), 2 * self._period, ENOUGH / self._estimate, 1.0), 60.0)
        self._spell = begin
        self._resumed_first = self._resumed = self._cycle = sent

    def _learn_first(self, begin: float, sent: float, stated: float, is_rounded: bool) -> None:
        self._begins.append(begin)
        run = max(begin - self._cycle, 1e-3)
        length = self._length(begin, sent, stated)
        if is_rounded:
            # A window of a second, or of less. If it is fixed then another may have begun meanwhile, and it holds half
            # of what was admitted in a second, or more; more is likely, since the rate was growing fast.
            self._period = 1.0
            estimate = self._history.between(begin - 1.0, begin + 0.5 * self._latency)
            self._estimate, self.rate = estimate, 0.8 * estimate
            self._near, self._tau = 0.96, 1.3
            return
        self._is_rough = True
        estimate = self._history.between(self._cycle, begin) / (min(run, MEMORY) + length)
        # A spell that is over at once says that there was a bucket, now empty; then this was far too much.
        self._estimate, self.rate = estimate, (0.95 if sent - begin > 0.1 * run else 0.5) * estimate
        self._period = max(run + length, 0.1) if sent - begin >= 0.25 * run else 1.0
        self._tau = min(max(0.25, 0.5 * run), 0.25 * self._period)

    def _learn_soon(self, begin: float, estimate: float) -> None:
        """Another spell, long before a window is over.

        In a sliding window comes back what had been used a window ago, at the pace at which it had been: that tells
        nothing new. What comes back at another pace is the rate of a bucket.
        """
        self._in_a_row += 1
        is_short = self._resumed_first - self._spell < 0.25 * self._period
        since = self._spell if is_short else self._resumed_first
        came = self._history.between(since, begin)
        expected = self._history.between(since - self._period, begin - self._period)
        if came >= FEW and not 0.5 * expected - 3 <= came <= 2 * expected + 3:
            estimate = min(max(came / max(begin - since, 1e-3), 0.5 * estimate), estimate)
            self._estimate, self.rate = estimate, 0.95 * estimate
            self._caution = max(1.0, ENOUGH / estimate)
        else:
            self.rate = min(max(0.7 * self.rate, 0.4 * estimate), estimate)

    def _learn_more(self, begin: float, sent: float, stated: float, is_rounded: bool) -> None:
        self._begins = [*self._begins[-3:], begin]
        self._is_rough = False
        run = min(max(begin - self._cycle, 1e-3), MEMORY)
        length = self._length(begin, sent, stated)
        span = min(max(self._period, 5 / self.rate), run)
        used = self._history.rate(begin - span, begin)  # too much, but not by much where it came up slowly
        if not is_rounded:
            self._period = max(self._period, length)
            self._near, self._tau = 0.98, self._period / 4
            span = min(run, max(4 * self._period, 10 / self.rate))
            since = begin - span if span < run else self._spell  # with what the new window admitted in the spell
            cycle = self._history.between(since, begin) / (span + length)
            if run >= 2 * self._period:
                cycle = (cycle * used) ** 0.5
            estimate = max(cycle, 0.87 * used) if run >= self._period else cycle
            self._estimate, self.rate = estimate, 0.95 * estimate
            return
        self._near, self._tau = 0.95, 1.3
        held = fit(self._history, self._begins, self._period, 0.3 * self._latency)
        if held is not None:
            self._estimate, self.rate = held, 0.94 * held
        elif run >= 2 * self._period:
            earlier = self._history.rate(begin - 2 * self._period, begin - self._period)
            estimate = (used * max(earlier, 0.8 * used)) ** 0.5
            self._estimate, self.rate = estimate, 0.97 * estimate
        else:
            cycle = self._history.between(self._spell, begin) / (run + length)
            self._estimate = 0.89 * used
            self.rate = min((cycle * used) ** 0.5, 0.86 * used)

    def _length(self, begin: float, sent: float, stated: float) -> float:
        """How long the server refused, as far as can be told."""
        if stated:  # rounded up, and lengthened by chance
            return min(sent - begin, max(stated - 0.5, 0.5))
        for mark in MARKS:
            if self._refused_last < self._cycle + mark <= sent:
                return self._cycle + mark - begin
        # It ended between the last that was refused and the first that was not; soon, if that was the first to ask.
        was_first = self._refused_last - begin < 1.5 * self._latency
        return self._refused_last + (0.2 if was_first else 0.5) * (sent - self._refused_last) - begin
