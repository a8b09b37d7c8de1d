"""AdaptiveLimiter: as fast as the server allows, and no faster."""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from aiolimiter_fast import _arguments
from aiolimiter_fast._waiting.asyncio import running_loop
from aiolimiter_fast._waiting.turns import Turns
from aiolimiter_fast.adaptive.ceiling import as_ceiling
from aiolimiter_fast.adaptive.observation import Observation
from aiolimiter_fast.adaptive.quota import Quota
from aiolimiter_fast.adaptive.response import MAX_PAUSE, REFUSALS, parse
from aiolimiter_fast.adaptive.search import Pacer, Search
from aiolimiter_fast.errors import AcquireTimeout, LimitReached

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AdaptiveLimiter", "Call"]

# Seconds. A wait that is shorter is over, since floats can be no nearer; instants that are nearer are the same one.
SAME = 1e-9
NEAR = 1e-6
# Pauses where the server does not say: the first, and the longest.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 5.0
# How much a delay may be off by chance, at most.
MOST_JITTER = 1.0


class AdaptiveLimiter:
    """Let requests go as fast as the server allows, learning from its responses, in tasks and threads.

    Arguments:
        ceiling: an AsyncLimiter or a Limiter with rates in memory that is obeyed besides; None: no other limit.
        spend: "even" spreads what is left over what is left of the window; "greedy" spends it as it comes.
        limit: the quota of one window, for servers that tell only what is used (Binance).
        unit: which quotas count: those of "requests", or of "tokens", "weight", ... as Observation has it.
        resources: which quotas count, by name; None: all of that unit.
        start_rate: requests per second to begin with, while nothing is known of the server.
        min_rate: requests per second that are tried however often the server refuses.
        max_pause: the longest pause in seconds that a server is believed.
        jitter: by which share of itself a pause is longer, by chance (at most 1 second), so that clients do not return
            together.
        ramp: the seconds, at most, over which the rate comes back after a pause.
        flight_timeout: seconds after which a request whose response was never told is taken to be answered.

    A permit is taken for each request, and each response told: with `async with limiter.call() as call:` and
    `call.observe(response)`, or `acquire` and `observe`. What the server says is left, less the requests in flight, is
    what may go; a response that comes late never raises it. When a window ends one request goes ahead, and the others
    follow when its response shows what the new window holds. After a 429 or 503 everybody waits until the stated time,
    or for a pause that doubles where none is stated; then one request goes ahead, and the rate ramps up. A server that
    says nothing of its quota is met by additive increase and multiplicative decrease.

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

    __slots__ = (
        "__weakref__", "_amounts", "_backoff", "_ceiling", "_even", "_flight_timeout", "_flying", "_is_outage",
        "_jitter", "_last", "_latency", "_limit", "_max_pause", "_pacer", "_paused_until", "_quotas", "_ramp",
        "_ramp_end", "_ramp_start", "_random", "_resources", "_resumed_at", "_search", "_sent", "_spell",
        "_spell_began", "_turns", "_unit",
    )  # fmt: skip

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
        self._limit = None if limit is None else _positive("limit", limit)
        if not isinstance(unit, str):
            raise TypeError(f"unit must be a str, got {unit!r}")
        self._unit = unit
        if isinstance(resources, str):
            raise TypeError(f"resources must be a collection of names, got {resources!r}")
        self._resources = None if resources is None else frozenset(resources)
        least = _positive("min_rate", min_rate)
        start = _positive("start_rate", start_rate)
        if start < least:
            raise ValueError(f"start_rate must be at least min_rate={least:g}, got {start_rate!r}")
        self._max_pause = _positive("max_pause", max_pause)
        self._jitter = _arguments.number("jitter", jitter)
        if not 0 <= self._jitter <= 1:
            raise ValueError(f"jitter must be 0 to 1, got {jitter!r}")
        self._ramp = _arguments.number("ramp", ramp)
        if self._ramp < 0:
            raise ValueError(f"ramp must be 0 or more seconds, got {ramp!r}")
        self._flight_timeout = _positive("flight_timeout", flight_timeout)

        self._turns = Turns()
        self._quotas: dict[str, Quota] = {}
        self._search = Search(start, least, _arguments.MAX_RATE)
        self._random = random.Random()
        # Requests without a response: when they were sent, in order, and for how many permits each.
        self._sent: list[float] = []
        self._amounts: list[float] = []
        self._flying = 0.0
        self._last = -inf  # when the last permit went
        self._latency = FIRST_PAUSE
        # A spell of refusals: since when, how often the one that went ahead was refused, and until when all wait. It
        # lasts until one that was sent after `_resumed_at` is let through.
        self._spell_began: float | None = None
        self._is_outage = False
        self._spell = 0.0  # how long the last one lasted
        self._backoff = 0
        self._paused_until = -inf
        self._resumed_at = -inf
        self._ramp_start = self._ramp_end = -inf
        self._pacer = Pacer()

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
                seconds = max(min(seconds, self._latency, 1.0), 1e-3)
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
        found, code = self._read(seen, status)
        with self._turns.lock:
            now = self.time()
            sent = self._land(sent_at, amount, now)
            self._latency += (min(max(now - sent, 1e-3), 10.0) - self._latency) * 0.2
            self._learn(found, code, sent, now, amount)
            self._turns.wake()
        return found

    def forget(self, sent_at: float | None = None) -> None:
        """A request has come to an end without a response.

        Arguments: sent_at, when it was sent, as `time()` told then; None: the one that waits longest for a response.
        """
        with self._turns.lock:
            self._land(sent_at, 0, self.time())
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
            self._quota("").observe(seen, inf, now, 0, self._flying)
            self._turns.wake()

    def pause_until(self, when: float) -> None:
        """Let nobody go before the instant `when` (see `time()`). It never shortens a pause; `resume` does.

        Raises ValueError or TypeError if it is no finite number.
        """
        instant = _arguments.number("when", when)
        with self._turns.lock:
            self._paused_until = max(self._paused_until, instant)

    def resume(self) -> None:
        """End the pause."""
        with self._turns.lock:
            now = self.time()
            self._paused_until = min(self._paused_until, now)
            self._resumed_at = min(self._resumed_at, now)
            self._turns.wake()

    def drain(self) -> None:
        """Give up what is left of every window: the next requests go when there is more."""
        with self._turns.lock:
            now = self.time()
            for quota in self._quotas.values():
                quota.exhaust(now, quota.more_at() if quota.left is not None else now + 1 / self._search.rate)
            self._search.pacer.next_at = max(self._search.pacer.next_at, now) + 1 / self._search.rate

    # What there is to know.

    @property
    def limit(self) -> float | None:
        """Permits in a window of the quota that is nearest to its end; None while the server has told none."""
        quota = self._tightest()
        return self._limit if quota is None else quota.limit

    @property
    def remaining(self) -> float | None:
        """Permits left of that quota, less the requests in flight; None while the server has told none."""
        quota = self._tightest()
        return None if quota is None or quota.left is None else max(quota.left - self._flying, 0.0)

    @property
    def reset(self) -> float | None:
        """The instant at which that quota will have more (see `time()`); None if that is not known."""
        quota = self._tightest()
        return None if quota is None else quota.reset

    @property
    def paused_until(self) -> float | None:
        """The instant at which the present pause ends (see `time()`); None where there is none."""
        return self._paused_until if self._paused_until > self.time() else None

    @property
    def rate(self) -> float:
        """Permits per second: the server's, if it told its quota and window, else as it was found out so far."""
        quota = self._tightest()
        told = None if quota is None else quota.rate
        return self._search.rate if told is None else told

    @property
    def in_flight(self) -> int:
        """Requests whose response has not been told yet."""
        return len(self._sent)

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
            return min(wait, max(self._sent[0] + self._flight_timeout - now, SAME)) if self._sent else wait
        if amount == 0:
            return 0.0
        if self._ceiling is not None and not self._ceiling.try_acquire(amount):
            wait = self._ceiling.wait_time(amount)
            if wait == inf:
                raise ValueError(f"amount={amount!r} can never be admitted by the ceiling")
            return max(wait, SAME)
        self._sent.append(now)
        self._amounts.append(amount)
        self._flying += amount
        self._last = now
        if now < self._ramp_end:
            self._pacer.take(amount, self._ramp_rate(now), now)
        self._search.take(amount, now)
        return 0.0

    def _wait(self, amount: float, now: float) -> float:
        """0 if a request may go; seconds; inf until a response comes."""
        while self._sent and self._sent[0] + self._flight_timeout <= now + SAME:
            self._flying -= self._amounts.pop(0)
            del self._sent[0]
        if not self._sent:
            self._flying = 0.0  # no dust
        if now < self._paused_until - SAME:
            return self._paused_until - now
        if self._spell_began is not None and self._since(self._resumed_at):
            return inf  # one goes ahead
        wait = 0.0
        if now < self._ramp_end:
            wait = max(self._pacer.next_at - now, 0.0)
        is_told = False
        for quota in self._quotas.values():
            if quota.is_known(now):
                is_told = True
                since = self._since(quota.more_at())
                seconds = quota.wait(amount, now, self._flying, since, self._latency, self._last, self._even)
                wait = max(wait, seconds)
        if not is_told:
            wait = max(wait, self._search.wait(now))
        return 0.0 if wait <= SAME else wait

    def _since(self, instant: float) -> int:
        """How many requests in flight were sent from then on."""
        return len(self._sent) - bisect_left(self._sent, instant - NEAR)

    def _land(self, sent_at: float | None, amount: float, now: float) -> float:
        """Strike a request from those in flight, and say when it was sent."""
        if sent_at is None:
            index = 0
        else:
            sent_at = _arguments.number("sent_at", sent_at)
            index = max(bisect_right(self._sent, sent_at + NEAR) - 1, 0)
        if index >= len(self._sent):
            return now if sent_at is None else min(sent_at, now)
        self._flying -= self._amounts.pop(index)
        sent = self._sent.pop(index)
        return sent if sent_at is None else min(sent_at, now)

    def _read(self, seen: Any, status: int | None) -> tuple[tuple[Observation, ...], int]:
        if isinstance(seen, Observation):
            return (seen,), status or 0
        headers = getattr(seen, "headers", None)
        if headers is None:
            if not isinstance(seen, (str, bytes)) and isinstance(seen, Iterable):
                listed = seen if hasattr(seen, "items") else list(seen)
                if isinstance(listed, list) and listed and all(isinstance(each, Observation) for each in listed):
                    return tuple(listed), status or 0
                return parse(listed, status or 0, max_pause=self._max_pause), status or 0
            raise TypeError(f"seen must be a response, headers or Observations, got {seen!r}")
        if status is None:
            status = getattr(seen, "status_code", None)
            if status is None:
                status = getattr(seen, "status", 0)
        code = status if isinstance(status, int) else 0
        return parse(headers, code, max_pause=self._max_pause), code

    def _quota(self, resource: str) -> Quota:
        quota = self._quotas.get(resource)
        if quota is None:
            while len(self._quotas) >= 100:  # a server that invents names
                del self._quotas[min(self._quotas, key=lambda name: self._quotas[name].seen)]
            quota = self._quotas[resource] = Quota(self._max_pause, self._limit)
        return quota

    def _learn(self, found: Iterable[Observation], status: int, sent: float, now: float, amount: float) -> None:
        stated = 0.0
        for known in self._quotas.values():
            known.unsaid += 1
        for seen in found:
            if seen.pause_for is not None:
                stated = max(stated, min(seen.pause_for, self._max_pause))
            counts = seen.unit == self._unit and (self._resources is None or seen.resource in self._resources)
            if counts and (seen.remaining is not None or seen.used is not None):
                quota = self._quota(seen.resource)
                if status in REFUSALS and sent >= quota.more_at() - NEAR:
                    quota.is_periodic = False
                quota.observe(seen, sent, now, amount, self._flying)
                if status in REFUSALS and quota.left == 0 and seen.reset_after:
                    stated = max(stated, min(seen.reset_after, self._max_pause))
        if status in REFUSALS or stated > 0:
            self._refuse(stated, status == 503, sent, now)
        else:
            self._pass(sent, now, amount)

    def _refuse(self, stated: float, is_outage: bool, sent: float, now: float) -> None:
        is_straggler = sent < self._resumed_at - NEAR
        if self._spell_began is None:
            if is_straggler:  # of a spell that is over
                return
            self._spell_began = now
            self._is_outage = False
            self._backoff = 0
            if not is_outage and not any(quota.is_known(now) for quota in self._quotas.values()):
                self._search.refused(now)
        elif is_straggler:
            if stated == 0:
                return
        else:
            self._backoff += 1
        if is_outage and not self._is_outage:
            self._is_outage = True
            self._search.interrupted(now)
        seconds = stated
        if seconds == 0:
            first = max(2 * self._latency, FIRST_PAUSE, self._spell / 4)
            seconds = min(first * 2 ** min(self._backoff, 30), LONGEST_PAUSE, self._max_pause)
        until = now + min(seconds + min(self._jitter * seconds, MOST_JITTER) * self._random.random(), self._max_pause)
        if until > self._paused_until:
            self._paused_until = self._resumed_at = until
        if not is_outage:
            for quota in self._quotas.values():
                if quota.is_known(now) and quota.left and quota.left > 0 and stated > 0:
                    quota.exhaust(now, until)

    def _pass(self, sent: float, now: float, amount: float) -> None:
        if self._spell_began is not None and sent >= self._resumed_at - NEAR:
            self._spell = now - self._spell_began
            length = min(self._ramp, self._spell if self._is_outage else self._spell / 2)
            self._search.recovered(self._spell, length, self._is_outage, now)
            self._ramp_start, self._ramp_end = now, now + length
            self._pacer.next_at = -inf
            self._spell_began = None
        self._search.admitted(amount, now)

    def _ramp_rate(self, now: float) -> float:
        done = (now - self._ramp_start) / (self._ramp_end - self._ramp_start)
        return max(self.rate * (0.4 + 0.6 * done), self._search.least)

    def _tightest(self) -> Quota | None:
        with self._turns.lock:
            known = [quota for quota in self._quotas.values() if quota.left is not None]
            return min(known, key=lambda quota: (quota.left or 0.0) / max(quota.limit or 1.0, 1e-9), default=None)


class Attempt:
    """To take permits, once or again; under the lock."""

    __slots__ = ("_amount", "_limiter", "taken_at")

    def __init__(self, limiter: AdaptiveLimiter, amount: float) -> None:
        self._limiter = limiter
        self._amount = amount
        self.taken_at = -inf

    def __call__(self) -> float:
        seconds = self._limiter._decide(self._amount)
        if seconds == 0:
            self.taken_at = self._limiter._last if self._amount else self._limiter.time()
        return seconds


class Call:
    """One request, from its permit to its response, as `AdaptiveLimiter.call` gives it."""

    __slots__ = ("_amount", "_is_open", "_limiter", "sent_at")

    def __init__(self, limiter: AdaptiveLimiter, amount: float) -> None:
        self._limiter = limiter
        self._amount = amount
        self._is_open = False
        self.sent_at = -inf

    async def __aenter__(self) -> Self:
        self.sent_at = await self._limiter._enter(self._amount, True, None)
        self._is_open = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._close()

    def __enter__(self) -> Self:
        self.sent_at = self._limiter._enter_blocking(self._amount, None)
        self._is_open = True
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def observe(self, seen: Any, status: int | None = None) -> tuple[Observation, ...]:
        """Learn from the response; see AdaptiveLimiter.observe. Once: what follows tells of no request in flight."""
        if not self._is_open:
            raise RuntimeError("a call is observed once, within its block")
        self._is_open = False
        return self._limiter.observe(seen, status, sent_at=self.sent_at, amount=self._amount)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._limiter.forget(self.sent_at)


def _amount(amount: object) -> float:
    return _arguments.amount(amount)


def _positive(name: str, value: object) -> float:
    result = _arguments.number(name, value)
    if result <= 0:
        raise ValueError(f"{name} must be positive, got {value!r}")
    return result
