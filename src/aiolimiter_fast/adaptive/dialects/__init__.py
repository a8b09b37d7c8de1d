"""The dialects, one file for each family."""

from aiolimiter_fast.adaptive.dialects import binance, ietf, models, retry_after, shopify, x_ratelimit

__all__ = ["binance", "ietf", "models", "retry_after", "shopify", "x_ratelimit"]
