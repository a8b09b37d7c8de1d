"""Decisions at times that are told, or known to lie between two readings of a clock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from aiolimiter_fast.abstracts import Rate, StateAlgorithm

if TYPE_CHECKING:
    from aiolimiter_fast.testing.contract._surroundings import Surroundings


class Schedule:
    """Puts items into a bucket, and knows for each what may come of it.

    A bucket that goes by its items' time stamps is told the time, so that is certain. Of one with a clock of its own
    the time of a decision is known to lie between two readings, and what both allow is accepted.
    """

    def __init__(self, contract: Surroundings, bucket: Any) -> None:
        self.contract = contract
        self.bucket = bucket
        self.time = contract.now(bucket)
        # What was admitted: weight, and the earliest and latest time it can have been at.
        self.entries: list[tuple[int, int, int]] = []

    def sleep(self, milliseconds: int) -> None:
        """Let time pass."""
        if self.contract.own_clock:
            self.time = self.contract.now(self.bucket)
        self.time += milliseconds
        if self.contract.own_clock:
            while (left := self.time - self.contract.now(self.bucket)) > 0:
                time.sleep(left / 1000)

    def put(self, weight: int = 1, name: str = "item") -> bool:
        """Put an item, and check what came of it."""
        contract, bucket = self.contract, self.bucket
        if contract.own_clock:
            self.time = contract.now(bucket)
        early = self.time
        admitted = contract.put(bucket, weight, early, name)
        # A reading is cut off to milliseconds, which the bucket's own clock need not be.
        late = contract.now(bucket) + 1 if contract.own_clock else early
        failing = [self._failing(rate, weight, early, late) for rate in bucket.rates]
        if admitted:
            assert True not in failing, f"admitted weight {weight} at {early}, over a limit, after {self.entries}"
            assert bucket.failing_rate is None
            self.entries.append((weight, early, late))
        else:
            assert failing != [False] * len(failing), f"denied weight {weight} at {early}, with room: {self.entries}"
            first = next(i for i, fails in enumerate(failing) if fails is not False)
            if failing[first] is True:
                assert bucket.failing_rate is bucket.rates[first]
            assert any(bucket.failing_rate is rate for rate in bucket.rates)
        return admitted

    def _failing(self, rate: Rate, weight: int, early: int, late: int) -> bool | None:
        """Whether the rate has to refuse; None if it may."""
        algorithm = self.bucket._algorithm
        if not isinstance(algorithm, StateAlgorithm):
            surely = sum(w for w, first, _ in self.entries if first >= late - rate.interval)
            perhaps = sum(w for w, _, last in self.entries if last >= early - rate.interval)
            return True if surely + weight > rate.limit else False if perhaps + weight <= rate.limit else None
        emission, instants = -(-rate.interval * 1000 // rate.limit), [0, 0]
        for units, first, last in self.entries:
            instants = [
                max(arrival, at * 1000) + units * emission for arrival, at in zip(instants, (first, last), strict=True)
            ]
        fit = [
            weight <= rate.burst and max(arrival, at * 1000) + (weight - rate.burst) * emission <= at * 1000
            for arrival, at in ((instants[0], late), (instants[1], early))
        ]
        return True if not fit[0] else False if fit[1] else None
