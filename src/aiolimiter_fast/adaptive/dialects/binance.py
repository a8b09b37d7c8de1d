"""Binance: what is used, in windows named 1M or 10S, and no limit. 429 asks to stop; 418 is a ban."""

from __future__ import annotations

import re
from collections.abc import Iterator

from aiolimiter_fast.adaptive.observation import Observation
from aiolimiter_fast.adaptive.response import MAX_RESET, Response, register

__all__ = ["binance"]

_NAME = re.compile(r"x-(?:mbx|sapi)-(used-(?:ip-|uid-)?weight|order-count)-([0-9]{1,5})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def binance(response: Response) -> Iterator[Observation]:
    for name in response.names:
        match = _NAME.fullmatch(name)
        used = response.least(name) if match else None
        if match is None or used is None:
            continue
        window = int(match[2]) * _SECONDS[match[3]]
        if not 0 < window <= MAX_RESET:
            continue
        yield Observation(
            used=used,
            # Windows start at whole multiples of their length.
            reset_after=window - response.now % window,
            window=float(window),
            resource=f"{match[1]}-{match[2]}{match[3]}",
            unit="orders" if match[1] == "order-count" else "weight",
            dialect="binance",
        )


register("binance", binance)
