"""RateLimit and RateLimit-Policy: draft-ietf-httpapi-ratelimit-headers, the drafts from 08 on, 07, and before.

from 08     RateLimit: "default";r=50;t=30            RateLimit-Policy: "default";q=100;w=60
07          RateLimit: limit=100, remaining=50, reset=30        RateLimit-Policy: 100;w=60
up to 06    RateLimit-Limit: 100, 100;w=60      RateLimit-Remaining: 50      RateLimit-Reset: 30
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from aiolimiter_fast.adaptive import values
from aiolimiter_fast.adaptive.observation import Observation
from aiolimiter_fast.adaptive.response import MAX_RESET, Response, register

__all__ = ["Policy", "ietf", "policies", "triple"]

# A structured-field item with parameters, so far as these headers have any: a string, token or number; `;key=value`.
_BARE = r'"(?:[^"\\]|\\.){0,200}"|:[A-Za-z0-9+/=]{0,200}:|[^\s",;=]{1,200}'
_MEMBER = re.compile(
    rf"\s*({_BARE})(?:=({_BARE}))?((?:\s*;\s*[a-z*][a-z0-9_.*-]{{0,60}}(?:=(?:{_BARE}))?){{0,20}})\s*(?:,|$)"
)
_PARAMETER = re.compile(rf";\s*([a-z*][a-z0-9_.*-]{{0,60}})(?:=({_BARE}))?")
MEMBERS = 50


class Member(NamedTuple):
    name: str
    value: str | None
    parameters: dict[str, str]


class Policy(NamedTuple):
    limit: float | None
    window: float | None
    unit: str


def _unquote(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


def members(texts: list[str]) -> Iterator[Member]:
    """The members of a list or a dictionary; what follows a mistake is not looked at."""
    if not texts:
        return
    text = ", ".join(texts)
    position = 0
    for _ in range(MEMBERS):
        match = _MEMBER.match(text, position)
        if match is None or match.end() == position:
            return
        position = match.end()
        parameters = {key: _unquote(value or "") for key, value in _PARAMETER.findall(match[3])}
        yield Member(_unquote(match[1]), match[2] and _unquote(match[2]), parameters)


def policies(texts: list[str]) -> dict[str, Policy]:
    """The quotas of a RateLimit-Policy by name; before draft 08 a policy's name is its limit."""
    found: dict[str, Policy] = {}
    for name, _, parameters in members(texts):
        limit = values.count(parameters.get("q", name))
        window = values.number(parameters.get("w", parameters.get("window", "")))
        if window is not None and not 0 < window <= MAX_RESET:
            window = None
        if limit is not None and (name not in found or found[name].window is None):
            found[name] = Policy(limit, window, parameters.get("qu", "requests"))
    return found


def _only(known: dict[str, Policy], limit: float | None) -> Policy:
    """The policy that a limit without a name belongs to."""
    if limit is None:
        return next(iter(known.values())) if len(known) == 1 else Policy(None, None, "requests")
    for policy in known.values():
        if policy.limit == limit:
            return policy
    return Policy(limit, None, "requests")


def ietf(response: Response) -> Iterator[Observation]:
    known = policies(response.texts("ratelimit-policy"))
    fields = list(members(response.texts("ratelimit")))
    dictionary = {name.lower(): value for name, value, _ in fields if value is not None}
    if dictionary:  # draft 07
        limit, remaining = (values.count(dictionary.get(name) or "") for name in ("limit", "remaining"))
        reset_after, reset_at = response.until(dictionary.get("reset") or "")
        if remaining is not None:
            policy = _only(known, limit)
            yield _observation(policy, remaining, reset_after, reset_at, "", "ietf-07")
        return
    for name, _, parameters in fields:
        remaining = values.count(parameters.get("r", ""))
        if remaining is None:
            continue
        reset_after, reset_at = response.until(parameters.get("t", ""))
        unnamed = Policy(values.count(parameters.get("l", parameters.get("q", ""))), None, "requests")
        yield _observation(known.get(name, unnamed), remaining, reset_after, reset_at, name, "ietf")


def triple(response: Response) -> Iterator[Observation]:
    limit = response.least("ratelimit-limit")
    remaining = response.least("ratelimit-remaining")
    if remaining is None:
        return
    known = policies(response.texts("ratelimit-policy")) or policies(response.texts("ratelimit-limit"))
    if (
        limit is not None
        and (first := values.count(values.whole_list(response.texts("ratelimit-limit"))[0])) is not None
    ):
        limit = first  # what follows are policies
    reset_after, reset_at = response.latest("ratelimit-reset")
    yield _observation(_only(known, limit), remaining, reset_after, reset_at, "", "ratelimit-triple")


def _observation(
    policy: Policy, remaining: float, reset_after: float | None, reset_at: float | None, name: str, dialect: str
) -> Observation:
    return Observation(
        limit=policy.limit,
        remaining=remaining if policy.limit is None else min(remaining, policy.limit),
        reset_after=reset_after,
        reset_at=reset_at,
        window=policy.window,
        resource=name,
        unit=policy.unit,
        dialect=dialect,
    )


register("ietf", ietf)
register("ratelimit-triple", triple)
