"""What makes no sense is refused by name, and changes nothing: one table, also under `python -O`."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import subprocess
import sys
from typing import Any

import pytest

from aiolimiter_fast.testing import ManualClock

NO_NUMBERS = [None, "1", b"1", True, [], object(), 1j]
NEVER_GOOD = [math.nan, math.inf, -math.inf, -1, -0.5, 10**400]
TOO_LARGE = 10.5

# Argument -> values that are of the wrong type, and values that are out of bounds.
CONSTRUCTOR = {
    "max_rate": (NO_NUMBERS, [*NEVER_GOOD, 0, 1e13]),
    "time_period": (NO_NUMBERS, [*NEVER_GOOD, 0, 1e-10, 1e10]),
    "burst": ([value for value in NO_NUMBERS if value is not None], [*NEVER_GOOD, 0, 1e13]),
}
AMOUNT = (NO_NUMBERS, [*NEVER_GOOD, TOO_LARGE])
TIMEOUT = ([value for value in NO_NUMBERS if value is not None], NEVER_GOOD)
SETTERS = ("max_rate", "time_period", "burst")


def cases(table: tuple[list[Any], list[Any]]) -> list[tuple[type[Exception], Any]]:
    return [*((TypeError, value) for value in table[0]), *((ValueError, value) for value in table[1])]


def table() -> list[tuple[str, type[Exception], Any]]:
    rows = [(f"new {name}", error, value) for name, values in CONSTRUCTOR.items() for error, value in cases(values)]
    rows += [(f"set {name}", error, value) for name in SETTERS for error, value in cases(CONSTRUCTOR[name])]
    for call in ("acquire", "try_acquire", "wait_time", "decorated", "has_capacity"):
        rows += [(call, error, value) for error, value in cases(AMOUNT)]
    rows.remove(("has_capacity", ValueError, TOO_LARGE))  # False, as in aiolimiter
    rows += [("timeout", error, value) for error, value in cases(TIMEOUT)]
    rows += [("fair", TypeError, value) for value in (None, 0, 1, "yes")]
    rows += [("timeout and no block", ValueError, value) for value in (0, 1.5)]
    return rows


async def attempt(AsyncLimiter: Any, limiter: Any, what: str, value: Any) -> None:
    verb, _, name = what.partition(" ")
    if verb == "new":
        AsyncLimiter(**({"max_rate": 10, "time_period": 1} | {name: value}))
    elif verb == "set":
        setattr(limiter, name, value)
    elif what == "fair":
        AsyncLimiter(10, 1, fair=value)
    elif what == "acquire":
        await limiter.acquire(value)
    elif what == "decorated":

        @limiter(amount=value)  # type: ignore[untyped-decorator]
        async def call() -> None: ...

        await call()
    elif what == "timeout":
        await limiter.acquire(timeout=value)
    elif what == "timeout and no block":
        await limiter.acquire(timeout=value, block=False)
    else:
        getattr(limiter, what)(value)


def named(what: str, value: Any) -> str:
    """What the message must hold: the argument, and the value."""
    name = what.split()[-1] if what.startswith(("new", "set")) else {"fair": "fair"}.get(what, "amount")
    if what.startswith("timeout"):
        name = "timeout"
    return f"(?s){re.escape(name)}.*{re.escape(repr(value))}"


async def check(AsyncLimiter: Any, what: str, error: type[Exception], value: Any) -> None:
    with ManualClock().installed() as clock:
        limiter = AsyncLimiter(10, 1)
        await limiter.acquire(2.5)
        before = repr(limiter)
        try:
            await attempt(AsyncLimiter, limiter, what, value)
        except error as refusal:
            if not re.search(named(what, value), str(refusal)):
                raise RuntimeError(f"{what}, {value!r}: {refusal}") from refusal
        else:
            raise RuntimeError(f"{what} took {value!r}")
        if repr(limiter) != before or not limiter.try_acquire(7.5) or limiter.try_acquire(0.25):
            raise RuntimeError(f"{what}, {value!r} changed {before} to {limiter!r}")
        clock.advance(0.1)
        if limiter.wait_time(2) != 0.1:
            raise RuntimeError(f"{what}, {value!r} changed the rate of {before} to that of {limiter!r}")


@pytest.mark.parametrize(("what", "error", "value"), table())
async def test_is_refused_by_name_and_changes_nothing(
    AsyncLimiter: Any, what: str, error: type[Exception], value: Any
) -> None:
    await check(AsyncLimiter, what, error, value)


def test_the_same_holds_without_assertions() -> None:
    subprocess.run([sys.executable, "-O", __file__], check=True, timeout=120)


def test_combinations_of_bad_arguments_are_refused(AsyncLimiter: Any) -> None:
    bad = [math.nan, -1, 0, None, "1", True]
    for max_rate, time_period, burst in itertools.product([10, *bad], [1, *bad], [5, None, math.nan, -1, 0, "1", True]):
        good = repr((max_rate, time_period, burst)) in ("(10, 1, 5)", "(10, 1, None)")
        if good:
            AsyncLimiter(max_rate, time_period, burst=burst)
        else:
            with pytest.raises((TypeError, ValueError)):
                AsyncLimiter(max_rate, time_period, burst=burst)


def test_a_burst_that_would_take_centuries_to_drain_is_refused(AsyncLimiter: Any) -> None:
    with pytest.raises(ValueError, match=r"max_rate=1 .*time_period=604800 .*1e\+09 seconds"):
        AsyncLimiter(1, 604800, burst=1e6)


async def test_nothing_costs_nothing(AsyncLimiter: Any, clock: ManualClock) -> None:
    limiter = AsyncLimiter(1, 1)
    await limiter.acquire()
    for fair in (False, True):
        limiter = AsyncLimiter(1, 1, fair=fair)
        await limiter.acquire()
        waiter = asyncio.create_task(limiter.acquire())
        await clock.settle()
        before = repr(limiter)
        await limiter.acquire(0)
        assert limiter.try_acquire(0)
        assert limiter.wait_time(0) == 0.0
        assert repr(limiter) == before
        waiter.cancel()
        await clock.settle()


async def test_numbers_of_other_kinds_are_welcome(AsyncLimiter: Any, clock: ManualClock) -> None:
    from decimal import Decimal
    from fractions import Fraction

    limiter = AsyncLimiter(Decimal(4), Fraction(1, 2))
    await limiter.acquire(Fraction(1, 2))
    await limiter.acquire(Decimal("3.5"))
    assert limiter.wait_time(1) == 0.125


@pytest.mark.parametrize("reading", [math.nan, math.inf, -math.inf, 1e300, -1e300, -5.0, 0.0])
async def test_a_wild_clock_admits_no_more_and_does_no_lasting_harm(AsyncLimiter: Any, reading: float) -> None:
    loop = asyncio.get_running_loop()
    time = 1000.0
    loop.time = lambda: time  # type: ignore[method-assign]
    try:
        limiter = AsyncLimiter(2, 1)
        await limiter.acquire(2)
        good, time = time, reading
        assert not limiter.try_acquire(2)
        assert not limiter.try_acquire(0.5)
        assert 0 < limiter.wait_time(1) <= 0.5
        time = good + 0.5
        if limiter.try_acquire(1):
            assert not limiter.try_acquire(0.5)
        time += 2
        assert limiter.try_acquire(2)
        assert not limiter.try_acquire(0.5)
    finally:
        del loop.time


if __name__ == "__main__":
    from aiolimiter_fast import AsyncLimiter as Limiter

    for row in table():
        asyncio.run(check(Limiter, *row))
