"""What a request passes, whoever the client is: circuit breaker, retries, slot and permit, and what is learnt of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from functools import partial
from inspect import iscoroutinefunction
from typing import Any

from aiolimiter_fast.adaptive.limiter import AdaptiveLimiter
from aiolimiter_fast.adaptive.response import MAX_PAUSE
from aiolimiter_fast.errors import CircuitOpen
from aiolimiter_fast.extras._exchange import FIRST, Exchange, Final, Flight, before, given
from aiolimiter_fast.extras._gate import Reader, Slot
from aiolimiter_fast.extras._learning import Adaptive, Learning
from aiolimiter_fast.resilience.adapters import Breaker, as_breaker
from aiolimiter_fast.resilience.breaker import CircuitBreaker
from aiolimiter_fast.resilience.outcomes import status_of
from aiolimiter_fast.throttle import Throttle

__all__ = ["Stack", "Stacked"]

# The share of a retry's wait that the limiter's pause has to have for the retry to leave the waiting to it. What a
# server states both know, each with a tenth of jitter; where it states nothing the retry may know better.
ENOUGH = 1 / 1.1 - 1e-6


class Stack:
    """Everything between a client and its network.

    Arguments: those of the transports; `reader` has those that read a request, `is_async` says whether tasks make them.
    """

    __slots__ = ("_holds", "_is_ours", "_learning", "_reader", "_retrying", "breaker", "throttle")

    def __init__(
        self,
        reader: Reader,
        is_async: bool,
        limiter: Any,
        max_concurrent: int | None,
        max_per_key: int | None,
        max_keys: int,
        adaptive: Adaptive,
        retry: Any,
        breaker: Any,
    ) -> None:
        self._reader = reader
        self._retrying = _retrying(retry, is_async)
        self._is_ours = retry is True or isinstance(retry, Mapping)
        told = retry.get("max_wait", 60.0) if isinstance(retry, Mapping) else 60.0 if retry is True else MAX_PAUSE
        self._learning = Learning(limiter, adaptive, min(told, MAX_PAUSE))
        # Whether a response keeps its slot; where nobody counts slots there is nothing to keep.
        self._holds = max_concurrent is not None or max_per_key is not None
        self.throttle = Throttle(self._learning.source, max_concurrent, max_per_key=max_per_key, max_keys=max_keys)
        self.breaker: Breaker | None = None
        if breaker is not None and breaker is not False:
            self.breaker = CircuitBreaker() if breaker is True else as_breaker(breaker)

    @property
    def retries(self) -> bool:
        """Whether anything is tried again."""
        return self._retrying is not None

    # Limiters.

    def limiter_of(self, key: Hashable) -> Any:
        """The static limiter of a key."""
        return self._learning.static_of(self.throttle.limiter_at(self._reader.known(key)))

    def adaptive_of(self, key: Hashable) -> AdaptiveLimiter | None:
        """The adaptive limiter of a key."""
        found = self.throttle.limiter_at(self._reader.known(key))
        return found if isinstance(found, AdaptiveLimiter) else None

    # For tasks.

    async def run(self, exchange: Exchange) -> Any:
        """Everything, in a task: the response, its slot held until it is read or closed."""
        self._begin(exchange)
        try:
            if self.breaker is None:
                return await self._tries(exchange)
            circuit = self._circuit_of(exchange)
            if not isinstance(self.breaker, CircuitBreaker):
                return await self.breaker.call_async(self._tries, exchange, key=circuit)
            with self.breaker.at(circuit) as exchange.passage:
                return exchange.passage.result(await self._tries(exchange))
        except BaseException:
            await self._discard(exchange)
            raise

    async def _tries(self, exchange: Exchange) -> Any:
        retrying = self._retrying_for(exchange)
        if retrying is None:
            return await self._attempt(exchange)
        options: dict[str, Any] = {"sleep": partial(self._sleep, exchange, retrying.sleep)}
        if self._is_ours:
            options["before"] = partial(before, time.monotonic(), retrying.before)
            exchange.first = await self._outcome(exchange)
            if self._is_over(exchange, retrying):
                return given(exchange.first)
        try:
            return await retrying.copy(**options)(self._attempt_or_end, exchange)
        except Final as end:
            outcome = end.outcome
        return given(outcome)

    async def _attempt_or_end(self, exchange: Exchange) -> Any:
        outcome, exchange.first = exchange.first, None
        if outcome is None:
            outcome = await self._outcome(exchange)
        if self._is_final(exchange, outcome):
            exchange.interrupted = Final(outcome)
            raise exchange.interrupted
        return given(outcome)

    async def _outcome(self, exchange: Exchange) -> Any:
        try:
            return await self._attempt(exchange)
        except Exception as error:
            return error
        except BaseException as error:
            exchange.interrupted = error
            raise

    async def _attempt(self, exchange: Exchange) -> Any:
        if exchange.passage is not None:
            exchange.passage.check()
        await self.throttle.enter(exchange.key, exchange.amount)
        departure = self._depart(exchange)
        try:
            if exchange.passage is not None:
                exchange.passage.check()
            response = await exchange.send()
        except BaseException as error:
            self._fail(exchange, departure, error)
            raise
        return self._arrive(exchange, departure, response)

    async def _sleep(self, exchange: Exchange, sleep: Callable[[float], Any], seconds: float) -> None:
        """What is done between two attempts; slot and permit are given back."""
        if exchange.interrupted is not None:
            raise exchange.interrupted
        await self._discard(exchange)
        if exchange.pause < ENOUGH * seconds:
            await sleep(seconds)

    async def _discard(self, exchange: Exchange) -> None:
        response, exchange.response = exchange.response, None
        if response is not None:
            with suppress(Exception):  # a connection that breaks now is of no interest
                await exchange.discard(response)

    # For threads.

    def run_blocking(self, exchange: Exchange) -> Any:
        """Everything, in a thread: the response, its slot held until it is read or closed."""
        self._begin(exchange)
        try:
            if self.breaker is None:
                return self._tries_blocking(exchange)
            circuit = self._circuit_of(exchange)
            if not isinstance(self.breaker, CircuitBreaker):
                return self.breaker.call(self._tries_blocking, exchange, key=circuit)
            with self.breaker.at(circuit) as exchange.passage:
                return exchange.passage.result(self._tries_blocking(exchange))
        except BaseException:
            self._discard_blocking(exchange)
            raise

    def _tries_blocking(self, exchange: Exchange) -> Any:
        retrying = self._retrying_for(exchange)
        if retrying is None:
            return self._attempt_blocking(exchange)
        options: dict[str, Any] = {"sleep": partial(self._sleep_blocking, exchange, retrying.sleep)}
        if self._is_ours:
            options["before"] = partial(before, time.monotonic(), retrying.before)
            exchange.first = self._outcome_blocking(exchange)
            if self._is_over(exchange, retrying):
                return given(exchange.first)
        try:
            return retrying.copy(**options)(self._attempt_or_end_blocking, exchange)
        except Final as end:
            outcome = end.outcome
        return given(outcome)

    def _attempt_or_end_blocking(self, exchange: Exchange) -> Any:
        outcome, exchange.first = exchange.first, None
        if outcome is None:
            outcome = self._outcome_blocking(exchange)
        if self._is_final(exchange, outcome):
            exchange.interrupted = Final(outcome)
            raise exchange.interrupted
        return given(outcome)

    def _outcome_blocking(self, exchange: Exchange) -> Any:
        try:
            return self._attempt_blocking(exchange)
        except Exception as error:
            return error
        except BaseException as error:
            exchange.interrupted = error
            raise

    def _attempt_blocking(self, exchange: Exchange) -> Any:
        if exchange.passage is not None:
            exchange.passage.check()
        self.throttle.enter_blocking(exchange.key, exchange.amount)
        departure = self._depart(exchange)
        try:
            if exchange.passage is not None:
                exchange.passage.check()
            response = exchange.send()
        except BaseException as error:
            self._fail(exchange, departure, error)
            raise
        return self._arrive(exchange, departure, response)

    def _sleep_blocking(self, exchange: Exchange, sleep: Callable[[float], Any], seconds: float) -> None:
        if exchange.interrupted is not None:
            raise exchange.interrupted
        self._discard_blocking(exchange)
        if exchange.pause < ENOUGH * seconds:
            sleep(seconds)

    def _discard_blocking(self, exchange: Exchange) -> None:
        response, exchange.response = exchange.response, None
        if response is not None:
            with suppress(Exception):
                exchange.discard(response)

    # For both.

    def _begin(self, exchange: Exchange) -> None:
        exchange.key = self._reader.key_of(exchange.request)
        exchange.amount = self._reader.amount_of(exchange.request)

    def _circuit_of(self, exchange: Exchange) -> Hashable:
        return self._reader.circuit_of(exchange.key, exchange.request)

    def _retrying_for(self, exchange: Exchange) -> Any:
        if self._retrying is None or not exchange.is_repeatable:
            return None
        return self._retrying[exchange.is_idempotent]

    def _is_final(self, exchange: Exchange, outcome: Any) -> bool:
        """Whether nobody is to try again, whatever tenacity thinks."""
        return isinstance(outcome, CircuitOpen) or not exchange.may_repeat(outcome)

    def _is_over(self, exchange: Exchange, retrying: Any) -> bool:
        """Whether one attempt was enough. Mostly it is, and tenacity would cost more than all else here."""
        if retrying.retry.is_due(exchange.first) and not self._is_final(exchange, exchange.first):
            return False
        retrying.before(FIRST)  # a call is paid into the retry budget
        return True

    def _depart(self, exchange: Exchange) -> tuple[Slot, Flight | None]:
        """The permit is taken at this moment, the slot held."""
        exchange.pause = 0.0
        limiter = self.throttle.limiter_at(exchange.key)
        # A weight of 0 only waits for the end of a pause: nothing of it is in flight.
        is_adaptive = isinstance(limiter, AdaptiveLimiter) and exchange.amount > 0
        return Slot(self.throttle, exchange.key), Flight(limiter, exchange.amount) if is_adaptive else None

    def _fail(self, exchange: Exchange, departure: tuple[Slot, Flight | None], error: BaseException) -> None:
        slot, flight = departure
        try:
            if flight is not None and isinstance(error, Exception):
                status = status_of(error)
                if status is not None:
                    exchange.pause = flight.landed(exchange.seen(error), status)
        finally:
            if flight is not None:
                flight.end()
            slot.release()

    def _arrive(self, exchange: Exchange, departure: tuple[Slot, Flight | None], response: Any) -> Any:
        slot, flight = departure
        exchange.response = response
        try:
            if flight is not None:
                seen = exchange.seen(response)
                exchange.pause = flight.landed(seen, status_of(seen) or 0)
            if self._holds:
                exchange.hold(response, slot)
            else:
                slot.release()
        except BaseException:
            slot.release()
            raise
        finally:
            if flight is not None:
                flight.end()
        return response


class Stacked:
    """What can be read of the stack in a transport, a session or an adapter."""

    _stack: Stack

    def limiter(self, key: Hashable = None) -> Any:
        """The static limiter of a key; None if there is none, or the key is not known (any more)."""
        return self._stack.limiter_of(key)

    def adaptive(self, key: Hashable = None) -> AdaptiveLimiter | None:
        """The adaptive limiter of a key; None if there is none, or the key is not known (any more)."""
        return self._stack.adaptive_of(key)

    @property
    def breaker(self) -> Any:
        """The circuit breaker; None if there is none. Ours tells its state by key."""
        return self._stack.breaker

    @property
    def throttle(self) -> Throttle:
        """Who runs and who waits: `running`, `waiting`, `keys`; its `max_concurrent` can be set."""
        return self._stack.throttle


def _retrying(retry: Any, is_async: bool) -> tuple[Any, Any] | None:
    """tenacity's object for requests that must not arrive twice, and for those that may."""
    if retry is None or retry is False:
        return None
    if retry is True:
        retry = {}
    if not isinstance(retry, Mapping):
        if not (callable(getattr(retry, "copy", None)) and callable(retry) and hasattr(retry, "stop")):
            raise TypeError(f"retry must be a bool, arguments of retry_options, or tenacity's Retrying, got {retry!r}")
        if iscoroutinefunction(type(retry).__call__) is not is_async:
            raise TypeError(f"retry must be {'an AsyncRetrying' if is_async else 'a Retrying'} here, got {retry!r}")
        return retry, retry
    try:
        import tenacity
    except ImportError as error:
        raise ImportError("retry= needs tenacity: pip install aiolimiter-fast[resilience]") from error
    from aiolimiter_fast.resilience.retrying import retry_options

    make: Any = tenacity.AsyncRetrying if is_async else tenacity.Retrying
    first, second = (make(**retry_options(**{"method": method, **retry})) for method in ("POST", "PUT"))
    return first, second
