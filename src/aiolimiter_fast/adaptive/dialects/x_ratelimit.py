"""X-RateLimit-*, in the versions of GitHub, Discord, Reddit, and everybody else."""

from __future__ import annotations

from collections.abc import Iterator

from aiolimiter_fast.adaptive import values
from aiolimiter_fast.adaptive.dialects.ietf import Policy, policies
from aiolimiter_fast.adaptive.dialects.retry_after import pause
from aiolimiter_fast.adaptive.observation import Observation
from aiolimiter_fast.adaptive.response import Response, register

__all__ = ["discord", "github", "x_ratelimit"]

PREFIXES = ("x-ratelimit-", "x-rate-limit-", "x-rate-limit-request-")
# GitHub's documentation: without any other word, stay away for a minute.
SECONDARY = 60.0


def is_github(response: Response) -> bool:
    return "x-github-request-id" in response or "github" in response.text("server").lower()


def github(response: Response) -> Iterator[Observation]:
    """Primary limits: 403 or 429 with nothing left. Secondary: either, with a Retry-After or with something left."""
    if not is_github(response):
        return
    remaining = response.least("x-ratelimit-remaining")
    reset_after, reset_at = response.latest("x-ratelimit-reset")
    stay = None
    if response.status in (403, 429) and pause(response) is None:
        if remaining == 0 and reset_after is not None:
            stay = response.pause(reset_after)
        elif response.status == 429:
            stay = response.pause(SECONDARY)
    if remaining is not None or stay is not None:
        yield Observation(
            limit=response.least("x-ratelimit-limit"),
            remaining=remaining,
            used=response.least("x-ratelimit-used"),
            reset_after=reset_after,
            reset_at=reset_at,
            window=3600.0 if response.text("x-ratelimit-resource") == "core" else None,
            pause_for=stay,
            resource=response.text("x-ratelimit-resource"),
            dialect="github",
        )


def is_discord(response: Response) -> bool:
    return "x-ratelimit-bucket" in response or "x-ratelimit-global" in response or "x-ratelimit-scope" in response


def discord(response: Response) -> Iterator[Observation]:
    """A bucket for each group of routes. Reset-After is exact where Reset depends on clocks."""
    if not is_discord(response):
        return
    remaining = response.least("x-ratelimit-remaining")
    if remaining is None:
        return
    reset_after, _ = response.latest("x-ratelimit-reset-after")
    moment, reset_at = response.latest("x-ratelimit-reset")
    yield Observation(
        limit=response.least("x-ratelimit-limit"),
        remaining=remaining,
        reset_after=moment if reset_after is None else reset_after,
        reset_at=reset_at,
        resource=response.text("x-ratelimit-bucket"),
        dialect="discord",
    )


def x_ratelimit(response: Response) -> Iterator[Observation]:
    if is_github(response) or is_discord(response):
        return
    for prefix in PREFIXES:
        rows = list(_rows(response, prefix))
        if rows:
            yield from rows
            return


def _rows(response: Response, prefix: str) -> Iterator[Observation]:
    """One observation, or one for each column where a server lists several windows side by side."""
    if prefix + "remaining" not in response and prefix + "used" not in response:
        return
    remaining = values.whole_list(response.texts(prefix + "remaining"))
    limit = values.whole_list(response.texts(prefix + "limit"))
    reset = values.whole_list(response.texts(prefix + "reset"))
    used = response.least(prefix + "used")
    known = policies(response.texts(prefix + "policy")) or policies(response.texts(prefix + "limit"))
    if len(remaining) > 1 and len(remaining) == len(reset) == len(limit):
        for column, (left, most, until) in enumerate(zip(remaining, limit, reset, strict=True)):
            yield from _row(response, values.count(left), values.count(most), response.until(until), known, str(column))
        return
    name = prefix + "reset-after" if prefix + "reset-after" in response else prefix + "reset"
    yield from _row(
        response,
        response.least(prefix + "remaining"),
        response.least(prefix + "limit"),
        response.latest(name),
        known,
        "",
        used,
    )


def _row(
    response: Response,
    remaining: float | None,
    limit: float | None,
    until: tuple[float | None, float | None],
    known: dict[str, Policy],
    resource: str,
    used: float | None = None,
) -> Iterator[Observation]:
    if remaining is None:
        if limit is None or used is None:
            return
        remaining = max(limit - used, 0.0)
    elif limit is None and used is not None:
        limit = remaining + used  # Reddit
    window = next((policy.window for policy in known.values() if policy.limit == limit), None)
    yield Observation(
        limit=limit,
        remaining=remaining if limit is None else min(remaining, limit),
        used=used,
        reset_after=until[0],
        reset_at=until[1],
        window=window,
        resource=resource,
        dialect="reddit" if used is not None and "x-ratelimit-limit" not in response else "x-ratelimit",
    )


register("github", github)
register("discord", discord)
register("x-ratelimit", x_ratelimit)
