"""httpx transports that obey a limiter, or a whole stack of them."""

from __future__ import annotations

import httpx

from aiolimiter_fast.extras import _transports as _parts

__all__ = ["AsyncRateLimiterTransport", "AsyncThrottledTransport", "RateLimiterTransport", "ThrottledTransport"]


class HeldStream(_parts.HeldStream, httpx.SyncByteStream):
    """A body whose slot is given back when it is read or closed."""


class AsyncHeldStream(_parts.AsyncHeldStream, httpx.AsyncByteStream):
    """A body whose slot is given back when it is read or closed."""


class RateLimiterTransport(_parts.RateLimited, httpx.HTTPTransport):
    """Send each request once the limiter lets it go.

    Arguments:
        limiter: a Limiter, an AsyncLimiter, or a function that makes one for a key.
        transport: what sends the requests; None makes an httpx.HTTPTransport of the other keyword arguments. httpx
            drops a client's `limits=`, `http2=`, `verify=`, ... where it is given a transport: give them here.
        key: "host", or a function of the request, that says which limiter it belongs to; None: one for all.
        weight: permits for each request, a number or a function of the request.
        max_concurrent: how many requests are under way at once, until their response is read or closed.
        max_per_key: how many of one key.
        max_keys: for how many idle keys limiters are kept.

    Without key, weight and bounds the limiter is asked under this module's name, as pyrate-limiter does.

    Raises ValueError or TypeError for what makes no sense.

    Example:
        import httpx
        from aiolimiter_fast import Limiter, Rate
        from aiolimiter_fast.extras.httpx_limiter import RateLimiterTransport

        network = httpx.MockTransport(lambda request: httpx.Response(200))
        with httpx.Client(transport=RateLimiterTransport(Limiter(Rate(5, 1000)), transport=network)) as client:
            assert client.get("http://example.org").status_code == 200
    """

    _library, _module, _held = httpx, __name__, HeldStream


class AsyncRateLimiterTransport(_parts.AsyncRateLimited, httpx.AsyncHTTPTransport):
    """Send each request once the limiter lets it go; the arguments are those of RateLimiterTransport.

    Example:
        import asyncio
        import httpx
        from aiolimiter_fast import AsyncLimiter
        from aiolimiter_fast.extras.httpx_limiter import AsyncRateLimiterTransport

        async def main():
            network = httpx.MockTransport(lambda request: httpx.Response(200))
            transport = AsyncRateLimiterTransport(lambda host: AsyncLimiter(5), transport=network, key="host")
            async with httpx.AsyncClient(transport=transport) as client:
                assert (await client.get("http://example.org")).status_code == 200

        asyncio.run(main())
    """

    _library, _module, _held = httpx, __name__, AsyncHeldStream


class ThrottledTransport(_parts.Throttled, httpx.HTTPTransport):
    """Send each request through a circuit breaker, retries, a limiter that learns, and bounds of concurrency.

    Arguments, each of which can be left out:
        limiter: a Limiter, an AsyncLimiter, or a function that makes one for a key; None: no rate of our own.
        transport: what sends the requests; None makes an httpx.HTTPTransport of the other keyword arguments. httpx
            drops a client's `limits=`, `http2=`, `verify=`, ... where it is given a transport: give them here.
        key: "host", or a function of the request, that says which limiter, bound and circuit it belongs to; None: one
            for all, but for the circuits, which are by host.
        weight: permits for each request, a number or a function of the request.
        max_concurrent: how many requests are under way at once, until their response is read or closed.
        max_per_key: how many of one key.
        max_keys: for how many idle keys limiters are kept.
        adaptive: True learns what the servers allow, each key's limiter as the ceiling; an AdaptiveLimiter, for all
            keys; or a function that makes one of a ceiling.
        retry: True; the arguments of `resilience.retry_options` as a dict; or tenacity's Retrying. Needs tenacity.
        breaker: True; a CircuitBreaker; or what `resilience.as_breaker` takes.

    Each attempt takes a permit of its own, and none is held while it waits for the next. A request whose body cannot be
    sent twice is not tried again. An open breaker raises `resilience.CircuitOpen`.

    Raises ValueError or TypeError for what makes no sense, ImportError for `retry` without tenacity.

    Example:
        import httpx
        from aiolimiter_fast import AsyncLimiter
        from aiolimiter_fast.extras.httpx_limiter import ThrottledTransport

        network = httpx.MockTransport(lambda request: httpx.Response(200, headers={"RateLimit": '"default";r=9;t=1'}))
        transport = ThrottledTransport(
            limiter=lambda host: AsyncLimiter(50, 1), max_concurrent=10, adaptive=True, breaker=True, transport=network
        )
        with httpx.Client(transport=transport) as client:
            assert client.get("http://example.org").status_code == 200
        assert transport.adaptive("example.org").remaining == 9
        assert transport.breaker.state("example.org") == "closed"
    """

    _library, _module, _held = httpx, __name__, HeldStream


class AsyncThrottledTransport(_parts.AsyncThrottled, httpx.AsyncHTTPTransport):
    """ThrottledTransport for tasks; the arguments are its, with tenacity's AsyncRetrying for `retry`.

    Example:
        import asyncio
        import httpx
        from aiolimiter_fast.extras.httpx_limiter import AsyncThrottledTransport

        async def main():
            network = httpx.MockTransport(lambda request: httpx.Response(200))
            transport = AsyncThrottledTransport(max_concurrent=10, adaptive=True, breaker=True, transport=network)
            async with httpx.AsyncClient(transport=transport) as client:
                assert (await client.get("http://example.org")).status_code == 200
            assert transport.adaptive("example.org").in_flight == 0

        asyncio.run(main())
    """

    _library, _module, _held = httpx, __name__, AsyncHeldStream
