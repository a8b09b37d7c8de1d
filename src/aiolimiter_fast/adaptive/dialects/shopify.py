"""Shopify: `32/40`, what a leaky bucket holds and how much it can; it leaks all the time, so that nothing resets."""

from __future__ import annotations

from collections.abc import Iterator

from aiolimiter_fast.adaptive import values
from aiolimiter_fast.adaptive.observation import Observation
from aiolimiter_fast.adaptive.response import Response, register

__all__ = ["shopify"]

NAMES = ("x-shopify-shop-api-call-limit", "http_x_shopify_shop_api_call_limit")


def shopify(response: Response) -> Iterator[Observation]:
    for name in NAMES:
        for text in response.texts(name):
            level, slash, capacity = text.partition("/")
            used, limit = values.count(level), values.count(capacity)
            if slash and used is not None and limit is not None:
                yield Observation(limit=limit, remaining=max(limit - used, 0.0), used=used, dialect="shopify")
                return


register("shopify", shopify)
