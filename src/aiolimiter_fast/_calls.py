"""Calls on buckets of any kind: put, wait for as long as the bucket says, put again.

The steps are one generator for threads and for asyncio. It yields what its driver must wait for, an awaitable or a
Pause, and is resumed with what came of it. The limiter's lock is held within a step, never while waiting.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from threading import TIMEOUT_MAX, RLock
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from aiolimiter_fast._budget import bounded, in_thread
from aiolimiter_fast._budget import deadline as call_deadline
from aiolimiter_fast._forking import deciding, forks
from aiolimiter_fast._gate import Gate

__all__ = ["Calls", "combined_lock"]

# Milliseconds between two tries at a bucket that denies and cannot say for how long.
LEAST_PAUSE = 1

Steps = Generator[Any, Any, bool]


class Pause:
    """A wait, in seconds."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Turn:
    """The wait for those tasks that came to a bucket before; resumed with whether there were any."""

    __slots__ = ("bucket",)

    def __init__(self, bucket: Any) -> None:
        self.bucket = bucket


class Wait:
    """Counts for how long a call waits, and that it does."""

    __slots__ = ("began", "limiter", "nanoseconds")

    def __init__(self, limiter: Any) -> None:
        self.limiter = limiter
        self.nanoseconds = 0

    def __enter__(self) -> None:
        self.limiter._pause(1)
        self.began = time.monotonic_ns()

    def __exit__(self, *exc: object) -> None:
        self.nanoseconds += time.monotonic_ns() - self.began
        self.limiter._pause(-1)


class Blocking:
    """A call of a bucket that blocks while others may go on: made without the lock, and outside the loop's thread."""

    __slots__ = ("function", "item")

    def __init__(self, function: Callable[[Any], Any], item: Any) -> None:
        self.function = function
        self.item = item


class Held:
    """The wait for what a bucket's gate lets in; resumed with whether it did before the deadline."""

    __slots__ = ("gate", "weight")

    def __init__(self, gate: Gate, weight: int) -> None:
        self.gate = gate
        self.weight = weight


class Bounded:
    """Something to await that sees to the deadline itself."""

    __slots__ = ("awaitable",)

    def __init__(self, awaitable: Any) -> None:
        self.awaitable = awaitable


def lock_of(limiter: Any) -> Any:
    """The limiter's lock; a new one in a forked child: the old one may be held by a thread that did not come along."""
    if limiter.__dict__.get("_forks") != forks():
        with deciding:
            if limiter.__dict__.get("_forks") != forks():
                if isinstance(limiter.lock, tuple):
                    limiter.lock = tuple(map(_renewed, limiter.lock))
                else:
                    limiter.lock = _renewed(limiter.lock)
                limiter._forks = forks()
    return limiter.lock


def _renewed(lock: Any) -> Any:
    return RLock() if type(lock) is type(deciding) else lock


class Expired(TimeoutError):
    """The deadline of a call has passed."""


@contextmanager
def combined_lock(locks: Any, blocking: bool, timeout: float = -1) -> Iterator[None]:
    """Hold one lock, or several, for the length of a `with` block.

    Arguments: timeout, seconds for all of them together; -1 has no end.

    Raises TimeoutError, holding none of them, if one cannot be had.
    """
    deadline = None if timeout == -1 else time.monotonic() + timeout
    held: list[Any] = []
    try:
        for lock in locks if isinstance(locks, Iterable) else (locks,):
            if not blocking:
                acquired = lock.acquire(False)
            elif deadline is None:
                acquired = lock.acquire()
            else:
                acquired = lock.acquire(True, min(max(deadline - time.monotonic(), 0), TIMEOUT_MAX))
            if not acquired:
                raise Expired(f"{lock!r} is held by somebody else")
            held.append(lock)
        yield
    finally:
        for lock in reversed(held):
            lock.release()


class Calls:
    """One call of a limiter: its arguments, its steps, and the two ways to drive them."""

    __slots__ = ("asynchronous", "blocking", "limiter", "name", "sleep", "weight")

    def __init__(
        self, limiter: Any, name: str, weight: int, blocking: bool, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.limiter = limiter
        self.sleep = sleep
        self.name = name
        self.weight = weight
        self.blocking = blocking
        self.asynchronous = False

    def run(self, deadline: float | None) -> Any:
        """Acquire in this thread; an awaitable where factory or bucket are asynchronous."""
        return self.drive(self.acquire(deadline), deadline)

    async def run_async(self, deadline: float | None) -> bool:
        """Acquire in this task."""
        return await self.drive_async(self.acquire(deadline), deadline)

    def acquire(self, deadline: float | None) -> Steps:
        """Find the bucket, and put the item there."""
        factory = self.limiter.bucket_factory
        item = yield from settled(factory.wrap_item(self.name, self.weight))
        bucket = yield from settled(factory.get(item))
        return (yield from self.put(bucket, item, deadline))

    def put(self, bucket: Any, item: Any, deadline: float | None) -> Steps:
        """Put the item, again and again where the call may wait; say whether it was admitted."""
        if self.blocking and self.asynchronous and (yield Turn(bucket)):
            fresh = yield from settled(self.limiter.bucket_factory.wrap_item(item.name, item.weight))
            item.timestamp = fresh.timestamp
        while not (yield from self.put_once(bucket, item)):
            if not self.blocking:
                return False
            wait = yield from asked(bucket, bucket.waiting, item)
            if wait == -1:  # it never fits
                return False
            buffer = 0 if getattr(bucket, "exact_wait", False) else self.limiter.buffer_ms
            pause = max(max(wait, 0) + buffer, LEAST_PAUSE)
            if deadline is not None and deadline - time.monotonic() < pause / 1000:
                yield Pause(max(deadline - time.monotonic(), 0))
                return False
            yield Pause(pause / 1000)
            fresh = yield from settled(self.limiter.bucket_factory.wrap_item(item.name, item.weight))
            # A thread counts on having slept as long as it meant to, even if the clock stands still.
            item.timestamp = fresh.timestamp if self.asynchronous else max(item.timestamp + pause, fresh.timestamp)
        return True

    def put_once(self, bucket: Any, item: Any) -> Steps:
        """Put the item, if need be when the bucket's gate lets it in."""
        gate: Gate | None = getattr(bucket, "_gate", None)
        if gate is None:
            return bool((yield from asked(bucket, bucket.put, item)))
        made = gate.made
        if not gate.enter(item.weight):
            if not self.blocking or not (yield Held(gate, item.weight)):
                raise Expired("the bucket's gate is closed")
            fresh = yield from settled(self.limiter.bucket_factory.wrap_item(item.name, item.weight))
            item.timestamp = fresh.timestamp
        admitted = False
        try:
            admitted = bool((yield from asked(bucket, bucket.put, item)))
        finally:
            if not admitted:
                gate.leave(item.weight, made)
        return admitted

    def drive(self, steps: Steps, deadline: float | None) -> Any:
        value = None
        wait = Wait(self.limiter)
        outer = call_deadline.get()
        call_deadline.set(deadline)
        try:
            while True:
                left = -1 if deadline is None else max(deadline - time.monotonic(), 0)
                with combined_lock(lock_of(self.limiter), True, left):
                    step = steps.send(value)
                value = None
                if isinstance(step, Pause):
                    with wait:
                        if step.seconds > 0:
                            self.sleep(step.seconds)
                elif isinstance(step, Blocking):
                    value = step.function(step.item)
                elif isinstance(step, Held) and not self.asynchronous:
                    with wait:
                        value = step.gate.enter_later(step.weight, _left(deadline))
                else:
                    self.asynchronous = True
                    return self._continue(steps, step, deadline)
        except StopIteration as stop:
            admitted: bool = stop.value
        except Expired:
            steps.close()
            admitted = False
        finally:
            call_deadline.set(outer)
        self.limiter._note(admitted, wait.nanoseconds)
        return admitted

    async def drive_async(self, steps: Steps, deadline: float | None) -> bool:
        self.asynchronous = True
        return await self._continue(steps, None, deadline)

    async def _continue(self, steps: Steps, step: Any, deadline: float | None) -> bool:
        wait = Wait(self.limiter)
        queue: Queue | None = None
        has_turn = False
        outer = call_deadline.get()
        call_deadline.set(deadline)
        try:
            while True:
                value = None
                if isinstance(step, Pause):
                    with wait:
                        await asyncio.sleep(step.seconds)
                elif isinstance(step, Turn):
                    with wait:
                        await queue.join(deadline)  # type: ignore[union-attr]
                    value = has_turn = True
                elif isinstance(step, Blocking):
                    value = await in_thread(step.function, step.item)
                elif isinstance(step, Bounded):
                    value = await step.awaitable
                elif isinstance(step, Held):
                    with wait:
                        value = await step.gate.enter_later_async(step.weight, _left(deadline))
                elif step is not None:
                    value = await within(step, deadline)
                with combined_lock(lock_of(self.limiter), True):
                    step = steps.send(value)
                    if isinstance(step, Turn):
                        queue = queue_at(step.bucket)
                        has_turn = queue.enter()
                        if has_turn:
                            step = steps.send(False)
        except StopIteration as stop:
            admitted: bool = stop.value
        except Expired:
            admitted = False
        finally:
            call_deadline.set(outer)  # not by a token: a coroutine may be closed in another context
            steps.close()
            if has_turn:
                queue.leave()  # type: ignore[union-attr]
        self.limiter._note(admitted, wait.nanoseconds)
        return admitted


def _left(deadline: float | None) -> float | None:
    """Seconds until a deadline."""
    return None if deadline is None else max(deadline - time.monotonic(), 0)


def settled(value: Any, kind: Callable[[Any], Any] = lambda awaitable: awaitable) -> Generator[Any, Any, Any]:
    """`value`, or what comes of it where it is awaitable."""
    while inspect.isawaitable(value):
        try:
            value = yield kind(value)
        except GeneratorExit:  # noqa: PERF203  # nobody is going to await it
            if inspect.iscoroutine(value):
                value.close()
            raise
    return value


def asked(bucket: Any, method: Callable[[Any], Any], item: Any) -> Generator[Any, Any, Any]:
    """What a bucket says of an item, in the way that the bucket wants to be asked."""
    value = (yield Blocking(method, item)) if getattr(bucket, "blocks", False) else method(item)
    if getattr(bucket, "keeps_budget", False):
        return (yield from settled(value, Bounded))
    return (yield from settled(value))


async def within(awaitable: Any, deadline: float | None) -> Any:
    """Await until a deadline at most; then raise Expired."""
    if deadline is None:
        return await awaitable
    try:
        return await bounded(awaitable, max(deadline - time.monotonic(), 0))
    except asyncio.TimeoutError as error:  # another class than TimeoutError before Python 3.11
        if time.monotonic() < deadline:
            raise  # the bucket's own
        raise Expired("the deadline has passed") from error


class Queue:
    """The tasks of one loop that want one bucket: so many have it, the others wait in order of arrival."""

    __slots__ = ("__weakref__", "free", "waiters")

    def __init__(self, places: int) -> None:
        self.free = places
        self.waiters: deque[asyncio.Future[None]] = deque()

    def enter(self) -> bool:
        """Take a turn if there is one free; nobody waits then."""
        if not self.free:
            return False
        self.free -= 1
        return True

    async def join(self, deadline: float | None) -> None:
        """Wait until those who came before have left."""
        future = asyncio.get_running_loop().create_future()
        self.waiters.append(future)
        try:
            await within(future, deadline)
        except BaseException:
            if future.done() and not future.cancelled():  # it had its turn already
                self.leave()
            elif future in self.waiters:  # `leave` may have passed over it already
                self.waiters.remove(future)
            raise

    def leave(self) -> None:
        """Hand the turn on."""
        while self.waiters:
            future = self.waiters.popleft()
            if not future.done():
                future.set_result(None)
                return
        self.free += 1


# Per loop and bucket, as long as somebody is there.
queues: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[int, Queue]] = WeakKeyDictionary()


def queue_at(bucket: Any) -> Queue:
    here = queues.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
    queue = here.get(id(bucket))
    if queue is None:
        queue = here[id(bucket)] = Queue(getattr(bucket, "tries_at_once", 1))
    return queue
