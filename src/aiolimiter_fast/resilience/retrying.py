"""What tenacity needs to know about HTTP: how long to wait, after what, and when to stop."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import Any

from tenacity import RetryCallState, stop_after_attempt, stop_any, stop_before_delay
from tenacity.retry import retry_base
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from aiolimiter_fast import _arguments
from aiolimiter_fast.adaptive.response import parse
from aiolimiter_fast.resilience.outcomes import headers_of, is_idempotent, is_transient, status_of
from aiolimiter_fast.resilience.retry_budget import RetryBudget

__all__ = ["retry_if_transient", "retry_options", "stop_at_budget", "wait_as_told"]

# By which share a stated wait is longer, by chance, so that those who were told the same do not return together.
JITTER = 0.1


def _outcome(state: RetryCallState) -> Any:
    if state.outcome is None:
        return None
    return state.outcome.exception() if state.outcome.failed else state.outcome.result()


def told(outcome: object, max_wait: float) -> float | None:
    """Seconds for which a response, or an exception that carries one, asks to wait."""
    status = status_of(outcome)
    if status is None or status < 400:
        return None
    seen = parse(headers_of(outcome), status, max_pause=max_wait)
    pauses = [each.pause_for for each in seen if each.pause_for is not None]
    if not pauses and status == 429:
        pauses = [each.reset_after for each in seen if each.remaining == 0 and each.reset_after is not None]
    return min(max(pauses), max_wait) if pauses else None


class wait_as_told(wait_base):  # noqa: N801, tenacity's strategies are so named
    """Wait as long as the response says, else for a random time below an exponential bound (full jitter).

    Arguments:
        max_wait: the longest wait, in seconds, whatever the server says.
        first: the bound of the first wait where nothing was said, in seconds; it doubles with each attempt.

    Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

    Raises ValueError or TypeError for what makes no sense.
    """

    def __init__(self, max_wait: float = 60.0, first: float = 0.5) -> None:
        self.max_wait = _positive("max_wait", max_wait)
        self.first = _positive("first", first)

    def __call__(self, retry_state: RetryCallState) -> float:
        """Seconds until the next attempt."""
        stated = told(_outcome(retry_state), self.max_wait)
        if stated is not None and stated > 0:
            return min(stated + JITTER * min(stated, 10.0) * random.random(), self.max_wait)
        bound = min(self.first * 2.0 ** min(retry_state.attempt_number - 1, 60), self.max_wait)
        return random.uniform(0.0, bound)


class retry_if_transient(retry_base):  # noqa: N801
    """Try again after 429; and after 503 and connection errors if the request may be sent twice, or was never sent.

    Arguments:
        method: the requests' method, where responses and exceptions do not tell; None: not to be sent twice.
        statuses: further statuses after which an idempotent request is tried again, 502 and 504 for example.
        also: a function of the outcome, a response or an exception, that says whether to try again besides.
    """

    def __init__(
        self,
        method: str | None = None,
        *,
        statuses: Collection[int] = (),
        also: Callable[[Any], bool] | None = None,
    ) -> None:
        self.method = method
        self.statuses = frozenset(statuses)
        self.also = also

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Whether another attempt is due."""
        return self.is_due(_outcome(retry_state))

    def is_due(self, outcome: Any) -> bool:
        """Whether another attempt is due after an outcome, a response or an exception."""
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            return False
        if is_transient(outcome, self.method):
            return True
        if status_of(outcome) in self.statuses and is_idempotent(outcome, self.method):
            return True
        return self.also is not None and bool(self.also(outcome))


class stop_at_budget(stop_base):  # noqa: N801
    """Stop when the retry budget is spent. It takes from the budget, so it is to be asked last."""

    def __init__(self, budget: RetryBudget) -> None:
        self.budget = budget

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Take a retry from the budget, and say whether there was none."""
        return not self.budget.withdraw()


def retry_options(
    *,
    attempts: int = 5,
    max_wait: float = 60.0,
    max_time: float = 300.0,
    first: float = 0.5,
    budget: RetryBudget | None = None,
    method: str | None = None,
    statuses: Collection[int] = (),
    also: Callable[[Any], bool] | None = None,
) -> dict[str, Any]:
    """The arguments of tenacity's Retrying and AsyncRetrying, and of its `retry` decorator, for HTTP calls.

    Arguments:
        attempts: how often a call is made at most, 1 or more.
        max_wait: the longest wait between two attempts, in seconds.
        max_time: the budget for all attempts and waits, in seconds: no attempt begins after it.
        first: the bound of the first wait where nothing was said, in seconds.
        budget: the retries' share of the traffic; one for all calls to a server.
        method, statuses, also: see retry_if_transient.

    When no attempt is left the last response is returned, or the last exception raised, as if nothing had been retried.
    Let the function that is retried acquire its permit itself: then each attempt has one of its own.

    Raises ValueError or TypeError for what makes no sense.

    Example:
        from tenacity import Retrying
        from aiolimiter_fast.resilience import retry_options

        retrying = Retrying(**retry_options(attempts=3, max_wait=10))
        assert retrying(lambda: "done") == "done"
    """
    _whole("attempts", attempts)
    stops: list[Any] = [stop_after_attempt(attempts), stop_before_delay(_positive("max_time", max_time))]
    options: dict[str, Any] = {
        "wait": wait_as_told(max_wait, first),
        "retry": retry_if_transient(method, statuses=statuses, also=also),
        "reraise": True,
        "retry_error_callback": _last_outcome,
    }
    if budget is not None:
        stops.append(stop_at_budget(budget))
        options["before"] = lambda state: budget.deposit() if state.attempt_number == 1 else None
    options["stop"] = stop_any(*stops)
    return options


def _last_outcome(state: RetryCallState) -> Any:
    return None if state.outcome is None else state.outcome.result()


def _positive(name: str, value: object) -> float:
    result = _arguments.number(name, value)
    if result <= 0:
        raise ValueError(f"{name} must be positive, got {value!r}")
    return result


def _whole(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
