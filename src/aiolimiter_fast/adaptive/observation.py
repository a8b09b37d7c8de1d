"""What one response tells about one quota."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

__all__ = ["Observation"]


@dataclass(frozen=True)
class Observation:
    """What a server said of a quota, at the moment when it answered.

    Attributes, each None where it was not said:
        limit: permits in a window.
        remaining: permits left.
        used: permits used, where a server tells that and no limit.
        reset_after: seconds until there are more, counted from the response.
        reset_at: the same as Unix time of the server's clock, where the server stated an instant. It names the window.
        window: the window's length in seconds.
        pause_for: seconds for which the server wants no request at all.
        resource: which of a server's quotas it is; "" where it has but one.
        unit: what is counted: "requests", "tokens", "weight", ...
        dialect: who speaks so.

    Raises ValueError, naming the field, for what is not finite or negative.

    Example:
        from aiolimiter_fast import Observation

        assert Observation(limit=100, remaining=7, reset_after=30.0).unit == "requests"
    """

    limit: float | None = None
    remaining: float | None = None
    used: float | None = None
    reset_after: float | None = None
    reset_at: float | None = None
    window: float | None = None
    pause_for: float | None = None
    resource: str = ""
    unit: str = "requests"
    dialect: str = ""

    def __post_init__(self) -> None:
        for name in ("limit", "remaining", "used", "reset_after", "reset_at", "window", "pause_for"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise TypeError(f"{name} must be a number or None, got {value!r}")
            try:
                sensible = isfinite(value) and value >= 0
            except OverflowError:
                sensible = False
            if not sensible:
                raise ValueError(f"{name} must be finite and 0 or more, got {value!r}")
