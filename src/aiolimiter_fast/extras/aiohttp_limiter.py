"""An aiohttp session that obeys a limiter."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import aiohttp
from yarl import URL

from aiolimiter_fast.extras._gate import Gate, Key, Slot, Weight

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Outgoing", "RateLimitedSession"]

T = TypeVar("T")


@dataclass(frozen=True)
class Outgoing:
    """A request before it is made, as functions for `key` and `weight` see it."""

    method: str
    url: URL
    options: dict[str, Any]


class RateLimitedSession:
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
        if session is not None and kwargs:
            raise TypeError(f"{', '.join(kwargs)} must be given to the session that is wrapped")
        self._gate = Gate(limiter, name, _host, key, weight, max_concurrent, max_per_key, max_keys)
        self._limiter = limiter
        self.name = name
        self._session = aiohttp.ClientSession(**kwargs) if session is None else session

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

    async def _request(self, method: str, url: str | URL, options: dict[str, Any]) -> aiohttp.ClientResponse:
        slot = await self._gate.enter(Outgoing(method, self._absolute(url), options))
        try:
            response = await self._session.request(method, url, **options)
            if self._gate.holds:
                response.content.on_eof(slot.release)
                # aiohttp has no other place to be told of these two.
                response.close = _and_then(response.close, slot)  # type: ignore[method-assign]
                response.release = _and_then(response.release, slot)  # type: ignore[method-assign]
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
                close = socket.close

                async def close_and_release(*args: Any, **kwargs: Any) -> bool:
                    try:
                        return await close(*args, **kwargs)
                    finally:
                        slot.release()

                socket.close = close_and_release  # type: ignore[method-assign]
            else:
                slot.release()
        except BaseException:
            slot.release()
            raise
        return socket

    def _absolute(self, url: str | URL) -> URL:
        base = self._session._base_url
        return URL(url) if base is None else base.join(URL(url))

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


def _and_then(function: Callable[[], Any], slot: Slot) -> Callable[[], Any]:
    def call() -> Any:
        try:
            return function()
        finally:
            slot.release()

    return call


def _host(request: Outgoing) -> str:
    return request.url.host or ""
