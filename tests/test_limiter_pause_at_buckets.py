"""A Limiter that is told what a server's headers say, over buckets of every other kind."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from callers import Thread, logged, until, worst

from aiolimiter_fast._gate import gate_of

HOUR_MS = 3_600_000


def test_two_threads_find_one_gate() -> None:
    both = threading.Barrier(2)

    class Bucket:
        def __getattr__(self, name: str) -> None:
            with suppress(threading.BrokenBarrierError):  # one came alone, as it should be
                both.wait(0.2)

    bucket = Bucket()
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(gate_of(bucket))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is found[1]


def test_limits_that_two_threads_state_at_once_rise_again_to_what_was_set(package: ModuleType) -> None:
    both = threading.Barrier(2)
    lowered: list[Any] = []

    class Bucket(package.InMemoryBucket):  # type: ignore[misc, name-defined]
        @property
        def rates(self) -> Any:
            return super().rates

        @rates.setter
        def rates(self, rates: Any) -> None:
            package.InMemoryBucket.rates.fset(self, rates)
            if rates[0].limit < 10:
                lowered.append(rates)
                with suppress(threading.BrokenBarrierError):  # one came alone, as it should be
                    both.wait(0.2)

    limiter = package.Limiter(Bucket([package.Rate(10, HOUR_MS)]))
    threads = [threading.Thread(target=partial(limiter.sync, limit=limit)) for limit in (5, 3)]
    threads[0].start()
    until(lambda: bool(lowered))
    threads[1].start()
    for thread in threads:
        thread.join()
    assert limiter.rates[0].limit == 3
    limiter.sync(limit=100)
    assert limiter.rates[0].limit == 10


@pytest.fixture
def buckets(package: ModuleType, tmp_path: Path) -> Iterator[Callable[[str, Any], Any]]:
    """Makes buckets of the kinds that are no plain window in memory."""
    with ExitStack() as stack:

        def make(kind: str, rate: Any) -> Any:
            if kind == "fixed":
                return package.InMemoryBucket([rate], package.FixedWindow())
            if kind == "shared":
                return stack.enter_context(package.SharedMemoryBucket([rate], path=tmp_path / "shared"))
            if kind == "shared state":
                return stack.enter_context(package.SharedMemoryStateBucket([rate], path=tmp_path / "shared"))
            if kind == "sqlite":
                return stack.enter_context(
                    package.SQLiteBucket.init_from_file([rate], db_path=str(tmp_path / "limits.sqlite"))
                )
            return package.StateBucket([rate], package.GCRA(), package.InMemoryStateStore())

        yield make


KINDS = ["fixed", "shared", "shared state", "sqlite", "state"]


@pytest.mark.parametrize("kind", KINDS)
class TestBucketsOfEveryKind:
    def test_a_pause_holds_threads_and_ends(self, package: ModuleType, buckets: Any, kind: str) -> None:
        limiter = package.Limiter(buckets(kind, package.Rate(10, HOUR_MS)), buffer_ms=0)
        assert limiter.try_acquire("x")
        start = time.monotonic()
        limiter.pause_until(start + 0.8)
        assert not limiter.try_acquire("x", blocking=False)
        assert not limiter.try_acquire("x", timeout=0.05)
        assert limiter.remaining() == [0]
        assert 0 < limiter.wait_time() <= 0.8
        assert limiter.try_acquire("x")
        assert time.monotonic() >= start + 0.8
        assert limiter.remaining() == [8]
        assert limiter.counters[:3] == (2, 2, 0)

    def test_resume_wakes_threads_and_the_tasks_of_loops(self, package: ModuleType, buckets: Any, kind: str) -> None:
        limiter = package.Limiter(buckets(kind, package.Rate(10, HOUR_MS)), buffer_ms=0)
        limiter.pause_until(time.monotonic() + 3600)

        async def crowd() -> Any:
            return await asyncio.gather(*(limiter.try_acquire_async("x") for _ in range(3)))

        threads = [Thread(limiter.try_acquire, "x"), *(Thread(asyncio.run, crowd()) for _ in range(2))]
        until(lambda: limiter.counters.waiting == 7)
        limiter.resume()
        assert [thread.result() for thread in threads] == [True, [True] * 3, [True] * 3]
        assert limiter.remaining() == [3]

    def test_no_more_than_remains_until_the_reset(self, package: ModuleType, buckets: Any, kind: str) -> None:
        limiter = package.Limiter(buckets(kind, package.Rate(10, HOUR_MS)), buffer_ms=0)
        limiter.sync(remaining=3, reset=3600)
        limiter.sync(remaining=8, reset=3600)
        assert limiter.remaining() == [3]
        assert [limiter.try_acquire("x", 2, blocking=False) for _ in range(3)] == [True, False, False]
        assert limiter.try_acquire("x", blocking=False)
        assert not limiter.try_acquire("x", blocking=False)
        limiter.resume()
        assert limiter.remaining() == [7]

    def test_what_the_bucket_refuses_is_not_taken_from_what_remains(
        self, package: ModuleType, buckets: Any, kind: str
    ) -> None:
        limiter = package.Limiter(buckets(kind, package.Rate(10, HOUR_MS)), buffer_ms=0)
        assert limiter.try_acquire("x", 8)
        limiter.sync(remaining=4, reset=3600)
        assert [limiter.try_acquire("x", 3, blocking=False) for _ in range(4)] == [False] * 4
        assert limiter.try_acquire("x", 2, blocking=False)

    def test_drain_and_sync_give_up_the_room(self, package: ModuleType, buckets: Any, kind: str) -> None:
        limiter = package.Limiter(buckets(kind, package.Rate(10, HOUR_MS)), buffer_ms=0)
        limiter.sync(remaining=4)
        assert limiter.remaining() == [4]
        limiter.drain()
        assert limiter.remaining() == [0]
        limiter.drain()
        assert not limiter.try_acquire("x", blocking=False)

    def test_a_task_cancelled_in_a_pause_leaves_its_place(self, package: ModuleType, buckets: Any, kind: str) -> None:
        limiter = package.Limiter(buckets(kind, package.Rate(10, HOUR_MS)), buffer_ms=0)

        async def main() -> None:
            limiter.pause_until(asyncio.get_running_loop().time() + 3600)
            tasks = [asyncio.create_task(limiter.try_acquire_async("x")) for _ in range(5)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for task in tasks[:4]:
                task.cancel()
            await asyncio.wait(tasks[:4])
            await asyncio.to_thread(limiter.resume)
            assert await tasks[4]

        asyncio.run(main())
        assert limiter.remaining() == [9]


class TestSharedMemory:
    def test_what_is_drained_is_drained_for_all_and_a_pause_is_not(self, package: ModuleType, tmp_path: Path) -> None:
        rates = [package.Rate(10, HOUR_MS)]
        with ExitStack() as stack:
            here, there = (
                package.Limiter(stack.enter_context(package.SharedMemoryBucket(rates, path=tmp_path / "log")))
                for _ in range(2)
            )
            here.sync(remaining=6)
            assert there.remaining() == [6]
            here.pause_until(time.monotonic() + 3600)
            assert there.try_acquire("x", blocking=False)
            assert not here.try_acquire("x", blocking=False)

    def test_the_state_that_is_shared_is_drained_for_all(self, package: ModuleType, tmp_path: Path) -> None:
        rates = [package.Rate(10, HOUR_MS)]
        with ExitStack() as stack:
            here, there = (
                stack.enter_context(package.SharedMemoryStateBucket(rates, path=tmp_path / "gcra")) for _ in range(2)
            )
            limiters = [package.Limiter(here), package.Limiter(there)]
            limiters[0].sync(remaining=6)
            assert limiters[1].remaining() == [6]
            limiters[0].sync(remaining=2, reset=3600)
            assert [limiter.remaining() for limiter in limiters] == [[2], [6]]
            assert limiters[1].try_acquire("x", 5, blocking=False)
            assert not limiters[0].try_acquire("x", 2, blocking=False)

    def test_those_behind_what_a_statement_leaves_wait_for_its_end(self, package: ModuleType, tmp_path: Path) -> None:
        with package.SharedMemoryStateBucket([package.Rate(10, HOUR_MS)], path=tmp_path / "gcra") as bucket:
            limiter = package.Limiter(bucket)
            limiter.sync(remaining=3, reset=60)

            async def main() -> None:
                tasks = [asyncio.create_task(limiter.try_acquire_async("x", 2)) for _ in range(2)]
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert [task.done() for task in tasks] == [True, False]
                assert 50 < limiter.wait_time(weight=2) <= 60
                assert not await limiter.try_acquire_async("x", 2, timeout=5)
                tasks[1].cancel()
                await asyncio.wait(tasks)
                assert limiter.remaining() == [1]

            asyncio.run(main())

    def test_what_others_enter_counts_once(self, package: ModuleType, tmp_path: Path) -> None:
        rates = [package.Rate(100, HOUR_MS)]
        with ExitStack() as stack:
            here, there = (
                package.Limiter(stack.enter_context(package.SharedMemoryBucket(rates, path=tmp_path / "log")))
                for _ in range(2)
            )
            there.try_acquire("x", 5)
            here.sync(remaining=20, reset=3600)
            there.try_acquire("x", 6)
            assert here.remaining() == [14]
            here.try_acquire("x", 4)
            there.bucket_factory.bucket.flush()  # all is read anew
            there.try_acquire("x", 3)
            assert here.remaining() == [7]

    def test_what_others_enter_counts_once_when_all_is_read_anew(self, package: ModuleType, tmp_path: Path) -> None:
        rates = [package.Rate(3, 50), package.Rate(100, HOUR_MS)]
        with ExitStack() as stack:
            here, there = (
                package.Limiter(stack.enter_context(package.SharedMemoryBucket(rates, path=tmp_path / "log")))
                for _ in range(2)
            )
            here.sync(remaining=20, reset=3600)
            bucket = here.bucket_factory.bucket
            here.try_acquire("x")
            there.try_acquire("x", 2)
            assert bucket.count() == 3

            async def grant_and_cancel() -> None:
                task = asyncio.create_task(there.try_acquire_async("x"))
                while bucket.count() == 3:  # noqa: ASYNC110  # another process sees it no sooner
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()

            asyncio.run(grant_and_cancel())  # what is given back makes everybody begin anew
            time.sleep(0.06)
            # 3 were admitted; what was seen and given back elsewhere is not given back here.
            assert here.remaining() == [3, 16]

    def test_a_bucket_that_is_closed_says_so(self, package: ModuleType, tmp_path: Path) -> None:
        bucket = package.SharedMemoryBucket([package.Rate(10, HOUR_MS)], path=tmp_path / "log")
        limiter = package.Limiter(bucket)
        limiter.try_acquire("x")
        bucket.close()
        for call in (limiter.drain, partial(limiter.sync, remaining=0, reset=1)):
            with pytest.raises(ValueError, match="closed"):
                call()


def test_a_pause_reaches_threads_that_sleep_already(package: ModuleType) -> None:
    limiter = package.Limiter(package.Rate(1, 100))
    limiter.try_acquire("x")
    served: list[float] = []
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait()
        limiter.try_acquire("x")
        served.append(time.monotonic())

    threads = [Thread(work) for _ in range(3)]
    barrier.wait()
    until(lambda: limiter.counters.waiting == 3)
    begin = time.monotonic()
    limiter.pause_until(begin + 0.4)
    admitted = len(served)
    for thread in threads:
        thread.result()
    assert all(instant >= begin + 0.4 for instant in served[admitted:])
    assert worst(logged(limiter), 100) == 1


async def test_an_asynchronous_bucket_pauses_but_cannot_be_drained(package: ModuleType) -> None:
    limiter = package.Limiter(package.BucketAsyncWrapper(package.InMemoryBucket([package.Rate(10, HOUR_MS)])))
    start = asyncio.get_running_loop().time()
    limiter.pause_until(start + 0.1)
    assert not await limiter.try_acquire_async("x", blocking=False)
    assert not await limiter.try_acquire_async("x", timeout=0.01)
    assert await limiter.try_acquire_async("x")
    assert asyncio.get_running_loop().time() >= start + 0.1
    with pytest.raises(NotImplementedError, match="asynchronous"):
        limiter.drain()


def test_what_was_taken_before_a_statement_is_not_given_back_to_it(package: ModuleType) -> None:
    limiter = package.Limiter(package.InMemoryBucket([package.Rate(10, HOUR_MS)], package.FixedWindow()))
    limiter.sync(remaining=5, reset=3600)
    gate = limiter.bucket_factory.bucket._gate
    made = gate.made
    assert gate.enter(2)
    gate.leave(2, made)
    assert limiter.remaining() == [5]
    assert gate.enter(2)
    limiter.sync(remaining=2, reset=3600)
    gate.leave(2, made)
    assert limiter.remaining() == [2]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sqlite"])  # a copy of that is on the same file
def test_a_copy_is_not_paused(package: ModuleType, buckets: Any, kind: str, imported: None) -> None:
    limiter = package.Limiter(buckets(kind, package.Rate(10, HOUR_MS)))
    limiter.pause_until(time.monotonic() + 3600)
    other = pickle.loads(pickle.dumps(limiter))
    assert other.try_acquire("x", blocking=False)
    other.close()
