"""Where the state of a StateAlgorithm is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from aiolimiter_fast.abstracts.algorithm import StateAlgorithm
from aiolimiter_fast.abstracts.rate import Rate
from aiolimiter_fast.clocks import AbstractClock, MonotonicClock

__all__ = ["StateStore"]


class StateStore(ABC):
    """Keeps a state, and changes it atomically. Results may be awaitable; `is_async` None: that is to be seen.

    How a limiter is to treat it is said as in AbstractBucket.
    """

    is_async: bool | None = False
    blocks: bool = False
    keeps_budget: bool = False
    exact_wait: bool = False
    tries_at_once: int = 1
    default_clock: AbstractClock = MonotonicClock()

    @abstractmethod
    def check(self, algorithm: StateAlgorithm, rates: Sequence[Rate], now: int, weight: int) -> Any:
        """Take one step of the algorithm at `now` (ms); return the Decision."""

    @abstractmethod
    def read(self, algorithm: StateAlgorithm, rates: Sequence[Rate]) -> Any:
        """The state."""

    @abstractmethod
    def reset(self) -> Any:
        """Forget the state."""

    def close(self) -> None:  # noqa: B027
        """Let go of connections."""
