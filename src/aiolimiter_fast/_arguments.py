"""What makes a sensible argument, and the words for what does not; the same for both engines."""

from __future__ import annotations

import copyreg
from math import isfinite
from typing import Any

MAX_RATE = 1e12
MIN_PERIOD = 1e-9
# Seconds. Within it, 2^60 nanoseconds hold every wait.
MAX_PERIOD = 1e9

newobj: Any = copyreg.__newobj__  # type: ignore[attr-defined]


def number(name: str, value: object) -> float:
    """`value` as a finite float, or a TypeError or ValueError that names it."""
    if isinstance(value, (bool, str, bytes, bytearray)) or not (
        hasattr(value, "__float__") or hasattr(value, "__index__")
    ):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        result = float(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    except OverflowError:
        result = float("inf")
    if not isfinite(result):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return result


def whole(name: str, value: object, unit: str) -> int:
    """A whole number of calls, tasks or the like, 1 or more."""
    result = number(name, value)
    if result != int(result):
        raise ValueError(f"{name} must be a whole number of {unit}, got {value!r}")
    if not 1 <= result <= MAX_RATE:
        raise ValueError(f"{name} must be 1 to {MAX_RATE:g} {unit}, got {value!r}")
    return int(result)


def amount(value: object) -> float:
    """Permits, 0 or more."""
    result = number("amount", value)
    if result < 0:
        raise ValueError(f"amount must be 0 or more, got {value!r}")
    return result


def timeout(value: object) -> float:
    """Seconds, 0 or more."""
    result = number("timeout", value)
    if result < 0:
        raise ValueError(f"timeout must be 0 or more seconds, got {value!r}")
    return result


def soon(when: float, now: float) -> None:
    """Refuse an instant that is too far away, such as the seconds since 1970 where the clock has another origin."""
    if when - now > MAX_PERIOD:
        raise ValueError(f"when must be at most {MAX_PERIOD:g} seconds from now={now:.9g}, got {when!r}")


def stated(limit: object, remaining: object, reset: object) -> tuple[float, float]:
    """Permits and seconds, -1 for what is not stated."""
    if limit is not None and not 0 < number("limit", limit) <= MAX_RATE:
        raise ValueError(f"limit must be positive and at most {MAX_RATE:g} permits, got {limit!r}")
    permits = -1.0 if remaining is None else number("remaining", remaining)
    if permits < 0 and remaining is not None:
        raise ValueError(f"remaining must be 0 or more permits, got {remaining!r}")
    seconds = -1.0 if reset is None else number("reset", reset)
    if reset is not None and not 0 <= seconds <= MAX_PERIOD:
        raise ValueError(f"reset must be 0 to {MAX_PERIOD:g} seconds, got {reset!r}")
    return permits, seconds


def period(name: str, value: object) -> float:
    """Seconds that nanoseconds can hold."""
    result = number(name, value)
    if not MIN_PERIOD <= result <= MAX_PERIOD:
        raise ValueError(f"{name} must be {MIN_PERIOD:g} to {MAX_PERIOD:g} seconds, got {value!r}")
    return result


def rate(max_rate: object, time_period: object, burst: object) -> tuple[float, float, float]:
    """Permits, seconds and permits; burst None is max_rate."""
    permits = number("max_rate", max_rate)
    if not 0 < permits <= MAX_RATE:
        raise ValueError(f"max_rate must be positive and at most {MAX_RATE:g} permits, got {max_rate!r}")
    seconds = period("time_period", time_period)
    limit = permits if burst is None else number("burst", burst)
    if not 0 < limit <= MAX_RATE:
        raise ValueError(f"burst must be positive and at most {MAX_RATE:g} permits, got {burst!r}")
    drains(permits, seconds, limit)
    return permits, seconds, limit


def drains(max_rate: float, time_period: float, level: float) -> None:
    """Refuse a level, or a single permit, that would take more than MAX_PERIOD to leak away."""
    permits = max(level, 1.0)
    if permits * (time_period / max_rate) > MAX_PERIOD:
        raise ValueError(
            f"{permits:g} permits at max_rate={max_rate:g} per time_period={time_period:g} take more than"
            f" {MAX_PERIOD:g} seconds"
        )


def too_much(caller: str, amount: object, limiter: Any) -> str:
    bound = "max_rate" if limiter.burst == limiter.max_rate else "burst"
    return f"{caller}(amount={amount!r}) exceeds {bound}={limiter.burst!r}"


def no_room(amount: object) -> str:
    return f"no room for acquire(amount={amount!r}, block=False)"


def timed_out(amount: object) -> str:
    return f"acquire(amount={amount!r}) would wait longer than its timeout"


def describe(limiter: Any) -> str:
    """The limiter as the call that makes it."""
    text = f"max_rate={limiter.max_rate!r}, time_period={limiter.time_period!r}"
    if limiter.burst != limiter.max_rate:
        text += f", burst={limiter.burst!r}"
    if limiter.fair:
        text += ", fair=True"
    return f"{type(limiter).__name__}({text})"
