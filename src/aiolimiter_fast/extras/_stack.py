"""What a request passes, whoever the client is: circuit breaker, retries, slot and permit, and what is learnt of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from inspect import iscoroutinefunction
from typing import Any
from weakref import WeakKeyDictionary

from aiolimiter_fast._permits import Permits, is_limiter
from aiolimiter_fast.adaptive.limiter import AdaptiveLimiter
from aiolimiter_fast.adaptive.response import MAX_PAUSE, REFUSALS
from aiolimiter_fast.errors import CircuitOpen
from aiolimiter_fast.extras._gate import Reader, Slot
from aiolimiter_fast.resilience.adapters import Breaker, as_breaker
from aiolimiter_fast.resilience.breaker import CircuitBreaker, Passage
from aiolimiter_fast.resilience.outcomes import IDEMPOTENT, headers_of, status_of
from aiolimiter_fast.throttle import Throttle

__all__ = ["SHORT", "Adaptive", "Exchange", "Stack", "Stacked"]

Adaptive = bool | AdaptiveLimiter | Callable[[Any], AdaptiveLimiter]

# The longest body, in bytes, that is read so that its connection can be used again where its response is not handed on.
SHORT = 65_536


class Exchange:
    """A request from its first attempt to the response that is handed on. Each client has a kind of its own.

    Attributes:
        request: what functions for `key` and `weight` see.
        passage: through the breaker, which may have opened since.
        response: the one that came last, while it is not thrown away.
        is_limited: whether the limiter has seen that the last attempt was refused, so that it makes the next one wait.
    """

    __slots__ = ("amount", "interrupted", "is_limited", "key", "passage", "request", "response")

    def __init__(self, request: Any) -> None:
        self.request = request
        self.key: Hashable = None
        self.amount: float = 1
        self.response: Any = None
        self.is_limited = False
        self.interrupted: BaseException | None = None
        self.passage: Passage | None = None

    @property
    def header_names(self) -> Iterable[Any]:
        """The names of the request's headers, in any case."""
        names: Iterable[Any] = self.request.headers
        return names

    @property
    def is_idempotent(self) -> bool:
        """Whether it may arrive twice."""
        if (self.request.method or "").upper() in IDEMPOTENT:
            return True
        return any(str(name).lower() == "idempotency-key" for name in self.header_names)

    @property
    def is_repeatable(self) -> bool:
        """Whether its body can be sent twice."""
        return True

    def send(self) -> Any:
        """Make one attempt; a response, or an awaitable of one."""
        raise NotImplementedError

    def discard(self, response: Any) -> Any:
        """Read or close a response that is not handed on; for tasks an awaitable."""
        raise NotImplementedError

    def hold(self, response: Any, slot: Slot) -> None:
        """Have the slot given back when the response is read or closed."""
        raise NotImplementedError

    def seen(self, response: Any) -> Any:
        """The response, or the exception that carries one, in which the request's own server speaks."""
        return response

    def may_repeat(self, outcome: Any) -> bool:
        """Whether another attempt would repeat no more than this one did."""
        return True


class Flight:
    """A permit of an adaptive limiter, from the departure of its request until the limiter knows the outcome."""

    __slots__ = ("_adaptive", "_amount", "_is_over", "_sent_at")

    def __init__(self, adaptive: AdaptiveLimiter, amount: float) -> None:
        self._adaptive = adaptive
        self._amount = amount
        self._sent_at = adaptive.time()
        self._is_over = False

    def landed(self, response: Any, status: int) -> bool:
        """There is a response, or an exception that carries one; whether it makes everybody wait."""
        self._is_over = True
        found = self._adaptive.observe(headers_of(response), status, sent_at=self._sent_at, amount=self._amount)
        return status in REFUSALS or any(each.pause_for for each in found)

    def end(self) -> None:
        """There is no response, unless there was one."""
        if not self._is_over:
            self._is_over = True
            self._adaptive.forget(self._sent_at)


class Final(BaseException):
    """Takes an outcome past whoever would try again."""

    def __init__(self, outcome: Any) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class Stack:
    """Everything between a client and its network.

    Arguments: those of the transports; `reader` has those that read a request, `is_async` says whether tasks make them.
    """

    __slots__ = ("_ceilings", "_holds", "_maker", "_max_pause", "_reader", "_retrying", "breaker", "throttle")

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
        told = retry.get("max_wait", 60.0) if isinstance(retry, Mapping) else 60.0 if retry is True else MAX_PAUSE
        self._max_pause: float = min(told, MAX_PAUSE)
        self._maker: Any = None  # of an adaptive limiter from its ceiling
        # The static limiter of each adaptive one.
        self._ceilings: WeakKeyDictionary[AdaptiveLimiter, Any] = WeakKeyDictionary()
        # Whether a response keeps its slot; where nobody counts slots there is nothing to keep.
        self._holds = max_concurrent is not None or max_per_key is not None
        self.throttle = Throttle(
            self._with_adaptive(limiter, adaptive), max_concurrent, max_per_key=max_per_key, max_keys=max_keys
        )
        self.breaker: Breaker | None = None
        if breaker is not None and breaker is not False:
            self.breaker = CircuitBreaker() if breaker is True else as_breaker(breaker)

    @property
    def retries(self) -> bool:
        """Whether anything is tried again."""
        return self._retrying is not None

    # Limiters.

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
        self._ceilings[made] = limiter
        return Permits(made) if permits is None or is_ceiling else Both(permits, made)

    def limiter_of(self, key: Hashable) -> Any:
        """The static limiter of a key."""
        found = self.throttle.limiter_at(self._reader.known(key))
        return self._ceilings.get(found) if isinstance(found, AdaptiveLimiter) else found

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
        retrying = retrying.copy(sleep=partial(self._sleep, exchange, retrying.sleep))
        try:
            return await retrying(self._attempt_if_it_may, exchange)
        except Final as end:
            outcome = end.outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def _attempt_if_it_may(self, exchange: Exchange) -> Any:
        try:
            outcome: Any = await self._attempt(exchange)
        except Exception as error:
            outcome = error
        if isinstance(outcome, CircuitOpen) or not exchange.may_repeat(outcome):
            raise Final(outcome)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

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
        if not exchange.is_limited:
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
        retrying = retrying.copy(sleep=partial(self._sleep_blocking, exchange, retrying.sleep))
        try:
            return retrying(self._attempt_blocking_if_it_may, exchange)
        except Final as end:
            outcome = end.outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _attempt_blocking_if_it_may(self, exchange: Exchange) -> Any:
        try:
            outcome: Any = self._attempt_blocking(exchange)
        except Exception as error:
            outcome = error
        if isinstance(outcome, CircuitOpen) or not exchange.may_repeat(outcome):
            raise Final(outcome)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

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
        if not exchange.is_limited:
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

    def _depart(self, exchange: Exchange) -> tuple[Slot, Flight | None]:
        """The permit is taken at this moment, the slot held."""
        exchange.is_limited = False
        limiter = self.throttle.limiter_at(exchange.key)
        # A weight of 0 only waits for the end of a pause: nothing of it is in flight.
        is_adaptive = isinstance(limiter, AdaptiveLimiter) and exchange.amount > 0
        return Slot(self.throttle, exchange.key), Flight(limiter, exchange.amount) if is_adaptive else None

    def _fail(self, exchange: Exchange, departure: tuple[Slot, Flight | None], error: BaseException) -> None:
        slot, flight = departure
        if not isinstance(error, Exception):
            exchange.interrupted = error
        try:
            if flight is not None and isinstance(error, Exception):
                status = status_of(error)
                if status is not None:
                    exchange.is_limited = flight.landed(exchange.seen(error), status)
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
                exchange.is_limited = flight.landed(seen, status_of(seen) or 0)
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
