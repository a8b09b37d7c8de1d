"""Buckets, one file per place where their permits are kept."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from aiolimiter_fast.buckets.in_memory_bucket import InMemoryBucket
from aiolimiter_fast.buckets.mp_bucket import MultiprocessBucket
from aiolimiter_fast.buckets.redis_bucket import RedisBucket
from aiolimiter_fast.buckets.redis_state import RedisStateStore
from aiolimiter_fast.buckets.state_bucket import InMemoryStateStore, MultiprocessStateStore, StateBucket

if _TYPE_CHECKING:
    from aiolimiter_fast.buckets.postgres import PostgresBucket
    from aiolimiter_fast.buckets.postgres import Queries as PgQueries
    from aiolimiter_fast.buckets.shared_memory import SharedMemoryBucket, SharedMemoryStateBucket
    from aiolimiter_fast.buckets.sqlite_bucket import Queries as SQLiteQueries
    from aiolimiter_fast.buckets.sqlite_bucket import SQLiteBucket, SQLiteClock

__all__ = [
    "InMemoryBucket", "InMemoryStateStore", "MultiprocessBucket", "MultiprocessStateStore", "PgQueries",
    "PostgresBucket", "RedisBucket", "RedisStateStore", "SQLiteBucket", "SQLiteClock", "SQLiteQueries",
    "SharedMemoryBucket", "SharedMemoryStateBucket", "StateBucket",
]  # fmt: skip

# What is loaded when it is first asked for: its module, and its name there.
_LAZY = {
    "PgQueries": ("postgres", "Queries"),
    "PostgresBucket": ("postgres", "PostgresBucket"),
    "SQLiteBucket": ("sqlite_bucket", "SQLiteBucket"),
    "SQLiteClock": ("sqlite_bucket", "SQLiteClock"),
    "SQLiteQueries": ("sqlite_bucket", "Queries"),
    "SharedMemoryBucket": ("shared_memory", "SharedMemoryBucket"),
    "SharedMemoryStateBucket": ("shared_memory", "SharedMemoryStateBucket"),
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    value: object = getattr(_import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value
