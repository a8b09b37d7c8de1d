"""How a bucket decides: algorithms over a log of what was admitted, and over a state of a few numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiolimiter_fast._engine import engine
from aiolimiter_fast.abstracts.rate import Rate

__all__ = [
    "ADMITTED", "GCRA", "Algorithm", "Decision", "FixedWindow", "LogAlgorithm", "SlidingWindowLog", "State",
    "StateAlgorithm", "TokenBucket",
]  # fmt: skip

State = tuple[float, ...]
MICROSECONDS = 1000


@dataclass(frozen=True)
class Decision:
    """Admitted, or which rate refused and, as far as is known, after how many milliseconds it would not."""

    failing_rate: Rate | None = None
    retry_after_ms: int | None = None

    @property
    def allowed(self) -> bool:
        return self.failing_rate is None


ADMITTED = Decision()


class Algorithm(ABC, engine.Watched):
    """What all algorithms can be asked."""

    def max_weight(self, rate: Rate) -> int:
        """The heaviest item that the rate can ever admit."""
        return rate.limit


class LogAlgorithm(Algorithm):
    """Decides by counting the entries of a log that lie in each rate's window."""

    @abstractmethod
    def admit(self, rates: Sequence[Rate], counts: Sequence[int], weight: int) -> Decision:
        """Decide by the units that each rate's window holds."""

    @abstractmethod
    def window_start(self, rate: Rate, now: int) -> int:
        """The first millisecond of the window that ends now."""

    @abstractmethod
    def retry_after(self, rate: Rate, now: int, blocking_timestamp: int | None) -> int:
        """Milliseconds until the rate has room again, once the entry at `blocking_timestamp` has left its window."""

    def blocking_offset(self, rate: Rate, weight: int) -> int | None:
        """Which unit, counted from the newest, has to leave; None if the wait does not depend on any."""
        return None

    def leak_bound(self, rates: Sequence[Rate], now: int) -> int:
        """The millisecond before which entries are in nobody's window."""
        return min(self.window_start(rate, now) for rate in rates)

    def decide(
        self,
        rates: Sequence[Rate],
        counts: Sequence[int],
        weight: int,
        now: int,
        peek_timestamp: Callable[[int], int | None],
    ) -> Decision:
        """`admit`, and on a denial the wait. `peek_timestamp` finds a unit's time stamp; called only if needed."""
        decision = self.admit(rates, counts, weight)
        rate = decision.failing_rate
        if rate is None or weight > self.max_weight(rate):
            return decision
        offset = self.blocking_offset(rate, weight)
        blocking = None if offset is None else peek_timestamp(offset)
        return Decision(rate, self.retry_after(rate, now, blocking))


class _Counting(LogAlgorithm):
    """Denies where the window has too few permits left."""

    def admit(self, rates: Sequence[Rate], counts: Sequence[int], weight: int) -> Decision:
        for rate, count in zip(rates, counts, strict=True):
            if rate.limit - int(count) < weight:
                return Decision(rate)
        return ADMITTED


class SlidingWindowLog(_Counting):
    """At most `limit` in any window, wherever it begins. A window is closed at both ends."""

    def window_start(self, rate: Rate, now: int) -> int:
        return now - rate.interval

    def blocking_offset(self, rate: Rate, weight: int) -> int | None:
        return rate.limit - weight

    def retry_after(self, rate: Rate, now: int, blocking_timestamp: int | None) -> int:
        return 0 if blocking_timestamp is None else blocking_timestamp + rate.interval - now + 1


class FixedWindow(_Counting):
    """At most `limit` in each window; windows begin at multiples of the interval, so two limits may meet at an edge."""

    def window_start(self, rate: Rate, now: int) -> int:
        return now - now % rate.interval

    def retry_after(self, rate: Rate, now: int, blocking_timestamp: int | None) -> int:
        return rate.interval - now % rate.interval


class StateAlgorithm(Algorithm):
    """Decides by a state of a few numbers, however many permits there are."""

    @abstractmethod
    def initial(self, rates: Sequence[Rate]) -> State:
        """The state before the first item."""

    @abstractmethod
    def step(self, rates: Sequence[Rate], state: State, now: int, weight: int) -> tuple[State, Decision]:
        """Decide, and give the state that follows: on a denial the same object."""

    def decode(self, values: Sequence[Any]) -> State:
        """The state from what a store keeps as text."""
        return tuple(float(value) for value in values)

    def consumed(self, rates: Sequence[Rate], state: State, now: int) -> int:
        """Permits owed now, by the rate that owes most."""
        return 0

    def redis_script(self) -> str | None:
        """The decision as a Lua script; None if there is none."""
        return None

    def redis_args(self, rates: Sequence[Rate]) -> list[Any]:
        """What that script needs to know about the rates."""
        return []


class GCRA(StateAlgorithm):
    """Up to `burst` at once, then one permit every `interval / limit`.

    The state is one number per rate, the theoretical arrival time in microseconds. Emission intervals are rounded up,
    so no more than the limit is admitted. Source: ITU-T I.371, annex A, the virtual scheduling algorithm.
    """

    def max_weight(self, rate: Rate) -> int:
        return rate.burst

    def emission(self, rate: Rate) -> int:
        """Microseconds from one permit to the next."""
        return max(1, -(-rate.interval * MICROSECONDS // rate.limit))

    def initial(self, rates: Sequence[Rate]) -> State:
        return (0,) * len(rates)

    def step(self, rates: Sequence[Rate], state: State, now: int, weight: int) -> tuple[State, Decision]:
        instant = now * MICROSECONDS
        following = []
        for rate, arrival in zip(rates, state, strict=True):
            if weight > rate.burst:
                return state, Decision(rate)
            emission = self.emission(rate)
            arrival = max(arrival, instant) + weight * emission
            early = arrival - rate.burst * emission - instant
            if early > 0:
                return state, Decision(rate, int(-(-early // MICROSECONDS)))
            following.append(arrival)
        return tuple(following), ADMITTED

    def decode(self, values: Sequence[Any]) -> State:
        return tuple(int(value) for value in values)

    def consumed(self, rates: Sequence[Rate], state: State, now: int) -> int:
        owed = (
            -(-(arrival - now * MICROSECONDS) // self.emission(rate))
            for rate, arrival in zip(rates, state, strict=True)
        )
        return max(0, *(int(permits) for permits in owed))

    def redis_args(self, rates: Sequence[Rate]) -> list[Any]:
        return [value for rate in rates for value in (self.emission(rate), rate.burst)]


class TokenBucket(GCRA):
    """A bucket of `burst` tokens, refilled at `limit` per interval: the same decisions as GCRA."""
