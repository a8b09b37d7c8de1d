"""One face for every limiter: what Throttle asks of it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

from aiolimiter_fast.limiter import Limiter

__all__ = ["Permits", "is_limiter"]

METHODS = ("try_acquire_async", "acquire", "wait")


def is_limiter(candidate: object) -> bool:
    """Whether it is an object that permits are taken from, rather than a function that makes one."""
    return not isinstance(candidate, type) and any(callable(getattr(candidate, name, None)) for name in METHODS)


class Permits:
    """What a limiter can do, in the same words for all of them.

    Attributes:
        limiter: the limiter itself.
        take: take `amount` permits if there is room now, and say whether; None where that cannot be asked.
        acquire: an awaitable that ends when `amount` permits are taken.
        gives_back: whether that awaitable, closed in the midst, leaves nothing taken.
        wait_time: seconds until `amount` permits would be admitted; None where nobody knows.
        block: take `amount` permits, blocking this thread; None where tasks only can wait.
        is_named: whether the key matters to it.
        is_fresh: whether the limiter is as good as a new one; None where nobody knows.
    """

    __slots__ = ("acquire", "block", "gives_back", "is_fresh", "is_named", "limiter", "take", "wait_time")

    acquire: Callable[[float], Awaitable[object]]
    take: Callable[[float], bool] | None
    wait_time: Callable[[float], float] | None
    block: Callable[[float], object] | None
    is_fresh: Callable[[], bool] | None

    def __init__(self, limiter: Any, key: Hashable = None) -> None:
        """Look at `limiter`; `key` is the name under which a Limiter of buckets is asked.

        Raises TypeError if it has none of the methods by which limiters are known.
        """
        if not is_limiter(limiter):
            raise TypeError(f"limiter must have acquire(), wait() or try_acquire_async(), got {limiter!r}")
        self.limiter = limiter
        self.take = self.wait_time = self.block = self.is_fresh = None
        ours = is_as_made(limiter)
        self.is_named = callable(getattr(limiter, "try_acquire_async", None))
        if self.is_named:
            self._of_buckets(limiter, "pyrate" if key is None else key if isinstance(key, str) else repr(key))
            return
        self.gives_back = ours
        self.block = in_thread(limiter)
        if not callable(getattr(limiter, "acquire", None)):
            self._of_single_permits(limiter)
            return
        self.acquire = lambda amount: limiter.acquire() if amount == 1 else limiter.acquire(amount)
        if ours and hasattr(limiter, "try_acquire") and hasattr(limiter, "wait_time"):
            self.take, self.wait_time = limiter.try_acquire, limiter.wait_time
            if hasattr(limiter, "burst"):
                self.is_fresh = lambda: limiter.has_capacity(limiter.burst)

    def _of_buckets(self, limiter: Any, name: str) -> None:
        async def acquire(amount: float) -> None:
            check(await limiter.try_acquire_async(name, whole(amount)), amount)

        def block(amount: float) -> None:
            admitted = limiter.try_acquire(name, whole(amount))
            if not isinstance(admitted, bool):
                admitted.close()
                raise TypeError(f"{limiter!r} has asynchronous buckets: threads cannot wait there")
            check(admitted, amount)

        self.acquire, self.block = acquire, block
        # Other buckets may ask a disk or a server, which is not given up in the midst, nor asked twice.
        self.gives_back = isinstance(limiter, Limiter) and limiter._decide_path()
        if self.gives_back:
            self.take = lambda amount: limiter.try_acquire(name, whole(amount), blocking=False)
            self.wait_time = lambda amount: limiter.wait_time(name, whole(amount))

    def _of_single_permits(self, limiter: Any) -> None:
        async def acquire(amount: float) -> None:
            for _ in range(whole(amount)):
                await limiter.wait()

        self.acquire = acquire

    def pause(self, amount: float) -> float:
        """How long to sleep before `take` is tried again: the wait, within what clocks can tell and what may change.

        Raises ValueError if it would be forever.
        """
        seconds = 0.0 if self.wait_time is None else self.wait_time(amount)
        if math.isinf(seconds):
            check(False, amount)
        return min(max(seconds, 20e-6), 1.0)


def in_thread(limiter: Any) -> Callable[[float], object] | None:
    """How a thread takes permits where the limiter has a method for threads beside that for tasks."""
    take = getattr(limiter, "wait_sync", None) or getattr(limiter, "acquire_sync", None)
    if not callable(take):
        return None

    def block(amount: float) -> None:
        for _ in range(whole(amount)):
            take()

    return block


def is_as_made(limiter: object) -> bool:
    """Whether its methods are this package's, and nobody has overridden them."""
    own = getattr(limiter, "__dict__", {})
    owners = [base for base in type(limiter).__mro__ if not vars(base).keys().isdisjoint(("try_acquire", *METHODS))]
    return own.keys().isdisjoint(METHODS) and all(
        base.__module__.partition(".")[0] == "aiolimiter_fast" for base in owners
    )


def whole(amount: float) -> int:
    """`amount` for a limiter that counts in whole permits."""
    if amount != int(amount):
        raise ValueError(f"amount must be a whole number for this limiter, got {amount!r}")
    return int(amount)


def check(admitted: object, amount: float) -> None:
    if admitted is False:
        raise ValueError(f"amount={amount!r} can never be admitted by this limiter")
