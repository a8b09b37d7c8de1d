"""One request on its way through the stack, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

from aiolimiter_fast.adaptive.limiter import AdaptiveLimiter
from aiolimiter_fast.extras._gate import Slot
from aiolimiter_fast.resilience.breaker import Passage
from aiolimiter_fast.resilience.outcomes import IDEMPOTENT, headers_of

__all__ = ["FIRST", "SHORT", "Exchange", "Final", "Flight", "before", "given"]

# The longest body, in bytes, that is read so that its connection can be used again where its response is not handed on.
SHORT = 65_536


class Exchange:
    """A request from its first attempt to the response that is handed on. Each client has a kind of its own.

    Attributes:
        request: what functions for `key` and `weight` see.
        first: the outcome of the first attempt, where that was made before tenacity was asked.
        passage: through the breaker, which may have opened since.
        response: the one that came last, while it is not thrown away.
        interrupted: what ended it, which no retrying is to keep.
        patience: seconds for which the rest of a short body is waited for, so that its connection can be used again.
        pause: seconds for which the limiter makes everybody wait, after what it learnt of the last attempt.
    """

    __slots__ = ("amount", "first", "interrupted", "key", "passage", "pause", "request", "response")

    patience = 1.0

    def __init__(self, request: Any) -> None:
        self.request = request
        self.key: Hashable = None
        self.amount: float = 1
        self.response: Any = None
        self.first: Any = None
        self.pause = 0.0
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

    def landed(self, response: Any, status: int) -> float:
        """There is a response, or an exception that carries one; the seconds for which everybody waits now."""
        self._is_over = True
        self._adaptive.observe(headers_of(response), status, sent_at=self._sent_at, amount=self._amount)
        until = self._adaptive.paused_until
        return 0.0 if until is None else until - self._adaptive.time()

    def end(self) -> None:
        """There is no response, unless there was one."""
        if not self._is_over:
            self._is_over = True
            self._adaptive.forget(self._sent_at)


class First:
    """What the retry budget sees of a call of one attempt."""

    attempt_number = 1


FIRST = First()


def before(began: float, function: Callable[[Any], Any], state: Any) -> Any:
    """What tenacity calls before each attempt: time is counted from the beginning of the first."""
    state.start_time = began
    return function(state)


def given(outcome: Any) -> Any:
    """Return a response, or raise an exception."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


class Final(BaseException):
    """Takes an outcome past whoever would try again."""

    def __init__(self, outcome: Any) -> None:
        super().__init__(outcome)
        self.outcome = outcome
