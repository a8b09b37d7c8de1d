"""The vocabulary of pyrate-limiter: rates, algorithms, buckets, stores."""

from aiolimiter_fast.abstracts.algorithm import (
    GCRA,
    Algorithm,
    Decision,
    FixedWindow,
    LogAlgorithm,
    SlidingWindowLog,
    State,
    StateAlgorithm,
    TokenBucket,
)
from aiolimiter_fast.abstracts.bucket import AbstractBucket, BucketFactory
from aiolimiter_fast.abstracts.rate import Duration, Rate, RateItem
from aiolimiter_fast.abstracts.store import StateStore
from aiolimiter_fast.abstracts.wrappers import BucketAsyncWrapper

__all__ = [
    "GCRA", "AbstractBucket", "Algorithm", "BucketAsyncWrapper", "BucketFactory", "Decision", "Duration", "FixedWindow",
    "LogAlgorithm", "Rate", "RateItem", "SlidingWindowLog", "State", "StateAlgorithm", "StateStore", "TokenBucket",
]  # fmt: skip
