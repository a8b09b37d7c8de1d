"""The whole stack, fifty tasks, and servers that meter as real ones do, in virtual time."""

from __future__ import annotations

import asyncio
import random
from typing import Any
from unittest import mock

import httpx
import pytest
from metered_runs import most_refused, refused_share, share
from metering_servers import DIALECTS, EPOCH, FixedWindow, MeteredServer, SlidingWindow, TokenBucket

from aiolimiter_fast import AdaptiveLimiter, AsyncLimiter
from aiolimiter_fast.extras.httpx_limiter import AsyncThrottledTransport
from aiolimiter_fast.testing import ManualClock


class Run:
    """What came of the calls: their statuses, and how often each call reached the server."""

    def __init__(self, server: MeteredServer, seconds: float = 20.0, tasks: int = 50, **options: Any) -> None:
        self.server = server
        self.statuses: list[int] = []
        self.answers: dict[str, list[int]] = {}
        self.transport: AsyncThrottledTransport
        asyncio.run(self._run(seconds, tasks, options))

    async def _run(self, seconds: float, tasks: int, options: dict[str, Any]) -> None:
        chance = random.Random(1)
        with ManualClock().installed() as clock:
            start = clock.time()

            async def network(request: httpx.Request) -> httpx.Response:
                trip = chance.uniform(0.01, 0.04)
                await asyncio.sleep(trip)
                answer = self.server.answer(clock.time() - start)
                self.answers.setdefault(request.url.path, []).append(answer.status)
                await asyncio.sleep(trip)
                return httpx.Response(answer.status, headers=answer.headers)

            self.transport = AsyncThrottledTransport(transport=httpx.MockTransport(network), **options)

            async def client(name: int) -> None:
                number = 0
                while True:
                    number += 1
                    request = httpx.Request("GET", f"http://host/{name}/{number}")
                    self.statuses.append((await self.transport.handle_async_request(request)).status_code)

            running = [asyncio.create_task(client(name)) for name in range(tasks)]
            with mock.patch("time.time", side_effect=lambda: EPOCH + clock.time() - start):
                await clock.run(seconds)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def assert_nothing_was_lost(self) -> None:
        limiter = self.transport.adaptive("host")
        assert limiter is not None
        assert limiter.in_flight == limiter.waiting == 0
        assert self.transport.throttle.running == self.transport.throttle.waiting == 0
        assert all(status in (429, 503) for statuses in self.answers.values() for status in statuses[:-1])


@pytest.mark.parametrize(
    ("dialect", "meter"),
    [("ietf", SlidingWindow), ("discord", TokenBucket), *((name, FixedWindow) for name in DIALECTS)],
)
def test_with_headers_the_quota_is_used_and_every_call_comes_through(dialect: str, meter: Any) -> None:
    server = MeteredServer(meter(200, 10), DIALECTS[dialect])
    run = Run(server, adaptive=True, retry=True, breaker=True, max_concurrent=30)
    assert share(server, 400) >= 0.95
    assert most_refused(server, 10) <= 1
    assert set(run.statuses) == {200}
    run.assert_nothing_was_lost()


def test_without_headers_most_of_the_quota_is_found_and_every_call_comes_through() -> None:
    server = MeteredServer(FixedWindow(50, 1), retry_after=False)
    run = Run(server, adaptive=True, retry=True, breaker=True, max_concurrent=30)
    assert share(server, 1000) >= 0.85
    assert refused_share(server, 5) <= 0.05
    assert set(run.statuses) == {200}
    run.assert_nothing_was_lost()


def test_an_outage_is_waited_for_and_left_at_no_more_than_the_permitted_rate() -> None:
    server = MeteredServer(FixedWindow(100, 5), DIALECTS["ietf"], outages=[(5, 15)])
    run = Run(server, 30, adaptive=True, retry={"attempts": 20}, max_concurrent=30)
    after = [at for at in server.admitted if at >= 15]
    assert after[0] - 15 <= 1.5
    assert sum(at < after[0] + 1 for at in after) <= 20
    assert len(server.unavailable) <= 50
    assert set(run.statuses) == {200}
    run.assert_nothing_was_lost()


def test_the_static_limiter_stays_the_ceiling() -> None:
    server = MeteredServer(FixedWindow(1000, 5), DIALECTS["ietf"])
    run = Run(server, adaptive=lambda ceiling: AdaptiveLimiter(ceiling, spend="greedy"), limiter=AsyncLimiter(10, 1))
    assert 200 <= len(server.admitted) <= 211
    run.assert_nothing_was_lost()
