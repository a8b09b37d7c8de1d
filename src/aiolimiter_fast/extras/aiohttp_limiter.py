"""An aiohttp session that obeys a limiter, or a whole stack of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import aiohttp
from yarl import URL

from aiolimiter_fast.extras._exchange import SHORT, Exchange
from aiolimiter_fast.extras._gate import Gate, Key, Reader, Slot, Weight
from aiolimiter_fast.extras._learning import Adaptive
from aiolimiter_fast.extras._stack import Stack, Stacked

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Outgoing", "RateLimitedSession", "ThrottledSession"]

T = TypeVar("T")

PLAIN = (str, int, float)


@dataclass(frozen=True)
class Outgoing:
    """A request before it is made, as functions for `key` and `weight` see it."""

    method: str
    url: URL
    options: dict[str, Any]


class Session:
    """aiohttp's session, of which every request goes another way."""

    _session: aiohttp.ClientSession

    def _wrap(self, session: aiohttp.ClientSession | None, kwargs: dict[str, Any]) -> None:
        if session is not None and kwargs:
            raise TypeError(f"{', '.join(kwargs)} must be given to the session that is wrapped")
        self._session = aiohttp.ClientSession(**kwargs) if session is None else session

    async def _request(self, method: str, url: str | URL, options: dict[str, Any]) -> aiohttp.ClientResponse:
        raise NotImplementedError

    async def _ws_connect(self, url: str | URL, options: dict[str, Any]) -> aiohttp.ClientWebSocketResponse[Any]:
        raise NotImplementedError

    def request(self, method: str, url: str | URL, **kwargs: Any) -> Request[aiohttp.ClientResponse]:
        return Request(self._request(method, url, kwargs))

    def get(self, url: str | URL, **kwargs: Any) -> Request[aiohttp.ClientResponse]:
        return self.request("GET", url, **{"allow_redirects": True, **kwargs})

    def options(self, url: str | URL, **kwargs: Any) -> Request[aiohttp.ClientResponse]:
        return self.request("OPTIONS", url, **{"allow_redirects": True, **kwargs})

    def head(self, url: str | URL, **kwargs: Any) -> Request[aiohttp.ClientResponse]:
        return self.request("HEAD", url, **{"allow_redirects": False, **kwargs})

    def post(self, url: str | URL, **kwargs: Any) -> Request[aiohttp.ClientResponse]:
        return self.request("POST", url, **kwargs)

    def put(self, url: str | URL, **kwargs: Any) -> Request[aiohttp.ClientResponse]:
        return self.request("PUT", url, **kwargs)

    def patch(self, url: str | URL, **kwargs: Any) -> Request[aiohttp.ClientResponse]:
        return self.request("PATCH", url, **kwargs)

    def delete(self, url: str | URL, **kwargs: Any) -> Request[aiohttp.ClientResponse]:
        return self.request("DELETE", url, **kwargs)

    def ws_connect(self, url: str | URL, **kwargs: Any) -> Request[aiohttp.ClientWebSocketResponse[Any]]:
        return Request(self._ws_connect(url, kwargs))

    def _absolute(self, url: str | URL) -> URL:
        base = self._session._base_url
        try:
            return URL(url) if base is None else base.join(URL(url))
        except ValueError as error:
            raise aiohttp.InvalidURL(url) from error  # as aiohttp does

    def __getattr__(self, name: str) -> Any:
        if name == "_session":  # not made yet
            raise AttributeError(name)
        return getattr(self._session, name)

    async def close(self) -> None:
        """Close the session; again does nothing."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class RateLimitedSession(Session):
    """Make each request once the limiter lets it go.

    Arguments:
        limiter: a Limiter, an AsyncLimiter, or a function that makes one for a key.
        name: under which the limiter is asked where there is no key.
        session: the aiohttp.ClientSession to use; None makes one of the other keyword arguments (in a running loop).
        key: "host", or a function of the Outgoing request, that says which limiter it belongs to; None: one for all.
        weight: permits for each request, a number or a function of the Outgoing request.
        max_concurrent: how many requests are under way at once, until their response is read, released or closed.
        max_per_key: how many of one key.
        max_keys: for how many idle keys limiters are kept.

    Requests are made as with aiohttp: `await session.get(url)`, or `async with session.get(url) as response`, and so
    for every method and `ws_connect`. A redirect takes no permit of its own. The rest is the session's.

    Raises ValueError or TypeError for what makes no sense.

    Example:
        import asyncio
        from aiohttp import web
        from aiolimiter_fast import AsyncLimiter
        from aiolimiter_fast.extras.aiohttp_limiter import RateLimitedSession

        async def hello(request):
            return web.Response(text="hello")

        async def main():
            server = web.ServerRunner(web.Server(hello))
            await server.setup()
            await web.TCPSite(server, "127.0.0.1", 0).start()
            async with RateLimitedSession(AsyncLimiter(50, 1), max_concurrent=5) as session:
                async with session.get(f"http://127.0.0.1:{server.addresses[0][1]}/") as response:
                    assert await response.text() == "hello"
            await server.cleanup()

        asyncio.run(main())
    """

    def __init__(
        self,
        limiter: Any,
        name: str = "pyrate",
        *,
        session: aiohttp.ClientSession | None = None,
        key: Key = None,
        weight: Weight = 1,
        max_concurrent: int | None = None,
        max_per_key: int | None = None,
        max_keys: int = 10_000,
        **kwargs: Any,
    ) -> None:
        self._gate = Gate(limiter, name, _host, key, weight, max_concurrent, max_per_key, max_keys)
        self._limiter = limiter
        self.name = name
        self._wrap(session, kwargs)

    async def _request(self, method: str, url: str | URL, options: dict[str, Any]) -> aiohttp.ClientResponse:
        slot = await self._gate.enter(Outgoing(method, self._absolute(url), options))
        try:
            response = await self._session.request(method, url, **options)
            if self._gate.holds:
                _hold(response, slot)
            else:
                slot.release()
        except BaseException:
            slot.release()
            raise
        return response

    async def _ws_connect(self, url: str | URL, options: dict[str, Any]) -> aiohttp.ClientWebSocketResponse[Any]:
        slot = await self._gate.enter(Outgoing(options.get("method", "GET"), self._absolute(url), options))
        try:
            socket = await self._session.ws_connect(url, **options)
            if self._gate.holds:
                _hold_socket(socket, slot)
            else:
                slot.release()
        except BaseException:
            slot.release()
            raise
        return socket


class ThrottledSession(Stacked, Session):
    """Make each request through a circuit breaker, retries, a limiter that learns, and bounds of concurrency.

    Arguments, each of which can be left out:
        limiter: a Limiter, an AsyncLimiter, or a function that makes one for a key; None: no rate of our own.
        session: the aiohttp.ClientSession to use; None makes one of the other keyword arguments (in a running loop).
        key: "host", or a function of the Outgoing request, that says which limiter, bound and circuit it belongs to;
            None: one for all, but for the circuits, which are by host.
        weight: permits for each request, a number or a function of the Outgoing request.
        max_concurrent: how many requests are under way at once, until their response is read, released or closed.
        max_per_key: how many of one key.
        max_keys: for how many idle keys limiters are kept.
        adaptive: True learns what the servers allow, each key's limiter as the ceiling; an AdaptiveLimiter, for all
            keys; or a function that makes one of a ceiling.
        retry: True; the arguments of `resilience.retry_options` as a dict; or tenacity's AsyncRetrying. Needs tenacity.
        breaker: True; a CircuitBreaker; or what `resilience.as_breaker` takes.

    Each attempt takes a permit of its own, and none is held while it waits for the next; its redirects take none. A
    timeout of aiohttp's is for each attempt, and where there is `retry` aiohttp tries nothing again by itself. A
    request whose body cannot be sent twice is not tried again. An open breaker raises `resilience.CircuitOpen`.

    Raises ValueError or TypeError for what makes no sense, ImportError for `retry` without tenacity.

    Example:
        import asyncio
        from aiohttp import web
        from aiolimiter_fast.extras.aiohttp_limiter import ThrottledSession

        async def hello(request):
            return web.Response(text="hello")

        async def main():
            server = web.ServerRunner(web.Server(hello))
            await server.setup()
            await web.TCPSite(server, "127.0.0.1", 0).start()
            async with ThrottledSession(max_concurrent=5, adaptive=True, breaker=True) as session:
                async with session.get(f"http://127.0.0.1:{server.addresses[0][1]}/") as response:
                    assert await response.text() == "hello"
            await server.cleanup()

        asyncio.run(main())
    """

    def __init__(
        self,
        *,
        limiter: Any = None,
        session: aiohttp.ClientSession | None = None,
        key: Key = "host",
        weight: Weight = 1,
        max_concurrent: int | None = None,
        max_per_key: int | None = None,
        max_keys: int = 10_000,
        adaptive: Adaptive = False,
        retry: Any = None,
        breaker: Any = None,
        **kwargs: Any,
    ) -> None:
        self._stack = Stack(
            Reader(__name__, _host, key, weight), True, limiter, max_concurrent, max_per_key, max_keys, adaptive, retry,
            breaker,
        )  # fmt: skip
        self._wrap(session, kwargs)
        self._knows_redirects = self._stack.retries and _trace_redirects(self._session)
        if self._stack.retries and hasattr(self._session, "_retry_connection"):
            # aiohttp sends idempotent requests twice by itself, on one permit, where the server hangs up.
            self._session._retry_connection = False

    async def _request(self, method: str, url: str | URL, options: dict[str, Any]) -> aiohttp.ClientResponse:
        exchange = SessionRequest(self._session, Outgoing(method, self._absolute(url), options), url)
        if self._stack.retries:
            exchange.knows_redirects = self._knows_redirects
            exchange.body, exchange.can_repeat = await _body(options.get("data"))
        response: aiohttp.ClientResponse = await self._stack.run(exchange)
        return response

    async def _ws_connect(self, url: str | URL, options: dict[str, Any]) -> aiohttp.ClientWebSocketResponse[Any]:
        outgoing = Outgoing(options.get("method", "GET"), self._absolute(url), options)
        exchange = SocketRequest(self._session, outgoing, url)
        socket: aiohttp.ClientWebSocketResponse[Any] = await self._stack.run(exchange)
        return socket


class SessionRequest(Exchange):
    """A request of a session. Its redirects are made by aiohttp, on the same permit."""

    __slots__ = ("_hops", "_session", "_url", "body", "can_repeat", "knows_redirects")

    def __init__(self, session: aiohttp.ClientSession, request: Outgoing, url: str | URL) -> None:
        super().__init__(request)
        self._session = session
        self._url = url
        self._hops = Hops()
        self.body: Callable[[], Any] | None = None
        self.can_repeat = self.knows_redirects = True

    @property
    def header_names(self) -> Iterable[Any]:
        return (*self._session.headers, *dict(self.request.options.get("headers") or {}))

    @property
    def is_repeatable(self) -> bool:
        return self.can_repeat

    async def send(self) -> Any:
        options = self.request.options
        if self.body is not None:
            options = {**options, "data": self.body()}
        self._hops = Hops()
        self._hops.is_redirected = not self.knows_redirects
        token = _sending.set(self._hops)
        try:
            return await self._session.request(self.request.method, self._url, **options)
        finally:
            _sending.reset(token)

    async def discard(self, response: aiohttp.ClientResponse) -> None:
        try:
            if response.content_length is not None and response.content_length <= SHORT:
                await asyncio.wait_for(_pass_over(response.content), self.patience)
        finally:
            response.release()

    def hold(self, response: aiohttp.ClientResponse, slot: Slot) -> None:
        _hold(response, slot)

    def seen(self, response: Any) -> Any:
        """The last response of the host that was asked; that of a redirect speaks of another one's quota."""
        host = self.request.url.host
        answers = (response, *reversed(getattr(response, "history", None) or ()))
        return next((each for each in answers if _host_asked(each) == host), response)

    def may_repeat(self, outcome: Any) -> bool:
        return self.is_idempotent or not self._hops.is_redirected


class Opened:
    """What an open socket shows of its response."""

    status = 101
    headers: Mapping[str, str] = {}


class SocketRequest(SessionRequest):
    """The opening of a web socket."""

    __slots__ = ()

    async def send(self) -> Any:
        return await self._session.ws_connect(self._url, **self.request.options)

    async def discard(self, response: Any) -> None:
        await response.close()

    def hold(self, response: Any, slot: Slot) -> None:
        _hold_socket(response, slot)

    def seen(self, response: Any) -> Any:
        return response if isinstance(response, Exception) else Opened


class Request(Coroutine[Any, Any, T], Generic[T]):
    """A request to be awaited, or entered with `async with`."""

    __slots__ = ("_coroutine", "_result")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, *args: Any) -> Any:
        return self._coroutine.throw(*args)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coroutine.__await__()

    async def __aenter__(self) -> T:
        self._result: T = await self._coroutine
        return self._result

    async def __aexit__(self, *exc: object) -> None:
        if isinstance(self._result, aiohttp.ClientWebSocketResponse):
            await self._result.close()
        elif isinstance(self._result, aiohttp.ClientResponse):
            self._result.release()
            await self._result.wait_for_close()


class Hops:
    """Whether a request was redirected. No more than that, since contexts live on in a session's connections."""

    is_redirected = False


_sending: ContextVar[Hops | None] = ContextVar("aiolimiter_fast_sending", default=None)


def _trace_redirects(session: aiohttp.ClientSession) -> bool:
    """Have the session tell when it follows a redirect, the server having done what it was asked; whether it will."""
    configs: Any = getattr(session, "trace_configs", None)
    if isinstance(configs, list) and not any(isinstance(config, Redirects) for config in configs):
        configs.append(Redirects())
    return isinstance(configs, list)


class Redirects(aiohttp.TraceConfig):
    """What a session tells of redirects."""

    def __init__(self) -> None:
        super().__init__()
        self.on_request_redirect.append(self._redirected)
        self.freeze()

    async def _redirected(self, *_: object) -> None:
        sending = _sending.get()
        if sending is not None:
            sending.is_redirected = True


class Written:
    """What a payload writes."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    async def write(self, part: bytes) -> None:
        self.parts.append(bytes(part))


async def _body(data: Any) -> tuple[Callable[[], Any] | None, bool]:
    """What makes the body of each attempt, where it is not `data` itself; and whether it can be sent twice."""
    if isinstance(data, aiohttp.FormData):
        form = data()  # which can be done only once
        repeated = await _form(form)
        return (repeated, True) if repeated is not None else (lambda: form, isinstance(form, aiohttp.BytesPayload))
    if isinstance(data, aiohttp.MultipartWriter):
        repeated = await _form(data)
        return repeated, repeated is not None
    if isinstance(data, Mapping):
        return None, all(isinstance(value, PLAIN) for value in data.values())
    if isinstance(data, (list, tuple)):
        return None, all(isinstance(pair, (list, tuple)) and isinstance(pair[-1], PLAIN) for pair in data)
    return None, data is None or isinstance(data, (str, bytes, bytearray, memoryview, aiohttp.BytesPayload))


async def _form(form: Any) -> Callable[[], aiohttp.Payload] | None:
    """What makes a form of several parts anew, since aiohttp sends one once; None if there are files in it."""
    if not isinstance(form, aiohttp.MultipartWriter):
        return None
    if not all(isinstance(part, aiohttp.BytesPayload) for part, *_ in form):
        return None
    written: Any = Written()
    await form.write(written)
    body, content_type = b"".join(written.parts), form.headers["Content-Type"]
    return lambda: aiohttp.BytesPayload(body, content_type=content_type)


async def _pass_over(body: aiohttp.StreamReader) -> None:
    """Read to the end and keep nothing: what is short may be very long once it is unpacked."""
    async for _ in body.iter_any():
        pass


def _hold(response: aiohttp.ClientResponse, slot: Slot) -> None:
    response.content.on_eof(slot.release)
    # aiohttp has no other place to be told of these two.
    response.close = _and_then(response.close, slot)  # type: ignore[method-assign]
    response.release = _and_then(response.release, slot)  # type: ignore[method-assign]


def _hold_socket(socket: aiohttp.ClientWebSocketResponse[Any], slot: Slot) -> None:
    close = socket.close

    async def close_and_release(*args: Any, **kwargs: Any) -> bool:
        try:
            return await close(*args, **kwargs)
        finally:
            slot.release()

    socket.close = close_and_release  # type: ignore[method-assign]


def _and_then(function: Callable[[], Any], slot: Slot) -> Callable[[], Any]:
    def call() -> Any:
        try:
            return function()
        finally:
            slot.release()

    return call


def _host_asked(response: Any) -> str | None:
    url = getattr(getattr(response, "request_info", None), "url", None)
    return None if url is None else url.host


def _host(request: Outgoing) -> str:
    return request.url.host or ""
