"""What each dialect says, by example: headers as the services send or document them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from aiolimiter_fast import Observation
from aiolimiter_fast.adaptive import MAX_PAUSE, Response, parse, register, unregister

# 2026-11-24 12:00:00 UTC, and the Date of a response at that second.
NOW = 1795521600.0
DATE = {"Date": "Tue, 24 Nov 2026 12:00:00 GMT"}

EXAMPLES: dict[str, tuple[dict[str, Any], int, list[dict[str, Any]]]] = {
    "IETF draft 10, two policies": (
        {
            "RateLimit-Policy": '"burst";q=100;w=60, "daily";q=1000;w=86400;pk=:cGsyMTI=:',
            "RateLimit": '"burst";r=50;t=30, "daily";r=900;t=3600',
        },
        200,
        [
            {"limit": 100, "remaining": 50, "reset_after": 30, "window": 60, "resource": "burst", "dialect": "ietf"},
            {"limit": 1000, "remaining": 900, "reset_after": 3600, "window": 86400, "resource": "daily",
             "dialect": "ietf"},
        ],
    ),
    "IETF draft 10, bytes": (
        {"RateLimit-Policy": '"peruser";q=65535;qu="content-bytes";w=10', "RateLimit": '"peruser";r=20000;t=4'},
        200,
        [
            {
                "limit": 65535, "remaining": 20000, "reset_after": 4, "window": 10, "resource": "peruser",
                "unit": "content-bytes", "dialect": "ietf",
            }
        ],
    ),
    "IETF draft 08, tokens": (
        {"RateLimit-Policy": "default;q=100;w=10", "RateLimit": "default;r=50;t=30"},
        200,
        [{"limit": 100, "remaining": 50, "reset_after": 30, "window": 10, "resource": "default", "dialect": "ietf"}],
    ),
    "IETF draft 07, a dictionary": (
        {"RateLimit-Policy": "100;w=60, 1000;w=3600", "RateLimit": "limit=100, remaining=50, reset=30"},
        200,
        [{"limit": 100, "remaining": 50, "reset_after": 30, "window": 60, "dialect": "ietf-07"}],
    ),
    "IETF draft 06, three headers and a policy": (
        {"RateLimit-Limit": "10", "RateLimit-Remaining": "1", "RateLimit-Reset": "7", "RateLimit-Policy": "10;w=60"},
        200,
        [{"limit": 10, "remaining": 1, "reset_after": 7, "window": 60, "dialect": "ratelimit-triple"}],
    ),
    "IETF draft 00, policies within the limit": (
        {"RateLimit-Limit": "100, 100;window=60, 10;window=1", "RateLimit-Remaining": "9", "RateLimit-Reset": "50"},
        200,
        [{"limit": 100, "remaining": 9, "reset_after": 50, "window": 60, "dialect": "ratelimit-triple"}],
    ),
    "GitLab, RateLimit-Reset as Unix time": (
        {"RateLimit-Limit": "60", "RateLimit-Remaining": "0", "RateLimit-Reset": "1795521660", "Retry-After": "60"},
        429,
        [
            {"pause_for": 60, "dialect": "retry-after"},
            {"limit": 60, "remaining": 0, "reset_after": 60, "reset_at": NOW + 60, "dialect": "ratelimit-triple"},
        ],
    ),
    "X-RateLimit, seconds": (
        {"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "7", "X-RateLimit-Reset": "30"},
        200,
        [{"limit": 100, "remaining": 7, "reset_after": 30, "dialect": "x-ratelimit"}],
    ),
    "X-RateLimit, Unix time": (
        {"x-ratelimit-limit": "900", "x-ratelimit-remaining": "899", "x-ratelimit-reset": "1795521900"},
        200,
        [{"limit": 900, "remaining": 899, "reset_after": 300, "reset_at": NOW + 300, "dialect": "x-ratelimit"}],
    ),
    "X-Rate-Limit of Twitter": (
        {"x-rate-limit-limit": "900", "x-rate-limit-remaining": "899", "x-rate-limit-reset": "1795521900"},
        200,
        [{"limit": 900, "remaining": 899, "reset_after": 300, "reset_at": NOW + 300, "dialect": "x-ratelimit"}],
    ),
    "X-RateLimit, Unix time in milliseconds": (
        {"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "99", "X-RateLimit-Reset": "1795521612500"},
        200,
        [{"limit": 100, "remaining": 99, "reset_after": 12.5, "reset_at": NOW + 12.5, "dialect": "x-ratelimit"}],
    ),
    "X-RateLimit, ISO 8601": (
        {"X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "2026-11-24T13:00:10.500+01:00"},
        200,
        [{"limit": 5, "remaining": 0, "reset_after": 10.5, "reset_at": NOW + 10.5, "dialect": "x-ratelimit"}],
    ),
    "X-RateLimit, an HTTP date": (
        {"X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "Tue, 24 Nov 2026 12:01:00 GMT"},
        200,
        [{"limit": 5, "remaining": 0, "reset_after": 60, "reset_at": NOW + 60, "dialect": "x-ratelimit"}],
    ),
    "Brave, two windows side by side": (
        {
            "X-RateLimit-Limit": "1, 15000", "X-RateLimit-Policy": "1;w=1, 15000;w=2592000",
            "X-RateLimit-Remaining": "0, 14523", "X-RateLimit-Reset": "1, 1419704",
        },
        200,
        [
            {"limit": 1, "remaining": 0, "reset_after": 1, "window": 1, "resource": "0", "dialect": "x-ratelimit"},
            {
                "limit": 15000, "remaining": 14523, "reset_after": 1419704, "window": 2592000, "resource": "1",
                "dialect": "x-ratelimit",
            },
        ],
    ),
    "GitHub": (
        {
            "X-GitHub-Request-Id": "C0FF:EE", "X-RateLimit-Limit": "5000", "X-RateLimit-Remaining": "4999",
            "X-RateLimit-Used": "1", "X-RateLimit-Reset": "1795525200", "X-RateLimit-Resource": "core",
        },
        200,
        [
            {
                "limit": 5000, "remaining": 4999, "used": 1, "reset_after": 3600, "reset_at": NOW + 3600,
                "window": 3600, "resource": "core", "dialect": "github",
            }
        ],
    ),
    "GitHub, primary limit reached": (
        {
            "Server": "GitHub.com", "X-RateLimit-Limit": "30", "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": "1795521640", "X-RateLimit-Resource": "search",
        },
        403,
        [
            {
                "limit": 30, "remaining": 0, "reset_after": 40, "reset_at": NOW + 40, "pause_for": 40,
                "resource": "search", "dialect": "github",
            }
        ],
    ),
    "GitHub, secondary limit with Retry-After": (
        {"Server": "github.com", "Retry-After": "17", "X-RateLimit-Remaining": "4000", "X-RateLimit-Limit": "5000"},
        403,
        [
            {"pause_for": 17, "dialect": "retry-after"},
            {"limit": 5000, "remaining": 4000, "dialect": "github"},
        ],
    ),
    "GitHub, secondary limit without a word": (
        {"Server": "github.com", "X-GitHub-Request-Id": "1"}, 429, [{"pause_for": 60, "dialect": "github"}],
    ),
    "GitHub, a plain 403 is no limit": (
        {"Server": "github.com", "X-RateLimit-Remaining": "4000", "X-RateLimit-Limit": "5000"}, 403,
        [{"limit": 5000, "remaining": 4000, "dialect": "github"}],
    ),
    "Discord": (
        {
            "X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1795521601.470",
            "X-RateLimit-Reset-After": "1.250", "X-RateLimit-Bucket": "abcd1234",
        },
        200,
        [
            {
                "limit": 5, "remaining": 0, "reset_after": 1.25, "reset_at": NOW + 1.47, "resource": "abcd1234",
                "dialect": "discord",
            }
        ],
    ),
    "Discord, global": (
        {"Retry-After": "65", "X-RateLimit-Global": "true", "X-RateLimit-Scope": "global"}, 429,
        [{"pause_for": 65, "dialect": "retry-after"}],
    ),
    "Reddit": (
        {"x-ratelimit-remaining": "594.0", "x-ratelimit-used": "6", "x-ratelimit-reset": "217"}, 200,
        [{"limit": 600, "remaining": 594, "used": 6, "reset_after": 217, "dialect": "reddit"}],
    ),
    "OpenAI": (
        {
            "x-ratelimit-limit-requests": "5000", "x-ratelimit-remaining-requests": "4999",
            "x-ratelimit-reset-requests": "20ms", "x-ratelimit-limit-tokens": "160000",
            "x-ratelimit-remaining-tokens": "159976", "x-ratelimit-reset-tokens": "6m0s",
        },
        200,
        [
            {"limit": 5000, "remaining": 4999, "reset_after": 0.02, "resource": "requests", "dialect": "openai"},
            {
                "limit": 160000, "remaining": 159976, "reset_after": 360, "resource": "tokens", "unit": "tokens",
                "dialect": "openai",
            },
        ],
    ),
    "OpenAI, refused, in milliseconds": (
        {"retry-after-ms": "250", "retry-after": "1"}, 429, [{"pause_for": 0.25, "dialect": "retry-after"}],
    ),
    "Anthropic": (
        {
            "anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-requests-reset": "2026-11-24T12:00:02Z",
            "anthropic-ratelimit-input-tokens-limit": "30000", "anthropic-ratelimit-input-tokens-remaining": "29000",
            "anthropic-ratelimit-input-tokens-reset": "2026-11-24T12:00:02Z",
            "anthropic-priority-ratelimit-output-tokens-limit": "8000",
            "anthropic-priority-ratelimit-output-tokens-remaining": "8000",
            "anthropic-priority-ratelimit-output-tokens-reset": "2026-11-24T12:00:00Z",
        },
        200,
        [
            {
                "limit": 50, "remaining": 49, "reset_after": 2, "reset_at": NOW + 2, "resource": "requests",
                "dialect": "anthropic",
            },
            {
                "limit": 30000, "remaining": 29000, "reset_after": 2, "reset_at": NOW + 2, "resource": "input-tokens",
                "unit": "tokens", "dialect": "anthropic",
            },
            {
                "limit": 8000, "remaining": 8000, "reset_after": 0, "reset_at": NOW,
                "resource": "priority-output-tokens", "unit": "tokens", "dialect": "anthropic",
            },
        ],
    ),
    "Binance": (
        {"X-MBX-USED-WEIGHT": "12", "X-MBX-USED-WEIGHT-1M": "12", "X-MBX-ORDER-COUNT-10S": "1"}, 200,
        [
            {"used": 12, "reset_after": 60, "window": 60, "resource": "used-weight-1m", "unit": "weight",
             "dialect": "binance"},
            {"used": 1, "reset_after": 10, "window": 10, "resource": "order-count-10s", "unit": "orders",
             "dialect": "binance"},
        ],
    ),
    "Binance, banned": ({"Retry-After": "120"}, 418, [{"pause_for": 120, "dialect": "retry-after"}]),
    "Shopify": (
        {"X-Shopify-Shop-Api-Call-Limit": "32/40"}, 200,
        [{"limit": 40, "remaining": 8, "used": 32, "dialect": "shopify"}],
    ),
    "Retry-After, a date": (
        {"Retry-After": "Tue, 24 Nov 2026 12:01:30 GMT"}, 503, [{"pause_for": 90, "dialect": "retry-after"}],
    ),
    "Retry-After, the date of RFC 850": (
        {"Retry-After": "Tuesday, 24-Nov-26 12:01:30 GMT"}, 503, [{"pause_for": 90, "dialect": "retry-after"}],
    ),
    "Retry-After, Unix time": ({"Retry-After": "1795521630"}, 429, [{"pause_for": 30, "dialect": "retry-after"}]),
    "Retry-After on a redirect": ({"Retry-After": "30"}, 301, []),
    "Retry-After beyond belief": (
        {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 503, [{"pause_for": MAX_PAUSE, "dialect": "retry-after"}],
    ),
    "Retry-After of a day": ({"Retry-After": "86400"}, 503, [{"pause_for": MAX_PAUSE, "dialect": "retry-after"}]),
    "nothing": ({"Content-Type": "text/plain"}, 200, []),
}  # fmt: skip


@pytest.mark.parametrize(("headers", "status", "expected"), EXAMPLES.values(), ids=EXAMPLES)
@pytest.mark.parametrize("shape", ["mapping", "pairs of bytes", "upper case", "lists"])
def test_headers_as_servers_send_them(
    headers: dict[str, str], status: int, expected: list[dict[str, Any]], shape: str
) -> None:
    given: Any = {
        "mapping": headers,
        "pairs of bytes": [(name.encode(), value.encode()) for name, value in headers.items()],
        "upper case": {name.upper(): value for name, value in headers.items()},
        "lists": {name: [value] for name, value in headers.items()},
    }[shape]
    seen = parse(given, status, NOW)
    wanted = [Observation(**each) for each in expected]
    assert sorted(map(_rounded, seen)) == sorted(map(_rounded, wanted))


def _rounded(observation: Observation) -> str:
    return repr(
        {
            name: round(float(value), 3) if isinstance(value, (int, float)) else value
            for name, value in vars(observation).items()
        }
    )


@pytest.mark.parametrize("error", [-86400 * 365, -90, -1.5, 0.4, 1.5, 90, 86400 * 365])
def test_a_wrong_local_clock_does_no_harm_where_the_response_is_dated(error: float) -> None:
    headers = DATE | {"Retry-After": "Tue, 24 Nov 2026 12:00:30 GMT", "X-RateLimit-Remaining": "0"}
    headers |= {"X-RateLimit-Reset": "1795521630"}
    paused, quota = parse(headers, 429, NOW + error)
    if paused.pause_for is None:
        paused, quota = quota, paused
    assert paused.pause_for is not None
    assert quota.reset_after is not None
    assert 28 < paused.pause_for <= 30
    assert 28 < quota.reset_after <= 30


@pytest.mark.parametrize(
    "headers",
    [
        {"X-RateLimit-Remaining": "-1"},
        {"X-RateLimit-Remaining": "NaN", "X-RateLimit-Limit": "inf"},
        {"X-RateLimit-Remaining": "1e308"},
        {"X-RateLimit-Remaining": "9" * 10_000},
        {"X-RateLimit-Remaining": "٣"},
        {"X-RateLimit-Remaining": "0x10"},
        {"X-RateLimit-Remaining": "1_000"},
        {"RateLimit": '"default";r=-5;t=1'},
        {"RateLimit": '"' + "a" * 10_000},
        {"RateLimit": ";" * 10_000},
        {"RateLimit-Policy": ",".join(['"a";q=1'] * 1000)},
        {"X-Shopify-Shop-Api-Call-Limit": "32/"},
        {"X-Shopify-Shop-Api-Call-Limit": "/"},
        {"X-MBX-USED-WEIGHT-0M": "x", "X-MBX-USED-WEIGHT-99999999M": "1"},
        {"anthropic-ratelimit-requests-remaining": ""},
        {"Retry-After": "-5"},
        {"Retry-After": "soon"},
        {"Retry-After": "NaN"},
        {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"Retry-After": "Fri, 31 Feb 2026 25:61:61 GMT"},
        {"Retry-After": "0000-00-00T00:00:00Z"},
        {"Retry-After": "1700000000"},
    ],
)
def test_nonsense_is_not_there(headers: dict[str, str]) -> None:
    assert parse(headers, 429, NOW) == ()


@pytest.mark.parametrize(
    ("reset", "expected"),
    [("1795521570", 0.0), ("1795520000", None), ("2026-11-24T11:59:59Z", 0.0), ("9999-12-31T23:59:59Z", None),
     ("99999999999999999999", None), ("9999999999999999999", None), ("9" * 10_000, None), ("-1", None), ("1e3", None),
     ("6m0", None), ("6m0s" * 100, None), ("", None), ("0", 0.0)],
)  # fmt: skip
def test_a_reset_that_makes_no_sense_leaves_the_count(reset: str, expected: float | None) -> None:
    (seen,) = parse({"X-RateLimit-Remaining": "3", "X-RateLimit-Reset": reset}, 200, NOW)
    assert (seen.remaining, seen.reset_after) == (3, expected)


def test_of_a_repeated_header_the_careful_reading_counts() -> None:
    pairs = [("X-RateLimit-Remaining", "9"), ("X-RateLimit-Remaining", "4"), ("X-RateLimit-Reset", "5"),
             ("X-RateLimit-Reset", "60"), ("X-RateLimit-Limit", "10")]  # fmt: skip
    (seen,) = parse(pairs, 200, NOW)
    assert (seen.remaining, seen.reset_after, seen.limit) == (4, 60, 10)
    (seen,) = parse([("Retry-After", "3"), ("Retry-After", "7"), ("Retry-After", "x")], 503, NOW)
    assert seen.pause_for == 7


def test_more_left_than_the_limit_is_the_limit() -> None:
    (seen,) = parse({"X-RateLimit-Remaining": "100", "X-RateLimit-Limit": "10"}, 200, NOW)
    assert seen.remaining == 10


def test_a_response_out_of_a_cache_says_nothing_of_the_quota_as_it_is() -> None:
    headers = {"X-RateLimit-Remaining": "100", "Age": "7"}
    assert parse(headers, 200, NOW) == ()
    (seen,) = parse(headers | {"Retry-After": "3"}, 503, NOW)
    assert seen.pause_for == 3


def test_max_pause_is_the_callers() -> None:
    (seen,) = parse({"Retry-After": "3600"}, 503, NOW, max_pause=1000)
    assert seen.pause_for == 1000


@pytest.fixture
def in_my_dialect() -> Iterator[str]:
    def dialect(response: Response) -> Iterator[Observation]:
        left = response.least("my-quota-left")
        if left is not None:
            seconds, _ = response.until(response.text("my-quota-back"))
            yield Observation(remaining=left, reset_after=seconds, dialect="mine")

    register("mine", dialect)
    yield "mine"
    unregister("mine")
    unregister("mine")


def test_users_add_dialects(in_my_dialect: str) -> None:
    (seen,) = parse({"My-Quota-Left": "3", "My-Quota-Back": "2m"}, 200, NOW)
    assert (seen.remaining, seen.reset_after, seen.dialect) == (3, 120, in_my_dialect)
    unregister(in_my_dialect)
    assert parse({"My-Quota-Left": "3"}, 200, NOW) == ()


def test_a_dialect_that_fails_is_passed_over_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken(response: Response) -> list[Observation]:
        return [Observation(remaining=float(response.text("left")))]

    register("broken", broken)
    try:
        with caplog.at_level(logging.WARNING, "aiolimiter_fast.adaptive"):
            seen = parse({"left": "nan", "Retry-After": "1"}, 503, NOW)
    finally:
        unregister("broken")
    assert [each.pause_for for each in seen] == [1]
    assert "broken" in caplog.text


@pytest.mark.parametrize(
    ("field", "value"), [("limit", -1), ("remaining", float("nan")), ("reset_after", float("inf")), ("used", 10**400)]
)
def test_an_observation_holds_only_sensible_numbers(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        Observation(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["3", True, [1]])
def test_an_observation_holds_only_numbers(value: Any) -> None:
    with pytest.raises(TypeError, match="remaining"):
        Observation(remaining=value)


def test_bad_arguments_are_named() -> None:
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="max_pause"):
            parse({}, 200, NOW, max_pause=wrong)
    with pytest.raises(ValueError, match="now"):
        parse({}, 200, float("nan"))
    with pytest.raises(TypeError, match="dialect"):
        register("x", 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name"):
        register(3, list)  # type: ignore[arg-type]
