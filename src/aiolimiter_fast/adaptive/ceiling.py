"""The limiter that an adaptive one stays below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiolimiter_fast.limiter import Limiter

__all__ = ["AsyncCeiling", "BucketCeiling", "as_ceiling"]


class AsyncCeiling:
    """An AsyncLimiter as the ceiling."""

    def __init__(self, limiter: Any) -> None:
        self.try_acquire: Callable[[float], bool] = limiter.try_acquire
        self.wait_time: Callable[[float], float] = limiter.wait_time


class BucketCeiling:
    """A Limiter as the ceiling; it counts in whole permits."""

    def __init__(self, limiter: Any) -> None:
        self._limiter = limiter

    def try_acquire(self, amount: float) -> bool:
        return bool(self._limiter.try_acquire("adaptive", _whole(amount), blocking=False))

    def wait_time(self, amount: float) -> float:
        return float(self._limiter.wait_time("adaptive", _whole(amount)))


def as_ceiling(limiter: Any) -> AsyncCeiling | BucketCeiling | None:
    if limiter is None:
        return None
    if not (callable(getattr(limiter, "try_acquire", None)) and callable(getattr(limiter, "wait_time", None))):
        raise TypeError(f"ceiling must be an AsyncLimiter or a Limiter, got {limiter!r}")
    if callable(getattr(limiter, "try_acquire_async", None)):
        # It is asked under a lock, and one that decides in Python takes another itself; or asks a server.
        if not (isinstance(limiter, Limiter) and limiter._decide_path()):
            raise TypeError(
                f"ceiling must be an AsyncLimiter, or a Limiter of sliding windows in memory, got {limiter!r}"
            )
        return BucketCeiling(limiter)
    return AsyncCeiling(limiter)


def _whole(amount: float) -> int:
    if amount != int(amount):
        raise ValueError(f"amount must be a whole number for this ceiling, got {amount!r}")
    return int(amount)
