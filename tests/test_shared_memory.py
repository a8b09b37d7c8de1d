"""Shared memory: several mappings of one file are several processes, told the time and interleaved as it comes."""

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
from hypothesis import given
from hypothesis import strategies as st

from aiolimiter_fast import (
    Limiter,
    MultiprocessBucket,
    Rate,
    RateItem,
    SharedMemoryBucket,
    SharedMemoryError,
    SlidingWindowLog,
    _shared_file,
)
from aiolimiter_fast._shared_file import Layout, SharedFile
from aiolimiter_fast.testing import ManualClock

SECOND = 1_000_000_000
HOUR = 3_600_000


class Oracle:
    """Every unit that was admitted, by its time."""

    def __init__(self, limits: list[tuple[int, int]]) -> None:
        self.limits = limits
        self.units: list[int] = []

    def fails(self, weight: int, now: int) -> int | None:
        """Which limit fails first."""
        for place, (limit, interval) in enumerate(self.limits):
            if sum(time >= now - interval for time in self.units) + weight > limit:
                return place
        return None

    def take(self, weight: int, now: int) -> int | None:
        place = self.fails(weight, now)
        if place is None:
            self.units += [now] * weight
        return place


class Processes:
    """Windows on one file, each with the state of a process of its own."""

    def __init__(self, engine: Any, folder: Path, limits: list[tuple[int, int]], count: int, slots: int = 64) -> None:
        self.engine, self.limits, self.slots = engine, limits, slots
        self.path = folder / f"log-{os.urandom(8).hex()}"
        self.files: list[SharedFile] = []
        self.windows: list[Any] = []
        for _ in range(count):
            self.add()

    def add(self) -> None:
        method = self.engine.SharedWindow.METHOD
        file = SharedFile(self.path, Layout("log", method, self.slots, tuple(self.limits)), make=True)
        window = self.engine.SharedWindow()
        window._configure(list(self.limits), *map(list, zip(*self.limits, strict=True)))
        window._attach(file if method == "lock" else file.mapping)
        self.files.append(file)
        self.windows.append(window)

    def close(self) -> None:
        for window, file in zip(self.windows, self.files, strict=True):
            window._detach()
            file.close()
        self.path.unlink()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


LIMITS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 40)), min_size=1, max_size=4).map(
    lambda steps: [
        (sum(limit for limit, _ in steps[: i + 1]), sum(interval for _, interval in steps[: i + 1]))
        for i in range(len(steps))
    ]
)
PUT = st.tuples(st.integers(0, 3), st.integers(-3, 30), st.integers(1, 8))
STEPS = st.lists(PUT, max_size=200)
"""Which process, how much later by its clock (which may be behind), and what weight."""


@pytest.mark.parametrize("others", [1, 3])
@given(limits=LIMITS, steps=STEPS)
def test_processes_together_admit_what_a_list_of_time_stamps_admits(
    engine: Any, tmp_path_factory: pytest.TempPathFactory, others: int, limits: list[tuple[int, int]], steps: Any
) -> None:
    processes = Processes(engine, tmp_path_factory.getbasetemp(), limits, others + 1)
    oracle, now, known = Oracle(limits), 1000, [0] * 4
    for which, pause, weight in steps:
        now += pause
        which %= others + 1
        window = processes.windows[which]
        failing = window._take("x", weight, now)
        # A process never decides before what it has read of clocks, its own and by the entries those of others.
        known[which] = max([known[which], now, *oracle.units[-1:]])
        place = oracle.take(weight, known[which])
        assert failing == (None if place is None else limits[place])
        if failing is not None and weight <= limits[0][0]:
            due = window._rate_due(weight, failing, now)
            assert oracle.fails(weight, due) is None
            assert oracle.fails(weight, due - 1) is not None
    processes.add()
    start = max([*known, now]) - limits[-1][1]
    held = sum(time >= start for time in oracle.units)
    for window in processes.windows:
        window._seen(now)
        assert window._count_since(start) == held
    processes.close()


@given(steps=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 1, 2, 500]), st.integers(1, 3)), max_size=300))
def test_a_process_that_slept_for_laps_counts_what_the_others_count(
    engine: Any, tmp_path_factory: pytest.TempPathFactory, steps: Any
) -> None:
    limits = [(64, 90)]
    processes = Processes(engine, tmp_path_factory.getbasetemp(), limits, 4)
    oracle, now = Oracle(limits), 0
    for which, pause, weight in steps:
        now += pause
        # One process is busy, the others come by now and then; the ring has 64 slots.
        window = processes.windows[which if weight == 3 else 0]
        place = oracle.take(weight, now)
        assert window._take("x", weight, now) == (None if place is None else limits[place])
    processes.close()


@given(steps=st.lists(st.tuples(st.sampled_from(["look", "enter", "take"]), st.integers(0, 2)), max_size=100))
def test_an_entry_fails_if_another_process_has_entered_one_since_the_look(
    engine: Any, tmp_path_factory: pytest.TempPathFactory, steps: Any
) -> None:
    """Between the look at the log and the swap that decides, anything may happen."""
    processes = Processes(engine, tmp_path_factory.getbasetemp(), [(1000, SECOND)], 3)
    seen, entered_by_look, now, entered = [0] * 3, [-1] * 3, 10**18, 0
    for what, which in steps:
        now += 1
        window = processes.windows[which]
        if what == "look":
            seen[which], entered_by_look[which] = window._seen(now), entered
        elif what == "enter":
            if entered_by_look[which] >= 0:
                assert window._append_after(seen[which], 1, now) == (-1 if entered_by_look[which] < entered else 0)
                entered += entered_by_look[which] == entered
        else:
            assert window._take("x", 1, now) is None
            entered += 1
            entered_by_look[which] = -1  # it has looked itself
    processes.add()
    processes.windows[-1]._seen(now)
    assert processes.windows[-1]._count_since(0) == entered
    processes.close()


def test_entries_go_round_the_ring_for_many_laps(engine: Any, folder: Path) -> None:
    processes = Processes(engine, folder, [(64, 63)], 2)
    first, second = processes.windows
    for now in range(64 * 40):
        assert first._take("x", 1, now) is None
        if now % 700 == 0:
            assert second._take("x", 64, now) == (64, 63)
    assert second._take("x", 1, now) == (64, 63)
    assert second._take("x", 1, now + 1) is None
    processes.close()


def test_a_full_ring_admits_nothing_until_an_entry_leaves_the_longest_window(engine: Any, folder: Path) -> None:
    processes = Processes(engine, folder, [(1000, 1000)], 2)
    first, second = processes.windows
    for now in range(64):
        assert first._take("x", 2, now) is None
    for window in (first, second):
        assert window._take("x", 1, 64) == (1000, 1000)
        assert window._rate_due(1, (1000, 1000), 64) == 1001
    assert second._take("x", 1, 1000) == (1000, 1000)
    assert second._take("x", 1, 1001) is None
    assert first._take("x", 1, 1001) == (1000, 1000)
    assert first._take("x", 872, 1002) is None
    processes.close()


def test_laps_are_counted_across_the_end_of_their_24_bits(engine: Any, folder: Path) -> None:
    processes = Processes(engine, folder, [(64, 63)], 0)
    processes.add()
    mapping = processes.files[0].mapping
    struct.pack_into("=q", mapping, 8 * 128, 64 * (2**24 - 2))
    for slot in range(64):
        struct.pack_into("=qQ", mapping, 4096 + 16 * slot, -(10**6), (2**24 - 3) << 40 | 1)
    processes.add()
    processes.add()
    oracle = Oracle([(64, 63)])
    for now in range(64 * 6):
        window = processes.windows[0 if now % 50 else 1]
        assert window._take("x", 1 + now % 2, now) == (None if oracle.take(1 + now % 2, now) is None else (64, 63))
    for window in processes.windows:
        window._seen(now)
        assert window._count_since(now - 63) == sum(time >= now - 63 for time in oracle.units)
    processes.close()


def test_weights_of_40_bits_are_counted_in_full(engine: Any, folder: Path) -> None:
    rate = ((1 << 40) - 1, 100)
    processes = Processes(engine, folder, [rate], 2)
    first, second = processes.windows
    assert first._take("x", rate[0] - 1, 0) is None
    assert second._take("x", 2, 0) == rate
    assert second._take("x", 1, 0) is None
    assert first._take("x", 1, 100) == rate
    assert first._take("x", rate[0], 101) is None
    processes.close()


def test_flush_forgets_for_all_and_what_comes_after_counts(engine: Any, folder: Path) -> None:
    processes = Processes(engine, folder, [(3, SECOND)], 3)
    first, second, third = processes.windows
    now = 10**18  # ahead of the clock that `_clear` reads
    assert first._take("x", 3, now) is None
    assert second._take("x", 1, now) == (3, SECOND)
    first._clear()
    assert second._take("x", 2, now) is None
    assert third._take("x", 2, now) == (3, SECOND)
    assert first._take("x", 1, now) is None
    processes.add()
    assert processes.windows[-1]._take("x", 1, now) == (3, SECOND)
    processes.close()


def test_flushing_a_full_ring_makes_room_at_once(engine: Any, folder: Path) -> None:
    processes = Processes(engine, folder, [(64, SECOND)], 2)
    first, second = processes.windows
    now = 10**18  # ahead of the clock that `_clear` reads
    for _ in range(5):
        for _ in range(64):
            assert first._take("x", 1, now) is None
        assert second._take("x", 1, now) == (64, SECOND)
        second._clear()
    processes.close()


def test_the_hint_may_lag_by_laps(engine: Any, folder: Path) -> None:
    processes = Processes(engine, folder, [(64, 63)], 1)
    for now in range(64 * 5 + 7):
        assert processes.windows[0]._take("x", 1, now) is None
    struct.pack_into("=q", processes.files[0].mapping, 8 * 128, 64)
    processes.add()
    assert processes.windows[1]._take("x", 1, now) == (64, 63)
    assert processes.windows[1]._take("x", 1, now + 1) is None
    processes.close()


def test_damaged_slots_are_an_error_and_not_a_hang(engine: Any, folder: Path) -> None:
    processes = Processes(engine, folder, [(64, 63)], 1)
    struct.pack_into("=qQ", processes.files[0].mapping, 4096, 0, (2**24 - 9) << 40)
    for window in processes.windows:
        with pytest.raises(SharedMemoryError, match="damaged"):
            window._take("x", 1, 0)
    processes.close()


def test_a_slot_of_another_lap_for_every_number_is_an_error_and_not_a_hang(engine: Any, folder: Path) -> None:
    processes = Processes(engine, folder, [(64, 63)], 1)
    for slot in range(64):
        struct.pack_into("=qQ", processes.files[0].mapping, 4096 + 16 * slot, 0, (slot * 2**17 % 2**23 + 5) << 40)
    with pytest.raises(SharedMemoryError, match="damaged"):
        processes.windows[0]._take("x", 1, 0)
    processes.close()


# The bucket.


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
        (lambda data: data[:8] + struct.pack("=I", 2) + data[12:], "has format 2, but this version"),
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
    SharedFile(path, Layout("log", "lock" if mine == "cas" else "cas", 64, ((1, HOUR * 10**6),)), make=True).close()
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
        rate.limit = 5
        with pytest.raises(ValueError, match="cannot be changed"):
            put(bucket)
        with pytest.raises(ValueError, match="cannot be changed"):
            Limiter(bucket).try_acquire("x", blocking=False)
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


def test_what_the_page_and_the_docstrings_show_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shared_file, "directory", lambda: tmp_path)
    page = Path(__file__).parent.parent / "docs" / "shared-memory.md"
    examples = [
        textwrap.dedent((inspect.getdoc(subject) or "").partition("Example:\n")[2])
        for subject in (SharedMemoryBucket, MultiprocessBucket)
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
