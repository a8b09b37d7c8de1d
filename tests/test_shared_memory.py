"""Buckets in shared memory: their files, their arguments, and the limiters on them."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import os
import pickle
import re
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiolimiter_fast import (
    Limiter,
    MultiprocessBucket,
    Rate,
    RateItem,
    SharedMemoryBucket,
    SharedMemoryError,
    SharedMemoryStateBucket,
    SlidingWindowLog,
    _shared_file,
)
from aiolimiter_fast._shared_file import Layout, SharedFile
from aiolimiter_fast.testing import ManualClock

HOUR = 3_600_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "limit"


def put(bucket: Any, weight: int = 1) -> bool:
    admitted: bool = bucket.put(RateItem("item", bucket.now(), weight))
    return admitted


@pytest.fixture
def name() -> Iterator[str]:
    name = f"test_{os.urandom(8).hex()}"
    yield name
    _shared_file.path_of(name).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "no shared memory of aiolimiter_fast"),
        (lambda data: b"SQLite format 3\0" * 400, "no shared memory of aiolimiter_fast"),
        (lambda data: data[:-16], "damaged"),
        (lambda data: data[:100] + b"!" + data[101:], "damaged"),
        (lambda data: data[:8] + struct.pack("=I", 1) + data[12:], "has format 1, but this version"),
        (lambda data: data[:8] + data[11:7:-1] + data[12:], "has format 33554432, but this version"),
    ],
)
def test_a_file_that_is_foreign_or_damaged_is_refused_and_left_alone(path: Path, damage: Any, message: str) -> None:
    SharedMemoryBucket([Rate(1, HOUR)], path=path).close()
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(SharedMemoryError, match=message):
        SharedMemoryBucket([Rate(1, HOUR)], path=path)
    assert path.read_bytes() == damaged


def test_other_rates_another_capacity_and_another_kind_are_refused(path: Path) -> None:
    SharedMemoryBucket([Rate(5, 1000), Rate(9, 3000)], path=path, capacity=100).close()
    for rates in ([Rate(5, 1000)], [Rate(5, 1000), Rate(9, 3001)], [Rate(4, 1000), Rate(9, 3000)]):
        with pytest.raises(SharedMemoryError, match="for other rates: 5/1000, 9/3000, not "):
            SharedMemoryBucket(rates, path=path)
    with pytest.raises(SharedMemoryError, match="capacity=128, not 256"):
        SharedMemoryBucket([Rate(5, 1000), Rate(9, 3000)], path=path, capacity=200)
    with pytest.raises(SharedMemoryError, match="holds no state"):
        SharedFile(path, Layout("state", "lock", 256), make=False)


def test_the_two_engines_do_not_share_a_file(path: Path) -> None:
    mine = SharedMemoryBucket.METHOD
    SharedFile(path, Layout("log", "lock" if mine == "cas" else "cas", 256, ((1, HOUR * 10**6),)), make=True).close()
    with pytest.raises(SharedMemoryError, match=r"is for the \w+ engine; this is the"):
        SharedMemoryBucket([Rate(1, HOUR)], path=path)


def test_a_file_from_before_a_reboot_is_an_error_or_begins_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shared_file, "_boot", [b"another"])
    with SharedMemoryBucket([Rate(1, HOUR)], path=path) as bucket:
        assert put(bucket)
    monkeypatch.setattr(_shared_file, "_boot", [])
    with pytest.raises(SharedMemoryError, match="before this machine was last started"):
        SharedMemoryBucket([Rate(1, HOUR)], path=path)
    with SharedMemoryBucket([Rate(1, HOUR)], path=path, on_reboot="restart") as bucket:
        assert put(bucket)
    with SharedMemoryBucket([Rate(1, HOUR)], path=path, on_reboot="restart") as bucket:
        assert not put(bucket)
    assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_a_restart_that_was_cut_short_is_made_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_half(descriptor: int, header: bytes, slots: int) -> None:
        os.write(descriptor, header)
        os.write(descriptor, bytes(16 * slots // 2))
        raise OSError("killed")

    monkeypatch.setattr(_shared_file, "_boot", [b"another"])
    with SharedMemoryBucket([Rate(100, HOUR)], path=path) as bucket:
        assert all(put(bucket) for _ in range(100))
    monkeypatch.setattr(_shared_file, "_boot", [])
    with monkeypatch.context() as patch:
        patch.setattr(_shared_file, "_write_all", write_half)
        with pytest.raises(OSError, match="killed"):
            SharedMemoryBucket([Rate(100, HOUR)], path=path, on_reboot="restart")
    with pytest.raises(SharedMemoryError, match="before this machine was last started"):
        SharedMemoryBucket([Rate(100, HOUR)], path=path)
    with SharedMemoryBucket([Rate(100, HOUR)], path=path, on_reboot="restart") as bucket:
        assert all(put(bucket) for _ in range(100))
        assert not put(bucket)


def test_a_boot_that_is_known_by_the_time_of_day_may_be_a_minute_off() -> None:
    assert _shared_file._same_boot(b"~1000", b"~1060")
    assert not _shared_file._same_boot(b"~1000", b"~1061")
    assert not _shared_file._same_boot(b"~1000", b"1000")


def test_a_full_disk_is_an_error_that_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space"):
        SharedMemoryBucket([Rate(1, HOUR)], path=path)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "give a name or a path, got name=None and path=None"),
        ({"name": "a", "path": "b"}, ValueError, "give a name or a path, got name='a' and path='b'"),
        ({"name": ""}, ValueError, "name must not be empty"),
        ({"name": 5}, TypeError, "name must be a str, got 5"),
        ({"name": "a", "capacity": 0}, ValueError, "capacity must be 1 to 4294967296 entries, got 0"),
        ({"name": "a", "capacity": True}, TypeError, "capacity must be a whole number of entries, got True"),
        ({"name": "a", "on_reboot": "x"}, ValueError, "on_reboot must be 'raise' or 'restart', got 'x'"),
        ({"name": "a", "algorithm": 5}, TypeError, "algorithm must be a LogAlgorithm, got 5"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SharedMemoryBucket([Rate(1, HOUR)], **arguments)


def test_a_limit_that_no_entry_can_hold_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match=r"limit must be at most 1099511627775 permits"):
        SharedMemoryBucket([Rate(1 << 40, HOUR)], path=path)
    assert not path.exists()


def test_rates_cannot_be_changed_neither_the_list_nor_one_of_them(path: Path) -> None:
    rate = Rate(1, HOUR)
    with SharedMemoryBucket([rate], path=path) as bucket:
        with pytest.raises(ValueError, match="cannot be changed"):
            bucket.rates = [Rate(2, HOUR)]
        assert bucket.rates == [rate]
        limiter = Limiter(bucket)
        rate.limit = 5
        with pytest.raises(ValueError, match="cannot be changed"):
            put(bucket)
        with pytest.raises(ValueError, match="cannot be changed"):
            limiter.try_acquire("x", blocking=False)
        rate.limit = 1
        assert [put(bucket), put(bucket)] == [True, False]


def test_another_algorithm_counts_from_the_next_put_on(path: Path) -> None:
    class Nobody(SlidingWindowLog):
        def admit(self, rates: Any, counts: Any, weight: int) -> Any:
            return super().admit(rates, [rate.limit for rate in rates], weight)

    with SharedMemoryBucket([Rate(9, HOUR)], path=path) as bucket:
        assert put(bucket)
        bucket._algorithm = Nobody()
        assert not put(bucket)
        bucket._algorithm = SlidingWindowLog()
        assert put(bucket)


def test_a_closed_bucket_says_so_and_the_file_stays(path: Path) -> None:
    bucket = SharedMemoryBucket([Rate(1, HOUR)], path=path)
    limiter = Limiter(bucket)
    assert limiter.try_acquire("x", blocking=False)
    limiter.close()
    limiter.close()
    for use in (lambda: put(bucket), bucket.count, lambda: limiter.try_acquire("x"), limiter.remaining):
        with pytest.raises(ValueError, match="closed"):
            use()
    with SharedMemoryBucket([Rate(1, HOUR)], path=path) as again:
        assert not put(again)


def test_copies_of_any_kind_are_the_same_limit(path: Path) -> None:
    with SharedMemoryBucket([Rate(3, HOUR)], path=path) as bucket:
        copies = [copy.copy(bucket), copy.deepcopy(bucket), pickle.loads(pickle.dumps(bucket))]
        assert [put(each) for each in (*copies, bucket)] == [True] * 3 + [False]
        assert [each.count() for each in copies] == [3, 3, 3]
        for each in copies:
            each.close()


def test_a_limiter_waits_by_the_exact_wait_without_a_buffer(path: Path) -> None:
    naps: list[float] = []
    with SharedMemoryBucket([Rate(1, 1000)], path=path) as bucket:
        limiter = Limiter(bucket, buffer_ms=500)
        bucket.now = lambda: 10_000 + round(1000 * sum(naps))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("aiolimiter_fast.limiter.sleep", naps.append)
            assert limiter.try_acquire("x")
            assert limiter.try_acquire("x")
    assert naps == [1.001]


@pytest.mark.parametrize("interval", [100, HOUR])
def test_a_thread_sleeps_until_a_full_ring_has_a_slot(path: Path, interval: int) -> None:
    with SharedMemoryBucket([Rate(1000, interval)], path=path, capacity=64) as bucket:
        limiter = Limiter(bucket)
        for _ in range(64):
            assert limiter.try_acquire("x", blocking=False)
        if interval == HOUR:
            assert limiter.remaining() == [936]
            assert 3500 < limiter.wait_time() < 3601
            assert not limiter.try_acquire("x", blocking=False)
            assert not limiter.try_acquire("x", timeout=0.001)
        else:
            assert limiter.try_acquire("x")


async def test_tasks_of_two_processes_wait_to_the_nanosecond(path: Path, clock: ManualClock) -> None:
    class Clock:
        def now(self) -> int:
            return clock.time_ns() // 10**6

        now_ns = staticmethod(clock.time_ns)

    buckets = [SharedMemoryBucket([Rate(2, 1000)], path=path) for _ in range(2)]
    limiters = []
    for bucket in buckets:
        bucket._clock = Clock()  # type: ignore[assignment]
        limiters.append(Limiter(bucket))
    tasks = [asyncio.create_task(limiters[i % 2].try_acquire_async("x")) for i in range(6)]
    await clock.settle()
    assert sum(task.done() for task in tasks) == 2
    await clock.run(1.0)
    assert sum(task.done() for task in tasks) == 2
    await clock.run(1e-9)
    assert sum(task.done() for task in tasks) == 4
    await clock.run(1.000000001)
    assert sum(task.done() for task in tasks) == 6
    for bucket in buckets:
        bucket.close()


async def test_a_task_cancelled_after_its_grant_gives_back_what_all_see(path: Path, clock: ManualClock) -> None:
    class Clock:
        def now(self) -> int:
            return clock.time_ns() // 10**6

        now_ns = staticmethod(clock.time_ns)

    buckets = [SharedMemoryBucket([Rate(1, 1000)], path=path) for _ in range(2)]
    limiters = []
    for bucket in buckets:
        bucket._clock = Clock()  # type: ignore[assignment]
        limiters.append(Limiter(bucket))
    assert await limiters[0].try_acquire_async("x")
    task = asyncio.create_task(limiters[0].try_acquire_async("x"))
    await clock.settle()
    clock.advance(1.000000001)
    assert not limiters[0].try_acquire("x", blocking=False)  # it serves the task first, which has not run on yet
    assert not limiters[1].try_acquire("x", blocking=False)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert limiters[1].try_acquire("x", blocking=False)
    assert not limiters[0].try_acquire("x", blocking=False)
    for bucket in buckets:
        bucket.close()


def test_a_forked_child_goes_on_with_what_its_parent_has_open(path: Path) -> None:
    script = """
import os, sys
from aiolimiter_fast import Limiter, Rate, SharedMemoryBucket
bucket = SharedMemoryBucket([Rate(100, 3_600_000)], path=sys.argv[1])
limiter = Limiter(bucket)
assert limiter.try_acquire("x")
children = []
for _ in range(3):
    children.append(os.fork() if hasattr(os, "fork") else 0)
    if children[-1] == 0:
        break
admitted = sum(limiter.try_acquire("x", blocking=False) for _ in range(40))
if children[-1] == 0 and hasattr(os, "fork"):
    os._exit(admitted)
admitted += sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children if child)
assert admitted == (99 if hasattr(os, "fork") else 40), admitted
assert bucket.count() == admitted + 1
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script, str(path)], check=True, timeout=60)


def test_unrelated_programs_share_a_limit_by_name_and_refuse_another_one(name: str) -> None:
    program = """
import sys
from aiolimiter_fast import Limiter, Rate, SharedMemoryBucket, SharedMemoryError, SharedMemoryStateBucket
rates = [Rate(5, 3_600_000), Rate(9, 7_200_000)]
with SharedMemoryBucket(rates, sys.argv[1]) as bucket:
    print(sum(Limiter(bucket).try_acquire("x", blocking=False) for _ in range(3)), bucket.count())
for bucket, others in (SharedMemoryBucket, rates[:1]), (SharedMemoryStateBucket, rates):
    try:
        bucket(others, sys.argv[1])
    except SharedMemoryError as error:
        print(str(error).partition(" ")[2])
"""
    told = [
        subprocess.run(
            [sys.executable, "-c", program, name], check=True, timeout=60, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    ]
    refusals = ["is for other rates: 5/3600000, 9/7200000, not 5/3600000", "holds no state"]
    assert [text.splitlines() for text in told] == [["3 3", *refusals], ["2 5", *refusals]]


def test_what_the_page_and_the_docstrings_show_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shared_file, "directory", lambda: tmp_path)
    page = Path(__file__).parent.parent / "docs" / "shared-memory.md"
    examples = [
        textwrap.dedent((inspect.getdoc(subject) or "").partition("Example:\n")[2])
        for subject in (SharedMemoryBucket, SharedMemoryStateBucket, MultiprocessBucket)
    ]
    if page.exists():  # not beside an installed wheel
        examples += re.findall(r"```py\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for example in examples:
        assert example
        exec(compile(example, "an example", "exec"), {"__name__": "docs"})
    assert list(tmp_path.iterdir()) == []


# MultiprocessBucket.


def test_a_multiprocess_bucket_takes_a_managers_list_as_pyrate_limiters_does() -> None:
    from multiprocessing import Manager, RLock

    with Manager() as manager:
        lock = RLock()
        bucket = MultiprocessBucket([Rate(2, HOUR)], manager.list(), lock)
        assert isinstance(bucket, MultiprocessBucket)
        assert bucket.limiter_lock() is lock
        assert [put(bucket) for _ in range(3)] == [True, True, False]
        assert len(bucket.items) == 2
    with pytest.raises(ValueError, match=r"items must be a ListProxy, got \[\]"):
        MultiprocessBucket([Rate(2, HOUR)], [], lock)


if os.name == "posix":  # elsewhere files have no modes, and stay while they are open

    def test_a_named_file_is_its_users_alone(name: str) -> None:
        with SharedMemoryBucket([Rate(1, HOUR)], name) as bucket:
            assert bucket.path.stat().st_mode & 0o777 == 0o600
            assert bucket.path.parent.stat().st_mode & 0o777 == 0o700
            bucket.unlink()
            assert not bucket.path.exists()
            assert put(bucket)

    def test_a_file_of_somebody_else_or_what_is_no_file_is_refused(
        name: str, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        SharedMemoryBucket([Rate(1, HOUR)], name).close()
        where = _shared_file.path_of(name)
        monkeypatch.setattr(_shared_file, "path_of", lambda _: where)
        monkeypatch.setattr(_shared_file, "_user", lambda: os.geteuid() + 1)
        monkeypatch.setattr("aiolimiter_fast.buckets.shared_memory.path_of", lambda _: where)
        with pytest.raises(SharedMemoryError, match="belongs to another user"):
            SharedMemoryBucket([Rate(1, HOUR)], name)
        path.mkdir()
        with pytest.raises(OSError, match="directory"):
            SharedMemoryBucket([Rate(1, HOUR)], path=path)
        path.rmdir()
        os.mkfifo(path)
        with pytest.raises(SharedMemoryError, match="is no regular file"):
            SharedMemoryBucket([Rate(1, HOUR)], path=path)
        with pytest.raises(FileNotFoundError):
            SharedMemoryBucket([Rate(1, HOUR)], path=path.with_name("no") / "such")

    def test_space_that_ends_in_the_midst_of_making_a_file_is_an_error_that_leaves_nothing(path: Path) -> None:
        program = """
import resource, sys
from aiolimiter_fast import Rate, SharedMemoryBucket
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
SharedMemoryBucket([Rate(10_000, 1000)], path=sys.argv[1])
"""
        result = subprocess.run(
            [sys.executable, "-c", program, str(path)], check=False, timeout=60, capture_output=True, text=True
        )
        assert result.stderr.splitlines()[-1].startswith("OSError: ")
        assert list(path.parent.iterdir()) == []

    def test_a_link_is_not_followed(path: Path) -> None:
        target = path.with_name("target")
        SharedMemoryBucket([Rate(1, HOUR)], path=target).close()
        path.symlink_to(target)
        with pytest.raises(OSError, match="symbolic link"):
            SharedMemoryBucket([Rate(1, HOUR)], path=path)

    def test_a_directory_that_others_can_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "access", lambda *_: False)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        where = _shared_file.directory()
        assert where.parent == tmp_path
        where.chmod(0o777)
        with pytest.raises(SharedMemoryError, match="only its owner"):
            SharedMemoryBucket([Rate(1, HOUR)], "name")
        where.rmdir()
        where.symlink_to(tmp_path)
        with pytest.raises(SharedMemoryError, match="only its owner"):
            SharedMemoryBucket([Rate(1, HOUR)], "name")

    def test_buckets_that_are_dropped_leave_no_descriptors(path: Path) -> None:
        def descriptors() -> int:
            ends = os.pipe()  # the next free ones
            for end in ends:
                os.close(end)
            return max(ends)

        SharedMemoryBucket([Rate(1, HOUR)], path=path)
        gc.collect()
        before = descriptors()
        for _ in range(50):
            SharedMemoryBucket([Rate(1, HOUR)], path=path)
        gc.collect()
        assert descriptors() == before

    def test_a_multiprocess_bucket_goes_with_its_process_and_so_does_what_killed_ones_left() -> None:
        dead = _shared_file.directory() / f"mp-{2**22 + 1}-{'0' * 32}"
        dead.touch()
        bucket = MultiprocessBucket.init([Rate(1, HOUR)])
        assert not dead.exists()
        path = bucket.path
        assert path.exists()
        del bucket
        assert not path.exists()

    def test_a_copy_of_what_is_gone_is_an_error(path: Path) -> None:
        with SharedMemoryBucket([Rate(3, HOUR)], path=path) as bucket:
            data = pickle.dumps(bucket)
            bucket.unlink()
        with pytest.raises(FileNotFoundError):
            pickle.loads(data)
