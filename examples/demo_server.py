"""An HTTP server that meters each of its callers and answers 429 above the limit.

It runs as its own process. The meter is a leaky bucket of its own, in exact integers, on the
server's clock: it shares no code with any of the limiters that it judges.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import signal
import sys
import threading
import time

from aiohttp import web

NANOSECONDS = 10**9


class Meter:
    """Admit `rate` requests per second, and `depth` at once.

    One request is 10^9 units of level and a nanosecond leaks `rate` units, so nothing is rounded.
    """

    def __init__(self, rate: int, depth: int) -> None:
        self.rate = rate
        self.full = depth * NANOSECONDS
        self.level = 0
        self.updated = 0

    def wait(self, now: int) -> int:
        """Count a request at `now` and return 0, or return the nanoseconds until there is room."""
        self.level = max(0, self.level - (now - self.updated) * self.rate)
        self.updated = now
        excess = self.level + NANOSECONDS - self.full
        if excess > 0:
            return math.ceil(excess / self.rate)
        self.level += NANOSECONDS
        return 0


class MeteredServer:
    def __init__(self, rate: int, depth: int) -> None:
        self.rate = rate
        self.depth = depth
        self.meters: dict[str, Meter] = {}
        self.arrivals: dict[str, list[int]] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        now = time.monotonic_ns()
        caller = request.headers.get("X-Caller", "")
        if request.path == "/arrivals":
            return web.Response(text=json.dumps(self.arrivals.get(caller, [])), content_type="application/json")
        meter = self.meters.get(caller)
        if meter is None:
            meter = self.meters[caller] = Meter(self.rate, self.depth)
            self.arrivals[caller] = []
        wait = meter.wait(now)
        headers = {"X-Arrived-Ns": str(now)}
        status = 200
        if wait:
            status = 429
            headers["Retry-After"] = str(math.ceil(wait / NANOSECONDS))
        self.arrivals[caller].append(now)
        return web.Response(status=status, headers=headers)


async def serve(rate: int, depth: int) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def stop_with_parent() -> None:
        # Standard input ends when the parent closes it, or dies in whatever way.
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=stop_with_parent, daemon=True).start()
    runner = web.ServerRunner(web.Server(MeteredServer(rate, depth).handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    _, port, *_ = runner.addresses[0]
    # A collection would hold requests back, and the meter would blame the caller.
    gc.freeze()
    gc.disable()
    print(port, flush=True)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, required=True, help="requests per second")
    parser.add_argument("--depth", type=int, required=True, help="requests at once")
    args = parser.parse_args()
    # Ctrl-C reaches the whole process group; the parent ends this process in its own time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(serve(args.rate, args.depth))


if __name__ == "__main__":
    main()
