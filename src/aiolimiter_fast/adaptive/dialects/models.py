"""Language models: OpenAI and those who copy it, and Anthropic. Requests and tokens have quotas of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator

from aiolimiter_fast.adaptive.observation import Observation
from aiolimiter_fast.adaptive.response import Response, register

__all__ = ["anthropic", "openai"]

_OPENAI = re.compile(r"x-ratelimit-remaining-([a-z0-9_-]{1,60})")
_ANTHROPIC = re.compile(r"anthropic-(?:(?:priority|fast)-)?ratelimit-([a-z0-9_-]{1,60})-remaining")


def unit_of(resource: str) -> str:
    return "tokens" if "token" in resource else "requests"


def _seen(response: Response, names: tuple[str, str, str], resource: str, dialect: str) -> Iterator[Observation]:
    limit_name, remaining_name, reset_name = names
    limit = response.least(limit_name)
    remaining = response.least(remaining_name)
    if remaining is None:
        return
    reset_after, reset_at = response.latest(reset_name)
    yield Observation(
        limit=limit,
        remaining=remaining if limit is None else min(remaining, limit),
        reset_after=reset_after,
        reset_at=reset_at,
        resource=resource,
        unit=unit_of(resource),
        dialect=dialect,
    )


def openai(response: Response) -> Iterator[Observation]:
    for name in response.names:
        match = _OPENAI.fullmatch(name)
        if match:
            resource = match[1]
            names = (f"x-ratelimit-limit-{resource}", name, f"x-ratelimit-reset-{resource}")
            yield from _seen(response, names, resource, "openai")


def anthropic(response: Response) -> Iterator[Observation]:
    for name in response.names:
        match = _ANTHROPIC.fullmatch(name)
        if match:
            stem = name.removesuffix("-remaining")
            resource = stem.removeprefix("anthropic-").replace("ratelimit-", "")
            yield from _seen(response, (f"{stem}-limit", name, f"{stem}-reset"), resource, "anthropic")


register("openai", openai)
register("anthropic", anthropic)
