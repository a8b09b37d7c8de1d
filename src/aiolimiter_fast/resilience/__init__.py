"""Retries that wait as they are told, and a circuit breaker. Retries need tenacity: the extra `resilience`."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from aiolimiter_fast.errors import CircuitOpen
from aiolimiter_fast.resilience.adapters import Breaker, as_breaker
from aiolimiter_fast.resilience.breaker import CircuitBreaker, Passage
from aiolimiter_fast.resilience.outcomes import is_connection_error, is_failure, is_idempotent, is_transient
from aiolimiter_fast.resilience.retry_budget import RetryBudget

if _TYPE_CHECKING:
    from aiolimiter_fast.resilience.retrying import retry_if_transient, retry_options, wait_as_told

_WITH_TENACITY = ("retry_if_transient", "retry_options", "wait_as_told")

__all__ = [
    "Breaker", "CircuitBreaker", "CircuitOpen", "Passage", "RetryBudget", "as_breaker", "is_connection_error",
    "is_failure", "is_idempotent", "is_transient", "retry_if_transient", "retry_options", "wait_as_told",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _WITH_TENACITY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(_import_module(f"{__name__}.retrying"), name)
    globals()[name] = value
    return value
