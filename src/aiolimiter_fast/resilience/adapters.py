"""The breakers of other libraries, behind the interface of ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Protocol, TypeVar

from aiolimiter_fast.errors import CircuitOpen
from aiolimiter_fast.resilience.breaker import CircuitBreaker

__all__ = ["Breaker", "as_breaker"]

T = TypeVar("T")


class Breaker(Protocol):
    """What is asked of a breaker."""

    def call(self, function: Callable[..., T], /, *args: Any, key: Hashable = None, **kwargs: Any) -> T:
        """Call a function unless the breaker is open."""
        ...

    async def call_async(
        self, function: Callable[..., Awaitable[T]], /, *args: Any, key: Hashable = None, **kwargs: Any
    ) -> T:
        """Await a function's call unless the breaker is open."""
        ...


class Adapter:
    """A breaker of pybreaker, circuitbreaker, aiobreaker or purgatory, or a function that finds one for a key."""

    def __init__(self, find: Callable[[Hashable], Any]) -> None:
        self._find = find

    def call(self, function: Callable[..., T], /, *args: Any, key: Hashable = None, **kwargs: Any) -> T:
        """Call a function unless the breaker is open."""
        breaker = self._find(key)
        if hasattr(breaker, "get_breaker"):  # purgatory's factory
            with breaker.get_breaker(str(key)):
                return function(*args, **kwargs)
        _refuse_if_open(breaker)
        result: T = breaker.call(function, *args, **kwargs)
        return result

    async def call_async(
        self, function: Callable[..., Awaitable[T]], /, *args: Any, key: Hashable = None, **kwargs: Any
    ) -> T:
        """Await a function's call unless the breaker is open."""
        breaker = self._find(key)
        if hasattr(breaker, "get_breaker"):
            async with await breaker.get_breaker(str(key)):
                return await function(*args, **kwargs)
        _refuse_if_open(breaker)
        if hasattr(breaker, "calling"):  # pybreaker, whose call_async is Tornado's
            with breaker.calling():
                return await function(*args, **kwargs)
        result: T = await breaker.call_async(function, *args, **kwargs)
        return result


def as_breaker(breaker: Any) -> Breaker:
    """Ours as it is; that of another library, or a function of the key that finds one, in an adapter.

    Their exceptions, and what they count, stay theirs.

    Raises TypeError if it is none of these.
    """
    if isinstance(breaker, CircuitBreaker):
        return breaker
    if hasattr(breaker, "get_breaker") or (hasattr(breaker, "call") and not isinstance(breaker, type)):
        return Adapter(lambda key: breaker)
    if callable(breaker):
        return Adapter(breaker)
    raise TypeError(f"breaker must be a circuit breaker, or a function of a key that finds one, got {breaker!r}")


def _refuse_if_open(breaker: Any) -> None:
    """circuitbreaker checks that only in its decorator."""
    if getattr(breaker, "opened", False) is True:
        raise CircuitOpen(f"{breaker} is open", float(max(getattr(breaker, "open_remaining", 0), 0)))
