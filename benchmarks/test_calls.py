"""The calls that are made most, for pytest-benchmark: `pytest benchmarks --benchmark-only`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from _candidates import CANDIDATES
from _measure import LOOPS, new_loop
from cost import Timed, empty, fresh, over_acquire, over_async_with, over_empty, over_wait
from pytest_benchmark.fixture import BenchmarkFixture

CALLS = 1_000
ROOMY = {candidate.name: candidate.roomy for candidate in CANDIDATES}


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    loop = new_loop(request.param)
    yield loop
    loop.close()


def in_loop(benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop, timed: Timed, subject: Any) -> None:
    """Time `CALLS` calls in one run of the loop; what it takes to start the run is shared by them."""
    timed = fresh(timed)
    assert benchmark(lambda: loop.run_until_complete(timed(subject, CALLS))) > 0


@pytest.mark.benchmark(group="acquire")
def test_await_empty(benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop) -> None:
    in_loop(benchmark, loop, over_empty, empty)


@pytest.mark.benchmark(group="acquire")
@pytest.mark.parametrize("name", [name for name in ROOMY if name != "throttler"])
def test_acquire(benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop, name: str) -> None:
    limiter = ROOMY[name]()
    in_loop(benchmark, loop, over_acquire if hasattr(limiter, "acquire") else over_wait, limiter)


@pytest.mark.benchmark(group="async with")
@pytest.mark.parametrize("name", [name for name in ROOMY if name != "asynciolimiter"])
def test_async_with(benchmark: BenchmarkFixture, loop: asyncio.AbstractEventLoop, name: str) -> None:
    in_loop(benchmark, loop, over_async_with, ROOMY[name]())


@pytest.mark.benchmark(group="calls")
def test_monotonic(benchmark: BenchmarkFixture) -> None:
    assert benchmark(time.monotonic) > 0


@pytest.mark.benchmark(group="calls")
@pytest.mark.parametrize("name", ["aiolimiter_fast", "twin"])
@pytest.mark.parametrize("method", ["has_capacity", "try_acquire", "wait_time"])
def test_call(benchmark: BenchmarkFixture, name: str, method: str) -> None:
    limiter = ROOMY[name]()
    assert benchmark(getattr(limiter, method)) == (0.0 if method == "wait_time" else True)
