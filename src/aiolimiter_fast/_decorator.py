"""Limiters as decorators."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from aiolimiter_fast import _arguments


def limited(limiter: Any, function: Any, amount: object) -> Any:
    """Wrap an async function so that each call acquires first; without one, return the decorator."""
    _arguments.amount(amount)
    if function is None:
        return lambda target: limited(limiter, target, amount)
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"a limiter decorates async functions, got {function!r}")

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        await limiter.acquire(amount)
        return await function(*args, **kwargs)

    return wrapper
