"""What the tests of the contract are made of."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from inspect import isawaitable
from pathlib import Path
from typing import Any

import pytest

from aiolimiter_fast.abstracts import AbstractBucket, Rate, RateItem, StateAlgorithm

HOUR = 3_600_000
# So long that not even a state leaks a unit of the heaviest weight during a test.
AGES = 10_000 * HOUR


class Surroundings:
    """Makes buckets for a test, asks them, and closes them when it ends."""

    threads: bool = False
    processes: bool = False
    shared: bool = False
    persistent: bool = False
    own_clock: bool = False
    keeps_names: bool = True
    interval: int = 100
    heaviest: int = 1_000_000
    patience: float = 30.0
    longest_hold: float = 0.02
    folder: Path

    def make_bucket(self, rates: list[Rate], name: str) -> Any:
        """The bucket, or an awaitable of it. The same name means the same limit where that is shared or persistent."""
        raise NotImplementedError("make_bucket(rates, name) is to make the bucket under test")

    def opener(self, rates: list[Rate], name: str) -> Callable[[], Any]:
        """A function, to be pickled, that makes the bucket of that name in another process."""
        raise NotImplementedError("opener(rates, name) is to give a function that other processes call")

    @pytest.fixture(autouse=True)
    def _surroundings(self, tmp_path: Path) -> Iterator[None]:
        with self.set_up(tmp_path):
            yield

    @contextmanager
    def set_up(self, folder: Path) -> Iterator[None]:
        """What a test needs around it, for those who call tests themselves."""
        self.folder = folder
        self._name = f"contract_{uuid.uuid4().hex[:12]}"
        self._loop = asyncio.new_event_loop()
        self._open: list[Any] = []
        try:
            yield
        finally:
            for bucket in self._open:
                self.result(bucket.flush())
                self.close(bucket)
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def result(self, value: Any) -> Any:
        """`value`, or what comes of awaiting it, for `patience` seconds at most."""
        while isawaitable(value):
            value = self._loop.run_until_complete(self._within(value))
        return value

    async def _within(self, value: Awaitable[Any]) -> Any:
        task = asyncio.ensure_future(value)
        done, _ = await asyncio.wait([task], timeout=self.patience)
        if not done:
            task.cancel()
            await asyncio.wait([task], timeout=1)
        assert done, f"{value!r} has not come back within {self.patience} seconds"
        return task.result()

    def bucket(self, *rates: Rate, suffix: str = "") -> Any:
        """A bucket, closed when the test ends."""
        bucket = self.result(self.make_bucket(list(rates), self._name + suffix))
        assert isinstance(bucket, AbstractBucket), f"make_bucket gave {bucket!r}, which is no AbstractBucket"
        self._open.append(bucket)
        return bucket

    def close(self, bucket: Any) -> None:
        """Close a bucket; override it to close more than `bucket.close` does."""
        self.result(bucket.close())

    def now(self, bucket: Any) -> int:
        now = self.result(bucket.now())
        assert isinstance(now, int), f"now() must be whole milliseconds, got {now!r}"
        return now

    def put(self, bucket: Any, weight: int = 1, timestamp: int | None = None, name: str = "item") -> bool:
        item = RateItem(name, self.now(bucket) if timestamp is None else timestamp, weight)
        admitted = self.result(bucket.put(item))
        assert admitted is True or admitted is False, f"put() must say True or False, got {admitted!r}"
        return admitted

    def waiting(self, bucket: Any, weight: int, timestamp: int) -> int:
        wait = self.result(bucket.waiting(RateItem("item", timestamp, weight)))
        assert isinstance(wait, int), f"waiting() must be whole milliseconds, got {wait!r}"
        return wait

    def count(self, bucket: Any) -> int:
        count = self.result(bucket.count())
        assert isinstance(count, int), f"count() must be a whole number of units, got {count!r}"
        return count

    @staticmethod
    def is_log(bucket: Any) -> bool:
        return not isinstance(bucket._algorithm, StateAlgorithm)
