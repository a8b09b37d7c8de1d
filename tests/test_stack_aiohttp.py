"""What is aiohttp's own in the whole stack: redirects, statuses that raise, web sockets, sessions that exist."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from scripted_server import Answer, ScriptedServer

from aiolimiter_fast import AdaptiveLimiter, CircuitBreaker
from aiolimiter_fast.extras.aiohttp_limiter import Outgoing, ThrottledSession

QUICK = {"first": 0.001, "max_wait": 0.01}


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as scripted:
        yield scripted


def quick() -> AdaptiveLimiter:
    return AdaptiveLimiter(start_rate=1000, min_rate=500, max_pause=0.01)


def at_rest(session: ThrottledSession) -> bool:
    adaptive = session.adaptive("127.0.0.1")
    return not session.throttle.running and not session.throttle.waiting and (not adaptive or not adaptive.in_flight)


def paths(server: ScriptedServer) -> list[str]:
    return [f"{each.method} {each.path}" for each in server.received]


async def test_what_a_redirect_shows_as_done_is_not_done_again(server: ScriptedServer) -> None:
    server.answer(Answer(303, {"Location": "/made"}), 503)
    async with ThrottledSession(retry=QUICK, adaptive=quick(), max_concurrent=1) as session:
        async with session.post(server.url, data=b"body") as response:
            assert response.status == 503
        assert paths(server) == ["POST /", "GET /made"]
        server.answer(Answer(303, {"Location": "http://127.0.0.1:1/"}))
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.post(server.url, data=b"body")
        assert paths(server)[2:] == ["POST /"]
        server.answer(Answer(302, {"Location": "/made"}), 503)
        async with session.get(server.url) as response:
            assert response.status == 200
        assert paths(server)[3:] == ["GET /", "GET /made", "GET /"]
        assert at_rest(session)


async def test_whoever_cannot_be_told_of_redirects_takes_each_for_one(server: ScriptedServer) -> None:
    server.answer(429, 429)
    inner = aiohttp.ClientSession()
    inner._trace_configs = ()  # type: ignore[assignment]
    async with ThrottledSession(session=inner, retry=QUICK) as session:
        async with session.post(server.url) as response:
            assert response.status == 429
        async with session.get(server.url) as response:
            assert response.status == 200


async def test_the_quota_of_another_host_is_not_taken_for_its_own(server: ScriptedServer) -> None:
    elsewhere = server.url.replace("127.0.0.1", "localhost")
    server.answer(
        Answer(302, {"Location": elsewhere, "RateLimit": '"default";r=7;t=60'}),
        Answer(200, {"RateLimit": '"default";r=2;t=60'}),
    )
    greedy = lambda ceiling: AdaptiveLimiter(ceiling, spend="greedy")  # noqa: E731
    async with ThrottledSession(adaptive=greedy) as session:
        async with session.get(server.url) as response:
            assert response.status == 200
        first = session.adaptive("127.0.0.1")
        assert first is not None
        assert (first.remaining, first.in_flight) == (7, 0)
        server.answer(Answer(302, {"Location": "/", "RateLimit": '"default";r=6;t=60'}))
        server.answer(Answer(200, {"RateLimit": '"default";r=5;t=60'}))
        async with session.get(server.url) as response:
            assert response.status == 200
        assert (first.remaining, first.in_flight) == (5, 0)


async def test_statuses_that_raise_are_observed_and_tried_again(server: ScriptedServer) -> None:
    limit = {"RateLimit": '"default";r=7;t=60'}
    server.answer(429, 503, Answer(404, limit))
    limiter = quick()
    async with ThrottledSession(raise_for_status=True, retry=QUICK, adaptive=limiter, max_concurrent=1) as session:
        with pytest.raises(aiohttp.ClientResponseError, match="404"):
            await session.get(server.url)
        assert len(server.received) == 3
        assert limiter.remaining == 7
        assert at_rest(session)

        class Odd(Exception):
            status = 429

        async def check(response: aiohttp.ClientResponse) -> None:
            raise Odd

        with pytest.raises(Odd):
            await session.get(server.url, raise_for_status=check)
        assert at_rest(session)


async def test_a_timeout_is_for_each_attempt_and_cancels_nothing_else(server: ScriptedServer) -> None:
    server.answer(Answer(latency=1))
    timeout = aiohttp.ClientTimeout(total=0.2)
    patient = {**QUICK, "attempts": 100}
    async with ThrottledSession(timeout=timeout, retry=patient, adaptive=quick(), max_concurrent=1) as session:
        async with session.get(server.url) as response:
            assert response.status == 200
        assert len(server.received) >= 2
        assert at_rest(session)


async def test_whoever_is_cancelled_leaves_nothing_behind(server: ScriptedServer) -> None:
    server.answer(Answer(latency=0.5), Answer(body=b"x" * 5_000_000))
    breaker = CircuitBreaker(failures=1)
    limiter = quick()
    async with ThrottledSession(retry=QUICK, adaptive=limiter, breaker=breaker, max_concurrent=1) as session:
        flying = asyncio.create_task(session.get(server.url))
        waiting = asyncio.create_task(session.get(server.url))
        while not (server.received and session.throttle.waiting):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert (limiter.in_flight, session.throttle.running, session.throttle.waiting) == (1, 1, 1)
        for task in (waiting, flying):
            task.cancel()
        results = await asyncio.gather(flying, waiting, return_exceptions=True)
        assert [type(each) for each in results] == [asyncio.CancelledError] * 2
        assert at_rest(session)

        async def read() -> None:
            async with session.get(server.url) as response:
                await response.content.readexactly(10)
                streaming.set()
                await asyncio.sleep(60)

        streaming = asyncio.Event()
        reading = asyncio.create_task(read())
        await streaming.wait()
        reading.cancel()
        await asyncio.wait([reading])
        assert at_rest(session)
        assert breaker.state("127.0.0.1") == "closed"


async def test_a_default_idempotency_key_counts(server: ScriptedServer) -> None:
    server.answer(0)
    key = {"Idempotency-Key": "1"}
    async with (
        ThrottledSession(headers=key, retry=QUICK) as session,
        session.post(server.url, data={"a": "b"}) as response,
    ):
        assert response.status == 200
    assert len(server.received) == 2


@pytest.mark.parametrize("url", ["http://[", "http://host:99999999/"])
async def test_an_address_that_is_none_raises_as_in_aiohttp(url: str) -> None:
    async with ThrottledSession(retry=True, max_concurrent=1) as session:
        with pytest.raises(aiohttp.InvalidURL):
            await session.get(url)
        with pytest.raises(aiohttp.InvalidURL):
            await session.ws_connect(url)
        assert session.throttle.running == 0


async def test_without_retries_aiohttp_does_as_it_did(server: ScriptedServer) -> None:
    server.answer(0)
    async with ThrottledSession(adaptive=True) as session, session.get(server.url) as response:
        assert response.status == 200
    assert len(server.received) == 2


async def test_a_body_that_aiohttp_makes_a_form_of_is_the_same_again(server: ScriptedServer) -> None:
    # In its second attempt the request is redirected too.
    with_parts = aiohttp.MultipartWriter("mixed")
    with_parts.append("body")
    large = aiohttp.FormData()
    for number in range(3):
        large.add_field(f"{number}", "body" * 10_000, content_type="text/plain")
    bodies: list[Any] = [[("a", "body"), ("b", "1")], {"a": "body"}, with_parts, large, aiohttp.FormData({"a": "body"})]
    async with ThrottledSession(retry=QUICK) as session:
        for body in bodies:
            server.received.clear()
            server.answer(429, Answer(307, {"Location": "/moved"}))
            async with session.post(server.url, data=body) as response:
                assert response.status == 200
            assert paths(server) == ["POST /", "POST /", "POST /moved"]
            assert len({(each.body, each.headers["content-type"]) for each in server.received}) == 1
            assert b"body" in server.received[0].body


async def test_a_session_that_exists_is_used_with_its_connector_and_changed_once(server: ScriptedServer) -> None:
    connector = aiohttp.TCPConnector(limit=3)
    inner = aiohttp.ClientSession(base_url=server.url, connector=connector)
    for _ in range(3):
        session = ThrottledSession(session=inner, retry=True, key=lambda outgoing: outgoing.url.path, adaptive=True)
    assert len(inner.trace_configs) == 1
    async with session.get("/page") as response:
        assert response.status == 200
    assert session.connector is connector
    assert session.adaptive("/page") is not None
    with pytest.raises(TypeError, match="connector must be given to the session that is wrapped"):
        ThrottledSession(session=inner, connector=connector)
    await session.close()
    assert inner.closed


async def test_functions_see_the_request_as_it_was_made(server: ScriptedServer) -> None:
    seen: list[Outgoing] = []

    def weigh(outgoing: Outgoing) -> float:
        seen.append(outgoing)
        return 1

    form = aiohttp.FormData()
    form.add_field("a", "b", content_type="text/plain")
    async with ThrottledSession(weight=weigh, retry=True) as session, session.put(server.url, data=form):
        pass
    assert [(each.method, str(each.url), each.options["data"]) for each in seen] == [("PUT", server.url, form)]


@pytest.fixture
async def sockets() -> AsyncIterator[tuple[str, list[int]]]:
    refused = [503, 429]

    async def echo(request: web.Request) -> web.StreamResponse:
        if refused:
            return web.Response(status=refused.pop())
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    app = web.Application()
    app.router.add_get("/", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/", refused
    await runner.cleanup()


async def test_a_web_socket_is_opened_through_the_stack_and_holds_its_slot(sockets: tuple[str, list[int]]) -> None:
    url, refused = sockets
    breaker = CircuitBreaker(failures=1)
    async with ThrottledSession(retry=QUICK, adaptive=quick(), breaker=breaker, max_concurrent=1) as session:
        async with session.ws_connect(url) as socket:
            await socket.send_str("hello")
            assert await socket.receive_str() == "hello"
            assert session.throttle.running == 1
            waiting = asyncio.create_task(session.get(url))
            await asyncio.sleep(0)
            waiting.cancel()
        assert not refused
        assert at_rest(session)
        assert breaker.state("127.0.0.1") == "closed"
        refused.extend([503] * 5)
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(url)
        assert at_rest(session)
        assert breaker.state("127.0.0.1") == "open"
