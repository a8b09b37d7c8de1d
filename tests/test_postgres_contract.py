"""PostgresBucket keeps the contract of a bucket: synchronous and asynchronous, in either format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from aiolimiter_fast import PostgresBucket, Rate
from aiolimiter_fast.testing import BucketContract


@pytest.fixture(scope="module")
def pool(postgres_dsn: str) -> Iterator[ConnectionPool]:
    with ConnectionPool(postgres_dsn, min_size=1, max_size=8, open=True) as pool:
        yield pool


def in_process(dsn: str, rates: list[Rate], name: str, **options: Any) -> PostgresBucket:
    return PostgresBucket(ConnectionPool(dsn, min_size=1, max_size=1, open=True), name, rates, **options)


class _OnAServer(BucketContract):
    threads = True
    processes = True
    shared = True
    persistent = True
    options: dict[str, Any] = {"budget": 30}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def _server(self, pool: ConnectionPool, postgres_dsn: str) -> None:
        self.pool, self.dsn = pool, postgres_dsn

    def make_bucket(self, rates: list[Rate], name: str) -> Any:
        return PostgresBucket(self.pool, name, rates, **self.options)

    def opener(self, rates: list[Rate], name: str) -> Callable[[], Any]:
        return partial(in_process, self.dsn, rates, name, **self.options)

    def close(self, bucket: Any) -> None:
        """The pool is for all tests."""


class TestTimeStamps(_OnAServer):
    processes = False

    def now(self, bucket: Any) -> int:
        return int(super().now(bucket))


class TestTheServersClock(_OnAServer):
    own_clock = True


class TestReferenceFormat(_OnAServer):
    processes = False
    heaviest = 10_000
    options = {"reference_format": True, "budget": 30}  # noqa: RUF012

    def now(self, bucket: Any) -> int:
        return int(super().now(bucket))


class TestAsync(_OnAServer):
    threads = False
    processes = False

    async def make(self, rates: list[Rate], name: str) -> PostgresBucket:
        pool = AsyncConnectionPool(self.dsn, min_size=1, max_size=4, open=False)
        bucket = PostgresBucket(pool, name, rates, **self.options)
        await pool.open()
        return bucket

    def make_bucket(self, rates: list[Rate], name: str) -> Any:
        return self.make(rates, name)

    def close(self, bucket: Any) -> None:
        self.result(bucket.pool.close())

    def now(self, bucket: Any) -> int:
        return int(super().now(bucket))


del BucketContract, _OnAServer
