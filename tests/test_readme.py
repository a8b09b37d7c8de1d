"""The examples in the README, in the documentation and in public docstrings run."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from aiolimiter_fast import (
    AdaptiveLimiter,
    CircuitBreaker,
    InMemoryBucket,
    LeakyBucketLimiter,
    Limiter,
    Observation,
    StrictLimiter,
    Throttler,
    pacing,
)
from aiolimiter_fast.adaptive import parse
from aiolimiter_fast.extras import aiohttp_limiter, httpx_limiter, requests_limiter
from aiolimiter_fast.resilience import RetryBudget, retry_options
from aiolimiter_fast.testing import ManualClock

ROOT = Path(__file__).parent.parent


# Its examples need a server: see test_redis_page.py.
SERVED = {"backends.md"}
# Public names whose docstring has an example.
DOCUMENTED = (
    ManualClock, InMemoryBucket, Limiter, pacing.Limiter, StrictLimiter, LeakyBucketLimiter, Throttler, AdaptiveLimiter,
    Observation, parse, CircuitBreaker, RetryBudget, retry_options, httpx_limiter.RateLimiterTransport,
    httpx_limiter.AsyncRateLimiterTransport, httpx_limiter.ThrottledTransport, httpx_limiter.AsyncThrottledTransport,
    aiohttp_limiter.RateLimitedSession, aiohttp_limiter.ThrottledSession, requests_limiter.RateLimiterAdapter,
    requests_limiter.RateLimitedRequestsSession, requests_limiter.ThrottledAdapter,
)  # fmt: skip
# Libraries that are not to be had everywhere.
HAS_HTTPX2 = sys.version_info >= (3, 11)


def examples() -> dict[str, str]:
    found = {}
    subjects: list[Any] = list(DOCUMENTED)
    if HAS_HTTPX2:
        httpx2_limiter = importlib.import_module("aiolimiter_fast.extras.httpx2_limiter")
        subjects += [getattr(httpx2_limiter, name) for name in httpx2_limiter.__all__]
    for subject in subjects:
        docstring = inspect.getdoc(subject) or ""
        found[f"{subject.__module__}.{subject.__name__}"] = textwrap.dedent(docstring.partition("Example:\n")[2])
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        if page.exists() and page.name not in SERVED:  # none beside an installed wheel
            blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
            assert blocks, page
            found |= {f"{page.name} {number}": block for number, block in enumerate(blocks)}
    for script in (ROOT / "examples" / "pace.py",):
        if script.exists():
            found[script.name] = script.read_text(encoding="utf-8")
    return {name: source for name, source in found.items() if HAS_HTTPX2 or "import httpx2" not in source}


@pytest.mark.parametrize(("name", "source"), examples().items())
def test_an_example_runs(name: str, source: str) -> None:
    assert source.strip(), name
    subprocess.run([sys.executable, "-W", "error", "-c", source], check=True, timeout=60)
