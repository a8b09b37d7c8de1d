"""Any bucket as an asynchronous one."""

from __future__ import annotations

from inspect import isawaitable
from typing import Any

from aiolimiter_fast.abstracts.bucket import AbstractBucket
from aiolimiter_fast.abstracts.rate import Rate, RateItem

__all__ = ["BucketAsyncWrapper"]


class BucketAsyncWrapper(AbstractBucket):
    """A bucket whose methods are to be awaited, around one of any kind.

    Argument: bucket. Raises AssertionError if it is none.
    """

    is_async = True

    def __init__(self, bucket: AbstractBucket) -> None:
        if not isinstance(bucket, AbstractBucket):
            raise AssertionError(f"bucket must be an AbstractBucket, got {bucket!r}")
        self.bucket = bucket

    @property
    def needs_leak(self) -> bool:  # type: ignore[override]
        return self.bucket.needs_leak

    @property
    def exact_wait(self) -> bool:  # type: ignore[override]
        return self.bucket.exact_wait

    @property
    def _algorithm(self) -> Any:  # type: ignore[override]
        return self.bucket._algorithm

    @property
    def failing_rate(self) -> Rate | None:  # type: ignore[override]
        return self.bucket.failing_rate

    @property
    def rates(self) -> list[Rate]:
        return self.bucket.rates

    @rates.setter
    def rates(self, rates: list[Rate]) -> None:
        self.bucket.rates = rates

    def now(self) -> Any:
        return self.bucket.now()

    def scheduled(self) -> None:
        self.bucket.scheduled()

    async def put(self, item: RateItem) -> bool:
        return bool(await _result(self.bucket.put(item)))

    async def put_decision(self, item: RateItem) -> Any:
        return await _result(self.bucket.put_decision(item))

    async def leak(self, current_timestamp: int | None = None) -> int:
        return int(await _result(self.bucket.leak(current_timestamp)))

    async def flush(self) -> None:
        await _result(self.bucket.flush())

    async def count(self) -> int:
        return int(await _result(self.bucket.count()))

    async def peek(self, index: int) -> Any:
        return await _result(self.bucket.peek(index))

    async def waiting(self, item: RateItem) -> int:
        return int(await _result(self.bucket.waiting(item)))

    def remaining(self) -> list[int]:
        return self.bucket.remaining()

    def wait_time(self, weight: int = 1) -> float:
        return self.bucket.wait_time(weight)


async def _result(value: Any) -> Any:
    while isawaitable(value):
        value = await value
    return value
