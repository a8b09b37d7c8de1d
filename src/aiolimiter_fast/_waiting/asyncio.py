"""Event loops: which clock a loop has, and the one timer that each gets."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import time
from types import BuiltinFunctionType
from typing import Any
from weakref import WeakKeyDictionary, ref

running_loop = asyncio._get_running_loop


def has_stock_clock(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop's class reads the monotonic clock, as asyncio and uvloop do.

    A `time` set on the loop object itself is the timer's to notice, since it may come and go.
    """
    if not isinstance(time.monotonic, BuiltinFunctionType):  # somebody replaced it, freezegun for one
        return False
    method = getattr(type(loop), "time", None)
    uvloop = sys.modules.get("uvloop")
    return method is asyncio.BaseEventLoop.time or (uvloop is not None and method is uvloop.loop.Loop.time)


class LoopTimers:
    """The timers of one engine, by loop."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        # Weak on both sides: a timer's waiters lead to its loop. The loop holds the timer, through what it calls.
        self._timers: WeakKeyDictionary[asyncio.AbstractEventLoop, ref[Any]] = WeakKeyDictionary()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def __call__(self, loop: asyncio.AbstractEventLoop) -> Any:
        known = self._timers.get(loop)
        timer = None if known is None else known()
        if timer is None:
            timer = self._engine.LoopTimer(loop, has_stock_clock(loop))
            self._add_timerfd(loop, timer)
            self._timers[loop] = ref(timer)
        return timer

    def _add_timerfd(self, loop: asyncio.AbstractEventLoop, timer: Any) -> None:
        """Give the timer a descriptor where the system and the loop have that; else it uses `call_at`."""
        if not has_stock_clock(loop):
            return
        try:
            timerfd = self._engine.TimerFd(timer)
        except OSError:
            return
        try:
            # In an empty context, so that the loop does not hold on to the first caller's variables.
            contextvars.Context().run(loop.add_reader, timerfd.fileno(), timerfd)
        except (NotImplementedError, OSError):
            timerfd.disown()

    def _forked(self) -> None:
        self._engine.forked()
        self._timers = WeakKeyDictionary()


def attach(engine: Any) -> None:
    """Let an engine wait in asyncio's event loops."""
    engine.attach(running_loop, LoopTimers(engine))
