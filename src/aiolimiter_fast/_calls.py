"""Calls on buckets of any kind: put, wait for as long as the bucket says, put again.

The steps are one generator for threads and for asyncio. It yields what its driver must wait for, an awaitable or a
Pause, and is resumed with what came of it. The limiter's lock is held within a step, never while waiting.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

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
    """The wait for those tasks that came to a bucket before."""

    __slots__ = ("bucket",)

    def __init__(self, bucket: Any) -> None:
        self.bucket = bucket


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
                acquired = lock.acquire(True, max(deadline - time.monotonic(), 0))
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
        if self.blocking:
            yield Turn(bucket)
        while not (yield from settled(bucket.put(item))):
            if not self.blocking:
                return False
            wait = yield from settled(bucket.waiting(item))
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

    def drive(self, steps: Steps, deadline: float | None) -> Any:
        began, value = time.monotonic(), None
        try:
            while True:
                left = -1 if deadline is None else max(deadline - time.monotonic(), 0)
                with combined_lock(self.limiter.lock, True, left):
                    step = steps.send(value)
                value = None
                if isinstance(step, Pause):
                    if step.seconds > 0:
                        self.sleep(step.seconds)
                elif not isinstance(step, Turn):
                    self.asynchronous = True
                    return self._continue(steps, step, deadline, began)
        except StopIteration as stop:
            admitted: bool = stop.value
        except Expired:
            steps.close()
            admitted = False
        self.limiter._note(admitted, int((time.monotonic() - began) * 1e9))
        return admitted

    async def drive_async(self, steps: Steps, deadline: float | None) -> bool:
        self.asynchronous = True
        return await self._continue(steps, None, deadline, time.monotonic())

    async def _continue(self, steps: Steps, step: Any, deadline: float | None, began: float) -> bool:
        turn = None
        try:
            while True:
                value = None
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                elif isinstance(step, Turn):
                    turn = await turn_at(step.bucket, deadline)
                elif step is not None:
                    value = await within(step, deadline)
                with combined_lock(self.limiter.lock, True):
                    step = steps.send(value)
        except StopIteration as stop:
            admitted: bool = stop.value
        except Expired:
            admitted = False
        finally:
            steps.close()
            if turn is not None:
                turn.release()
        self.limiter._note(admitted, int((time.monotonic() - began) * 1e9))
        return admitted


def settled(value: Any) -> Generator[Any, Any, Any]:
    """`value`, or what comes of it where it is awaitable."""
    while inspect.isawaitable(value):
        value = yield value
    return value


async def within(awaitable: Any, deadline: float | None) -> Any:
    """Await until a deadline at most; then raise Expired."""
    if deadline is None:
        return await awaitable
    left = max(deadline - time.monotonic(), 0)
    try:
        if sys.version_info >= (3, 11):
            async with asyncio.timeout(left):  # in this task: no turn of the loop is lost
                return await awaitable
        return await asyncio.wait_for(awaitable, left)
    except asyncio.TimeoutError as error:  # another class than TimeoutError before Python 3.11
        if time.monotonic() < deadline:
            raise  # the bucket's own
        raise Expired("the deadline has passed") from error


# Per loop and bucket, as long as somebody waits there.
turns: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[int, asyncio.Lock]] = WeakKeyDictionary()


async def turn_at(bucket: Any, deadline: float | None) -> asyncio.Lock:
    """Wait for the tasks of this loop that came to the bucket before; the caller releases what it gets."""
    locks = turns.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
    turn = locks.get(id(bucket))
    if turn is None:
        turn = locks[id(bucket)] = asyncio.Lock()
    await (within(turn.acquire(), deadline) if turn.locked() else turn.acquire())
    return turn
