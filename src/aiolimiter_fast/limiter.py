"""Limiter: one call for threads and one for asyncio, over buckets of any kind."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from math import ceil
from threading import RLock
from time import sleep
from typing import TYPE_CHECKING, Any, NamedTuple

from aiolimiter_fast import _arguments
from aiolimiter_fast._calls import Calls, combined_lock, lock_of
from aiolimiter_fast._engine import engine
from aiolimiter_fast._forking import forks
from aiolimiter_fast._gate import gate_of
from aiolimiter_fast._waiting.asyncio import running_loop
from aiolimiter_fast.abstracts.bucket import AbstractBucket, BucketFactory
from aiolimiter_fast.abstracts.rate import Rate, RateItem
from aiolimiter_fast.buckets.in_memory_bucket import MOST, InMemoryBucket
from aiolimiter_fast.clocks import MonotonicClock

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Counters", "Limiter", "SingleBucketFactory", "combined_lock"]

_time_sleep = sleep
# Seconds, beyond which a timeout is none: more than a hundred years.
LONGEST = 4e9
# How often a bucket is asked, where others are faster each time.
TRIES = 100


class Counters(NamedTuple):
    """What has come of a limiter's calls: admitted, refused, waiting now, and the seconds that they waited in all."""

    admitted: int
    refused: int
    waiting: int
    waited: float


class SingleBucketFactory(BucketFactory, engine.Watched):
    """Send every item to one bucket.

    Arguments:
        bucket: the bucket.
        schedule_leak: let this factory leak it, where it needs that.
    """

    def __init__(self, bucket: AbstractBucket, schedule_leak: bool = True) -> None:
        self.bucket = bucket
        if schedule_leak:
            self.schedule_leak(bucket)

    def wrap_item(self, name: str, weight: int = 1) -> Any:
        """The item, dated by the bucket's clock; awaitable where that clock is."""
        now = self.bucket.now()
        if isinstance(now, int):
            return RateItem(name, now, weight)
        return self._wrap_later(now, name, weight)

    @staticmethod
    async def _wrap_later(now: Any, name: str, weight: int) -> RateItem:
        return RateItem(name, await now, weight)

    def get(self, item: RateItem) -> AbstractBucket:
        """The bucket."""
        return self.bucket

    def owned_buckets(self) -> list[AbstractBucket]:
        """The bucket, scheduled or not, and what else is scheduled here."""
        return [self.bucket, *(bucket for bucket in super().owned_buckets() if bucket is not self.bucket)]


class Limiter(engine.Admission):
    """Limit how often code runs, by any number of rates at once, for threads and for asyncio.

    Arguments:
        argument: a Rate, a list of Rates, a bucket, or a factory that finds the bucket for each name.
        buffer_ms: milliseconds to wait beyond what a bucket says, where that is not exact. The waits of buckets in
            memory, shared or not, are exact to the nanosecond: nothing is added there.

    Those who wait at an in-memory bucket are served in order of arrival, threads and tasks alike, and those of one
    bucket never delay another. `blocking=False` decides at once; where something fits that the first in line has no
    room for, it may pass, until one limit's worth has. At other buckets tasks wait in order of arrival, threads as it
    comes.

    Raises AssertionError or ValueError for an argument that is none of these, or for rates that make no sense together.

    Example:
        from aiolimiter_fast import Duration, Limiter, Rate

        limiter = Limiter([Rate(10, Duration.SECOND), Rate(100, Duration.MINUTE)])
        assert limiter.try_acquire("somebody")
        assert limiter.remaining() == [9, 99]
    """

    bucket_factory: BucketFactory
    buffer_ms: int
    lock: Any

    def __init__(self, argument: Rate | list[Rate] | AbstractBucket | BucketFactory, buffer_ms: int = 50) -> None:
        milliseconds = _arguments.number("buffer_ms", buffer_ms)
        if milliseconds < 0:
            raise ValueError(f"buffer_ms must be 0 or more milliseconds, got {buffer_ms!r}")
        self.buffer_ms = buffer_ms
        self.lock = RLock()
        self._forks = forks()
        if isinstance(argument, Rate):
            argument = [argument]
        if isinstance(argument, list):
            if not argument:
                raise AssertionError("Rates must not be empty, got []")
            for rate in argument:
                if not isinstance(rate, Rate):
                    raise AssertionError(f"Not valid rates list: {rate!r} is no Rate")
            argument = InMemoryBucket(argument)
        if isinstance(argument, AbstractBucket):
            shared = argument.limiter_lock()
            if shared is not None:
                self.lock = (shared, self.lock)
            argument = SingleBucketFactory(argument)
        if not isinstance(argument, BucketFactory):
            raise AssertionError(f"Not a valid bucket/bucket-factory: {argument!r}")
        self.bucket_factory = argument

    # The calls. `try_acquire` and `try_acquire_async` are compiled; what they cannot decide at once comes here.

    def _acquire(self, name: str, weight: int, blocking: bool, timeout: float) -> Any:
        deadline = _deadline(blocking, timeout)
        if _units(weight) == 0:
            return True
        if not self._decide_path():
            return Calls(self, name, weight, bool(blocking) and timeout != 0, sleep).run(deadline)
        waits = bool(blocking) and timeout != 0
        decision = self._decide(name, min(weight, MOST), waits)
        if decision == 0 and waits:
            return self._block(name, weight, timeout)
        return decision == 1

    def _block(self, name: str, weight: int, timeout: float) -> Any:
        if sleep is not _time_sleep:  # replaced by somebody who wants to see or spare the waits
            return Calls(self, name, weight, True, sleep).run(_deadline(True, timeout))
        return self._sleep(name, weight, _nanoseconds(timeout))

    async def _acquire_async(self, name: str, weight: int, blocking: bool, timeout: float) -> bool:
        if weight == 0:
            return True
        deadline = _deadline(blocking, timeout)
        _units(weight)
        if not self._decide_path():
            return await Calls(self, name, weight, bool(blocking) and timeout != 0).run_async(deadline)
        admitted: bool = await self._wait(name, min(weight, MOST), bool(blocking), _nanoseconds(timeout))
        return admitted

    def _decide_path(self) -> bool:
        """See whether a call comes to nothing but the window log of one bucket, and let the engine know."""
        seen = self._look()
        factory = self.bucket_factory
        if not (_is_as_made(self, _LIMITER) and _is_as_made(factory, _FACTORY)):
            return False
        bucket = factory.bucket  # type: ignore[attr-defined]
        if not (isinstance(bucket, InMemoryBucket) and bucket._engine_decides()):
            return False
        if not _is_as_made(bucket, _BUCKET | bucket._overridden):
            return False
        clock = bucket._clock
        if type(clock) is MonotonicClock and _is_as_made(clock, _CLOCK):
            now_ns = None
        else:
            now_ns = getattr(clock, "now_ns", None)
            if now_ns is None:
                return False
        bucket._refresh()
        plain = _is_as_made(self, _CALL)
        self._rely(seen, bucket, now_ns, plain, self, factory, bucket, bucket._algorithm, clock)
        return True

    def handle_bucket_put(
        self,
        bucket: AbstractBucket,
        item: RateItem,
        blocking: bool,
        _force_async: bool = False,
        deadline: float | None = None,
    ) -> Any:
        """Put an item into a bucket, waiting until there is room if `blocking`.

        Arguments: deadline, an instant of `time.monotonic()`; None has no end.
        """
        calls = Calls(self, item.name, item.weight, blocking, sleep)
        steps = calls.put(bucket, item, deadline)
        return calls.drive_async(steps, deadline) if _force_async else calls.drive(steps, deadline)

    def as_decorator(
        self, *, name: str = "ratelimiter", weight: int = 1
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Make a decorator: each call of the function, sync or async, acquires first and waits for it.

        The call raises RuntimeError if the weight can never be admitted, or if a sync function would need an
        asynchronous bucket.
        """

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            if inspect.iscoroutinefunction(function):

                @functools.wraps(function)
                async def limited_async(*args: Any, **kwargs: Any) -> Any:
                    if not await self.try_acquire_async(name, weight):
                        raise RuntimeError(_never(name, weight))
                    return await function(*args, **kwargs)

                return limited_async

            return functools.wraps(function)(engine.Limited(self, function, name, weight))

        return decorate

    def _enter(self, name: str, weight: int) -> None:
        """Acquire for a decorated sync function."""
        admitted = self.try_acquire(name, weight)
        if admitted is False:
            raise RuntimeError(_never(name, weight))
        if admitted is not True:
            admitted.close()
            raise RuntimeError("Can't use async bucket with sync decorator")

    # What there is to know, and to change.

    @property
    def rates(self) -> list[Rate]:
        """The rates of the one bucket. Can be set while in use: the log stays, and those who wait are planned anew.

        Raises AttributeError where a factory of the user's own finds the buckets.
        """
        return self._only_bucket().rates

    @rates.setter
    def rates(self, rates: Rate | list[Rate]) -> None:
        self._only_bucket().rates = [rates] if isinstance(rates, Rate) else rates

    def pause_until(self, when: float, name: str = "pyrate") -> None:
        """Admit nobody before the instant `when`, as a 429 with Retry-After asks for. From any thread.

        Arguments:
            when: seconds, by the running loop's clock, or by `time.monotonic()` outside a loop; at most 1e9 from now.
            name: which bucket, where the limiter has several.

        Threads and tasks that wait go on waiting, in order. It never shortens a pause; `resume` does. After it the
        windows are as they would have been: what has left them makes room. At a bucket outside this process's memory
        the pause is this process's own.

        Raises ValueError or TypeError if `when` is no such number; NotImplementedError from an asynchronous factory.
        """
        self._state(self._bucket_of(name), _wait_until(when), 0)

    def resume(self, name: str = "pyrate") -> None:
        """End the pause, and forget what `sync` was told is left until a reset. From any thread."""
        bucket = self._bucket_of(name)
        if self._has_line(bucket):
            bucket._unstate()  # type: ignore[attr-defined]
        elif bucket._gate is not None:
            bucket._gate.clear()

    def drain(self, name: str = "pyrate") -> None:
        """Give up what room there is, as if it had been used now. From any thread.

        At a bucket outside this process's memory that counts for all who share it.

        Raises NotImplementedError where the bucket cannot tell what is left, or is asynchronous.
        """
        self._spend(self._bucket_of(name), name, 0)

    def sync(
        self,
        *,
        limit: float | None = None,
        remaining: float | None = None,
        reset: float | None = None,
        name: str = "pyrate",
    ) -> None:
        """State what a server allows, for those who read its headers themselves. From any thread.

        Arguments:
            limit: permits per interval, 1 or more, where the bucket has one rate, and that can be set. Its limit is no
                more, until the next `limit`, or until `rates` are set. It never rises above what it was set to.
            remaining: permits left now, 0 or more.
            reset: seconds until there are more, 0 to 1e9. It says nothing without `remaining`.
            name: which bucket, where the limiter has several.

        With `reset`, at most `remaining` permits are admitted until then; with 0 remaining, that is a pause. At a
        bucket outside this process's memory that holds for the calls of this process. Without, what room there is
        beyond `remaining` is given up, as `drain` does. Every statement is obeyed until its own reset, so one that
        comes late raises nothing. None says nothing.

        Raises ValueError or TypeError, naming argument, value and bound, for what makes no sense; NotImplementedError
        as `drain` does.
        """
        permits, seconds = _arguments.stated(limit, remaining, reset)
        bucket = self._bucket_of(name)
        if limit is not None:
            with combined_lock(lock_of(self), True):
                _lower(bucket, limit)
        if remaining is not None:
            left = int(min(permits, MOST))
            if reset is None:
                self._spend(bucket, name, left)
            else:
                self._state(bucket, ceil(seconds * 1e9), left)

    def _has_line(self, bucket: AbstractBucket) -> bool:
        """Whether all calls come to the bucket's own line, that knows of statements."""
        return self._decide_path() and isinstance(bucket, InMemoryBucket)

    def _state(self, bucket: Any, wait: int, left: int) -> None:
        if self._has_line(bucket):
            bucket._state(wait, left)
        elif wait > 0:
            gate_of(bucket).state(wait, left)

    def _spend(self, bucket: Any, name: str, left: int) -> None:
        """Enter as much as if all but `left` permits of what there is room for had been used."""
        if self._has_line(bucket):
            bucket._spend(str(name), left)
            return
        for _ in range(TRIES):  # others may be faster
            with combined_lock(lock_of(self), True):
                now = bucket.now()
                if bucket.is_async or inspect.isawaitable(now):
                    if inspect.iscoroutine(now):
                        now.close()
                    raise NotImplementedError("an asynchronous bucket cannot be drained from synchronous code")
                weight = min(bucket.remaining()) - left
                if weight <= 0 or bucket.put(RateItem(name, now, weight)):
                    return

    def wait_time(self, name: str = "pyrate", weight: int = 1) -> float:
        """Seconds until `weight` permits would be admitted, behind those who wait; inf if never. Takes nothing.

        Raises NotImplementedError where the bucket cannot tell, AssertionError or TypeError for a wrong weight.
        """
        if _units(weight) == 0:
            return 0.0
        bucket = self._bucket_of(name)
        wait = bucket.wait_time(weight)
        return wait if bucket._gate is None else max(wait, bucket._gate.wait(weight))

    def remaining(self, name: str = "pyrate") -> list[int]:
        """Permits left now, for each rate in order of interval. Takes nothing.

        Raises NotImplementedError where the bucket cannot tell.
        """
        bucket = self._bucket_of(name)
        remaining = bucket.remaining()
        return remaining if bucket._gate is None else [int(min(left, bucket._gate.left())) for left in remaining]

    @property
    def counters(self) -> Counters:
        """Calls admitted and refused so far, calls that wait now, and the seconds that calls have waited."""
        return Counters(*self._counts())

    def _bucket_of(self, name: str) -> AbstractBucket:
        factory = self.bucket_factory
        if isinstance(factory, SingleBucketFactory):
            return factory.get(RateItem(name, 0))
        item = factory.wrap_item(name, 1)
        bucket = item if inspect.isawaitable(item) else factory.get(item)
        if inspect.isawaitable(bucket):
            if inspect.iscoroutine(bucket):
                bucket.close()
            raise NotImplementedError("an asynchronous factory cannot be asked from synchronous code")
        return bucket

    def _only_bucket(self) -> AbstractBucket:
        if not isinstance(self.bucket_factory, SingleBucketFactory):
            raise AttributeError(f"the buckets of {self.bucket_factory!r} have rates of their own")
        return self.bucket_factory.bucket

    def buckets(self) -> list[AbstractBucket]:
        """The buckets that the factory has scheduled."""
        return self.bucket_factory.get_buckets()

    def dispose(self, bucket: int | AbstractBucket) -> bool:
        """Stop leaking a bucket, given itself or its id; say whether it was scheduled."""
        return self.bucket_factory.dispose(bucket)

    def close(self) -> None:
        """Close the buckets; an in-memory limiter goes on working."""
        self.bucket_factory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("lock", "_forks")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.lock = RLock()
        self._forks = forks()

    def __reduce__(self) -> tuple[Any, ...]:
        return _arguments.newobj, (type(self),), self.__getstate__()


def _deadline(blocking: bool, timeout: Any) -> float | None:
    """The instant of `time.monotonic()` at which the waiting ends; None if it does not, or if there is none."""
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
        raise TypeError(f"timeout must be a number of seconds, got {timeout!r}")
    if timeout == -1:
        return None
    if not timeout >= 0:
        raise ValueError(f"timeout must be -1 or >= 0, got {timeout!r}")
    if not blocking:
        raise RuntimeError(f"Can't set timeout with non-blocking: timeout={timeout!r}, blocking={blocking!r}")
    if timeout == 0:  # one try, however long that takes
        return None
    return time.monotonic() + min(timeout, LONGEST)


def _nanoseconds(timeout: float) -> int:
    return -1 if timeout == -1 else int(min(timeout, LONGEST) * 1e9)


def _wait_until(when: object) -> int:
    """Nanoseconds until an instant of the running loop's clock, or of the monotonic one."""
    instant = _arguments.number("when", when)
    loop = running_loop()
    now = time.monotonic() if loop is None else loop.time()
    _arguments.soon(instant, now)
    return round(max(instant, now) * 1e9) - round(now * 1e9)


def _lower(bucket: AbstractBucket, limit: float) -> None:
    """Let the bucket's one rate be no more than what the server allows."""
    if limit < 1:
        raise ValueError(f"limit must be at least 1 permit, got {limit!r}")
    rates = bucket.rates
    if len(rates) != 1:
        raise ValueError(f"limit={limit!r} does not say which of {rates!r} it is of: set `rates`")
    asked, lowered = bucket._lowered or (rates[0], rates[0])
    if lowered is not rates[0]:  # set since
        asked = rates[0]
    permits, burst = min(asked.limit, int(limit)), min(asked.burst, int(limit))
    if (permits, burst) == (asked.limit, asked.burst):
        lowered = asked
    elif (permits, burst) != (rates[0].limit, rates[0].burst):
        lowered = Rate(permits, asked.interval, burst)
    if lowered is not rates[0]:
        bucket.rates = [lowered]
    bucket._lowered = None if lowered is asked else (asked, lowered)


def _units(weight: Any) -> int:
    if not isinstance(weight, int) or isinstance(weight, bool):
        raise TypeError(f"weight must be a whole number, got {weight!r}")
    if weight < 0:
        raise AssertionError(f"weight must be >= 0, got {weight!r}")
    return weight


def _never(name: str, weight: int) -> str:
    return f"Rate limit for {name!r} can never admit weight={weight}; call denied."


def _as_made(owner: type, *names: str) -> dict[str, object]:
    return {name: getattr(owner, name) for name in names}


def _is_as_made(subject: object, methods: dict[str, object]) -> bool:
    """Whether nobody has overridden these methods: in a subclass, on the class, or on the object."""
    owner = type(subject)
    return methods.keys().isdisjoint(vars(subject)) and all(
        getattr(owner, name, None) is method for name, method in methods.items()
    )


_CALL = _as_made(Limiter, "try_acquire")
_LIMITER = _as_made(Limiter, "handle_bucket_put", "_acquire", "_acquire_async", "_block")
_FACTORY = _as_made(SingleBucketFactory, "wrap_item", "get")
_BUCKET = _as_made(InMemoryBucket, "now", "put", "put_decision", "waiting", "peek", "limiter_lock")
_CLOCK = _as_made(MonotonicClock, "now")
