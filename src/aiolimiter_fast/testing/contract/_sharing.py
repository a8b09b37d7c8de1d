"""One limit for several objects, threads, tasks and processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from inspect import isawaitable
from pathlib import Path
from typing import Any

from aiolimiter_fast.abstracts import Rate, RateItem
from aiolimiter_fast.testing.contract._surroundings import AGES, HOUR, Surroundings

# Seconds that a process may take to start and to open a bucket.
START = 60.0


def _put_in_process(opener: Callable[[], Any], tries: int, signs: Any, path: Path) -> None:
    """Put items, once all are ready; `tries` 0: without end, until killed. Writes a byte for each that was admitted."""
    loop = asyncio.new_event_loop()
    ready, go = signs

    def done(value: Any) -> Any:
        async def result() -> Any:
            return await value

        return loop.run_until_complete(result()) if isawaitable(value) else value

    bucket = done(opener())
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0))
    ready.release()
    go.wait()
    number = 0
    while not tries or number < tries:
        if done(bucket.put(RateItem("item", done(bucket.now())))):
            os.write(descriptor, b".")
        number += 1
    os.close(descriptor)
    done(bucket.close())
    loop.close()


class Sharing(Surroundings):
    """Tests of what a bucket claims about those who use it at the same time."""

    def test_buckets_of_one_name_are_one_limit(self) -> None:
        first, second = self.bucket(Rate(3, HOUR)), self.bucket(Rate(3, HOUR))
        assert [self.put(bucket) for bucket in (first, second, first, second, first)] == [True] * 3 + [False] * 2
        assert self.count(first) == self.count(second) == 3
        self.result(first.flush())
        assert self.count(second) == 0
        assert self.put(second)

    def test_what_it_holds_outlives_it(self) -> None:
        first = self.bucket(Rate(3, HOUR))
        assert self.put(first, 2)
        self._open.remove(first)
        self.close(first)
        second = self.bucket(Rate(3, HOUR))
        assert [self.put(second), self.put(second)] == [True, False]

    def test_threads_get_exactly_the_limit(self) -> None:
        bucket = self.bucket(Rate(100, HOUR))

        def work(_: int) -> int:
            return sum(bool(bucket.put(RateItem("item", bucket.now()))) for _ in range(30))

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(work, range(2))) == 60, "there was room for all: a put was refused, or lost"
            assert sum(pool.map(work, range(4))) == 40, "there was room for 40: a put is no single step"
        assert self.count(bucket) == 100

    def test_tasks_get_exactly_the_limit(self) -> None:
        bucket = self.bucket(Rate(30, HOUR))

        async def main() -> int:
            return sum(await asyncio.gather(*(self._put_later(bucket) for _ in range(40))))

        assert self._loop.run_until_complete(main()) == 30, "there was room for 30: a put is no single step"
        assert self.count(bucket) == 30

    @staticmethod
    async def _put_later(bucket: Any) -> bool:
        now = bucket.now()
        admitted = bucket.put(RateItem("item", await now if isawaitable(now) else now))
        return bool(await admitted if isawaitable(admitted) else admitted)

    def test_a_cancelled_call_stops_nobody(self) -> None:
        bucket = self.bucket(Rate(100, HOUR))

        async def main() -> None:
            for turns in range(12):
                task = asyncio.ensure_future(self._put_later(bucket))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

        self._loop.run_until_complete(main())
        before = self.count(bucket)
        assert before <= 12, f"12 calls were made, all of weight 1, and count() is {before}"
        assert self.put(bucket), "there was room"
        assert self.count(bucket) == before + 1

    def test_processes_get_exactly_the_limit(self) -> None:
        rates = [Rate(100, HOUR)]
        bucket = self.bucket(*rates)
        admitted = self._in_processes(self.opener(rates, self._name), 3, 50)
        assert admitted >= 100, f"there was room for 100, and {admitted} were admitted: a put was refused, or lost"
        assert admitted == 100, f"there was room for 100, and {admitted} were admitted: a put is no single step"
        assert not self.put(bucket)
        assert self.count(bucket) == 100

    def test_a_killed_process_stops_nobody_and_what_it_took_counts(self) -> None:
        rates = [Rate(self.heaviest, AGES)]
        bucket, opener = self.bucket(*rates), self.opener(rates, self._name)
        context = multiprocessing.get_context("spawn")
        admitted = 0
        for number in range(2):
            path = self.folder / f"victim-{number}"
            ready, go = signs = context.Semaphore(0), context.Event()
            victim = self._start(opener, 0, path, signs)
            assert ready.acquire(timeout=START), "a process could not open the bucket; its traceback is above"
            go.set()
            while self._bytes(path) < 3:
                assert victim.is_alive(), "a process ended in the midst of its puts"
                victim.join(0.001)
            victim.kill()
            victim.join()
            victim.close()
            admitted += self._bytes(path)
            # First another process, since one that waits for ever can be given up.
            survivors = self._in_processes(opener, 1, 1)
            assert survivors == 1, "after a process was killed, another one was refused where there was room"
            admitted += survivors
            before = self.count(bucket)
            # Of the last one the victim may not have told any more.
            assert admitted <= before <= admitted + number + 1, (
                f"{admitted} were admitted, and count() is {before}: a process that was killed took what it held along"
            )
            assert self.put(bucket), "after a process was killed, there was room, and a put was refused"
            admitted += 1
            assert self.count(bucket) == before + 1

    @staticmethod
    def _bytes(path: Path) -> int:
        return path.stat().st_size if path.exists() else 0

    @staticmethod
    def _start(opener: Callable[[], Any], tries: int, path: Path, signs: Any) -> Any:
        """Start a process that puts items; signs: those by which it tells that it is ready, and is told to go."""
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_put_in_process, args=(opener, tries, signs, path), daemon=True)
        process.start()
        return process

    def _in_processes(self, opener: Callable[[], Any], processes: int, tries: int) -> int:
        """Put items from several processes at the same time; how many were admitted."""
        paths = [self.folder / f"worker-{os.urandom(8).hex()}" for _ in range(processes)]
        context = multiprocessing.get_context("spawn")
        ready, go = signs = context.Semaphore(0), context.Event()
        workers = [self._start(opener, tries, path, signs) for path in paths]
        for _ in workers:
            assert ready.acquire(timeout=START), "a process could not open the bucket; its traceback is above"
        go.set()
        for worker in workers:
            worker.join(self.patience)
            stuck = worker.is_alive()
            if stuck:
                worker.kill()
                worker.join()
            assert not stuck, f"a put has not come back within {self.patience} seconds: who holds what it waits for?"
            assert worker.exitcode == 0, "a put failed in another process; its traceback is above"
            worker.close()
        return sum(map(self._bytes, paths))
