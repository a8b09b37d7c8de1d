"""A bucket in a manager's process, for processes that were given it."""

from __future__ import annotations

from bisect import bisect_left
from multiprocessing.managers import ListProxy
from typing import Any

from aiolimiter_fast.abstracts.algorithm import Algorithm, LogAlgorithm
from aiolimiter_fast.abstracts.bucket import AbstractBucket
from aiolimiter_fast.abstracts.rate import Rate, RateItem
from aiolimiter_fast.buckets.in_memory_bucket import InMemoryBucket

__all__ = ["MultiprocessBucket"]


class MultiprocessBucket(InMemoryBucket):
    """A log of items in a manager's list, shared by the processes that this object was sent to.

    Arguments:
        rates: one Rate or more, each longer, larger and slower than the one before.
        items: a manager's list.
        mp_lock: a multiprocessing lock that guards it.
        algorithm: a LogAlgorithm; default SlidingWindowLog.

    `init` makes list and lock. Raises ValueError if items is no manager's list.
    """

    needs_leak = True

    def __init__(self, rates: list[Rate], items: Any, mp_lock: Any, algorithm: Algorithm | None = None) -> None:
        if not isinstance(items, ListProxy):
            raise ValueError(f"items must be a ListProxy, got {items!r}")
        super().__init__(rates, algorithm)
        self._items = items
        self.mp_lock = mp_lock

    @classmethod
    def init(cls, rates: list[Rate], algorithm: Algorithm | None = None) -> MultiprocessBucket:
        """Make a bucket, with a manager of its own."""
        from multiprocessing import Manager, RLock

        return cls(rates, Manager().list(), RLock(), algorithm)

    @property
    def items(self) -> Any:
        """The manager's list."""
        return self._items

    def put(self, item: RateItem) -> bool:
        """Store the item if every rate has room for its weight at its timestamp, and say whether."""
        if item.weight == 0:
            self._deny(None, None)
            return True
        if item.weight < 0:
            raise ValueError(f"weight must be 0 or more, got {item.weight!r}")
        algorithm, now = self._algorithm, item.timestamp
        assert isinstance(algorithm, LogAlgorithm)
        with self.mp_lock:
            # Each look at the list is a message to the manager: only rates that the whole list could fill need one.
            size = len(self._items)
            rates = [rate for rate in self._rates if size + item.weight > rate.limit]
            counts = [size - self._place(algorithm.window_start(rate, now), size) for rate in rates]
            decision = algorithm.decide(rates, counts, item.weight, now, self._timestamp)
            if decision.allowed:
                self._items.extend([item] * item.weight)
        wait = decision.retry_after_ms
        self._deny(decision.failing_rate, None if wait is None else (item.weight, now + wait))
        return decision.allowed

    def _place(self, timestamp: int, size: int) -> int:
        """The first place in the list at or after a time stamp."""
        return bisect_left(range(size), timestamp, key=lambda place: self._items[place].timestamp)

    def leak(self, current_timestamp: int | None = None) -> int:
        """Forget what is in no window any more at `current_timestamp` (ms); return how many units."""
        if current_timestamp is None:
            raise AssertionError("leak() needs the current timestamp, got None")
        assert isinstance(self._algorithm, LogAlgorithm)
        bound = self._algorithm.leak_bound(self._rates, current_timestamp)
        with self.mp_lock:
            gone = self._place(bound, len(self._items))
            if gone:
                del self._items[:gone]
        return gone

    def scheduled(self) -> None:
        """Nothing to do: the factory's leaker leaks it."""

    def count(self) -> int:
        """Units in the log."""
        return len(self._items)

    def peek(self, index: int) -> RateItem | None:
        """The item to which the unit at `index` belongs: 0 is the newest, -1 the oldest."""
        size = len(self._items)
        return None if abs(index) >= size else self._items[-1 - index]

    def flush(self) -> None:
        """Forget everything that was admitted."""
        with self.mp_lock:
            self._items[:] = []
        self._deny(None, None)

    def remaining(self) -> list[int]:
        return AbstractBucket.remaining(self)

    def wait_time(self, weight: int = 1) -> float:
        return AbstractBucket.wait_time(self, weight)

    def limiter_lock(self) -> Any:
        return self.mp_lock
