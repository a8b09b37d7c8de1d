"""The whole stack on one transport, in virtual time: keys, the circuit breaker, and what can be read and asked for."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import threading
from types import SimpleNamespace
from typing import Any

import httpx
import pybreaker
import pytest
import tenacity
from callers import until
from stack_network import URL, WAIT, Answer, Network, Spy, client, refused, spy

from aiolimiter_fast import AdaptiveLimiter, AsyncLimiter, CircuitBreaker, Limiter, Rate, SQLiteBucket, Throttle
from aiolimiter_fast.extras._gate import Slot
from aiolimiter_fast.extras.httpx_limiter import AsyncThrottledTransport, HeldStream, ThrottledTransport
from aiolimiter_fast.extras.requests_limiter import HeldBody
from aiolimiter_fast.resilience import CircuitOpen
from aiolimiter_fast.testing import ManualClock

# Keys.


async def test_one_key_that_waits_for_a_permit_holds_no_slot_of_another(clock: ManualClock) -> None:
    network = Network()
    transport, http = client(
        network, adaptive=True, limiter=lambda host: AsyncLimiter(1, 100 if host == "slow" else 1e-3), max_concurrent=1
    )
    slow = [asyncio.create_task(http.get("http://slow/")) for _ in range(3)]
    await clock.run(1)
    quick = [asyncio.create_task(http.get("http://quick/")) for _ in range(5)]
    await clock.run(5)
    assert [each.done() for each in slow] == [True, False, False]
    assert all(each.done() for each in quick)
    assert transport.throttle.running == 0
    await refused(*slow[1:])


async def test_max_per_key_bounds_each_key(clock: ManualClock) -> None:
    network = Network(latency=1)
    _, http = client(network, max_per_key=2, key=lambda request: request.headers["x-api-key"])
    tasks = [asyncio.create_task(http.get(URL, headers={"X-API-Key": key})) for key in "aaab"]
    await clock.run(0.5)
    assert len(network.sent) == 3
    await clock.run(5)
    assert all(task.done() for task in tasks)


async def test_a_key_in_flight_is_not_forgotten_however_many_there_are(clock: ManualClock) -> None:
    made: dict[str, Spy] = {}
    network = Network(latency=1)

    def limiter_for(path: str) -> Spy:
        made[path] = spy()
        return made[path]

    transport, http = client(network, limiter=limiter_for, key=lambda request: request.url.path, max_keys=2)
    tasks = [asyncio.create_task(http.get(f"{URL}{number}")) for number in range(50)]
    await clock.run(0.5)
    assert sum(each.in_flight for each in made.values()) == 50
    await clock.run(5)
    assert all(task.done() for task in tasks)
    assert [each.told for each in made.values()] == [[(200, 0)]] * 50
    assert transport.throttle.keys == 2
    known = [transport.adaptive(path) for path in made]
    assert sum(each is not None for each in known) == 2
    assert all(each is None or each is made[path] for each, path in zip(known, made, strict=True))


async def test_what_the_stack_knows_can_be_read(clock: ManualClock) -> None:
    static = AsyncLimiter(5)
    transport, http = client(Network(), limiter=static, adaptive=True, breaker=True, key=None)
    await http.get(URL)
    assert transport.limiter() is static
    assert isinstance(transport.adaptive(), AdaptiveLimiter)
    assert transport.breaker.keys == ["host"]  # the circuit is its host's all the same
    transport, http = client(Network(), limiter=static)
    await http.get(URL)
    assert transport.limiter("host") is static
    assert transport.adaptive("host") is transport.breaker is None
    transport, http = client(
        Network(), adaptive=lambda ceiling: Spy(ceiling, spend="greedy"), limiter=lambda key: static
    )
    await http.get(URL)
    assert transport.limiter("host") is static
    assert isinstance(transport.adaptive("host"), Spy)
    assert transport.limiter("elsewhere") is None


async def test_a_limiter_of_buckets_is_a_ceiling(clock: ManualClock) -> None:
    limiter = Limiter(Rate(2, 10_000))
    network = Network()
    transport, http = client(network, limiter=limiter, adaptive=lambda ceiling: Spy(ceiling, start_rate=1000))
    tasks = [asyncio.create_task(http.get(URL)) for _ in range(3)]
    await clock.run(5)
    assert [task.done() for task in tasks] == [True, True, False]
    await refused(tasks[2])
    assert transport.limiter("host") is limiter


async def test_a_limiter_that_has_to_be_waited_for_is_obeyed_besides_the_adaptive_one(clock: ManualClock) -> None:
    class Elsewhere:
        taken = 0.0

        async def acquire(self, amount: float = 1) -> None:
            await asyncio.sleep(2)
            self.taken += amount

    static = Elsewhere()
    network = Network()
    transport, http = client(network, limiter=static, adaptive=lambda ceiling: Spy(ceiling, start_rate=1000), weight=3)
    tasks = [asyncio.create_task(http.get(URL)) for _ in range(3)]
    await clock.run(1)
    limiter = transport.adaptive("host")
    assert isinstance(limiter, Spy)
    limiter.pause_until(clock.time() + 4)
    await clock.run(7.5)
    assert network.sent == [5, 7]
    await refused(tasks[2])
    assert [task.result().status_code for task in tasks[:2]] == [200, 200]
    assert limiter.told == [(200, 5), (200, 7)]
    assert static.taken == 6
    assert limiter.in_flight == transport.throttle.running == transport.throttle.waiting == 0
    assert transport.limiter("host") is static


def test_a_limiter_in_a_database_is_obeyed_besides_the_adaptive_one() -> None:
    with SQLiteBucket([Rate(3, 60_000)], sqlite3.connect(":memory:", check_same_thread=False), "requests") as bucket:
        limiter = Limiter(bucket)
        network = httpx.MockTransport(lambda request: httpx.Response(200, headers={"RateLimit": '"default";r=9;t=60'}))
        transport = ThrottledTransport(limiter=limiter, adaptive=lambda ceiling: spy(spend="greedy"), transport=network)
        with httpx.Client(transport=transport) as http:
            assert [http.get(URL).status_code for _ in range(3)] == [200] * 3
        assert bucket.count() == 3
        learnt = transport.adaptive("host")
        assert isinstance(learnt, Spy)
        assert (learnt.remaining, learnt.in_flight, len(learnt.told)) == (9, 0, 3)


# The breaker.


async def test_an_open_breaker_refuses_at_once_and_spends_no_permit(clock: ManualClock) -> None:
    limiter = AsyncLimiter(10, 1e9)
    network = Network(500, 500)
    breaker = CircuitBreaker(failures=2, open_for=30)
    _, http = client(network, limiter=limiter, breaker=breaker, retry=True, max_concurrent=1)
    for _ in range(2):
        await http.get(URL)
    with pytest.raises(CircuitOpen):
        await http.get(URL)
    assert len(network.sent) == 2
    assert limiter.has_capacity(8)
    assert (await http.get("http://other/")).status_code == 200
    network.latency = 5
    await clock.run(30)
    probe = asyncio.create_task(http.get(URL))
    await clock.settle()
    for _ in range(3):
        with pytest.raises(CircuitOpen):
            await http.get(URL)
    await clock.run(6)
    assert probe.result().status_code == 200
    assert breaker.state("host") == "closed"
    assert len(network.sent) == 4


async def test_when_the_breaker_opens_those_in_line_and_between_attempts_are_not_sent(clock: ManualClock) -> None:
    network = Network(Answer(429, WAIT), 500, 500)
    breaker = CircuitBreaker(failures=2, open_for=30)
    transport, http = client(
        network, limiter=AsyncLimiter(1, 1), adaptive=lambda ceiling: Spy(ceiling, start_rate=1000), breaker=breaker,
        retry=tenacity.AsyncRetrying(retry=tenacity.retry_if_result(lambda r: r.status_code == 429)), max_concurrent=1,
    )  # fmt: skip
    tasks = [asyncio.create_task(http.get(URL)) for _ in range(10)]
    await clock.run(30)
    assert len(network.sent) == 3
    assert breaker.state("host") == "open"
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, CircuitOpen) for each in outcomes] == [True, False, False] + [True] * 7
    limiter = transport.adaptive("host")
    assert isinstance(limiter, Spy)
    assert limiter.in_flight == transport.throttle.running == 0
    await clock.run(30)
    assert (await http.get(URL)).status_code == 200
    assert breaker.state("host") == "closed"


async def test_a_retrying_that_retries_after_every_error_ends_at_an_open_breaker(clock: ManualClock) -> None:
    network = Network(httpx.ReadError(""))
    breaker = CircuitBreaker()
    limiter = AsyncLimiter(10, 1e9)
    retrying = tenacity.AsyncRetrying(wait=tenacity.wait_fixed(5))
    _, http = client(network, limiter=limiter, breaker=breaker, retry=retrying)
    task = asyncio.create_task(http.get(URL))
    await clock.run(1)
    breaker.open("host", 1000)
    await clock.run(5)
    assert isinstance(task.exception(), CircuitOpen)
    assert len(network.sent) == 1
    assert limiter.has_capacity(9)


async def test_no_retrying_whatsoever_goes_on_at_an_open_breaker(clock: ManualClock) -> None:
    network = Network(Answer(httpx.ReadError(""), latency=1))
    breaker = CircuitBreaker()
    always = tenacity.retry_if_not_exception_type(ValueError)
    retrying = tenacity.AsyncRetrying(retry=always, wait=tenacity.wait_fixed(5))
    _, http = client(network, breaker=breaker, retry=retrying)
    task = asyncio.create_task(http.get(URL))
    await clock.run(0.5)
    breaker.open("host", 1000)
    await clock.run(6)
    assert isinstance(task.exception(), CircuitOpen)
    assert len(network.sent) == 1


async def test_a_call_from_before_the_breaker_opened_and_closed_again_goes_on(clock: ManualClock) -> None:
    network = Network(latency=1)
    breaker = CircuitBreaker()
    _, http = client(network, breaker=breaker, max_concurrent=1)
    tasks = [asyncio.create_task(http.get(URL)) for _ in range(2)]
    await clock.run(0.5)
    breaker.open("host", 0.1)
    breaker.close("host")
    await clock.run(5)
    assert [task.result().status_code for task in tasks] == [200, 200]


async def test_one_that_was_tried_again_and_came_through_is_one_success(clock: ManualClock) -> None:
    answers: list[Any] = [503, httpx.ReadError(""), 200]
    network = Network(*answers * 5)
    breaker = CircuitBreaker(failures=2)
    _, http = client(network, breaker=breaker, retry={"first": 0.01})
    for _ in range(5):
        task = asyncio.create_task(http.get(URL))
        await clock.run(1)
        assert task.result().status_code == 200
    assert len(network.sent) == 15
    assert breaker.state("host") == "closed"


async def test_a_breaker_that_fails_leaves_no_response_open(clock: ManualClock) -> None:
    def judge(outcome: Any) -> bool:
        raise LookupError

    network = Network()
    transport, http = client(network, breaker=CircuitBreaker(counts=judge), max_concurrent=1)
    with pytest.raises(LookupError):
        await http.get(URL)
    assert network.bodies[0].is_closed
    assert transport.throttle.running == 0


async def test_the_breaker_of_another_library_stands_outside_too(clock: ManualClock) -> None:
    network = Network(httpx.ReadError(""), httpx.ReadError(""))
    limiter = AsyncLimiter(10, 1e9)
    _, http = client(network, limiter=limiter, breaker=pybreaker.CircuitBreaker(fail_max=1), retry={"attempts": 2})
    task = asyncio.create_task(http.get(URL))
    await clock.run(5)
    assert isinstance(task.exception(), pybreaker.CircuitBreakerError | httpx.ReadError)
    with pytest.raises(pybreaker.CircuitBreakerError):
        await http.get(URL)
    assert len(network.sent) == 2
    assert limiter.has_capacity(8)


# The rest.


async def test_a_response_that_nobody_closes_gives_its_slot_back_when_it_is_forgotten(clock: ManualClock) -> None:
    network = Network(503)
    transport, http = client(network, retry={"first": 0.01}, adaptive=True, breaker=True, max_concurrent=1)
    task = asyncio.create_task(transport.handle_async_request(http.build_request("GET", URL)))
    await clock.run(5)
    assert task.result().status_code == 200
    assert transport.throttle.running == 1
    del task
    gc.collect()
    until(lambda: transport.throttle.running == 0)


def begun(body: Any) -> Any:
    parts = iter(body)
    next(parts)
    return parts


@pytest.mark.parametrize(
    "hold",
    [
        lambda slot: slot,
        lambda slot: begun(HeldStream([b"x", b"y"], slot)),
        lambda slot: begun(HeldBody([b"x", b"y"], slot)),
        lambda slot: begun(HeldBody(SimpleNamespace(stream=lambda: iter(b"xy")), slot).stream()),
    ],
    ids=["slot", "httpx", "requests", "requests' stream"],
)
def test_one_that_is_forgotten_while_a_lock_is_held_keeps_nobody_from_a_decision(hold: Any) -> None:
    adaptive = AdaptiveLimiter()
    throttle = Throttle(adaptive, 2)
    throttle.enter_blocking("host")
    held = hold(Slot(throttle, "host"))
    meet = threading.Barrier(2)

    def decide() -> None:
        with throttle._lock:
            meet.wait()
            meet.wait()
            adaptive.try_acquire()

    thread = threading.Thread(target=decide, daemon=True)
    thread.start()
    with adaptive._turns.lock:  # as where something is learnt, and the garbage collector comes
        meet.wait()
        meet.wait()
        del held
        gc.collect()
    thread.join()
    until(lambda: throttle.running == 0)


def test_one_transport_serves_two_loops_one_after_the_other() -> None:
    network = Network()
    transport = AsyncThrottledTransport(
        transport=network, limiter=lambda host: Limiter(Rate(5, 10)), breaker=True, retry=True,
        adaptive=lambda ceiling: AdaptiveLimiter(ceiling, start_rate=1000), max_concurrent=2,
    )  # fmt: skip

    async def main() -> list[int]:
        http = httpx.AsyncClient(transport=transport)
        return [response.status_code for response in await asyncio.gather(*(http.get(URL) for _ in range(8)))]

    first = asyncio.run(main())
    limiter = transport.adaptive("host")
    assert asyncio.run(main()) == first == [200] * 8
    assert transport.adaptive("host") is limiter
    assert limiter is not None
    assert limiter.in_flight == transport.throttle.running == transport.throttle.waiting == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"key": "route"}, "key must be"),
        ({"weight": -1}, "amount must"),
        ({"max_concurrent": 0}, "max_concurrent must"),
        ({"max_keys": 0}, "max_keys must"),
        ({"limiter": 5}, "limiter must"),
        ({"limiter": 5, "adaptive": True}, "limiter must"),
        ({"limiter": AsyncLimiter, "adaptive": True}, "limiter must"),
        ({"adaptive": 5}, "adaptive must"),
        ({"adaptive": AdaptiveLimiter(), "limiter": AsyncLimiter(1)}, "limiter must"),
        ({"retry": 5}, "retry must"),
        ({"retry": {"attempts": 0}}, "attempts must"),
        ({"retry": tenacity.Retrying()}, "retry must be an AsyncRetrying"),
        ({"breaker": 5}, "breaker must"),
        ({"http2": False}, "http2 must be given to the transport that is wrapped"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        AsyncThrottledTransport(transport=Network(), **options)


def test_a_retrying_for_tasks_is_refused_by_threads() -> None:
    with pytest.raises(TypeError, match="retry must be a Retrying"):
        ThrottledTransport(retry=tenacity.AsyncRetrying())


async def test_an_adaptive_function_that_makes_something_else_is_refused() -> None:
    _, http = client(Network(), adaptive=lambda ceiling: ceiling)
    with pytest.raises(TypeError, match="adaptive must make an AdaptiveLimiter"):
        await http.get(URL)


def test_retries_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tenacity", None)
    with pytest.raises(ImportError, match=r"retry= needs tenacity: pip install aiolimiter-fast\[resilience\]"):
        AsyncThrottledTransport(transport=Network(), retry=True)
    AsyncThrottledTransport(transport=Network(), retry=False)
