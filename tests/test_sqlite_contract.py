"""SQLiteBucket keeps the contract of a bucket: by its items' time stamps, by its own clock, and in either format."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from aiolimiter_fast import Rate, SQLiteBucket
from aiolimiter_fast.testing import BucketContract


class _OnAFile(BucketContract):
    threads = True
    processes = True
    shared = True
    persistent = True

    def make_bucket(self, rates: list[Rate], name: str) -> Any:
        return self.opener(rates, name)()

    def opener(self, rates: list[Rate], name: str) -> Callable[[], Any]:
        return partial(SQLiteBucket.init_from_file, rates, name, str(self.folder / "limits.sqlite"))


class _ByTimeStamps(_OnAFile):
    processes = False

    def now(self, bucket: Any) -> int:
        return int(super().now(bucket))


class TestTimeStamps(_ByTimeStamps):
    pass


class TestItsOwnClock(_OnAFile):
    own_clock = True


class TestReferenceFormat(_ByTimeStamps):
    heaviest = 10_000

    def opener(self, rates: list[Rate], name: str) -> Callable[[], Any]:
        opener: Any = super().opener(rates, name)
        return partial(opener, reference_format=True)


del BucketContract, _ByTimeStamps, _OnAFile
