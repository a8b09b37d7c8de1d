"""Adaptive limiters, and the static ones that stay above them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary

from aiolimiter_fast._permits import Permits, is_limiter
from aiolimiter_fast.adaptive.limiter import AdaptiveLimiter

__all__ = ["Adaptive", "Learning"]

Adaptive = bool | AdaptiveLimiter | Callable[[Any], AdaptiveLimiter]


class Learning:
    """What a Throttle takes its permits from.

    Arguments: limiter and adaptive as the transports have them; max_pause, the seconds that a server is believed.

    Attribute: source, a limiter, or a function that makes one for a key.
    """

    __slots__ = ("_maker", "_max_pause", "_static", "source")

    def __init__(self, limiter: Any, adaptive: Any, max_pause: float) -> None:
        self._max_pause = max_pause
        self._maker: Any = None  # of an adaptive limiter from its ceiling
        # The static limiter of each adaptive one.
        self._static: WeakKeyDictionary[AdaptiveLimiter, Any] = WeakKeyDictionary()
        self.source = self._with_adaptive(limiter, adaptive)

    def static_of(self, limiter: Any) -> Any:
        """The static limiter of one that a Throttle has."""
        return self._static.get(limiter) if isinstance(limiter, AdaptiveLimiter) else limiter

    def _with_adaptive(self, limiter: Any, adaptive: Any) -> Any:
        """What the permits come from: a limiter, or a function that makes one for a key."""
        if adaptive is None or adaptive is False:
            return limiter
        if isinstance(adaptive, AdaptiveLimiter):
            if limiter is not None:
                raise TypeError("limiter must be the AdaptiveLimiter's ceiling where adaptive is an AdaptiveLimiter")
            return adaptive
        if adaptive is not True and not callable(adaptive):
            raise TypeError(f"adaptive must be a bool, an AdaptiveLimiter, or a function, got {adaptive!r}")
        self._maker = self._adaptive if adaptive is True else adaptive
        if limiter is None or is_limiter(limiter):
            return lambda key: self._adaptive_below(limiter, key)
        if isinstance(limiter, type) or not callable(limiter):
            return limiter  # Throttle refuses it
        return lambda key: self._adaptive_below(limiter(key), key)

    def _adaptive(self, ceiling: Any) -> AdaptiveLimiter:
        return AdaptiveLimiter(ceiling, max_pause=self._max_pause)

    def _adaptive_below(self, limiter: Any, key: Hashable) -> Permits:
        if isinstance(limiter, AdaptiveLimiter):
            return Permits(limiter)
        permits = None if limiter is None else Permits(limiter, key)
        # What can be asked without waiting for it is the ceiling; what cannot, a server for one, is waited for first.
        is_ceiling = permits is not None and permits.take is not None and permits.wait_time is not None
        ceiling = limiter if permits is None or not permits.is_named else Named(permits)
        made = self._maker(ceiling if is_ceiling else None)
        if not isinstance(made, AdaptiveLimiter):
            raise TypeError(f"adaptive must make an AdaptiveLimiter, got {made!r}")
        self._static[made] = limiter
        return Permits(made) if permits is None or is_ceiling else Both(permits, made)


class Named:
    """A Limiter in memory as a ceiling, asked under a key as its name."""

    def __init__(self, permits: Permits) -> None:
        self.limiter = permits.limiter
        self.try_acquire = permits.take
        self.wait_time = permits.wait_time


class Both(Permits):
    """The permits of a limiter that has to be waited for, and after them those of an adaptive one."""

    __slots__ = ()

    def __init__(self, static: Permits, adaptive: AdaptiveLimiter) -> None:
        super().__init__(adaptive)
        self.take = self.wait_time = None
        self.gives_back = False

        async def acquire(amount: float) -> None:
            await static.acquire(amount)
            await adaptive.acquire(amount)

        def block(amount: float) -> None:
            if static.block is None:
                raise TypeError(f"threads cannot wait for {static.limiter!r}")
            static.block(amount)
            adaptive.acquire_blocking(amount)

        self.acquire, self.block = acquire, block
