"""How far a batch has come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Progress", "Tally"]

# Seconds between two reports, so that a quick batch is not slowed down by them.
INTERVAL = 0.1


class Progress(NamedTuple):
    """How far a batch has come.

    Attributes:
        total: how many items there are; None where the input has no length.
        done: how many have a result.
        failed: how many have failed.
        running: how many have started and not ended, with the one whose permit is awaited.
        waiting: how many have not started; None where the total is not known.
        rate: items ended per second, since the batch began.
        time_left: seconds until the end at this rate; None where that cannot be told.
    """

    total: int | None
    done: int
    failed: int
    running: int
    waiting: int | None
    rate: float
    time_left: float | None


class Tally:
    """Count, and report now and then: at the start, at most every tenth of a second as items end, and at the end."""

    __slots__ = ("began", "clock", "done", "failed", "report", "reported", "running", "total")

    def __init__(self, report: Callable[[Progress], object], total: int | None, clock: Callable[[], float]) -> None:
        self.report = report
        self.total = total
        self.clock = clock
        self.began = self.reported = clock()
        self.done = self.failed = self.running = 0
        report(self.snapshot(self.began))

    def snapshot(self, now: float) -> Progress:
        ended = self.done + self.failed
        rate = ended / (now - self.began) if now > self.began else 0.0
        waiting = None if self.total is None else max(self.total - ended - self.running, 0)
        left = None
        if waiting is not None and waiting + self.running == 0:
            left = 0.0
        elif waiting is not None and rate:
            left = (waiting + self.running) / rate
        return Progress(self.total, self.done, self.failed, self.running, waiting, rate, left)

    def start(self) -> None:
        self.running += 1

    def end(self, *, failed: bool) -> None:
        self.running -= 1
        if failed:
            self.failed += 1
        else:
            self.done += 1
        now = self.clock()
        if now - self.reported >= INTERVAL:
            self.reported = now
            self.report(self.snapshot(now))

    def close(self) -> None:
        """Report for the last time."""
        self.report(self.snapshot(self.clock()))
        close: Any = getattr(self.report, "close", None)
        if close is not None:
            close()
