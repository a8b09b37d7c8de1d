"""The transports of httpx and of httpx2, which are one but for the name. Neither is imported here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from aiolimiter_fast.extras._exchange import SHORT, Exchange
from aiolimiter_fast.extras._gate import Gate, Key, Reader, Slot, Weight
from aiolimiter_fast.extras._learning import Adaptive
from aiolimiter_fast.extras._stack import Stack, Stacked

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "AsyncHeldStream", "AsyncRateLimited", "AsyncThrottled", "HeldStream", "RateLimited", "Throttled",
]  # fmt: skip

if TYPE_CHECKING:

    class Transport:
        """The library's own, as what comes next in the order of method resolution."""

        def __init__(self, **kwargs: Any) -> None: ...
        def handle_request(self, request: Any) -> Any: ...
        def close(self) -> None: ...
        def __enter__(self) -> Self: ...
        def __exit__(self, *exc: object) -> None: ...

    class AsyncTransport:
        """The library's own."""

        def __init__(self, **kwargs: Any) -> None: ...
        async def handle_async_request(self, request: Any) -> Any: ...
        async def aclose(self) -> None: ...
        async def __aenter__(self) -> Self: ...
        async def __aexit__(self, *exc: object) -> None: ...

else:
    Transport = AsyncTransport = object


class Wrapper:
    """A transport that sends with another one, or else by itself.

    The first three attributes are set by the library's module.
    """

    _library: Any
    _module: str
    _held: type[Any]
    _inner: Any

    def _wrap(self, transport: Any, kwargs: dict[str, Any]) -> None:
        self._inner = transport
        if transport is None:
            super().__init__(**kwargs)
        elif kwargs:
            raise TypeError(f"{', '.join(kwargs)} must be given to the transport that is wrapped")

    def _hold(self, response: Any, slot: Slot) -> None:
        if response.is_closed:
            slot.release()
        else:
            response.stream = self._held(response.stream, slot)


class LimitedBySlots(Wrapper):
    """The arguments of RateLimiterTransport."""

    def __init__(
        self,
        limiter: Any,
        *,
        transport: Any = None,
        key: Key = None,
        weight: Weight = 1,
        max_concurrent: int | None = None,
        max_per_key: int | None = None,
        max_keys: int = 10_000,
        **kwargs: Any,
    ) -> None:
        self._gate = Gate(limiter, self._module, _host, key, weight, max_concurrent, max_per_key, max_keys)
        self.limiter = limiter
        self._wrap(transport, kwargs)


class LimitedByStack(Stacked, Wrapper):
    """The arguments of ThrottledTransport."""

    _is_async = False

    def __init__(
        self,
        *,
        limiter: Any = None,
        transport: Any = None,
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
            Reader(self._module, _host, key, weight), self._is_async, limiter, max_concurrent, max_per_key, max_keys,
            adaptive, retry, breaker,
        )  # fmt: skip
        self._wrap(transport, kwargs)


class Blocking(Wrapper, Transport):
    """A transport for threads."""

    def _send(self, request: Any, kwargs: dict[str, Any]) -> Any:
        send = super().handle_request if self._inner is None else self._inner.handle_request
        return send(request, **kwargs)

    def close(self) -> None:
        """Close the transport."""
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

    def __exit__(self, *exc: object) -> None:
        if self._inner is None:
            super().__exit__(*exc)
        else:
            self._inner.__exit__(*exc)


class Async(Wrapper, AsyncTransport):
    """A transport for tasks."""

    async def _send(self, request: Any, kwargs: dict[str, Any]) -> Any:
        send = super().handle_async_request if self._inner is None else self._inner.handle_async_request
        return await send(request, **kwargs)

    async def aclose(self) -> None:
        """Close the transport."""
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

    async def __aexit__(self, *exc: object) -> None:
        if self._inner is None:
            await super().__aexit__(*exc)
        else:
            await self._inner.__aexit__(*exc)


class RateLimited(LimitedBySlots, Blocking):
    """RateLimiterTransport, but for its library."""

    def handle_request(self, request: Any, **kwargs: Any) -> Any:
        """Send a request once the limiter lets it go."""
        slot = self._gate.enter_blocking(request)
        try:
            response = self._send(request, kwargs)
            if self._gate.holds:
                self._hold(response, slot)
            else:
                slot.release()
        except BaseException:
            slot.release()
            raise
        return response


class AsyncRateLimited(LimitedBySlots, Async):
    """AsyncRateLimiterTransport, but for its library."""

    async def handle_async_request(self, request: Any, **kwargs: Any) -> Any:
        """Send a request once the limiter lets it go."""
        slot = await self._gate.enter(request)
        try:
            response = await self._send(request, kwargs)
            if self._gate.holds:
                self._hold(response, slot)
            else:
                slot.release()
        except BaseException:
            slot.release()
            raise
        return response


class Throttled(LimitedByStack, Blocking):
    """ThrottledTransport, but for its library."""

    def handle_request(self, request: Any, **kwargs: Any) -> Any:
        """Send a request through breaker, retries, limiter and bounds."""
        return self._stack.run_blocking(BlockingRequest(self, request, kwargs))


class AsyncThrottled(LimitedByStack, Async):
    """AsyncThrottledTransport, but for its library."""

    _is_async = True

    async def handle_async_request(self, request: Any, **kwargs: Any) -> Any:
        """Send a request through breaker, retries, limiter and bounds."""
        return await self._stack.run(AsyncRequest(self, request, kwargs))


class Sending(Exchange):
    """A request of a transport."""

    __slots__ = ("kwargs", "transport")

    def __init__(self, transport: Any, request: Any, kwargs: dict[str, Any]) -> None:
        super().__init__(request)
        self.transport = transport
        self.kwargs = kwargs

    @property
    def is_repeatable(self) -> bool:
        return _is_repeatable(self.request.stream, self.transport._library)

    def hold(self, response: Any, slot: Slot) -> None:
        self.transport._hold(response, slot)


class BlockingRequest(Sending):
    """A request of a transport for threads."""

    __slots__ = ()

    def send(self) -> Any:
        return self.transport._send(self.request, self.kwargs)

    def discard(self, response: Any) -> None:
        try:
            if _is_short(response):
                end = time.monotonic() + self.patience
                for _ in response.iter_raw():  # not unpacked: it may be very long then
                    if time.monotonic() > end:
                        break
        finally:
            response.close()


class AsyncRequest(Sending):
    """A request of a transport for tasks."""

    __slots__ = ()

    async def send(self) -> Any:
        return await self.transport._send(self.request, self.kwargs)

    async def discard(self, response: Any) -> None:
        try:
            if _is_short(response):
                await asyncio.wait_for(_pass_over(response.aiter_raw()), self.patience)
        finally:
            await response.aclose()


class HeldStream:
    """A body whose slot is given back when it is read or closed."""

    def __init__(self, stream: Any, slot: Slot) -> None:
        self._stream = stream
        self._slot = slot

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except Exception:
            self._slot.release()
            raise
        self._slot.release()  # not where the iterator is dropped, perhaps by the garbage collector

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._slot.release()


class AsyncHeldStream:
    """A body whose slot is given back when it is read or closed."""

    def __init__(self, stream: Any, slot: Slot) -> None:
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


async def _pass_over(parts: AsyncIterator[bytes]) -> None:
    async for _ in parts:  # not unpacked: it may be very long then
        pass


def _host(request: Any) -> str:
    host: str = request.url.host
    return host


def _is_short(response: Any) -> bool:
    if response.is_closed:
        return False
    length = response.headers.get("content-length", "")
    return length.isdecimal() and len(length) < 9 and int(length) <= SHORT


def _is_repeatable(stream: Any, library: Any) -> bool:
    """Whether a body can be sent twice: bytes, and multipart forms whose files can be rewound."""
    if isinstance(stream, library.ByteStream):
        return True
    if type(stream).__qualname__ != "MultipartStream" or type(stream).__module__.partition(".")[0] != library.__name__:
        return False
    files = [field.file for field in stream.fields if hasattr(field, "file")]
    return all(isinstance(file, (str, bytes)) or _can_seek(file) for file in files)


def _can_seek(file: Any) -> bool:
    seekable = getattr(file, "seekable", None)
    return callable(seekable) and bool(seekable())
