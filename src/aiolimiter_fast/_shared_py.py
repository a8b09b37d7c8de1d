"""The twin of `_bucket/shared.pxi` and `_core/shared.pxd`: the log that processes share, by the file's lock.

Python has no compare-and-swap, so a look at the file and an entry into it each hold its lock, which the system frees
when its owner dies; a process stopped in the midst of one holds it. The rest is the same, to the bit.
"""

from __future__ import annotations

import struct
from typing import Any

from aiolimiter_fast import _loop_py
from aiolimiter_fast._core.leaky import NEVER
from aiolimiter_fast._forking import deciding
from aiolimiter_fast._line_py import Waiter
from aiolimiter_fast._window_py import Window
from aiolimiter_fast.errors import BackendUnavailable, SharedMemoryError

LEAST = -(2**63)
WEIGHT = 40
LAPS = 1 << 24
HINT, FLOOR, REFUNDS, LEAKED, SLOTS = 8 * 128, 8 * 160, 8 * 161, 8 * 162, 4096
EVERY = 32
MILLISECOND = 1_000_000
WORD = struct.Struct("=q")
# The lap is the upper part of the mark.
ENTRY = struct.Struct("=qQ")


class Shared(Window):
    """A meter in a mapped file that other processes map too; see the extension's class of the same name."""

    __slots__ = ("_mapped", "_trouble")

    METHOD = "lock"

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._mapped = self._trouble = None
        return self

    _mapped: Any
    _trouble: Exception | None

    def _attach(self, file: Any) -> None:
        """Use a mapped file; the rates are set already."""
        self._mapped = file

    def _detach(self) -> None:
        """Let go of the file."""
        self._mapped = None

    def _check_open(self) -> None:
        if self._mapped is None:
            raise ValueError("the bucket is closed")

    # The file; the caller holds its lock.

    def _word(self, place: int) -> int:
        value: int = WORD.unpack_from(self._mapped.mapping, place)[0]
        return value

    def _set_word(self, place: int, value: int) -> None:
        self._mapped.mapping[place : place + 8] = WORD.pack(value)

    # What the line and the bucket ask.

    def _see(self, now: int) -> None:
        """See what others have entered. Raises ValueError if there is no file, or none that makes sense."""
        raise NotImplementedError

    def _due_as_seen(self, weight: int) -> int:
        """`_due`, by what was seen last."""
        raise NotImplementedError

    def _due(self, weight: int, now: int) -> int:
        try:
            self._see(now)
            self._trouble = None
        except BackendUnavailable as error:
            self._trouble = error
            return NEVER
        except Exception:
            return NEVER  # those who wait are turned away; newcomers see the error
        return self._due_as_seen(weight)

    def _judge(self, admitted: bool) -> None:
        if not admitted and self._trouble is not None:
            raise self._trouble

    def _take(self, name: Any, weight: int, now: int) -> Any:
        with deciding:
            while True:
                self._see(now)
                if self._due_as_seen(weight) > now:
                    rate = self._failing(weight)
                    self._deny(rate, None)
                    return rate
                if self._claim(weight, now):
                    self._deny(None, None)
                    return None

    def _put_at(self, weight: int, now: int) -> bool:
        """Take `weight` at `now` and say whether, or note which rate refused it and until when."""
        with deciding:
            rate = self._take("", weight, now)
            if rate is not None:
                due = self._due_as_seen(weight)
                self._deny(rate, None if due == NEVER else (weight, -(-due // MILLISECOND)))
            return rate is None

    def _decide_directly(self, algorithm: Any) -> None:
        """Nothing to do: the twin looks each time."""

    def put(self, item: Any) -> bool:
        admitted: bool = self._put_slowly(item)  # type: ignore[attr-defined]
        return admitted

    def _append(self, name: Any, weight: int, now: int) -> None:
        raise NotImplementedError("an item enters shared memory only by a decision")

    def _rate_due(self, weight: int, rate: Any, now: int) -> int:
        """The instant at which `weight` fits."""
        with deciding:
            self._see(now)
            return self._due_as_seen(weight)


class SharedWindow(Shared):
    """A window log in a file; see the extension's class of the same name."""

    __slots__ = (
        "_counted", "_floor", "_forks", "_last", "_looked", "_next", "_old", "_refunds", "_slots", "_stale",
    )  # fmt: skip

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._counted = self._floor = self._forks = self._next = self._refunds = self._slots = 0
        self._last = self._looked = LEAST
        self._stale = True
        self._old = (0, 0)
        return self

    # The statements have counted the entries before that number.
    _counted: int
    _floor: int
    _forks: int
    _last: int
    _looked: int
    _next: int
    _old: tuple[int, int]
    _refunds: int
    _slots: int
    _stale: bool

    def _attach(self, file: Any) -> None:
        super()._attach(file)
        self._slots = file.layout.slots
        self._looked, self._stale = LEAST, True
        self._counted = 0

    # The log; the caller holds the lock.

    def _read(self, number: int) -> tuple[int, int, int]:
        """Time and weight in the slot of `number`, and by how many laps that entry is ahead of it."""
        time, mark = ENTRY.unpack_from(self._mapped.mapping, SLOTS + 16 * (number % self._slots))
        ahead = ((mark >> WEIGHT) - number // self._slots) % LAPS
        return time, mark & ((1 << WEIGHT) - 1), ahead - LAPS if ahead >= LAPS // 2 else ahead

    def _write(self, number: int, time: int, weight: int) -> None:
        mark = ((number // self._slots) % LAPS) << WEIGHT | weight
        place = SLOTS + 16 * (number % self._slots)
        self._mapped.mapping[place : place + 16] = ENTRY.pack(time, mark)  # in one piece

    def _begin(self, now: int) -> None:
        """Go to the first entry that counts at `now`."""
        self._log.forget(len(self._log.times))
        self._floor, self._refunds = self._word(FLOOR), self._word(REFUNDS)
        number, steps = self._word(HINT), 16 * self._slots + 65536
        while True:
            ahead = self._read(number)[2]
            if ahead == -1:
                break
            number += 1 if ahead == 0 else ahead * self._slots
            steps -= 1
            if ahead < 0 or steps < 0:
                raise SharedMemoryError("the shared memory is damaged: no entry where one must be")
        self._last, self._looked = LEAST, max(self._looked, now)
        self._next, first = number, max(number - self._slots, self._slots, self._floor)
        bound = self._looked - self._log.rates[-1].interval
        while self._next > self._slots:
            time, _, ahead = self._read(self._next - 1)
            if ahead:
                break
            if self._last == LEAST:
                self._last = time
            if self._next <= first or time < bound:
                break
            self._next -= 1
        self._stale = False

    def _see_locked(self, now: int) -> None:
        current = (
            not self._stale
            and self._forks == _loop_py.generation
            and now <= self._looked + self._log.rates[-1].interval
            and (self._word(FLOOR), self._word(REFUNDS)) == (self._floor, self._refunds)
        )
        self._forks = _loop_py.generation
        if not current:
            self._begin(now)
        while True:
            time, weight, ahead = self._read(self._next)
            if ahead == -1:
                self._old = (time, weight)
                break
            if ahead:
                self._begin(now)
                continue
            self._next += 1
            self._last = time
            if weight:
                self._record(time, weight)
                if self._next <= self._counted:  # however often it is read, they count it once
                    self._log.count_stated(-weight)
            self._counted = max(self._counted, self._next)
        self._looked = max(now, self._last, self._looked)
        self._log.advance(self._looked)
        self._log.forget(self._log.rates[-1].tail)

    def _record(self, time: int, weight: int) -> None:
        """Copy an entry."""
        self._log.latest = LEAST  # it is as old as it is, whatever this process has seen since
        self._log.append(time, weight, "")

    # What the line and the bucket ask.

    def _see(self, now: int) -> None:
        """See what others have entered. Raises ValueError if there is no file, or none that makes sense."""
        with deciding:
            self._check_open()
            with self._mapped.lock():
                try:
                    self._see_locked(now)
                except BaseException:
                    self._stale = True
                    raise

    def _be_at(self, now: int) -> bool:
        self._see(now)
        return self._slot_due() == 0

    def _due_as_seen(self, weight: int) -> int:
        return max(self._log.due(weight), self._slot_due())

    def _slot_due(self) -> int:
        """When there is a slot for the next entry; 0 if there is one now."""
        (time, old), longest = self._old, self._log.rates[-1].interval
        full = old > 0 and self._next - self._slots >= max(self._floor, self._slots)
        return time + longest + 1 if full and time >= self._looked - longest else 0

    def _claim(self, weight: int, now: int) -> bool:
        now = self._looked
        with self._mapped.lock():
            if self._read(self._next)[2] != -1:
                return False
            self._write(self._next, now, weight)
            if self._next % EVERY == 0 and self._word(HINT) < self._next:
                self._set_word(HINT, self._next)
        self._next += 1
        self._last = now
        self._record(now, weight)
        self._counted = self._next
        return True

    def _enter(self, weight: int, name: str, now: int, waits: bool) -> int:
        self._see(now)
        return super()._enter(weight, name, now, waits)

    def _charge(self, weight: int, name: str, now: int) -> int:
        return self._last  # claimed already

    def _refund(self, weight: int, instant: int) -> None:
        self._see(instant)
        with self._mapped.lock():
            found, number = None, self._next - 1
            while number >= max(self._next - self._slots, self._slots):
                time, units, ahead = self._read(number)
                if ahead or time < instant:
                    break
                if time == instant and units == weight:
                    found = (number, time)
                    break
                number -= 1
            if found is not None:
                self._write(*found, 0)
                self._set_word(REFUNDS, self._word(REFUNDS) + 1)

    def _foresee(self, last: Waiter | None, weight: int, now: int) -> int:
        self._see(now)
        return max(super()._foresee(last, weight, now), self._slot_due())

    def _failing(self, weight: int) -> Any:
        rate = super()._failing(weight)
        return self._rate_objects[-1] if rate is None else rate  # the ring is full

    def _configure(self, rates: list[Any], limits: list[int], intervals: list[int]) -> None:
        if self._mapped is not None:
            known = [(rate.limit, rate.interval) for rate in self._log.rates]
            if known != list(zip(limits, intervals, strict=True)):
                raise ValueError(f"rates of shared memory cannot be changed, got {rates!r}")
        super()._configure(rates, limits, intervals)

    def _seen(self, now: int) -> int:
        """See what others have entered; return how much was seen."""
        with deciding:
            self._see(now)
            return self._next

    def _append_after(self, seen: int, weight: int, now: int) -> int:
        """Enter an item, if nothing was entered since so much was seen at `now`.

        Returns 0 if it was, -1 if something else was, or the instant when there is a slot.
        """
        with deciding:
            self._check_open()
            if self._next != seen:
                return -1
            return self._slot_due() or self._claim(weight, now) - 1

    def _units(self) -> int:
        """Units in the ring that nobody has leaked, whether they count still or not."""
        with deciding:
            self._see(self._looked)
            with self._mapped.lock():
                return self._older(-LEAST)[0]

    def _leak(self, instant: int) -> int:
        """Tell no more of what is older than an instant, in any process; return its units."""
        with deciding:
            self._see(self._looked)
            with self._mapped.lock():
                units, number = self._older(instant)
                self._set_word(LEAKED, max(self._word(LEAKED), number))
                return units

    def _older(self, instant: int) -> tuple[int, int]:
        """Units that are older than an instant and were not leaked, and the number of the next entry."""
        number = max(self._next - self._slots, self._slots, self._word(FLOOR), self._word(LEAKED))
        units = 0
        while number < self._next:
            time, weight, ahead = self._read(number)
            if ahead == 0:
                if time >= instant:
                    break
                units += weight
            number += 1
        return units, number

    def _unit(self, index: int) -> tuple[Any, int, int] | None:
        self._seen(self._now())
        return super()._unit(index)

    def _entries(self) -> list[tuple[Any, int, int]]:
        self._seen(self._now())
        return super()._entries()

    def _room(self, instant: int | None) -> list[int]:
        self._seen(_loop_py.clock_ns() if instant is None else instant)
        return super()._room(instant)

    def _clear(self) -> None:
        with deciding:
            self._see(self._now())
            with self._mapped.lock():
                self._set_word(FLOOR, max(self._word(FLOOR), self._next))
            self._cleared += 1
            self._deny(None, None)
            self._replan()
