"""Buckets in memory that the processes of one machine share: a log of what was admitted, or a few numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from aiolimiter_fast._engine import engine
from aiolimiter_fast._shared_file import Layout, SharedFile, path_of, slots_for
from aiolimiter_fast._shared_state import SLOTS, state_of, step
from aiolimiter_fast.abstracts.algorithm import GCRA, Algorithm, Decision, State, StateAlgorithm, TokenBucket
from aiolimiter_fast.abstracts.bucket import AbstractBucket
from aiolimiter_fast.abstracts.rate import Rate, RateItem
from aiolimiter_fast.buckets.in_memory_bucket import MILLISECOND, MOST, InMemoryBucket

__all__ = ["SharedMemoryBucket", "SharedMemoryStateBucket"]

# What one entry holds.
MOST_WEIGHT = (1 << 40) - 1
MOST_CAPACITY = 1 << 32
STEPPING = {name: getattr(GCRA, name) for name in ("consumed", "emission", "initial", "max_weight", "step")}


class _InFile(InMemoryBucket):
    """What the buckets have in common: a file, and rates that are fixed."""

    # Set by the engine.
    METHOD: str
    _attach: Any
    _detach: Any
    _decide_directly: Any

    def _make(self, name: str | None, path: str | os.PathLike[str] | None, on_reboot: str, slots: int) -> None:
        """Open the file, or make it."""
        where = path_of(name) if name is not None else Path(os.path.abspath(path))  # type: ignore[arg-type]
        self._open(where, slots, make=True, restart=on_reboot == "restart", own=name is not None)

    def _open(self, path: Path, slots: int, *, make: bool, restart: bool = False, own: bool = False) -> None:
        self._file = SharedFile(path, self._layout(slots), make=make, restart=restart, own=own)
        self._attach(self._file if self.METHOD == "lock" else self._file.mapping)

    def _layout(self, slots: int) -> Layout:
        raise NotImplementedError

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

    def _reconfigure(self) -> None:
        super()._reconfigure()
        self._decide_directly(self._algorithm if self._engine_decides() else None)

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
        return _reopen, (type(self), self._rates, self.path, self._file.layout.slots, self._algorithm), attributes

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reconfigure()


def _reopen(kind: type[_InFile], rates: list[Rate], path: Path, slots: int, algorithm: Algorithm) -> _InFile:
    bucket = kind.__new__(kind)
    bucket._algorithm = algorithm
    bucket.rates = rates
    bucket._open(path, slots, make=False)
    return bucket


def _check(name: str | None, path: object, on_reboot: str) -> None:
    if (name is None) == (path is None):
        raise ValueError(f"give a name or a path, got name={name!r} and path={path!r}")
    if on_reboot not in ("raise", "restart"):
        raise ValueError(f"on_reboot must be 'raise' or 'restart', got {on_reboot!r}")


class SharedMemoryBucket(_InFile, engine.SharedWindow):
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

    `count` and `leak` tell of entries that have left their windows as if they had been kept until `leak` was called, as
    long as nobody needs their place (256 are kept at least), unless a factory has scheduled the bucket.

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
        _check(name, path, on_reboot)
        if capacity is not None:
            if type(capacity) is not int:
                raise TypeError(f"capacity must be a whole number of entries, got {capacity!r}")
            if not 1 <= capacity <= MOST_CAPACITY:
                raise ValueError(f"capacity must be 1 to {MOST_CAPACITY} entries, got {capacity!r}")
        super().__init__(rates, algorithm)
        self._make(name, path, on_reboot, slots_for(self._most_entries(), capacity))

    def _layout(self, slots: int) -> Layout:
        rates = tuple((int(rate.limit), rate.interval * MILLISECOND) for rate in self._rates)
        return Layout("log", self.METHOD, slots, rates)

    def _most_entries(self) -> int:
        """Entries that the longest interval can hold."""
        limit = int(self._rates[-1].limit)
        return limit if self._engine_decides() else 2 * limit  # windows that are aligned meet within it

    # A compiled method that decides by itself, and calls `_put_slowly` for all that it does not know.
    put = engine.SharedWindow.put  # pyright: ignore[reportAssignmentType]
    _put_slowly = InMemoryBucket.put
    _overridden = {"put": put}  # noqa: RUF012

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


class SharedMemoryStateBucket(_InFile, engine.SharedRecord):
    """A state of a few numbers, shared by the processes of one machine: up to a burst at once, then evenly.

    Arguments:
        rates: one Rate or more, each longer, larger and slower than the one before; with their bursts they are fixed
            when the first process makes the file, and others must name the same ones.
        name: what the processes agree on. The file is this user's alone, in memory (/dev/shm) where there is that.
        path: the file, instead of a name; who may open it may share the limit.
        algorithm: default GCRA, which with TokenBucket is what the compiled engine decides by itself; or any other
            StateAlgorithm, whose steps are made from the state as read, and made again if that has changed meanwhile.
        on_reboot: what to do with a file that is older than the last start of the machine, whose times mean nothing
            any more: "raise", or "restart" with an empty one.

    The file has 6 KiB, whatever the limits. All rates are decided together. No lock is taken: a decision puts a new
    state in the place of the one that it was made from, by compare-and-swap, so a process that is killed or stopped at
    any instruction delays nobody, and nothing is admitted twice. (The engine in Python takes a lock of the file, as
    that of SharedMemoryBucket does.) The object may be used before and after a fork, sent to workers by pickle, or made
    anew anywhere. Times come from the machine's monotonic clock. The waits that it tells are exact, to the microsecond.

    Raises ValueError for arguments out of bounds, SharedMemoryError (a ValueError) for a file that is foreign, damaged,
    or made for another algorithm, other rates, another version or before a reboot, OSError, TypeError.

    Source of the algorithm: ITU-T I.371, annex A; why it needs no lock is told in `_core/record.pxd`.

    Example:
        from aiolimiter_fast import Duration, Limiter, Rate, SharedMemoryStateBucket

        # One every 10 ms, but 20 at once after a pause.
        with SharedMemoryStateBucket([Rate(100, Duration.SECOND, burst=20)], "api.example.com/paced") as bucket:
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
        algorithm: StateAlgorithm | None = None,
        on_reboot: str = "raise",
    ) -> None:
        _check(name, path, on_reboot)
        if algorithm is not None and not isinstance(algorithm, StateAlgorithm):
            raise TypeError(f"algorithm must be a StateAlgorithm, got {algorithm!r}")
        self._algorithm = GCRA() if algorithm is None else algorithm
        self.rates = rates
        self._make(name, path, on_reboot, SLOTS)

    def _layout(self, slots: int) -> Layout:
        rates = tuple((int(rate.limit), rate.interval * MILLISECOND, int(rate.burst)) for rate in self._rates)
        kind = type(self._algorithm)
        name = "GCRA" if kind is TokenBucket else kind.__qualname__
        return Layout("state", self.METHOD, slots, rates, name)

    def _engine_decides(self) -> bool:
        algorithm = self._algorithm
        return (
            type(algorithm) in (GCRA, TokenBucket)
            and not vars(algorithm)
            and all(getattr(type(algorithm), name) is method for name, method in STEPPING.items())
        )

    def _reconfigure(self) -> None:
        rates, algorithm = self._rates, self._algorithm
        assert isinstance(algorithm, StateAlgorithm)
        emission = algorithm.emission if isinstance(algorithm, GCRA) else GCRA().emission
        bursts, emissions = [int(rate.burst) for rate in rates], [emission(rate) for rate in rates]
        for rate, burst, microseconds in zip(rates, bursts, emissions, strict=True):
            if burst * microseconds > MOST // 1000:
                raise ValueError(f"burst must take at most {MOST // 10**9} seconds to come back, got {rate!r}")
        self._look(rates)
        self._configure(rates, bursts, emissions)
        self._decide_directly(algorithm if self._engine_decides() else None)

    # A compiled method that decides by itself, and calls `_put_slowly` for all that it does not know.
    put = engine.SharedRecord.put  # pyright: ignore[reportAssignmentType]

    def _put_slowly(self, item: RateItem) -> bool:
        if item.weight == 0:
            self._deny(None, None)
            return True
        if item.weight < 0:
            raise ValueError(f"weight must be 0 or more, got {item.weight!r}")
        self._refresh()
        if self._engine_decides():
            return bool(self._put_at(min(item.weight, MOST), item.timestamp * MILLISECOND))
        algorithm: Any = self._algorithm
        return self._note(item, step(self, algorithm, self._rates, item.timestamp, item.weight)).allowed

    def waiting(self, item: RateItem) -> int:
        """Milliseconds from the item's time stamp until it would be admitted; -1 never, 0 after an admission."""
        rate, wait = self.failing_rate, self._last_wait
        known = wait is not None and wait[0] == item.weight
        if rate is None or known or not 0 < item.weight <= self._algorithm.max_weight(rate):
            return int(AbstractBucket.waiting(self, item))  # type: ignore[arg-type]
        return self._replay(item.timestamp, item.weight).retry_after_ms or 0

    def _replay(self, now: int, weight: int) -> Decision:
        """What would be decided; nothing is taken."""
        algorithm: Any = self._algorithm
        decision: Decision = algorithm.step(self._rates, self._numbers(), now, weight)[1]
        return decision

    def _numbers(self) -> State:
        algorithm: Any = self._algorithm
        return state_of(self._read()[1], algorithm, self._rates)

    _overridden = {"put": put, "waiting": waiting}  # noqa: RUF012

    def count(self) -> int:
        """Permits owed now, by the rate that owes most."""
        algorithm: Any = self._algorithm
        return int(algorithm.consumed(self._rates, self._numbers(), self._milliseconds()))

    def remaining(self) -> list[int]:
        """Permits left now, per rate in order of interval."""
        if self._engine_decides():
            return list(self._room(self._instant()))
        algorithm: Any = self._algorithm
        now = self._milliseconds()
        return [
            max(rate.burst - int(algorithm.consumed([rate], (number,), now)), 0)
            for rate, number in zip(self._rates, self._numbers(), strict=True)
        ]

    def wait_time(self, weight: int = 1) -> float:
        """Seconds until a newcomer of `weight` would be admitted, behind those who wait; inf if never."""
        if self._engine_decides():
            return super().wait_time(weight)
        decision = self._replay(self._milliseconds(), weight)
        if decision.allowed:
            return 0.0
        return float("inf") if decision.retry_after_ms is None else decision.retry_after_ms / 1000

    def leak(self, current_timestamp: int | None = None) -> int:
        """0: there is nothing to forget."""
        return 0

    def scheduled(self) -> None:
        """Nothing to do."""
