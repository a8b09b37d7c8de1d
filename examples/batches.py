"""Batches in two seconds: pages of a metered service, all of them, with retries, in order, and from an endless input.

Exit status 1 says that the service had to refuse a request.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from _service import Flaked, Service

from aiolimiter_fast import AsyncLimiter, Throttle, amap, run_all
from aiolimiter_fast.batch import Progress

started = time.monotonic()


def say(text: str) -> None:
    print(f"{time.monotonic() - started:6.3f} s  {text}")


async def three_attempts(function: Callable[[int], Awaitable[str]], page: int) -> str:
    """Retry as a tenacity.AsyncRetrying would; each attempt takes a permit of its own."""
    for _ in range(2):
        with suppress(Flaked):
            return await function(page)
    return await function(page)


async def main() -> int:
    service = Service(rate=200, burst=10, at_once=8, flakes=0.2)
    # At most 8 at once, and 200 per second: one object, which several batches share.
    throttle = Throttle(AsyncLimiter(190, 1, burst=10), max_concurrent=8)

    pages = await run_all([partial(service.get, page) for page in range(50)], limiter=throttle, on_error="return")
    failed = sum(isinstance(page, Flaked) for page in pages)
    say(f"run_all: {len(pages)} pages, of which {failed} failed; one failure has not lost the batch")

    last: list[Progress] = []
    async with amap(
        service.get, range(50), max_at_once=20, limiter=throttle, retry=three_attempts, ordered=True,
        on_error=lambda error, page: "lost", progress=last.append,
    ) as results:  # fmt: skip
        texts = [text async for text in results]
    say(f"amap with retries, in order: from {texts[0]!r} to {texts[-1]!r}; {last[-1].rate:.0f} pages per second")

    async with amap(service.get, itertools.count(), max_at_once=8, limiter=throttle, on_error="return") as stream:
        taken = 0
        async for _ in stream:
            taken += 1
            if taken == 100:
                break
    say(f"amap of an endless input: read {taken} results, and left")
    say(f"the service has seen {service.requests} requests, and refused {service.refused}")
    return 1 if service.refused else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
