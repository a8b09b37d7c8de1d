"""One request, from its permit to its response."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from aiolimiter_fast.adaptive.observation import Observation

if TYPE_CHECKING:
    from typing_extensions import Self

    from aiolimiter_fast.adaptive.limiter import AdaptiveLimiter

__all__ = ["Attempt", "Call"]


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
            self.taken_at = self._limiter._flights.last if self._amount else self._limiter.time()
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
