"""For tests, users' and ours: a clock that is told the time, and the contract that every bucket must keep."""

from typing import TYPE_CHECKING

from aiolimiter_fast.testing.clock import ManualClock

if TYPE_CHECKING:
    from aiolimiter_fast.testing.contract import BucketContract

__all__ = ["BucketContract", "ManualClock"]


def __getattr__(name: str) -> object:
    if name != "BucketContract":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest

    # As for tests in a user's own files: a failure shows the values.
    pytest.register_assert_rewrite("aiolimiter_fast.testing.contract")
    from aiolimiter_fast.testing.contract import BucketContract

    return BucketContract
