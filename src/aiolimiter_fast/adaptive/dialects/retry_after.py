"""Retry-After (RFC 9110, 10.2.3), as seconds, as a date, and as what servers make of it; and retry-after-ms."""

from __future__ import annotations

from collections.abc import Iterator

from aiolimiter_fast.adaptive import values
from aiolimiter_fast.adaptive.observation import Observation
from aiolimiter_fast.adaptive.response import Response, register

__all__ = ["pause", "retry_after"]


def pause(response: Response) -> float | None:
    """Seconds for which an error says to stay away, within bounds; None where it does not."""
    if response.status and response.status < 400:  # on a redirect or a 202 it is about something else
        return None
    for text in response.texts("retry-after-ms"):
        milliseconds = values.number(text)
        if milliseconds is not None and milliseconds < values.EPOCH * 1000:
            return response.pause(milliseconds / 1000)
    seconds, _ = response.latest("retry-after")
    if seconds is None:
        # A wait beyond belief is still a wait.
        beyond = max((values.number(text) or 0.0 for text in response.texts("retry-after")), default=0.0)
        moment = values.epoch(beyond) or max(
            (values.instant(text) or 0.0 for text in response.texts("retry-after")), default=0.0
        )
        seconds = response.max_pause if moment > response.now else None
    return response.pause(seconds)


def retry_after(response: Response) -> Iterator[Observation]:
    seconds = pause(response)
    if seconds is not None:
        yield Observation(pause_for=seconds, dialect="retry-after")


register("retry-after", retry_after)
