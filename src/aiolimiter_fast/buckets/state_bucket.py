"""Buckets that keep a few numbers, however many permits there are."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import isawaitable
from typing import Any

from aiolimiter_fast._forking import deciding
from aiolimiter_fast._shared_state import SharedState
from aiolimiter_fast.abstracts.algorithm import ADMITTED, GCRA, Decision, State, StateAlgorithm
from aiolimiter_fast.abstracts.bucket import AbstractBucket
from aiolimiter_fast.abstracts.rate import Rate, RateItem
from aiolimiter_fast.abstracts.store import StateStore
from aiolimiter_fast.clocks import AbstractClock

__all__ = ["InMemoryStateStore", "MultiprocessStateStore", "StateBucket"]


class InMemoryStateStore(StateStore):
    """The state in this process's memory; picklable."""

    def __init__(self) -> None:
        self._state: State | None = None

    def check(self, algorithm: StateAlgorithm, rates: Sequence[Rate], now: int, weight: int) -> Decision:
        with deciding:
            self._state, decision = algorithm.step(rates, self.read(algorithm, rates), now, weight)
        return decision

    def read(self, algorithm: StateAlgorithm, rates: Sequence[Rate]) -> State:
        state = self._state
        return algorithm.initial(rates) if state is None or len(state) != len(rates) else state

    def reset(self) -> None:
        self._state = None


class MultiprocessStateStore(StateStore):
    """The state in shared memory, for a process and the workers that were given this object; `init` makes one.

    No lock is taken: a step of the algorithm is made from the state as it was read, and counts if that still is the
    state when the next one takes its place; else it is made again. So a process that is killed or stopped at any
    instruction delays nobody, and a step must have no other effects. The file goes when the process that made it ends.

    Arguments, as pyrate-limiter's class of this name takes them: values, a manager's list; lock, a multiprocessing
    lock. Then the state is in the manager's process, and steps hold the lock.
    """

    def __init__(self, values: Any, lock: Any) -> None:
        self._values = values
        self._lock = lock

    @classmethod
    def init(cls) -> MultiprocessStateStore:
        """Make a store in shared memory."""
        return cls(SharedState.init(), None)

    def check(self, algorithm: StateAlgorithm, rates: Sequence[Rate], now: int, weight: int) -> Decision:
        if isinstance(self._values, SharedState):
            return self._values.check(algorithm, rates, now, weight)
        with self._lock:
            state, decision = algorithm.step(rates, self.read(algorithm, rates), now, weight)
            if decision.allowed:
                self._values[:] = state
        return decision

    def read(self, algorithm: StateAlgorithm, rates: Sequence[Rate]) -> State:
        if isinstance(self._values, SharedState):
            return self._values.read(algorithm, rates)
        state = tuple(self._values)
        return algorithm.initial(rates) if len(state) != len(rates) else state

    def reset(self) -> None:
        if isinstance(self._values, SharedState):
            self._values.reset()
            return
        with self._lock:
            self._values[:] = []


class StateBucket(AbstractBucket):
    """A bucket that decides by a StateAlgorithm and keeps its state in a store.

    Arguments:
        rates: one Rate or more, each longer, larger and slower than the one before.
        algorithm: default GCRA.
        store: default in memory.
        clock: default the store's.

    Raises ValueError for rates that make no sense together, TypeError for an algorithm of another kind.
    """

    needs_leak = False

    def __init__(
        self,
        rates: list[Rate],
        algorithm: StateAlgorithm | None = None,
        store: StateStore | None = None,
        clock: AbstractClock | None = None,
    ) -> None:
        if algorithm is not None and not isinstance(algorithm, StateAlgorithm):
            raise TypeError(f"algorithm must be a StateAlgorithm, got {algorithm!r}")
        self.rates = rates
        self.algorithm = self._algorithm = GCRA() if algorithm is None else algorithm
        self.store = InMemoryStateStore() if store is None else store
        self.is_async = self.store.is_async
        self.blocks = self.store.blocks
        self.keeps_budget = self.store.keeps_budget
        self.exact_wait = self.store.exact_wait
        self.tries_at_once = self.store.tries_at_once
        self._clock = self.store.default_clock if clock is None else clock

    def put(self, item: RateItem) -> Any:
        """Take a step of the algorithm; True if it admitted the item. Awaitable with an asynchronous store."""
        if item.weight == 0:
            return self._note(item, ADMITTED).allowed
        if item.weight < 0:
            raise ValueError(f"weight must be 0 or more, got {item.weight!r}")
        decision = self.store.check(self.algorithm, self._rates, item.timestamp, item.weight)
        return self._put_later(decision, item) if isawaitable(decision) else self._note(item, decision).allowed

    async def _put_later(self, decision: Any, item: RateItem) -> bool:
        return self._note(item, await decision).allowed

    def waiting(self, item: RateItem) -> Any:
        """Milliseconds from the item's time stamp until it would be admitted; -1 never, 0 after an admission."""
        noted = self._noted(item)
        if noted is not None and noted[1].retry_after_ms is not None:
            return max(noted[1].retry_after_ms + noted[0] - item.timestamp, 0)
        rate = self.failing_rate
        known = self._last_wait is not None and self._last_wait[0] == item.weight
        if rate is None or known or not 0 < item.weight <= self.algorithm.max_weight(rate):
            return super().waiting(item)
        state = self.store.read(self.algorithm, self._rates)
        return self._replay_later(state, rate, item) if isawaitable(state) else self._replay(state, item)

    async def _replay_later(self, state: Any, rate: Rate, item: RateItem) -> int:
        return self._replay(await state, item)

    def _replay(self, state: State, item: RateItem) -> int:
        decision = self.algorithm.step(self._rates, state, item.timestamp, item.weight)[1]
        return decision.retry_after_ms or 0

    def count(self) -> Any:
        """Permits owed now."""
        state, now = self.store.read(self.algorithm, self._rates), self.now()
        if isawaitable(state) or isawaitable(now):
            return self._count_later(state, now)
        return self.algorithm.consumed(self._rates, state, now)

    async def _count_later(self, state: Any, now: Any) -> int:
        state = await state if isawaitable(state) else state
        return self.algorithm.consumed(self._rates, state, await now if isawaitable(now) else now)

    def remaining(self) -> list[int]:
        """Permits left now, per rate in order of interval."""
        state, now = self._known()
        return [
            max(rate.burst - self.algorithm.consumed([rate], (value,), now), 0)
            for rate, value in zip(self._rates, state, strict=True)
        ]

    def wait_time(self, weight: int = 1) -> float:
        """Seconds until `weight` permits would be admitted; inf if never."""
        state, now = self._known()
        decision = self.algorithm.step(self._rates, state, now, weight)[1]
        if decision.allowed:
            return 0.0
        return float("inf") if decision.retry_after_ms is None else decision.retry_after_ms / 1000

    def _known(self) -> tuple[State, int]:
        if self.is_async is not False:
            raise NotImplementedError("an asynchronous store cannot be asked from synchronous code")
        return self.store.read(self.algorithm, self._rates), self.now()  # type: ignore[return-value]

    def peek(self, index: int) -> None:
        """None: there are no items."""

    def leak(self, current_timestamp: int | None = None) -> int:
        """0: there is nothing to forget."""
        return 0

    def flush(self) -> Any:
        """Forget what is owed."""
        self.failing_rate = self._last_wait = None
        return self.store.reset()

    def close(self) -> None:
        self.store.close()
