"""Buckets, and the factories that find the bucket for an item."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable
from inspect import isawaitable
from typing import Any

from aiolimiter_fast import _arguments
from aiolimiter_fast.abstracts.algorithm import ADMITTED, Algorithm, Decision, LogAlgorithm, SlidingWindowLog
from aiolimiter_fast.abstracts.leaker import Leaker
from aiolimiter_fast.abstracts.rate import Rate, RateItem
from aiolimiter_fast.clocks import AbstractClock, MonotonicClock
from aiolimiter_fast.utils import enforce_rate_list

__all__ = ["AbstractBucket", "BucketFactory", "Leaker"]


class AbstractBucket(ABC):
    """What holds the permits of one limit. Subclasses need not call `super().__init__()`; they set `rates`.

    Every `put` sets `failing_rate`: the rate that refused, None after an admission. Methods may give awaitables;
    `is_async` says so, None if it is to be seen. `needs_leak` is False where `leak` need never be called.

    How a limiter is to treat it: `blocks` where methods do I/O in the calling thread and may be called from several at
    once: without the limiter's lock, and from asyncio in a thread of their own; `now` must not. `keeps_budget` where
    methods end by the caller's deadline themselves. `exact_wait` where `waiting` needs no buffer. `tries_at_once`, how
    many tasks of an event loop may put and wait at the same time; 1 keeps them in order of arrival.
    """

    is_async: bool | None = None
    needs_leak: bool = True
    blocks: bool = False
    keeps_budget: bool = False
    exact_wait: bool = False
    tries_at_once: int = 1
    failing_rate: Rate | None = None
    _clock: AbstractClock = MonotonicClock()
    _algorithm: Algorithm = SlidingWindowLog()
    # The weight that was refused last, and the millisecond from which it would not be, where that is known.
    _last_wait: tuple[int, int] | None = None
    # Of limiters: what was stated of it in this process, and its rate as it was and as `sync` has lowered it.
    _gate: Any = None
    _lowered: tuple[Rate, Rate] | None = None

    @property
    def rates(self) -> list[Rate]:
        """The rates by rising interval. Raises ValueError for a list that makes no sense."""
        return self._rates

    @rates.setter
    def rates(self, rates: list[Rate]) -> None:
        ordered = sorted(rates, key=lambda rate: rate.interval)
        enforce_rate_list(ordered)
        self._rates = ordered

    @abstractmethod
    def put(self, item: RateItem) -> bool | Awaitable[bool]:
        """Store the item if there is room for its weight, and say whether."""

    @abstractmethod
    def leak(self, current_timestamp: int | None = None) -> int | Awaitable[int]:
        """Forget what is in no window any more at `current_timestamp` (ms); say how many units."""

    @abstractmethod
    def flush(self) -> Awaitable[None] | None:
        """Forget everything."""

    @abstractmethod
    def count(self) -> int | Awaitable[int]:
        """Units in the bucket."""

    @abstractmethod
    def peek(self, index: int) -> RateItem | Awaitable[RateItem | None] | None:
        """The item of the unit at `index`, 0 the newest; None if there is none."""

    def now(self) -> int | Awaitable[int]:
        """The time by this bucket's clock, in milliseconds."""
        return self._clock.now()

    def put_decision(self, item: RateItem) -> Decision | Awaitable[Decision]:
        """Put the item, and say what came of it."""
        admitted = self.put(item)
        return self._decided_later(admitted, item) if isawaitable(admitted) else self._decided(item)

    async def _decided_later(self, admitted: Awaitable[bool], item: RateItem) -> Decision:
        await admitted
        return self._decided(item)

    def _decided(self, item: RateItem) -> Decision:
        if self.failing_rate is None or item.weight == 0:
            return ADMITTED
        wait = self._last_wait
        known = wait is not None and wait[0] == item.weight
        return Decision(self.failing_rate, wait[1] - item.timestamp if known and wait is not None else None)

    def _note(self, item: RateItem, decision: Decision) -> Decision:
        """Note a decision, also on its item: calls that overlap do not take each other's wait then."""
        self.failing_rate = decision.failing_rate
        wait = decision.retry_after_ms
        self._last_wait = None if wait is None else (item.weight, item.timestamp + wait)
        try:  # noqa: SIM105
            item.noted = id(self), item.weight, item.timestamp, decision
        except AttributeError:  # an item of the user's own may have no room for it
            pass
        return decision

    def _noted(self, item: RateItem) -> tuple[int, Decision] | None:
        """What was decided last about the item as it is, and at which time stamp it was."""
        bucket, weight, timestamp, decision = getattr(item, "noted", None) or (0, 0, 0, None)
        return (timestamp, decision) if bucket == id(self) and weight == item.weight and decision is not None else None

    def waiting(self, item: RateItem) -> int | Awaitable[int]:
        """Milliseconds from the item's time stamp until it would be admitted; -1 if it never can, 0 after an admission.

        Raises AssertionError if its weight is not positive.
        """
        rate = self.failing_rate
        if rate is None:
            return 0
        if not item.weight > 0:
            raise AssertionError(f"weight must be positive, got {item.weight!r}")
        if item.weight > self._algorithm.max_weight(rate):
            return -1
        if self._last_wait is not None and self._last_wait[0] == item.weight:
            return max(0, self._last_wait[1] - item.timestamp)
        if not isinstance(self._algorithm, LogAlgorithm):
            return 0
        offset = self._algorithm.blocking_offset(rate, item.weight)
        if offset is None:
            return self._algorithm.retry_after(rate, item.timestamp, None)
        blocking = self.peek(offset)
        if isawaitable(blocking):
            return self._waiting_later(blocking, rate, item)
        return self._waiting_for(blocking, rate, item)

    async def _waiting_later(self, blocking: Awaitable[RateItem | None], rate: Rate, item: RateItem) -> int:
        return self._waiting_for(await blocking, rate, item)

    def _waiting_for(self, blocking: Any, rate: Rate, item: RateItem) -> int:
        algorithm: Any = self._algorithm
        wait: int = 0 if blocking is None else algorithm.retry_after(rate, item.timestamp, blocking.timestamp)
        return max(wait, 0)  # below 0 it would mean never

    def remaining(self) -> list[int]:
        """Permits left now, per rate in order of interval. Raises NotImplementedError where that is not known."""
        raise NotImplementedError(f"{type(self).__name__} cannot tell how many permits are left")

    def wait_time(self, weight: int = 1) -> float:
        """Seconds until `weight` permits would be admitted. Raises NotImplementedError where that is not known."""
        raise NotImplementedError(f"{type(self).__name__} cannot tell how long {weight} permits would wait")

    def scheduled(self) -> None:  # noqa: B027
        """Be told that a factory sees to the leaking of this bucket."""

    def limiter_lock(self) -> Any:
        """A lock that a limiter is to hold around its calls, None for none."""
        return None

    def close(self) -> None:  # noqa: B027
        """Let go of connections and files."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class BucketFactory(ABC):
    """Finds the bucket for each item, and sees to it that buckets leak. Subclasses need not call `__init__`."""

    _leaker: Leaker | None = None
    _leak_interval: int = 10_000

    @abstractmethod
    def wrap_item(self, name: str, weight: int = 1) -> RateItem | Awaitable[RateItem]:
        """The item for a call, with its time stamp."""

    @abstractmethod
    def get(self, item: RateItem) -> AbstractBucket | Awaitable[AbstractBucket]:
        """The bucket for an item."""

    @property
    def leak_interval(self) -> int:
        """Milliseconds between two leaks."""
        return self._leak_interval

    @leak_interval.setter
    def leak_interval(self, milliseconds: int) -> None:
        self._leak_interval = milliseconds
        if self._leaker is not None:
            self._leaker.leak_interval = milliseconds

    def create(self, bucket_class: type[AbstractBucket], *args: Any, **kwargs: Any) -> AbstractBucket:
        """Make a bucket, and schedule it."""
        bucket = bucket_class(*args, **kwargs)
        self.schedule_leak(bucket)
        return bucket

    def schedule_leak(self, new_bucket: AbstractBucket) -> None:
        """See to it that a bucket leaks, as long as this factory lives. Raises AssertionError if it has no rates."""
        if not new_bucket.rates:
            raise AssertionError(f"new_bucket must have rates, got {new_bucket!r}")
        if self._leaker is None:
            self._leaker = Leaker(self._leak_interval)
        self._leaker.register(new_bucket)
        new_bucket.scheduled()

    def get_buckets(self) -> list[AbstractBucket]:
        """The scheduled buckets, synchronous ones first."""
        return [] if self._leaker is None else self._leaker.buckets()

    def owned_buckets(self) -> list[AbstractBucket]:
        """The buckets that `close` closes."""
        return self.get_buckets()

    def dispose(self, bucket: int | AbstractBucket) -> bool:
        """Stop leaking a bucket, given itself or its id; say whether it was scheduled. It is not closed."""
        if not isinstance(bucket, (int, AbstractBucket)):
            raise AssertionError(f"bucket must be a bucket or its id, got {bucket!r}")
        number = bucket if isinstance(bucket, int) else id(bucket)
        return self._leaker is not None and self._leaker.deregister(number)

    def close(self) -> None:
        """Stop leaking, and close the buckets; errors of theirs are logged."""
        owned = list(self.owned_buckets())
        if self._leaker is not None:
            self._leaker.close()
        for bucket in owned:
            try:
                bucket.close()
            except Exception:  # noqa: PERF203
                Leaker.log.exception("closing %r failed", bucket)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_leaker"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def __reduce__(self) -> tuple[Any, ...]:
        return _arguments.newobj, (type(self),), self.__getstate__()

    def __del__(self) -> None:
        if self._leaker is not None:
            self._leaker.close()
