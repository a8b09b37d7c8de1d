"""What is below the transports is passed on to them: pools, proxies, HTTP/2, and adapters that exist already."""

from __future__ import annotations

import asyncio
import importlib
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h2.config
import h2.connection
import h2.events
import pytest
import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPDigestAuth
from scripted_server import Answer, ScriptedServer
from test_extras_http import FLAVOURS

from aiolimiter_fast import AsyncLimiter
from aiolimiter_fast.extras.aiohttp_limiter import RateLimitedSession, ThrottledSession
from aiolimiter_fast.extras.requests_limiter import RateLimiterAdapter, ThrottledAdapter

if TYPE_CHECKING:
    from typing_extensions import Self

QUICK = {"first": 0.001, "max_wait": 0.01}
CERTIFICATE = Path(__file__).parent / "loopback.pem"  # and its key, of no use elsewhere


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as scripted:
        yield scripted


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    module = importlib.import_module(f"aiolimiter_fast.extras.{request.param}_limiter")
    return importlib.import_module(request.param), module


class Http2Server:
    """Speaks HTTP/2 to those who negotiate it; answers the first stream with 429, and the others with 200."""

    def __init__(self) -> None:
        self.connections = self.streams = 0
        self.port = 0
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        context.set_alpn_protocols(["h2"])
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        self._is_up.set()
        await self._end.wait()
        server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        while data := await reader.read(65_536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.StreamEnded):
                    self.streams += 1
                    status = "429" if self.streams == 1 else "200"
                    connection.send_headers(event.stream_id, [(":status", status), ("content-length", "5")])
                    connection.send_data(event.stream_id, b"hello", end_stream=True)
            writer.write(connection.data_to_send())
        writer.close()

    def __enter__(self) -> Self:
        self._thread.start()
        self._is_up.wait()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


@pytest.fixture
def http2() -> Iterator[Http2Server]:
    with Http2Server() as served:
        yield served


def test_http2_is_spoken_where_it_is_asked_for(flavour: Any, http2: Http2Server) -> None:
    library, module = flavour
    url = f"https://127.0.0.1:{http2.port}/"
    transport = module.ThrottledTransport(http2=True, verify=False, retry=QUICK, max_concurrent=2)
    with library.Client(transport=transport) as client:
        for _ in range(3):
            response = client.get(url)
            assert (response.status_code, response.http_version, response.text) == (200, "HTTP/2", "hello")
    assert (http2.connections, http2.streams) == (1, 4)
    with library.Client(transport=module.RateLimiterTransport(AsyncLimiter(9), http2=True, verify=False)) as client:
        assert client.get(url).http_version == "HTTP/2"


async def test_http2_streams_share_a_connection(flavour: Any, http2: Http2Server) -> None:
    library, module = flavour
    transport = module.AsyncThrottledTransport(http2=True, verify=False, retry=QUICK, max_concurrent=5, breaker=True)
    async with library.AsyncClient(transport=transport) as client:
        url = f"https://127.0.0.1:{http2.port}/"
        first = await client.get(url)
        responses = [first, *await asyncio.gather(*(client.get(url) for _ in range(20)))]
    assert {(each.status_code, each.http_version) for each in responses} == {(200, "HTTP/2")}
    assert (http2.connections, http2.streams) == (1, 22)
    assert transport.throttle.running == 0


def test_httpx_has_its_pool_as_it_is_asked_for(flavour: Any) -> None:
    library, module = flavour
    limits = library.Limits(max_connections=3, max_keepalive_connections=2)
    for transport in (
        module.ThrottledTransport(limits=limits, retries=4),
        module.AsyncThrottledTransport(limits=limits, retries=4),
        module.RateLimiterTransport(AsyncLimiter(1), limits=limits, retries=4),
        module.AsyncRateLimiterTransport(AsyncLimiter(1), limits=limits, retries=4),
    ):
        assert (transport._pool._max_connections, transport._pool._max_keepalive_connections) == (3, 2)
        assert transport._pool._retries == 4
        kind = library.HTTPTransport if hasattr(transport, "handle_request") else library.AsyncHTTPTransport
        assert isinstance(transport, kind)


def test_httpx_goes_through_a_proxy(flavour: Any, server: ScriptedServer) -> None:
    library, module = flavour
    server.answer(503)
    transport = module.ThrottledTransport(proxy=server.url, retry=QUICK, adaptive=True, max_concurrent=1)
    with library.Client(transport=transport) as client:
        assert client.get("http://nowhere.invalid/page").status_code == 200
    assert [each.path for each in server.received] == ["http://nowhere.invalid/page"] * 2
    assert transport.adaptive("nowhere.invalid").in_flight == 0


def test_httpx_goes_through_a_tunnel(flavour: Any, server: ScriptedServer, http2: Http2Server) -> None:
    library, module = flavour
    transport = module.ThrottledTransport(proxy=server.url, http2=True, verify=False, retry=QUICK, max_concurrent=1)
    with library.Client(transport=transport) as client:
        response = client.get(f"https://127.0.0.1:{http2.port}/")
        assert (response.status_code, response.http_version, response.text) == (200, "HTTP/2", "hello")
    assert [each.method for each in server.received] == ["CONNECT"]
    assert http2.streams == 2


async def test_async_httpx_goes_through_a_proxy(flavour: Any, server: ScriptedServer) -> None:
    library, module = flavour
    transport = module.AsyncThrottledTransport(proxy=server.url, limiter=AsyncLimiter(5))
    async with library.AsyncClient(transport=transport) as client:
        assert (await client.get("http://nowhere.invalid/page")).status_code == 200
    assert [each.path for each in server.received] == ["http://nowhere.invalid/page"]


async def test_aiohttp_goes_through_a_proxy(server: ScriptedServer) -> None:
    limiter = AsyncLimiter(5)
    async with ThrottledSession(retry=QUICK, max_concurrent=1) as session:
        server.answer(503)
        async with session.get("http://nowhere.invalid/page", proxy=server.url) as response:
            assert response.status == 200
    async with (
        RateLimitedSession(limiter, proxy=server.url) as limited,
        limited.get("http://nowhere.invalid/page") as response,
    ):
        assert response.status == 200
    assert [each.path for each in server.received] == ["http://nowhere.invalid/page"] * 3


def test_requests_goes_through_a_proxy(server: ScriptedServer) -> None:
    with requests.Session() as session:
        session.mount("http://", ThrottledAdapter(retry=QUICK, max_concurrent=1))
        session.proxies["http"] = server.url
        server.answer(503)
        assert session.get("http://nowhere.invalid/page").status_code == 200
    assert [each.path for each in server.received] == ["http://nowhere.invalid/page"] * 2


@pytest.mark.parametrize("kind", [ThrottledAdapter, RateLimiterAdapter])
def test_an_adapter_that_exists_is_used_with_its_pool(kind: Any, server: ScriptedServer) -> None:
    sent: list[str] = []

    class Noting(HTTPAdapter):
        def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
            sent.append(request.url or "")
            return super().send(request, *args, **kwargs)

    inner = Noting(pool_connections=1, pool_maxsize=2)
    adapter = kind(limiter=AsyncLimiter(5), adapter=inner, max_concurrent=1)
    with requests.Session() as session:
        session.mount("http://", adapter)
        assert session.get(server.url).text == "body"
    assert sent == [server.url]
    with pytest.raises(TypeError, match="pool_maxsize must be given to the adapter that is wrapped"):
        kind(limiter=AsyncLimiter(5), adapter=inner, pool_maxsize=2)
    assert kind(limiter=AsyncLimiter(5), pool_maxsize=7)._inner._pool_maxsize == 7


@pytest.mark.parametrize("kind", [ThrottledAdapter, RateLimiterAdapter])
def test_the_second_request_of_digest_authentication_takes_a_permit_too(kind: Any, server: ScriptedServer) -> None:
    server.answer(Answer(401, {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth", algorithm="MD5"'}))
    limiter = AsyncLimiter(5, 1e9)
    adapter = kind(limiter=limiter, max_concurrent=1)
    with requests.Session() as session:
        session.mount("http://", adapter)
        assert session.get(server.url, auth=HTTPDigestAuth("user", "password")).status_code == 200
    assert len(server.received) == 2
    assert limiter.has_capacity(3)
    assert not limiter.has_capacity(4)


def test_each_hop_of_a_redirect_takes_a_permit(server: ScriptedServer) -> None:
    server.answer(Answer(303, {"Location": "/made"}), 503)
    limiter = AsyncLimiter(5, 1e9)
    with requests.Session() as session:
        session.mount("http://", ThrottledAdapter(limiter=limiter, retry=QUICK, max_concurrent=1))
        assert session.post(server.url, data=b"body").status_code == 200
    assert [f"{each.method} {each.path}" for each in server.received] == ["POST /", "GET /made", "GET /made"]
    assert limiter.has_capacity(2)
    assert not limiter.has_capacity(3)
