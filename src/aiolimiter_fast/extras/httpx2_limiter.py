"""httpx2 transports that obey a limiter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpx2

from aiolimiter_fast.extras._gate import Gate, Key, Slot, Weight

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AsyncRateLimiterTransport", "RateLimiterTransport"]


class RateLimiterTransport(httpx2.HTTPTransport):
    """Send each request once the limiter lets it go.

    Arguments:
        limiter: a Limiter, an AsyncLimiter, or a function that makes one for a key.
        transport: what sends the requests; None makes an httpx2.HTTPTransport of the other keyword arguments. httpx2
            drops a client's `limits=`, `http2=`, `verify=`, ... where it is given a transport: give them here.
        key: "host", or a function of the request, that says which limiter it belongs to; None: one for all.
        weight: permits for each request, a number or a function of the request.
        max_concurrent: how many requests are under way at once, until their response is read or closed.
        max_per_key: how many of one key.
        max_keys: for how many idle keys limiters are kept.

    Without key, weight and bounds the limiter is asked under this module's name, as pyrate-limiter does.

    Raises ValueError or TypeError for what makes no sense.

    Example:
        import httpx2
        from aiolimiter_fast import Limiter, Rate
        from aiolimiter_fast.extras.httpx2_limiter import RateLimiterTransport

        network = httpx2.MockTransport(lambda request: httpx2.Response(200))
        with httpx2.Client(transport=RateLimiterTransport(Limiter(Rate(5, 1000)), transport=network)) as client:
            assert client.get("http://example.org").status_code == 200
    """

    def __init__(
        self,
        limiter: Any,
        *,
        transport: httpx2.BaseTransport | None = None,
        key: Key = None,
        weight: Weight = 1,
        max_concurrent: int | None = None,
        max_per_key: int | None = None,
        max_keys: int = 10_000,
        **kwargs: Any,
    ) -> None:
        self._gate = Gate(limiter, __name__, _host, key, weight, max_concurrent, max_per_key, max_keys)
        self.limiter = limiter
        self._inner = transport
        if transport is None:
            super().__init__(**kwargs)
        elif kwargs:
            raise TypeError(f"{', '.join(kwargs)} must be given to the transport that is wrapped")

    def handle_request(self, request: httpx2.Request, **kwargs: Any) -> httpx2.Response:
        slot = self._gate.enter_blocking(request)
        try:
            send = super().handle_request if self._inner is None else self._inner.handle_request
            response = send(request, **kwargs)
            if self._gate.holds and not response.is_closed and isinstance(response.stream, httpx2.SyncByteStream):
                response.stream = HeldStream(response.stream, slot)
            else:
                slot.release()
        except BaseException:
            slot.release()
            raise
        return response

    def close(self) -> None:
        if self._inner is None:
            super().close()
        else:
            self._inner.close()

    def __enter__(self) -> Self:
        if self._inner is None:
            super().__enter__()
        else:
            self._inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if self._inner is None:
            super().__exit__(exc_type, exc_value, traceback)
        else:
            self._inner.__exit__(exc_type, exc_value, traceback)


class AsyncRateLimiterTransport(httpx2.AsyncHTTPTransport):
    """Send each request once the limiter lets it go; the arguments are those of RateLimiterTransport.

    Example:
        import asyncio
        import httpx2
        from aiolimiter_fast import AsyncLimiter
        from aiolimiter_fast.extras.httpx2_limiter import AsyncRateLimiterTransport

        async def main():
            network = httpx2.MockTransport(lambda request: httpx2.Response(200))
            transport = AsyncRateLimiterTransport(lambda host: AsyncLimiter(5), transport=network, key="host")
            async with httpx2.AsyncClient(transport=transport) as client:
                assert (await client.get("http://example.org")).status_code == 200

        asyncio.run(main())
    """

    def __init__(
        self,
        limiter: Any,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
        key: Key = None,
        weight: Weight = 1,
        max_concurrent: int | None = None,
        max_per_key: int | None = None,
        max_keys: int = 10_000,
        **kwargs: Any,
    ) -> None:
        self._gate = Gate(limiter, __name__, _host, key, weight, max_concurrent, max_per_key, max_keys)
        self.limiter = limiter
        self._inner = transport
        if transport is None:
            super().__init__(**kwargs)
        elif kwargs:
            raise TypeError(f"{', '.join(kwargs)} must be given to the transport that is wrapped")

    async def handle_async_request(self, request: httpx2.Request, **kwargs: Any) -> httpx2.Response:
        slot = await self._gate.enter(request)
        try:
            send = super().handle_async_request if self._inner is None else self._inner.handle_async_request
            response = await send(request, **kwargs)
            if self._gate.holds and not response.is_closed and isinstance(response.stream, httpx2.AsyncByteStream):
                response.stream = AsyncHeldStream(response.stream, slot)
            else:
                slot.release()
        except BaseException:
            slot.release()
            raise
        return response

    async def aclose(self) -> None:
        if self._inner is None:
            await super().aclose()
        else:
            await self._inner.aclose()

    async def __aenter__(self) -> Self:
        if self._inner is None:
            await super().__aenter__()
        else:
            await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if self._inner is None:
            await super().__aexit__(exc_type, exc_value, traceback)
        else:
            await self._inner.__aexit__(exc_type, exc_value, traceback)


class HeldStream(httpx2.SyncByteStream):
    """A body whose slot is given back when it is read or closed."""

    def __init__(self, stream: httpx2.SyncByteStream, slot: Slot) -> None:
        self._stream = stream
        self._slot = slot

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        finally:
            self._slot.release()

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._slot.release()


class AsyncHeldStream(httpx2.AsyncByteStream):
    """A body whose slot is given back when it is read or closed."""

    def __init__(self, stream: httpx2.AsyncByteStream, slot: Slot) -> None:
        self._stream = stream
        self._slot = slot

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._stream:
                yield part
        finally:
            self._slot.release()

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._slot.release()


def _host(request: httpx2.Request) -> str:
    return request.url.host
