"""How much in how long: Duration, Rate, and the item that is put into a bucket."""

from __future__ import annotations

from enum import Enum
from typing import Any

from aiolimiter_fast import _arguments
from aiolimiter_fast._engine import engine

__all__ = ["Duration", "Rate", "RateItem"]


class Duration(Enum):
    """Units of time, in milliseconds. They multiply and add up to whole milliseconds."""

    SECOND = 1000
    MINUTE = 60_000
    HOUR = 3_600_000
    DAY = 86_400_000
    WEEK = 604_800_000

    def __int__(self) -> int:
        return int(self.value)

    def __mul__(self, factor: float) -> int:
        return int(self.value * factor)

    __rmul__ = __mul__

    def __add__(self, other: Any) -> int:
        return int(self.value + int(other))

    __radd__ = __add__

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (int, Duration)):
            return bool(self.value == int(other))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal to an int, so no hash of its own would do

    @staticmethod
    def readable(value: float) -> str:
        """Milliseconds in the largest unit that is not longer, as in 1.5h."""
        for unit in reversed(Duration):
            if value >= unit.value:
                return f"{value / unit.value:0.1f}{unit.name[0].lower()}"
        return f"{value}ms"


class Rate(engine.Watched):
    """At most so many permits in any interval.

    Arguments:
        limit: permits, 1 or more.
        interval: milliseconds or a Duration, 1 or more; fractions are cut off.
        burst: permits at once, for algorithms that know bursts; 1 or more, default limit.

    A rate can be changed while in use. Two rates are equal only if they are the same one.

    Raises AssertionError if one of them is out of bounds, TypeError if it is no number.
    """

    def __init__(self, limit: int, interval: int | Duration, burst: int | None = None) -> None:
        milliseconds = int(_arguments.number("interval", int(interval) if isinstance(interval, Duration) else interval))
        if milliseconds < 1:
            raise AssertionError(f"interval must be at least 1 millisecond, got {interval!r}")
        for name, value in (("limit", limit), ("burst", limit if burst is None else burst)):
            if _arguments.number(name, value) < 1:
                raise AssertionError(f"{name} must be at least 1 permit, got {value!r}")
        self.limit = limit
        self.interval = milliseconds
        self.burst = limit if burst is None else burst

    def _described(self, interval: object) -> str:
        burst = "" if self.burst == self.limit else f", burst={self.burst}"
        return f"limit={self.limit}/{interval}{burst}"

    def __str__(self) -> str:
        return self._described(Duration.readable(self.interval))

    def __repr__(self) -> str:
        return self._described(self.interval)


class RateItem:
    """What is put into a bucket: a name, a time stamp in milliseconds, and a weight in permits."""

    noted: Any = None  # by the bucket that decided about it last

    def __init__(self, name: str, timestamp: int, weight: int = 1) -> None:
        self.name = name
        self.timestamp = timestamp
        self.weight = weight

    def __str__(self) -> str:
        return f"RateItem(name={self.name}, weight={self.weight}, timestamp={self.timestamp})"
