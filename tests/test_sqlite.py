"""SQLiteBucket: its table, its clock, and the defects that users met in others of its kind."""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pyrate_limiter
import pytest

from aiolimiter_fast import (
    FixedWindow,
    Limiter,
    Rate,
    RateItem,
    SQLiteBucket,
    SQLiteClock,
    SQLiteQueries,
    TokenBucket,
    limiter_factory,
)
from aiolimiter_fast.abstracts import SlidingWindowLog

HOUR = 3_600_000
START = 1_700_000_000_000


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "limits.sqlite")


@pytest.fixture
def make(path: str) -> Iterator[Callable[..., SQLiteBucket]]:
    """Makes buckets in one file, and closes them."""
    made: list[SQLiteBucket] = []

    def make(*rates: Rate, table: str = "limits", **arguments: Any) -> SQLiteBucket:
        made.append(SQLiteBucket.init_from_file(list(rates), table, path, **arguments))
        return made[-1]

    yield make
    for bucket in made:
        bucket.close()


@pytest.fixture
def execute(path: str) -> Iterator[Callable[..., list[Any]]]:
    """Executes a statement on the file, beside the buckets, and gives the rows."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        yield lambda *arguments: conn.execute(*arguments).fetchall()


def put(bucket: Any, at: int | None = None, weight: int = 1, name: str = "item") -> bool:
    return bool(bucket.put(RateItem(name, bucket.now() if at is None else at, weight)))


def puts(bucket: Any, at: int | None, times: int) -> int:
    return sum(put(bucket, at) for _ in range(times))


def columns(execute: Callable[..., list[Any]], table: str = "limits") -> list[str]:
    return [row[1] for row in execute(f"PRAGMA table_info({table})")]


OURS = ["item_timestamp", "total", "weight", "name"]


class TestTheTable:
    def test_a_weight_of_a_million_is_one_entry(self, make: Any, execute: Any) -> None:
        bucket = make(Rate(10**6, HOUR))
        before = execute("PRAGMA page_count")
        assert put(bucket, START, 10**6)
        assert execute("SELECT total, weight FROM limits") == [(10**6, 10**6)]
        assert execute("PRAGMA page_count") == before
        assert not put(bucket, START + HOUR)
        assert put(bucket, START + HOUR + 1)

    def test_a_decision_looks_at_no_more_of_a_long_log_than_of_a_short_one(self, make: Any) -> None:
        bucket = make(Rate(10**5, 500), Rate(2 * 10**5, 5000), Rate(3 * 10**5, 50_000))

        def steps(weight: int, at: int) -> int:
            count = 0

            def step() -> None:
                nonlocal count
                count += 1

            bucket.conn.set_progress_handler(step, 1)
            put(bucket, at, weight)
            bucket.conn.set_progress_handler(None, 0)
            return count

        for number in range(100):
            put(bucket, START + number)
        short = steps(1, START + 100)
        for number in range(101, 5000):
            put(bucket, START + number)
        assert steps(1, START + 5000) < 1.5 * short
        # A denial that has to find the unit for which it waits, thousands of entries away, does so by halves.
        assert steps(10**5 - 10, START + 5000) < 20 * short

    @pytest.mark.parametrize("algorithm", [SlidingWindowLog(), FixedWindow()])
    def test_an_admission_is_one_statement_and_a_refusal_writes_nothing(self, make: Any, algorithm: Any) -> None:
        bucket = make(Rate(3, HOUR), Rate(4, 2 * HOUR), Rate(5, 4 * HOUR), algorithm=algorithm)
        assert put(bucket, weight=2)
        statements: list[str] = []
        bucket.conn.set_trace_callback(statements.append)
        assert put(bucket)
        assert [statement.split()[0] for statement in statements] == ["INSERT"]
        assert not put(bucket)
        statements.clear()
        assert not put(bucket)
        assert statements[0] == "BEGIN"
        assert {statement.split()[0] for statement in statements} == {"BEGIN", "SELECT", "COMMIT"}

    def test_what_has_left_the_longest_window_goes_while_deciding_and_no_thread_sees_to_that(
        self, make: Any, execute: Any
    ) -> None:
        bucket = make(Rate(1000, 1000))
        before = threading.active_count()
        with Limiter(bucket):
            assert threading.active_count() == before
            for number in range(1000):
                assert put(bucket, START + 10 * number)
            # A window holds 101 of them; what is older goes every 256 admissions.
            assert execute("SELECT COUNT(*) FROM limits")[0][0] <= 101 + 256

    def test_a_log_that_nobody_has_pruned_goes_in_batches(self, make: Any, execute: Any) -> None:
        bucket = make(Rate(10**6, 1000))
        for number in range(1200):
            put(bucket, START + number // 600)
        bucket.scheduled()
        left = []
        for number in range(3 * 256):
            put(bucket, START + HOUR + number)
            left.append(execute("SELECT COUNT(*) FROM limits WHERE item_timestamp < ?", (START + HOUR,))[0][0])
        # All of one millisecond go together.
        assert list(dict.fromkeys(left)) in ([1200, 600, 0], [600, 0])

    def test_the_running_total_begins_anew_before_it_is_too_large(self, make: Any, execute: Any) -> None:
        huge = 1 << 60
        bucket = make(Rate(3 * huge, 1000))
        for number in range(12):
            bucket.leak(START + 1001 * number)
            assert put(bucket, START + 1001 * number, 3 * huge)
        assert execute("SELECT MAX(total) < 1 << 62 FROM limits") == [(1,)]
        with pytest.raises(ValueError, match="weight must leave the table with at most"):
            make(Rate(1 << 63, 1000), table="huger").put(RateItem("item", START, (1 << 62) + 1))
        assert puts(make(Rate(1 << 63, 1000), table="larger"), None, 3) == 3

    def test_rates_can_change_while_the_log_stays(self, make: Any) -> None:
        bucket = make(Rate(2, HOUR))
        assert puts(bucket, START, 3) == 2
        bucket.rates = [Rate(3, HOUR), Rate(4, 2 * HOUR)]
        assert puts(bucket, START, 3) == 1
        assert puts(bucket, START + HOUR + 1, 3) == 1

    def test_remaining_and_wait_time_take_nothing(self, make: Any) -> None:
        bucket = make(Rate(2, HOUR), Rate(3, 2 * HOUR))
        put(bucket, weight=2)
        assert bucket.remaining() == [0, 1]
        assert HOUR / 1000 - 60 < bucket.wait_time() <= HOUR / 1000 + 0.001
        assert 2 * HOUR / 1000 - 60 < bucket.wait_time(2) <= 2 * HOUR / 1000 + 0.001
        assert bucket.wait_time(3) == float("inf")
        assert bucket.count() == 2

    def test_an_algorithm_of_the_users_own_decides(self, make: Any) -> None:
        class Even(SlidingWindowLog):
            def admit(self, rates: Any, counts: Any, weight: int) -> Any:
                return super().admit(rates, [count + count % 2 for count in counts], weight)

        bucket = make(Rate(4, HOUR), algorithm=Even())
        assert puts(bucket, START, 5) == 3

    def test_a_fixed_window_begins_at_a_multiple_of_the_interval(self, make: Any) -> None:
        bucket = make(Rate(2, 1000), algorithm=FixedWindow())
        assert puts(bucket, START + 900, 3) == 2
        assert bucket.waiting(RateItem("item", START + 900)) == 100
        assert puts(bucket, START + 1000, 3) == 2

    def test_a_fixed_window_of_a_longer_rate_may_begin_after_that_of_a_shorter(self, make: Any) -> None:
        bucket = make(Rate(2, 1000), Rate(3, 1900), algorithm=FixedWindow())
        start = 5 * 19_000_000
        # The longer rate's second window begins at 1900, the shorter's at 1000.
        assert puts(bucket, start + 1800, 2) == 2
        assert puts(bucket, start + 1950, 3) == 0
        assert puts(bucket, start + 2000, 3) == 2

    def test_columns_of_the_connections_own_row_factory_do_not_matter(self, path: str) -> None:
        conn = sqlite3.connect(path)
        conn.row_factory = lambda cursor, row: {"row": row}
        with SQLiteBucket([Rate(1, HOUR)], conn, "limits") as bucket:
            assert puts(bucket, START, 2) == 1

    @pytest.mark.parametrize("isolation", [None, "", "DEFERRED", "EXCLUSIVE"])
    def test_a_given_connection_of_any_isolation_level_does(self, path: str, isolation: Any) -> None:
        with SQLiteBucket([Rate(1, HOUR)], sqlite3.connect(path, isolation_level=isolation), "limits") as bucket:
            assert puts(bucket, START, 2) == 1
            bucket.conn.execute("CREATE TABLE other (x)")
            bucket.conn.execute("INSERT INTO other VALUES (1)")
            if bucket.conn.in_transaction:
                with pytest.raises(RuntimeError, match="has a transaction open"):
                    put(bucket)
                assert bucket.conn.in_transaction
                bucket.conn.commit()
            bucket.flush()
            assert put(bucket)


class TestBadInput:
    @pytest.mark.parametrize("name", ["nul\0byte", "sqlite_sequence", "SQLite_x", "\ud800"])
    def test_a_table_name_that_sqlite_cannot_have_is_refused(self, make: Any, name: str) -> None:
        with pytest.raises(ValueError, match="table must"):
            make(Rate(1, HOUR), table=name)

    def test_a_name_that_is_no_text_is_refused_and_takes_nothing(self, make: Any) -> None:
        bucket = make(Rate(1, HOUR))
        with pytest.raises(TypeError, match="name must be a string"):
            bucket.put(RateItem(None, START))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="surrogates"):
            put(bucket, START, name="\ud800")
        assert bucket.count() == 0
        assert put(bucket, START)

    def test_what_makes_no_sense_is_refused(self, path: str, make: Any) -> None:
        with pytest.raises(TypeError, match="conn must be"):
            SQLiteBucket([Rate(1, HOUR)], path, "limits")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="table must be a string"):
            make(Rate(1, HOUR), table=3)
        with pytest.raises(TypeError, match="algorithm must be a LogAlgorithm"):
            make(Rate(1, HOUR), algorithm=TokenBucket())
        with pytest.raises(ValueError, match="db_path must be given"):
            SQLiteBucket.init_from_file([Rate(1, HOUR)], use_file_lock=True)
        with pytest.raises(ValueError, match="weight must be 0 or more"):
            put(make(Rate(1, HOUR)), START, -1)
        with pytest.raises(AssertionError, match="needs the current timestamp"):
            make(Rate(1, HOUR)).leak()

    def test_a_missing_table_is_refused_where_none_is_to_be_made(self, make: Any) -> None:
        with pytest.raises(ValueError, match="there is no table 'limits'"):
            make(Rate(1, HOUR), create_new_table=False)

    def test_after_close_there_is_an_error_but_for_leak(self, make: Any) -> None:
        bucket = make(Rate(1, HOUR))
        bucket.close()
        bucket.close()
        assert (bucket.conn, bucket.leak(START)) == (None, 0)
        for call in (lambda: put(bucket, START), bucket.count, lambda: bucket.peek(0), bucket.flush):
            with pytest.raises(RuntimeError, match="closed"):
                call()


class TestFormats:
    def test_data_of_the_reference_is_taken_over_once_and_counts_in_full(
        self, path: str, make: Any, execute: Any
    ) -> None:
        rates = [pyrate_limiter.Rate(7, HOUR)]
        with pyrate_limiter.SQLiteBucket.init_from_file(rates, "limits", path) as theirs:
            for at, weight, name in ((START, 3, "a"), (START, 1, "b"), (START + 5, 2, "a")):
                assert theirs.put(pyrate_limiter.RateItem(name, at, weight))
        first = make(Rate(7, HOUR))
        assert columns(execute) == OURS
        assert first.count() == 6
        assert [(first.peek(index).name, first.peek(index).timestamp) for index in range(6)] == (
            [("a", START + 5)] * 2 + [("b", START)] + [("a", START)] * 3
        )
        assert puts(first, START + 10, 2) == 1
        assert first.waiting(RateItem("item", START + 10)) == HOUR - 10 + 1
        assert make(Rate(7, HOUR)).count() == 7
        assert execute("SELECT name FROM sqlite_master") == [("limits",)]

    def test_the_reference_that_goes_on_after_that_fails_loudly_and_admits_nothing(self, path: str, make: Any) -> None:
        with pyrate_limiter.SQLiteBucket.init_from_file([pyrate_limiter.Rate(7, HOUR)], "limits", path) as theirs:
            make(Rate(7, HOUR))
            with pytest.raises(sqlite3.IntegrityError):
                theirs.put(pyrate_limiter.RateItem("item", START))

    def test_calls_of_both_libraries_in_turn_never_exceed_the_limit_together(self, path: str, make: Any) -> None:
        limits = ((5, 1000), (12, 5000))
        ours = make(*(Rate(*limit) for limit in limits), reference_format=True)
        rates = [pyrate_limiter.Rate(*limit) for limit in limits]
        with pyrate_limiter.SQLiteBucket.init_from_file(rates, "limits", path) as theirs:
            admitted: list[tuple[int, str]] = []
            for number in range(600):
                at, weight = START + 37 * number, 1 + (number % 7 == 0)
                turn = "ours" if number % 3 else "theirs"
                if turn == "ours":
                    admitted += [(at, turn)] * (weight * put(ours, at, weight))
                else:
                    admitted += [(at, turn)] * (weight * theirs.put(pyrate_limiter.RateItem("item", at, weight)))
                expected = all(
                    sum(time >= at - interval for time, _ in admitted) <= limit for limit, interval in limits
                )
                assert expected, f"over the limit at {at}: {admitted[-20:]}"
            assert {turn for _, turn in admitted} == {"ours", "theirs"}
            assert len(admitted) >= 12 * 600 * 37 // 5001 - 12
            assert ours.count() == theirs.count() == len(admitted)

    def test_a_process_of_ours_in_the_references_format_follows_when_another_takes_it_over(
        self, make: Any, execute: Any
    ) -> None:
        following = make(Rate(4, HOUR), reference_format=True)
        assert columns(execute) == ["name", "item_timestamp"]
        assert puts(following, START, 2) == 2
        leading = make(Rate(4, HOUR))
        assert [put(bucket, START) for bucket in (following, leading, following)] == [True, True, False]
        assert following.count() == leading.count() == 4
        assert columns(execute) == OURS

    def test_an_unknown_table_is_refused_and_left_alone(self, make: Any, execute: Any) -> None:
        execute("CREATE TABLE limits (id INTEGER, name TEXT)")
        execute("INSERT INTO limits VALUES (1, 'somebody')")
        for reference in (False, True):
            with pytest.raises(ValueError, match="'limits' holds something else: its columns are"):
                make(Rate(1, HOUR), reference_format=reference)
        assert execute("SELECT * FROM limits") == [(1, "somebody")]

    def test_a_later_format_of_ours_is_refused(self, make: Any, execute: Any) -> None:
        make(Rate(1, HOUR)).close()
        schema = execute("SELECT sql FROM sqlite_master WHERE name = 'limits'")[0][0]
        execute("DROP TABLE limits")
        execute(schema.replace("aiolimiter_fast_1", "aiolimiter_fast_2"))
        with pytest.raises(ValueError, match="format 2 of aiolimiter_fast; this release knows format 1"):
            make(Rate(1, HOUR))

    def test_a_table_made_by_the_queries_is_taken_over(self, path: str) -> None:
        conn = sqlite3.connect(path)
        conn.execute(SQLiteQueries.CREATE_BUCKET_TABLE.format(table="my-limits"))
        conn.execute(SQLiteQueries.CREATE_INDEX_ON_TIMESTAMP.format(table_name="my-limits", index_name="my-index"))
        conn.execute(SQLiteQueries.PUT_ITEM.format(table="my-limits"), ("item", START))
        conn.commit()
        with SQLiteBucket([Rate(2, HOUR)], conn, "my-limits") as bucket:
            assert puts(bucket, START, 2) == 1

    def test_a_table_that_was_dropped_is_made_again(self, make: Any, execute: Any) -> None:
        bucket = make(Rate(1, HOUR))
        assert puts(bucket, START, 2) == 1
        execute("DROP TABLE limits")
        assert puts(bucket, START, 2) == 1


class TestTheClock:
    def test_a_clock_that_steps_back_admits_nothing_early_and_delays_by_no_more_than_the_interval(
        self, make: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bucket, other = make(Rate(2, 10_000)), make(Rate(2, 10_000))
        wall = START * 1_000_000
        monkeypatch.setattr("time.time_ns", lambda: wall)
        assert puts(bucket, None, 3) == 2
        for step in (2_000, 86_400_000):
            wall -= step * 1_000_000
            assert not put(bucket)
            assert not put(other)
            wait = other.waiting(RateItem("item", other.now()))
            assert 10_000 <= wait <= 10_001
            wall += (wait - 1) * 1_000_000
            assert not put(other)
            wall += 1_000_000
            assert puts(other, None, 3) == 2

    def test_an_item_counts_from_its_decision_however_long_its_process_was_stopped_before(
        self, make: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bucket = make(Rate(1, 1000))
        wall = START * 1_000_000
        monkeypatch.setattr("time.time_ns", lambda: wall)
        item = RateItem("item", bucket.now())
        wall += 5_000 * 1_000_000
        assert bucket.put(item)
        assert not put(bucket)
        assert bucket.peek(0).timestamp == START + 5_000

    def test_nor_does_one_by_the_real_clock_count_before_it(self, make: Any) -> None:
        bucket = make(Rate(10, HOUR))
        for _ in range(5):
            item = RateItem("item", bucket.now())
            while bucket.now() <= item.timestamp:
                pass
            assert bucket.put(item)
            assert bucket.peek(0).timestamp > item.timestamp

    def test_an_item_from_a_clock_a_little_behind_does_not_count_earlier_than_the_newest(self, make: Any) -> None:
        bucket = make(Rate(2, 1000))
        assert put(bucket, START)
        assert put(bucket, START - 500)
        assert not put(bucket, START + 600)
        assert bucket.waiting(RateItem("item", START + 600)) == 401

    def test_a_wait_is_told_by_the_decision_alone(self, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        bucket = make(Rate(2, 1000))
        assert puts(bucket, START, 3) == 2
        monkeypatch.setattr(bucket, "_run", None)
        assert bucket.waiting(RateItem("item", START)) == 1001

    def test_sqlite_tells_the_time(self, make: Any) -> None:
        bucket = make(Rate(1, HOUR))
        clocks = SQLiteClock(bucket), SQLiteClock(sqlite3.connect(":memory:")), SQLiteClock.default()
        for clock in clocks:
            assert abs(clock.now() - bucket.now()) < 60_000
            if clock.conn is not bucket.conn:
                clock.conn.close()  # type: ignore[union-attr]


class TestProcesses:
    def test_one_killed_between_begin_and_commit_leaves_nothing_and_stops_nobody(self, path: str, make: Any) -> None:
        bucket = make(Rate(1, HOUR))
        program = """
            import sqlite3, sys
            conn = sqlite3.connect(sys.argv[1], isolation_level=None)
            conn.execute("BEGIN IMMEDIATE")
            conn.execute("INSERT INTO limits VALUES (1, 1, 1, 'lost')")
            print("holding", flush=True)
            sys.stdin.read()
        """
        command = [sys.executable, "-c", "\n".join(line.strip() for line in program.splitlines()), path]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as victim:
            assert victim.stdout is not None
            assert victim.stdout.readline().strip() == b"holding"
            victim.kill()
        assert bucket.count() == 0
        assert puts(bucket, START, 2) == 1

    def test_with_the_file_lock_of_both_libraries_their_processes_get_exactly_the_limit(self, path: str) -> None:
        program = """
            import importlib, sys
            package, path, *options = sys.argv[1:]
            library = importlib.import_module(package)
            rates = [library.Rate(60, 3_600_000)]
            extra = {option: True for option in options}
            bucket = library.SQLiteBucket.init_from_file(rates, "limits", path, use_file_lock=True, **extra)
            print(sum(bucket.put(library.RateItem("item", bucket.now())) for _ in range(50)))
        """
        lines = "\n".join(line.strip() for line in program.splitlines())
        workers = [
            subprocess.Popen([sys.executable, "-c", lines, *arguments], stdout=subprocess.PIPE)
            for arguments in (
                ("pyrate_limiter", path),
                ("aiolimiter_fast", path, "reference_format"),
                ("aiolimiter_fast", path, "reference_format"),
            )
        ]
        assert sum(int(worker.communicate()[0]) for worker in workers) == 60

    def test_with_a_file_lock_threads_get_exactly_the_limit(self, make: Any) -> None:
        bucket = make(Rate(25, HOUR), use_file_lock=True)
        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(lambda _: put(bucket), range(60))) == 25

    async def test_with_a_file_lock_tasks_get_exactly_the_limit(self, make: Any) -> None:
        limiter = Limiter(make(Rate(10, HOUR), use_file_lock=True))
        calls = (limiter.try_acquire_async("item", blocking=False) for _ in range(20))
        assert sum(await asyncio.gather(*calls)) == 10
        limiter.close()

    def test_a_bucket_in_a_file_can_be_pickled(self, make: Any) -> None:
        bucket = make(Rate(3, HOUR))
        assert put(bucket, START, 2)
        with pickle.loads(pickle.dumps(bucket)) as copy:
            assert puts(copy, START, 2) == 1

    def test_one_on_a_given_connection_cannot_and_says_why(self) -> None:
        with (
            SQLiteBucket([Rate(1, HOUR)], sqlite3.connect(":memory:"), "limits") as bucket,
            pytest.raises(TypeError, match="make it with init_from_file"),
        ):
            pickle.dumps(bucket)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
class TestForks:
    @staticmethod
    def in_child(function: Callable[[], bool]) -> bool:
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if function() else 1)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(2)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def test_a_child_goes_on_with_the_same_limit_while_a_thread_of_its_parent_decides(self, make: Any) -> None:
        bucket = make(Rate(10**6, HOUR))
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                assert put(bucket)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for _ in range(5):
                signal.alarm(60)
                assert self.in_child(lambda: puts(bucket, None, 20) == 20)
        finally:
            signal.alarm(0)
            stop.set()
            thread.join()
        before = bucket.count()
        assert self.in_child(lambda: puts(bucket, None, 20) == 20)
        assert bucket.count() == before + 20

    def test_a_given_connection_is_not_carried_into_a_child(self, path: str) -> None:
        with SQLiteBucket([Rate(3, HOUR)], sqlite3.connect(path), "limits") as bucket:
            assert put(bucket, START)

            def refused() -> bool:
                try:
                    put(bucket, START)
                except RuntimeError as error:
                    return "before the process forked" in str(error)
                return False

            assert self.in_child(refused)
            assert puts(bucket, START, 3) == 2


class TestExamples:
    def test_those_of_the_page_and_of_the_docstring_run(self) -> None:
        page = Path(__file__).parent.parent / "docs" / "backends-sql.md"
        text = page.read_text(encoding="utf-8") if page.exists() else "```python\n```\n"  # not beside a wheel
        blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        docstring = textwrap.dedent((inspect.getdoc(SQLiteBucket) or "").partition("Example:\n")[2])
        assert len(blocks) == 1
        for source in (*blocks, docstring):
            exec(compile(source, str(page), "exec"), {})


class TestUnderTheNamesOfPyrateLimiter:
    def test_both_databases_are_there_and_no_driver_is_loaded_before_it_is_needed(self) -> None:
        program = """
            import sys
            from aiolimiter_fast import compat
            compat.install("pyrate_limiter")
            from pyrate_limiter import PgQueries, PostgresBucket, PostgresClock
            from pyrate_limiter import SQLiteBucket, SQLiteClock, SQLiteQueries
            from pyrate_limiter import dedicated_sqlite_clock_connection
            from pyrate_limiter.buckets.postgres import Queries, advisory_lock_id
            assert Queries is PgQueries
            from pyrate_limiter.buckets.sqlite_bucket import Queries
            assert Queries is SQLiteQueries
            from pyrate_limiter.clocks import PostgresClock
            from pyrate_limiter.utils import dedicated_sqlite_clock_connection
            assert not {"psycopg", "psycopg_pool", "filelock", "redis"} & set(sys.modules)
        """
        source = "\n".join(line.strip() for line in program.splitlines())
        subprocess.run([sys.executable, "-W", "error", "-c", source], check=True, timeout=60)


class TestFactories:
    def test_they_make_buckets_and_limiters(self, path: str) -> None:
        with limiter_factory.create_sqlite_bucket([Rate(2, HOUR)], path, use_file_lock=True) as bucket:
            assert bucket.table == "pyrate_limiter"
            assert puts(bucket, None, 3) == 2
        with limiter_factory.create_sqlite_limiter(2, HOUR, path, "other") as limiter:
            assert [limiter.try_acquire("item", blocking=False) for _ in range(3)] == [True, True, False]

    def test_without_a_path_each_has_a_file_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("aiolimiter_fast.buckets.sqlite_bucket.gettempdir", lambda: str(tmp_path))
        with limiter_factory.create_sqlite_bucket([Rate(1, HOUR)], None) as bucket:
            assert put(bucket)
        assert [file.suffix for file in tmp_path.iterdir()] == [".sqlite"]
