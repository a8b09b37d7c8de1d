"""PostgresBucket: its table, the server's clock, and the defects that users met in others of its kind."""

from __future__ import annotations

import asyncio
import inspect
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import psycopg
import pyrate_limiter
import pytest
from fleets import admissions, postgres_bucket, processes
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from servers import Proxy

from aiolimiter_fast import (
    GCRA,
    FixedWindow,
    Limiter,
    PgQueries,
    PostgresBucket,
    PostgresClock,
    Rate,
    RateItem,
    SlidingWindowLog,
)
from aiolimiter_fast.buckets.postgres import advisory_lock_id

HOUR = 3_600_000
START = 1_700_000_000_000
OURS = ["item_timestamp", "total", "weight", "name"]


@pytest.fixture(scope="module")
def pool(postgres_dsn: str) -> Iterator[ConnectionPool]:
    with ConnectionPool(postgres_dsn, min_size=1, max_size=8, open=True) as pool:
        yield pool


@pytest.fixture
def name() -> str:
    return f"test_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def make(pool: ConnectionPool, name: str) -> Callable[..., PostgresBucket]:
    def make(*rates: Rate, table: str = name, pool: ConnectionPool = pool, **options: Any) -> PostgresBucket:
        return PostgresBucket(pool, table, list(rates), **{"budget": 30, **options})

    return make


@pytest.fixture
def execute(postgres_dsn: str) -> Iterator[Callable[..., list[Any]]]:
    """Executes a statement beside the buckets, and gives the rows."""
    with psycopg.connect(postgres_dsn, autocommit=True) as conn:

        def execute(statement: Any, arguments: Any = None) -> list[Any]:
            cursor = conn.execute(statement, arguments)
            return cursor.fetchall() if cursor.description else []

        yield execute


def put(bucket: Any, at: int | None = None, weight: int = 1, name: str = "item") -> bool:
    return bool(bucket.put(RateItem(name, bucket.now() if at is None else at, weight)))


def puts(bucket: Any, at: int | None, times: int) -> int:
    return sum(put(bucket, at) for _ in range(times))


def columns(execute: Any, name: str) -> list[str]:
    statement = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum"
    return [row[0] for row in execute(statement, (f"ratelimit___{name}",))]


class TestTheTable:
    def test_a_weight_of_a_million_is_one_entry_of_less_than_a_kilobyte(
        self, make: Any, execute: Any, name: str
    ) -> None:
        bucket = make(Rate(10**6, HOUR))
        assert put(bucket, START, 10**6)
        table = f"ratelimit___{name}"
        assert execute(f"SELECT total, weight FROM {table}") == [(10**6, 10**6)]
        assert execute(f"SELECT pg_column_size(t.*) < 1024 FROM {table} t") == [(True,)]

    def test_a_decision_is_one_statement_and_leaves_the_connection_as_it_was(
        self, pool: ConnectionPool, make: Any
    ) -> None:
        bucket = make(Rate(3, HOUR), Rate(5, 2 * HOUR), Rate(7, 4 * HOUR))
        asked: list[str] = []
        ask = bucket._link.ask

        def counted(statement: str, *arguments: Any) -> Any:
            asked.append(statement)
            return ask(statement, *arguments)

        bucket._link.ask = counted
        assert puts(bucket, None, 4) == 3
        assert bucket.waiting(RateItem("item", bucket.now())) > 0
        assert len(asked) == 4
        with pool.connection() as conn:
            assert not conn.autocommit
            assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE

    def test_what_has_left_the_longest_window_goes_while_deciding_and_no_thread_sees_to_that(
        self, make: Any, execute: Any, name: str
    ) -> None:
        bucket = make(Rate(1000, 1000))
        before = {thread.name for thread in threading.enumerate()}
        limiter = Limiter(bucket)
        assert {thread.name for thread in threading.enumerate()} - before <= {"aiolimiter_fast postgres"}
        for number in range(150):
            assert put(bucket, START + 50 * number)
        assert execute(f"SELECT count(*) FROM ratelimit___{name}")[0][0] <= 21 + 64
        limiter.dispose(bucket)

    def test_a_denial_finds_the_unit_that_has_to_leave_near_and_far(self, make: Any) -> None:
        bucket = make(Rate(400, HOUR))
        for number in range(400):
            assert put(bucket, START + number)
        for weight in (1, 2, 63, 64, 65, 66, 399, 400):
            assert not put(bucket, START + 500, weight)
            assert bucket.waiting(RateItem("item", START + 500, weight)) == HOUR + 1 + weight - 1 - 500

    def test_rates_can_change_while_the_log_stays(self, make: Any) -> None:
        bucket = make(Rate(2, HOUR))
        assert puts(bucket, START, 3) == 2
        bucket.rates = [Rate(3, HOUR), Rate(4, 2 * HOUR)]
        assert puts(bucket, START, 3) == 1
        assert puts(bucket, START + HOUR + 1, 3) == 1

    def test_remaining_and_wait_time_take_nothing(self, make: Any) -> None:
        bucket = make(Rate(2, HOUR), Rate(3, 2 * HOUR))
        assert bucket.wait_time(2) == 0
        put(bucket, weight=2)
        assert bucket.remaining() == [0, 1]
        assert HOUR / 1000 - 60 < bucket.wait_time() <= HOUR / 1000 + 0.001
        assert 2 * HOUR / 1000 - 60 < bucket.wait_time(2) <= 2 * HOUR / 1000 + 0.001
        assert bucket.wait_time(3) == float("inf")
        assert bucket.count() == 2

    def test_a_fixed_window_begins_at_a_multiple_of_the_interval(self, make: Any, name: str) -> None:
        bucket = make(Rate(2, 1000), algorithm=FixedWindow())
        assert puts(bucket, START + 900, 3) == 2
        assert bucket.waiting(RateItem("item", START + 900)) == 100
        assert puts(bucket, START + 1000, 3) == 2
        live = make(Rate(1, HOUR), table=f"{name}_live", algorithm=FixedWindow())
        assert live.wait_time() == 0
        assert put(live)
        assert 0 < live.wait_time() <= HOUR / 1000

    def test_a_pool_of_any_kind_of_rows_and_transactions_does(self, postgres_dsn: str, make: Any) -> None:
        settings = {"row_factory": dict_row, "autocommit": True, "prepare_threshold": None}
        with ConnectionPool(postgres_dsn, kwargs=settings, min_size=1, open=True) as pool:
            bucket = make(Rate(1, HOUR), pool=pool)
            assert puts(bucket, None, 2) == 1
            assert bucket.peek(0).name == "item"
            with pool.connection() as conn:
                assert conn.autocommit

    def test_another_isolation_level_is_refused_since_it_would_not_see_the_others(
        self, postgres_dsn: str, make: Any
    ) -> None:
        make(Rate(1, HOUR))
        settings = {"options": "-c default_transaction_isolation=repeatable\\ read"}
        with ConnectionPool(postgres_dsn, kwargs=settings, min_size=1, open=True) as pool:
            bucket = make(Rate(1, HOUR), pool=pool)
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="isolation level read committed"):
                put(bucket)
            assert bucket.count() == 0


class TestNames:
    @pytest.mark.parametrize(
        "table", ['quo"ted', "it's", "per%cent", "%s", "{brace}", "$$", "back\\slash", "emoji\U0001f6a6", " ", ";--"]
    )
    def test_a_table_of_any_name_holds_a_limit_of_its_own(self, make: Any, name: str, table: str) -> None:
        table = f"{name[:20]}{table}"
        for reference in (True, False):
            bucket = make(Rate(2, HOUR), table=table, reference_format=reference)
            assert puts(bucket, START, 1) == 1
        assert puts(bucket, START, 2) == 0
        assert bucket.count() == 2
        assert bucket.peek(1).timestamp == START
        assert bucket.leak(START + HOUR + 1) == 2
        bucket.flush()

    @pytest.mark.parametrize("table", ["x" * 52, "\u00e9" * 26, "nul\0byte", "\ud800"])
    def test_one_that_postgresql_would_cut_off_or_cannot_have_is_refused(self, make: Any, table: str) -> None:
        with pytest.raises(ValueError, match="table must be"):
            make(Rate(1, HOUR), table=table)

    def test_an_item_whose_name_cannot_be_stored_is_refused_and_takes_nothing(self, make: Any) -> None:
        bucket = make(Rate(1, HOUR))
        bads: list[tuple[Any, type[Exception]]] = [("nul\0byte", ValueError), ("\ud800", ValueError), (None, TypeError)]
        for bad, error in bads:
            with pytest.raises(error):
                bucket.put(RateItem(bad, START))
        assert bucket.count() == 0

    def test_what_makes_no_sense_is_refused(self, make: Any) -> None:
        with pytest.raises(TypeError, match="pool must be"):
            PostgresBucket("dbname=x", "limits", [Rate(1, HOUR)])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="table must be a string"):
            make(Rate(1, HOUR), table=3)
        for algorithm in (GCRA(), type("Own", (SlidingWindowLog,), {})()):
            with pytest.raises(TypeError, match="algorithm must be SlidingWindowLog or FixedWindow"):
                make(Rate(1, HOUR), algorithm=algorithm)
        with pytest.raises(ValueError, match="limit must be a whole number"):
            make(Rate(1 << 51, HOUR))
        with pytest.raises(ValueError, match="weight must be 0 or more"):
            put(make(Rate(1, HOUR)), START, -1)
        with pytest.raises(AssertionError, match="needs the current timestamp"):
            make(Rate(1, HOUR)).leak()

    def test_the_lock_for_making_tables_is_that_of_pyrate_limiter(self) -> None:
        from pyrate_limiter.buckets.postgres import advisory_lock_id as theirs

        assert advisory_lock_id("ratelimit___x") == theirs("ratelimit___x")


class TestFormats:
    def test_data_of_the_reference_is_taken_over_once_and_counts_in_full(
        self, pool: ConnectionPool, make: Any, execute: Any, name: str
    ) -> None:
        theirs = pyrate_limiter.PostgresBucket(pool, name, [pyrate_limiter.Rate(7, HOUR)])
        for at, weight, item in ((START, 3, "a"), (START, 1, "b"), (START + 5, 2, "a")):
            assert theirs.put(pyrate_limiter.RateItem(item, at, weight))
        first = make(Rate(7, HOUR))
        assert columns(execute, name) == OURS
        assert first.count() == 6
        assert [(first.peek(index).name, first.peek(index).timestamp) for index in range(6)] == (
            [("a", START + 5)] * 2 + [("b", START)] + [("a", START)] * 3
        )
        assert puts(first, START + 10, 2) == 1
        assert first.waiting(RateItem("item", START + 10)) == HOUR - 10 + 1
        assert make(Rate(7, HOUR)).count() == 7
        with pytest.raises(psycopg.Error):
            theirs.put(pyrate_limiter.RateItem("late", START))

    @pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
    def test_calls_of_both_libraries_in_turn_never_exceed_the_limit_together(
        self, postgres_dsn: str, make: Any, zone: str
    ) -> None:
        limits = ((5, 1000), (12, 5000))
        with ConnectionPool(postgres_dsn, kwargs={"options": f"-c timezone={zone}"}, min_size=1, open=True) as pool:
            ours = make(*(Rate(*limit) for limit in limits), pool=pool, reference_format=True)
            rates = [pyrate_limiter.Rate(*limit) for limit in limits]
            theirs: Any = pyrate_limiter.PostgresBucket(pool, ours.table, rates)
            admitted: list[tuple[int, str]] = []
            for number in range(240):
                at, weight = START + 37 * number, 1 + (number % 7 == 0)
                turn = "ours" if number % 3 else "theirs"
                if turn == "ours":
                    admitted += [(at, turn)] * (weight * put(ours, at, weight))
                else:
                    admitted += [(at, turn)] * (weight * theirs.put(pyrate_limiter.RateItem("item", at, weight)))
                for limit, interval in limits:
                    assert sum(time >= at - interval for time, _ in admitted) <= limit
            assert {turn for _, turn in admitted} == {"ours", "theirs"}
            assert len(admitted) >= 12 * (240 * 37 // 5001)
            assert ours.count() == theirs.count() == len(admitted)

    def test_a_process_of_ours_in_the_references_format_follows_when_another_takes_it_over(
        self, make: Any, execute: Any, name: str
    ) -> None:
        following = make(Rate(4, HOUR), reference_format=True)
        assert columns(execute, name) == ["name", "weight", "item_timestamp"]
        assert puts(following, START, 2) == 2
        leading = make(Rate(4, HOUR))
        assert [put(bucket, START) for bucket in (following, leading, following)] == [True, True, False]
        assert following.count() == leading.count() == 4

    def test_a_table_made_by_the_queries_is_taken_over(self, make: Any, execute: Any, name: str) -> None:
        table, index = psycopg.sql.Identifier(f"ratelimit___{name}"), psycopg.sql.Identifier(f"timestampindex_{name}")
        execute(psycopg.sql.SQL(PgQueries.CREATE_BUCKET_TABLE).format(table=table))
        execute(psycopg.sql.SQL(PgQueries.CREATE_INDEX_ON_TIMESTAMP).format(table=table, index=index))
        execute(psycopg.sql.SQL(PgQueries.PUT).format(table=table), ("item", 1, START / 1000, 1))
        assert puts(make(Rate(2, HOUR)), START, 2) == 1

    def test_an_unknown_table_is_refused_and_left_alone(self, make: Any, execute: Any, name: str) -> None:
        execute(f"CREATE TABLE ratelimit___{name} (id int, name text)")
        for reference in (False, True):
            with pytest.raises(ValueError, match="holds something else: its columns are"):
                make(Rate(1, HOUR), reference_format=reference)
        assert columns(execute, name) == ["id", "name"]

    def test_a_later_format_of_ours_is_refused(self, make: Any, execute: Any, name: str) -> None:
        make(Rate(1, HOUR))
        execute(f"COMMENT ON TABLE ratelimit___{name} IS 'aiolimiter_fast, format 2'")
        with pytest.raises(ValueError, match="format 2 of aiolimiter_fast; this release knows format 1"):
            make(Rate(1, HOUR))


class TestTheServersClock:
    @pytest.mark.parametrize("wrong", [-86_400_000, -3_000, 3_000, 86_400_000])
    def test_a_clients_wrong_clock_changes_nothing(
        self, make: Any, monkeypatch: pytest.MonkeyPatch, wrong: int
    ) -> None:
        right, other = make(Rate(3, HOUR)), make(Rate(3, HOUR))
        real = right.now() * 1_000_000
        assert put(right)
        monkeypatch.setattr("time.time_ns", lambda: real + wrong * 1_000_000)
        assert puts(other, None, 3) == 2
        assert HOUR - 60_000 < other.waiting(RateItem("item", other.now())) <= HOUR + 1
        assert other.leak(other.now()) == 0
        monkeypatch.undo()
        assert not put(right)
        assert abs(right.peek(0).timestamp - right.now()) < 60_000

    def test_a_session_in_another_time_zone_changes_nothing(self, postgres_dsn: str, make: Any) -> None:
        bucket = make(Rate(2, HOUR))
        assert put(bucket)
        with ConnectionPool(
            postgres_dsn, kwargs={"options": "-c timezone=Pacific/Kiritimati"}, min_size=1, open=True
        ) as pool:
            assert puts(make(Rate(2, HOUR), pool=pool), None, 2) == 1
        assert not put(bucket)

    def test_a_server_whose_clock_stepped_back_delays_by_no_more_than_the_interval(
        self, make: Any, execute: Any, name: str
    ) -> None:
        bucket = make(Rate(2, 10_000))
        assert puts(bucket, None, 2) == 2
        execute(f"UPDATE ratelimit___{name} SET item_timestamp = item_timestamp + 86400000")
        assert not put(bucket)
        assert 0 < bucket.waiting(RateItem("item", bucket.now())) <= 10_001
        assert abs(bucket.peek(0).timestamp - bucket.now()) < 60_000

    def test_the_clock_is_the_servers_or_else_the_local_one(
        self, pool: ConnectionPool, make: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        bucket = make(Rate(1, HOUR))
        assert abs(PostgresClock(pool).now() - bucket.now()) < 60_000
        assert not caplog.records
        closed = ConnectionPool("", open=False)
        assert abs(PostgresClock(closed).now() - bucket.now()) < 60_000
        assert "the local time is taken" in caplog.text


class TestManyAtOnce:
    def test_four_processes_with_room_are_never_denied(self, postgres_dsn: str, make: Any, name: str) -> None:
        bucket = make(Rate(10_000, HOUR))
        opened = partial(postgres_bucket, postgres_dsn, name, ((10_000, HOUR),))
        with processes().Pool(4) as workers:
            assert workers.starmap(admissions, [(opened, 150)] * 4) == [150] * 4
        assert bucket.count() == 600

    def test_check_and_put_are_one_for_threads_that_come_at_once(self, make: Any) -> None:
        bucket = make(Rate(25, HOUR))
        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(lambda _: put(bucket), range(60))) == 25

    def test_those_who_make_the_same_bucket_at_once_do_not_meet_an_error(self, make: Any) -> None:
        with ThreadPoolExecutor(8) as threads:
            buckets = list(threads.map(lambda _: make(Rate(3, HOUR)), range(8)))
        assert sum(put(bucket) for bucket in buckets) == 3

    def test_those_who_wait_hold_no_connection(self, postgres_dsn: str, make: Any, name: str) -> None:
        with ConnectionPool(postgres_dsn, min_size=1, max_size=1, open=True) as pool:
            limiter = Limiter(make(Rate(1, 100), pool=pool), buffer_ms=0)
            assert limiter.try_acquire("item")
            with ThreadPoolExecutor(3) as threads:
                waiting = [threads.submit(limiter.try_acquire, "item") for _ in range(3)]
                other = make(Rate(1, HOUR), table=f"{name}_other", pool=pool)
                while not all(call.done() for call in waiting):
                    assert pool.get_stats().get("requests_errors", 0) == 0
                    put(other)
                assert [call.result() for call in waiting] == [True] * 3

    @pytest.mark.parametrize("kind", [AsyncConnectionPool, ConnectionPool])
    async def test_twenty_tasks_ask_the_server_at_once(self, postgres_dsn: str, name: str, kind: Any) -> None:
        with Proxy(int(conninfo_to_dict(postgres_dsn)["port"] or 5432)) as proxy:
            pool = kind(make_conninfo(postgres_dsn, port=proxy.port), min_size=20, max_size=20, open=False)
            opened = pool.open(wait=True)
            if inspect.isawaitable(opened):
                await opened
            limiter = Limiter(PostgresBucket(pool, name, [Rate(21, HOUR)], budget=60))
            assert await limiter.try_acquire_async("item")
            proxy.stalled = True
            calls = [asyncio.create_task(limiter.try_acquire_async("item", blocking=False)) for _ in range(25)]
            for _ in range(30_000):
                if not pool.get_stats()["pool_available"]:
                    break
                await asyncio.sleep(0.001)
            assert not pool.get_stats()["pool_available"]
            assert not any(call.done() for call in calls)
            proxy.stalled = False
            assert sum(await asyncio.gather(*calls)) == 20
            closed = pool.close()
            if inspect.isawaitable(closed):
                await closed

    async def test_tasks_wait_in_an_asynchronous_pool_of_one_connection(self, postgres_dsn: str, name: str) -> None:
        async with AsyncConnectionPool(postgres_dsn, min_size=1, max_size=1, open=False) as pool:
            bucket = PostgresBucket(pool, name, [Rate(10, 200)], budget=30)
            limiter = Limiter(bucket, buffer_ms=0)
            assert all(await asyncio.gather(*(limiter.try_acquire_async("item") for _ in range(25))))
            assert isinstance(await bucket.peek(0), RateItem)
            with pytest.raises(NotImplementedError, match="asynchronous pool"):
                bucket.remaining()
            assert await PostgresClock(pool).now() > START
