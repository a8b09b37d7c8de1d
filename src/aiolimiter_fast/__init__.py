"""Rate limiting for Python at the cost of one clock read."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from aiolimiter_fast._version import __version__
from aiolimiter_fast.compat import install
from aiolimiter_fast.errors import (
    AcquireTimeout,
    BackendUnavailable,
    LimiterError,
    LimitReached,
    SharedMemoryError,
)
from aiolimiter_fast.leaky import AsyncLimiter

if _TYPE_CHECKING:
    from aiolimiter_fast import batch, limiter_factory, pacing
    from aiolimiter_fast.abstracts import (
        GCRA,
        AbstractBucket,
        Algorithm,
        BucketAsyncWrapper,
        BucketFactory,
        Decision,
        Duration,
        FixedWindow,
        LogAlgorithm,
        Rate,
        RateItem,
        SlidingWindowLog,
        StateAlgorithm,
        StateStore,
        TokenBucket,
    )
    from aiolimiter_fast.adaptive import AdaptiveLimiter, Observation
    from aiolimiter_fast.batch import amap, run_all, run_any, run_on_each
    from aiolimiter_fast.buckets import (
        InMemoryBucket,
        InMemoryStateStore,
        MultiprocessBucket,
        MultiprocessStateStore,
        PgQueries,
        PostgresBucket,
        RedisBucket,
        RedisStateStore,
        SharedMemoryBucket,
        SharedMemoryStateBucket,
        SQLiteBucket,
        SQLiteClock,
        SQLiteQueries,
        StateBucket,
    )
    from aiolimiter_fast.clocks import AbstractClock, MonotonicAsyncClock, MonotonicClock, PostgresClock, WallClock
    from aiolimiter_fast.limiter import Counters, Limiter, SingleBucketFactory
    from aiolimiter_fast.pacing import LeakyBucketLimiter, StrictLimiter, Throttler
    from aiolimiter_fast.pool import WorkerPool
    from aiolimiter_fast.resilience import CircuitBreaker
    from aiolimiter_fast.throttle import Throttle
    from aiolimiter_fast.utils import dedicated_sqlite_clock_connection, id_generator, validate_rate_list

# What is loaded when it is first asked for, by module: those who only want AsyncLimiter do not pay for it.
_LAZY = {
    "abstracts": (
        "GCRA", "AbstractBucket", "Algorithm", "BucketAsyncWrapper", "BucketFactory", "Decision", "Duration",
        "FixedWindow", "LogAlgorithm", "Rate", "RateItem", "SlidingWindowLog", "StateAlgorithm", "StateStore",
        "TokenBucket",
    ),
    "adaptive": ("AdaptiveLimiter", "Observation"),
    "batch": ("amap", "batch", "run_all", "run_any", "run_on_each"),
    "buckets": (
        "InMemoryBucket", "InMemoryStateStore", "MultiprocessBucket", "MultiprocessStateStore", "PgQueries",
        "PostgresBucket", "RedisBucket", "RedisStateStore", "SQLiteBucket", "SQLiteClock", "SQLiteQueries",
        "SharedMemoryBucket", "SharedMemoryStateBucket", "StateBucket",
    ),
    "clocks": ("AbstractClock", "MonotonicAsyncClock", "MonotonicClock", "PostgresClock", "WallClock"),
    "limiter": ("Counters", "Limiter", "SingleBucketFactory"),
    "limiter_factory": ("limiter_factory",),
    "pacing": ("LeakyBucketLimiter", "StrictLimiter", "Throttler", "pacing"),
    "pool": ("WorkerPool",),
    "resilience": ("CircuitBreaker",),
    "throttle": ("Throttle",),
    "utils": ("dedicated_sqlite_clock_connection", "id_generator", "validate_rate_list"),
}  # fmt: skip
_HOME = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "GCRA", "AbstractBucket", "AbstractClock", "AcquireTimeout", "AdaptiveLimiter", "Algorithm", "AsyncLimiter",
    "BackendUnavailable", "BucketAsyncWrapper", "BucketFactory", "CircuitBreaker", "Counters", "Decision",
    "Duration", "FixedWindow", "InMemoryBucket", "InMemoryStateStore", "LeakyBucketLimiter", "LimitReached",
    "Limiter", "LimiterError", "LogAlgorithm", "MonotonicAsyncClock", "MonotonicClock", "MultiprocessBucket",
    "MultiprocessStateStore", "Observation", "PgQueries", "PostgresBucket", "PostgresClock", "Rate", "RateItem",
    "RedisBucket", "RedisStateStore", "SQLiteBucket", "SQLiteClock", "SQLiteQueries", "SharedMemoryBucket",
    "SharedMemoryError", "SharedMemoryStateBucket", "SingleBucketFactory", "SlidingWindowLog", "StateAlgorithm",
    "StateBucket", "StateStore", "StrictLimiter", "Throttle", "Throttler", "TokenBucket", "WallClock", "WorkerPool",
    "__version__", "amap", "batch", "dedicated_sqlite_clock_connection", "id_generator", "install", "limiter_factory",
    "pacing", "run_all", "run_any", "run_on_each", "validate_rate_list",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _import_module(f"{__name__}.{_HOME[name]}")
    value: object = module if name == _HOME[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
