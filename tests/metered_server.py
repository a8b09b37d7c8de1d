"""A metered HTTP server on loopback, in a process of its own, and what its log shows.

Each account of it has a quota of its own, metered by the meters of metering_servers. What became of a client's
requests is read in the server's log, and nowhere else.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.request import urlopen

from metering_servers import DIALECTS, EPOCH, FixedWindow, Meter, MeteredServer, SlidingWindow, TokenBucket, Verdict
from metering_servers import silent as no_headers

if TYPE_CHECKING:
    from typing_extensions import Self

# Seconds by which a timer may be early, and two clocks of one machine apart.
CLOCKS = 0.01
# The server looks at the clock so often; if it comes to that later than that, the machine was busy otherwise.
TICK, LATE = 0.01, 0.01
REFUSED, UNAVAILABLE = 429, 503


@dataclass(frozen=True)
class Plan:
    """How an account is metered. Seconds; instants are relative to the beginning, which is a window's.

    Attributes:
        meter: "fixed", "sliding" or "bucket".
        limit: requests in a window.
        window: its length. Headers that round tell its end to the second, so a whole number is fair.
        burst: of a bucket.
        dialect: a name of DIALECTS, or "silent".
        retry_after: whether a 429 says when to come back.
        outages: (from, until), answered with 503.
        changes: (when, limit).
        another_every: how often a second client takes one of the quota; 0: there is none.
        latency: the shortest and the longest time that an answer takes, half of it before it is metered.
        parts: in how many parts the body is streamed; 0: it is sent at once.
        part_every: the time between two of them.
    """

    meter: str = "fixed"
    limit: float = 250
    window: float = 5
    burst: float = 50
    dialect: str = "ietf"
    retry_after: bool = True
    outages: Sequence[tuple[float, float]] = ()
    changes: Sequence[tuple[float, float]] = ()
    another_every: float = 0.0
    latency: tuple[float, float] = (0.02, 0.08)
    parts: int = 0
    part_every: float = 0.02

    @property
    def rate(self) -> float:
        return self.limit / self.window

    def permitted(self, seconds: float) -> float:
        """The most that can be admitted in the first `seconds`, windows in which an outage is counted without it."""
        if self.meter != "fixed":
            away = sum(min(end, seconds) - begin for begin, end in self.outages if begin < seconds)
            return self.rate * (seconds - away) + (self.burst if self.meter == "bucket" else 0)
        total = 0.0
        for number in range(ceil(seconds / self.window)):
            begin, end = number * self.window, min((number + 1) * self.window, seconds)
            if any(out <= begin and end <= back for out, back in self.outages):
                continue
            total += [self.limit, *(limit for when, limit in self.changes if when < end)][-1]
        return total

    def new_meter(self) -> Meter:
        if self.meter == "bucket":
            return TokenBucket(self.limit, self.window, self.burst)
        return (FixedWindow if self.meter == "fixed" else SlidingWindow)(self.limit, self.window)


class From:
    """A meter whose time begins at an instant."""

    def __init__(self, meter: Meter, begin: float) -> None:
        self._meter = meter
        self._begin = begin

    @property
    def limit(self) -> float:
        return self._meter.limit

    @limit.setter
    def limit(self, limit: float) -> None:
        self._meter.limit = limit

    def take(self, now: float, amount: float = 1) -> Verdict:
        return self._meter.take(now - self._begin, amount)


class Entry(NamedTuple):
    """A request in the server's log. Instants in seconds since the beginning.

    Attributes:
        request: its name; a request that is sent again keeps it.
        at: when it was metered.
        status: the answer.
        answered: when it was sent.
        retry_after: how long it asked to stay away, 0 if it did not.
        together: how many requests of its account were under way, this one included. A response is under way until
            just before its last byte is sent.
    """

    request: str
    at: float
    status: int
    answered: float
    retry_after: float
    together: int


class Log(list[Entry]):
    """What a server remembers of one account, in order, and what it shows."""

    def __init__(self, entries: Iterable[Entry], by_another: Sequence[float] = (), late: float = 0.0) -> None:
        super().__init__(entries)
        self.by_another = by_another  # when the second client took one
        self.late = late  # seconds for which the server itself was kept from its work

    def admitted(self, begin: float = 0.0, end: float = float("inf")) -> list[float]:
        return [entry.at for entry in self if entry.status == 200 and begin <= entry.at < end]

    def refused(self, begin: float = 0.0, end: float = float("inf"), status: int = REFUSED) -> list[float]:
        return [entry.at for entry in self if entry.status == status and begin <= entry.at < end]

    def share(self, permitted: float, seconds: float) -> float:
        """What was used of the quota in the first `seconds`, by us and by the second client."""
        return (len(self.admitted(0, seconds)) + sum(at < seconds for at in self.by_another)) / permitted

    def most_refused(self, window: float, seconds: float) -> int:
        """The largest number of 429s in one window."""
        return max(Counter(int(at // window) for at in self.refused(0, seconds)).values(), default=0)

    def refused_share(self, begin: float, seconds: float) -> float:
        """The share of the answers from `begin` on that were 429s."""
        refused = len(self.refused(begin, seconds))
        return refused / max(refused + len(self.admitted(begin, seconds)), 1)

    def recovery(self, instant: float) -> float:
        """Seconds from an instant, the end of an outage, to the first request admitted after it."""
        return min(self.admitted(instant), default=float("inf")) - instant

    def first_second(self, instant: float) -> int:
        """How many requests, whatever came of them, the first second of traffic after an instant had."""
        after = [entry.at for entry in self if entry.at >= instant]
        return sum(at < after[0] + 1 for at in after) if after else 0

    def together(self) -> int:
        """The largest number of requests under way at once."""
        return max((entry.together for entry in self), default=0)

    def sent_undue(self) -> list[str]:
        """The requests that were sent again though their last answer was no refusal, or before it had allowed it."""
        last: dict[str, Entry] = {}
        undue = []
        for entry in self:
            before = last.get(entry.request)
            if before is not None and (
                before.status not in (REFUSED, UNAVAILABLE) or entry.at < before.answered + before.retry_after - CLOCKS
            ):
                undue.append(entry.request)
            last[entry.request] = entry
        return undue

    def lost(self, told: Iterable[tuple[str, int]]) -> list[str]:
        """The requests of which the caller was told no 200; and those told one of which the server knows nothing."""
        served = {entry.request for entry in self if entry.status == 200}
        return [request for request, status in told if status != 200 or request not in served]


class MeteredProcess:
    """The server's process. `begin` once before the requests, then `log`.

    Arguments: the accounts' names and plans. An account's requests go to `url(account) + name_of_request`.
    """

    def __init__(self, accounts: dict[str, Plan]) -> None:
        self._accounts = accounts

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({name: asdict(plan) for name, plan in self._accounts.items()}), file=self._process.stdin)
        self._process.stdin.flush()
        self._base = f"http://127.0.0.1:{int(self._process.stdout.readline())}/"
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=10)
        self._process.kill()
        self._process.communicate()

    def url(self, account: str) -> str:
        return f"{self._base}{account}/"

    def begin(self, ahead: float = 0.0) -> float:
        """Let the first window begin at a whole second, at least `ahead` seconds from now; its Unix time."""
        begin = ceil(time.time() + ahead)
        with urlopen(f"{self._base}begin?at={begin}", timeout=30):
            return begin

    def begin_in(self) -> float:
        """Let the first window begin within a second or so; in how many seconds it does."""
        return self.begin() - time.time()

    def log(self, account: str) -> Log:
        with urlopen(f"{self._base}log?of={account}", timeout=30) as response:
            entries, by_another, late = json.load(response)
        return Log([Entry(*entry) for entry in entries], by_another, late)


class Account:
    """In the server: one client's quota, and the log."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.log: list[Entry] = []
        self.by_another: list[float] = []
        self._chance = random.Random(1)
        self._together = 0
        self.server: MeteredServer
        self.begun = 0.0

    def begin(self, instant: float) -> None:
        plan = self.plan
        self.begun = instant
        self.server = MeteredServer(
            From(plan.new_meter(), instant),
            DIALECTS.get(plan.dialect, no_headers),
            outages=[(instant + begin, instant + end) for begin, end in plan.outages],
            retry_after=plan.retry_after,
            changes=[(instant + when, limit) for when, limit in plan.changes],
        )

    async def another(self, now: Callable[[], float]) -> None:
        """The second client."""
        due = self.begun
        while self.plan.another_every:
            due += self.plan.another_every
            await asyncio.sleep(due - now())
            at = max(due, now())
            if self.server.take_by_another(at):
                self.by_another.append(at - self.begun)

    async def answer(self, request: Any, now: Callable[[], float]) -> Any:
        from aiohttp import web

        trip = self._chance.uniform(*self.plan.latency) / 2
        self._together += 1
        together = self._together
        try:
            await asyncio.sleep(trip)
            at = now()
            status, headers = self.server.answer(at)
            await asyncio.sleep(trip)
            self.log.append(
                Entry(
                    request.match_info["name"],
                    at - self.begun,
                    status,
                    now() - self.begun,
                    float(headers.get("Retry-After", 0)),
                    together,
                )
            )
            if status != 200 or not self.plan.parts:
                return web.Response(status=status, headers=headers, text="x" * 100)
            response = web.StreamResponse(headers=headers)
            with suppress(ConnectionError):  # who has seen enough hangs up
                await response.prepare(request)
                for _ in range(self.plan.parts):
                    await response.write(b"x" * 1000)
                    await asyncio.sleep(self.plan.part_every)
        finally:
            self._together -= 1
        with suppress(ConnectionError):
            await response.write_eof()
        return response


async def serve() -> None:
    from aiohttp import web

    loop = asyncio.get_running_loop()
    offset = time.time() - time.monotonic() - EPOCH
    accounts = {name: Account(Plan(**plan)) for name, plan in json.loads(sys.stdin.readline()).items()}
    stop = asyncio.Event()
    late = 0.0
    others: set[asyncio.Task[None]] = set()

    def now() -> float:
        return time.monotonic() + offset

    def stop_with_parent() -> None:
        # Standard input ends when the parent closes it, or dies in whatever way.
        sys.stdin.read()
        loop.call_soon_threadsafe(stop.set)

    async def begin(request: web.Request) -> web.Response:
        others.add(asyncio.create_task(tick()))
        for account in accounts.values():
            account.begin(float(request.query["at"]) - EPOCH)
            others.add(asyncio.create_task(account.another(now)))
        return web.Response()

    async def tick() -> None:
        nonlocal late
        while True:
            due = loop.time() + TICK
            await asyncio.sleep(TICK)
            overdue = loop.time() - due
            late += overdue if overdue > LATE else 0.0

    async def log(request: web.Request) -> web.Response:
        account = accounts[request.query["of"]]
        return web.json_response([sorted(account.log, key=lambda entry: entry.at), account.by_another, late])

    async def answer(request: web.Request) -> web.StreamResponse:
        response: web.StreamResponse = await accounts[request.match_info["account"]].answer(request, now)
        return response

    app = web.Application()
    app.add_routes([web.get("/begin", begin), web.get("/log", log), web.route("*", "/{account}/{name}", answer)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    # A collection would hold requests back, and the meter would blame the client.
    gc.freeze()
    gc.disable()
    threading.Thread(target=stop_with_parent, daemon=True).start()
    print(runner.addresses[0][1], flush=True)
    await stop.wait()
    for task in others:
        task.cancel()
    await runner.cleanup()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches the whole process group; the parent ends this
    asyncio.run(serve())
