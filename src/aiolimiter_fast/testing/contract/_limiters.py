"""What a Limiter has to make of a bucket."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from aiolimiter_fast.abstracts import Rate
from aiolimiter_fast.limiter import Limiter
from aiolimiter_fast.testing.contract._surroundings import HOUR, Surroundings


class Limiters(Surroundings):
    """Tests of a Limiter over the bucket, in threads and in asyncio."""

    def test_a_limiter_decides_at_once_where_it_is_not_to_wait(self) -> None:
        limiter = Limiter(self.bucket(Rate(3, HOUR)), buffer_ms=0)
        tries = [self.result(limiter.try_acquire("item", blocking=False)) for _ in range(5)]
        assert tries == [True] * 3 + [False] * 2
        assert self.result(limiter.try_acquire("item", 4)) is False
        self._dispose(limiter)

    @pytest.mark.parametrize("asynchronous", [False, True], ids=["threads", "asyncio"])
    def test_a_limiter_waits_as_long_as_it_must(self, asynchronous: bool) -> None:
        bucket = self.bucket(Rate(2, self.interval, 1))
        limiter = Limiter(bucket, buffer_ms=0)
        spans = []
        for _ in range(5):
            early = self.now(bucket)
            acquire = limiter.try_acquire_async if asynchronous else limiter.try_acquire
            assert self.result(acquire("item")) is True
            spans.append((early, self.now(bucket)))
        if self.is_log(bucket):
            assert all(late - early >= self.interval for (early, _), (_, late) in zip(spans, spans[2:], strict=False))
        self._dispose(limiter)

    def test_tasks_that_wait_at_a_limiter_are_all_served(self) -> None:
        bucket = self.bucket(Rate(4, self.interval))
        limiter = Limiter(bucket, buffer_ms=0)

        async def main() -> list[bool]:
            return list(await asyncio.gather(*(limiter.try_acquire_async("item") for _ in range(10))))

        assert self._loop.run_until_complete(main()) == [True] * 10
        self._dispose(limiter)

    def test_threads_that_wait_at_a_limiter_are_all_served(self) -> None:
        bucket = self.bucket(Rate(4, self.interval))
        limiter = Limiter(bucket, buffer_ms=0)
        with ThreadPoolExecutor(5) as pool:
            assert list(pool.map(lambda _: limiter.try_acquire("item"), range(10))) == [True] * 10
        self._dispose(limiter)

    def test_a_call_in_asyncio_does_not_hold_the_event_loop(self) -> None:
        """Another task runs meanwhile; of several tries the best counts, since the machine may be busy."""
        limiter = Limiter(self.bucket(Rate(100, HOUR)), buffer_ms=0)

        async def held() -> float:
            """The longest time between two turns of the loop, in seconds."""
            task = asyncio.ensure_future(limiter.try_acquire_async("item", blocking=False))
            longest, last = 0.0, time.perf_counter()
            while not task.done():
                await asyncio.sleep(0)
                now = time.perf_counter()
                longest, last = max(longest, now - last), now
            assert await task is True
            return longest

        shortest, tries = float("inf"), 0
        while shortest > self.longest_hold and tries < 50:
            shortest, tries = min(shortest, self._loop.run_until_complete(held())), tries + 1
        assert shortest <= self.longest_hold, (
            f"a call held the event loop for {shortest:.3f} seconds: put() is to await, or the class to say `blocks`"
        )
        self._dispose(limiter)

    def _dispose(self, limiter: Limiter) -> None:
        """Stop the limiter's leaker; the bucket is closed later."""
        for bucket in limiter.buckets():
            limiter.dispose(bucket)

        async def turn() -> None:
            await asyncio.sleep(0)

        self._loop.run_until_complete(turn())
