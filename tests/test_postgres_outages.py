"""PostgresBucket when its server stalls, restarts, is read-only or comes back empty, and when clients die or stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fleets import Fleet, most, postgres_bucket
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from servers import PostgresServer, Proxy

from aiolimiter_fast import Limiter, PostgresBucket, Rate, RateItem
from aiolimiter_fast.errors import BackendUnavailable

HOUR = 3_600_000


@pytest.fixture(autouse=True)
def _silent_pools() -> Iterator[None]:
    """Pools tell of each connection that is lost."""
    logger = logging.getLogger("psycopg.pool")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@pytest.fixture
def name() -> str:
    return f"outage_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def proxy(postgres_dsn: str) -> Iterator[Proxy]:
    with Proxy(int(conninfo_to_dict(postgres_dsn)["port"] or 5432)) as proxy:
        yield proxy


@pytest.fixture
def through(proxy: Proxy, postgres_dsn: str) -> str:
    """How to connect through the proxy."""
    return make_conninfo(postgres_dsn, port=proxy.port)


@pytest.fixture
def open_pool() -> Iterator[Callable[..., ConnectionPool]]:
    pools: list[ConnectionPool] = []

    def open_pool(dsn: str, size: int = 1, **options: Any) -> ConnectionPool:
        pools.append(ConnectionPool(dsn, min_size=size, max_size=size, open=True, kwargs=options))
        pools[-1].wait()
        return pools[-1]

    yield open_pool
    for pool in pools:
        pool.close(0.1)


def put(bucket: Any, weight: int = 1) -> bool:
    return bool(bucket.put(RateItem("item", bucket.now(), weight)))


def tries(bucket: Any, times: int) -> list[bool]:
    return [put(bucket) for _ in range(times)]


def eventually(action: Callable[[], Any]) -> Any:
    """What an action gives when the backend is there again."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with suppress(BackendUnavailable):
            return action()
        time.sleep(0.02)
    raise AssertionError("it did not come back")


def refused(bucket: Any, words: str) -> None:
    """Try until the server is there again, and refuses in these words."""
    end = time.monotonic() + 30
    said = ""
    while words not in said:
        assert time.monotonic() < end, said
        try:
            assert not put(bucket)
        except BackendUnavailable as error:
            said = str(error)


class TestAStalledServer:
    def test_a_call_ends_within_its_budget_and_the_limit_is_there_afterwards(
        self, proxy: Proxy, through: str, name: str, open_pool: Any
    ) -> None:
        bucket = PostgresBucket(open_pool(through), name, [Rate(2, HOUR)], budget=0.2)
        assert put(bucket)
        proxy.stalled = True
        for _ in range(2):
            with pytest.raises(BackendUnavailable) as caught:
                put(bucket)
            assert isinstance(caught.value.__cause__, psycopg.OperationalError)
        proxy.stalled = False
        assert eventually(lambda: bucket.count()) >= 1
        eventually(lambda: put(bucket))
        assert not eventually(lambda: put(bucket))

    def test_the_callers_timeout_is_the_budget(self, proxy: Proxy, through: str, name: str, open_pool: Any) -> None:
        limiter = Limiter(PostgresBucket(open_pool(through), name, [Rate(2, HOUR)]))
        proxy.stalled = True
        with pytest.raises(BackendUnavailable):
            limiter.try_acquire("item", timeout=0.1)
        proxy.stalled = False

    @pytest.mark.parametrize(("policy", "expected"), [("open", [True] * 5), ("closed", [False] * 5)])
    def test_it_admits_or_denies_everything_where_that_is_wanted(
        self, proxy: Proxy, through: str, name: str, open_pool: Any, policy: str, expected: list[bool]
    ) -> None:
        bucket = PostgresBucket(open_pool(through), name, [Rate(1, HOUR)], budget=0.1, on_backend_error=policy)
        assert put(bucket)
        proxy.stalled = True
        assert tries(bucket, 5) == expected
        proxy.stalled = False

    def test_it_goes_by_a_share_of_the_limit_in_this_process(
        self, proxy: Proxy, through: str, name: str, open_pool: Any
    ) -> None:
        options: dict[str, Any] = {"budget": 0.1, "on_backend_error": "local", "local_share": 0.5}
        bucket = PostgresBucket(open_pool(through), name, [Rate(4, HOUR)], **options)
        proxy.stalled = True
        assert tries(bucket, 3) == [True, True, False]
        proxy.stalled = False

    async def test_the_event_loop_goes_on_meanwhile(
        self, proxy: Proxy, through: str, name: str, open_pool: Any
    ) -> None:
        limiter = Limiter(PostgresBucket(open_pool(through), name, [Rate(2, HOUR)], budget=0.3))
        assert await limiter.try_acquire_async("item")
        proxy.stalled = True
        call = asyncio.create_task(limiter.try_acquire_async("item"))
        turns = 0
        while not call.done():
            await asyncio.sleep(0.001)
            turns += 1
        with pytest.raises(BackendUnavailable):
            await call
        assert turns >= 10
        proxy.stalled = False

    async def test_an_asynchronous_pool_ends_within_its_budget_too(self, proxy: Proxy, through: str, name: str) -> None:
        pool = AsyncConnectionPool(through, min_size=1, max_size=1, open=False)
        await pool.open(wait=True)
        bucket = PostgresBucket(pool, name, [Rate(5, HOUR)], budget=0.2)
        assert await bucket.put(RateItem("item", bucket.now()))
        proxy.stalled = True
        for _ in range(2):
            with pytest.raises(BackendUnavailable):
                await bucket.put(RateItem("item", bucket.now()))
        proxy.stalled = False
        end = time.monotonic() + 30
        admitted = False
        while not admitted and time.monotonic() < end:
            with suppress(BackendUnavailable):
                admitted = await bucket.put(RateItem("item", bucket.now()))
        assert admitted
        await pool.close(0.1)


class TestALostConnection:
    def test_one_lost_before_the_answer_is_an_outage_and_nothing_is_admitted_twice(
        self, proxy: Proxy, through: str, name: str, open_pool: Any
    ) -> None:
        bucket = PostgresBucket(open_pool(through), name, [Rate(3, HOUR)], budget=5.0)
        admitted = int(put(bucket))
        proxy.cut = True
        with pytest.raises(BackendUnavailable):
            put(bucket)
        admitted += sum(tries(bucket, 5))
        assert admitted in (2, 3)
        assert bucket.count() == 3

    def test_ones_that_were_lost_while_idle_are_noticed_before_they_are_used(
        self, proxy: Proxy, through: str, name: str, open_pool: Any
    ) -> None:
        bucket = PostgresBucket(open_pool(through, 3), name, [Rate(3, HOUR)], budget=10.0)
        proxy.reset()
        time.sleep(0.05)
        assert tries(bucket, 4) == [True] * 3 + [False]

    async def test_so_are_ones_that_the_server_closed_with_a_word(
        self, postgres_dsn: str, name: str, open_pool: Any
    ) -> None:
        bucket = PostgresBucket(open_pool(postgres_dsn, 2, application_name=name), name, [Rate(2, HOUR)], budget=10.0)
        kwargs = {"application_name": name}
        async with AsyncConnectionPool(postgres_dsn, min_size=1, max_size=1, open=False, kwargs=kwargs) as pool:
            await pool.wait()
            other = PostgresBucket(pool, f"{name}_other", [Rate(3, HOUR)], budget=10.0)
            assert await other.put(RateItem("item", other.now()))
            with psycopg.connect(postgres_dsn, autocommit=True) as conn:
                conn.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = %s", (name,)
                )
            await asyncio.sleep(0.05)
            assert tries(bucket, 3) == [True, True, False]
            assert [await other.put(RateItem("item", other.now())) for _ in range(3)] == [True, True, False]

    async def test_an_asynchronous_pool_is_no_different(self, proxy: Proxy, through: str, name: str) -> None:
        pool = AsyncConnectionPool(through, min_size=1, max_size=1, open=False)
        await pool.open(wait=True)
        bucket = PostgresBucket(pool, name, [Rate(4, HOUR)], budget=5.0)

        async def put() -> bool:
            return bool(await bucket.put(RateItem("item", bucket.now())))

        assert await put()
        proxy.cut = True
        with pytest.raises(BackendUnavailable):
            await put()
        assert await put()
        proxy.reset()
        await asyncio.sleep(0.05)
        assert [await put(), await put()] == [True, False]
        async with pool.connection():
            bucket.outages.budget = 0.05
            with pytest.raises(BackendUnavailable, match="PoolTimeout"):
                await put()
        assert await bucket.count() == 4
        await pool.close()

    def test_a_server_that_is_not_there_when_the_bucket_is_made(self, name: str) -> None:
        with ConnectionPool("host=127.0.0.1 port=1 user=nobody", min_size=1, open=True) as pool:
            with pytest.raises(BackendUnavailable):
                PostgresBucket(pool, name, [Rate(3, HOUR)], budget=0.05)
            bucket = PostgresBucket(pool, name, [Rate(3, HOUR)], budget=0.05, on_backend_error="open")
            assert tries(bucket, 4) == [True] * 4


class TestAnotherServerInItsPlace:
    def test_one_that_restarts_or_is_a_standby_for_a_while_loses_nothing_and_an_empty_one_everything(
        self, postgres_server: PostgresServer, open_pool: Any
    ) -> None:
        pool = open_pool(postgres_server.dsn)
        # The pool tries more and more rarely to connect, so a call must not wait for long.
        bucket = PostgresBucket(pool, "limits", [Rate(3, HOUR)], on_state_loss="raise", budget=1.0)
        assert tries(bucket, 2) == [True, True]
        # It dies, and comes back as a standby.
        postgres_server.kill()
        with pytest.raises(BackendUnavailable):
            put(bucket)
        standby = postgres_server.data / "standby.signal"
        standby.touch()
        postgres_server.start()
        assert eventually(bucket.count) == 2
        refused(bucket, "read-only")
        # It is the primary again.
        postgres_server.stop()
        standby.unlink()
        postgres_server.start()
        assert eventually(lambda: put(bucket)) is True
        assert put(bucket) is False
        # An empty one answers at its address.
        postgres_server.stop()
        empty = PostgresServer()
        empty.port = postgres_server.port
        with empty:
            refused(bucket, "has lost the table")
            assert tries(bucket, 4) == [True] * 3 + [False]


class TestAServerThatWillNot:
    def test_an_exhausted_pool_is_an_outage(self, postgres_dsn: str, name: str, open_pool: Any) -> None:
        pool = open_pool(postgres_dsn)
        bucket = PostgresBucket(pool, name, [Rate(2, HOUR)], budget=0.05)
        with pool.connection(), pytest.raises(BackendUnavailable, match="PoolTimeout"):
            put(bucket)
        assert tries(bucket, 3) == [True, True, False]

    def test_a_read_only_replica_is_an_outage(self, postgres_dsn: str, name: str, open_pool: Any) -> None:
        PostgresBucket(open_pool(postgres_dsn), name, [Rate(1, HOUR)])
        replica = open_pool(postgres_dsn, options="-c default_transaction_read_only=on")
        bucket = PostgresBucket(replica, name, [Rate(1, HOUR)])
        with pytest.raises(BackendUnavailable, match="read-only"):
            put(bucket)

    @pytest.mark.parametrize(
        ("policy", "expected"), [("open", [True, False]), ("closed", [False, False]), ("raise", [None, True, False])]
    )
    def test_what_one_that_comes_back_empty_is_taken_for_is_up_to_the_user(
        self, postgres_dsn: str, name: str, open_pool: Any, policy: str, expected: list[bool | None]
    ) -> None:
        pool = open_pool(postgres_dsn)
        bucket = PostgresBucket(pool, name, [Rate(1, HOUR), Rate(2, 2 * HOUR)], on_state_loss=policy)
        assert tries(bucket, 2) == [True, False]
        with pool.connection() as conn:
            conn.execute(f"DROP TABLE ratelimit___{name}")
        if expected[0] is None:
            with pytest.raises(BackendUnavailable, match="has lost the table"):
                put(bucket)
            expected = expected[1:]
        assert tries(bucket, len(expected)) == expected

    def test_while_one_fills_a_lost_table_nobody_gets_in(self, postgres_dsn: str, name: str, open_pool: Any) -> None:
        pool = open_pool(postgres_dsn, 4)
        buckets = [PostgresBucket(pool, name, [Rate(9, HOUR)], on_state_loss="closed", budget=30.0) for _ in range(4)]
        with ThreadPoolExecutor(4) as threads:
            for _ in range(10):
                with pool.connection() as conn:
                    conn.execute(f"DROP TABLE ratelimit___{name}")
                assert list(threads.map(lambda bucket: tries(bucket, 3), buckets)) == [[False] * 3] * 4


class TestClientsThatDieOrStop:
    def test_four_of_them_killed_at_random_never_exceed_a_limit_and_the_others_go_on(
        self, postgres_dsn: str, name: str, tmp_path: Path, open_pool: Any
    ) -> None:
        limits = ((20, 100), (150, 1000))
        bucket = PostgresBucket(open_pool(postgres_dsn), name, [Rate(*limit) for limit in limits], budget=20)
        with Fleet(partial(postgres_bucket, postgres_dsn, name, limits), tmp_path / "record") as fleet:
            fleet.run(kills=25)
            fleet.go_on()
        for limit, interval in limits:
            assert limit / 2 < most(fleet.calls, interval) <= limit
        # Nothing was admitted that is not in the table, and a kill costs one permit at most.
        recorded = sum(call.admitted for call in fleet.calls)
        assert recorded <= bucket.count() <= recorded + fleet.kills + fleet.size

    @pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes cannot be stopped on this system")
    def test_one_that_is_stopped_at_whatever_point_stops_nobody(
        self, postgres_dsn: str, name: str, tmp_path: Path, open_pool: Any
    ) -> None:
        limits = ((10**6, HOUR),)
        bucket = PostgresBucket(open_pool(postgres_dsn), name, [Rate(*limit) for limit in limits], budget=20)
        with Fleet(partial(postgres_bucket, postgres_dsn, name, limits), tmp_path / "record") as fleet:
            fleet.go_on()
            for number in range(40):
                stopped = fleet.workers[number % fleet.size].pid
                os.kill(stopped, signal.SIGSTOP)
                try:
                    assert put(bucket)
                finally:
                    os.kill(stopped, signal.SIGCONT)
            fleet.go_on()
