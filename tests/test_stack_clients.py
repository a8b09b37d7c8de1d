"""The whole stack in each of the clients, against a real server on loopback."""

from __future__ import annotations

import asyncio
import gzip
import importlib
import io
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest
import requests
from scripted_server import Answer, ScriptedServer

from aiolimiter_fast import AdaptiveLimiter, AsyncLimiter, CircuitBreaker
from aiolimiter_fast.extras import aiohttp_limiter, requests_limiter
from aiolimiter_fast.extras._exchange import Exchange
from aiolimiter_fast.resilience import CircuitOpen

QUICK = {"first": 0.001, "max_wait": 0.01}


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as scripted:
        yield scripted


class Client:
    """One client with the whole stack, driven from a thread, asynchronous or not."""

    repeats_files = False
    repeats_file_parts = True

    def __init__(self, **options: Any) -> None:
        self.stack: Any = self.make(options)

    def make(self, options: dict[str, Any]) -> Any:
        raise NotImplementedError

    def request(self, method: str, url: str, **body: Any) -> int:
        """The status of a response that is read."""
        raise NotImplementedError

    def stream(self, url: str, inside: Callable[[], None]) -> None:
        """Call `inside` while a response is neither read nor closed."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def body(self, kind: str) -> dict[str, Any]:
        raise NotImplementedError

    def generator(self) -> Any:
        yield b"body"


class Httpx(Client):
    library_name = "httpx"

    def make(self, options: dict[str, Any]) -> Any:
        library = importlib.import_module(self.library_name)
        module = importlib.import_module(f"aiolimiter_fast.extras.{self.library_name}_limiter")
        transport = module.ThrottledTransport(**options)
        self.http = library.Client(transport=transport)
        return transport

    def request(self, method: str, url: str, **body: Any) -> int:
        return int(self.http.request(method, url, **body).status_code)

    def stream(self, url: str, inside: Callable[[], None]) -> None:
        with self.http.stream("GET", url):
            inside()

    def close(self) -> None:
        self.http.close()

    def body(self, kind: str) -> dict[str, Any]:
        bodies: dict[str, dict[str, Any]] = {
            "bytes": {"content": b"body"},
            "json": {"json": {"a": "body"}},
            "form": {"data": {"a": "body"}},
            "parts": {"files": {"a": b"body"}},
            "file": {"content": io.BytesIO(b"body")},
            "file in parts": {"files": {"a": io.BytesIO(b"body")}},
            "generator": {"content": self.generator()},
        }
        return bodies[kind]


class AsyncHttpx(Httpx):
    def make(self, options: dict[str, Any]) -> Any:
        library = importlib.import_module(self.library_name)
        module = importlib.import_module(f"aiolimiter_fast.extras.{self.library_name}_limiter")
        self.runner = asyncio.new_event_loop()
        transport = module.AsyncThrottledTransport(**options)
        self.http = library.AsyncClient(transport=transport)
        return transport

    def request(self, method: str, url: str, **body: Any) -> int:
        return int(self.runner.run_until_complete(self.http.request(method, url, **body)).status_code)

    def stream(self, url: str, inside: Callable[[], None]) -> None:
        async def stream() -> None:
            async with self.http.stream("GET", url):
                inside()

        self.runner.run_until_complete(stream())

    def close(self) -> None:
        self.runner.run_until_complete(self.http.aclose())
        self.runner.close()

    def body(self, kind: str) -> dict[str, Any]:
        if kind == "file":
            return {"content": self.async_generator()}  # there are no files but in forms
        return super().body(kind)

    async def async_generator(self) -> Any:
        yield b"body"

    generator = async_generator


class Httpx2(Httpx):
    library_name = "httpx2"


class AsyncHttpx2(AsyncHttpx):
    library_name = "httpx2"


class Aiohttp(Client):
    repeats_file_parts = False

    def make(self, options: dict[str, Any]) -> Any:
        self.runner = asyncio.new_event_loop()

        async def make() -> Any:
            return aiohttp_limiter.ThrottledSession(**options)

        return self.runner.run_until_complete(make())

    def request(self, method: str, url: str, **body: Any) -> int:
        async def request() -> int:
            async with self.stack.request(method, url, **body) as response:
                await response.read()
                return int(response.status)

        return self.runner.run_until_complete(request())

    def stream(self, url: str, inside: Callable[[], None]) -> None:
        async def stream() -> None:
            async with self.stack.get(url):
                inside()

        self.runner.run_until_complete(stream())

    def close(self) -> None:
        self.runner.run_until_complete(self.stack.close())
        self.runner.close()

    def body(self, kind: str) -> dict[str, Any]:
        form = aiohttp.FormData()
        form.add_field("a", "body", content_type="text/plain")
        with_file = aiohttp.FormData()
        with_file.add_field("a", io.BytesIO(b"body"))
        bodies: dict[str, dict[str, Any]] = {
            "bytes": {"data": b"body"},
            "json": {"json": {"a": "body"}},
            "form": {"data": {"a": "body"}},
            "parts": {"data": form},
            "file": {"data": io.BytesIO(b"body")},
            "file in parts": {"data": with_file},
            "generator": {"data": self.async_generator()},
        }
        return bodies[kind]

    async def async_generator(self) -> Any:
        yield b"body"


class Requests(Client):
    repeats_files = True

    def make(self, options: dict[str, Any]) -> Any:
        self.session = requests.Session()
        adapter = requests_limiter.ThrottledAdapter(**options)
        self.session.mount("http://", adapter)
        return adapter

    def request(self, method: str, url: str, **body: Any) -> int:
        return self.session.request(method, url, **body).status_code

    def stream(self, url: str, inside: Callable[[], None]) -> None:
        with self.session.get(url, stream=True):
            inside()

    def close(self) -> None:
        self.session.close()

    def body(self, kind: str) -> dict[str, Any]:
        bodies: dict[str, dict[str, Any]] = {
            "bytes": {"data": b"body"},
            "json": {"json": {"a": "body"}},
            "form": {"data": {"a": "body"}},
            "parts": {"files": {"a": b"body"}},
            "file": {"data": io.BytesIO(b"body")},
            "file in parts": {"files": {"a": io.BytesIO(b"body")}},
            "generator": {"data": self.generator()},
        }
        return bodies[kind]


THREADED: list[type[Client]] = [Httpx, Requests]
CLIENTS: list[type[Client]] = [*THREADED, AsyncHttpx, Aiohttp]
if sys.version_info >= (3, 11):
    THREADED.append(Httpx2)
    CLIENTS += [Httpx2, AsyncHttpx2]


@pytest.fixture(params=CLIENTS, ids=lambda kind: kind.__name__)
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Client]]:
    made: list[Client] = []

    def make(**options: Any) -> Client:
        made.append(request.param(**options))
        return made[-1]

    yield make
    for client in made:
        client.close()


class Told(AdaptiveLimiter):
    """Remembers the statuses it was told; 0 for none."""

    __slots__ = ("told",)

    def __init__(self) -> None:
        super().__init__(start_rate=1000, min_rate=500, max_pause=0.01)
        self.told: list[int] = []

    def observe(self, seen: Any, status: int | None = None, *, sent_at: float | None = None, amount: float = 1) -> Any:
        self.told.append(status or 0)
        return super().observe(seen, status, sent_at=sent_at, amount=amount)

    def forget(self, sent_at: float | None = None) -> None:
        self.told.append(0)
        super().forget(sent_at)


def is_at_rest(client: Client) -> bool:
    throttle = client.stack.throttle
    adaptive = client.stack.adaptive("127.0.0.1")
    return not throttle.running and not throttle.waiting and (adaptive is None or not adaptive.in_flight)


@pytest.mark.parametrize("kind", ["bytes", "json", "form", "parts", "file", "file in parts", "generator"])
def test_a_body_is_sent_again_whole_or_not_at_all(
    make: Callable[..., Client], server: ScriptedServer, kind: str
) -> None:
    server.answer(429, 0)
    client = make(retry=QUICK, adaptive=Told(), max_concurrent=1)
    status = client.request("PUT", server.url, **client.body(kind))
    is_repeated = {
        "file": client.repeats_files, "file in parts": client.repeats_file_parts, "generator": False
    }.get(kind, True)  # fmt: skip
    assert status == (200 if is_repeated else 429)
    assert len(server.received) == (3 if is_repeated else 1)
    assert len({each.body for each in server.received}) == 1
    assert len({each.headers.get("content-type") for each in server.received}) == 1
    assert b"body" in server.received[0].body
    assert is_at_rest(client)


@pytest.mark.parametrize(
    ("method", "headers", "answer", "times"),
    [
        ("GET", {}, 503, 2),
        ("GET", {}, 0, 2),
        ("GET", {}, 500, 1),
        ("POST", {}, 503, 1),
        ("POST", {}, 429, 2),
        ("POST", {"Idempotency-Key": "1"}, 503, 2),
        ("POST", {"Idempotency-Key": "1"}, 0, 2),
        ("POST", {}, 0, 1),
    ],
)
def test_a_request_is_sent_twice_only_where_that_is_due(
    make: Callable[..., Client], server: ScriptedServer, method: str, headers: Any, answer: int, times: int
) -> None:
    server.answer(answer)
    limiter = Told()
    client = make(retry=QUICK, adaptive=limiter, max_concurrent=1, breaker=True)
    if times == 1 and answer == 0:
        with pytest.raises(Exception, match=r"(?i)disconnect|aborted"):
            client.request(method, server.url, headers=headers)
    else:
        assert client.request(method, server.url, headers=headers) == (200 if times == 2 else answer)
    assert len(server.received) == times
    assert limiter.told == [answer, 200][:times]
    assert is_at_rest(client)


def test_what_was_never_sent_is_tried_again_whatever_its_method(make: Callable[..., Client]) -> None:
    limiter = Told()
    client = make(retry={**QUICK, "attempts": 2}, adaptive=limiter, max_concurrent=1)
    with pytest.raises(Exception, match=r"(?i)refused|connect"):
        client.request("POST", "http://127.0.0.1:1/")
    assert limiter.told == [0, 0]
    assert is_at_rest(client)


def test_a_retry_uses_the_connection_of_a_short_response_again(
    make: Callable[..., Client], server: ScriptedServer
) -> None:
    server.answer(503, 503)
    client = make(retry=QUICK, max_concurrent=1)
    assert client.request("GET", server.url) == 200
    assert server.connections == 1
    server.answer(Answer(503, body=b"x" * 5_000_000))
    assert client.request("GET", server.url) == 200
    assert is_at_rest(client)


def test_a_short_body_that_is_long_once_it_is_unpacked_is_not_unpacked(
    make: Callable[..., Client], server: ScriptedServer
) -> None:
    server.answer(Answer(503, {"Content-Encoding": "gzip"}, gzip.compress(bytes(50_000_000))))
    client = make(retry=QUICK, max_concurrent=1)
    tracemalloc.start()
    try:
        assert client.request("GET", server.url) == 200
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert server.connections == 1
    assert is_at_rest(client)


def test_a_short_body_that_does_not_end_is_not_waited_for(
    make: Callable[..., Client], server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Exchange, "patience", 0.05)
    server.answer(Answer(503, body=bytes(2000), pause=0.002))
    client = make(retry=QUICK, max_concurrent=1)
    assert client.request("GET", server.url) == 200
    assert server.connections == 2
    assert is_at_rest(client)


def test_a_response_that_is_not_read_holds_its_slot(make: Callable[..., Client], server: ScriptedServer) -> None:
    server.answer(503, Answer(body=b"x" * 5_000_000))
    client = make(retry=QUICK, adaptive=Told(), breaker=True, max_concurrent=1)
    seen: list[int] = []
    client.stream(server.url, lambda: seen.append(client.stack.throttle.running))
    assert seen == [1]
    assert is_at_rest(client)


def test_an_open_breaker_refuses_and_sends_nothing(make: Callable[..., Client], server: ScriptedServer) -> None:
    server.answer(500, 500)
    limiter = AsyncLimiter(10, 1e9)
    client = make(limiter=limiter, breaker=CircuitBreaker(failures=2), retry=QUICK)
    for _ in range(2):
        client.request("GET", server.url)
    with pytest.raises(CircuitOpen):
        client.request("GET", server.url)
    assert len(server.received) == 2
    assert limiter.has_capacity(8)
    assert client.stack.breaker.state("127.0.0.1") == "open"
    assert client.stack.limiter("127.0.0.1") is limiter


def test_what_the_server_allows_is_learnt(make: Callable[..., Client], server: ScriptedServer) -> None:
    server.answer(Answer(401, {"RateLimit-Policy": '"default";q=9;w=60', "RateLimit": '"default";r=7;t=60'}))
    client = make(adaptive=True, max_per_key=1)
    assert client.request("GET", server.url) == 401
    limiter = client.stack.adaptive("127.0.0.1")
    assert (limiter.limit, limiter.remaining, limiter.in_flight) == (9, 7, 0)


@pytest.mark.parametrize("kind", THREADED, ids=lambda kind: kind.__name__)
def test_threads_share_one_stack(kind: type[Client], server: ScriptedServer) -> None:
    server.answer(*[Answer(latency=0.001), Answer(429), Answer(503, latency=0.001)] * 10)
    made = kind(
        retry={**QUICK, "attempts": 30}, limiter=AsyncLimiter(1000, 1), adaptive=lambda ceiling: AdaptiveLimiter(
            ceiling, start_rate=1000, min_rate=500, max_pause=0.01
        ), breaker=True, max_concurrent=3,
    )  # fmt: skip
    statuses: list[int] = []

    def work() -> None:
        statuses.extend(made.request("GET", server.url) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 60
    assert len(server.received) == 80
    assert server.most <= 3
    assert is_at_rest(made)
    made.close()
