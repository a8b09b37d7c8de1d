"""The whole stack on one transport, in virtual time: what is sent when, and what is held, learnt and given back."""

from __future__ import annotations

import asyncio
import io
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import tenacity

from aiolimiter_fast import AdaptiveLimiter, AsyncLimiter, CircuitBreaker, Limiter, Rate
from aiolimiter_fast.extras.httpx_limiter import AsyncThrottledTransport, ThrottledTransport
from aiolimiter_fast.resilience import CircuitOpen
from aiolimiter_fast.testing import ManualClock

URL = "http://host/"


class Body(httpx.AsyncByteStream):
    """The body of a response, which somebody has to read or close."""

    def __init__(self, parts: int = 1) -> None:
        self.parts = parts
        self.is_touched = self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.is_touched = True
        for _ in range(self.parts):
            yield b"x"

    async def aclose(self) -> None:
        self.is_closed = True


class Answer:
    """What the network answers, after `latency` seconds."""

    def __init__(
        self, status: int | Exception = 200, headers: dict[str, str] | None = None, latency: float = 0
    ) -> None:
        self.status = status
        self.headers = headers or {}
        self.latency = latency


class Network(httpx.AsyncBaseTransport):
    """Answers as it is told, then with 200; and remembers."""

    def __init__(self, *answers: Answer | int | Exception, latency: float = 0) -> None:
        self.answers = deque(each if isinstance(each, Answer) else Answer(each) for each in answers)
        self.latency = latency
        self.sent: list[float] = []
        self.received: list[bytes] = []
        self.bodies: list[Body] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        self.received.append(b"".join([part async for part in request.stream]))
        self.sent.append(round(asyncio.get_running_loop().time() - 1000, 6))
        answer = self.answers.popleft() if self.answers else Answer(latency=self.latency)
        await asyncio.sleep(answer.latency)
        if isinstance(answer.status, Exception):
            raise answer.status
        self.bodies.append(Body())
        return httpx.Response(answer.status, headers=answer.headers, stream=self.bodies[-1])


class Spy(AdaptiveLimiter):
    """An adaptive limiter of which is known what it was told."""

    __slots__ = ("told",)

    def __init__(self, ceiling: Any = None, **options: Any) -> None:
        super().__init__(ceiling, **options)
        self.told: list[tuple[int, float]] = []

    def observe(self, seen: Any, status: int | None = None, *, sent_at: float | None = None, amount: float = 1) -> Any:
        assert status is not None
        assert sent_at is not None
        self.told.append((status, round(sent_at - 1000, 6)))
        return super().observe(seen, status, sent_at=sent_at, amount=amount)

    def forget(self, sent_at: float | None = None) -> None:
        assert sent_at is not None
        self.told.append((0, round(sent_at - 1000, 6)))
        super().forget(sent_at)


def spy(**options: Any) -> Spy:
    return Spy(None, start_rate=1000, **options)


def client(network: httpx.AsyncBaseTransport, **options: Any) -> tuple[AsyncThrottledTransport, httpx.AsyncClient]:
    transport = AsyncThrottledTransport(transport=network, **options)
    return transport, httpx.AsyncClient(transport=transport)


async def refused(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    assert all(
        isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*tasks, return_exceptions=True)
    )


WAIT = {"Retry-After": "5"}


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
    from aiolimiter_fast.resilience import RetryBudget

    network = Network(*[503] * 100)
    _, http = client(network, retry={"budget": RetryBudget(share=0.5, per_second=0), "first": 0.1})
    for _ in range(10):
        task = asyncio.create_task(http.get(URL))
        await clock.run(10)
        assert task.result().status_code == 503
    assert len(network.sent) == 15


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


async def test_a_retrying_of_ones_own_is_used_as_it_is(clock: ManualClock) -> None:
    slept: list[float] = []
    network = Network(500, 500)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_result(lambda response: response.status_code == 500),
        stop=tenacity.stop_after_attempt(5),
        wait=tenacity.wait_fixed(7),
        sleep=sleep,
    )
    _, http = client(network, retry=retrying)
    assert (await http.get(URL)).status_code == 200
    assert slept == [7, 7]
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


# The rest.


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
        ({"limiter": tenacity.Retrying(), "adaptive": True}, "limiter must|ceiling must"),
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
