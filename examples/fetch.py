"""Three ways to fetch from a metered HTTP server, each within its limit: a batch, a pool of workers, paced tasks.

It starts the demo's server, which permits 500 requests per second and answers 429 above that. Exit status 1 says that a
page was lost.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import aiohttp

from aiolimiter_fast import AsyncLimiter, Throttle, WorkerPool, amap, pacing

HERE = Path(__file__).resolve().parent
PAGES = range(300)


class Client:
    """Fetches pages as one of the server's callers, and counts the answers."""

    def __init__(self, session: aiohttp.ClientSession, url: str, caller: str) -> None:
        self.session = session
        self.url = url
        self.headers = {"X-Caller": caller}
        self.answers: Counter[int] = Counter()
        self.began = time.monotonic()

    async def fetch(self, page: int) -> int:
        async with self.session.get(f"{self.url}/{page}", headers=self.headers) as response:
            self.answers[response.status] += 1
            return page

    def report(self, what: str, fetched: set[int]) -> bool:
        """Print what came of it, and say whether all pages came back."""
        seconds = time.monotonic() - self.began
        print(f"{what}: {len(fetched)} pages in {seconds:.2f} s, {self.answers[429]} refused by the server")
        return fetched == set(PAGES)


async def batch(client: Client) -> bool:
    throttle = Throttle(AsyncLimiter(450, 1, burst=20), max_concurrent=50)
    async with amap(client.fetch, PAGES, limiter=throttle, max_at_once=50) as results:
        fetched = {page async for page in results}
    return client.report("amap, 50 at once at 450/s", fetched)


async def pool(client: Client) -> bool:
    fetched: set[int] = set()
    workers: WorkerPool[int, int] = WorkerPool(client.fetch, workers=50, limiter=AsyncLimiter(450, 1, burst=20))

    async def produce() -> None:
        async with workers:
            for page in PAGES:
                await workers.put(page)

    async def consume() -> None:
        async for outcome in workers:
            fetched.add(outcome.item)

    await asyncio.gather(produce(), consume())
    return client.report("WorkerPool, 50 workers at 450/s", fetched)


async def paced(client: Client) -> bool:
    limiter = pacing.Limiter(450)
    fetched = await asyncio.gather(*(limiter.wrap(client.fetch(page)) for page in PAGES))
    return client.report("pacing.Limiter at 450/s", set(fetched))


async def fetch_all(url: str) -> int:
    async with aiohttp.ClientSession() as session:
        complete = [await way(Client(session, url, way.__name__)) for way in (batch, pool, paced)]
    return 0 if all(complete) else 1


def main() -> int:
    command = [sys.executable, str(HERE / "demo_server.py"), "--rate=500", "--depth=60"]
    # The server ends with its standard input.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        try:
            return asyncio.run(fetch_all(f"http://127.0.0.1:{server.stdout.readline().strip()}"))
        finally:
            server.stdin.close()


if __name__ == "__main__":
    sys.exit(main())
