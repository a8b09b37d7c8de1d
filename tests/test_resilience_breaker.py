"""The circuit breaker: when it opens, who may see whether all is well, and what says nothing."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pybreaker
import pytest
from circuitbreaker import CircuitBreaker as OtherBreaker
from purgatory import AsyncCircuitBreakerFactory, SyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState

from aiolimiter_fast import AsyncLimiter, CircuitBreaker
from aiolimiter_fast.errors import LimiterError
from aiolimiter_fast.resilience import CircuitOpen, as_breaker
from aiolimiter_fast.testing import ManualClock


class Failure(ConnectionError):
    pass


async def fail(breaker: CircuitBreaker, times: int = 1, key: Any = None) -> None:
    for _ in range(times):
        with pytest.raises(Failure):
            async with breaker.at(key):
                raise Failure


async def succeed(breaker: CircuitBreaker, times: int = 1, key: Any = None) -> None:
    for _ in range(times):
        async with breaker.at(key):
            pass


async def test_a_run_of_failures_opens_it_and_the_tripping_error_is_raised(clock: ManualClock) -> None:
    breaker = CircuitBreaker(3)
    await fail(breaker, 2)
    await succeed(breaker)
    await fail(breaker, 2)
    assert breaker.state() == "closed"
    await fail(breaker)
    assert breaker.state() == "open"


async def test_open_it_refuses_at_once_and_says_for_how_long(clock: ManualClock) -> None:
    breaker = CircuitBreaker(1, open_for=30)
    await fail(breaker)
    await clock.run(10)
    with pytest.raises(CircuitOpen) as refused:
        breaker.call(pytest.fail, "was called")
    assert refused.value.retry_after == pytest.approx(20)
    assert isinstance(refused.value, LimiterError)


async def test_open_it_spends_no_permit(clock: ManualClock) -> None:
    breaker = CircuitBreaker(1)
    limiter = AsyncLimiter(1, 60)
    await fail(breaker)

    async def send() -> None:
        await limiter.acquire()

    for _ in range(10):
        with pytest.raises(CircuitOpen):
            await breaker.call_async(send)
    assert limiter.has_capacity()


async def test_a_share_of_failures_opens_it_though_no_run_does(clock: ManualClock) -> None:
    breaker = CircuitBreaker(100, share=0.5, window=10, calls=20)
    for _ in range(9):
        await succeed(breaker)
        await fail(breaker)
    await succeed(breaker)
    assert breaker.state() == "closed"
    await fail(breaker)
    assert breaker.state() == "open"


async def test_failures_that_have_left_the_window_do_not_count(clock: ManualClock) -> None:
    breaker = CircuitBreaker(100, share=0.5, window=10, calls=20)
    await fail(breaker, 15)
    await clock.run(11)
    await fail(breaker, 15)
    assert breaker.state() == "closed"
    await fail(breaker, 5)
    assert breaker.state() == "open"


async def test_half_open_exactly_one_call_is_let_through(clock: ManualClock) -> None:
    breaker = CircuitBreaker(1, open_for=30)
    await fail(breaker)
    await clock.run(30)
    assert breaker.state() == "half-open"
    inside = 0
    gate = asyncio.Event()

    async def call() -> None:
        nonlocal inside
        async with breaker.at():
            inside += 1
            await gate.wait()

    tasks = [asyncio.create_task(call()) for _ in range(50)]
    await clock.settle()
    assert inside == 1
    assert sum(task.done() and isinstance(task.exception(), CircuitOpen) for task in tasks) == 49
    gate.set()
    await clock.settle()
    assert breaker.state() == "closed"
    await succeed(breaker, 10)
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_probe_that_fails_opens_it_anew(clock: ManualClock) -> None:
    breaker = CircuitBreaker(5, open_for=30)
    await fail(breaker, 5)
    await clock.run(30)
    await fail(breaker)
    assert breaker.state() == "open"
    await clock.run(29)
    assert breaker.state() == "open"
    await clock.run(1)
    await succeed(breaker)
    assert breaker.state() == "closed"


async def test_a_cancelled_call_is_no_failure_and_no_success(clock: ManualClock) -> None:
    breaker = CircuitBreaker(2)
    await fail(breaker)
    for _ in range(10):
        task = asyncio.create_task(breaker.call_async(asyncio.sleep, 1000))
        await clock.settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert breaker.state() == "closed"
    await fail(breaker)
    assert breaker.state() == "open"


async def test_a_cancelled_probe_lets_another_through(clock: ManualClock) -> None:
    breaker = CircuitBreaker(1, open_for=30)
    await fail(breaker)
    await clock.run(30)
    probe = asyncio.create_task(breaker.call_async(asyncio.sleep, 1000))
    await clock.settle()
    with pytest.raises(CircuitOpen):
        await succeed(breaker)
    probe.cancel()
    await clock.settle()
    assert breaker.state() == "half-open"
    await succeed(breaker)
    assert breaker.state() == "closed"


async def test_a_probe_that_never_ends_does_not_block_for_good(clock: ManualClock) -> None:
    breaker = CircuitBreaker(1, open_for=30)
    await fail(breaker)
    await clock.run(30)
    probe = asyncio.create_task(breaker.call_async(asyncio.sleep, 1000))
    await clock.run(31)
    await succeed(breaker)
    assert breaker.state() == "closed"
    probe.cancel()
    await clock.settle()
    assert breaker.state() == "closed"


async def test_what_began_before_it_opened_says_nothing_after(clock: ManualClock) -> None:
    breaker = CircuitBreaker(1, open_for=30)
    slow_success = breaker.at()
    slow_failure = breaker.at()
    slow_success.__enter__()
    slow_failure.__enter__()
    await fail(breaker)
    slow_success.__exit__(None, None, None)
    assert breaker.state() == "open"
    await clock.run(30)
    await succeed(breaker)
    slow_failure.__exit__(Failure, Failure(), None)
    assert breaker.state() == "closed"


@pytest.mark.parametrize(
    ("options", "status", "opens"),
    [
        ({}, 500, True),
        ({}, 503, True),
        ({}, 429, False),
        ({}, 404, False),
        ({}, 200, False),
        ({"count_429": True}, 429, True),
    ],
)
async def test_which_responses_count(clock: ManualClock, options: Any, status: int, opens: bool) -> None:
    breaker = CircuitBreaker(1, **options)
    response = SimpleNamespace(status_code=status)

    async def send() -> Any:
        return response

    assert await breaker.call_async(send) is response
    assert (breaker.state() == "open") is opens


async def test_errors_of_the_caller_do_not_count(clock: ManualClock) -> None:
    breaker = CircuitBreaker(1)
    for _ in range(3):
        with pytest.raises(KeyError):
            breaker.call({}.__getitem__, 3)
    assert breaker.state() == "closed"


async def test_a_count_that_itself_fails_leaves_the_probe_to_another(clock: ManualClock) -> None:
    def counts(outcome: Any) -> bool:
        if isinstance(outcome, KeyError):
            raise ValueError("counts")
        return True

    breaker = CircuitBreaker(1, open_for=30, counts=counts)
    await fail(breaker)
    await clock.run(30)
    with pytest.raises(ValueError, match="counts"):
        breaker.call({}.__getitem__, 3)
    assert breaker.state() == "half-open"
    await succeed(breaker)


async def test_each_key_has_a_breaker_of_its_own_and_their_number_is_bounded(clock: ManualClock) -> None:
    breaker = CircuitBreaker(1, max_keys=10)
    await fail(breaker, key="ill")
    for number in range(1000):
        await succeed(breaker, key=number)
    assert len(breaker.keys) == 10
    assert breaker.state("ill") == "open"
    assert breaker.state(999) == "closed"
    for number in range(20):
        await fail(breaker, key=("open", number))
    assert len(breaker.keys) == 10


async def test_it_can_be_opened_and_closed_by_hand(clock: ManualClock) -> None:
    breaker = CircuitBreaker()
    breaker.open("host", 5)
    assert breaker.state("host") == "open"
    assert repr(breaker) == "<CircuitBreaker(failures=5) [keys: 1, open: 1]>"
    breaker.close("host")
    await succeed(breaker, key="host")


def test_of_many_threads_one_is_the_probe() -> None:
    breaker = CircuitBreaker(1, open_for=1e-9)
    with pytest.raises(Failure), breaker.at():
        raise Failure
    inside, refused = [], []
    start = threading.Barrier(16)
    all_tried = threading.Barrier(16)
    lock = threading.Lock()
    breaker._open_for = 1000.0  # the probe's time; it is half-open already

    def work() -> None:
        start.wait()
        try:
            with breaker.at():
                with lock:
                    inside.append(1)
                all_tried.wait()
        except CircuitOpen:
            with lock:
                refused.append(1)
            all_tried.wait()

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(inside), len(refused)) == (1, 15)
    assert breaker.state() == "closed"


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"failures": 0}, ValueError, "failures"),
        ({"failures": 2.5}, TypeError, "failures"),
        ({"share": 0}, ValueError, "share"),
        ({"share": 1.1}, ValueError, "share"),
        ({"window": 0}, ValueError, "window"),
        ({"calls": 0}, ValueError, "calls"),
        ({"open_for": float("nan")}, ValueError, "open_for"),
        ({"counts": 3}, TypeError, "counts"),
        ({"max_keys": 0}, ValueError, "max_keys"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(options: Any, error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=name):
        CircuitBreaker(**options)
    with pytest.raises(TypeError):
        CircuitBreaker().at([])  # type: ignore[arg-type]


# Breakers of other libraries.


async def failing() -> None:
    raise Failure


def failing_now() -> None:
    raise Failure


@pytest.mark.parametrize("kind", ["pybreaker", "circuitbreaker", "by key"])
async def test_the_breakers_of_other_libraries_are_accepted(kind: str) -> None:
    found: dict[Any, Any] = {}
    makers: dict[str, Any] = {
        "pybreaker": lambda: pybreaker.CircuitBreaker(fail_max=2),
        "circuitbreaker": lambda: OtherBreaker(failure_threshold=2, name="theirs"),
        "by key": lambda: lambda key: found.setdefault(key, OtherBreaker(failure_threshold=2, name=key)),
    }
    breaker = as_breaker(makers[kind]())
    with pytest.raises(Failure):
        breaker.call(failing_now, key="a")
    with pytest.raises((Failure, pybreaker.CircuitBreakerError)):
        await breaker.call_async(failing, key="a")
    with pytest.raises((CircuitOpen, pybreaker.CircuitBreakerError)):
        await breaker.call_async(failing, key="a")
    with pytest.raises((CircuitOpen, pybreaker.CircuitBreakerError)):
        breaker.call(failing_now, key="a")


async def test_the_factories_of_purgatory_are_accepted() -> None:
    breaker = as_breaker(AsyncCircuitBreakerFactory(default_threshold=1))
    with pytest.raises(Failure):
        await breaker.call_async(failing, key="a")
    with pytest.raises(OpenedState):
        await breaker.call_async(failing, key="a")
    breaker = as_breaker(SyncCircuitBreakerFactory(default_threshold=1))
    with pytest.raises(Failure):
        breaker.call(failing_now, key="a")
    with pytest.raises(OpenedState):
        breaker.call(failing_now, key="a")


def test_what_is_no_breaker_is_refused() -> None:
    ours = CircuitBreaker()
    assert as_breaker(ours) is ours
    with pytest.raises(TypeError, match="breaker"):
        as_breaker(3)
