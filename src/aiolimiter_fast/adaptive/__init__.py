"""Quotas learnt from what servers answer."""

from aiolimiter_fast.adaptive import dialects
from aiolimiter_fast.adaptive.limiter import AdaptiveLimiter, Call
from aiolimiter_fast.adaptive.observation import Observation
from aiolimiter_fast.adaptive.response import MAX_PAUSE, Response, parse, register, unregister

__all__ = [
    "MAX_PAUSE",
    "AdaptiveLimiter",
    "Call",
    "Observation",
    "Response",
    "dialects",
    "parse",
    "register",
    "unregister",
]
