"""What is told of a response, in the forms in which it comes: observations, and a status."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiolimiter_fast.adaptive.observation import Observation
from aiolimiter_fast.adaptive.response import parse

__all__ = ["read"]


def read(seen: Any, status: int | None, max_pause: float) -> tuple[tuple[Observation, ...], int]:
    """Observations and status of a response, of headers, of an Observation or of several; 0 where there is no status.

    Raises TypeError for what is none of these.
    """
    if isinstance(seen, Observation):
        return (seen,), status or 0
    headers = getattr(seen, "headers", None)
    if headers is not None:
        if status is None:
            status = getattr(seen, "status_code", None)
            if status is None:
                status = getattr(seen, "status", 0)
        code = status if isinstance(status, int) else 0
        return parse(headers, code, max_pause=max_pause), code
    if isinstance(seen, (str, bytes)) or not isinstance(seen, Iterable):
        raise TypeError(f"seen must be a response, headers or Observations, got {seen!r}")
    listed = seen if hasattr(seen, "items") else list(seen)
    if isinstance(listed, list) and listed and all(isinstance(each, Observation) for each in listed):
        return tuple(listed), status or 0
    return parse(listed, status or 0, max_pause=max_pause), status or 0
