"""Limiters ready to use, named as pyrate-limiter names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiolimiter_fast.abstracts.algorithm import TokenBucket
from aiolimiter_fast.abstracts.bucket import AbstractBucket
from aiolimiter_fast.abstracts.rate import Duration, Rate
from aiolimiter_fast.buckets.state_bucket import StateBucket
from aiolimiter_fast.limiter import Limiter

if TYPE_CHECKING:
    from aiolimiter_fast.buckets.sqlite_bucket import SQLiteBucket

__all__ = [
    "create_inmemory_limiter", "create_sqlite_bucket", "create_sqlite_limiter", "create_token_bucket_limiter",
    "init_global_limiter",
]  # fmt: skip

# The limiter of a worker process, see `init_global_limiter`.
LIMITER: Limiter | None = None


def create_sqlite_bucket(
    rates: list[Rate], db_path: str | None, table_name: str = "pyrate_limiter", use_file_lock: bool = False
) -> SQLiteBucket:
    """Make a bucket in a table of an SQLite file; None as db_path makes a file in the folder for temporary ones."""
    from aiolimiter_fast.buckets.sqlite_bucket import SQLiteBucket

    return SQLiteBucket.init_from_file(rates, table_name, db_path, use_file_lock=use_file_lock)


def create_sqlite_limiter(
    rate_per_duration: int = 3,
    duration: int | Duration = Duration.SECOND,
    db_path: str | None = None,
    table_name: str = "rate_bucket",
    buffer_ms: int = 50,
    use_file_lock: bool = False,
) -> Limiter:
    """Make a limiter over `create_sqlite_bucket`: at most `rate_per_duration` permits in any `duration`."""
    rates = [Rate(rate_per_duration, duration)]
    return Limiter(create_sqlite_bucket(rates, db_path, table_name, use_file_lock), buffer_ms=buffer_ms)


def create_inmemory_limiter(
    rate_per_duration: int = 3, duration: int | Duration = Duration.SECOND, buffer_ms: int = 50
) -> Limiter:
    """Make a limiter in memory: at most `rate_per_duration` permits in any `duration` (ms or a Duration)."""
    return Limiter(Rate(rate_per_duration, duration), buffer_ms=buffer_ms)


def create_token_bucket_limiter(
    rate_per_duration: int = 3,
    duration: int | Duration = Duration.SECOND,
    burst: int | None = None,
    buffer_ms: int = 50,
) -> Limiter:
    """Make a limiter that admits `burst` at once (default rate_per_duration), then an even stream."""
    bucket = StateBucket([Rate(rate_per_duration, duration, burst)], algorithm=TokenBucket())
    return Limiter(bucket, buffer_ms=buffer_ms)


def init_global_limiter(bucket: AbstractBucket, buffer_ms: int = 50) -> None:
    """Make `LIMITER` of this process, for the initializer of a process pool."""
    global LIMITER
    LIMITER = Limiter(bucket, buffer_ms=buffer_ms)
