"""A network for the whole stack in virtual time: it answers as it is told, and remembers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import httpx

from aiolimiter_fast import AdaptiveLimiter
from aiolimiter_fast.extras.httpx_limiter import AsyncThrottledTransport

URL = "http://host/"


class Body(httpx.AsyncByteStream):
    """The body of a response, which somebody has to read or close."""

    def __init__(self, breaks: bool = False) -> None:
        self.breaks = breaks
        self.is_touched = self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.is_touched = True
        if self.breaks:
            raise httpx.ReadError("")
        yield b"x"

    async def aclose(self) -> None:
        self.is_closed = True
        if self.breaks:
            raise httpx.CloseError("")


class Answer:
    """What the network answers, after `latency` seconds; `breaks`: while the body is read or closed."""

    def __init__(
        self,
        status: int | Exception = 200,
        headers: dict[str, str] | None = None,
        latency: float = 0,
        breaks: bool = False,
    ) -> None:
        self.status = status
        self.headers = headers or {}
        self.latency = latency
        self.breaks = breaks


class Network(httpx.AsyncBaseTransport):
    """Answers as it is told, then with 200; and remembers."""

    def __init__(self, *answers: Answer | int | Exception, latency: float = 0) -> None:
        self.answers = deque(each if isinstance(each, Answer) else Answer(each) for each in answers)
        self.latency = latency
        self.sent: list[float] = []
        self.received: list[bytes] = []
        self.bodies: list[Body] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        self.received.append(b"".join([part async for part in request.stream]))
        self.sent.append(round(asyncio.get_running_loop().time() - 1000, 6))
        answer = self.answers.popleft() if self.answers else Answer(latency=self.latency)
        await asyncio.sleep(answer.latency)
        if isinstance(answer.status, Exception):
            raise answer.status
        self.bodies.append(Body(answer.breaks))
        return httpx.Response(answer.status, headers=answer.headers, stream=self.bodies[-1])


class Spy(AdaptiveLimiter):
    """An adaptive limiter of which is known what it was told."""

    __slots__ = ("told",)

    def __init__(self, ceiling: Any = None, **options: Any) -> None:
        super().__init__(ceiling, **options)
        self.told: list[tuple[int, float]] = []

    def observe(self, seen: Any, status: int | None = None, *, sent_at: float | None = None, amount: float = 1) -> Any:
        assert status is not None
        assert sent_at is not None
        self.told.append((status, round(sent_at - 1000, 6)))
        return super().observe(seen, status, sent_at=sent_at, amount=amount)

    def forget(self, sent_at: float | None = None) -> None:
        assert sent_at is not None
        self.told.append((0, round(sent_at - 1000, 6)))
        super().forget(sent_at)


def spy(**options: Any) -> Spy:
    return Spy(None, start_rate=1000, **options)


def client(network: httpx.AsyncBaseTransport, **options: Any) -> tuple[AsyncThrottledTransport, httpx.AsyncClient]:
    transport = AsyncThrottledTransport(transport=network, **options)
    return transport, httpx.AsyncClient(transport=transport)


async def refused(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    assert all(
        isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*tasks, return_exceptions=True)
    )


WAIT = {"Retry-After": "5"}
