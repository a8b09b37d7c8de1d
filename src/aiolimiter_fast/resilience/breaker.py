"""CircuitBreaker: leave a server alone that does not answer."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable
from math import inf
from typing import Any, Literal, TypeVar

from typing_extensions import Self

from aiolimiter_fast import _arguments
from aiolimiter_fast._forking import deciding
from aiolimiter_fast._waiting.asyncio import running_loop
from aiolimiter_fast.errors import CircuitOpen
from aiolimiter_fast.resilience.outcomes import is_failure

__all__ = ["CircuitBreaker", "Passage"]

T = TypeVar("T")
State = Literal["closed", "open", "half-open"]

# In how many parts the window slides.
SLICES = 10


class Circuit:
    """The state of one key."""

    __slots__ = ("failed", "generation", "opened_until", "probe_until", "run", "slices", "succeeded")

    def __init__(self) -> None:
        self.generation = 0  # calls of an earlier one say nothing any more
        self.opened_until: float | None = None  # None: closed
        self.probe_until = -inf  # until when the one call that was let through is waited for
        self.run = 0  # failures in a row
        self.slices: deque[tuple[int, int, int]] = deque()  # number, succeeded, failed
        self.succeeded = self.failed = 0

    def count(self, number: int, failed: bool) -> None:
        self.forget(number)
        if not self.slices or self.slices[-1][0] != number:
            self.slices.append((number, 0, 0))
        _, good, bad = self.slices[-1]
        self.slices[-1] = (number, good + (not failed), bad + failed)
        self.succeeded += not failed
        self.failed += failed

    def forget(self, number: int) -> None:
        while self.slices and self.slices[0][0] <= number - SLICES:
            _, good, bad = self.slices.popleft()
            self.succeeded -= good
            self.failed -= bad

    def change(self, opened_until: float | None) -> None:
        self.generation += 1
        self.opened_until = opened_until
        self.probe_until = -inf
        self.run = self.succeeded = self.failed = 0
        self.slices.clear()


class CircuitBreaker:
    """Stop calling what fails, and let one call at a time see whether it is well again; for tasks and threads.

    Arguments:
        failures: it opens after so many failures in a row, 1 or more.
        share: it opens too when this share of the calls in `window` failed, 0 to 1; None: it does not.
        window: seconds that the share is taken over.
        calls: how many calls must have ended in the window for the share to count.
        open_for: seconds during which all calls are refused.
        counts: a function of a response or an exception that says whether it is a failure; None: 500 and above, and
            connection errors of httpx, aiohttp, requests and Python.
        count_429: whether a 429 is a failure too; without `counts` only.
        max_keys: for how many keys the state is kept; of more, that which was used longest ago and is closed goes.

    While it is open a call raises CircuitOpen at once: put it outside of the limiter, and no permit is spent. After
    `open_for` seconds exactly one call is let through: if it succeeds the breaker closes, if it fails it opens anew, if
    it is cancelled the next is let through. What was cancelled is no failure, and no success. What began before a
    change of state says nothing after it.

    Raises ValueError or TypeError, naming argument, value and bound.

    Example:
        from aiolimiter_fast import CircuitBreaker
        from aiolimiter_fast.resilience import CircuitOpen

        breaker = CircuitBreaker(failures=1, counts=lambda outcome: isinstance(outcome, OSError))

        try:
            with breaker.at("example.com"):
                raise ConnectionResetError
        except OSError:
            pass
        try:
            with breaker.at("example.com"):
                raise AssertionError("not reached")
        except CircuitOpen as refused:
            assert 29 < refused.retry_after <= 30
        assert breaker.state("example.org") == "closed"
    """

    __slots__ = (
        "__weakref__", "_calls", "_circuits", "_counts", "_failures", "_lock", "_max_keys", "_open_for",
        "_share", "_slice",
    )  # fmt: skip

    def __init__(
        self,
        failures: int = 5,
        *,
        share: float | None = 0.5,
        window: float = 10.0,
        calls: int = 20,
        open_for: float = 30.0,
        counts: Callable[[Any], bool] | None = None,
        count_429: bool = False,
        max_keys: int = 1000,
    ) -> None:
        self._failures = _count("failures", failures)
        self._share = inf if share is None else _arguments.number("share", share)
        if share is not None and not 0 < self._share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share!r}")
        self._slice = _positive("window", window) / SLICES
        self._calls = _count("calls", calls)
        self._open_for = _positive("open_for", open_for)
        if counts is None:
            counts = _with_429 if count_429 else is_failure
        elif not callable(counts):
            raise TypeError(f"counts must be a function of an outcome, got {counts!r}")
        self._counts: Callable[[Any], bool] = counts
        self._max_keys = _count("max_keys", max_keys)
        self._lock = deciding
        self._circuits: OrderedDict[Hashable, Circuit] = OrderedDict()

    # The ways in.

    def at(self, key: Hashable = None) -> Passage:
        """One call under a key, for `async with` and `with`; entering raises CircuitOpen.

        What the block raises is judged; or what its `result` is given.
        """
        hash(key)
        return Passage(self, key)

    def call(self, function: Callable[..., T], /, *args: Any, key: Hashable = None, **kwargs: Any) -> T:
        """Call a function and judge what it returns or raises.

        Raises CircuitOpen, and what the function raises.
        """
        with Passage(self, key) as passage:
            return passage.result(function(*args, **kwargs))

    async def call_async(
        self, function: Callable[..., Awaitable[T]], /, *args: Any, key: Hashable = None, **kwargs: Any
    ) -> T:
        """Await a function's call and judge what it returns or raises.

        Raises CircuitOpen, and what the function raises.
        """
        with Passage(self, key) as passage:
            return passage.result(await function(*args, **kwargs))

    # What there is to know, and to change.

    def state(self, key: Hashable = None) -> State:
        """ "closed", "open", or "half-open": one call is, or would be, let through."""
        with self._lock:
            circuit = self._circuits.get(key)
            if circuit is None or circuit.opened_until is None:
                return "closed"
            return "open" if self._now() < circuit.opened_until else "half-open"

    def open(self, key: Hashable = None, seconds: float | None = None) -> None:
        """Open it, for `open_for` seconds unless told otherwise."""
        duration = self._open_for if seconds is None else _positive("seconds", seconds)
        with self._lock:
            self._circuit(key).change(self._now() + duration)

    def close(self, key: Hashable = None) -> None:
        """Close it, and forget what was."""
        with self._lock:
            circuit = self._circuits.pop(key, None)
            if circuit is not None:
                circuit.change(None)

    @property
    def keys(self) -> list[Hashable]:
        """The keys whose state is kept."""
        with self._lock:
            return list(self._circuits)

    def __repr__(self) -> str:
        with self._lock:
            is_open = sum(circuit.opened_until is not None for circuit in self._circuits.values())
            return f"<{type(self).__name__}(failures={self._failures}) [keys: {len(self._circuits)}, open: {is_open}]>"

    # For Passage.

    def _enter(self, key: Hashable) -> tuple[Circuit, int]:
        with self._lock:
            circuit = self._circuit(key)
            if circuit.opened_until is not None:
                now = self._now()
                until = max(circuit.opened_until, circuit.probe_until)
                if now < until:
                    raise _open(key, until - now)
                # One whose end nobody ever tells does not keep it half-open for good.
                circuit.generation += 1
                circuit.probe_until = now + self._open_for
            return circuit, circuit.generation

    def _check(self, key: Hashable, circuit: Circuit, generation: int) -> None:
        with self._lock:
            if circuit.opened_until is not None and generation != circuit.generation:
                raise _open(key, max(circuit.opened_until - self._now(), 0.0))

    def _leave(self, circuit: Circuit, generation: int, failed: bool | None) -> None:
        """Count a call's outcome; None: it came to nothing."""
        with self._lock:
            if generation != circuit.generation:
                return
            now = self._now()
            if circuit.opened_until is not None:
                if failed is None:
                    circuit.probe_until = -inf
                else:
                    circuit.change(now + self._open_for if failed else None)
                return
            if failed is None:
                return
            circuit.count(int(now // self._slice), failed)
            circuit.run = circuit.run + 1 if failed else 0
            ended = circuit.succeeded + circuit.failed
            if failed and (
                circuit.run >= self._failures or (ended >= self._calls and circuit.failed >= self._share * ended)
            ):
                circuit.change(now + self._open_for)

    def _circuit(self, key: Hashable) -> Circuit:
        circuit = self._circuits.get(key)
        if circuit is None:
            if len(self._circuits) >= self._max_keys:
                closed = [each for each, found in self._circuits.items() if found.opened_until is None]
                del self._circuits[closed[0] if closed else next(iter(self._circuits))]
            circuit = self._circuits[key] = Circuit()
        else:
            self._circuits.move_to_end(key)
        return circuit

    def _now(self) -> float:
        loop = running_loop()
        return time.monotonic() if loop is None else loop.time()


class Passage:
    """One call through a breaker, as `CircuitBreaker.at` gives it; for one block."""

    __slots__ = ("_breaker", "_circuit", "_failed", "_generation", "_key")

    def __init__(self, breaker: CircuitBreaker, key: Hashable) -> None:
        self._breaker = breaker
        self._key = key
        self._circuit: Circuit | None = None
        self._generation = 0
        self._failed: bool | None = None

    def result(self, outcome: T) -> T:
        """Judge what the call returned, instead of taking it for a success; gives it back."""
        self._failed = self._breaker._counts(outcome)
        return outcome

    def check(self) -> None:
        """Raise CircuitOpen if the breaker has opened since this call began; for calls that waited within the block."""
        if self._circuit is not None:
            self._breaker._check(self._key, self._circuit, self._generation)

    def __enter__(self) -> Self:
        self._circuit, self._generation = self._breaker._enter(self._key)
        self._failed = None
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        circuit, self._circuit = self._circuit, None
        if circuit is None:
            return
        failed: bool | None = bool(self._failed)
        try:
            if isinstance(error, Exception):
                failed = self._failed or bool(self._breaker._counts(error))
            elif error is not None:
                failed = None
        except BaseException:
            failed = None
            raise
        finally:
            self._breaker._leave(circuit, self._generation, failed)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.__exit__(kind, error, trace)


def _open(key: Hashable, seconds: float) -> CircuitOpen:
    at = "" if key is None else f" for {key!r}"
    return CircuitOpen(f"the circuit breaker{at} is open", seconds)


def _with_429(outcome: object) -> bool:
    return is_failure(outcome, count_429=True)


def _count(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    return value


def _positive(name: str, value: object) -> float:
    result = _arguments.number(name, value)
    if result <= 0:
        raise ValueError(f"{name} must be positive, got {value!r}")
    return result
