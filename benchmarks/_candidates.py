"""The limiters that are compared, each brought to one form."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiolimiter
import asynciolimiter
import throttler
from _measure import OURS
from asyncio_throttle.throttler import Throttler as PollingThrottler

import aiolimiter_fast
from aiolimiter_fast._engine import ENGINE
from aiolimiter_fast._twin import load_twin


@dataclass(frozen=True)
class Candidate:
    name: str
    make: Callable[[float, float], Any]  # (permits, seconds): that rate, and that burst
    roomy: Callable[[], Any]  # never makes anybody wait
    method: str = "acquire"
    limits_rate: bool = True
    loop_clock: bool = True  # reads the loop's clock, so virtual time can drive it

    def acquire(self, limiter: Any) -> Callable[[], Awaitable[Any]]:
        method: Callable[[], Awaitable[Any]] = getattr(limiter, self.method)
        return method


def require(engine: str, found: str) -> None:
    if found != engine:
        raise RuntimeError(f"asked for the {engine}, got the {found}")


def bucket(name: str, limiter: Any) -> Candidate:
    return Candidate(name, limiter, lambda: limiter(1e9, 1))


require("extension", ENGINE)
TWIN: Any = load_twin()[OURS]

CANDIDATES = (
    bucket(OURS, aiolimiter_fast.AsyncLimiter),
    bucket("twin", TWIN.AsyncLimiter),
    bucket("aiolimiter", aiolimiter.AsyncLimiter),
    Candidate(
        "asynciolimiter",
        lambda permits, seconds: asynciolimiter.LeakyBucketLimiter(permits / seconds, capacity=int(permits)),
        lambda: asynciolimiter.LeakyBucketLimiter(1e9, capacity=10**9),
        method="wait",
    ),
    Candidate(
        "throttler",
        lambda permits, seconds: throttler.Throttler(int(permits), seconds),
        lambda: throttler.Throttler(1000, 1e-6),
        method="__aenter__",
        loop_clock=False,
    ),
    Candidate(
        "asyncio-throttle",
        lambda permits, seconds: PollingThrottler(int(permits), seconds),
        lambda: PollingThrottler(1000, 1e-6),
        loop_clock=False,
    ),
    Candidate(
        "Semaphore",
        lambda permits, seconds: asyncio.Semaphore(int(permits)),
        lambda: asyncio.Semaphore(10**9),
        limits_rate=False,
    ),
)

RATE_LIMITERS = tuple(candidate for candidate in CANDIDATES if candidate.limits_rate)
