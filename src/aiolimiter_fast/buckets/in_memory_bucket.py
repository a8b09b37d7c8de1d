"""The bucket in this process's memory."""

from __future__ import annotations

from inspect import iscoroutine
from typing import Any

from aiolimiter_fast import _arguments
from aiolimiter_fast._engine import engine
from aiolimiter_fast._forking import deciding
from aiolimiter_fast.abstracts.algorithm import Algorithm, LogAlgorithm, SlidingWindowLog
from aiolimiter_fast.abstracts.bucket import AbstractBucket
from aiolimiter_fast.abstracts.rate import Rate, RateItem
from aiolimiter_fast.clocks import MonotonicClock

__all__ = ["InMemoryBucket"]

MILLISECOND = 1_000_000
# Units and nanoseconds that the engine counts to.
MOST = 1 << 61
# Steps into the future by which an algorithm of the user's own has to come to an end.
TRIES = 1000
SLIDING = {
    name: getattr(SlidingWindowLog, name)
    for name in ("admit", "blocking_offset", "decide", "leak_bound", "max_weight", "retry_after", "window_start")
}
MONOTONIC = MonotonicClock.now


class InMemoryBucket(AbstractBucket, engine.Window):
    """A log of what was admitted, in memory, and the line of those who wait at it.

    Arguments:
        rates: one Rate or more, each longer, larger and slower than the one before.
        algorithm: a LogAlgorithm; default SlidingWindowLog, the only one that the compiled engine decides by itself.

    A unit counts until it is older than the interval, so the limit holds in any window, closed at both ends. A weight
    of any size is one entry, and what has left the longest window is forgotten: no thread leaks this bucket. `count`
    and `leak` tell of it as if it had been kept until `leak` was called, unless a factory has scheduled the bucket.

    Raises ValueError for rates that make no sense together, TypeError for an algorithm that keeps no log.

    Example:
        from aiolimiter_fast import InMemoryBucket, Rate, RateItem

        bucket = InMemoryBucket([Rate(2, 1000)])
        assert bucket.put(RateItem("a", bucket.now(), weight=2))
        assert not bucket.put(RateItem("b", bucket.now()))
    """

    is_async = False
    needs_leak = False
    # Methods of a subclass that come to the same, for the limiter to know.
    _overridden: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, rates: list[Rate], algorithm: Algorithm | None = None) -> None:
        if algorithm is not None:
            if not isinstance(algorithm, LogAlgorithm):
                raise TypeError(f"algorithm must be a LogAlgorithm, got {algorithm!r}")
            self._algorithm = algorithm
        self.rates = rates

    @property
    def rates(self) -> list[Rate]:
        """The rates by rising interval. Can be set while in use: the log stays, and those who wait are planned anew."""
        return list(self._rates)

    @rates.setter
    def rates(self, rates: list[Rate]) -> None:
        AbstractBucket.rates.fset(self, rates)  # type: ignore[attr-defined]
        self._reconfigure()

    def _reconfigure(self) -> None:
        """Tell the engine the rates as they are now."""
        rates = self._rates
        self._look(rates)
        self._configure(
            rates,
            [min(int(rate.limit), MOST) for rate in rates],
            [min(rate.interval * MILLISECOND, MOST) for rate in rates],
        )

    def _refresh(self) -> None:
        """Read the rates again if one of them may have been changed."""
        if not self._is_current():
            self._reconfigure()

    @property
    def failing_rate(self) -> Rate | None:
        """The rate that refused the last item; None after an admission."""
        rate: Rate | None = self._denial()[0]
        return rate

    @failing_rate.setter
    def failing_rate(self, rate: Rate | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._deny(rate, self._last_wait)

    @property
    def _last_wait(self) -> Any:
        return self._denial()[1]

    @_last_wait.setter
    def _last_wait(self, wait: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._deny(self.failing_rate, wait)

    def put(self, item: RateItem) -> bool:
        """Store the item if every rate has room for its weight at its timestamp, and say whether."""
        weight = item.weight
        if weight == 0:
            self._deny(None, None)
            return True
        if weight < 0:
            raise ValueError(f"weight must be 0 or more, got {weight!r}")
        self._refresh()
        if self._engine_decides():
            rate = self._take(item.name, min(weight, MOST), item.timestamp * MILLISECOND)
            if rate is None:
                return True
            if weight <= rate.limit:
                due = -(-self._rate_due(weight, rate, item.timestamp * MILLISECOND) // MILLISECOND)
                self._deny(rate, (weight, due))
            return False
        return self._put_by_algorithm(item)

    def _engine_decides(self) -> bool:
        """Whether the engine decides as the algorithm would: nobody has put another in its place, or changed it."""
        algorithm = self._algorithm
        return (
            type(algorithm) is SlidingWindowLog
            and not vars(algorithm)
            and all(getattr(SlidingWindowLog, name) is method for name, method in SLIDING.items())
        )

    def _put_by_algorithm(self, item: RateItem) -> bool:
        algorithm: Any = self._algorithm
        now = item.timestamp
        with deciding:
            if self._leaks:
                self.leak(now)
            decision = algorithm.decide(self._rates, self._counts_at(now), item.weight, now, self._timestamp)
            if decision.allowed:
                self._append(item.name, item.weight, now * MILLISECOND)
        wait = decision.retry_after_ms
        self._deny(decision.failing_rate, None if wait is None else (item.weight, now + wait))
        return bool(decision.allowed)

    def _timestamp(self, index: int) -> int | None:
        item = self.peek(index)
        return None if item is None else item.timestamp

    def leak(self, current_timestamp: int | None = None) -> int:
        """Forget what is in no window any more at `current_timestamp` (ms); return how many units have gone."""
        if current_timestamp is None:
            raise AssertionError("leak() needs the current timestamp of an in-memory bucket, got None")
        algorithm: Any = self._algorithm
        bound = algorithm.leak_bound(self._rates, current_timestamp)
        return int(self._leak(bound * MILLISECOND))

    def scheduled(self) -> None:
        """Forget at once, from now on, what has left the longest window."""
        self._leaks = True

    def count(self) -> int:
        """Units in the log, with those that have left their window since the last leak."""
        if self._leaks:
            self.leak(self.now())  # type: ignore[arg-type]
        return int(self._units())

    def peek(self, index: int) -> RateItem | None:
        """The item to which the unit at `index` belongs: 0 is the newest, -1 the oldest."""
        entry = self._unit(index)
        if entry is None:
            return None
        name, instant, weight = entry
        return RateItem(name, instant // MILLISECOND, weight)

    @property
    def items(self) -> list[RateItem]:
        """The items in the log, the oldest first."""
        return [RateItem(name, instant // MILLISECOND, weight) for name, instant, weight in self._entries()]

    def flush(self) -> None:
        """Forget everything that was admitted."""
        self._clear()

    def __getstate__(self) -> dict[str, Any]:
        return {"attributes": vars(self), "log": self._entries(), "leaks": self._leaks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state["attributes"])
        self._leaks = state["leaks"]
        self._reconfigure()
        for name, instant, weight in state["log"]:
            self._append(name, weight, instant)

    def __reduce__(self) -> tuple[Any, ...]:
        return _arguments.newobj, (type(self),), self.__getstate__()

    def remaining(self) -> list[int]:
        """Permits left now, per rate in order of interval. Raises NotImplementedError with an asynchronous clock."""
        now = self._instant()
        self._refresh()
        if self._engine_decides():
            return list(self._room(now))
        algorithm: Any = self._algorithm
        pairs = zip(self._rates, self._counts_at(self._milliseconds()), strict=True)
        return [max(int(algorithm.max_weight(rate)) - count, 0) for rate, count in pairs]

    def wait_time(self, weight: int = 1) -> float:
        """Seconds until a newcomer of `weight` would be admitted, behind those who wait; inf if never.

        Raises NotImplementedError with an asynchronous clock, or an algorithm that does not come to an end.
        """
        now = self._instant()
        self._refresh()
        if self._engine_decides():
            wait = self._wait_time(min(weight, MOST), now)
            return float("inf") if wait < 0 else wait / 1e9
        algorithm: Any = self._algorithm
        start = then = self._milliseconds()
        for _ in range(TRIES):
            decision = algorithm.decide(self._rates, self._counts_at(then), weight, then, self._timestamp)
            if decision.allowed:
                return (then - start) / 1000
            if decision.retry_after_ms is None:
                return float("inf")
            then += max(decision.retry_after_ms, 1)
        raise NotImplementedError(f"{algorithm!r} cannot tell how long {weight} permits would wait")

    def _counts_at(self, now: int) -> list[int]:
        algorithm: Any = self._algorithm
        return [self._count_since(algorithm.window_start(rate, now) * MILLISECOND) for rate in self._rates]

    def _milliseconds(self) -> int:
        now = self.now()
        if isinstance(now, int):
            return now
        if iscoroutine(now):
            now.close()
        raise NotImplementedError("an asynchronous clock cannot be asked from synchronous code")

    def _instant(self) -> int | None:
        """Now, in nanoseconds; None by the engine's own clock."""
        clock = self._clock
        if type(self).now is AbstractBucket.now and "now" not in vars(self):
            if type(clock) is MonotonicClock and "now" not in vars(clock) and MonotonicClock.now is MONOTONIC:
                return None
            read = getattr(clock, "now_ns", None)
            if read is not None:
                return int(read())
        return self._milliseconds() * MILLISECOND
