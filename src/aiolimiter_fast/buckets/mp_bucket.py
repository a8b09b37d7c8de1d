"""A bucket for processes that were given it: in shared memory, or in a manager's process where its list was given."""

from __future__ import annotations

import sys
from bisect import bisect_left
from typing import Any
from weakref import finalize

from aiolimiter_fast._shared_file import private_path, remover, slots_for
from aiolimiter_fast.abstracts.algorithm import Algorithm, LogAlgorithm
from aiolimiter_fast.abstracts.bucket import AbstractBucket
from aiolimiter_fast.abstracts.rate import Rate, RateItem
from aiolimiter_fast.buckets.in_memory_bucket import InMemoryBucket
from aiolimiter_fast.buckets.shared_memory import SharedMemoryBucket

__all__ = ["MultiprocessBucket"]


class MultiprocessBucket(SharedMemoryBucket):
    """A SharedMemoryBucket without a name, for a process and the workers that it gives it to.

    `init` makes one; workers inherit it by fork, or are sent it, as an argument, in `initargs`, by any pickle. It goes
    when the process that made it ends; what workers have open they may use on.

    Made with the arguments that pyrate-limiter's class of this name takes, it keeps its items in a manager's list, by
    the lock given; that is many times slower, and a process killed while it holds the lock stops all.

    Arguments:
        rates: one Rate or more, each longer, larger and slower than the one before.
        items: a manager's list.
        mp_lock: a multiprocessing lock that guards it.
        algorithm: a LogAlgorithm; default SlidingWindowLog.

    Raises ValueError if items is no manager's list, and what SharedMemoryBucket raises.

    Example:
        from multiprocessing import Pool
        from aiolimiter_fast import Limiter, MultiprocessBucket, Rate

        def begin(bucket):
            global limiter
            limiter = Limiter(bucket)

        def work(page):
            limiter.try_acquire("work")
            ...

        if __name__ == "__main__":
            with Pool(4, begin, [MultiprocessBucket.init([Rate(100, 1000)])]) as pool:
                pool.map(work, range(1000))
    """

    def __new__(cls, rates: Any = None, items: Any = None, *args: Any, **kwargs: Any) -> Any:
        made: Any = ManagerBucket if cls is MultiprocessBucket and _is_list_proxy(items) else cls
        return super().__new__(made)

    def __init__(self, rates: list[Rate], items: Any, mp_lock: Any, algorithm: Algorithm | None = None) -> None:
        raise ValueError(f"items must be a ListProxy, got {items!r}; init() makes a bucket without one")

    @classmethod
    def init(cls, rates: list[Rate], algorithm: Algorithm | None = None) -> MultiprocessBucket:
        """Make a bucket in shared memory, which goes when this process ends."""
        bucket: MultiprocessBucket = cls.__new__(cls)
        InMemoryBucket.__init__(bucket, rates, algorithm)
        path = private_path()
        bucket._open(path, slots_for(bucket._most_entries(), None), make=True)
        finalize(bucket, remover(path))
        return bucket


def _is_list_proxy(items: object) -> bool:
    managers = sys.modules.get("multiprocessing.managers")  # slow to import, and there is no proxy without it
    return managers is not None and isinstance(items, managers.ListProxy)


class ManagerBucket(MultiprocessBucket):
    """A log of items in a manager's list, by a lock, as pyrate-limiter keeps it."""

    exact_wait = False
    needs_leak = True

    def __init__(self, rates: list[Rate], items: Any, mp_lock: Any, algorithm: Algorithm | None = None) -> None:
        InMemoryBucket.__init__(self, rates, algorithm)
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

    def unlink(self) -> None:
        """Nothing to do: there is no file."""

    def close(self) -> None:
        """Nothing to do: the manager is its owner's."""

    def __reduce__(self) -> tuple[Any, ...]:
        attributes = {key: value for key, value in vars(self).items() if key not in ("_items", "mp_lock", "_rates")}
        return type(self), (self._rates, self._items, self.mp_lock), attributes
