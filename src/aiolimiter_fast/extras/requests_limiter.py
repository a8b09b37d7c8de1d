"""A requests session, and adapters, that obey a limiter, or a whole stack of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.utils import rewind_body

from aiolimiter_fast.extras._exchange import SHORT, Exchange
from aiolimiter_fast.extras._gate import Gate, Key, Reader, Slot, Weight
from aiolimiter_fast.extras._learning import Adaptive
from aiolimiter_fast.extras._stack import Stack, Stacked

__all__ = ["RateLimitedRequestsSession", "RateLimiterAdapter", "ThrottledAdapter"]


class Wrapper(BaseAdapter):
    """An adapter that sends with another one."""

    _inner: BaseAdapter

    def _wrap(self, adapter: BaseAdapter | None, kwargs: dict[str, Any]) -> None:
        super().__init__()
        if adapter is not None and kwargs:
            raise TypeError(f"{', '.join(kwargs)} must be given to the adapter that is wrapped")
        self._inner = HTTPAdapter(**kwargs) if adapter is None else adapter

    def _send(self, request: requests.PreparedRequest, args: Any, kwargs: dict[str, Any]) -> requests.Response:
        response = self._inner.send(request, *args, **kwargs)
        if getattr(response, "connection", self) is self._inner:  # where digest authentication sends its answer
            response.connection = self  # type: ignore[assignment]
        return response

    def close(self) -> None:
        self._inner.close()


class RateLimiterAdapter(Wrapper):
    """Send each request once the limiter lets it go: `session.mount("https://", RateLimiterAdapter(limiter))`.

    Arguments:
        limiter: a Limiter, an AsyncLimiter, or a function that makes one for a key.
        adapter: what sends the requests; None makes a requests HTTPAdapter of the other keyword arguments.
        name: under which the limiter is asked where there is no key.
        key: "host", or a function of the PreparedRequest, that says which limiter it belongs to; None: one for all.
        weight: permits for each request, a number or a function of the PreparedRequest.
        max_concurrent: how many requests are under way at once, until their response is read or closed.
        max_per_key: how many of one key.
        max_keys: for how many idle keys limiters are kept.

    Each hop of a redirect takes permits. Raises ValueError or TypeError for what makes no sense.

    Example:
        import requests
        from aiolimiter_fast import Limiter, Rate
        from aiolimiter_fast.extras.requests_limiter import RateLimiterAdapter

        with requests.Session() as session:
            adapter = RateLimiterAdapter(Limiter(Rate(5, 1000)), key="host", max_concurrent=2)
            session.mount("https://", adapter)
            session.mount("http://", adapter)
    """

    def __init__(
        self,
        limiter: Any,
        *,
        adapter: BaseAdapter | None = None,
        name: str = __name__,
        key: Key = None,
        weight: Weight = 1,
        max_concurrent: int | None = None,
        max_per_key: int | None = None,
        max_keys: int = 10_000,
        **kwargs: Any,
    ) -> None:
        self.limiter = limiter
        self._gate = Gate(limiter, name, _host, key, weight, max_concurrent, max_per_key, max_keys)
        self._wrap(adapter, kwargs)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        slot = self._gate.enter_blocking(request)
        try:
            response = self._send(request, args, kwargs)
            if self._gate.holds:
                _hold(response, slot)
            else:
                slot.release()
        except BaseException:
            slot.release()
            raise
        return response


class ThrottledAdapter(Stacked, Wrapper):
    """Send each request through a circuit breaker, retries, a limiter that learns, and bounds of concurrency.

    Arguments, each of which can be left out:
        limiter: a Limiter, an AsyncLimiter, or a function that makes one for a key; None: no rate of our own.
        adapter: what sends the requests; None makes a requests HTTPAdapter of the other keyword arguments.
        key: "host", or a function of the PreparedRequest, that says which limiter, bound and circuit it belongs to;
            None: one for all, but for the circuits, which are by host.
        weight: permits for each request, a number or a function of the PreparedRequest.
        max_concurrent: how many requests are under way at once, until their response is read or closed.
        max_per_key: how many of one key.
        max_keys: for how many idle keys limiters are kept.
        adaptive: True learns what the servers allow, each key's limiter as the ceiling; an AdaptiveLimiter, for all
            keys; or a function that makes one of a ceiling.
        retry: True; the arguments of `resilience.retry_options` as a dict; or tenacity's Retrying. Needs tenacity.
        breaker: True; a CircuitBreaker; or what `resilience.as_breaker` takes.

    Each attempt takes a permit of its own, as does each hop of a redirect, and none is held while it waits for the
    next. A request whose body cannot be sent twice is not tried again. An open breaker raises `resilience.CircuitOpen`.

    Raises ValueError or TypeError for what makes no sense, ImportError for `retry` without tenacity.

    Example:
        import requests
        from aiolimiter_fast import Limiter, Rate
        from aiolimiter_fast.extras.requests_limiter import ThrottledAdapter

        with requests.Session() as session:
            adapter = ThrottledAdapter(limiter=Limiter(Rate(5, 1000)), max_concurrent=2, adaptive=True, breaker=True)
            session.mount("https://", adapter)
            session.mount("http://", adapter)
    """

    def __init__(
        self,
        *,
        limiter: Any = None,
        adapter: BaseAdapter | None = None,
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
            Reader(__name__, _host, key, weight), False, limiter, max_concurrent, max_per_key, max_keys, adaptive,
            retry, breaker,
        )  # fmt: skip
        self._wrap(adapter, kwargs)

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        response: requests.Response = self._stack.run_blocking(AdapterRequest(self, request, args, kwargs))
        return response


class AdapterRequest(Exchange):
    """A request of an adapter."""

    __slots__ = ("_adapter", "_args", "_is_again", "_kwargs")

    def __init__(self, adapter: Wrapper, request: requests.PreparedRequest, args: Any, kwargs: dict[str, Any]) -> None:
        super().__init__(request)
        self._adapter = adapter
        self._args = args
        self._kwargs = kwargs
        self._is_again = False

    @property
    def is_repeatable(self) -> bool:
        body: Any = self.request.body
        return body is None or isinstance(body, (str, bytes)) or _can_rewind(self.request)

    def send(self) -> Any:
        if self._is_again and _can_rewind(self.request):
            rewind_body(self.request)
        self._is_again = True
        return self._adapter._send(self.request, self._args, self._kwargs)

    def discard(self, response: requests.Response) -> None:
        length = response.headers.get("Content-Length", "")
        try:
            if length.isdecimal() and len(length) < 9 and int(length) <= SHORT:
                end = time.monotonic() + self.patience
                # Not unpacked: it may be very long then. Without read1, in old versions, there is no end to a slow one.
                while response.raw.read1(SHORT, decode_content=False) and time.monotonic() < end:
                    pass
        finally:
            response.close()

    def hold(self, response: requests.Response, slot: Slot) -> None:
        _hold(response, slot)


class RateLimitedRequestsSession(requests.Session):
    """A requests session in which each call of `request` takes a permit first.

    Arguments: limiter, and the name under which it is asked. Others are ignored, as pyrate-limiter does. A
    RateLimiterAdapter, mounted in any session, does more.

    Example:
        from aiolimiter_fast import Limiter, Rate
        from aiolimiter_fast.extras.requests_limiter import RateLimitedRequestsSession

        with RateLimitedRequestsSession(Limiter(Rate(5, 1000))) as session:
            session.headers["User-Agent"] = "polite"
    """

    def __init__(self, limiter: Any, name: str = __name__, **_: Any) -> None:
        super().__init__()
        self._limiter = limiter
        self._name = name
        self._gate = Gate(limiter, name, _host, None, 1, None, None, 1)

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        self._gate.enter_blocking(None).release()
        return super().request(method, url, *args, **kwargs)


class HeldBody:
    """A raw response whose slot is given back when it is read or closed."""

    def __init__(self, raw: Any, slot: Slot) -> None:
        self._raw = raw
        self._slot = slot

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._raw
        except Exception:
            self._slot.release()
            raise
        self._slot.release()  # not where the iterator is dropped, perhaps by the garbage collector

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        try:
            yield from self._raw.stream(*args, **kwargs)
        except Exception:
            self._slot.release()
            raise
        self._slot.release()  # not where the iterator is dropped, perhaps by the garbage collector

    def read(self, amt: int | None = None, *args: Any, **kwargs: Any) -> bytes:
        part: bytes = self._raw.read(amt, *args, **kwargs)
        if amt is None or (amt > 0 and not part):
            self._slot.release()
        return part

    def close(self) -> None:
        try:
            self._raw.close()
        finally:
            self._slot.release()

    def release_conn(self) -> None:
        try:
            self._raw.release_conn()
        finally:
            self._slot.release()


def _hold(response: requests.Response, slot: Slot) -> None:
    if response.raw is None:
        slot.release()
    else:
        response.raw = HeldBody(response.raw, slot)


def _can_rewind(request: requests.PreparedRequest) -> bool:
    """Whether requests knows where a file's body began."""
    return isinstance(getattr(request, "_body_position", None), int) and hasattr(request.body, "seek")


def _host(request: requests.PreparedRequest) -> str:
    return urlsplit(request.url or "").hostname or ""
