"""The clients of metered.py, each run in a process of its own: what it does with a metered server, and nothing else.

The first line of standard input says what to do; when it is ready it says so, the second line says when to begin, and
the answers that its callers were given are what it prints.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

# Seconds after the end for what has begun to come to its end.
GRACE = 15.0
ATTEMPTS = 5
# The statuses after which every client but the plain one tries again.
AGAIN = (429, 503)


@dataclass(frozen=True)
class Job:
    """What a client is to do: ask for `url` + a number, `demand` times a second, by so many tasks or threads."""

    client: str
    url: str
    seconds: float
    demand: float
    tasks: int
    rate: float  # the quota's nominal rate
    uvloop: bool = False


Fetch = Callable[[str], Awaitable[int]]


@asynccontextmanager
async def plain(job: Job) -> AsyncIterator[Fetch]:
    """httpx as it comes."""
    import httpx

    async with httpx.AsyncClient() as client:

        async def fetch(url: str) -> int:
            return (await client.get(url)).status_code

        yield fetch


@asynccontextmanager
async def with_aiolimiter(job: Job) -> AsyncIterator[Fetch]:
    """httpx, aiolimiter at the nominal rate, and tenacity around both."""
    import aiolimiter
    import httpx
    from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_random_exponential

    limiter = aiolimiter.AsyncLimiter(job.rate, 1)
    retrying = AsyncRetrying(
        retry=retry_if_result(lambda status: status in AGAIN),
        wait=wait_random_exponential(multiplier=0.5, max=10),
        stop=stop_after_attempt(ATTEMPTS),
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),
    )
    async with httpx.AsyncClient() as client:

        async def once(url: str) -> int:
            async with limiter:
                return (await client.get(url)).status_code

        async def fetch(url: str) -> int:
            status: int = await retrying(once, url)
            return status

        yield fetch


@asynccontextmanager
async def with_headers(job: Job) -> AsyncIterator[Fetch]:
    """httpx and the textbooks' limiter: one at a time waits for time left / remaining, as the last answer had it.

    Its headers are read by our parser, so that it is judged by what it does and not by what it can read.
    """
    import httpx

    from aiolimiter_fast.adaptive import parse

    turn = asyncio.Lock()
    delay = 0.0

    async with httpx.AsyncClient() as client:

        async def fetch(url: str) -> int:
            nonlocal delay
            for _ in range(ATTEMPTS):
                async with turn:
                    await asyncio.sleep(delay)
                response = await client.get(url)
                pause = None
                for seen in parse(response.headers, response.status_code):
                    pause = seen.pause_for if pause is None else pause
                    if seen.unit == "requests" and seen.remaining is not None and seen.reset_after is not None:
                        delay = seen.reset_after / max(seen.remaining, 1)
                if response.status_code not in AGAIN:
                    break
                await asyncio.sleep(1.0 if pause is None else pause)
            return response.status_code

        yield fetch


def _breaker() -> Any:
    from aiolimiter_fast import CircuitBreaker

    return CircuitBreaker(open_for=2)


def _stack(job: Job) -> dict[str, Any]:
    return {"adaptive": True, "max_concurrent": job.tasks, "retry": True, "breaker": _breaker()}


@asynccontextmanager
async def by_hand(job: Job) -> AsyncIterator[Fetch]:
    """The parts of our stack, put together by hand."""
    import httpx
    from tenacity import AsyncRetrying

    from aiolimiter_fast import AdaptiveLimiter
    from aiolimiter_fast.resilience import RetryBudget, retry_options

    limiter, breaker = AdaptiveLimiter(), _breaker()
    retrying = AsyncRetrying(**retry_options(attempts=ATTEMPTS, budget=RetryBudget()))
    async with httpx.AsyncClient() as client:

        async def once(url: str) -> Any:
            async with limiter.call() as call:
                response = await client.get(url)
                call.observe(response)
                return response

        async def fetch(url: str) -> int:
            return int((await _unless_open(lambda: breaker.call_async(retrying, once, url))).status_code)

        yield fetch


@asynccontextmanager
async def httpx_stack(job: Job, name: str = "httpx") -> AsyncIterator[Fetch]:
    """httpx, or httpx2, with our whole stack."""
    from importlib import import_module

    library: Any = import_module(name)
    module: Any = import_module(f"aiolimiter_fast.extras.{name}_limiter")
    transport = module.AsyncThrottledTransport(**_stack(job))
    async with library.AsyncClient(transport=transport) as client:

        async def fetch(url: str) -> int:
            return int((await _unless_open(lambda: client.get(url))).status_code)

        yield fetch


@asynccontextmanager
async def httpx2_stack(job: Job) -> AsyncIterator[Fetch]:
    async with httpx_stack(job, "httpx2") as fetch:
        yield fetch


@asynccontextmanager
async def aiohttp_stack(job: Job) -> AsyncIterator[Fetch]:
    """aiohttp with our whole stack."""
    from aiolimiter_fast.extras import aiohttp_limiter

    module: Any = aiohttp_limiter
    async with module.ThrottledSession(**_stack(job)) as session:

        async def read(url: str) -> Any:
            async with session.get(url) as response:
                await response.read()
                return response

        async def fetch(url: str) -> int:
            return int((await _unless_open(lambda: read(url))).status)

        yield fetch


@contextmanager
def requests_stack(job: Job) -> Iterator[Callable[[str], int]]:
    """requests, in threads, with our whole stack."""
    import requests

    from aiolimiter_fast.extras import requests_limiter
    from aiolimiter_fast.resilience import CircuitOpen

    module: Any = requests_limiter
    with requests.Session() as session:
        session.mount("http://", module.ThrottledAdapter(**_stack(job), pool_maxsize=job.tasks))

        def once(url: str) -> requests.Response | CircuitOpen:
            try:
                return session.get(url, timeout=30)
            except CircuitOpen as refused:
                return refused

        def fetch(url: str) -> int:
            while isinstance(answer := once(url), CircuitOpen):
                time.sleep(max(answer.retry_after, 0.05))
            return answer.status_code

        yield fetch


async def _unless_open(call: Callable[[], Awaitable[Any]]) -> Any:
    """Call, and call again when an open breaker would let it."""
    from aiolimiter_fast.resilience import CircuitOpen

    async def once() -> Any:
        try:
            return await call()
        except CircuitOpen as refused:
            return refused

    while isinstance(answer := await once(), CircuitOpen):  # noqa: ASYNC110
        await asyncio.sleep(max(answer.retry_after, 0.05))
    return answer


TASKS = {
    "plain": plain, "aiolimiter": with_aiolimiter, "headers": with_headers, "by hand": by_hand,
    "httpx": httpx_stack, "httpx2": httpx2_stack, "aiohttp": aiohttp_stack,
}  # fmt: skip
THREADS = {"requests": requests_stack}


class Demand:
    """The requests that are wanted, evenly, and what their callers were told; 0 stands for an exception."""

    def __init__(self, job: Job, begin: float) -> None:
        self._job = job
        self._begin = begin
        self._numbers = count()
        self.told: dict[int, int] = {}
        self.errors: dict[str, int] = {}

    def take(self) -> tuple[int, float]:
        """The next request, and how many seconds it is until it is wanted."""
        number = next(self._numbers)
        due = self._begin + number / self._job.demand
        return number, max(due - time.time(), 0.0)

    def is_over(self, ahead: float = 0.0) -> bool:
        return time.time() + ahead >= self._begin + self._job.seconds

    def tell(self, number: int, status: int) -> None:
        self.told[number] = status

    def fail(self, number: int, error: BaseException) -> None:
        self.told[number] = 0
        name = f"{type(error).__name__}: {error}"[:100]
        self.errors[name] = self.errors.get(name, 0) + 1


async def in_tasks(job: Job, ready: Callable[[], float]) -> Demand:
    async with TASKS[job.client](job) as fetch:
        demand = Demand(job, ready())

        async def work() -> None:
            while True:
                number, ahead = demand.take()
                if demand.is_over(ahead):
                    return
                await asyncio.sleep(ahead)
                demand.told[number] = 0  # unless it comes to an end
                try:
                    demand.tell(number, await fetch(f"{job.url}{number}"))
                except Exception as error:
                    demand.fail(number, error)

        workers = [asyncio.create_task(work()) for _ in range(job.tasks)]
        await asyncio.wait(workers, timeout=demand._begin + job.seconds + GRACE - time.time())
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return demand


def in_threads(job: Job, ready: Callable[[], float]) -> Demand:
    with THREADS[job.client](job) as fetch:
        demand = Demand(job, ready())

        def work() -> None:
            while True:
                number, ahead = demand.take()
                if demand.is_over(ahead):
                    return
                time.sleep(ahead)
                demand.told[number] = 0
                try:
                    demand.tell(number, fetch(f"{job.url}{number}"))
                except Exception as error:
                    demand.fail(number, error)

        workers = [threading.Thread(target=work, daemon=True) for _ in range(job.tasks)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(max(demand._begin + job.seconds + GRACE - time.time(), 0))
    return demand


def end_with_parent() -> None:
    """Standard input ends when the parent closes it, or dies in whatever way."""
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends this process
    job = Job(**json.loads(sys.stdin.readline()))

    def ready() -> float:
        print("ready", flush=True)
        begin = float(sys.stdin.readline())
        threading.Thread(target=end_with_parent, daemon=True).start()
        return begin

    if job.client in THREADS:
        demand = in_threads(job, ready)
    elif job.uvloop:
        import uvloop

        demand = uvloop.run(in_tasks(job, ready))
    else:
        demand = asyncio.run(in_tasks(job, ready))
    cpu = time.process_time()
    print(json.dumps({"told": list(demand.told.items()), "errors": demand.errors, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    main()
