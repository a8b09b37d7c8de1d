"""A bucket in memory that the processes of one machine share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from aiolimiter_fast._engine import engine
from aiolimiter_fast._shared_file import Layout, SharedFile, path_of, slots_for
from aiolimiter_fast.abstracts.algorithm import Algorithm, Decision
from aiolimiter_fast.abstracts.bucket import AbstractBucket
from aiolimiter_fast.abstracts.rate import Rate, RateItem
from aiolimiter_fast.buckets.in_memory_bucket import MILLISECOND, InMemoryBucket

__all__ = ["SharedMemoryBucket"]

# What one entry holds.
MOST_WEIGHT = (1 << 40) - 1
MOST_CAPACITY = 1 << 32


class SharedMemoryBucket(InMemoryBucket, engine.SharedWindow):
    """A log of what was admitted, shared by the processes of one machine: one limit for all of them, without a server.

    Arguments:
        rates: one Rate or more, each longer, larger and slower than the one before. Limits up to 2^40 - 1. They are
            fixed when the first process makes the file; others must name the same ones.
        name: what the processes agree on. The file is this user's alone, in memory (/dev/shm) where there is that.
        path: the file, instead of a name; who may open it may share the limit.
        algorithm: default SlidingWindowLog, the only one that the compiled engine decides by itself; or FixedWindow.
        capacity: entries that the log has room for, 1 to 2^32; default one per permit of the largest limit, 2^20 at
            most. An entry is one call, whatever its weight, and takes 16 bytes. Where there are more calls than that
            within the longest interval, the rest is refused.
        on_reboot: what to do with a file that is older than the last start of the machine, whose times mean nothing
            any more: "raise", or "restart" with an empty one.

    No lock is taken: a decision is one compare-and-swap, so a process that is killed or stopped at any instruction
    delays nobody, and nothing is admitted twice. (The engine in Python, where no compiler was, takes a lock of the
    file that the system frees when its owner ends; a process stopped in the midst of a decision holds it.) The object
    may be used before and after a fork, sent to workers by pickle, or made anew anywhere. Times come from the machine's
    monotonic clock. Names of items are not kept. The waits that it tells are exact.

    Raises ValueError for arguments out of bounds, SharedMemoryError (a ValueError) for a file that is foreign, damaged,
    or made for other rates, another version or before a reboot, OSError, TypeError.

    Source of the algorithm: the sliding-window log; why it needs no lock is told in `_core/shared.pxd`.

    Example:
        from aiolimiter_fast import Duration, Limiter, Rate, SharedMemoryBucket

        with SharedMemoryBucket([Rate(100, Duration.SECOND)], "api.example.com") as bucket:
            assert Limiter(bucket).try_acquire("page")  # in any number of processes
        bucket.unlink()
    """

    exact_wait = True

    def __init__(
        self,
        rates: list[Rate],
        name: str | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        algorithm: Algorithm | None = None,
        capacity: int | None = None,
        on_reboot: str = "raise",
    ) -> None:
        if (name is None) == (path is None):
            raise ValueError(f"give a name or a path, got name={name!r} and path={path!r}")
        if on_reboot not in ("raise", "restart"):
            raise ValueError(f"on_reboot must be 'raise' or 'restart', got {on_reboot!r}")
        if capacity is not None:
            if type(capacity) is not int:
                raise TypeError(f"capacity must be a whole number of entries, got {capacity!r}")
            if not 1 <= capacity <= MOST_CAPACITY:
                raise ValueError(f"capacity must be 1 to {MOST_CAPACITY} entries, got {capacity!r}")
        super().__init__(rates, algorithm)
        where = path_of(name) if name is not None else Path(os.path.abspath(path))  # type: ignore[arg-type]
        slots = slots_for(self._most_entries(), capacity)
        self._open(where, slots, make=True, restart=on_reboot == "restart", own=name is not None)

    def _open(self, path: Path, slots: int, *, make: bool, restart: bool = False, own: bool = False) -> None:
        rates = tuple((int(rate.limit), rate.interval * MILLISECOND) for rate in self._rates)
        layout = Layout("log", self.METHOD, slots, rates)
        self._file = SharedFile(path, layout, make=make, restart=restart, own=own)
        self._attach(self._file if self.METHOD == "lock" else self._file.mapping)

    def _most_entries(self) -> int:
        """Entries that the longest interval can hold."""
        limit = int(self._rates[-1].limit)
        return limit if self._is_sliding() else 2 * limit  # windows that are aligned meet within it

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    @property
    def rates(self) -> list[Rate]:
        """The rates by rising interval. They cannot be changed: raises ValueError."""
        return list(self._rates)

    @rates.setter
    def rates(self, rates: list[Rate]) -> None:
        if "_file" in vars(self):
            raise ValueError(f"rates of shared memory cannot be changed, got {rates!r}")
        AbstractBucket.rates.fset(self, rates)  # type: ignore[attr-defined]
        for rate in self._rates:
            if rate.limit > MOST_WEIGHT:
                raise ValueError(f"limit must be at most {MOST_WEIGHT} permits in shared memory, got {rate.limit!r}")
        self._reconfigure()

    # A compiled method that decides by itself, and calls `_put_slowly` for all that it does not know.
    put = engine.SharedWindow.put  # pyright: ignore[reportAssignmentType]
    _put_slowly = InMemoryBucket.put
    _overridden = {"put": put}  # noqa: RUF012

    def _reconfigure(self) -> None:
        super()._reconfigure()
        self._decide_directly(self._algorithm if self._is_sliding() else None)

    def _put_by_algorithm(self, item: RateItem) -> bool:
        algorithm: Any = self._algorithm
        now, instant = item.timestamp, item.timestamp * MILLISECOND
        while True:
            seen = self._seen(instant)
            counts = [self._count_since(algorithm.window_start(rate, now) * MILLISECOND) for rate in self._rates]
            decision = algorithm.decide(self._rates, counts, item.weight, now, self._timestamp)
            if not decision.allowed:
                break
            due = self._append_after(seen, item.weight, instant)
            if due >= 0:
                if due > 0:  # there is no slot for it
                    decision = Decision(self._rates[-1], -(-(due - instant) // MILLISECOND))
                break
        wait = decision.retry_after_ms
        self._deny(decision.failing_rate, None if wait is None else (item.weight, now + wait))
        return bool(decision.allowed)

    def unlink(self) -> None:
        """Remove the file, if there is one. Processes that have it open go on with it; others will make a new one.

        Raises PermissionError on Windows as long as anybody has it open.
        """
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; it stays, for others. Every use from now on is a ValueError."""
        self._detach()
        self._file.close()

    def __reduce__(self) -> tuple[Any, ...]:
        attributes = {key: value for key, value in vars(self).items() if key not in ("_file", "_rates")}
        return _reopen, (type(self), self._rates, self.path, self._file.layout.slots), attributes

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reconfigure()


def _reopen(kind: type[SharedMemoryBucket], rates: list[Rate], path: Path, slots: int) -> SharedMemoryBucket:
    bucket = kind.__new__(kind)
    InMemoryBucket.__init__(bucket, rates)
    bucket._open(path, slots, make=False)
    return bucket
