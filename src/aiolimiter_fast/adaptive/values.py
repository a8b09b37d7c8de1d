"""Numbers, durations and dates as servers write them; None for whatever makes no sense.

Every pattern is anchored and bounded, so that no text costs more than its first characters.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from functools import lru_cache

__all__ = ["duration", "instant", "number", "whole_list"]

# The largest count that a server may state, and the longest text that is looked at.
MOST = 1e12
LONGEST = 80
# Above this, a number of seconds is a date: nobody's quota resets in three years.
EPOCH = 1e8

_NUMBER = re.compile(r"\+?([0-9]{1,19}(?:\.[0-9]{0,19})?|\.[0-9]{1,19})")
_PART = r"(?:[0-9]{1,12}(?:\.[0-9]{1,12})?)(?:ms|us|µs|μs|ns|d|h|m|s)"
_DURATION = re.compile(rf"(?:{_PART}){{1,6}}")
_PARTS = re.compile(r"([0-9.]+)([a-zµμ]+)")
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(\.[0-9]{1,20})?"
    r" ?([Zz]|[+-][0-9]{2}:?[0-9]{2})?"
)


def number(text: str) -> float | None:
    """A plain decimal number, 0 or more and not larger than dates in nanoseconds are."""
    text = text[: LONGEST + 1].strip()
    if len(text) > LONGEST or not _NUMBER.fullmatch(text):
        return None
    return float(text)


def count(text: str) -> float | None:
    """Permits."""
    value = number(text)
    return None if value is None or value > MOST else value


def whole_list(texts: list[str]) -> list[str]:
    """The members of a header that was repeated, or joined by commas; parameters behind `;` are left out."""
    if not texts:
        return [""]
    joined = ",".join(texts)[:2000]
    return [member.partition(";")[0].strip() for member in joined.split(",")]


def duration(text: str) -> float | None:
    """Seconds of `6m0s`, `20ms`, `1h2m3.5s`."""
    text = text[: LONGEST + 1].strip()
    if len(text) > LONGEST or not _DURATION.fullmatch(text):
        return None
    return sum(float(value) * _UNITS[unit] for value, unit in _PARTS.findall(text))


@lru_cache(maxsize=32)  # every response has its Date, most of them the same
def instant(text: str) -> float | None:
    """Unix time of an ISO 8601 or RFC 3339 time (UTC where no zone is given), or of an HTTP date."""
    text = text[: LONGEST + 1].strip()
    if len(text) > LONGEST or not text.isascii():
        return None
    match = _ISO.fullmatch(text)
    try:
        if match is None:
            moment = parsedate_to_datetime(text)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=timezone.utc)
            return moment.timestamp()
        year, month, day, hour, minute, second = map(int, match.groups()[:6])
        zone = timezone.utc
        offset = match[8]
        if offset and offset not in "Zz":
            sign = -1 if offset[0] == "-" else 1
            zone = timezone(sign * timedelta(hours=int(offset[1:3]), minutes=int(offset[-2:])))
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=zone)
        return moment.timestamp() + float(match[7] or 0)
    except (ValueError, TypeError, IndexError, OverflowError, AttributeError):
        return None


def epoch(value: float) -> float | None:
    """Unix time of a number that is too large for a delay: seconds, milliseconds, microseconds or nanoseconds."""
    if value < EPOCH:
        return None
    while value >= 1e11:
        value /= 1000
    return value
