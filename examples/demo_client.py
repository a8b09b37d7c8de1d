"""One measured run of the demo's client: many tasks, one limiter, one metered server.

It runs as its own process, so that the CPU time that it reports is the client's and nothing else's.
Every line it prints is JSON: how far it is while it runs, and the result at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import aiohttp

NANOSECONDS = 10**9
LIMITERS = ("none", "bare timer", "aiolimiter", "aiolimiter_fast")


class Limiter(Protocol):
    def acquire(self) -> Awaitable[None]: ...


class NoLimiter:
    async def acquire(self) -> None:
        pass


class BareTimer:
    """One timer and one future per acquire, no arithmetic: what any limiter's wait has to cost."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.waiters: deque[asyncio.Future[None]] = deque()

    def acquire(self) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        if not self.waiters:
            loop.call_later(self.interval, self.wake)
        self.waiters.append(loop.create_future())
        return self.waiters[-1]

    def wake(self) -> None:
        self.waiters.popleft().set_result(None)
        if self.waiters:
            asyncio.get_running_loop().call_later(self.interval, self.wake)


def make_limiter(name: str, rate: int, burst: int) -> Limiter:
    """Return the limiter; both libraries get the same arguments, as aiolimiter spells them."""
    if name == "aiolimiter":
        import aiolimiter

        return aiolimiter.AsyncLimiter(burst, burst / rate)
    if name == "aiolimiter_fast":
        import aiolimiter_fast

        return aiolimiter_fast.AsyncLimiter(burst, burst / rate)
    if name == "bare timer":
        return BareTimer(1 / rate)
    return NoLimiter()


class Run:
    """Counts of one run. A request belongs to it if its permit was granted before the end."""

    def __init__(self, seconds: float) -> None:
        self.started = time.monotonic_ns()
        self.ends = self.started + round(seconds * NANOSECONDS)
        self.granted = 0
        self.statuses: Counter[int] = Counter()
        self.shortest_transit = self.longest_transit = 0

    def grant(self) -> int | None:
        """Return the time of a grant, or None when the run is over."""
        now = time.monotonic_ns()
        if now >= self.ends:
            return None
        self.granted += 1
        return now

    def answer(self, status: int, transit: int) -> None:
        if not self.statuses:
            self.shortest_transit = self.longest_transit = transit
        self.statuses[status] += 1
        self.shortest_transit = min(self.shortest_transit, transit)
        self.longest_transit = max(self.longest_transit, transit)


async def acquire_only(limiter: Limiter, run: Run) -> None:
    while True:
        await limiter.acquire()
        if run.grant() is None:
            return


async def fetch(limiter: Limiter, run: Run, session: aiohttp.ClientSession, url: str) -> None:
    while True:
        await limiter.acquire()
        granted = run.grant()
        if granted is None:
            return
        async with session.get(url) as response:
            await response.read()
            run.answer(response.status, int(response.headers["X-Arrived-Ns"]) - granted)


async def drive(
    work: Callable[[Limiter, Run], Awaitable[None]], limiter: Limiter, seconds: float, tasks: int
) -> dict[str, float]:
    """Run `tasks` workers for `seconds` and count what happened, and the CPU until then."""
    run = Run(seconds)
    cpu = time.process_time_ns()
    workers = [asyncio.ensure_future(work(limiter, run)) for _ in range(tasks)]
    while (left := (run.ends - time.monotonic_ns()) / NANOSECONDS) > 0:
        print(json.dumps({"elapsed": seconds - left}), flush=True)
        await asyncio.sleep(min(left, 0.25))
    cpu = time.process_time_ns() - cpu
    # Requests under way get their answers; tasks that still wait for a permit end with the loop.
    finished, _ = await asyncio.wait(workers, timeout=1)
    for worker in finished:
        worker.result()
    return {
        "granted": run.granted,
        "admitted": run.statuses[200],
        "refused": run.statuses[429],
        "cpu_us": cpu / 1_000 / max(run.granted, 1),
        "jitter_ms": (run.longest_transit - run.shortest_transit) / 1e6,
    }


async def run_client(args: argparse.Namespace) -> dict[str, float]:
    limiter = make_limiter(args.limiter, args.rate, args.burst)
    if not args.url:
        return await drive(acquire_only, limiter, args.seconds, args.tasks)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers={"X-Caller": args.limiter}
    ) as session:
        # The first connection is slow, and the requests behind it would arrive in a bunch.
        async with session.get(f"{args.url}arrivals") as response:
            await response.read()
        return await drive(
            lambda limiter, run: fetch(limiter, run, session, args.url),
            limiter,
            args.seconds,
            args.tasks,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("limiter", choices=LIMITERS)
    parser.add_argument("--url", help="without it the tasks only acquire")
    parser.add_argument("--rate", type=int, required=True)
    parser.add_argument("--burst", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--uvloop", action="store_true")
    args = parser.parse_args()
    # Ctrl-C is the parent's: it ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if args.uvloop:
        import uvloop

        result = uvloop.run(run_client(args))
    else:
        result = asyncio.run(run_client(args))
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
