"""What a limiter was told of a bucket that keeps no statements itself: the calls of this process pass here first."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aiolimiter_fast._core.hold import Hold
from aiolimiter_fast._forking import deciding
from aiolimiter_fast._waiting.turns import Turns

__all__ = ["Gate", "gate_of"]


class Gate:
    """At most so much from now until then, for all calls of this process at one bucket, by the monotonic clock.

    Those who wait here go in order of arrival. A copy, in this process or another, is no gate.
    """

    __slots__ = ("_hold", "_turns", "made")

    def __init__(self) -> None:
        self._hold = Hold()
        self._turns = Turns()
        # Statements so far. What was taken before the last of them is not given back.
        self.made = 0

    def state(self, wait: int, left: int) -> None:
        """Let at most `left` units in within `wait` ns from now."""
        with self._turns.lock:
            now = self._now()
            if wait > 0 and self._hold.state(now + wait, left):
                self.made += 1

    def clear(self) -> None:
        """Forget all statements."""
        with self._turns.lock:
            self._hold.clear()
            self._turns.wake()

    def left(self) -> float:
        """Units that may go now."""
        with self._turns.lock:
            self._now()
            return max(min((left for _, left in self._hold.entries), default=float("inf")), 0)

    def wait(self, weight: int) -> float:
        """Seconds until `weight` may go."""
        with self._turns.lock:
            now = self._now()
            failing = self._hold.failing(weight)
            return 0.0 if failing is None else (failing[0] - now) / 1e9

    def enter(self, weight: int) -> bool:
        """Take `weight` if that may go now and nobody waits."""
        return self._turns.at_once(self._taking(weight))

    def enter_later(self, weight: int, timeout: float | None) -> bool:
        """Take `weight`, waiting in this thread; False at the end of `timeout` seconds."""
        return self._turns.wait_thread(self._taking(weight), timeout)

    async def enter_later_async(self, weight: int, timeout: float | None) -> bool:
        """Take `weight`, waiting in this task; False at the end of `timeout` seconds."""
        return await self._turns.wait_task(self._taking(weight), timeout, time.monotonic)

    def leave(self, weight: int, made: int) -> None:
        """Take back what was taken and not used; `made` as it was before."""
        with self._turns.lock:
            if made == self.made:
                self._hold.give_back(weight)
                self._turns.wake()

    def _now(self) -> int:
        """The instant now; what is over is forgotten."""
        now = time.monotonic_ns()
        while now >= self._hold.opens:
            self._hold.pop()
        return now

    def _taking(self, weight: int) -> Callable[[], float]:
        def take() -> float:
            seconds = self.wait(weight)
            if seconds == 0:
                self._hold.take(weight)
            return seconds

        return take

    def __reduce__(self) -> tuple[Any, ...]:
        return _no_gate, ()


def _no_gate() -> None:
    return None


def gate_of(bucket: Any) -> Gate:
    """The gate of a bucket; a new one where it has none."""
    with deciding:
        gate: Gate | None = getattr(bucket, "_gate", None)
        if gate is None:
            gate = bucket._gate = Gate()
        return gate
