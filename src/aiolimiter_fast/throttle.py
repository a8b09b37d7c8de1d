"""Throttle: at most N at once and at most R per second, in one object."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Generator, Hashable
from typing import Any, TypeVar, overload

from aiolimiter_fast import _arguments
from aiolimiter_fast._permits import Permits, is_limiter
from aiolimiter_fast._waiting.asyncio import running_loop

__all__ = ["Place", "Throttle", "whole_number"]

F = TypeVar("F", bound=Callable[..., Any])


class TaskWaiter:
    """A task in line."""

    __slots__ = ("away", "future", "loop", "slot")

    def __init__(self) -> None:
        self.slot = False  # one is kept for it
        self.away = False  # it waits for a permit, and holds no slot
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] | None = None

    def wake(self) -> bool:
        """Let it run on; False if nobody is left to run."""
        if self.future is None:
            return True
        if running_loop() is self.loop:
            self._resolve(self.future)
            return True
        try:
            self.loop.call_soon_threadsafe(self._resolve, self.future)
        except RuntimeError:  # closed
            return False
        return True

    @staticmethod
    def _resolve(future: asyncio.Future[None]) -> None:
        if not future.done():
            future.set_result(None)


class ThreadWaiter:
    """A thread in line."""

    __slots__ = ("away", "gate", "slot")

    def __init__(self) -> None:
        self.slot = self.away = False
        self.gate = threading.Lock()
        self.gate.acquire()

    def wake(self) -> bool:
        self.gate.release()
        return True


class Line:
    """Those of one key, in order of arrival. The first alone asks for a slot, then for a permit."""

    __slots__ = ("key", "permits", "running", "waiting")

    def __init__(self, key: Hashable, permits: Permits | None) -> None:
        self.key = key
        self.permits = permits
        self.running = 0  # with the slot that is kept for the first in line
        self.waiting: OrderedDict[TaskWaiter | ThreadWaiter, None] = OrderedDict()


class Permit:
    """Await a limiter, holding a slot whenever it decides, and none while it makes one wait.

    What comes of it is whether the permit was taken. If it was not, since no slot was free at the moment when it was
    granted, then it was given back.
    """

    __slots__ = ("awaitable", "line", "throttle", "waiter")

    def __init__(self, throttle: Throttle, line: Line, waiter: TaskWaiter, awaitable: Any) -> None:
        self.throttle = throttle
        self.line = line
        self.waiter = waiter
        self.awaitable = awaitable

    def __await__(self) -> Generator[Any, Any, bool]:
        steps = self.awaitable.__await__()
        while True:
            try:
                step = next(steps)
            except StopIteration:
                return True
            self.throttle._step_aside(self.line, self.waiter)
            try:
                yield step
            except BaseException:
                steps.close()
                raise
            if not self.throttle._come_back(self.line, self.waiter):
                steps.close()
                self.throttle._queue_again(self.line, self.waiter)
                return False


class Throttle:
    """Let at most N run at once, and at most R per second start: for tasks and for threads.

    Arguments:
        limiter: what the permits come from, an AsyncLimiter, a Limiter, or any object with an async `acquire()` or
            `wait()`; or a function that makes one for a key. None: no rate.
        max_concurrent: how many run at once, 1 or more, for all keys together; None: any number.
        key: a function of a decorated function's arguments, or of a batch's item, that says which key it belongs to.
        max_per_key: how many of one key run at once, 1 or more; None: any number.
        max_keys: for how many keys that are not in use the limiters that were made for them are kept, 1 or more.

    A permit is taken at the moment when the work starts, its slot in hand; it is not dated from the wait for a slot.
    Those of one key start strictly in order of arrival. Who waits for a permit holds no slot meanwhile, so that a slow
    key does not hold up another; free slots go round the keys. (A limiter that is not of this package may lose what it
    grants to one who is gone, so the first of each key holds a slot while it waits there; so it does where the buckets
    are not in memory.) Slot and permit are given back if a task is cancelled between its grant and its start.

    An idle key is forgotten as soon as its limiter is as good as new; of those beyond `max_keys` that which was idle
    longest, whose limiter then starts anew. A Limiter is asked under the key as its name.

    Use it as `async with throttle:` or `with throttle:`, with `throttle.at(key, amount)` in place of `throttle` for a
    key or another amount, or as a decorator of async and of plain functions.

    Raises ValueError or TypeError, naming argument, value and bound, for what makes no sense.

    Example:
        import asyncio
        from aiolimiter_fast import AsyncLimiter, Throttle

        throttle = Throttle(lambda host: AsyncLimiter(5, 1), max_concurrent=20, key=lambda host, page: host)

        @throttle
        async def fetch(host, page):
            return f"{host}/{page}"

        async def main():
            return await asyncio.gather(*(fetch(host, page) for host in ("a", "b") for page in range(3)))

        assert asyncio.run(main()) == ["a/0", "a/1", "a/2", "b/0", "b/1", "b/2"]
    """

    __slots__ = (
        "__weakref__", "_free", "_idle", "_key", "_limiter", "_lines", "_lock", "_makes", "_max_concurrent",
        "_max_keys", "_max_per_key", "_permits", "_ready",
    )  # fmt: skip

    def __init__(
        self,
        limiter: Any = None,
        max_concurrent: int | None = None,
        *,
        key: Callable[..., Hashable] | None = None,
        max_per_key: int | None = None,
        max_keys: int = 10_000,
    ) -> None:
        if limiter is not None and not is_limiter(limiter) and (isinstance(limiter, type) or not callable(limiter)):
            raise TypeError(f"limiter must be a limiter, or a function that makes one for a key, got {limiter!r}")
        if key is not None and not callable(key):
            raise TypeError(f"key must be a function, got {key!r}")
        self._max_concurrent = None if max_concurrent is None else whole_number("max_concurrent", max_concurrent)
        self._max_per_key = None if max_per_key is None else whole_number("max_per_key", max_per_key)
        self._max_keys = whole_number("max_keys", max_keys)
        self._free: float = math.inf if max_concurrent is None else max_concurrent
        self._limiter: Any = limiter
        self._makes = limiter is not None and not is_limiter(limiter)
        self._key = key
        self._permits = None if limiter is None or self._makes else Permits(limiter)
        # Held for a decision, never while waiting. A line is in `_lines` while somebody runs or waits there, and in
        # `_idle`, in the order in which they came to rest, while nobody does but its limiter is not as new.
        self._lock = threading.RLock()
        self._lines: dict[Hashable, Line] = {}
        self._idle: OrderedDict[Hashable, Line] = OrderedDict()
        # Lines whose first waits for a slot, in turn. Empty if a slot is free.
        self._ready: OrderedDict[Line, None] = OrderedDict()

    # What there is to know, and to change.

    @property
    def max_concurrent(self) -> int | None:
        """How many run at once. Can be set while in use: those who run go on, and the next start accordingly."""
        return self._max_concurrent

    @max_concurrent.setter
    def max_concurrent(self, value: int | None) -> None:
        count = None if value is None else whole_number("max_concurrent", value)
        with self._lock:
            held = sum(line.running for line in self._lines.values())
            self._max_concurrent = count
            self._free = math.inf if count is None else count - held
            self._deal()

    @property
    def running(self) -> int:
        """How many run now."""
        with self._lock:
            kept = sum(next(iter(line.waiting)).slot for line in self._lines.values() if line.waiting)
            return sum(line.running for line in self._lines.values()) - kept

    @property
    def waiting(self) -> int:
        """How many wait now, for a slot or for a permit."""
        with self._lock:
            return sum(len(line.waiting) for line in self._lines.values())

    @property
    def keys(self) -> int:
        """How many keys are remembered now."""
        with self._lock:
            return len(self._lines) + len(self._idle)

    def limiter_at(self, key: Hashable = None) -> Any:
        """The limiter of a key; None if there is none, or it was not made yet, or is forgotten."""
        with self._lock:
            line = self._lines.get(key) or self._idle.get(key)
            permits = self._permits if line is None else line.permits
            return None if permits is None else permits.limiter

    def key_of(self, *args: Any, **kwargs: Any) -> Hashable:
        """The key of a call with these arguments; None if the throttle knows no keys."""
        return None if self._key is None else self._key(*args, **kwargs)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__}({self._limiter!r}, max_concurrent={self._max_concurrent!r})"
            f" [running: {self.running}, waiting: {self.waiting}]>"
        )

    # The ways in.

    def at(self, key: Hashable = None, amount: float = 1) -> Place:
        """The throttle for one key, for `async with` and `with`; each entry takes `amount` permits.

        Raises ValueError or TypeError if amount is no number of permits, or key is not hashable.
        """
        hash(key)
        _arguments.amount(amount)
        return Place(self, key, amount)

    def __aenter__(self) -> Coroutine[Any, Any, None]:
        return self.enter()

    async def __aexit__(self, *exc: object) -> None:
        self.leave()

    def __enter__(self) -> None:
        self.enter_blocking()

    def __exit__(self, *exc: object) -> None:
        self.leave()

    @overload
    def __call__(self, function: F, /, *, amount: float | Callable[..., float] = 1) -> F: ...

    @overload
    def __call__(self, function: None = None, /, *, amount: float | Callable[..., float] = 1) -> Callable[[F], F]: ...

    def __call__(self, function: Any = None, /, *, amount: float | Callable[..., float] = 1) -> Any:
        """Throttle a function, async or plain: each call enters, runs and leaves.

        Argument: amount, permits for each call, or a function of the call's arguments that says how many.
        """
        if not callable(amount):
            _arguments.amount(amount)
        if function is None:
            return functools.partial(self, amount=amount)
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function) or not callable(function):
            raise TypeError(f"a throttle decorates functions, async or plain, got {function!r}")

        target: Any = function

        def permits(args: Any, kwargs: Any) -> Any:
            return amount(*args, **kwargs) if callable(amount) else amount

        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):

            @functools.wraps(function)
            async def throttled_async(*args: Any, **kwargs: Any) -> Any:
                key = self.key_of(*args, **kwargs)
                await self.enter(key, permits(args, kwargs))
                try:
                    return await target(*args, **kwargs)
                finally:
                    self.leave(key)

            return throttled_async

        @functools.wraps(function)
        def throttled(*args: Any, **kwargs: Any) -> Any:
            key = self.key_of(*args, **kwargs)
            self.enter_blocking(key, permits(args, kwargs))
            try:
                return target(*args, **kwargs)
            finally:
                self.leave(key)

        return throttled

    async def enter(self, key: Hashable = None, amount: float = 1) -> None:
        """Wait for slot and permits in a task; `leave(key)` must follow. `async with` is the safer way."""
        with self._lock:
            line = self._line(key)
            if self._start_at_once(line, amount):
                return
            waiter = TaskWaiter()
            self._join(line, waiter)
        try:
            while True:
                while not waiter.slot:
                    await self._slot(waiter)
                permits = line.permits
                if permits is None or (permits.take is not None and permits.take(amount)):
                    break
                if not permits.gives_back:
                    await permits.acquire(amount)
                    break
                if await Permit(self, line, waiter, permits.acquire(amount)):
                    break
        except BaseException:
            self._give_up(line, waiter)
            raise
        self._start(line, waiter)

    def enter_blocking(self, key: Hashable = None, amount: float = 1) -> None:
        """Wait for slot and permits in a thread; `leave(key)` must follow. `with` is the safer way.

        Raises TypeError if only tasks can wait for this limiter.
        """
        with self._lock:
            line = self._line(key)
            permits = line.permits
            if permits is not None and permits.wait_time is None and permits.block is None:
                self._rest(line)
                raise TypeError(f"threads cannot wait for {self._limiter!r}")
            if self._start_at_once(line, amount):
                return
            waiter = ThreadWaiter()
            self._join(line, waiter)
        try:
            while True:
                waiter.gate.acquire()
                if permits is None or (permits.take is not None and permits.take(amount)):
                    break
                if permits.block is not None and permits.wait_time is None:
                    permits.block(amount)
                    break
                seconds = permits.pause(amount)
                self._step_aside(line, waiter)
                time.sleep(seconds)
                self._queue_again(line, waiter)
        except BaseException:
            self._give_up(line, waiter)
            raise
        self._start(line, waiter)

    def leave(self, key: Hashable = None) -> None:
        """Give the slot back."""
        with self._lock:
            line = self._lines.get(key)
            if line is None or line.running < 1:
                raise RuntimeError(f"nobody has entered at key {key!r}")
            self._free_slot(line)

    # Below, the lock is held, or taken where the name of the method says what a waiter does.

    def _line(self, key: Hashable) -> Line:
        line = self._lines.get(key)
        if line is not None:
            return line
        line = self._idle.pop(key, None)
        if line is None:
            permits = self._permits
            if self._makes:
                made = self._limiter(key)
                permits = made if isinstance(made, Permits) else Permits(made)
            elif permits is not None and permits.is_named and key is not None:
                permits = Permits(self._limiter, key)
            line = Line(key, permits)
        self._lines[key] = line
        return line

    def _start_at_once(self, line: Line, amount: float) -> bool:
        """Start one who meets nobody in its line, where slot and permit are there; else change nothing."""
        try:
            if line.waiting or not self._has_slot(line):
                return False
            permits = line.permits
            if permits is not None and (permits.take is None or not permits.take(amount)):
                return False
        except BaseException:
            self._rest(line)
            raise
        line.running += 1
        self._free -= 1
        return True

    def _has_slot(self, line: Line) -> bool:
        return self._free > 0 and (self._max_per_key is None or line.running < self._max_per_key)

    def _join(self, line: Line, waiter: TaskWaiter | ThreadWaiter) -> None:
        line.waiting[waiter] = None
        if len(line.waiting) == 1:
            self._serve(line)

    def _serve(self, line: Line) -> None:
        """Keep a slot for the first in line, or note that it wants one."""
        while line.waiting:
            first = next(iter(line.waiting))
            if first.slot or first.away or (self._free > 0 and not self._has_slot(line)):
                return  # the next of this key to finish serves it
            if not self._has_slot(line):
                self._ready[line] = None
                return
            self._keep_slot(line, first)
            if first.wake():
                return
            first.slot = False
            line.running -= 1
            self._free += 1
            del line.waiting[first]
        self._rest(line)

    def _keep_slot(self, line: Line, waiter: TaskWaiter | ThreadWaiter) -> None:
        waiter.slot = True
        line.running += 1
        self._free -= 1

    def _free_slot(self, line: Line) -> None:
        line.running -= 1
        self._free += 1
        if self._ready and line.waiting:
            self._ready[line] = None  # behind the others
        self._deal()
        self._serve(line)

    def _deal(self) -> None:
        """Give free slots to the lines in turn."""
        while self._free > 0 and self._ready:
            line, _ = self._ready.popitem(last=False)
            self._serve(line)

    def _rest(self, line: Line) -> None:
        """Forget a line where nobody is, unless its limiter would be missed, or it is the one without a key."""
        if line.waiting or line.running or line.key is None:
            return
        self._ready.pop(line, None)
        if self._lines.get(line.key) is not line:
            return
        del self._lines[line.key]
        if not self._makes or _is_fresh(line):
            return
        self._idle[line.key] = line
        while len(self._idle) > self._max_keys or (self._idle and _is_fresh(next(iter(self._idle.values())))):
            self._idle.popitem(last=False)

    def _slot(self, waiter: TaskWaiter) -> Any:
        """What a task waits for until a slot is kept for it."""
        with self._lock:
            waiter.future = waiter.loop.create_future()
            if waiter.slot:
                waiter.future.set_result(None)
            return waiter.future

    def _step_aside(self, line: Line, waiter: TaskWaiter | ThreadWaiter) -> None:
        """The first in line waits for a permit: others may have its slot."""
        with self._lock:
            waiter.slot, waiter.away = False, True
            self._free_slot(line)

    def _come_back(self, line: Line, waiter: TaskWaiter | ThreadWaiter) -> bool:
        """The first in line is about to get its permit: have a slot at once, or say that there is none."""
        with self._lock:
            if not self._has_slot(line):
                return False
            waiter.away = False
            self._keep_slot(line, waiter)
            return True

    def _queue_again(self, line: Line, waiter: TaskWaiter | ThreadWaiter) -> None:
        with self._lock:
            waiter.away = False
            if isinstance(waiter, TaskWaiter):
                waiter.future = None
            self._serve(line)

    def _give_up(self, line: Line, waiter: TaskWaiter | ThreadWaiter) -> None:
        with self._lock:
            if waiter in line.waiting:
                del line.waiting[waiter]
            if waiter.slot:
                self._free_slot(line)
            else:
                self._serve(line)

    def _start(self, line: Line, waiter: TaskWaiter | ThreadWaiter) -> None:
        with self._lock:
            del line.waiting[waiter]
            self._serve(line)


class Place:
    """A throttle for one key and amount, as `Throttle.at` gives it; may be entered any number of times."""

    __slots__ = ("amount", "key", "throttle")

    def __init__(self, throttle: Throttle, key: Hashable, amount: float) -> None:
        self.throttle = throttle
        self.key = key
        self.amount = amount

    def __aenter__(self) -> Coroutine[Any, Any, None]:
        return self.throttle.enter(self.key, self.amount)

    async def __aexit__(self, *exc: object) -> None:
        self.throttle.leave(self.key)

    def __enter__(self) -> None:
        self.throttle.enter_blocking(self.key, self.amount)

    def __exit__(self, *exc: object) -> None:
        self.throttle.leave(self.key)


def _is_fresh(line: Line) -> bool:
    permits = line.permits
    return permits is None or (permits.is_fresh is not None and permits.is_fresh())


def whole_number(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    return value
