"""The twin of `_bucket/admission.pxi`: the limiters' way into a window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiolimiter_fast._budget import answer_within
from aiolimiter_fast._core.leaky import NEVER
from aiolimiter_fast._forking import deciding
from aiolimiter_fast._line_py import Waiter, Watched, sleep_in_line, text_of, wait_in_line
from aiolimiter_fast._window_py import Window

# Seconds, beyond which a timeout is none.
LONGEST = 4e9


class Admission(Watched):
    """The way into a window; see the extension's class of the same name."""

    __slots__ = ("_admitted", "_pausing", "_refused", "_waited", "_window")

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._admitted = self._pausing = self._refused = self._waited = 0
        self._window = None
        return self

    _admitted: int
    _pausing: int
    _refused: int
    _waited: int
    _window: Window | None

    def _look(self) -> int:
        return 0

    def _rely(self, seen: int, window: Window, clock: Callable[[], int] | None, plain: bool, *objects: Any) -> None:
        self._window = window
        with deciding:
            if window._clock_ns != clock:
                stated = window._log.rows[len(window._log.rates) :]
                before = window._now() if stated else 0
                window._clock_ns = clock
                for row in stated:
                    row.until += window._now() - before
                window._log.latest = -NEVER  # of the other clock
                window._replan()

    def try_acquire(self, name: str = "pyrate", weight: int = 1, blocking: bool = True, timeout: float = -1) -> Any:
        """Take permits, waiting in this thread until there is room."""
        seconds: Any = timeout
        if not (isinstance(seconds, (int, float)) and 0 <= seconds < LONGEST):
            return self._acquire(name, weight, blocking, timeout)  # type: ignore[attr-defined]
        with answer_within(seconds):
            return self._acquire(name, weight, blocking, timeout)  # type: ignore[attr-defined]

    def try_acquire_async(
        self, name: str = "pyrate", weight: int = 1, blocking: bool = True, timeout: float = -1
    ) -> Any:
        """Take permits, waiting in this task until there is room."""
        return self._acquire_async(name, weight, blocking, timeout)  # type: ignore[attr-defined]

    def _decide(self, name: Any, weight: int, waits: bool) -> int:
        window = self._window
        assert window is not None
        name = text_of(name)
        with deciding:
            decision = window._enter(weight, name, window._now(), waits)
            if decision == 1:
                self._admitted += 1
                window._deny(None, None)
            else:
                window._deny(window._failing(weight), None)
                if not waits or decision < 0:
                    self._refused += 1
        return decision

    def _decide_within(self, patience: int) -> Callable[[Any, int, bool], int]:
        def decide(name: Any, weight: int, waits: bool) -> int:
            with answer_within(patience / 1e9):
                return self._decide(name, weight, waits)

        return decide

    async def _wait(self, name: Any, weight: int, block: bool, patience: int) -> bool:
        window = self._window
        assert window is not None
        waiter = Waiter(self, window, text_of(name), weight, NEVER if patience < 0 else patience)
        waiter.block = block
        admitted, waited = await wait_in_line(waiter, self._decide if patience < 0 else self._decide_within(patience))
        if waited is not None:
            self._note(admitted, waited)
            window._judge(admitted)
        return admitted

    def _sleep(self, name: Any, weight: int, patience: int) -> bool:
        """Wait in the line in this thread; patience in ns, below 0 without end. Say whether it was admitted."""
        window = self._window
        assert window is not None
        waiter = Waiter(self, window, text_of(name), weight, NEVER if patience < 0 else patience)
        admitted, waited = sleep_in_line(waiter)
        self._note(admitted, waited)
        window._judge(admitted)
        return admitted

    def _note(self, admitted: bool, waited: int) -> None:
        """Note what came of a call, and the ns that it waited."""
        with deciding:
            self._admitted += admitted
            self._refused += not admitted
            self._waited += max(waited, 0)

    def _pause(self, calls: int) -> None:
        with deciding:
            self._pausing += calls

    def _counts(self) -> tuple[int, int, int, float]:
        """Calls admitted, calls refused, calls that wait now, and the seconds that they waited."""
        window = self._window
        with deciding:
            waiting = self._pausing
            if window is not None:
                window._renew()
                waiting += sum(waiter.limiter is self for waiter in window._line)
            return self._admitted, self._refused, waiting, self._waited / 1e9


def Limited(limiter: Admission, function: Callable[..., Any], name: str, weight: int) -> Callable[..., Any]:  # noqa: N802
    """A function that acquires first at each call."""

    def limited(*args: Any, **kwargs: Any) -> Any:
        limiter._enter(name, weight)  # type: ignore[attr-defined]
        return function(*args, **kwargs)

    return limited
