"""A state in shared memory: several mappings of one file are several processes, interleaved as it comes."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolimiter_fast import (
    GCRA,
    Decision,
    Limiter,
    MultiprocessStateStore,
    Rate,
    RateItem,
    SharedMemoryBucket,
    SharedMemoryError,
    SharedMemoryStateBucket,
    StateAlgorithm,
    StateBucket,
    TokenBucket,
    _shared_file,
)
from aiolimiter_fast._shared_file import Layout, SharedFile
from aiolimiter_fast.testing import ManualClock

HOUR = 3_600_000
TURN, WHICH, LANES = 8 * 128, 8 * 129, 8 * 512
RECORDS = Layout("state", "cas", 128)


class Processes:
    """Records on one file, each with the state of a process of its own."""

    def __init__(self, engine: Any, folder: Path, rates: list[Rate], count: int) -> None:
        self.engine, self.rates = engine, rates
        self.path = folder / f"state-{os.urandom(8).hex()}"
        self.files: list[SharedFile] = []
        self.records: list[Any] = []
        for _ in range(count):
            self.add()

    def add(self) -> Any:
        method = self.engine.SharedRecord.METHOD
        file = SharedFile(self.path, RECORDS._replace(method=method), make=True)
        record = self.engine.SharedRecord()
        emissions = [GCRA().emission(rate) for rate in self.rates]
        record._configure(self.rates, [rate.burst for rate in self.rates], emissions)
        record._attach(file if method == "lock" else file.mapping)
        self.files.append(file)
        self.records.append(record)
        return record

    @property
    def mapping(self) -> Any:
        return self.files[0].mapping

    def close(self) -> None:
        for record, file in zip(self.records, self.files, strict=True):
            record._detach()
            file.close()
        self.path.unlink()


RATES = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=4).map(
    lambda steps: [
        Rate(sum(limit for limit, _, _ in steps[: i + 1]), sum(interval for _, interval, _ in steps[: i + 1]), burst)
        for i, (_, _, burst) in enumerate(steps)
    ]
)
STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(-3, 30), st.integers(1, 10)), max_size=200)
"""Which process, how much later by its clock (which may be behind), and what weight."""


@pytest.mark.parametrize("others", [0, 3])
@given(rates=RATES, steps=STEPS)
def test_processes_together_decide_as_the_algorithm_does_alone(
    engine: Any, tmp_path_factory: pytest.TempPathFactory, others: int, rates: list[Rate], steps: Any
) -> None:
    processes = Processes(engine, tmp_path_factory.getbasetemp(), rates, others + 1)
    algorithm, now = GCRA(), 10**9
    state = algorithm.initial(rates)
    for which, pause, weight in steps:
        now += pause
        record = processes.records[which % (others + 1)]
        state, decision = algorithm.step(rates, state, now, weight)
        assert record._put_at(weight, now * 10**6) is decision.allowed
        assert record._denial()[0] is decision.failing_rate
        if not decision.allowed and all(weight <= rate.burst for rate in rates):
            due = record._rate_due(weight, decision.failing_rate, now * 10**6)
            assert record._denial()[1] == (weight, -(-due // 10**6))
            assert algorithm.step(rates, state, due // 1000 / 1000, weight)[1].allowed
            assert not algorithm.step(rates, state, (due // 1000 - 1) / 1000, weight)[1].allowed
    assert processes.add()._read()[1] in (state, ())
    processes.close()


NUMBERS = st.lists(
    st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.booleans()), max_size=62
).map(tuple)


@given(steps=st.lists(st.tuples(st.integers(0, 2), st.booleans(), NUMBERS), max_size=30))
def test_a_state_of_numbers_is_replaced_only_if_it_is_the_one_that_was_read(
    engine: Any, tmp_path_factory: pytest.TempPathFactory, steps: Any
) -> None:
    processes = Processes(engine, tmp_path_factory.getbasetemp(), [], 3)
    state: tuple[float, ...] = ()
    version, seen = 0, [(0, 0)] * 3
    for which, reads, numbers in steps:
        record = processes.records[which]
        if reads:
            token, found = record._read()
            assert (found, [type(number) for number in found]) == (state, [_kind(number) for number in state])
            seen[which] = token, version
        else:
            is_current = seen[which][1] == version
            assert record._replace(seen[which][0], numbers) is is_current
            if is_current:
                state, version = numbers, version + 1
    processes.close()


def _kind(number: Any) -> type:
    return float if isinstance(number, float) else int


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ((0,) * 63, ValueError, "at most 62 numbers, got 63"),
        ((2**63,), ValueError, f"must fit into 64 bits, got {2**63}"),
        ((-(2**63) - 1,), ValueError, "must fit into 64 bits"),
        (("1",), TypeError, "must be of numbers, got '1'"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_leaves_the_other(
    engine: Any, tmp_path: Path, state: Any, error: type[Exception], message: str
) -> None:
    processes = Processes(engine, tmp_path, [], 1)
    record = processes.records[0]
    assert record._replace(record._read()[0], (1, 2.5))
    with pytest.raises(error, match=message):
        record._replace(record._read()[0], state)
    assert record._read()[1] == (1, 2.5)
    processes.close()


def _begin(processes: Processes, numbers: int) -> None:
    """What a process leaves that was killed, or stopped, after it had begun and written so many numbers."""
    turn, which = struct.unpack_from("=qq", processes.mapping, TURN)
    struct.pack_into("=q", processes.mapping, TURN, turn + 1)
    for i in range(numbers):
        place = LANES + 16 * ((1 - (which & 1)) * 64 + i)
        struct.pack_into("=qq", processes.mapping, place, 2**62, turn + 1)


@pytest.mark.parametrize("numbers", [0, 1, 2])
def test_whoever_was_killed_in_the_midst_of_a_decision_delays_nobody_and_took_nothing(
    engine: Any, tmp_path: Path, numbers: int
) -> None:
    processes = Processes(engine, tmp_path, [Rate(4, HOUR), Rate(6, 2 * HOUR, 6)], 2)
    for i, admitted in enumerate([True] * 4 + [False] * 2):
        _begin(processes, numbers)
        _begin(processes, numbers)
        assert processes.records[i % 2]._put_at(1, 10**18) is admitted
    processes.close()


def test_a_thousand_killed_in_a_row_delay_nobody(engine: Any, tmp_path: Path) -> None:
    processes = Processes(engine, tmp_path, [Rate(1, HOUR)], 1)
    for i in range(1000):
        _begin(processes, i % 2)
    assert [processes.records[0]._put_at(1, 10**18) for _ in range(2)] == [True, False]
    processes.close()


@pytest.mark.parametrize(
    ("place", "number"),
    [
        (LANES + 16 * 64 + 8, 5),  # the turn that wrote the first number
        (TURN, 0),
        (WHICH, -1),
        (WHICH, 2**40 << 8 | 1 << 1),
        (LANES + 8, 2**62),  # the turn of a number that is to be written over
    ],
)
def test_a_damaged_record_is_an_error_and_neither_a_hang_nor_a_permit(
    engine: Any, tmp_path: Path, place: int, number: int
) -> None:
    processes = Processes(engine, tmp_path, [Rate(4, HOUR)], 1)
    record = processes.records[0]
    assert record._put_at(1, 10**18)
    struct.pack_into("=q", processes.mapping, place, number)
    if (engine.SharedRecord.METHOD, place) == ("lock", LANES + 8):  # under a lock it is written over unseen
        assert record._put_at(1, 10**18)
    else:
        with pytest.raises(SharedMemoryError, match="damaged"):
            record._put_at(1, 10**18)
    processes.close()


def test_flush_forgets_for_all_and_voids_what_was_granted_before(engine: Any, tmp_path: Path) -> None:
    processes = Processes(engine, tmp_path, [Rate(2, HOUR)], 2)
    first, second = processes.records
    assert first._put_at(2, 10**18)
    assert not second._put_at(1, 10**18)
    second._clear()
    assert first._put_at(1, 10**18)
    first._clear()
    assert second._put_at(2, 10**18)
    assert not first._put_at(1, 10**18)
    processes.close()


# The bucket.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "limit"


@pytest.fixture
def name() -> Iterator[str]:
    name = f"test_{os.urandom(8).hex()}"
    yield name
    _shared_file.path_of(name).unlink(missing_ok=True)


def put(bucket: Any, weight: int = 1) -> bool:
    admitted: bool = bucket.put(RateItem("item", bucket.now(), weight))
    return admitted


def clocked(bucket: SharedMemoryStateBucket, clock: ManualClock) -> SharedMemoryStateBucket:
    class Clock:
        def now(self) -> int:
            return clock.time_ns() // 10**6

        now_ns = staticmethod(clock.time_ns)

    bucket._clock = Clock()  # type: ignore[assignment]
    return bucket


def test_by_name_and_by_path_it_is_one_limit_with_bursts(path: Path, name: str) -> None:
    for where in ({"name": name}, {"path": path}):
        with (
            SharedMemoryStateBucket([Rate(5, HOUR, burst=3)], **where) as here,
            SharedMemoryStateBucket([Rate(5, HOUR, burst=3)], **where) as there,
        ):
            assert [put(here), put(there), put(here), put(there)] == [True] * 3 + [False]
            assert there.count() == 3
            assert here.remaining() == [0]
            assert HOUR / 5100 < here.wait_time() <= HOUR / 5000
            assert there.wait_time(4) == float("inf")
            assert there.peek(0) is None
            assert here.leak(here.now()) == 0
            assert here.path.stat().st_size == 4096 + 2048


def test_two_configurations_of_one_file_are_refused(path: Path) -> None:
    class Other(GCRA):
        pass

    SharedMemoryStateBucket([Rate(5, 1000, burst=2)], path=path).close()
    for rates in ([Rate(5, 1000)], [Rate(5, 1001, burst=2)], [Rate(5, 1000, burst=2), Rate(6, 2000)]):
        with pytest.raises(SharedMemoryError, match="for other rates: 5/1000 burst 2, not 5/"):
            SharedMemoryStateBucket(rates, path=path)
    with pytest.raises(SharedMemoryError, match=r"for another algorithm, not .*Other"):
        SharedMemoryStateBucket([Rate(5, 1000, burst=2)], path=path, algorithm=Other())
    with pytest.raises(SharedMemoryError, match="holds no log"):
        SharedMemoryBucket([Rate(5, 1000)], path=path)
    SharedMemoryStateBucket([Rate(5, 1000, burst=2)], path=path, algorithm=TokenBucket()).close()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "give a name or a path, got name=None and path=None"),
        ({"name": ""}, ValueError, "name must not be empty"),
        ({"name": "a", "on_reboot": "x"}, ValueError, "on_reboot must be 'raise' or 'restart', got 'x'"),
        ({"name": "a", "algorithm": 5}, TypeError, "algorithm must be a StateAlgorithm, got 5"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SharedMemoryStateBucket([Rate(1, HOUR)], **arguments)


def test_a_burst_of_a_hundred_years_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match=r"burst must take at most \d+ seconds to come back"):
        SharedMemoryStateBucket([Rate(1, 10**6 * HOUR, burst=1000)], path=path)
    assert not path.exists()


def test_a_state_from_before_a_reboot_is_an_error_or_begins_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shared_file, "_boot", [b"another"])
    with SharedMemoryStateBucket([Rate(1, HOUR)], path=path) as bucket:
        assert put(bucket)
    monkeypatch.setattr(_shared_file, "_boot", [])
    with pytest.raises(SharedMemoryError, match="before this machine was last started"):
        SharedMemoryStateBucket([Rate(1, HOUR)], path=path)
    for admitted in (True, False):
        with SharedMemoryStateBucket([Rate(1, HOUR)], path=path, on_reboot="restart") as bucket:
            assert put(bucket) is admitted


def test_rates_cannot_be_changed_and_a_closed_bucket_says_so(path: Path) -> None:
    rate = Rate(1, HOUR)
    with SharedMemoryStateBucket([rate], path=path) as bucket:
        limiter = Limiter(bucket)
        with pytest.raises(ValueError, match="cannot be changed"):
            bucket.rates = [Rate(2, HOUR)]
        rate.burst = 2
        for use in (lambda: put(bucket), lambda: limiter.try_acquire("x", blocking=False)):
            with pytest.raises(ValueError, match="cannot be changed"):
                use()
        rate.burst = 1
        assert limiter.try_acquire("x", blocking=False)
        assert not put(bucket)
    for use in (lambda: put(bucket), bucket.count, limiter.remaining, bucket.flush):
        with pytest.raises(ValueError, match="closed"):
            use()
    with SharedMemoryStateBucket([rate], path=path) as again:
        assert not put(again)


def test_a_pickled_one_is_the_same_limit_and_its_file_may_go(path: Path) -> None:
    with SharedMemoryStateBucket([Rate(2, HOUR)], path=path, algorithm=TokenBucket()) as bucket:
        data = pickle.dumps(bucket)
        again = pickle.loads(data)
        assert [put(each) for each in (bucket, again, bucket, again)] == [True, True, False, False]
        bucket.unlink()
        bucket.unlink()
        bucket.flush()
        assert [put(each) for each in (bucket, again, again)] == [True, True, False]
        again.close()
        with pytest.raises(FileNotFoundError):
            pickle.loads(data)


def test_a_weight_of_no_units_or_fewer(path: Path) -> None:
    with SharedMemoryStateBucket([Rate(1, HOUR)], path=path) as bucket:
        assert put(bucket)
        assert not put(bucket)
        assert put(bucket, 0)
        assert bucket.failing_rate is None
        with pytest.raises(ValueError, match="weight must be 0 or more, got -1"):
            put(bucket, -1)
        assert not put(bucket, 1 << 70)
        assert bucket.waiting(RateItem("item", bucket.now(), 1 << 70)) == -1


async def test_tasks_wait_to_the_microsecond_in_order_of_arrival(path: Path, clock: ManualClock) -> None:
    import asyncio

    bucket = clocked(SharedMemoryStateBucket([Rate(3, 1000, burst=1)], path=path), clock)
    other = clocked(SharedMemoryStateBucket([Rate(3, 1000, burst=1)], path=path), clock)
    limiter, order = Limiter(bucket), []

    async def acquire(number: int) -> None:
        assert await limiter.try_acquire_async("x")
        order.append(number)

    tasks = [asyncio.create_task(acquire(number)) for number in range(4)]
    await clock.settle()
    assert order == [0]
    assert limiter.wait_time() == pytest.approx(4 * 0.333334, abs=2e-6)
    await clock.run(0.333332)
    assert order == [0]
    await clock.run(2e-6)
    assert order == [0, 1]
    assert not Limiter(other).try_acquire("x", blocking=False)
    await clock.run(2 * 0.333334)
    assert order == [0, 1, 2, 3]
    await asyncio.gather(*tasks)
    bucket.close()
    other.close()


async def test_a_task_cancelled_after_its_grant_gives_back_what_all_see(path: Path, clock: ManualClock) -> None:
    import asyncio

    buckets = [clocked(SharedMemoryStateBucket([Rate(1, 1000)], path=path), clock) for _ in range(2)]
    first, second = (Limiter(bucket) for bucket in buckets)
    for flushed in (False, True):
        assert await first.try_acquire_async("x")
        task = asyncio.create_task(first.try_acquire_async("x"))
        await clock.settle()
        clock.advance(1.0)
        assert not first.try_acquire("x", blocking=False)  # it serves the task first, which has not run on yet
        assert not second.try_acquire("x", blocking=False)
        if flushed:
            buckets[1].flush()
            assert second.try_acquire("x", blocking=False)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        # What was granted before the flush is not given back a second time.
        assert second.try_acquire("x", blocking=False) is not flushed
        assert not first.try_acquire("x", blocking=False)
        clock.advance(1.0)
    for bucket in buckets:
        bucket.close()


def test_threads_that_wait_are_woken_and_timeouts_end(path: Path) -> None:
    with SharedMemoryStateBucket([Rate(20, 1000, burst=1)], path=path) as bucket:
        limiter = Limiter(bucket)
        assert limiter.try_acquire("x")
        assert limiter.try_acquire("x")
        assert not limiter.try_acquire("x", timeout=0.001)
        assert not limiter.try_acquire("x", 2)
        assert limiter.counters[:3] == (2, 2, 0)


class Every(StateAlgorithm):
    """Admits the weight as long as the sum of all is at most the limit; counts in halves."""

    def initial(self, rates: Any) -> Any:
        return (0.0,) * len(rates)

    def step(self, rates: Any, state: Any, now: int, weight: int) -> Any:
        following = tuple(number + weight / 2 for number in state)
        if following[0] * 2 > rates[0].limit:
            return state, Decision(rates[0], 7)
        return following, Decision()


def test_any_algorithm_takes_its_steps_without_a_lock(path: Path) -> None:
    with SharedMemoryStateBucket([Rate(5, HOUR)], path=path, algorithm=Every()) as bucket:
        assert [put(bucket, weight) for weight in (3, 3, 2, 1)] == [True, False, True, False]
        assert bucket._numbers() == (2.5,)
        assert bucket.failing_rate is bucket.rates[0]
        assert bucket.waiting(RateItem("x", bucket.now(), 1)) in (6, 7)
        assert bucket.wait_time() == 0.007
        assert not Limiter(bucket).try_acquire("x", blocking=False)
        bucket.flush()
        assert put(bucket, 5)


def test_a_step_that_was_overtaken_is_made_again() -> None:
    calls = []

    class Slow(Every):
        def step(self, rates: Any, state: Any, now: int, weight: int) -> Any:
            calls.append(state)
            if len(calls) == 1:
                assert copy.put(RateItem("x", 0))
            return super().step(rates, state, now, weight)

    store = MultiprocessStateStore.init()
    copy = StateBucket([Rate(3, HOUR)], Every(), pickle.loads(pickle.dumps(store)))
    bucket = StateBucket([Rate(3, HOUR)], Slow(), store)
    assert put(bucket)
    assert calls == [(0.0,), (0.5,)]
    assert [put(bucket), put(bucket)] == [True, False]
    assert store.read(Every(), bucket.rates) == (1.5,)
    store.reset()
    assert put(copy)


def test_four_processes_lose_no_step(path: Path) -> None:
    """Each takes thousands at one instant: the sum of all is in the state."""
    script = """
import os, sys
from aiolimiter_fast import GCRA, MultiprocessStateStore, Rate, RateItem, SharedMemoryStateBucket, StateBucket
from aiolimiter_fast._engine import ENGINE
rates = [Rate(1000, 1000, 10**6), Rate(2000, 4000, 10**6)]
tries = 20_000 if ENGINE == "extension" else 300
shared = SharedMemoryStateBucket(rates, path=sys.argv[1])
store = StateBucket(rates, store=MultiprocessStateStore.init())
for bucket, tries in ((shared, tries), (store, tries // 20)):
    children = []
    for _ in range(3 if hasattr(os, "fork") else 0):
        children.append(os.fork())
        if children[-1] == 0:
            break
    put, item = bucket.put, RateItem("x", 10**6)
    assert all(put(item) for _ in range(tries))
    if 0 in children:
        os._exit(0)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    state = bucket._numbers() if bucket is shared else bucket.store.read(GCRA(), rates)
    taken = tries * (1 + len(children))
    assert state == (10**9 + taken * 1000, 10**9 + taken * 2000), (state, taken)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script, str(path)], check=True, timeout=60)


def test_threads_lose_no_step(path: Path) -> None:
    with SharedMemoryStateBucket([Rate(1000, 1000, 10**6)], path=path) as bucket:
        item = RateItem("x", 10**6)
        workers = [threading.Thread(target=lambda: [bucket.put(item) for _ in range(500)]) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert bucket._numbers() == (10**9 + 2000 * 1000,)
