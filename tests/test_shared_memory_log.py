"""The log in shared memory: several mappings of one file are several processes."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolimiter_fast import (
    SharedMemoryError,
)
from aiolimiter_fast._shared_file import Layout, SharedFile

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


def test_what_counts_no_more_is_told_of_until_it_is_leaked_or_its_slot_is_needed(engine: Any, folder: Path) -> None:
    processes = Processes(engine, folder, [(64, 63)], 2)
    first, second = processes.windows
    for now in range(0, 640, 10):
        assert first._take("x", 2, now) is None
    assert [window._units() for window in (first, second)] == [128, 128]
    assert second._leak(100) == 20
    assert [window._leak(90) for window in (first, second)] == [0, 0]
    assert [window._units() for window in (first, second)] == [108, 108]
    assert first._take("x", 50, 640) is None
    assert second._take("x", 3, 640) == (64, 63)  # what is told of and what counts are two things
    assert first._leak(10**9) == 158
    assert [window._units() for window in (first, second)] == [0, 0]
    assert second._take("x", 3, 640) == (64, 63)
    for now in range(700, 700 + 640, 10):
        assert first._take("x", 1, now) is None
    processes.add()
    assert [window._units() for window in processes.windows] == [64, 64, 64]
    first._clear()
    assert [window._units() for window in processes.windows] == [0, 0, 0]
    processes.close()
