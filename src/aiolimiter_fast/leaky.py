"""AsyncLimiter, a drop-in for aiolimiter's; both engines define the class whole, since a layer would cost time."""

from __future__ import annotations

from aiolimiter_fast._engine import engine

AsyncLimiter = engine.AsyncLimiter

__all__ = ["AsyncLimiter"]
