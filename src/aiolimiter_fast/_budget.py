"""How long a call of a limiter may take, told to whatever bucket it ends at; and the threads for buckets that block."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TypeVar

__all__ = ["BUDGET", "MARGIN", "answer_within", "bounded", "deadline", "in_thread", "seconds_left"]

T = TypeVar("T")

# The instant of `time.monotonic()` at which the limiter's caller wants an answer; None if no timeout was given.
deadline: ContextVar[float | None] = ContextVar("aiolimiter_fast_deadline", default=None)

# Seconds that a backend has beyond the caller's timeout, and those that it has where there is none.
MARGIN = 0.05
BUDGET = 1.0
# Calls of blocking buckets that all event loops of this process make at once.
THREADS = 32

_executor: tuple[int, ThreadPoolExecutor] | None = None


def seconds_left(budget: float | None = None) -> float:
    """Seconds that a call of a backend may take: `budget`, else the caller's timeout and MARGIN, else BUDGET."""
    if budget is not None:
        return budget
    end = deadline.get()
    return BUDGET if end is None else max(end - time.monotonic(), 0) + MARGIN


@contextmanager
def answer_within(timeout: float | None) -> Iterator[None]:
    """Let calls of backends within a `with` block know the caller's timeout; None: there is none."""
    token = deadline.set(None if timeout is None else time.monotonic() + timeout)
    try:
        yield
    finally:
        deadline.reset(token)


async def bounded(awaitable: Awaitable[T], seconds: float) -> T:
    """Await for so many seconds at most; then cancel it, and raise TimeoutError (asyncio's before Python 3.11)."""
    if sys.version_info >= (3, 11):
        async with asyncio.timeout(seconds):  # in this task: no turn of the loop is lost
            return await awaitable
    return await _bounded(awaitable, seconds)


async def _bounded(awaitable: Awaitable[T], seconds: float) -> T:
    """For Python 3.10, whose `wait_for` swallows a cancellation that comes as the awaitable ends."""
    task = asyncio.current_task()
    assert task is not None
    is_late = False

    def end() -> None:
        nonlocal is_late
        is_late = True
        task.cancel()

    handle = asyncio.get_running_loop().call_later(seconds, end)
    try:
        return await awaitable
    except asyncio.CancelledError:
        if is_late:
            raise asyncio.TimeoutError from None
        raise
    finally:
        handle.cancel()


def in_thread(function: Callable[..., T], *args: object) -> asyncio.Future[T]:
    """Call a function that blocks, in a thread with the caller's context; the running loop goes on."""
    global _executor
    process = os.getpid()
    if _executor is None or _executor[0] != process:  # threads stay behind when a process forks
        _executor = process, ThreadPoolExecutor(THREADS, thread_name_prefix="aiolimiter_fast backend")
    call = partial(copy_context().run, function, *args)
    return asyncio.get_running_loop().run_in_executor(_executor[1], call)
