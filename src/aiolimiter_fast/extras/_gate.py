"""What a request passes before it leaves, whoever the client is."""

from __future__ import annotations

from _thread import start_new_thread
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, Literal

from aiolimiter_fast import _arguments
from aiolimiter_fast.throttle import Throttle

__all__ = ["Gate", "Key", "Reader", "Slot", "Weight"]

Key = Literal["host"] | Callable[[Any], Hashable] | None
Weight = float | Callable[[Any], float]


class Slot:
    """What a request holds until its response is read or closed; given back once, by whoever comes first."""

    __slots__ = ("_held", "_throttle")

    def __init__(self, throttle: Throttle | None, key: Hashable) -> None:
        self._throttle = throttle
        self._held = [] if throttle is None else [key]

    def release(self) -> None:
        try:
            key = self._held.pop()
        except IndexError:
            return
        if self._throttle is not None:
            self._throttle.leave(key)

    def __del__(self) -> None:  # of a response that nobody closed
        if self._held:
            # The garbage collector may come while this thread holds a lock that another wants for its decision.
            with suppress(RuntimeError):  # the interpreter ends
                start_new_thread(self.release, ())


class Reader:
    """What is read in a request: its key, and how many permits it takes.

    Arguments: those of the transports; `host` is a function of a request that says which host it is for.
    """

    __slots__ = ("_key", "_name", "_weight", "host")

    def __init__(self, name: str, host: Callable[[Any], str], key: Key, weight: Weight) -> None:
        if key is not None and key != "host" and not callable(key):
            raise TypeError(f"key must be 'host', a function of a request, or None, got {key!r}")
        if not callable(weight):
            _arguments.amount(weight)
        self._name = name
        self._key = key
        self._weight = weight
        self.host = host

    @property
    def is_plain(self) -> bool:
        """Whether all requests are alike."""
        return self._key is None and self._weight == 1

    def key_of(self, request: Any) -> Hashable:
        if self._key is None:
            return self._name
        return self._key(request) if callable(self._key) else self.host(request)

    def amount_of(self, request: Any) -> float:
        return self._weight(request) if callable(self._weight) else self._weight

    def circuit_of(self, key: Hashable, request: Any) -> Hashable:
        """The key of its circuit breaker: its own, or its host."""
        return self.host(request) if self._key is None else key

    def known(self, key: Hashable) -> Hashable:
        """The key that is meant by `key`, None where there is only one."""
        return self._name if key is None and self._key is None else key


class Gate:
    """Permits, and slots, for the requests of one client.

    Arguments: those of the transports; `host` is a function of a request that says which host it is for.
    """

    __slots__ = ("_limiter", "_name", "_reader", "_throttle", "holds")

    def __init__(
        self,
        limiter: Any,
        name: str,
        host: Callable[[Any], str],
        key: Key,
        weight: Weight,
        max_concurrent: int | None,
        max_per_key: int | None,
        max_keys: int,
    ) -> None:
        self._reader = Reader(name, host, key, weight)
        self._limiter = limiter
        self._name = name
        # Whether a response keeps its slot; where nobody counts slots there is nothing to keep.
        self.holds = max_concurrent is not None or max_per_key is not None
        # pyrate-limiter's own way: any object with try_acquire(name) and try_acquire_async(name) will do.
        is_plain = self._reader.is_plain and not self.holds
        self._throttle: Throttle | None = None
        if not (is_plain and hasattr(limiter, "try_acquire") and not hasattr(limiter, "acquire")):
            self._throttle = Throttle(limiter, max_concurrent, max_per_key=max_per_key, max_keys=max_keys)

    def enter_blocking(self, request: Any) -> Slot:
        """Wait in a thread until the request may leave."""
        if self._throttle is None:
            self._limiter.try_acquire(self._name)
            return Slot(None, None)
        key, amount = self._reader.key_of(request), self._reader.amount_of(request)
        self._throttle.enter_blocking(key, amount)
        return Slot(self._throttle, key)

    async def enter(self, request: Any) -> Slot:
        """Wait in a task until the request may leave."""
        if self._throttle is None:
            await self._limiter.try_acquire_async(self._name)
            return Slot(None, None)
        key, amount = self._reader.key_of(request), self._reader.amount_of(request)
        await self._throttle.enter(key, amount)
        return Slot(self._throttle, key)
