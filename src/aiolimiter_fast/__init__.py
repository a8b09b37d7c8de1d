"""Rate limiting for Python at the cost of one clock read."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from aiolimiter_fast._version import __version__
from aiolimiter_fast.compat import install
from aiolimiter_fast.errors import AcquireTimeout, LimiterError, LimitReached
from aiolimiter_fast.leaky import AsyncLimiter

if _TYPE_CHECKING:
    from aiolimiter_fast import batch, limiter_factory
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
    from aiolimiter_fast.batch import amap, run_all, run_any, run_on_each
    from aiolimiter_fast.buckets import (
        InMemoryBucket,
        InMemoryStateStore,
        MultiprocessBucket,
        MultiprocessStateStore,
        StateBucket,
    )
    from aiolimiter_fast.clocks import AbstractClock, MonotonicAsyncClock, MonotonicClock, WallClock
    from aiolimiter_fast.limiter import Counters, Limiter, SingleBucketFactory
    from aiolimiter_fast.pool import WorkerPool
    from aiolimiter_fast.throttle import Throttle
    from aiolimiter_fast.utils import id_generator, validate_rate_list

# What is loaded when it is first asked for, by module: those who only want AsyncLimiter do not pay for it.
_LAZY = {
    "abstracts": (
        "GCRA", "AbstractBucket", "Algorithm", "BucketAsyncWrapper", "BucketFactory", "Decision", "Duration",
        "FixedWindow", "LogAlgorithm", "Rate", "RateItem", "SlidingWindowLog", "StateAlgorithm", "StateStore",
        "TokenBucket",
    ),
    "batch": ("amap", "batch", "run_all", "run_any", "run_on_each"),
    "buckets": (
        "InMemoryBucket", "InMemoryStateStore", "MultiprocessBucket", "MultiprocessStateStore", "StateBucket",
    ),
    "clocks": ("AbstractClock", "MonotonicAsyncClock", "MonotonicClock", "WallClock"),
    "limiter": ("Counters", "Limiter", "SingleBucketFactory"),
    "limiter_factory": ("limiter_factory",),
    "pool": ("WorkerPool",),
    "throttle": ("Throttle",),
    "utils": ("id_generator", "validate_rate_list"),
}  # fmt: skip
_HOME = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "GCRA", "AbstractBucket", "AbstractClock", "AcquireTimeout", "Algorithm", "AsyncLimiter", "BucketAsyncWrapper",
    "BucketFactory", "Counters", "Decision", "Duration", "FixedWindow", "InMemoryBucket", "InMemoryStateStore",
    "LimitReached", "Limiter", "LimiterError", "LogAlgorithm", "MonotonicAsyncClock", "MonotonicClock",
    "MultiprocessBucket", "MultiprocessStateStore", "Rate", "RateItem", "SingleBucketFactory", "SlidingWindowLog",
    "StateAlgorithm", "StateBucket", "StateStore", "Throttle", "TokenBucket", "WallClock", "WorkerPool", "__version__",
    "amap", "batch", "id_generator", "install", "limiter_factory", "run_all", "run_any", "run_on_each",
    "validate_rate_list",
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
