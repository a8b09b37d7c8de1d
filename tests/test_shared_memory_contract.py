"""Buckets in shared memory keep the contract: by name, by path, and for worker processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aiolimiter_fast import (
    FixedWindow,
    MultiprocessBucket,
    MultiprocessStateStore,
    Rate,
    SharedMemoryBucket,
    SharedMemoryStateBucket,
    StateBucket,
)
from aiolimiter_fast._shared_file import directory
from aiolimiter_fast.testing import BucketContract


class TestSharedMemoryBucketByName(BucketContract):
    threads = shared = persistent = True
    keeps_names = False

    @pytest.fixture(autouse=True)
    def _leave_nothing(self, _surroundings: None) -> Iterator[None]:
        yield
        for path in directory().glob(f"{self._name}*"):
            path.unlink()

    def make_bucket(self, rates: list[Rate], name: str) -> SharedMemoryBucket:
        return SharedMemoryBucket(rates, name)


def at(folder: Path, name: str) -> Path:
    return folder / hashlib.sha256(name.encode()).hexdigest()


class TestSharedMemoryBucketByPath(BucketContract):
    threads = processes = shared = persistent = True
    keeps_names = False

    def make_bucket(self, rates: list[Rate], name: str) -> SharedMemoryBucket:
        return SharedMemoryBucket(rates, path=at(self.folder, name))

    def opener(self, rates: list[Rate], name: str) -> Callable[[], Any]:
        return partial(SharedMemoryBucket, rates, path=at(self.folder, name))


class TestMultiprocessBucket(BucketContract):
    threads = processes = True
    keeps_names = False

    def make_bucket(self, rates: list[Rate], name: str) -> MultiprocessBucket:
        self.made = MultiprocessBucket.init(rates)
        return self.made

    def opener(self, rates: list[Rate], name: str) -> Callable[[], Any]:
        return partial(identity, self.made)


class TestMultiprocessBucketWithFixedWindows(TestMultiprocessBucket):
    """Only what holds for any algorithm."""

    processes = False
    test_what_has_left_the_short_window_stays_for_the_long_one = None  # type: ignore[assignment]
    test_it_decides_as_a_list_of_time_stamps_would = None  # type: ignore[assignment]
    test_after_exactly_the_wait_it_admits_and_a_millisecond_earlier_it_does_not = None  # type: ignore[assignment]
    test_several_rates_are_waited_for_one_after_the_other = None  # type: ignore[assignment]
    test_what_has_left_every_window_leaks_and_the_rest_stays = None  # type: ignore[assignment]
    test_a_limiter_waits_as_long_as_it_must = None  # type: ignore[assignment]

    def make_bucket(self, rates: list[Rate], name: str) -> MultiprocessBucket:
        self.made = MultiprocessBucket.init(rates, FixedWindow())
        return self.made


class TestSharedMemoryStateBucketByName(TestSharedMemoryBucketByName):
    def make_bucket(self, rates: list[Rate], name: str) -> SharedMemoryStateBucket:  # type: ignore[override]
        return SharedMemoryStateBucket(rates, name)


class TestSharedMemoryStateBucketByPath(BucketContract):
    threads = processes = shared = persistent = True

    def make_bucket(self, rates: list[Rate], name: str) -> SharedMemoryStateBucket:
        return SharedMemoryStateBucket(rates, path=at(self.folder, name))

    def opener(self, rates: list[Rate], name: str) -> Callable[[], Any]:
        return partial(SharedMemoryStateBucket, rates, path=at(self.folder, name))


class TestMultiprocessStateStore(BucketContract):
    threads = processes = True

    def make_bucket(self, rates: list[Rate], name: str) -> StateBucket:
        self.made = StateBucket(rates, store=MultiprocessStateStore.init())
        return self.made

    def opener(self, rates: list[Rate], name: str) -> Callable[[], Any]:
        return partial(identity, self.made)


def identity(bucket: Any) -> Any:
    return bucket
