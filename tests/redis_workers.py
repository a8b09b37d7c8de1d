"""What other processes do at a limit in Redis. It is imported by them: nothing of pytest here."""

from __future__ import annotations

import os
import time
from typing import Any

import redis

from aiolimiter_fast import Limiter, Rate, RedisBucket

RATES = [(20, 100), (50_000, 3_600_000)]


def limiter(url: str, key: str, rates: Any = RATES) -> Limiter:
    return Limiter(RedisBucket([Rate(*rate) for rate in rates], redis.Redis.from_url(url), key))


def ask(url: str, key: str, rates: Any, calls: int, start: float, answers: Any) -> None:
    """Ask so many times, at once with the other processes, and send how many were admitted."""
    at = limiter(url, key, rates)
    while time.time() < start:
        time.sleep(0.001)
    answers.put(sum(at.try_acquire("x", blocking=False) is True for _ in range(calls)))


def demand(url: str, key: str, path: str) -> None:
    """Ask for ever, and write a byte for each admission."""
    at = limiter(url, key)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        if at.try_acquire("x"):
            os.write(file, b".")
