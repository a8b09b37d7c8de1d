"""Buckets, one file per place where their permits are kept."""

from aiolimiter_fast.buckets.in_memory_bucket import InMemoryBucket
from aiolimiter_fast.buckets.mp_bucket import MultiprocessBucket
from aiolimiter_fast.buckets.shared_memory import SharedMemoryBucket
from aiolimiter_fast.buckets.state_bucket import InMemoryStateStore, MultiprocessStateStore, StateBucket

__all__ = [
    "InMemoryBucket",
    "InMemoryStateStore",
    "MultiprocessBucket",
    "MultiprocessStateStore",
    "SharedMemoryBucket",
    "StateBucket",
]
