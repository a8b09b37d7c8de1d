"""The adaptive limiter against servers that tell their quota: what it uses of it, and what is refused."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from metered_runs import most_refused, refused_share, run, share, simulate
from metering_servers import DIALECTS, FixedWindow, MeteredServer, SlidingWindow, TokenBucket

from aiolimiter_fast import AdaptiveLimiter

METERS = [FixedWindow, SlidingWindow, TokenBucket]
Spend = Literal["even", "greedy"]
SPENDS: tuple[Spend, ...] = ("even", "greedy")


@pytest.mark.parametrize("meter", METERS)
@pytest.mark.parametrize("spend", SPENDS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_quota_is_used_and_at_most_one_request_per_window_refused(dialect: str, spend: Spend, meter: Any) -> None:
    server = MeteredServer(meter(200, 10), DIALECTS[dialect])
    simulate(AdaptiveLimiter(spend=spend), server, 40)
    assert share(server, 800) >= 0.95
    assert most_refused(server, 10) <= 1


@pytest.mark.parametrize("meter", METERS)
@pytest.mark.parametrize("spend", SPENDS)
def test_the_same_with_tasks(spend: Spend, meter: Any) -> None:
    server = MeteredServer(meter(100, 5), DIALECTS["discord"])
    run(AdaptiveLimiter(spend=spend), server)
    assert share(server, 400) >= 0.95
    assert most_refused(server, 5) <= 1


@pytest.mark.parametrize("retry_after", [True, False])
@pytest.mark.parametrize("meter", METERS)
def test_the_same_with_tasks_and_without_headers(meter: Any, retry_after: bool) -> None:
    server = MeteredServer(meter(50, 1), retry_after=retry_after)
    run(AdaptiveLimiter(), server)
    assert share(server, 1000) >= 0.85
    assert refused_share(server, 5) <= 0.05


@pytest.mark.parametrize("latency", [(0.001, 0.005), (0.02, 0.08)])
@pytest.mark.parametrize("spend", SPENDS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_fixed_windows_of_a_second_are_used_too(dialect: str, spend: Spend, latency: tuple[float, float]) -> None:
    server = MeteredServer(FixedWindow(20, 1), DIALECTS[dialect])
    simulate(AdaptiveLimiter(spend=spend), server, latency=latency, phase=0.4)
    assert share(server, 400) >= 0.95
    assert most_refused(server, 1) <= 1


@pytest.mark.parametrize("phase", [0.0, 0.4])
@pytest.mark.parametrize("latency", [(0.001, 0.005), (0.02, 0.08), (0.2, 0.2)])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_of_a_sliding_window_is_used_what_will_have_come_back(
    dialect: str, latency: tuple[float, float], phase: float
) -> None:
    """Though resets are told in whole seconds, rounded up; to wait for each of them would use half."""
    for quota, window in ((20, 1), (250, 5)):
        server = MeteredServer(SlidingWindow(quota, window), DIALECTS[dialect])
        simulate(AdaptiveLimiter(spend="even"), server, latency=latency, phase=phase)
        assert share(server, 20 * quota / window) >= (0.95 if window == 5 else 0.93)
        assert not server.refused


@pytest.mark.parametrize("window", [1.5, 2.5])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_sliding_window_whose_length_is_guessed_wrong_costs_few_refusals(dialect: str, window: float) -> None:
    server = MeteredServer(SlidingWindow(20 * window, window), DIALECTS[dialect])
    simulate(AdaptiveLimiter(spend="even"), server)
    assert share(server, 400) >= 0.7
    assert most_refused(server, window) <= 2
    assert refused_share(server, 5) <= 0.02


@pytest.mark.parametrize("dialect", DIALECTS)
def test_even_spending_is_even(dialect: str) -> None:
    server = MeteredServer(FixedWindow(200, 10), DIALECTS[dialect])
    simulate(AdaptiveLimiter(spend="even"), server)
    for second in range(1, 19):
        assert 10 <= sum(second <= at < second + 1 for at in server.admitted) <= 30


@pytest.mark.parametrize("meter", METERS)
@pytest.mark.parametrize("spend", SPENDS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_of_a_quota_shared_with_a_second_client_the_rest_is_used(dialect: str, spend: Spend, meter: Any) -> None:
    server = MeteredServer(meter(100, 5), DIALECTS[dialect])
    simulate(AdaptiveLimiter(spend=spend), server, another_every=0.1)
    assert share(server, 400) >= 0.95
    assert most_refused(server, 5) <= 1


@pytest.mark.parametrize("meter", METERS)
@pytest.mark.parametrize("spend", SPENDS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_quota_that_changes_in_mid_window_is_followed(dialect: str, spend: Spend, meter: Any) -> None:
    server = MeteredServer(meter(100, 5), DIALECTS[dialect], changes=[(7.5, 40), (15, 200)])
    simulate(AdaptiveLimiter(spend=spend), server, 33)
    assert sum(10 <= at < 15 for at in server.admitted) >= 0.85 * 40
    # Of 18 seconds, three of which it takes to notice; a sliding window with rounded resets goes by bursts.
    assert sum(at >= 15 for at in server.admitted) >= 0.7 * 18 * 40
    # A sliding window that has become smaller refuses until enough has left it, second by second as it says.
    assert most_refused(server, 5) <= (4 if meter is SlidingWindow else 2)
    assert len(server.refused) <= (10 if meter is SlidingWindow else 6)


@pytest.mark.parametrize("meter", METERS)
@pytest.mark.parametrize("spend", SPENDS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_slow_answers_cost_what_is_in_flight(dialect: str, spend: Spend, meter: Any) -> None:
    server = MeteredServer(meter(100, 5), DIALECTS[dialect])
    simulate(AdaptiveLimiter(spend=spend), server, latency=(0.5, 2.0))
    # A sliding window admits nothing in place of what is in flight: a quarter of five seconds, and what is not sure.
    least = 0.7 if meter is SlidingWindow else 0.95 if spend == "greedy" else 0.85
    assert share(server, 400) >= least
    assert most_refused(server, 5) <= 1


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_quota_that_is_raised_in_mid_window_is_used_in_that_window(dialect: str) -> None:
    server = MeteredServer(FixedWindow(250, 5), DIALECTS[dialect], changes=[(5, 100), (12.5, 250)])
    run(AdaptiveLimiter(spend="even"), server)
    assert sum(10 <= at < 15 for at in server.admitted) >= 240
    assert share(server, 850) >= 0.98


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_spent_evenly_has_arrived_when_the_window_ends(dialect: str) -> None:
    server = MeteredServer(FixedWindow(250, 5), DIALECTS[dialect])
    simulate(AdaptiveLimiter(spend="even"), server, latency=(0.2, 0.6))
    assert share(server, 1000) >= 0.98
    assert most_refused(server, 5) <= 1


@pytest.mark.parametrize("meter", METERS)
@pytest.mark.parametrize("spend", SPENDS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_after_an_outage_the_first_second_is_at_most_the_permitted_rate(dialect: str, spend: Spend, meter: Any) -> None:
    server = MeteredServer(meter(100, 5), DIALECTS[dialect], outages=[(5, 15)])
    simulate(AdaptiveLimiter(spend=spend), server, 33)
    after = [at for at in server.admitted if at >= 15]
    assert after[0] - 15 <= 1.5
    assert sum(at < after[0] + 1 for at in after) <= 20
    assert len(server.unavailable) <= 20
    assert len(after) >= 0.7 * 18 * 20
    assert most_refused(server, 5) <= 1
