"""The HTTP clients, against a real server on loopback."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import aiohttp.web
import pytest
import requests

from aiolimiter_fast import AsyncLimiter, Limiter, Rate
from aiolimiter_fast.extras import aiohttp_limiter, requests_limiter

FLAVOURS = ["httpx", *(["httpx2"] if sys.version_info >= (3, 11) else [])]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "2000000")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"x" * 2_000_000)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


class Recorder:
    """A limiter as pyrate-limiter's extras ask it."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def try_acquire(self, name: str) -> bool:
        self.names.append(name)
        return False  # is ignored

    async def try_acquire_async(self, name: str) -> bool:
        return self.try_acquire(name)


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    module = importlib.import_module(f"aiolimiter_fast.extras.{request.param}_limiter")
    return importlib.import_module(request.param), module


def throttle_of(owner: Any) -> Any:
    return owner._gate._throttle


async def waiters(throttle: Any) -> None:
    while not throttle.waiting:  # noqa: ASYNC110
        await asyncio.sleep(0)


def test_httpx_asks_as_pyrate_limiter_does(flavour: Any, url: str) -> None:
    library, ours = flavour
    name = ours.__name__.rpartition(".")[2]
    theirs = importlib.import_module(f"pyrate_limiter.extras.{name}")
    asked = []
    for module in (ours, theirs):
        limiter = Recorder()
        with library.Client(transport=module.RateLimiterTransport(limiter, retries=1)) as client:
            assert client.get(url).status_code == 200
        asked.append([each.rpartition(".")[2] for each in limiter.names])
    assert asked == [[name], [name]]


def test_httpx_passes_limits_on(flavour: Any) -> None:
    library, ours = flavour
    limits = library.Limits(max_connections=3)
    with ours.RateLimiterTransport(Limiter(Rate(5, 1000)), limits=limits) as transport:
        assert transport._pool._max_connections == 3
    with pytest.raises(TypeError, match="limits must be given to the transport that is wrapped"):
        ours.RateLimiterTransport(Recorder(), transport=transport, limits=limits)


def test_httpx_holds_the_slot_until_the_body_is_closed(flavour: Any, url: str) -> None:
    library, ours = flavour
    with (
        ours.RateLimiterTransport(AsyncLimiter(100), max_concurrent=1) as transport,
        library.Client(transport=transport) as client,
    ):
        with client.stream("GET", url):
            assert throttle_of(transport).running == 1
        assert throttle_of(transport).running == 0
        assert len(client.get(url).content) == 2_000_000
        assert throttle_of(transport).running == 0
        with pytest.raises(library.ConnectError):
            client.get("http://127.0.0.1:1/")
        assert throttle_of(transport).running == 0


async def test_async_httpx_gives_everything_back(flavour: Any, url: str) -> None:
    library, ours = flavour
    made: list[str] = []

    def limiter_for(host: str) -> AsyncLimiter:
        made.append(host)
        return AsyncLimiter(100)

    network = library.AsyncHTTPTransport()
    transport = ours.AsyncRateLimiterTransport(limiter_for, transport=network, key="host", max_concurrent=1)
    async with library.AsyncClient(transport=transport) as client:
        async with client.stream("GET", url):
            waiting = asyncio.create_task(client.get(url))
            await waiters(throttle_of(transport))
            assert throttle_of(transport).running == 1
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert throttle_of(transport).running == throttle_of(transport).waiting == 0
        for response in await asyncio.gather(*(client.get(url) for _ in range(5))):
            assert len(response.content) == 2_000_000
        assert throttle_of(transport).running == 0
    assert made[0] == "127.0.0.1"


async def test_weight_is_a_function_of_the_request(flavour: Any) -> None:
    library, ours = flavour
    limiter = AsyncLimiter(10, 1e9)
    transport = ours.AsyncRateLimiterTransport(
        limiter,
        transport=library.MockTransport(lambda request: library.Response(200)),
        weight=lambda r: len(r.url.path),
    )
    async with library.AsyncClient(transport=transport) as client:
        await client.get("http://example.org/12345")
    assert limiter.has_capacity(4)
    assert not limiter.has_capacity(5)


@pytest.mark.parametrize("method", ["get", "options", "head", "post", "put", "patch", "delete"])
async def test_aiohttp_has_every_method_in_both_forms(method: str, url: str) -> None:
    limiter = AsyncLimiter(10, 1e9)
    async with aiohttp_limiter.RateLimitedSession(limiter, max_concurrent=1) as session:
        async with getattr(session, method)(url) as response:
            assert response.status == 200
        response = await getattr(session, method)(url)
        await response.read()
        assert throttle_of(session).running == 0
        assert not session.closed
    assert session.closed
    assert limiter.has_capacity(8)
    assert not limiter.has_capacity(9)


async def test_aiohttp_holds_the_slot_until_the_body_is_read(url: str) -> None:
    async with aiohttp_limiter.RateLimitedSession(AsyncLimiter(100), max_concurrent=1) as session:
        response = await session.get(url)
        assert throttle_of(session).running == 1
        waiting = asyncio.create_task(session.get(url))
        await waiters(throttle_of(session))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(await response.read()) == 2_000_000
        assert throttle_of(session).running == throttle_of(session).waiting == 0
        with pytest.raises(aiohttp.ClientError):
            await session.get("http://127.0.0.1:1/")
        assert throttle_of(session).running == 0


async def test_aiohttp_holds_the_slot_of_a_websocket_until_it_is_closed() -> None:
    async def echo(request: aiohttp.web.Request) -> aiohttp.web.WebSocketResponse:
        socket = aiohttp.web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    app = aiohttp.web.Application()
    app.router.add_get("/", echo)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp_limiter.RateLimitedSession(AsyncLimiter(100), key="host", max_concurrent=1) as session:
        async with session.ws_connect(f"http://127.0.0.1:{port}/") as socket:
            await socket.send_str("hello")
            assert await socket.receive_str() == "hello"
            assert throttle_of(session).running == 1
        assert throttle_of(session).running == 0
    await runner.cleanup()


async def test_aiohttp_asks_as_pyrate_limiter_does(url: str) -> None:
    from pyrate_limiter.extras import aiohttp_limiter as theirs

    for module in (aiohttp_limiter, theirs):
        limiter = Recorder()
        session = module.RateLimitedSession(limiter, headers={"A": "b"})
        response = await session.get(url)
        await response.read()
        response.release()
        await session.close()
        await session.close()
        assert limiter.names == [session.name] == ["pyrate"]


def test_requests_asks_as_pyrate_limiter_does(url: str) -> None:
    from pyrate_limiter.extras import requests_limiter as theirs

    for module in (requests_limiter, theirs):
        limiter = Recorder()
        with module.RateLimitedRequestsSession(limiter, "name", anything=1) as session:
            assert session.get(url).status_code == 200
        assert limiter.names == ["name"]


def test_requests_adapter_holds_the_slot_until_the_body_is_closed(url: str) -> None:
    adapter = requests_limiter.RateLimiterAdapter(AsyncLimiter(100), key="host", max_concurrent=1, pool_maxsize=2)
    with requests.Session() as session:
        session.mount("http://", adapter)
        with session.get(url, stream=True):
            assert throttle_of(adapter).running == 1
        assert throttle_of(adapter).running == 0
        assert len(session.get(url).content) == 2_000_000
        assert throttle_of(adapter).running == 0
        with pytest.raises(requests.ConnectionError):
            session.get("http://127.0.0.1:1/")
        assert throttle_of(adapter).running == 0


@pytest.mark.parametrize("bad", [{"key": "route"}, {"weight": -1}, {"max_concurrent": 0}, {"max_per_key": 0}])
def test_bad_arguments_are_refused(flavour: Any, bad: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(bad)).replace("weight", "amount")):
        flavour[1].RateLimiterTransport(AsyncLimiter(1), **bad)


def test_both_httpx_modules_are_the_same_but_for_the_name() -> None:
    ours = Path(aiohttp_limiter.__file__).parent
    first = (ours / "httpx_limiter.py").read_text(encoding="utf-8")
    assert (ours / "httpx2_limiter.py").read_text(encoding="utf-8") == first.replace("httpx", "httpx2")


def test_installed_extras_import_their_library_only_when_used() -> None:
    source = (
        "import sys, aiolimiter_fast; aiolimiter_fast.install('pyrate_limiter');"
        "import pyrate_limiter.extras.httpx_limiter; assert 'httpx' not in sys.modules;"
        "from pyrate_limiter.extras.httpx_limiter import RateLimiterTransport;"
        "assert RateLimiterTransport.__module__ == 'aiolimiter_fast.extras.httpx_limiter'"
    )
    subprocess.run([sys.executable, "-c", source], check=True, timeout=60)


async def test_a_response_that_was_read_before_it_came_holds_no_slot(flavour: Any) -> None:
    library, ours = flavour
    network = library.MockTransport(lambda request: library.Response(200))
    transport = ours.AsyncRateLimiterTransport(AsyncLimiter(100), transport=network, max_concurrent=1)
    async with library.AsyncClient(transport=transport) as client:
        kept = [await client.get("http://example.org/") for _ in range(3)]
    assert len(kept) == 3
    with ours.RateLimiterTransport(AsyncLimiter(100), transport=network, max_concurrent=1) as blocking:
        kept = [blocking.handle_request(library.Request("GET", "http://example.org/")) for _ in range(3)]
    assert throttle_of(blocking).running == 0
