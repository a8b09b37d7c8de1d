"""Whatever a server sends: no exception, and every number within its bounds."""

from __future__ import annotations

from math import isfinite
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from test_headers import EXAMPLES, NOW

from aiolimiter_fast.adaptive import parse
from aiolimiter_fast.adaptive.response import MAX_RESET

STATUSES = st.sampled_from([0, 200, 301, 403, 418, 429, 500, 503, -1, 10**9])
NAMES = sorted({name for headers, _, _ in EXAMPLES.values() for name in headers} | {"Date", "Age"})
VALUES = sorted({value for headers, _, _ in EXAMPLES.values() for value in headers.values()})
PIECES = st.sampled_from(
    ["-", "+", ".", ",", ";", "=", '"', "\\", " ", "e308", "NaN", "inf", "0", "9" * 25, "9" * 10_000, "1e9", "ms", "h",
     "GMT", "Z", "-99:99", "T", ":", "/", "\x00", "\n", "é", "٣", "²", "w=", "q=", "r=", "t=", "9999", "0000", "1969"]
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A real value in which something was cut, inserted, doubled or replaced."""
    text: str = draw(st.sampled_from(VALUES))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, len(text)))
        text = (
            text[:start] + draw(st.sampled_from(["", text[start:end] * 2]) | PIECES | st.text(max_size=3)) + text[end:]
        )
    return text


VALUE = mutated() | st.text(max_size=60) | st.sampled_from(VALUES) | st.binary(max_size=40)
PAIRS = st.lists(st.tuples(st.sampled_from(NAMES) | st.text(max_size=30), VALUE), max_size=12)


def check(headers: Any, status: int, now: float) -> None:
    for seen in parse(headers, status, now):
        for name in ("limit", "remaining", "used", "reset_after", "reset_at", "window", "pause_for"):
            value = getattr(seen, name)
            assert value is None or (isfinite(value) and value >= 0), (name, value)
        assert seen.pause_for is None or seen.pause_for <= 300
        assert seen.reset_after is None or seen.reset_after <= MAX_RESET
        assert seen.window is None or seen.window > 0
        if seen.limit is not None and seen.remaining is not None:
            assert seen.remaining <= seen.limit or seen.dialect in ("github", "discord")


@settings(max_examples=400)
@given(headers=PAIRS, status=STATUSES, now=st.floats(0, 1e11) | st.just(NOW))
def test_whatever_is_sent_is_read_within_bounds(headers: Any, status: int, now: float) -> None:
    check(headers, status, now)


@settings(max_examples=300)
@given(example=st.sampled_from(sorted(EXAMPLES)), data=st.data(), status=STATUSES)
def test_real_headers_with_one_value_spoilt(example: str, data: st.DataObject, status: int) -> None:
    headers = dict(EXAMPLES[example][0])
    name = data.draw(st.sampled_from(sorted(headers)))
    headers[name] = data.draw(VALUE)
    check(headers, status, NOW)


def test_long_headers_are_not_read_to_their_end() -> None:
    endless = "1" * 10_000_000
    for name in NAMES:
        for value in (endless, '"' + endless, "1;" * 1_000_000, "1," * 1_000_000, " " * 1_000_000, "1h" * 1_000_000):
            check({name: value}, 429, NOW)
