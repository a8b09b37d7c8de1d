"""The twin of `_bucket/record.pxi` and `_core/record.pxd`: the state that processes share, by the file's lock.

The record and its lanes are those of the extension, so that a process killed while it writes leaves the one that
counted; the lock is held for a look, and for a swap.
"""

from __future__ import annotations

import struct
from typing import Any

from aiolimiter_fast._core.leaky import NEVER
from aiolimiter_fast._forking import deciding
from aiolimiter_fast._line_py import Line, Waiter
from aiolimiter_fast._loop_py import clock_ns
from aiolimiter_fast._shared_py import Shared
from aiolimiter_fast.errors import SharedMemoryError

MICROSECOND = 1000
MOST = 64
TURN, WHICH, RESETS, LANES = 8 * 128, 8 * 129, 8 * 160, 8 * 512
# Bits of `which`.
COUNT, FLOATS, NUMBER = 1, 7, 8
WORD = struct.Struct("=q")
PAIR = struct.Struct("=qq")
FLOAT = struct.Struct("=d")


class SharedRecord(Shared):
    """A state in a mapped file, and GCRA on it; see the extension's class of the same name."""

    __slots__ = ("_arrivals", "_asked", "_bursts", "_emissions", "_objects", "_resets", "_which")

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._arrivals, self._bursts, self._emissions, self._objects = [], [], [], []
        self._asked = self._resets = self._which = 0
        return self

    _arrivals: list[int]
    _asked: int
    _bursts: list[int]
    _emissions: list[int]
    _objects: list[Any]
    _resets: int
    _which: int

    def _configure(self, rates: list[Any], limits: list[int], intervals: list[int]) -> None:
        with deciding:
            if self._mapped is not None and self._bursts and (self._bursts, self._emissions) != (limits, intervals):
                raise ValueError(f"rates of shared memory cannot be changed, got {rates!r}")
            self._bursts, self._emissions, self._objects = limits, intervals, rates
            self._arrivals = [0] * len(rates)
            self._deny(None, None)

    # The record.

    def _pair(self, lane: int, place: int) -> int:
        return LANES + PAIR.size * (lane * MOST + place)

    def _record(self) -> list[bytes]:
        """Read the record: its numbers."""
        self._check_open()
        with self._mapped.lock():
            self._which = which = self._word(WHICH)
            places = [self._pair(which & 1, i) for i in range(which >> COUNT & (MOST - 1))]
            turns = [which >> NUMBER, *(self._word(place + WORD.size) for place in places)]
            words = [self._mapped.mapping[place : place + WORD.size] for place in places]
            resets = self._word(RESETS)
        if which < 0 or len(set(turns)) > 1:
            raise SharedMemoryError("the shared memory is damaged: its record is torn")
        if resets != self._resets:
            self._resets = resets
            self._cleared += 1
        return words

    def _swap(self, words: list[bytes], floats: bool = False) -> bool:
        """Replace the record that was read last; say whether it still was the one."""
        with self._mapped.lock():
            if self._word(WHICH) != self._which:
                return False
            turn, lane = self._word(TURN) + 1, 1 - (self._which & 1)
            if turn <= self._which >> NUMBER:
                raise SharedMemoryError("the shared memory is damaged: turns that nobody has taken")
            self._set_word(TURN, turn)
            for i, word in enumerate(words):
                place = self._pair(lane, i)
                self._mapped.mapping[place : place + PAIR.size] = word + WORD.pack(turn)
            self._set_word(WHICH, turn << NUMBER | floats << FLOATS | len(words) << COUNT | lane)
            return True

    # GCRA, and what the line asks.

    def _see(self, now: int) -> None:
        """See the state. Raises ValueError if there is no file, or none that makes sense."""
        words = self._record()
        self._log.advance(now)  # of the log that all lines have, only the statements are used
        self._asked = now // MICROSECOND
        known = len(words) == len(self._bursts)
        self._arrivals = [WORD.unpack(word)[0] for word in words] if known else [0] * len(self._bursts)

    def _due_as_seen(self, weight: int) -> int:
        if any(weight > burst for burst in self._bursts):
            return NEVER
        rates = zip(self._arrivals, self._bursts, self._emissions, strict=True)
        due = max((arrival - (burst - weight) * emission for arrival, burst, emission in rates), default=-NEVER)
        return max(due * MICROSECOND, self._log.stated_due(weight))

    def _after(self, weight: int, instant: int) -> list[int]:
        """The state when `weight` has been taken at that microsecond."""
        rates = zip(self._arrivals, self._emissions, strict=True)
        return [max(arrival, instant) + weight * emission for arrival, emission in rates]

    def _claim(self, weight: int, now: int) -> bool:
        if not self._swap([*map(WORD.pack, self._after(weight, self._asked))]):
            return False
        self._log.count_stated(weight)
        return True

    def _charge(self, weight: int, name: str, now: int) -> int:
        return self._asked * MICROSECOND

    def _enter(self, weight: int, name: str, now: int, waits: bool) -> int:
        self._see(now)
        return Line._enter(self, weight, name, now, waits)

    def _refund(self, weight: int, instant: int) -> None:
        """Take back `weight`, but for what has leaked since: had it not been taken, nothing would have leaked then."""
        cleared = self._cleared
        while True:
            self._see(self._now())
            if self._cleared != cleared:
                return
            spent = max(self._asked - instant // MICROSECOND, 0)
            rates = zip(self._arrivals, self._emissions, strict=True)
            numbers = [arrival - max(weight * emission - spent, 0) for arrival, emission in rates]
            if self._swap([*map(WORD.pack, numbers)]):
                return

    def _bound(self) -> int:
        return self._bursts[0]

    def _foresee(self, last: Waiter | None, weight: int, now: int) -> int:
        """Play the line through: each waiter's permits are taken at the instant when they fit."""
        self._see(now)
        instant, due, taken = now, NEVER, 0
        for waiter in [*self._line, None]:
            units = weight if waiter is None else waiter.weight
            due = self._due_as_seen(units)
            if due != NEVER:  # others go without it
                instant = max(instant, due)
                self._arrivals = self._after(units, instant // MICROSECOND)
                self._log.count_stated(units)
                taken += units
            if waiter is last:
                break
        self._log.count_stated(-taken)
        return NEVER if due == NEVER else instant

    def _failing(self, weight: int) -> Any:
        for rate, arrival, burst, emission in zip(
            self._objects, self._arrivals, self._bursts, self._emissions, strict=True
        ):
            if weight > burst or arrival - (burst - weight) * emission > self._asked:
                return rate
        return self._objects[-1] if self._log.failing(weight) >= 0 else None  # a statement

    def _room(self, instant: int | None) -> list[int]:
        with deciding:
            self._see(clock_ns() if instant is None else instant)
            left = self._log.stated_left()
            return [max(min(room, left), 0) for room in self._rooms()]

    def _rooms(self) -> list[int]:
        """Units that each rate has left, as seen last."""
        rates = zip(self._arrivals, self._bursts, self._emissions, strict=True)
        return [burst + -max(arrival - self._asked, 0) // emission for arrival, burst, emission in rates]

    def _be_at(self, now: int) -> bool:
        self._see(now)
        return True

    def _spend(self, name: str, left: int) -> None:
        with deciding:
            self._renew()
            while True:
                now = self._now()
                self._see(now)
                weight = min(self._rooms()) - left
                if weight <= 0:
                    return
                if self._claim(weight, now):
                    break
            self._log.count_stated(-weight)  # they are of what was really admitted
            if self._line:
                self._plan(now)

    def _leak(self, instant: int) -> int:
        return 0

    def _clear(self) -> None:
        with deciding:
            self._check_open()
            with self._mapped.lock():
                self._set_word(RESETS, self._word(RESETS) + 1)
            self._record()
            while not self._swap([]):
                self._record()
            self._deny(None, None)
            self._replan()

    # Any other algorithm.

    def _read(self) -> tuple[int, tuple[float, ...]]:
        """The state as (what to tell `_replace`, its numbers)."""
        with deciding:
            words = self._record()
            floats = WORD.unpack(words.pop())[0] if words and self._which >> FLOATS & 1 else 0
            return self._which, tuple(
                (FLOAT if floats >> i & 1 else WORD).unpack(word)[0] for i, word in enumerate(words)
            )

    def _replace(self, seen: int, state: tuple[float, ...]) -> bool:
        """Replace the state, if it is what `_read` saw; say whether."""
        if len(state) > MOST - 2:
            raise ValueError(f"a state in shared memory must have at most {MOST - 2} numbers, got {len(state)}")
        words, floats = [], 0
        number: Any
        for i, number in enumerate(state):
            if isinstance(number, float):
                words.append(FLOAT.pack(number))
                floats |= 1 << i
            elif not isinstance(number, int):
                raise TypeError(f"a state in shared memory must be of numbers, got {number!r}")
            elif -(2**63) <= number < 2**63:
                words.append(WORD.pack(number))
            else:
                raise ValueError(f"a number of a state in shared memory must fit into 64 bits, got {number!r}")
        if floats:
            words.append(WORD.pack(floats))
        with deciding:
            self._record()
            if self._which != seen:
                return False
            return self._swap(words, floats != 0)
