"""What becomes of a call whose backend does not answer: the rules that all backends share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from aiolimiter_fast import _arguments
from aiolimiter_fast._budget import bounded, seconds_left
from aiolimiter_fast.abstracts.algorithm import ADMITTED, Algorithm, Decision, StateAlgorithm
from aiolimiter_fast.abstracts.bucket import AbstractBucket
from aiolimiter_fast.abstracts.rate import Rate, RateItem
from aiolimiter_fast.buckets.in_memory_bucket import InMemoryBucket
from aiolimiter_fast.buckets.state_bucket import StateBucket
from aiolimiter_fast.errors import BackendUnavailable

__all__ = ["BackendBucket", "Outages"]

T = TypeVar("T")

ON_BACKEND_ERROR = ("raise", "open", "closed", "local")
ON_STATE_LOSS = ("open", "closed", "raise")


class Outages:
    """The policy of one bucket.

    Arguments:
        errors: the exceptions by which the driver tells that the backend failed; OSError and timeouts are among them.
        on_backend_error: "raise" BackendUnavailable; "open" admits; "closed" denies; "local" decides in this process.
        on_state_loss: what a backend that comes back empty is taken for: "open", unused; "closed", full; "raise"
            BackendUnavailable once. For the bucket to act upon.
        local_share: the share of each limit, above 0 and up to 1, that "local" admits in this process.
        budget: seconds for each call, connecting included; default what `_budget.seconds_left` says.
        bounds: whether to cancel attempts that are awaited when their seconds are over; not where they end themselves.

    Raises ValueError or TypeError for what makes no sense.
    """

    # After a failure, seconds for which calls that need not raise do not try the backend.
    pause = 1.0

    def __init__(
        self,
        errors: tuple[type[Exception], ...],
        on_backend_error: str = "raise",
        on_state_loss: str = "open",
        local_share: float | None = None,
        budget: float | None = None,
        *,
        bounds: bool = True,
    ) -> None:
        if on_backend_error not in ON_BACKEND_ERROR:
            raise ValueError(f"on_backend_error must be one of {ON_BACKEND_ERROR}, got {on_backend_error!r}")
        if on_state_loss not in ON_STATE_LOSS:
            raise ValueError(f"on_state_loss must be one of {ON_STATE_LOSS}, got {on_state_loss!r}")
        if (on_backend_error == "local") != (local_share is not None):
            raise ValueError(
                'local_share goes with on_backend_error="local", and must be given there,'
                f" got {local_share!r} with {on_backend_error!r}"
            )
        if local_share is not None and not 0 < _arguments.number("local_share", local_share) <= 1:
            raise ValueError(f"local_share must be above 0 and at most 1, got {local_share!r}")
        if budget is not None and not _arguments.number("budget", budget) > 0:
            raise ValueError(f"budget must be positive seconds, got {budget!r}")
        self.errors: tuple[type[Exception], ...] = (*errors, OSError, asyncio.TimeoutError)
        self.on_backend_error = on_backend_error
        self.on_state_loss = on_state_loss
        self.local_share = local_share
        self.budget = budget
        self._bounds = bounds
        self._down_until = 0.0
        self._local: tuple[list[tuple[int, int, int]], AbstractBucket] | None = None

    def decide(
        self, algorithm: Algorithm, rates: Sequence[Rate], weight: int, attempt: Callable[[float], Decision]
    ) -> Decision:
        """Decide at the backend, or without it by the policy. `attempt` is told the seconds it has, and keeps to them.

        Raises BackendUnavailable where the policy says so.
        """
        if self._down_until and self._is_down():
            return self._without(algorithm, rates, weight)
        try:
            decision = attempt(seconds_left(self.budget))
        except self.errors as error:
            return self._failed(error, algorithm, rates, weight)
        self._down_until = 0.0
        return decision

    async def decide_async(
        self, algorithm: Algorithm, rates: Sequence[Rate], weight: int, attempt: Callable[[float], Awaitable[Decision]]
    ) -> Decision:
        """`decide` with a backend that is awaited."""
        if self._down_until and self._is_down():
            return self._without(algorithm, rates, weight)
        seconds = seconds_left(self.budget)
        try:
            decision = await (bounded(attempt(seconds), seconds) if self._bounds else attempt(seconds))
        except self.errors as error:
            return self._failed(error, algorithm, rates, weight)
        self._down_until = 0.0
        return decision

    def ask(self, attempt: Callable[[float], T]) -> T:
        """Do what is no decision: a failure is BackendUnavailable, whatever the policy."""
        try:
            return attempt(seconds_left(self.budget))
        except self.errors as error:
            raise unavailable(error) from error

    async def ask_async(self, attempt: Callable[[float], Awaitable[T]]) -> T:
        """`ask` with a backend that is awaited."""
        seconds = seconds_left(self.budget)
        try:
            return await (bounded(attempt(seconds), seconds) if self._bounds else attempt(seconds))
        except self.errors as error:
            raise unavailable(error) from error

    def _is_down(self) -> bool:
        """Whether to spare the backend. When the pause is over one call tries; the others follow if it succeeds."""
        if self.on_backend_error == "raise":
            return False
        now = time.monotonic()
        if now < self._down_until:
            return True
        self._down_until = now + self.pause
        return False

    def _failed(self, error: Exception, algorithm: Algorithm, rates: Sequence[Rate], weight: int) -> Decision:
        if self.on_backend_error == "raise":
            raise unavailable(error) from error
        self._down_until = time.monotonic() + self.pause
        return self._without(algorithm, rates, weight)

    def _without(self, algorithm: Algorithm, rates: Sequence[Rate], weight: int) -> Decision:
        if self.on_backend_error == "open":
            return ADMITTED
        if self.on_backend_error == "closed":
            return Decision(rates[0], int(self.pause * 1000))
        bucket = self.local(algorithm, rates)
        decision: Any = bucket.put_decision(RateItem("local", bucket.now(), weight))  # type: ignore[arg-type]
        if decision.allowed:
            return ADMITTED
        rate = rates[bucket.rates.index(decision.failing_rate)]
        wait = decision.retry_after_ms
        if wait is None and weight <= algorithm.max_weight(rate):  # too much for the share, but not for the backend
            wait = int(self.pause * 1000)
        return Decision(rate, wait)

    def local(self, algorithm: Algorithm, rates: Sequence[Rate]) -> AbstractBucket:
        """The bucket for "local", the same in each outage. Raises ValueError if a share has not one permit."""
        terms = [(rate.limit, rate.interval, rate.burst) for rate in rates]
        if self._local is None or self._local[0] != terms:
            share = self.local_share or 1
            parts = [
                Rate(int(limit * share) or _no_permit(share, rate), interval, max(int(burst * share), 1))
                for rate, (limit, interval, burst) in zip(rates, terms, strict=True)
            ]
            if isinstance(algorithm, StateAlgorithm):
                self._local = terms, StateBucket(parts, algorithm)
            else:
                self._local = terms, InMemoryBucket(parts, algorithm)
        return self._local[1]


def unavailable(error: Exception) -> BackendUnavailable:
    return BackendUnavailable(f"the backend did not decide: {type(error).__name__}: {error}".rstrip(": "))


def _no_permit(share: float, rate: Rate) -> int:
    raise ValueError(f"local_share={share!r} of {rate!r} is less than one permit")


class BackendBucket(AbstractBucket):
    """A bucket whose permits are kept elsewhere. A subclass has `_decide`, and `outages` from the start."""

    needs_leak = False
    exact_wait = True
    keeps_budget = True
    tries_at_once = 64
    outages: Outages

    def _decide(self, item: RateItem, seconds: float) -> Any:
        """Decide in one round trip, within so many seconds; a Decision, or an awaitable of one if `is_async`."""
        raise NotImplementedError

    def put(self, item: RateItem) -> Any:
        """Store the item if there is room for its weight, and say whether; awaitable with an asynchronous client.

        Raises BackendUnavailable by the policy for outages, ValueError for a negative weight.
        """
        return self._put_async(item) if self.is_async else self.put_decision(item).failing_rate is None

    async def _put_async(self, item: RateItem) -> bool:
        return (await self._decided_async(item)).failing_rate is None

    def put_decision(self, item: RateItem) -> Any:
        """Put the item, and say what came of it; awaitable with an asynchronous client."""
        if self.is_async:
            return self._decided_async(item)
        decision = self._known(item)
        if decision is None:
            attempt = partial(self._decide, item)
            decision = self.outages.decide(self._algorithm, self._rates, item.weight, attempt)
        return self._note(item, decision)

    async def _decided_async(self, item: RateItem) -> Decision:
        decision = self._known(item)
        if decision is None:
            attempt = partial(self._decide, item)
            decision = await self.outages.decide_async(self._algorithm, self._rates, item.weight, attempt)
        return self._note(item, decision)

    def _known(self, item: RateItem) -> Decision | None:
        """What needs no backend: no weight, and one that never fits."""
        weight = item.weight
        if weight < 0:
            raise ValueError(f"weight must be 0 or more, got {weight!r}")
        if weight == 0:
            return ADMITTED
        rate = self._rates[0]  # the smallest limit is the first
        return Decision(rate) if weight > rate.limit else None

    def waiting(self, item: RateItem) -> Any:
        """Milliseconds from the item's time stamp until it would be admitted, as its last `put` was told; -1 never."""
        noted = self._noted(item)
        if noted is None:
            return super().waiting(item)
        timestamp, decision = noted
        if decision.allowed:
            return 0
        return -1 if decision.retry_after_ms is None else max(decision.retry_after_ms + timestamp - item.timestamp, 0)
