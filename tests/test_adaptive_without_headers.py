"""The adaptive limiter against servers that tell nothing of their quota: how soon it is found, and how well it is held.

Demand is what fifty tasks can send. Phases of the server's windows differ by seed.
"""

from __future__ import annotations

import random
from statistics import mean
from typing import Any, NamedTuple

import pytest
from metered_runs import refused_share, share, simulate
from metering_servers import FixedWindow, MeteredServer, SlidingWindow, TokenBucket

from aiolimiter_fast import AdaptiveLimiter

METERS = [FixedWindow, SlidingWindow, TokenBucket]
LATENCIES = {"loopback": (0.001, 0.005), "near": (0.02, 0.08), "far": (0.2, 0.2)}
SEEDS = (0, 1, 2)


class Outcome(NamedTuple):
    share: float
    refused_share: float  # after the first five seconds
    refused: int


def outcome(meter: Any, window: int, quota: int, latency: tuple[float, float], retry_after: bool, seed: int) -> Outcome:
    """Twenty seconds from the start."""
    phase = random.Random(seed).uniform(0, window) if seed else 0.0
    server = MeteredServer(meter(quota * window, window), retry_after=retry_after, dated=False)
    simulate(AdaptiveLimiter(), server, latency=latency, seed=seed, phase=phase)
    late = sum(at >= phase + 5 for at in server.refused)
    return Outcome(share(server, 20 * quota), refused_share(server, phase + 5), late)


@pytest.mark.parametrize("retry_after", [True, False], ids=["retry-after", "silent"])
@pytest.mark.parametrize("far", LATENCIES)
@pytest.mark.parametrize("window", [1, 10])
@pytest.mark.parametrize("meter", METERS)
def test_from_the_start_most_of_the_quota_is_used_and_few_requests_refused(
    meter: Any, window: int, far: str, retry_after: bool
) -> None:
    # What is not reached: where each refusal costs a second, and each response takes a fifth of one.
    least = 0.8 if (window, far, retry_after) == (1, "far", True) else 0.85
    for quota in (5, 20, 100):
        seen = [outcome(meter, window, quota, LATENCIES[far], retry_after, seed) for seed in SEEDS]
        assert mean(each.share for each in seen) >= least, (quota, seen)
        assert min(each.share for each in seen) >= least - 0.15, (quota, seen)
        # Where a window is long and holds little, a few requests that ask are many: 0.05, or these few.
        assert all(each.refused_share <= 0.05 or each.refused <= 16 for each in seen), (quota, seen)


@pytest.mark.parametrize("retry_after", [True, False], ids=["retry-after", "silent"])
@pytest.mark.parametrize("window", [1, 10])
@pytest.mark.parametrize("meter", METERS)
def test_a_rate_fifty_times_the_first_is_found(meter: Any, window: int, retry_after: bool) -> None:
    seen = outcome(meter, window, 500, LATENCIES["near"], retry_after, 0)
    assert seen.share >= 0.85
    assert seen.refused_share <= 0.05


@pytest.mark.parametrize("retry_after", [True, False], ids=["retry-after", "silent"])
@pytest.mark.parametrize("meter", METERS)
def test_once_known_the_rate_is_held_almost_without_refusals(meter: Any, retry_after: bool) -> None:
    server = MeteredServer(meter(50, 1), retry_after=retry_after, dated=False)
    simulate(AdaptiveLimiter(), server, 120)
    assert share(server, 100 * 50, 20) >= 0.9
    assert refused_share(server, 20) <= 0.02


@pytest.mark.parametrize("window", [0.5, 3, 60])
@pytest.mark.parametrize("meter", METERS)
def test_windows_of_any_length_are_met(meter: Any, window: float) -> None:
    server = MeteredServer(meter(20 * window, window), retry_after=False, dated=False)
    simulate(AdaptiveLimiter(), server, 180)
    assert share(server, 180 * 20) >= 0.85
    assert refused_share(server, 5) <= 0.05


@pytest.mark.parametrize("meter", METERS)
def test_less_demand_than_there_is_quota_is_met_in_full(meter: Any) -> None:
    server = MeteredServer(meter(50, 1), dated=False)
    simulate(AdaptiveLimiter(), server, 30, tasks=2, latency=(0.1, 0.1))  # 20 a second
    assert sum(at >= 5 for at in server.admitted) >= 0.98 * 25 * 20
    assert not server.refused


@pytest.mark.parametrize("meter", METERS)
def test_a_rate_that_falls_and_rises_unsaid_is_found_again(meter: Any) -> None:
    server = MeteredServer(meter(50, 1), retry_after=False, dated=False, changes=[(20, 20), (50, 60)])
    simulate(AdaptiveLimiter(), server, 110)
    assert sum(30 <= at < 50 for at in server.admitted) >= 0.8 * 400
    assert sum(20 <= at < 50 for at in server.refused) <= 0.1 * 600
    assert sum(90 <= at < 110 for at in server.admitted) >= 0.7 * 1200


@pytest.mark.parametrize("retry_after", [True, False], ids=["retry-after", "silent"])
@pytest.mark.parametrize("meter", METERS)
def test_an_outage_is_followed_by_a_ramp(meter: Any, retry_after: bool) -> None:
    server = MeteredServer(meter(50, 1), retry_after=retry_after, dated=False, outages=[(8, 18)])
    simulate(AdaptiveLimiter(), server, 40)
    after = [at for at in server.admitted if at >= 18]
    assert after[0] - 18 <= 1.5
    assert sum(at < after[0] + 1 for at in after) <= 50
    assert len(server.unavailable) <= 20
    assert sum(at >= 25 for at in server.admitted) >= 0.8 * 15 * 50


def test_a_server_that_refuses_the_first_request_is_asked_again() -> None:
    server = MeteredServer(FixedWindow(20, 1), retry_after=False, dated=False)
    for _ in range(20):
        server.take_by_another(0.0)
    simulate(AdaptiveLimiter(), server)
    assert sum(at >= 5 for at in server.admitted) >= 0.85 * 15 * 20
