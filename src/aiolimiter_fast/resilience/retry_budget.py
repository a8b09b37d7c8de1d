"""A bound on retries as a share of the traffic."""

from __future__ import annotations

import time
from collections.abc import Callable

from aiolimiter_fast import _arguments
from aiolimiter_fast._forking import deciding

__all__ = ["RetryBudget"]


class RetryBudget:
    """Let retries be at most a share of the calls, so that they cannot multiply an outage.

    Arguments:
        share: retries for each call, 0 to 1.
        per_second: retries per second that are always allowed, for clients with few calls.
        most: how many retries are saved up at most.
        clock: seconds, from any instant on.

    Each call pays in `share`; each retry takes 1, if it is there. (As Finagle's and linkerd's retry budgets do.) For
    tasks and threads.

    Raises ValueError or TypeError, naming argument, value and bound.

    Example:
        from aiolimiter_fast.resilience import RetryBudget

        budget = RetryBudget(share=0.5, per_second=0)
        budget.deposit()
        assert not budget.withdraw()
        budget.deposit()
        assert budget.withdraw()
    """

    __slots__ = ("_at", "_balance", "_clock", "_lock", "_most", "_per_second", "_share")

    def __init__(
        self,
        share: float = 0.1,
        per_second: float = 1.0,
        most: float = 100.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share = _arguments.number("share", share)
        if not 0 <= self._share <= 1:
            raise ValueError(f"share must be 0 to 1, got {share!r}")
        self._per_second = _arguments.number("per_second", per_second)
        if self._per_second < 0:
            raise ValueError(f"per_second must be 0 or more, got {per_second!r}")
        self._most = _arguments.number("most", most)
        if self._most < 1:
            raise ValueError(f"most must be at least 1, got {most!r}")
        self._clock = clock
        self._lock = deciding
        self._at = clock()
        self._balance = min(self._per_second, self._most)

    @property
    def balance(self) -> float:
        """Retries that could be made now."""
        with self._lock:
            self._accrue()
            return self._balance

    def deposit(self) -> None:
        """A call is made."""
        with self._lock:
            self._accrue()
            self._balance = min(self._balance + self._share, self._most)

    def withdraw(self) -> bool:
        """Take a retry if there is one, and say whether."""
        with self._lock:
            self._accrue()
            if self._balance < 1 - 1e-9:
                return False
            self._balance -= 1
            return True

    def _accrue(self) -> None:
        now = self._clock()
        self._balance = min(self._balance + max(now - self._at, 0.0) * self._per_second, self._most)
        self._at = now
