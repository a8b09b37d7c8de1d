"""AdaptiveLimiter: as fast as the server allows, and no faster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from math import inf
from typing import Any, Literal

from aiolimiter_fast import _arguments
from aiolimiter_fast._waiting.asyncio import running_loop
from aiolimiter_fast._waiting.turns import Turns
from aiolimiter_fast.adaptive.call import Attempt, Call
from aiolimiter_fast.adaptive.ceiling import as_ceiling
from aiolimiter_fast.adaptive.flights import SAME, Flights
from aiolimiter_fast.adaptive.observation import Observation
from aiolimiter_fast.adaptive.quota import Quota
from aiolimiter_fast.adaptive.quotas import Quotas
from aiolimiter_fast.adaptive.reading import read
from aiolimiter_fast.adaptive.response import MAX_PAUSE, REFUSALS
from aiolimiter_fast.adaptive.search import Search
from aiolimiter_fast.adaptive.spell import Spell
from aiolimiter_fast.errors import AcquireTimeout, LimitReached

__all__ = ["AdaptiveLimiter", "Call"]


class AdaptiveLimiter:
    """Let requests go as fast as the server allows, learning from its responses, in tasks and threads.

    Arguments:
        ceiling: an AsyncLimiter, or a Limiter of sliding windows in memory, that is obeyed besides; None: none.
        spend: "even" spreads what is left over what is left of the window; "greedy" spends it as it comes.
        limit: the quota of one window, for servers that tell only what is used (Binance).
        unit: which quotas count: those of "requests", or of "tokens", "weight", ... as Observation has it.
        resources: which quotas count, by name; None: all of that unit.
        start_rate: requests per second to begin with, while nothing is known of the server.
        min_rate: requests per second that are tried however often the server refuses.
        max_pause: the longest pause in seconds that a server is believed.
        jitter: by which share of itself a pause is longer, by chance (at most half a second), so that clients do not
            return together.
        ramp: the seconds, at most, over which the rate comes back after a pause.
        flight_timeout: seconds after which a request whose response was never told is taken to be answered.

    A permit is taken for each request, and each response told: with `async with limiter.call() as call:` and
    `call.observe(response)`, or `acquire` and `observe`. What the server says is left, less the requests in flight, is
    what may go; a response that comes late never raises it. When a window ends one request goes ahead, and the others
    follow when its response shows what the new window holds. After a 429 or 503 everybody waits until the stated time,
    or for one that grows where none is stated; then one request goes ahead, and the rate ramps up. A server that
    says nothing of its quota is met by a search for the rate at which it refuses.

    Those who wait go in order of arrival. Instants are those of the running loop's clock, which is `time.monotonic()`
    unless somebody replaced it; `time()` reads it.

    Raises ValueError or TypeError, naming argument, value and bound, for what makes no sense.

    Example:
        import asyncio
        from aiolimiter_fast import AdaptiveLimiter

        limiter = AdaptiveLimiter()

        async def main():
            async with limiter.call() as call:
                # response = await client.get(...); call.observe(response)
                call.observe({"RateLimit": '"default";r=99;t=60'}, 200)
            assert limiter.remaining == 99

        asyncio.run(main())
    """

    __slots__ = ("__weakref__", "_ceiling", "_even", "_flights", "_max_pause", "_quotas", "_search", "_spell", "_turns")

    def __init__(
        self,
        ceiling: Any = None,
        *,
        spend: Literal["even", "greedy"] = "even",
        limit: float | None = None,
        unit: str = "requests",
        resources: Collection[str] | None = None,
        start_rate: float = 10.0,
        min_rate: float = 0.1,
        max_pause: float = MAX_PAUSE,
        jitter: float = 0.1,
        ramp: float = 1.0,
        flight_timeout: float = 60.0,
    ) -> None:
        self._ceiling = as_ceiling(ceiling)
        if spend not in ("even", "greedy"):
            raise ValueError(f"spend must be 'even' or 'greedy', got {spend!r}")
        self._even = spend == "even"
        of_window = None if limit is None else _positive("limit", limit)
        if not isinstance(unit, str):
            raise TypeError(f"unit must be a str, got {unit!r}")
        if isinstance(resources, str):
            raise TypeError(f"resources must be a collection of names, got {resources!r}")
        least = _positive("min_rate", min_rate)
        start = _positive("start_rate", start_rate)
        if start < least:
            raise ValueError(f"start_rate must be at least min_rate={least:g}, got {start_rate!r}")
        self._max_pause = _positive("max_pause", max_pause)
        share = _arguments.number("jitter", jitter)
        if not 0 <= share <= 1:
            raise ValueError(f"jitter must be 0 to 1, got {jitter!r}")
        seconds = _arguments.number("ramp", ramp)
        if seconds < 0:
            raise ValueError(f"ramp must be 0 or more seconds, got {ramp!r}")

        self._turns = Turns()
        self._flights = Flights(_positive("flight_timeout", flight_timeout))
        self._quotas = Quotas(unit, resources, of_window, self._max_pause)
        self._search = Search(start, least, _arguments.MAX_RATE)
        self._spell = Spell(self._search, share, seconds, self._max_pause)

    # The ways in.

    def time(self) -> float:
        """The instant now, in seconds, by the clock that all instants here are told in."""
        loop = running_loop()
        return time.monotonic() if loop is None else loop.time()

    async def acquire(self, amount: float = 1, *, block: bool = True, timeout: float | None = None) -> None:
        """Wait until a request for `amount` permits may go.

        Arguments: timeout, seconds, 0 or more; None waits as long as it takes.

        Raises LimitReached if `block` is false and it may not go now; AcquireTimeout at the end of the timeout, or as
        soon as it is known to be too short; ValueError or TypeError for a wrong amount or timeout.
        """
        await self._enter(amount, block, timeout)

    def acquire_blocking(self, amount: float = 1, *, timeout: float | None = None) -> None:
        """Wait in a thread until a request for `amount` permits may go.

        Raises as `acquire` does.
        """
        self._enter_blocking(amount, timeout)

    def try_acquire(self, amount: float = 1) -> bool:
        """Take `amount` permits if a request may go now and nobody waits; say whether."""
        _amount(amount)
        return self._turns.at_once(lambda: self._decide(amount))

    def has_capacity(self, amount: float = 1) -> bool:
        """Whether `try_acquire` would take. Takes nothing."""
        return self.wait_time(amount) == 0

    def wait_time(self, amount: float = 1) -> float:
        """Seconds until it is worth asking again for `amount`, as far as is known now. Takes nothing.

        Where the answer depends on a response that has yet to come: about as long as responses take.
        """
        _amount(amount)
        with self._turns.lock:
            seconds = self._wait(amount, self.time())
            if seconds == 0 and self._ceiling is not None:
                seconds = self._ceiling.wait_time(amount)
            if seconds == inf or len(self._turns):
                seconds = max(min(seconds, self._flights.latency, 1.0), 1e-3)
            return seconds

    def call(self, amount: float = 1) -> Call:
        """A request, from its permit to its response, for `async with` and `with`."""
        _amount(amount)
        return Call(self, amount)

    async def __aenter__(self) -> None:
        await self._enter(1, True, None)

    async def __aexit__(self, *exc: object) -> None:
        return None

    def __enter__(self) -> None:
        self._enter_blocking(1, None)

    def __exit__(self, *exc: object) -> None:
        return None

    # What is learnt.

    def observe(
        self, seen: Any, status: int | None = None, *, sent_at: float | None = None, amount: float = 1
    ) -> tuple[Observation, ...]:
        """Learn from a response, in whatever order they come.

        Arguments:
            seen: the response (anything with `headers`, and `status_code` or `status`), or its headers, or an
                Observation, or several.
            status: its status, if `seen` is not the response itself.
            sent_at: when the request was sent, as `time()` told then; None: the one that waits longest for a response.
            amount: the permits that were taken for it.

        Returns what was read in the response. Nothing that a server sends raises.
        """
        found, code = read(seen, status, self._max_pause)
        with self._turns.lock:
            now = self.time()
            sent = self._land(sent_at, now)
            self._flights.answered(sent, now)
            stated = self._quotas.observe(found, code, sent, now, amount, self._flights)
            if code in REFUSALS or stated > 0:
                self._refuse(stated, code == 503, sent, now)
            else:
                self._spell.passed(sent, now)
                self._search.admitted(amount, sent, now, self._flights.latency)
            self._turns.wake()
        return found

    def forget(self, sent_at: float | None = None) -> None:
        """A request has come to an end without a response.

        Arguments: sent_at, when it was sent, as `time()` told then; None: the one that waits longest for a response.
        """
        with self._turns.lock:
            self._land(sent_at, self.time())
            self._turns.wake()

    def sync(self, *, limit: float | None = None, remaining: float | None = None, reset: float | None = None) -> None:
        """State what the server allows, for those who read its responses themselves. It counts as the newest word.

        Arguments:
            limit: permits in a window.
            remaining: permits left now.
            reset: seconds until there are more.

        Raises ValueError or TypeError for what is negative or no number.
        """
        seen = Observation(limit=limit, remaining=remaining, reset_after=reset)
        with self._turns.lock:
            now = self.time()
            self._quotas.at("").observe(seen, inf, now, 0, self._flights.permits)
            self._turns.wake()

    def pause_until(self, when: float) -> None:
        """Let nobody go before the instant `when` (see `time()`). It never shortens a pause; `resume` does.

        Raises ValueError or TypeError if it is no finite number.
        """
        instant = _arguments.number("when", when)
        with self._turns.lock:
            self._spell.pause_until(instant)

    def resume(self) -> None:
        """End the pause."""
        with self._turns.lock:
            self._spell.resume(self.time())
            self._turns.wake()

    def drain(self) -> None:
        """Give up what is left of every window: the next requests go when there is more."""
        with self._turns.lock:
            now = self.time()
            for quota in self._quotas:
                quota.exhaust(now, quota.more_at() if quota.left is not None else now + 1 / self._search.rate)
            self._search.pacer.next_at = max(self._search.pacer.next_at, now) + 1 / self._search.rate

    # What there is to know.

    @property
    def limit(self) -> float | None:
        """Permits in a window of the quota that is nearest to its end; None while the server has told none."""
        quota = self._tightest()
        return self._quotas.limit if quota is None else quota.limit

    @property
    def remaining(self) -> float | None:
        """Permits left of that quota, less the requests in flight; None while the server has told none."""
        quota = self._tightest()
        return None if quota is None or quota.left is None else max(quota.left - self._flights.permits, 0.0)

    @property
    def reset(self) -> float | None:
        """The instant at which that quota will have more (see `time()`); None if that is not known."""
        quota = self._tightest()
        return None if quota is None else quota.reset

    @property
    def paused_until(self) -> float | None:
        """The instant at which the present pause ends (see `time()`); None where there is none."""
        until = self._spell.paused_until
        return until if until > self.time() else None

    @property
    def rate(self) -> float:
        """Permits per second: the server's, if it told its quota and window, else as it was found out so far."""
        quota = self._tightest()
        told = None if quota is None else quota.rate
        return self._search.rate if told is None else told

    @property
    def in_flight(self) -> int:
        """Requests whose response has not been told yet."""
        return len(self._flights)

    @property
    def waiting(self) -> int:
        """Tasks and threads that wait now."""
        return len(self._turns)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} at {id(self):#x} [limit: {self.limit}, remaining: {self.remaining},"
            f" rate: {self.rate:.6g}, in flight: {self.in_flight}, waiting: {self.waiting}]>"
        )

    # Below, arithmetic; the lock is held from `_decide` on.

    async def _enter(self, amount: float, block: bool, timeout: float | None) -> float:
        """Take; the instant at which it was."""
        _amount(amount)
        seconds = None if timeout is None else _arguments.timeout(timeout)
        attempt = Attempt(self, amount)
        if self._turns.at_once(attempt):
            return attempt.taken_at
        if not block:
            raise LimitReached(_arguments.no_room(amount), self.wait_time(amount))
        if not await self._turns.wait_task(attempt, seconds, asyncio.get_running_loop().time):
            raise AcquireTimeout(_arguments.timed_out(amount), self.wait_time(amount))
        return attempt.taken_at

    def _enter_blocking(self, amount: float, timeout: float | None) -> float:
        _amount(amount)
        seconds = None if timeout is None else _arguments.timeout(timeout)
        attempt = Attempt(self, amount)
        if not self._turns.at_once(attempt) and not self._turns.wait_thread(attempt, seconds):
            raise AcquireTimeout(_arguments.timed_out(amount), self.wait_time(amount))
        return attempt.taken_at

    def _decide(self, amount: float) -> float:
        """Take and give 0, or give the seconds until it is worth asking again; a response may make it sooner."""
        now = self.time()
        wait = self._wait(amount, now)
        if wait > 0:
            return min(wait, self._flights.until_expiry(now))
        if amount == 0:
            return 0.0
        if self._ceiling is not None and not self._ceiling.try_acquire(amount):
            wait = self._ceiling.wait_time(amount)
            if wait == inf:
                raise ValueError(f"amount={amount!r} can never be admitted by the ceiling")
            return max(wait, SAME)
        self._flights.depart(amount, now)
        self._spell.take(amount, self.rate, now)
        self._search.take(amount, now)
        return 0.0

    def _wait(self, amount: float, now: float) -> float:
        """0 if a request may go; seconds; inf until a response comes."""
        self._flights.expire(now)
        wait = self._spell.wait(now, self._flights)
        if wait < inf and now >= self._spell.paused_until - SAME:
            told = self._quotas.wait(amount, now, self._flights, self._even)
            wait = max(wait, self._search.wait(now) if told is None else told)
        return 0.0 if wait <= SAME else wait

    def _land(self, sent_at: float | None, now: float) -> float:
        return self._flights.land(None if sent_at is None else _arguments.number("sent_at", sent_at), now)

    def _refuse(self, stated: float, is_outage: bool, sent: float, now: float) -> None:
        is_told = self._quotas.are_known(now)
        until = self._spell.refused(sent, now, stated, is_outage, is_told, self._flights.latency)
        if until is not None and stated > 0 and not is_outage:
            self._quotas.exhaust(now, until)

    def _tightest(self) -> Quota | None:
        with self._turns.lock:
            return self._quotas.tightest()


def _amount(amount: object) -> float:
    return _arguments.amount(amount)


def _positive(name: str, value: object) -> float:
    result = _arguments.number(name, value)
    if result <= 0:
        raise ValueError(f"{name} must be positive, got {value!r}")
    return result
