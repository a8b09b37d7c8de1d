"""The whole stack on one transport, in virtual time: what is sent when, and what is held, learnt and given back."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import tenacity
from stack_network import URL, WAIT, Answer, Network, client, refused, spy

from aiolimiter_fast import AsyncLimiter, CircuitBreaker
from aiolimiter_fast.resilience import RetryBudget
from aiolimiter_fast.testing import ManualClock

# Retries.


async def test_while_it_waits_for_its_next_attempt_a_request_holds_no_slot_and_no_permit(clock: ManualClock) -> None:
    network = Network(Answer(503, WAIT), latency=2)
    limiter = AsyncLimiter(10, 1e9)
    transport, http = client(network, limiter=limiter, retry=True, max_concurrent=1)
    first = asyncio.create_task(http.get(URL))
    await clock.run(0.5)
    assert transport.throttle.running == 0
    assert network.bodies[0].is_closed
    second = asyncio.create_task(http.get(URL))
    await clock.run(1)
    assert transport.throttle.running == 1
    assert not limiter.has_capacity(9)
    assert limiter.has_capacity(8)
    await clock.run(9)
    assert [each.result().status_code for each in (first, second)] == [200, 200]
    assert network.sent[:2] == [0, 0.5]
    assert 5 <= network.sent[2] <= 5.5
    assert not limiter.has_capacity(8)
    assert limiter.has_capacity(7)
    assert transport.throttle.running == 0


@pytest.mark.parametrize(
    ("method", "headers", "answer", "times"),
    [
        ("GET", {}, 503, 2),
        ("GET", {}, 429, 2),
        ("GET", {}, 500, 1),
        ("GET", {}, 404, 1),
        ("GET", {}, httpx.ReadTimeout(""), 2),
        ("GET", {}, httpx.UnsupportedProtocol(""), 1),
        ("PUT", {}, 503, 2),
        ("POST", {}, 503, 1),
        ("POST", {}, 429, 2),
        ("POST", {}, httpx.ReadTimeout(""), 1),
        ("POST", {}, httpx.ConnectError(""), 2),
        ("POST", {"idempotency-key": "1"}, 503, 2),
        ("POST", {"idempotency-key": "1"}, httpx.ReadError(""), 2),
        ("PATCH", {}, httpx.ReadError(""), 1),
    ],
)
async def test_a_request_is_sent_twice_only_where_that_is_due(
    clock: ManualClock, method: str, headers: dict[str, str], answer: Any, times: int
) -> None:
    network = Network(answer)
    transport, http = client(network, retry=True, adaptive=spy(), max_concurrent=1)
    task = asyncio.create_task(http.request(method, URL, headers=headers, content=b"body"))
    await clock.run(10)
    assert network.received == [b"body"] * times
    if times == 2 or isinstance(answer, int):
        assert task.result().status_code == (200 if times == 2 else answer)
    else:
        assert task.exception() is answer
    assert transport.throttle.running == 0
    assert transport.adaptive("host").in_flight == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "1"}])
async def test_a_response_that_breaks_while_it_is_thrown_away_is_of_no_interest(
    clock: ManualClock, headers: Any
) -> None:
    network = Network(Answer(503, headers, breaks=True))
    transport, http = client(network, retry={"first": 0.01}, max_concurrent=1)
    task = asyncio.create_task(http.get(URL))
    await clock.run(5)
    assert task.result().status_code == 200
    assert network.bodies[0].is_closed
    assert transport.throttle.running == 0


async def test_when_no_attempt_is_left_the_last_response_is_handed_on_unread(clock: ManualClock) -> None:
    network = Network(*[Answer(503, WAIT)] * 3)
    transport, http = client(network, retry={"attempts": 3, "max_wait": 1}, max_concurrent=1)
    request = http.build_request("GET", URL)
    task = asyncio.create_task(http.send(request, stream=True))
    await clock.run(5)
    response = task.result()
    assert response.status_code == 503
    assert [each.is_closed for each in network.bodies] == [True, True, False]
    assert not network.bodies[2].is_touched
    assert transport.throttle.running == 1
    await response.aclose()
    assert transport.throttle.running == 0


async def async_parts() -> AsyncIterator[bytes]:
    yield b"body"


class Unseekable(io.BytesIO):
    def seekable(self) -> bool:
        return False


@pytest.mark.parametrize(
    "body",
    [lambda: {"content": async_parts()}, lambda: {"files": {"file": Unseekable(b"body")}}],
    ids=["generator", "unseekable"],
)
@pytest.mark.parametrize("answer", [429, httpx.ConnectError("")])
async def test_a_body_that_cannot_be_sent_twice_is_not(clock: ManualClock, body: Any, answer: Any) -> None:
    network = Network(answer)
    transport, http = client(network, retry=True, adaptive=spy(), max_concurrent=1)
    task = asyncio.create_task(http.put(URL, **body()))
    await clock.run(60)
    assert len(network.received) == 1
    assert task.exception() is answer if isinstance(answer, Exception) else task.result().status_code == answer
    assert transport.throttle.running == 0
    assert transport.adaptive("host").in_flight == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "body",
    [
        {"content": b"body"},
        {"json": {"a": 1}},
        {"data": {"a": "b"}},
        {"files": {"file": io.BytesIO(b"body")}, "data": {"a": "b"}},
        {"files": {"file": b"body"}},
    ],
    ids=["content", "json", "data", "file", "bytes"],
)
async def test_a_body_that_can_be_sent_twice_is_the_same_again(clock: ManualClock, body: Any) -> None:
    network = Network(429, httpx.ReadError(""))
    _, http = client(network, retry=True)
    task = asyncio.create_task(http.put(URL, **body))
    await clock.run(10)
    assert task.result().status_code == 200
    assert len(network.received) == 3
    assert len(set(network.received)) == 1
    assert network.received[0]


async def test_retries_are_a_share_of_the_calls_where_there_is_a_budget(clock: ManualClock) -> None:
    network = Network(*[503] * 100)
    _, http = client(network, retry={"budget": RetryBudget(share=0.5, per_second=0), "first": 0.1})
    for _ in range(10):
        task = asyncio.create_task(http.get(URL))
        await clock.run(10)
        assert task.result().status_code == 503
    assert len(network.sent) == 15


async def test_a_call_of_one_attempt_is_paid_into_the_budget_and_counts_in_its_time(clock: ManualClock) -> None:
    network = Network(200, 404, 503, 503)
    budget = RetryBudget(share=0.5, per_second=0)
    _, http = client(network, retry={"budget": budget, "first": 0.1})
    for status in (200, 404, 503):
        task = asyncio.create_task(http.get(URL))
        await clock.run(10)
        assert task.result().status_code == status
    assert len(network.sent) == 4
    assert budget.balance == 0.5


async def test_the_time_of_all_attempts_begins_with_the_first() -> None:
    network = Network(Answer(503, latency=0.05))
    _, http = client(network, retry={"max_time": 0.04, "first": 1e-9})
    assert (await http.get(URL)).status_code == 503
    _, http = client(network, retry={"max_time": 100, "first": 1e-9})
    network.answers.append(Answer(503))
    assert (await http.get(URL)).status_code == 200


async def test_the_longest_wait_is_the_clients_whatever_the_server_says(clock: ManualClock) -> None:
    for adaptive in (False, True):
        network = Network(Answer(429, {"Retry-After": "86400"}))
        _, http = client(network, retry={"max_wait": 5}, adaptive=adaptive)
        start = clock.time() - 1000
        task = asyncio.create_task(http.get(URL))
        await clock.run(6)
        assert task.result().status_code == 200
        assert network.sent[1] - start <= 5


async def test_a_retry_waits_once_where_the_limiter_makes_everybody_wait(clock: ManualClock) -> None:
    limiter = spy()
    network = Network(Answer(429, {"Retry-After": "10"}))
    _, http = client(network, retry=True, adaptive=limiter)
    task = asyncio.create_task(http.get(URL))
    await clock.settle()
    until = limiter.paused_until
    assert until is not None
    await clock.run(20)
    assert task.result().status_code == 200
    assert network.sent == [0, pytest.approx(until - 1000, abs=1e-6)]


async def test_a_retry_backs_off_by_itself_where_the_limiter_hardly_waits(clock: ManualClock) -> None:
    # A server that restarts, and says nothing: by the limiter's first pauses alone all attempts would be made at once.
    network = Network(*[503] * 3)
    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_result(lambda response: response.status_code == 503), wait=tenacity.wait_fixed(10)
    )
    _, http = client(network, retry=retrying, adaptive=True)
    task = asyncio.create_task(http.get(URL))
    await clock.run(60)
    assert task.result().status_code == 200
    assert network.sent == [0, 10, 20, 30]
    network = Network(Answer(429, {"Retry-After": "20"}))
    start = clock.time() - 1000
    _, http = client(network, retry={"max_wait": 60}, adaptive=spy(max_pause=0.01))
    task = asyncio.create_task(http.get(URL))
    await clock.run(60)
    assert task.result().status_code == 200
    assert 20 <= network.sent[1] - start <= 21


async def test_a_retrying_of_ones_own_is_used_as_it_is(clock: ManualClock) -> None:
    slept: list[float] = []
    called: list[int] = []
    network = Network(500, 500)

    async def before(state: tenacity.RetryCallState) -> None:
        called.append(state.attempt_number)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_result(lambda response: response.status_code == 500),
        stop=tenacity.stop_after_attempt(5),
        wait=tenacity.wait_fixed(7),
        sleep=sleep,
        before=before,
    )
    _, http = client(network, retry=retrying)
    assert (await http.get(URL)).status_code == 200
    assert slept == [7, 7]
    assert called == [1, 2, 3]
    assert network.bodies[0].is_closed


async def test_the_response_in_a_retry_error_is_closed(clock: ManualClock) -> None:
    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_result(lambda response: response.status_code == 500),
        stop=tenacity.stop_after_attempt(2),
    )
    network = Network(500, 500)
    transport, http = client(network, retry=retrying, max_concurrent=1)
    with pytest.raises(tenacity.RetryError):
        await http.get(URL)
    assert all(each.is_closed for each in network.bodies)
    assert transport.throttle.running == 0


async def test_a_retrying_that_retries_after_everything_does_not_swallow_cancellation(clock: ManualClock) -> None:
    network = Network(latency=10)
    _, http = client(network, retry=tenacity.AsyncRetrying(retry=tenacity.retry_always))
    task = asyncio.create_task(http.get(URL))
    await clock.run(1)
    await refused(task)
    assert len(network.sent) == 1


async def test_a_retrying_that_retries_after_everything_does_not_keep_one_that_is_cancelled_in_line(
    clock: ManualClock,
) -> None:
    network = Network()
    limiter = AsyncLimiter(1, 10)
    await limiter.acquire()
    transport, http = client(network, limiter=limiter, retry=tenacity.AsyncRetrying(retry=tenacity.retry_always))
    task = asyncio.create_task(http.get(URL))
    await clock.run(1)
    assert transport.throttle.waiting == 1
    await refused(task)
    assert transport.throttle.waiting == 0
    assert network.sent == []


# What is held, and what is learnt.


async def test_a_streamed_response_is_handed_on_unread_and_holds_its_slot(clock: ManualClock) -> None:
    network = Network(429)
    transport, http = client(network, retry=True, max_concurrent=1, breaker=True, adaptive=True)
    task = asyncio.create_task(http.send(http.build_request("GET", URL), stream=True))
    await clock.run(10)
    response = task.result()
    assert not network.bodies[1].is_touched
    assert transport.throttle.running == 1
    assert transport.adaptive("host").in_flight == 0  # type: ignore[union-attr]
    assert await response.aread() == b"x"
    assert transport.throttle.running == 0


@pytest.mark.parametrize("status", [200, 204, 301, 401, 404, 418, 500])
async def test_every_response_is_observed(clock: ManualClock, status: int) -> None:
    limiter = spy()
    network = Network(Answer(status, {"RateLimit": '"default";r=7;t=60'}))
    _, http = client(network, adaptive=limiter)
    assert (await http.get(URL)).status_code == status
    assert limiter.told == [(status, 0)]
    assert limiter.remaining == 7


async def test_each_hop_of_a_redirect_takes_a_permit_of_its_host(clock: ManualClock) -> None:
    network = Network(Answer(302, {"Location": "http://other/", "RateLimit": '"default";r=7;t=60'}))
    transport, http = client(network, adaptive=True)
    assert (await http.get(URL, follow_redirects=True)).status_code == 200
    first, second = transport.adaptive("host"), transport.adaptive("other")
    assert first is not None
    assert second is not None
    assert (first.remaining, second.remaining) == (7, None)
    assert first.in_flight == second.in_flight == 0


async def test_a_permit_is_dated_when_the_request_leaves(clock: ManualClock) -> None:
    limiter = spy()
    network = Network(latency=3)
    _, http = client(network, adaptive=limiter, max_concurrent=1)
    tasks = [asyncio.create_task(http.get(URL)) for _ in range(3)]
    await clock.run(10)
    assert all(task.done() for task in tasks)
    assert network.sent == [0, 3, 6]
    assert limiter.told == [(200, 0), (200, 3), (200, 6)]


async def test_a_permit_of_the_static_limiter_is_dated_when_the_request_leaves(clock: ManualClock) -> None:
    for adaptive in (False, True):
        network = Network(Answer(latency=8), latency=0)
        start = clock.time()
        limiter = AsyncLimiter(1, 5)
        _, http = client(network, limiter=limiter, max_concurrent=1, adaptive=adaptive)
        tasks = [asyncio.create_task(http.get(URL)) for _ in range(3)]
        await clock.run(20)
        assert all(task.done() for task in tasks)
        instants = [each - (start - 1000) for each in network.sent]
        assert instants[:2] == [0, 8]
        assert instants[2] == pytest.approx(13, abs=1e-5)


async def waits_for_a_slot(clock: ManualClock, http: httpx.AsyncClient) -> None:
    asyncio.get_running_loop().create_task(http.get(URL))
    await clock.settle()


async def nothing_before(clock: ManualClock, http: httpx.AsyncClient) -> None:
    pass


@pytest.mark.parametrize(
    ("before", "answer", "pause", "told"),
    [
        (waits_for_a_slot, Answer(latency=100), False, [(200, 0)]),
        (nothing_before, Answer(latency=100), True, []),
        (nothing_before, Answer(latency=100), False, [(0, 0)]),
        (nothing_before, Answer(httpx.ReadError("")), False, [(0, 0)]),
        (nothing_before, Answer(429, {"Retry-After": "50"}), False, [(429, 0)]),
    ],
    ids=["slot", "permit", "flight", "retry", "limited retry"],
)
async def test_whoever_is_cancelled_leaves_nothing_behind(
    clock: ManualClock, before: Callable[..., Any], answer: Answer, pause: bool, told: list[Any]
) -> None:
    limiter = spy()
    network = Network(answer)
    slow = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(httpx.ReadError)
        | tenacity.retry_if_result(lambda response: response.status_code == 429),
        wait=tenacity.wait_fixed(30),
    )
    breaker = CircuitBreaker(failures=1)
    transport, http = client(network, adaptive=limiter, retry=slow, breaker=breaker, max_concurrent=1)
    if pause:
        limiter.pause_until(clock.time() + 50)
    await before(clock, http)
    task = asyncio.create_task(http.get(URL))
    await clock.run(10)
    assert not task.done()
    await refused(task)
    await clock.run(100)
    assert limiter.told == told
    assert limiter.in_flight == limiter.waiting == 0
    assert transport.throttle.running == transport.throttle.waiting == 0
    assert breaker.state("host") == "closed"
    assert len(network.sent) == len(told)


async def test_one_that_weighs_nothing_waits_for_a_pause_and_counts_for_nothing(clock: ManualClock) -> None:
    limiter = spy()
    network = Network(latency=1)
    _, http = client(network, adaptive=limiter, weight=lambda request: 0 if request.url.path == "/free" else 1)
    tasks = [asyncio.create_task(http.get(URL + path)) for path in ("", "free")]
    await clock.run(0.5)
    assert limiter.in_flight == 1
    await clock.run(1)
    assert limiter.told == [(200, 0)]
    limiter.pause_until(clock.time() + 5)
    tasks.append(asyncio.create_task(http.get(URL + "free")))
    await clock.run(4)
    assert len(network.sent) == 2
    await clock.run(4)
    assert all(task.done() for task in tasks)
