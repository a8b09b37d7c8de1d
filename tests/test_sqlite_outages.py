"""SQLiteBucket when its file is locked, lost or damaged, and when processes die or stop at any moment."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fleets import Careless, Fleet, most, sqlite_bucket

from aiolimiter_fast import Limiter, Rate, RateItem, SQLiteBucket
from aiolimiter_fast.buckets import _sqlite_database
from aiolimiter_fast.errors import BackendUnavailable

HOUR = 3_600_000

HOLD = """
import sqlite3, sys
conn = sqlite3.connect(sys.argv[1], isolation_level=None)
conn.execute("BEGIN IMMEDIATE")
conn.execute("DELETE FROM limits")
print("holding", flush=True)
sys.stdin.read()
"""


def run(program: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@contextmanager
def locked(path: str) -> Iterator[subprocess.Popen[bytes]]:
    """While another process is in the middle of a transaction on the file."""
    with run(HOLD, path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"holding"
        try:
            yield holder
        finally:
            holder.kill()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "limits.sqlite")


@pytest.fixture
def make(path: str) -> Iterator[Callable[..., SQLiteBucket]]:
    made: list[SQLiteBucket] = []

    def make(*rates: Rate, **arguments: Any) -> SQLiteBucket:
        made.append(SQLiteBucket.init_from_file(list(rates), "limits", path, **arguments))
        return made[-1]

    yield make
    for bucket in made:
        bucket.close()


def put(bucket: Any, weight: int = 1) -> bool:
    return bool(bucket.put(RateItem("item", bucket.now(), weight)))


def tries(bucket: Any, times: int) -> list[bool]:
    return [put(bucket) for _ in range(times)]


class TestALockedFile:
    def test_it_raises_with_sqlites_own_error_as_the_cause_and_goes_on_afterwards(self, path: str, make: Any) -> None:
        bucket = make(Rate(2, HOUR), budget=0.05)
        assert put(bucket)
        with locked(path):
            for call in (lambda: put(bucket), bucket.flush):
                with pytest.raises(BackendUnavailable, match="database is locked") as caught:
                    call()
                assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
            assert bucket.count() == 1  # who only reads is not held up
        assert tries(bucket, 2) == [True, False]

    def test_a_refusal_needs_no_lock(self, path: str, make: Any) -> None:
        bucket = make(Rate(1, HOUR), budget=0.02)
        assert put(bucket)
        with locked(path):
            assert tries(bucket, 2) == [False, False]
            assert HOUR - 60_000 < bucket.waiting(RateItem("item", bucket.now())) <= HOUR + 1

    @pytest.mark.parametrize(("policy", "expected"), [("open", [True] * 3), ("closed", [False] * 3)])
    def test_it_admits_or_denies_everything_where_that_is_wanted(
        self, path: str, make: Any, policy: str, expected: list[bool]
    ) -> None:
        bucket = make(Rate(1, HOUR), budget=0.02, on_backend_error=policy)
        bucket.outages.pause = 0.01
        with locked(path):
            assert tries(bucket, 3) == expected
            if policy == "closed":
                assert bucket.waiting(RateItem("item", bucket.now())) > 0
        time.sleep(bucket.outages.pause)
        assert tries(bucket, 2) == [True, False]

    def test_it_goes_by_a_share_of_the_limit_in_this_process(self, path: str, make: Any) -> None:
        bucket = make(Rate(8, HOUR), budget=0.02, on_backend_error="local", local_share=0.25)
        with locked(path):
            assert tries(bucket, 3) == [True, True, False]
        with pytest.raises(ValueError, match="less than one permit"):
            make(Rate(3, HOUR), on_backend_error="local", local_share=0.25)

    def test_one_that_is_made_meanwhile_begins_by_its_policy(self, path: str, make: Any) -> None:
        make(Rate(1, HOUR))
        with locked(path):
            with pytest.raises(BackendUnavailable, match="locked"):
                make(Rate(1, HOUR), budget=0.02)
            bucket = make(Rate(1, HOUR), budget=0.02, on_backend_error="open")
            bucket.outages.pause = 0.01
            assert tries(bucket, 3) == [True] * 3
        time.sleep(bucket.outages.pause)
        assert tries(bucket, 2) == [True, False]

    @pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes cannot be stopped on this system")
    def test_a_process_stopped_in_a_transaction_delays_others_by_their_timeout_only(self, path: str, make: Any) -> None:
        limiter = Limiter(make(Rate(1, HOUR)))
        with locked(path) as holder:
            holder.send_signal(signal.SIGSTOP)
            with pytest.raises(BackendUnavailable, match="locked"):
                limiter.try_acquire("item", timeout=0.05)
            holder.send_signal(signal.SIGCONT)
        assert limiter.try_acquire("item", timeout=60)
        limiter.close()

    async def test_the_event_loop_goes_on_meanwhile(self, path: str, make: Any) -> None:
        limiter = Limiter(make(Rate(2, HOUR), budget=0.5))
        assert await limiter.try_acquire_async("item")
        with locked(path):
            call = asyncio.create_task(limiter.try_acquire_async("item"))
            turns = 0
            while not call.done():
                await asyncio.sleep(0.001)
                turns += 1
            with pytest.raises(BackendUnavailable):
                await call
        assert turns >= 10
        assert await limiter.try_acquire_async("item")
        limiter.close()

    def test_readers_of_a_file_without_a_write_ahead_log_are_waited_for(self, path: str) -> None:
        with SQLiteBucket([Rate(2, HOUR)], sqlite3.connect(path, timeout=0), "limits", budget=0.05) as bucket:
            reader = sqlite3.connect(path, isolation_level=None)
            reader.execute("BEGIN").connection.execute("SELECT * FROM limits").fetchall()
            with pytest.raises(BackendUnavailable, match="locked"):
                put(bucket)
            reader.close()
            assert tries(bucket, 3) == [True, True, False]


class TestAFileThatCannotBeWritten:
    """By a disk that is full, or rights that are missing."""

    @pytest.mark.parametrize(
        ("obstacle", "relief", "message"),
        [
            ("PRAGMA query_only=ON", "PRAGMA query_only=OFF", "readonly"),
            ("PRAGMA max_page_count=1", "PRAGMA max_page_count=1073741823", "full"),
        ],
    )
    @pytest.mark.parametrize(("policy", "expected"), [("raise", None), ("open", True), ("closed", False)])
    def test_it_is_an_outage_and_what_was_admitted_counts_afterwards(
        self, make: Any, obstacle: str, relief: str, message: str, policy: str, expected: bool | None
    ) -> None:
        bucket = make(Rate(12, HOUR), on_backend_error=policy)
        bucket.outages.pause = 0.0
        item = RateItem("x" * 2000, bucket.now(), 2)
        assert [bucket.put(item) for _ in range(5)] == [True] * 5
        bucket.conn.execute(obstacle)
        if expected is None:
            with pytest.raises(BackendUnavailable, match=message):
                bucket.put(item)
        else:
            assert bucket.put(item) is expected
        bucket.conn.execute(relief)
        assert [bucket.put(item) for _ in range(2)] == [True, False]


class TestALostFile:
    @pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
    @pytest.mark.parametrize(
        ("policy", "expected"), [("open", [True, False]), ("closed", [False, False]), ("raise", [None, True])]
    )
    @pytest.mark.parametrize("dropped", [False, True])
    def test_what_it_is_taken_for_is_up_to_the_user(
        self, path: str, make: Any, policy: str, expected: list[bool | None], dropped: bool
    ) -> None:
        bucket = make(Rate(1, HOUR), Rate(2, 2 * HOUR), on_state_loss=policy)
        assert tries(bucket, 2) == [True, False]
        if dropped:
            with sqlite3.connect(path) as conn:
                conn.execute("DROP TABLE limits")
            conn.close()
        else:
            for file in Path(path).parent.glob("limits.sqlite*"):
                file.unlink()
            bucket._ledger.look_at = 0.0
        if expected[0] is None:
            with pytest.raises(BackendUnavailable, match="was lost"):
                put(bucket)
            expected = expected[1:]
        assert tries(bucket, len(expected)) == expected

    @pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
    def test_all_buckets_meet_again_in_the_new_file(self, path: str, make: Any) -> None:
        buckets = [make(Rate(2, HOUR)) for _ in range(2)]
        assert [put(bucket) for bucket in buckets] == [True, True]
        for file in Path(path).parent.glob("limits.sqlite*"):
            file.unlink()
        for bucket in buckets:
            bucket._ledger.look_at = 0.0
        assert [put(bucket) for bucket in buckets * 2] == [True, True, False, False]

    def test_a_file_that_is_no_database_is_an_outage_and_left_alone(self, path: str, make: Any) -> None:
        Path(path).write_bytes(b"my diary\n" * 1000)
        with pytest.raises(BackendUnavailable, match="not a database"):
            make(Rate(1, HOUR))
        assert Path(path).read_bytes() == b"my diary\n" * 1000

    def test_a_folder_that_is_not_there_is_an_outage(self, tmp_path: Path) -> None:
        with pytest.raises(BackendUnavailable, match="unable to open"):
            SQLiteBucket.init_from_file([Rate(1, HOUR)], "limits", str(tmp_path / "none" / "limits.sqlite"))


class TestKilledProcesses:
    def test_four_of_them_killed_at_random_never_exceed_a_limit_and_the_others_go_on(
        self, path: str, tmp_path: Path, make: Any
    ) -> None:
        limits = ((50, 100), (400, 1000))
        with Fleet(partial(sqlite_bucket, path, limits), tmp_path / "record") as fleet:
            fleet.run(kills=25)
            fleet.go_on()
        for limit, interval in limits:
            assert limit / 2 < most(fleet.calls, interval) <= limit
        # Nothing was admitted that is not in the table, and a kill costs one permit at most.
        recorded = sum(call.admitted for call in fleet.calls)
        bucket = make(*(Rate(*limit) for limit in limits))
        assert recorded <= bucket.count() <= recorded + fleet.kills + fleet.size

    def test_the_record_shows_a_limit_that_is_not_kept(self, path: str, tmp_path: Path) -> None:
        limits = ((10, 100),)
        Careless(path, limits).conn.close()
        with Fleet(partial(Careless, path, limits), tmp_path / "record") as fleet:
            end = time.monotonic() + 30
            while most(fleet.calls, 100) <= 10:
                assert time.monotonic() < end
                fleet.run(kills=1)


def test_a_table_that_takes_no_entry_is_an_error_and_not_a_hang(path: str) -> None:
    with SQLiteBucket.init_from_file([Rate(2, HOUR)], "limits", path) as bucket:
        assert bucket.conn is not None
        bucket.conn.execute("CREATE TRIGGER never BEFORE INSERT ON limits BEGIN SELECT RAISE(ABORT, 'never'); END")
        for _ in range(2):
            with pytest.raises(sqlite3.IntegrityError, match="never"):
                bucket.put(RateItem("item", bucket.now()))
        bucket.conn.execute("DROP TRIGGER never")
        assert bucket.put(RateItem("item", bucket.now()))


def test_a_fork_finds_every_database_while_other_threads_make_some() -> None:
    kept = [_sqlite_database.Database("unused") for _ in range(300)]
    done = threading.Event()

    def make() -> None:
        while not done.is_set():
            _sqlite_database.Database("unused")

    threads = [threading.Thread(target=make) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for _ in range(1000):
            _sqlite_database._before_fork()
            found = len(_sqlite_database.held)
            _sqlite_database._after_fork()
            assert found >= len(kept)
    finally:
        sys.setswitchinterval(interval)
        done.set()
        for thread in threads:
            thread.join()
