"""Every HTTP client with the whole stack, against a real server on loopback that meters; judged by the server's log.

Nothing here depends on how fast the machine is: how much of a quota is used is a question for the benchmark.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import pytest
import requests
from metered_server import Log, MeteredProcess, Plan

from aiolimiter_fast import AsyncLimiter, CircuitBreaker
from aiolimiter_fast.extras import aiohttp_limiter, requests_limiter
from aiolimiter_fast.resilience import CircuitOpen

TASK_CLIENTS = ["httpx", *(["httpx2"] if sys.version_info >= (3, 11) else []), "aiohttp"]
CLIENTS = [*TASK_CLIENTS, "requests"]

OUTAGE = (0.5, 2.5)
PLANS = {
    "told": Plan(limit=40, window=1, dialect="discord", outages=[OUTAGE], another_every=0.2),
    "silent": Plan("sliding", limit=40, window=1, dialect="silent", outages=[OUTAGE]),
    "streaming": Plan(limit=40, window=1, dialect="openai", outages=[OUTAGE], parts=3),
}
REQUESTS, AT_ONCE, SLOTS = 60, 20, 8


class Client(NamedTuple):
    """A client with a stack.

    Attributes:
        get: ask for a URL and read the answer; its status.
        leave: ask for a URL, read the first part of its body, and close it.
        stack: where the stack's state is read.
    """

    get: Callable[[str], Awaitable[int]]
    leave: Callable[[str], Awaitable[None]]
    stack: Any

    def state(self) -> dict[str, int]:
        """What is held, and who waits."""
        state = {"running": self.stack.throttle.running, "waiting": self.stack.throttle.waiting}
        adaptive = self.stack.adaptive("127.0.0.1")
        return state | ({} if adaptive is None else {"in flight": adaptive.in_flight, "in line": adaptive.waiting})


NOTHING = {"running": 0, "waiting": 0}
NOTHING_AT_ALL = {**NOTHING, "in flight": 0, "in line": 0}


@asynccontextmanager
async def opened(name: str, **options: Any) -> AsyncIterator[Client]:
    if name == "aiohttp":
        async with aiohttp_limiter.ThrottledSession(**options) as session:

            async def get(url: str) -> int:
                async with session.get(url) as response:
                    await response.read()
                    return response.status

            async def leave(url: str) -> None:
                async with session.get(url) as response:
                    assert await response.content.readany()

            yield Client(get, leave, session)
    elif name == "requests":
        adapter = requests_limiter.ThrottledAdapter(**options, pool_maxsize=AT_ONCE)
        loop = asyncio.get_running_loop()
        with requests.Session() as requested, ThreadPoolExecutor(AT_ONCE) as pool:
            requested.mount("http://", adapter)

            def look(url: str) -> None:
                with requested.get(url, stream=True) as response:
                    assert next(response.iter_content(100))

            yield Client(
                lambda url: loop.run_in_executor(pool, lambda: requested.get(url).status_code),
                lambda url: loop.run_in_executor(pool, look, url),
                adapter,
            )
    else:
        library = importlib.import_module(name)
        module = importlib.import_module(f"aiolimiter_fast.extras.{name}_limiter")
        transport = module.AsyncThrottledTransport(**options)
        async with library.AsyncClient(transport=transport, timeout=60) as client:

            async def get(url: str) -> int:
                return int((await client.get(url)).status_code)

            async def leave(url: str) -> None:
                async with client.stream("GET", url) as response:
                    assert await response.aiter_raw().__anext__()

            yield Client(get, leave, transport)


class Run(NamedTuple):
    plan: Plan
    log: Log
    told: list[tuple[str, int]]
    state: dict[str, int]


async def run(client: Client, url: str, ahead: float) -> tuple[list[tuple[str, int]], dict[str, int]]:
    """Ask for everything, as fast as the client lets it; what was told, and what was held at the end."""
    names = iter([str(number) for number in range(REQUESTS)])
    told = []

    async def work() -> None:
        for name in names:
            status = await client.get(url + name)
            told.append((name, status))

    await asyncio.sleep(ahead)
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return told, client.state()


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[tuple[str, str], Run]]:
    """Every client against every plan, all at the same time."""
    pairs = [(client, plan) for client in CLIENTS for plan in PLANS]

    async def together(server: MeteredProcess) -> list[tuple[list[tuple[str, int]], dict[str, int]]]:
        async with AsyncExitStack() as exits:
            clients = [
                await exits.enter_async_context(
                    opened(client, adaptive=True, max_concurrent=SLOTS, retry={"attempts": 100}, breaker=True)
                )
                for client, _ in pairs
            ]
            ahead = server.begin_in()
            return list(
                await asyncio.gather(
                    *(
                        run(client, server.url("-".join(pair)), ahead)
                        for client, pair in zip(clients, pairs, strict=True)
                    )
                )
            )

    with MeteredProcess({"-".join(pair): PLANS[pair[1]] for pair in pairs}) as server:
        results = asyncio.run(together(server))
        yield {
            pair: Run(PLANS[pair[1]], server.log("-".join(pair)), *result)
            for pair, result in zip(pairs, results, strict=True)
        }


@pytest.fixture(params=CLIENTS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=PLANS)
def ran(request: pytest.FixtureRequest, name: str, runs: dict[tuple[str, str], Run]) -> Run:
    return runs[name, request.param]


def test_no_request_is_lost(ran: Run) -> None:
    assert len(ran.told) == REQUESTS
    assert ran.log.lost(ran.told) == []


def test_none_is_sent_twice_unless_its_retry_is_due(ran: Run) -> None:
    assert ran.log.sent_undue() == []
    assert len(ran.log.admitted()) == REQUESTS


def test_permits_and_slots_are_all_given_back(ran: Run) -> None:
    assert ran.state == NOTHING_AT_ALL


def test_no_more_requests_are_under_way_than_there_are_slots(ran: Run) -> None:
    assert 1 <= ran.log.together() <= SLOTS


@pytest.mark.parametrize("plan", ["told", "streaming"])
def test_after_an_outage_the_first_second_is_at_most_the_permitted_rate(
    plan: str, name: str, runs: dict[tuple[str, str], Run]
) -> None:
    ran = runs[name, plan]
    # The quota of the windows before it does not suffice, so there is traffic after it.
    assert 1 <= ran.log.first_second(OUTAGE[1]) <= ran.plan.rate


UP = Plan(limit=1000, window=10, latency=(0.04, 0.08), parts=3)
DOWN = Plan(limit=1000, window=10, latency=(0, 0), outages=[(-10, 1000)])


@pytest.fixture(scope="module")
def server() -> Iterator[MeteredProcess]:
    """With accounts of each client: for those who bound, leave and cancel, and one that is down."""
    accounts = {f"{client}-{what}": UP for client in CLIENTS for what in ("bound", "left", "cancelled")}
    with MeteredProcess(accounts | {f"{client}-down": DOWN for client in CLIENTS}) as process:
        process.begin()
        yield process


async def test_slots_bound_what_the_server_sees(name: str, server: MeteredProcess) -> None:
    url = server.url(f"{name}-bound")
    async with opened(name, limiter=AsyncLimiter(1000, 1), max_concurrent=4) as client:
        told = await asyncio.gather(*(client.get(f"{url}{number}") for number in range(AT_ONCE)))
        assert client.state() == NOTHING
    assert told == [200] * AT_ONCE
    assert 1 <= server.log(f"{name}-bound").together() <= 4


async def test_a_body_that_is_not_read_to_its_end_gives_its_slot_back(name: str, server: MeteredProcess) -> None:
    url = server.url(f"{name}-left")
    async with opened(name, adaptive=True, max_concurrent=1) as client:
        for number in range(3):
            await client.leave(f"{url}{number}")
            assert client.state() == NOTHING_AT_ALL
        assert await client.get(f"{url}last") == 200


@pytest.mark.parametrize("moments", [0, 3, 30])
@pytest.mark.parametrize("name", TASK_CLIENTS)
async def test_what_is_cancelled_gives_everything_back(name: str, moments: int, server: MeteredProcess) -> None:
    url = server.url(f"{name}-cancelled")
    async with opened(name, adaptive=True, max_concurrent=4, retry=True, breaker=True) as client:
        tasks = [asyncio.ensure_future(client.get(f"{url}{number}")) for number in range(AT_ONCE)]
        while not client.stack.throttle.running:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for _ in range(moments):
            await asyncio.sleep(0.002)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[1::2] == [200] * (AT_ONCE // 2)
        assert client.state() == NOTHING_AT_ALL


async def test_an_open_breaker_keeps_requests_from_the_server(name: str, server: MeteredProcess) -> None:
    url = server.url(f"{name}-down")
    async with opened(name, limiter=AsyncLimiter(1000, 1), breaker=CircuitBreaker(failures=3, open_for=600)) as client:
        for number in range(3):
            assert await client.get(f"{url}{number}") == 503
        for number in range(3, 6):
            with pytest.raises(CircuitOpen):
                await client.get(f"{url}{number}")
    assert [entry.request for entry in server.log(f"{name}-down")] == ["0", "1", "2"]
