"""Servers that meter as real ones do. Arithmetic only: `now` is an argument, in seconds.

The meters and the headers serve simulations in virtual time and servers on sockets alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from email.utils import format_datetime
from math import ceil
from typing import NamedTuple, Protocol

# Unix time at instant 0, the start of a second.
EPOCH = 1795521600.0


class Verdict(NamedTuple):
    """What a meter decides, and what it tells of itself; reset_after in seconds."""

    admitted: bool
    limit: float
    remaining: float
    reset_after: float
    window: float


class Meter(Protocol):
    limit: float

    def take(self, now: float, amount: float = 1) -> Verdict: ...


class FixedWindow:
    """`limit` in each window; windows begin at whole multiples of their length."""

    def __init__(self, limit: float, window: float) -> None:
        self.limit = limit
        self.window = window
        self._number = -1
        self._used = 0.0

    def take(self, now: float, amount: float = 1) -> Verdict:
        number = int(now // self.window)
        if number != self._number:
            self._number, self._used = number, 0.0
        admitted = self._used + amount <= self.limit
        if admitted:
            self._used += amount
        reset_after = (number + 1) * self.window - now
        return Verdict(admitted, self.limit, max(self.limit - self._used, 0.0), reset_after, self.window)


class SlidingWindow:
    """`limit` in any window, by a log of what was admitted."""

    def __init__(self, limit: float, window: float) -> None:
        self.limit = limit
        self.window = window
        self._log: deque[float] = deque()

    def take(self, now: float, amount: float = 1) -> Verdict:
        while self._log and self._log[0] <= now - self.window:
            self._log.popleft()
        admitted = len(self._log) + amount <= self.limit
        if admitted:
            self._log.extend([now] * int(amount))
        reset_after = self._log[0] + self.window - now if self._log else 0.0
        return Verdict(admitted, self.limit, max(self.limit - len(self._log), 0), reset_after, self.window)


class TokenBucket:
    """`limit` tokens per window, coming back all the time, up to `burst`; it resets when it is full."""

    def __init__(self, limit: float, window: float, burst: float | None = None) -> None:
        self.limit = limit
        self.window = window
        self.burst = limit if burst is None else burst
        self._tokens = self.burst
        self._at = 0.0

    def take(self, now: float, amount: float = 1) -> Verdict:
        rate = self.limit / self.window
        self._tokens = min(self._tokens + (now - self._at) * rate, self.burst)
        self._at = now
        admitted = self._tokens >= amount - 1e-9
        if admitted:
            self._tokens -= amount
        reset_after = (self.burst - self._tokens) / rate
        return Verdict(admitted, self.burst, float(int(self._tokens + 1e-9)), reset_after, self.burst / rate)


Headers = dict[str, str]


def _plain(verdict: Verdict) -> tuple[str, str]:
    return f"{verdict.limit:.0f}", f"{verdict.remaining:.0f}"


def ietf(verdict: Verdict, now: float) -> Headers:
    limit, remaining = _plain(verdict)
    return {
        "RateLimit-Policy": f'"default";q={limit};w={max(verdict.window, 1):.0f}',
        "RateLimit": f'"default";r={remaining};t={ceil(verdict.reset_after)}',
    }


def x_ratelimit(verdict: Verdict, now: float) -> Headers:
    """With the reset as Unix time, in whole seconds, rounded up."""
    limit, remaining = _plain(verdict)
    reset = ceil(EPOCH + now + verdict.reset_after - 1e-6)
    return {"X-RateLimit-Limit": limit, "X-RateLimit-Remaining": remaining, "X-RateLimit-Reset": f"{reset}"}


def github(verdict: Verdict, now: float) -> Headers:
    return x_ratelimit(verdict, now) | {"X-GitHub-Request-Id": "1", "X-RateLimit-Resource": "core"}


def discord(verdict: Verdict, now: float) -> Headers:
    limit, remaining = _plain(verdict)
    return {
        "X-RateLimit-Limit": limit,
        "X-RateLimit-Remaining": remaining,
        "X-RateLimit-Reset": f"{EPOCH + now + verdict.reset_after:.3f}",
        "X-RateLimit-Reset-After": f"{verdict.reset_after:.3f}",
        "X-RateLimit-Bucket": "abcd1234",
    }


def openai(verdict: Verdict, now: float) -> Headers:
    limit, remaining = _plain(verdict)
    seconds = verdict.reset_after
    reset = f"{seconds * 1000:.0f}ms" if seconds < 1 else f"{int(seconds // 60)}m{seconds % 60:.3f}s"
    return {
        "x-ratelimit-limit-requests": limit,
        "x-ratelimit-remaining-requests": remaining,
        "x-ratelimit-reset-requests": reset,
        "x-ratelimit-limit-tokens": "1000000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1h0m0s",
    }


def anthropic(verdict: Verdict, now: float) -> Headers:
    limit, remaining = _plain(verdict)
    reset = datetime.fromtimestamp(ceil(EPOCH + now + verdict.reset_after - 1e-6), timezone.utc)
    return {
        "anthropic-ratelimit-requests-limit": limit,
        "anthropic-ratelimit-requests-remaining": remaining,
        "anthropic-ratelimit-requests-reset": reset.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def silent(verdict: Verdict, now: float) -> Headers:
    return {}


DIALECTS: dict[str, Callable[[Verdict, float], Headers]] = {
    "ietf": ietf, "x-ratelimit": x_ratelimit, "discord": discord, "openai": openai, "anthropic": anthropic,
}  # fmt: skip


class Answer(NamedTuple):
    status: int
    headers: Headers


class MeteredServer:
    """A server: its meter, its dialect, its outages, and what it remembers.

    Arguments:
        meter: what decides.
        dialect: what a response says of the quota, a function of Verdict and now.
        outages: (from, until) pairs in which it answers 503.
        retry_after: whether a refusal says when to come back: Retry-After in whole seconds, rounded up.
        changes: (when, limit) pairs: the quota from then on.
        dated: whether responses have a Date, truncated to the second.

    Attributes: admitted and refused, the instants; unavailable, those of outages.
    """

    def __init__(
        self,
        meter: Meter,
        dialect: Callable[[Verdict, float], Headers] = silent,
        *,
        outages: Iterable[tuple[float, float]] = (),
        retry_after: bool = True,
        changes: Iterable[tuple[float, float]] = (),
        dated: bool = True,
    ) -> None:
        self.meter = meter
        self._dialect = dialect
        self._outages = tuple(outages)
        self._retry_after = retry_after
        self._changes = sorted(changes)
        self._dated = dated
        self.admitted: list[float] = []
        self.refused: list[float] = []
        self.unavailable: list[float] = []
        self.taken_by_others = 0.0

    def answer(self, now: float, amount: float = 1) -> Answer:
        """Answer a request that arrives at `now`."""
        headers = {}
        if self._dated:
            date = datetime.fromtimestamp(int(EPOCH + now), timezone.utc)
            headers["Date"] = format_datetime(date, usegmt=True)
        for begin, end in self._outages:
            if begin <= now < end:
                self.unavailable.append(now)
                return Answer(503, headers)
        self._change(now)
        verdict = self.meter.take(now, amount)
        headers |= self._dialect(verdict, now)
        if verdict.admitted:
            self.admitted.append(now)
            return Answer(200, headers)
        self.refused.append(now)
        if self._retry_after:
            headers["Retry-After"] = str(max(ceil(verdict.reset_after - 1e-9), 1))
        return Answer(429, headers)

    def take_by_another(self, now: float, amount: float = 1) -> bool:
        """A second client, whom ours knows nothing of, uses the quota."""
        self._change(now)
        admitted = self.meter.take(now, amount).admitted
        self.taken_by_others += amount * admitted
        return admitted

    def _change(self, now: float) -> None:
        while self._changes and self._changes[0][0] <= now:
            self.meter.limit = self._changes.pop(0)[1]
