"""One line of tasks and threads in which the first alone asks, and sleeps until the answer may have changed."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from aiolimiter_fast._forking import deciding
from aiolimiter_fast._waiting.asyncio import running_loop

__all__ = ["Turns"]

# Seconds. The shortest sleep, so that a wait that floats cannot tell from 0 does not spin, and the longest of a thread
# at a time.
SHORTEST = 1e-6
LONGEST = 3600.0


class TaskTurn:
    """A task in line."""

    __slots__ = ("_future", "_loop")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()

    def wake(self) -> bool:
        """Let it ask again; False if its loop is closed."""
        if running_loop() is self._loop:
            self._resolve()
            return True
        try:
            self._loop.call_soon_threadsafe(self._resolve)
        except RuntimeError:
            return False
        return True

    def _resolve(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def sleep(self, seconds: float | None) -> None:
        timer = None if seconds is None else self._loop.call_later(max(seconds, SHORTEST), self._resolve)
        try:
            await self._future
        finally:
            if timer is not None:
                timer.cancel()

    def renew(self) -> None:
        """Be ready to sleep; a wake-up from here on is not lost."""
        if self._future.done():
            self._future = self._loop.create_future()


class ThreadTurn:
    """A thread in line."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def wake(self) -> bool:
        self._event.set()
        return True

    def sleep(self, seconds: float | None) -> None:
        self._event.wait(LONGEST if seconds is None else min(max(seconds, SHORTEST), LONGEST))

    def renew(self) -> None:
        self._event.clear()


class Turns:
    """Those who wait, in order of arrival.

    What is asked, `decide`, takes and gives 0, or takes nothing and gives the seconds until it is worth asking again.
    It is asked under `lock` by the first in line, at the moment when that goes on, so that nothing is ever taken for
    one who is gone.
    """

    __slots__ = ("_line", "_pid", "lock")

    def __init__(self) -> None:
        self.lock = deciding
        self._pid = os.getpid()
        self._line: OrderedDict[TaskTurn | ThreadTurn, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._line)

    def at_once(self, decide: Callable[[], float]) -> bool:
        """Take if nobody waits and there is something."""
        with self.lock:
            self._leave_parents()
            return not self._line and decide() == 0

    async def wait_task(self, decide: Callable[[], float], timeout: float | None, time: Callable[[], float]) -> bool:
        """Take, in a task; False at the end of `timeout` seconds."""
        turn = TaskTurn()
        deadline = None if timeout is None else time() + timeout
        try:
            while True:
                seconds = self._ask(turn, decide)
                if seconds == 0:
                    return True
                left = None if deadline is None else deadline - time()
                if left is not None and left <= 0:
                    return False
                await turn.sleep(_sooner(seconds, left))
        finally:
            self._leave(turn)

    def wait_thread(self, decide: Callable[[], float], timeout: float | None) -> bool:
        """Take, in a thread; False at the end of `timeout` seconds."""
        turn = ThreadTurn()
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while True:
                seconds = self._ask(turn, decide)
                if seconds == 0:
                    return True
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                turn.sleep(_sooner(seconds, left))
        finally:
            self._leave(turn)

    def wake(self) -> None:
        """Let the first ask again: something has changed."""
        with self.lock:
            while self._line:
                turn = next(iter(self._line))
                if turn.wake():
                    return
                del self._line[turn]

    def _ask(self, turn: TaskTurn | ThreadTurn, decide: Callable[[], float]) -> float | None:
        """0 if it was taken, and the turn is over; else how long to sleep, None until somebody wakes it."""
        with self.lock:
            turn.renew()
            self._leave_parents()
            self._line.setdefault(turn)
            if next(iter(self._line)) is not turn:
                return None
            seconds = decide()
            if seconds == 0:
                self._leave(turn)
            return seconds

    def _leave_parents(self) -> None:
        """Forget those who waited when this process was forked off: they wait elsewhere."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._line.clear()

    def _leave(self, turn: TaskTurn | ThreadTurn) -> None:
        with self.lock:
            if turn not in self._line:
                return
            was_first = next(iter(self._line)) is turn
            del self._line[turn]
            if was_first:
                self.wake()


def _sooner(seconds: float | None, left: float | None) -> float | None:
    if seconds is None or left is None:
        return left if seconds is None else seconds
    return min(seconds, left)
