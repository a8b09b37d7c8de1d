"""A requests session, and an adapter, that obey a limiter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter, HTTPAdapter

from aiolimiter_fast.extras._gate import Gate, Key, Slot, Weight

__all__ = ["RateLimitedRequestsSession", "RateLimiterAdapter"]


class RateLimiterAdapter(BaseAdapter):
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
        super().__init__()
        if adapter is not None and kwargs:
            raise TypeError(f"{', '.join(kwargs)} must be given to the adapter that is wrapped")
        self.limiter = limiter
        self._gate = Gate(limiter, name, _host, key, weight, max_concurrent, max_per_key, max_keys)
        self._inner = HTTPAdapter(**kwargs) if adapter is None else adapter

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        slot = self._gate.enter_blocking(request)
        try:
            response = self._inner.send(request, *args, **kwargs)
            if self._gate.holds and response.raw is not None:
                response.raw = HeldBody(response.raw, slot)
            else:
                slot.release()
        except BaseException:
            slot.release()
            raise
        return response

    def close(self) -> None:
        self._inner.close()


class RateLimitedRequestsSession(requests.Session):
    """A requests session in which each call of `request` takes a permit first.

    Arguments: limiter, and the name under which it is asked. Others are ignored, as pyrate-limiter does. A
    RateLimiterAdapter, mounted in any session, does more.
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
        finally:
            self._slot.release()

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        try:
            yield from self._raw.stream(*args, **kwargs)
        finally:
            self._slot.release()

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


def _host(request: requests.PreparedRequest) -> str:
    return urlsplit(request.url or "").hostname or ""
