"""The package's own buckets keep the contract, and the contract notices those that do not."""

from __future__ import annotations

from typing import Any

from aiolimiter_fast import BucketAsyncWrapper, InMemoryBucket, Rate, RateItem, StateBucket
from aiolimiter_fast.testing import BucketContract


class TestInMemoryBucket(BucketContract):
    threads = True

    def make_bucket(self, rates: list[Rate], name: str) -> InMemoryBucket:
        return InMemoryBucket(rates)


class TestStateBucket(BucketContract):
    threads = True

    def make_bucket(self, rates: list[Rate], name: str) -> StateBucket:
        return StateBucket(rates)


class TestBucketAsyncWrapper(BucketContract):
    def make_bucket(self, rates: list[Rate], name: str) -> BucketAsyncWrapper:
        return BucketAsyncWrapper(InMemoryBucket(rates))


class SelfTimed(InMemoryBucket):
    """Goes by its own clock, whatever an item says, as a server does."""

    def put(self, item: RateItem) -> bool:
        return super().put(RateItem(item.name, self._clock.now(), item.weight))  # type: ignore[arg-type]

    def waiting(self, item: RateItem) -> Any:
        return super().waiting(RateItem(item.name, self._clock.now(), item.weight))  # type: ignore[arg-type]


class TestABucketWithAClockOfItsOwn(BucketContract):
    threads = True
    own_clock = True

    def make_bucket(self, rates: list[Rate], name: str) -> InMemoryBucket:
        return SelfTimed(rates)


def test_what_a_bucket_does_not_claim_is_not_tested() -> None:
    class Modest(BucketContract):
        pass

    class Proud(Modest):
        shared = persistent = threads = processes = True

    for test in ("test_threads_get_exactly_the_limit", "test_a_killed_process_stops_nobody_and_what_it_took_counts"):
        assert getattr(Modest, test) is None
        assert getattr(Proud, test) is getattr(BucketContract, test)
