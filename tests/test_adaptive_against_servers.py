"""The adaptive limiter against servers that meter as real ones do: what it uses of the quota, and what is refused."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from metered_runs import most_refused, refused_share, run, share
from metering_servers import DIALECTS, FixedWindow, MeteredServer, SlidingWindow, TokenBucket

from aiolimiter_fast import AdaptiveLimiter

METERS = [FixedWindow, SlidingWindow, TokenBucket]
Spend = Literal["even", "greedy"]
SPENDS: tuple[Spend, ...] = ("even", "greedy")


@pytest.mark.parametrize("meter", METERS)
@pytest.mark.parametrize("spend", SPENDS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_with_headers_the_quota_is_used_and_at_most_one_request_per_window_refused(
    dialect: str, spend: Spend, meter: Any
) -> None:
    server = MeteredServer(meter(200, 10), DIALECTS[dialect])
    run(AdaptiveLimiter(spend=spend), server, 40)
    assert share(server, 800) >= 0.95
    assert most_refused(server, 10) <= 1


@pytest.mark.parametrize("dialect", DIALECTS)
def test_even_spending_is_even(dialect: str) -> None:
    server = MeteredServer(FixedWindow(200, 10), DIALECTS[dialect])
    run(AdaptiveLimiter(spend="even"), server, 20)
    for second in range(1, 19):
        assert 10 <= sum(second <= at < second + 1 for at in server.admitted) <= 30


@pytest.mark.parametrize("spend", SPENDS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_of_a_quota_shared_with_a_second_client_the_rest_is_used(dialect: str, spend: Spend) -> None:
    server = MeteredServer(FixedWindow(100, 5), DIALECTS[dialect])
    run(AdaptiveLimiter(spend=spend), server, another_every=0.1)
    assert share(server, 400) >= 0.95
    assert most_refused(server, 5) <= 1


@pytest.mark.parametrize("spend", SPENDS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_quota_that_changes_in_mid_window_is_followed(dialect: str, spend: Spend) -> None:
    server = MeteredServer(FixedWindow(100, 5), DIALECTS[dialect], changes=[(7.5, 40), (15, 200)])
    run(AdaptiveLimiter(spend=spend), server)
    assert sum(10 <= at < 15 for at in server.admitted) >= 38
    assert sum(at >= 15 for at in server.admitted) >= 190
    assert most_refused(server, 5) <= 2


@pytest.mark.parametrize("dialect", DIALECTS)
def test_slow_answers_cost_little_of_a_quota_that_is_spent_greedily(dialect: str) -> None:
    server = MeteredServer(FixedWindow(100, 5), DIALECTS[dialect])
    run(AdaptiveLimiter(spend="greedy"), server, latency=(0.5, 2.0))
    assert share(server, 400) >= 0.95
    assert most_refused(server, 5) <= 1


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_spent_evenly_has_arrived_when_the_window_ends(dialect: str) -> None:
    server = MeteredServer(FixedWindow(250, 5), DIALECTS[dialect])
    run(AdaptiveLimiter(spend="even"), server, latency=(0.2, 0.6))
    assert share(server, 1000) >= 0.98
    assert most_refused(server, 5) <= 1


@pytest.mark.parametrize("spend", SPENDS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_after_an_outage_the_first_second_is_at_most_the_permitted_rate(dialect: str, spend: Spend) -> None:
    server = MeteredServer(FixedWindow(100, 5), DIALECTS[dialect], outages=[(5, 15)])
    run(AdaptiveLimiter(spend=spend), server, 30)
    after = [at for at in server.admitted if at >= 15]
    assert after[0] - 15 <= 5.5
    assert sum(at < after[0] + 1 for at in after) <= 20
    assert len(server.unavailable) <= 20
    assert share(server, 400) >= 0.95  # of the windows in which it was there


@pytest.mark.parametrize("meter", METERS)
@pytest.mark.parametrize(("quota", "start_rate"), [(20, 10), (50, 10), (200, 50)])
def test_without_headers_most_of_the_quota_is_found_and_few_requests_refused(
    meter: Any, quota: int, start_rate: float
) -> None:
    server = MeteredServer(meter(quota, 1), retry_after=False)
    run(AdaptiveLimiter(start_rate=start_rate), server)
    assert share(server, 20 * quota) >= 0.85
    assert refused_share(server, 5) <= 0.05


@pytest.mark.parametrize("meter", METERS)
def test_a_retry_after_that_is_rounded_up_is_obeyed_though_it_costs(meter: Any) -> None:
    server = MeteredServer(meter(50, 1))
    run(AdaptiveLimiter(), server, 40)
    assert share(server, 35 * 50, 5) >= 0.75
    assert refused_share(server, 5) <= 0.02


@pytest.mark.parametrize("meter", METERS)
def test_a_rate_that_falls_and_rises_unsaid_is_found_again(meter: Any) -> None:
    server = MeteredServer(meter(50, 1), retry_after=False, changes=[(15, 20), (30, 60)])
    run(AdaptiveLimiter(), server, 60)
    assert sum(20 <= at < 30 for at in server.admitted) >= 0.8 * 200
    assert sum(15 <= at < 30 for at in server.refused) <= 0.1 * 300
    assert sum(50 <= at < 60 for at in server.admitted) >= 0.7 * 600


@pytest.mark.parametrize("retry_after", [True, False])
@pytest.mark.parametrize("meter", METERS)
def test_without_headers_too_an_outage_is_followed_by_a_ramp(meter: Any, retry_after: bool) -> None:
    server = MeteredServer(meter(50, 1), retry_after=retry_after, outages=[(8, 18)])
    run(AdaptiveLimiter(), server, 30)
    after = [at for at in server.admitted if at >= 18]
    assert after[0] - 18 <= 5.5
    assert sum(at < after[0] + 1 for at in after) <= 50
    assert len(server.unavailable) <= 20
