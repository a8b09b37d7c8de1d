"""One response as the dialects see it, and who the dialects are."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiolimiter_fast import _arguments
from aiolimiter_fast.adaptive import values
from aiolimiter_fast.adaptive.observation import Observation

__all__ = ["DIALECTS", "MAX_PAUSE", "REFUSALS", "Dialect", "Headers", "Response", "parse", "register", "unregister"]

# Seconds. The longest pause that a server is believed, unless asked otherwise.
MAX_PAUSE = 300.0
# No window is longer than a month and a day, and no reset further off: the rest is a wrong clock.
MAX_RESET = 32 * 86400.0
# A reset that has passed by no more than this is now, with a clock that is a little wrong.
PAST = 60.0
# Statuses by which servers say "not now". 418 is what Binance bans with.
REFUSALS = frozenset((418, 429, 503))
# What is looked at in a response: headers, and characters of a header.
MOST_HEADERS = 500
MOST_TEXT = 4096

Headers = Mapping[Any, Any] | Iterable[tuple[Any, Any]]

_log = logging.getLogger("aiolimiter_fast.adaptive")


class Response:
    """Headers, status and time of a response.

    Attributes:
        status: the HTTP status; 0 if it is not known.
        now: Unix time when it was answered, by the server's clock where its Date says so, else by ours.
        max_pause: the longest pause in seconds that is believed.
    """

    __slots__ = ("_fields", "age", "max_pause", "now", "status")

    def __init__(self, headers: Headers, status: int, now: float, max_pause: float = MAX_PAUSE) -> None:
        self.status = status
        self.max_pause = max_pause
        self._fields: dict[str, list[str]] = {}
        for name, value in _pairs(headers):
            self._fields.setdefault(name, []).append(value)
        self.age = values.number(self.text("age")) or 0.0
        self.now = now
        date = values.instant(self.text("date"))
        if date is not None and date > 0:
            # It is truncated to the second, and a moment old. Where our clock agrees with it, that is finer.
            date += min(self.age, MAX_RESET)
            self.now = now if date <= now < date + 2 else date

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    @property
    def names(self) -> Iterable[str]:
        """The headers' names, in lower case."""
        return self._fields.keys()

    @property
    def is_refusal(self) -> bool:
        return self.status in REFUSALS

    def texts(self, name: str) -> list[str]:
        """Every value of a header, its name in lower case; [] if it is not there."""
        return self._fields.get(name, [])

    def text(self, name: str) -> str:
        """The first value of a header, or ""."""
        found = self._fields.get(name)
        return found[0] if found else ""

    def least(self, name: str) -> float | None:
        """The least of the counts that a header holds, should it be repeated."""
        if name not in self._fields:
            return None
        found = [value for text in values.whole_list(self.texts(name)) if (value := values.count(text)) is not None]
        return min(found, default=None)

    def until(self, text: str) -> tuple[float | None, float | None]:
        """Seconds until what a header says, and the Unix time if it is a date; (None, None) if it makes no sense.

        A number of seconds, a duration like `6m0s`, Unix time in seconds to nanoseconds, or a date.
        """
        value = values.number(text)
        if value is None:
            value = values.duration(text)
            moment = values.instant(text) if value is None else None
        else:
            moment = values.epoch(value)
        if moment is None:
            return (None, None) if value is None or value > MAX_RESET else (value, None)
        seconds = moment - self.now
        if not -PAST <= seconds <= MAX_RESET:
            return None, None
        return max(seconds, 0.0), max(moment, 0.0)

    def latest(self, name: str) -> tuple[float | None, float | None]:
        """What `until` says of a header; the latest of several."""
        if name not in self._fields:
            return None, None
        found = [self.until(text) for text in self.texts(name)]
        if all(seconds is None for seconds, _ in found):  # or several joined by commas, which dates contain too
            found = [self.until(text) for text in values.whole_list(self.texts(name))]
        known = [each for each in found if each[0] is not None]
        return max(known, key=lambda each: each[0] or 0.0, default=(None, None))

    def pause(self, seconds: float | None) -> float | None:
        """A pause within bounds."""
        return None if seconds is None else min(max(seconds, 0.0), self.max_pause)


Dialect = Callable[[Response], Iterable[Observation]]
DIALECTS: dict[str, Dialect] = {}


def register(name: str, dialect: Dialect) -> None:
    """Add a dialect, or replace the one of that name.

    Arguments:
        name: how it is called.
        dialect: a function of a Response that gives the Observations it finds there, if any. One that raises is
            passed over, and the error logged.

    Raises TypeError if it is none.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {name!r}")
    if not callable(dialect):
        raise TypeError(f"dialect must be a function of a Response, got {dialect!r}")
    DIALECTS[name] = dialect


def unregister(name: str) -> None:
    """Forget a dialect; one that is not there is forgotten already."""
    DIALECTS.pop(name, None)


def parse(
    headers: Headers, status: int = 200, now: float | None = None, *, max_pause: float = MAX_PAUSE
) -> tuple[Observation, ...]:
    """Read what a response's headers say of the server's quotas.

    Arguments:
        headers: a mapping, or pairs of name and value, str or bytes; names in any case, and repeated as they may be.
        status: the response's status.
        now: Unix time at which it came; None is now. It matters only for dates, and only where the response has no
            Date of its own: a wrong local clock does no harm there.
        max_pause: the longest pause in seconds that a server is believed.

    What makes no sense is not there: nothing that a server sends raises. A response out of a cache (with an Age) says
    nothing of the quota as it is.

    Raises ValueError or TypeError if max_pause is no positive number of seconds, or now no number.

    Example:
        from aiolimiter_fast.adaptive import parse

        (seen,) = parse({"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "7", "X-RateLimit-Reset": "30"})
        assert (seen.limit, seen.remaining, seen.reset_after) == (100, 7, 30)
    """
    longest = _arguments.number("max_pause", max_pause)
    if longest <= 0:
        raise ValueError(f"max_pause must be positive, got {max_pause!r}")
    moment = time.time() if now is None else _arguments.number("now", now)
    response = Response(headers, status, moment, longest)
    found: list[Observation] = []
    for name, dialect in list(DIALECTS.items()):
        try:
            seen = list(dialect(response))
        except Exception:
            _log.warning("dialect %r failed", name, exc_info=True)
            continue
        found += seen
    if response.age > 0:
        found = [each for each in found if each.pause_for is not None]
    return tuple(found)


def _pairs(headers: Any) -> Iterable[tuple[str, str]]:
    """Names in lower case and values, of whatever there is that looks like headers."""
    several = getattr(headers, "multi_items", None)  # httpx
    if callable(several):
        items: Any = several()
    elif isinstance(headers, Mapping) or hasattr(headers, "items"):
        items = headers.items()
    else:
        items = headers
    for number, (name, value) in enumerate(items):
        if number >= MOST_HEADERS:
            return
        name = _text(name)
        for each in value if isinstance(value, (list, tuple)) else (value,):
            yield name.strip().lower(), _text(each)


def _text(value: Any) -> str:
    if isinstance(value, (bytes, bytearray)):
        value = value[:MOST_TEXT].decode("latin-1")
    if isinstance(value, int):
        return format(value, "d") if -(10**20) < value < 10**20 else ""
    return value[:MOST_TEXT] if isinstance(value, str) else str(value)[:MOST_TEXT]
