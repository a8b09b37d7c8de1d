"""Retries: after what, how long to wait, when to stop; with tenacity, and the errors of the real clients."""

from __future__ import annotations

import asyncio
import ssl
from types import SimpleNamespace
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import tenacity
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from aiolimiter_fast import AsyncLimiter
from aiolimiter_fast.resilience import (
    RetryBudget,
    is_connection_error,
    is_failure,
    is_idempotent,
    is_transient,
    retry_if_transient,
    retry_options,
    wait_as_told,
)
from aiolimiter_fast.testing import ManualClock

GET, POST = httpx.Request("GET", "http://host/"), httpx.Request("POST", "http://host/")
KEY: Any = SimpleNamespace(ssl=None, host="host", port=80, is_ssl=False)


def requests_error(kind: type[requests.RequestException], method: str, *args: Any) -> requests.RequestException:
    return kind(*args, request=requests.Request(method, "http://host/").prepare())


def refused_by_urllib3() -> urllib3.exceptions.MaxRetryError:
    reason = urllib3.exceptions.NewConnectionError(SimpleNamespace(host="host", port=80), "refused")  # type: ignore[arg-type]
    return urllib3.exceptions.MaxRetryError(SimpleNamespace(), "/", reason)  # type: ignore[arg-type]


def bad_certificate() -> httpx.ConnectError:
    error = httpx.ConnectError("certificate", request=GET)
    error.__cause__ = ssl.SSLCertVerificationError("expired")
    return error


@pytest.mark.parametrize(
    ("outcome", "transient"),
    [
        (httpx.Response(429, request=POST), True),
        (httpx.Response(503, request=GET), True),
        (httpx.Response(503, request=POST), False),
        (httpx.Response(500, request=GET), False),
        (httpx.Response(200, request=GET), False),
        (httpx.Response(503, request=httpx.Request("POST", "http://host/", headers={"Idempotency-Key": "1"})), True),
        (httpx.Response(503), False),
        (httpx.HTTPStatusError("", request=GET, response=httpx.Response(503, request=GET)), True),
        (httpx.ReadTimeout("", request=GET), True),
        (httpx.ReadTimeout("", request=POST), False),
        (httpx.ReadTimeout(""), False),
        (httpx.ConnectError("", request=POST), True),
        (httpx.ConnectTimeout("", request=POST), True),
        (httpx.PoolTimeout("", request=POST), True),
        (httpx.RemoteProtocolError("", request=GET), True),
        (httpx.LocalProtocolError("", request=GET), False),
        (httpx.UnsupportedProtocol("", request=GET), False),
        (bad_certificate(), False),
        (requests_error(requests.ReadTimeout, "GET"), True),
        (requests_error(requests.ReadTimeout, "POST"), False),
        (requests_error(requests.ConnectTimeout, "POST"), True),
        (requests_error(requests.ConnectionError, "GET"), True),
        (requests_error(requests.ConnectionError, "POST"), False),
        (requests_error(requests.ConnectionError, "POST", refused_by_urllib3()), True),
        (requests_error(requests.exceptions.SSLError, "GET"), False),
        (requests_error(requests.exceptions.InvalidURL, "GET"), False),
        (aiohttp.ServerDisconnectedError(), False),
        (aiohttp.ClientConnectorError(KEY, OSError()), True),
        (aiohttp.ClientPayloadError(), False),
        (aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError()), False),
        (aiohttp.ClientResponseError(SimpleNamespace(method="GET", headers={}, real_url=""), (), status=503), True),  # type: ignore[arg-type]
        (SimpleNamespace(status=503, method="GET"), True),
        (ConnectionRefusedError(), True),
        (ConnectionResetError(), False),
        (TimeoutError(), False),
        (asyncio.CancelledError(), False),
        (KeyboardInterrupt(), False),
        (ValueError(), False),
        ("text", False),
        (None, False),
    ],
)  # fmt: skip
def test_after_what_another_attempt_is_due(outcome: Any, transient: bool) -> None:
    assert is_transient(outcome) is transient


def test_a_method_that_the_outcome_does_not_tell_can_be_stated() -> None:
    for outcome in (aiohttp.ServerDisconnectedError(), httpx.Response(503), TimeoutError()):
        assert is_transient(outcome, "GET")
        assert not is_transient(outcome, "POST")
    assert not is_transient(httpx.Response(503, request=POST), "GET")  # told is told
    assert is_idempotent(None, "put")


@pytest.mark.parametrize(
    ("outcome", "failed"),
    [
        (httpx.Response(500), True),
        (httpx.Response(429), False),
        (httpx.ReadTimeout(""), True),
        (KeyError(), False),
        (3, False),
    ],
)
def test_what_speaks_against_a_server(outcome: Any, failed: bool) -> None:
    assert is_failure(outcome) is failed
    assert not is_connection_error(SystemExit())


def state(outcome: Any, attempt: int = 1) -> tenacity.RetryCallState:
    made = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    made.attempt_number = attempt
    if isinstance(outcome, BaseException):
        made.set_exception((type(outcome), outcome, None))
    else:
        made.set_result(outcome)
    return made


def refusal(status: int = 503, **headers: str) -> httpx.Response:
    return httpx.Response(
        status, headers={name.replace("_", "-"): value for name, value in headers.items()}, request=GET
    )


def test_it_waits_as_long_as_the_response_says_and_a_little_longer() -> None:
    wait = wait_as_told(max_wait=60)
    assert 7 <= wait(state(refusal(Retry_After="7"))) <= 7.7
    assert 0.25 <= wait(state(refusal(429, retry_after_ms="250"))) <= 0.275
    error = httpx.HTTPStatusError("", request=GET, response=refusal(Retry_After="7"))
    assert 7 <= wait(state(error)) <= 7.7
    seconds = wait(state(refusal(429, X_RateLimit_Remaining="0", X_RateLimit_Reset="20")))
    assert 20 <= seconds <= 22


@given(
    st.text(max_size=30) | st.sampled_from(["1e308", "9" * 300, "NaN", "-1", "Fri, 31 Dec 9999 23:59:59 GMT", "1e9"])
)
def test_whatever_the_response_says_the_wait_is_bounded(said: str) -> None:
    response = SimpleNamespace(status=429, headers={"Retry-After": said})
    for attempt in (1, 5, 10_000):
        assert 0 <= wait_as_told(max_wait=30)(state(response, attempt)) <= 30


def test_where_nothing_is_said_the_wait_is_random_below_a_bound_that_doubles() -> None:
    wait = wait_as_told(max_wait=8, first=1)
    for attempt, bound in enumerate((1, 2, 4, 8, 8, 8), start=1):
        waits = [wait(state(ConnectionResetError(), attempt)) for _ in range(200)]
        assert max(waits) <= bound
        assert min(waits) < 0.3 * bound
        assert max(waits) > 0.7 * bound


def test_further_statuses_and_a_word_of_the_users_own() -> None:
    assert not retry_if_transient()(state(refusal(502)))
    assert retry_if_transient(statuses={502})(state(refusal(502)))
    assert not retry_if_transient(statuses={502})(state(httpx.Response(502, request=POST)))
    assert retry_if_transient(also=lambda outcome: isinstance(outcome, KeyError))(state(KeyError()))


async def test_each_attempt_takes_a_permit_of_its_own(clock: ManualClock) -> None:
    limiter = AsyncLimiter(1, 10)
    sent = []
    answers: list[httpx.Response | Exception] = [refusal(Retry_After="1"), ConnectionRefusedError()]
    answers.append(httpx.Response(200, request=GET))

    async def send() -> httpx.Response:
        await limiter.acquire()
        sent.append(clock.time() - 1000)
        answer = answers[len(sent) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    retrying = tenacity.AsyncRetrying(**retry_options())
    task: asyncio.Task[httpx.Response] = asyncio.create_task(retrying(send))
    await clock.run(30)
    assert (await task).status_code == 200
    assert sent == [pytest.approx(0), pytest.approx(10), pytest.approx(20)]


async def test_cancelled_while_it_waits_it_does_not_try_again(clock: ManualClock) -> None:
    sent = []

    async def send() -> httpx.Response:
        sent.append(1)
        return refusal(Retry_After="10")

    retrying = tenacity.AsyncRetrying(**retry_options())
    task: asyncio.Task[httpx.Response] = asyncio.create_task(retrying(send))
    await clock.run(5)
    task.cancel()
    await clock.run(60)
    assert task.cancelled()
    assert sent == [1]


def test_the_last_response_is_returned_and_the_last_error_raised() -> None:
    retrying = tenacity.Retrying(**retry_options(attempts=3), sleep=lambda seconds: None)
    sent = []

    def answer(outcome: Any) -> Any:
        sent.append(outcome)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    response = refusal()
    assert retrying(answer, response) is response
    with pytest.raises(ConnectionRefusedError):
        retrying(answer, ConnectionRefusedError())
    assert len(sent) == 6


def test_no_attempt_begins_after_the_time_budget() -> None:
    slept: list[float] = []
    sent = []

    def send() -> httpx.Response:
        sent.append(1)
        return refusal(Retry_After="20")

    # It would sleep for 20 s: that is beyond the 10 s, so that it does not even begin.
    assert tenacity.Retrying(**retry_options(max_time=10), sleep=slept.append)(send).status_code == 503
    assert (len(sent), slept) == (1, [])


def test_in_an_outage_retries_stay_a_share_of_the_traffic() -> None:
    now = [0.0]
    budget = RetryBudget(share=0.1, per_second=0, clock=lambda: now[0])
    retrying = tenacity.Retrying(**retry_options(attempts=5, budget=budget), sleep=lambda seconds: None)
    sent = []

    def send() -> httpx.Response:
        sent.append(1)
        return refusal()

    for _ in range(1000):
        retrying(send)
    assert 1090 <= len(sent) <= 1101


def test_a_retry_that_another_bound_forbids_costs_nothing_of_the_budget() -> None:
    budget = RetryBudget(share=0, per_second=5, clock=lambda: 0.0)
    tenacity.Retrying(**retry_options(attempts=1, budget=budget))(refusal)
    assert budget.balance == 5


def test_a_few_retries_per_second_are_always_allowed_and_saved_up_to_a_bound() -> None:
    now = [0.0]
    budget = RetryBudget(share=0, per_second=2, most=3, clock=lambda: now[0])
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]
    now[0] = 0.5
    assert [budget.withdraw() for _ in range(2)] == [True, False]
    now[0] = 1000
    assert budget.balance == 3
    now[0] = 0  # a clock that goes back gives nothing
    assert budget.balance == 3


@pytest.mark.parametrize(
    ("make", "error", "name"),
    [
        (lambda: RetryBudget(share=1.5), ValueError, "share"),
        (lambda: RetryBudget(per_second=-1), ValueError, "per_second"),
        (lambda: RetryBudget(most=0), ValueError, "most"),
        (lambda: wait_as_told(max_wait=0), ValueError, "max_wait"),
        (lambda: wait_as_told(first=float("inf")), ValueError, "first"),
        (lambda: retry_options(attempts=0), ValueError, "attempts"),
        (lambda: retry_options(attempts=2.0), TypeError, "attempts"),  # type: ignore[arg-type]
        (lambda: retry_options(max_time=-1), ValueError, "max_time"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(make: Any, error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=name):
        make()


def test_the_breaker_needs_no_tenacity() -> None:
    import subprocess
    import sys

    source = "import sys; sys.modules['tenacity'] = None; from aiolimiter_fast.resilience import CircuitBreaker"
    subprocess.run([sys.executable, "-c", source], check=True)
