"""AdaptiveLimiter by itself: what is said late or wrongly, who waits, and who gives up."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolimiter_fast import (
    AcquireTimeout,
    AdaptiveLimiter,
    Duration,
    FixedWindow,
    InMemoryBucket,
    Limiter,
    LimitReached,
    Observation,
    Rate,
    StateBucket,
)
from aiolimiter_fast.testing import ManualClock

PLENTY = 1e12


def quick(**options: Any) -> AdaptiveLimiter:
    """One that nothing holds up but what it is told."""
    defaults: dict[str, Any] = {"spend": "greedy", "start_rate": PLENTY, "jitter": 0, "ramp": 0}
    return AdaptiveLimiter(**defaults | options)


def left(remaining: float, reset: float = 100.0, limit: float = 100.0) -> Observation:
    return Observation(limit=limit, remaining=remaining, reset_after=reset)


async def send(limiter: AdaptiveLimiter, count: int) -> list[float]:
    """Take permits, and say when each request was sent."""
    sent = []
    for _ in range(count):
        await limiter.acquire()
        sent.append(limiter.time())
    return sent


def count_free(limiter: AdaptiveLimiter) -> int:
    taken = 0
    while limiter.try_acquire():
        taken += 1
    return taken


# What is said, and when.


async def test_what_the_server_says_is_left_is_what_may_go(clock: ManualClock) -> None:
    limiter = quick()
    (sent,) = await send(limiter, 1)
    limiter.observe(left(3), 200, sent_at=sent)
    assert (limiter.limit, limiter.remaining, limiter.reset) == (100, 3, clock.time() + 100)
    assert count_free(limiter) == 3
    assert limiter.remaining == 0


async def test_requests_in_flight_may_not_be_counted_yet(clock: ManualClock) -> None:
    limiter = quick()
    sent = await send(limiter, 4)
    limiter.observe(left(10), 200, sent_at=sent[0])
    assert limiter.in_flight == 3
    assert count_free(limiter) == 7


@pytest.mark.parametrize("reset", [0.02, 1.0])  # to the millisecond, and rounded up to the second
async def test_a_late_response_of_the_window_before_does_not_lower_what_is_left_in_this_one(
    clock: ManualClock, reset: float
) -> None:
    limiter = quick()
    first, late, new = await send(limiter, 3)
    limiter.observe(Observation(limit=100, remaining=5, reset_after=reset, window=5), 200, sent_at=first)
    clock.advance(1.0)
    limiter.observe(Observation(limit=100, remaining=99, reset_after=5.0, window=5), 200, sent_at=new)
    limiter.observe(Observation(limit=100, remaining=4, reset_after=reset, window=5), 200, sent_at=late)
    assert limiter.remaining == 99


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
async def test_whatever_the_order_of_the_responses_the_least_counts(clock: ManualClock, order: tuple[int, ...]) -> None:
    limiter = quick()
    sent = await send(limiter, 4)
    for request in order:
        clock.advance(0.01)
        limiter.observe(left(13 - request), 200, sent_at=sent[request])
    assert count_free(limiter) == 10


async def test_a_late_response_never_raises_what_is_left(clock: ManualClock) -> None:
    limiter = quick()
    slow, quicker = await send(limiter, 2)
    clock.advance(1)
    limiter.observe(left(5), 200, sent_at=quicker)
    clock.advance(30)
    limiter.observe(left(90), 200, sent_at=slow)
    assert limiter.remaining == 5


async def test_a_request_that_was_sent_after_the_last_response_may_raise_it(clock: ManualClock) -> None:
    limiter = quick()
    (sent,) = await send(limiter, 1)
    limiter.observe(left(5), 200, sent_at=sent)
    clock.advance(1)
    (sent,) = await send(limiter, 1)
    clock.advance(1)
    limiter.observe(left(40), 200, sent_at=sent)
    assert limiter.remaining == 40


@given(st.permutations(range(8)), st.integers(8, 30))
def test_no_order_of_responses_admits_more_than_there_is(order: list[int], quota: int) -> None:
    async def main() -> None:
        with ManualClock().installed() as clock:
            limiter = quick()
            sent = await send(limiter, 8)
            used = 8
            for request in order:
                clock.advance(0.05)
                limiter.observe(left(quota - 1 - request), 200, sent_at=sent[request])
                if request % 3 == 0 and limiter.try_acquire():
                    used += 1
            assert used + count_free(limiter) <= quota

    asyncio.run(main())


async def test_when_a_window_ends_one_request_goes_ahead(clock: ManualClock) -> None:
    limiter = quick()
    (sent,) = await send(limiter, 1)
    limiter.observe(left(0, reset=10), 200, sent_at=sent)
    waiting = [asyncio.create_task(limiter.acquire()) for _ in range(5)]
    await clock.run(9.9)
    assert limiter.in_flight == 0
    await clock.run(0.2)
    assert limiter.in_flight == 1
    limiter.observe(left(99, reset=10), 200, sent_at=clock.time() - 0.1)
    await clock.settle()
    assert all(task.done() for task in waiting)


async def test_a_request_that_went_ahead_and_was_lost_is_followed_by_another(clock: ManualClock) -> None:
    limiter = quick()
    (sent,) = await send(limiter, 1)
    limiter.observe(left(0, reset=10), 200, sent_at=sent)
    await clock.run(10)
    assert count_free(limiter) == 1
    limiter.forget()
    assert count_free(limiter) == 1
    clock.advance(60)  # the flight timeout
    assert count_free(limiter) == 1


async def test_even_spending_spreads_what_is_left_over_the_window(clock: ManualClock) -> None:
    limiter = quick(spend="even")
    times = []

    async def client() -> None:
        while True:
            async with limiter.call() as call:
                times.append(clock.time())
                call.observe(left(10 - len(times), reset=1010 - clock.time(), limit=10), 200)

    task = asyncio.create_task(client())
    await clock.run(9.99)
    assert [round(time - 1000, 1) for time in times] == [float(second) for second in range(10)]
    task.cancel()


async def test_tokens_do_not_count_where_requests_do(clock: ManualClock) -> None:
    limiter, tokens = quick(), quick(unit="tokens")
    for each in (limiter, tokens):
        each.observe(
            {
                "x-ratelimit-remaining-requests": "9", "x-ratelimit-limit-requests": "10",
                "x-ratelimit-remaining-tokens": "500", "x-ratelimit-limit-tokens": "1000",
            },
            200,
        )  # fmt: skip
    assert (limiter.remaining, tokens.remaining) == (9, 500)
    assert tokens.try_acquire(450)
    assert not tokens.try_acquire(450)


async def test_only_the_resources_that_were_asked_for_count(clock: ManualClock) -> None:
    limiter = quick(resources={"core"})
    limiter.observe([Observation(remaining=0, resource="search"), Observation(remaining=5, resource="core")], 200)
    assert count_free(limiter) == 5


async def test_a_server_that_tells_only_what_is_used_needs_the_limit_told(clock: ManualClock) -> None:
    limiter = quick(unit="weight", limit=1200)
    limiter.observe({"X-MBX-USED-WEIGHT-1M": "1150"}, 200)
    assert limiter.remaining == 50


async def test_a_bucket_that_never_resets_is_asked_again_soon(clock: ManualClock) -> None:
    limiter = quick()
    limiter.observe({"X-Shopify-Shop-Api-Call-Limit": "40/40"}, 200)
    assert not limiter.try_acquire()
    await clock.run(0.5)
    assert count_free(limiter) == 1


async def test_a_server_that_invents_names_fills_no_memory(clock: ManualClock) -> None:
    limiter = quick()
    for number in range(1000):
        limiter.observe(Observation(remaining=5, resource=str(number)), 200)
    assert len(limiter._quotas) <= 100


async def test_a_quota_that_the_server_ceases_to_speak_of_is_forgotten(clock: ManualClock) -> None:
    limiter = quick()
    limiter.sync(limit=10, remaining=1, reset=10)
    for _ in range(30):
        await clock.run(5)
        (sent,) = await send(limiter, 1)
        limiter.observe({}, 200, sent_at=sent)
    await asyncio.gather(*(limiter.acquire() for _ in range(30)))


# Refusals and pauses.


@pytest.mark.parametrize("status", [429, 503, 418])
async def test_a_refusal_pauses_everybody_until_the_stated_time(clock: ManualClock, status: int) -> None:
    limiter = quick()
    sent = await send(limiter, 2)
    await send(limiter, 2)
    limiter.observe({"Retry-After": "7"}, status, sent_at=sent[0])
    limiter.observe({}, 200, sent_at=sent[1])
    assert limiter.paused_until == clock.time() + 7
    late = asyncio.create_task(limiter.acquire())
    await clock.run(6.9)
    assert limiter.in_flight == 2  # those that were in time
    assert not late.done()
    await clock.run(0.2)
    assert late.done()
    assert limiter.paused_until is None


async def test_after_a_pause_one_goes_ahead_and_then_the_others(clock: ManualClock) -> None:
    limiter = quick()
    (sent,) = await send(limiter, 1)
    limiter.observe({"Retry-After": "7"}, 503, sent_at=sent)
    waiting = [asyncio.create_task(limiter.acquire()) for _ in range(20)]
    await clock.run(30)
    assert sum(task.done() for task in waiting) == 1
    limiter.observe({}, 200, sent_at=clock.time() - 1)
    await clock.run(0.1)
    assert all(task.done() for task in waiting)


async def test_the_rate_ramps_up_after_a_pause(clock: ManualClock) -> None:
    limiter = AdaptiveLimiter(start_rate=100, ramp=1)
    (sent,) = await send(limiter, 1)
    limiter.observe({"Retry-After": "10"}, 503, sent_at=sent)
    await clock.run(12)
    (sent,) = await send(limiter, 1)
    limiter.observe({}, 200, sent_at=sent)
    waiting = [asyncio.create_task(limiter.acquire()) for _ in range(1000)]
    await clock.run(1)
    assert 1 <= sum(task.done() for task in waiting) <= 100
    for task in waiting:
        task.cancel()


async def test_a_pause_that_is_not_stated_doubles_up_to_a_tenth_of_the_outage_or_a_second(clock: ManualClock) -> None:
    limiter = quick()
    began = clock.time()
    pauses = []
    for _ in range(60):
        (sent,) = await send(limiter, 1)
        limiter.observe({}, 503, sent_at=sent)
        assert limiter.paused_until is not None
        pauses.append(round(limiter.paused_until - clock.time(), 3))
        clock.advance(pauses[-1] + 0.001)
    assert pauses == sorted(pauses)
    assert pauses[3] == pytest.approx(2 * pauses[2], rel=0.5)
    assert pauses[10] == 1
    assert clock.time() - began > 60
    assert pauses[-1] == 5


async def test_many_refusals_of_one_moment_are_one(clock: ManualClock) -> None:
    limiter = AdaptiveLimiter(start_rate=1000, jitter=0)
    alone = AdaptiveLimiter(start_rate=1000, jitter=0)
    for each, refusals in ((limiter, 50), (alone, 1)):
        sent = []
        for _ in range(60):
            await clock.run(0.001)
            sent += await send(each, 1)
        for at in sent[:10]:
            each.observe({}, 200, sent_at=at)
        for at in sent[10 : 10 + refusals]:
            each.observe({}, 429, sent_at=at)
        await clock.run(1)
        (at,) = await send(each, 1)
        each.observe({}, 200, sent_at=at)
        assert each.rate < 500
    assert limiter.rate == pytest.approx(alone.rate, rel=0.2)


async def test_quick_refusals_slow_it_down(clock: ManualClock) -> None:
    """A server that refuses faster than it serves must not look like a fast server."""
    limiter = AdaptiveLimiter(start_rate=1000, jitter=0)
    sent = await send(limiter, 1)
    limiter.observe({}, 429, sent_at=sent[0])
    assert not limiter.try_acquire()
    await clock.run(1)
    (at,) = await send(limiter, 1)
    limiter.observe({}, 200, sent_at=at)
    assert limiter.rate <= 500


async def test_a_refusal_from_before_the_pause_that_is_over_changes_nothing(clock: ManualClock) -> None:
    limiter = quick()
    early, refused = await send(limiter, 2)
    limiter.observe({"Retry-After": "1"}, 429, sent_at=refused)
    await clock.run(1)
    (sent,) = await send(limiter, 1)
    limiter.observe({}, 200, sent_at=sent)
    limiter.observe({"Retry-After": "100"}, 429, sent_at=early)
    assert limiter.paused_until is None


async def test_no_server_makes_it_sleep_longer_than_max_pause(clock: ManualClock) -> None:
    limiter = quick(max_pause=30)
    for nonsense in ("99999999", "Fri, 31 Dec 9999 23:59:59 GMT", "9" * 19, "-7", "NaN", "1e308"):
        limiter.observe([("Retry-After", nonsense)], 503)
        assert (limiter.paused_until or 0) <= clock.time() + 30
    limiter.observe({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "2000000"}, 200)
    waiting = asyncio.create_task(limiter.acquire())
    await clock.run(31)
    assert waiting.done()


async def test_jitter_lengthens_a_pause_a_little_and_never_shortens_it(clock: ManualClock) -> None:
    ends = set()
    for _ in range(20):
        limiter = AdaptiveLimiter(jitter=0.1)
        limiter.observe({"Retry-After": "5"}, 503)
        assert limiter.paused_until is not None
        ends.add(limiter.paused_until - clock.time())
    assert len(ends) > 10
    assert min(ends) >= 5
    assert max(ends) <= 5.5


async def test_pause_until_holds_everybody_and_resume_lets_them_go(clock: ManualClock) -> None:
    limiter = quick()
    limiter.pause_until(clock.time() + 50)
    limiter.pause_until(clock.time() + 5)  # shortens nothing
    waiting = asyncio.create_task(limiter.acquire())
    await clock.run(49)
    assert not waiting.done()
    limiter.resume()
    await clock.settle()
    assert waiting.done()


async def test_drain_gives_up_the_rest_of_the_window(clock: ManualClock) -> None:
    limiter = quick()
    limiter.sync(limit=100, remaining=50, reset=10)
    assert limiter.remaining == 50
    limiter.drain()
    assert limiter.remaining == 0
    await clock.run(9.9)
    assert not limiter.try_acquire()
    await clock.run(0.2)
    assert limiter.try_acquire()


async def test_sync_is_the_newest_word(clock: ManualClock) -> None:
    limiter = quick()
    await send(limiter, 2)
    limiter.sync(limit=10, remaining=3, reset=60)
    assert limiter.remaining == 1
    limiter.sync(remaining=8)
    assert limiter.remaining == 6
    assert limiter.limit == 10


# Who waits.


async def test_those_who_wait_go_in_order(clock: ManualClock) -> None:
    limiter = AdaptiveLimiter(start_rate=10)
    order: list[int] = []

    async def client(number: int) -> None:
        await limiter.acquire()
        order.append(number)

    tasks = [asyncio.create_task(client(number)) for number in range(20)]
    await clock.run(0.05)
    assert limiter.waiting == 19
    assert not limiter.try_acquire()
    await clock.run(5)
    assert order == list(range(20))
    await asyncio.gather(*tasks)


async def test_a_cancelled_waiter_takes_nothing_and_the_next_goes_on(clock: ManualClock) -> None:
    limiter = quick()
    limiter.sync(limit=10, remaining=0, reset=10)
    first, second = (asyncio.create_task(limiter.acquire()) for _ in range(2))
    await clock.run(5)
    first.cancel()
    await clock.run(5)
    assert second.done()
    assert limiter.in_flight == 1


async def test_cancelled_in_the_turn_in_which_it_is_woken_it_takes_nothing(clock: ManualClock) -> None:
    limiter = quick()
    limiter.sync(limit=10, remaining=0, reset=10)
    first, second = (asyncio.create_task(limiter.acquire()) for _ in range(2))
    await clock.run(5)
    limiter.sync(limit=10, remaining=1, reset=10)  # wakes the first
    first.cancel()
    await clock.settle()
    assert first.cancelled()
    assert second.done()
    assert limiter.in_flight == 1


async def test_ten_thousand_wait_and_all_go(clock: ManualClock) -> None:
    limiter = quick()
    limiter.pause_until(clock.time() + 1)
    tasks = [asyncio.create_task(limiter.acquire()) for _ in range(10_000)]
    await clock.run(2)
    assert all(task.done() for task in tasks)
    assert limiter.waiting == 0


async def test_call_forgets_a_request_that_came_to_nothing(clock: ManualClock) -> None:
    limiter = quick()

    async def send(error: type[BaseException]) -> None:
        async with limiter.call():
            assert limiter.in_flight == 1
            raise error

    for error in (ConnectionError, asyncio.CancelledError):
        with pytest.raises(error):
            await send(error)
        assert limiter.in_flight == 0
    async with limiter.call(3) as call:
        call.observe(SimpleNamespace(headers={"X-RateLimit-Remaining": "4"}, status_code=200))
        with pytest.raises(RuntimeError, match="once"):
            call.observe({}, 200)
    assert limiter.remaining == 4


async def test_responses_of_every_client_are_read(clock: ManualClock) -> None:
    for response in (
        SimpleNamespace(headers={"Retry-After": "3"}, status_code=503),  # httpx, requests
        SimpleNamespace(headers={"Retry-After": "3"}, status=503),  # aiohttp, urllib3
    ):
        limiter = quick()
        limiter.observe(response)
        assert limiter.paused_until == clock.time() + 3
    with pytest.raises(TypeError, match="seen"):
        quick().observe("Retry-After: 3")


async def test_not_to_block_and_timeouts(clock: ManualClock) -> None:
    limiter = quick()
    limiter.pause_until(clock.time() + 10)
    with pytest.raises(LimitReached) as refused:
        await limiter.acquire(block=False)
    assert refused.value.retry_after == pytest.approx(10)
    waiting = asyncio.create_task(limiter.acquire(timeout=4))
    await clock.run(4)
    with pytest.raises(AcquireTimeout):
        await waiting
    assert limiter.waiting == limiter.in_flight == 0


async def test_acquire_of_nothing_takes_nothing(clock: ManualClock) -> None:
    limiter = quick()
    await limiter.acquire(0)
    assert limiter.in_flight == 0


# Ceilings.


async def test_an_async_limiter_as_the_ceiling(clock: ManualClock, AsyncLimiter: Any) -> None:
    limiter = quick(ceiling=AsyncLimiter(2, 1))
    limiter.sync(limit=1000, remaining=1000, reset=60)
    tasks = [asyncio.create_task(limiter.acquire()) for _ in range(10)]
    await clock.run(1.01)
    assert sum(task.done() for task in tasks) == 4
    limiter.pause_until(clock.time() + 10)
    await clock.run(10.5)
    # What the ceiling admits after the pause is one burst: nothing was taken from it while all waited.
    assert 6 <= sum(task.done() for task in tasks) <= 7
    await clock.run(10)
    await asyncio.gather(*tasks)


def test_a_limiter_as_the_ceiling() -> None:
    limiter = quick(ceiling=Limiter(Rate(3, Duration.HOUR)))
    assert count_free(limiter) == 3
    assert limiter.wait_time() > 3000
    with pytest.raises(ValueError, match="whole number"):
        limiter.try_acquire(0.5)
    with pytest.raises(ValueError, match="never"):
        limiter.acquire_blocking(4)
    assert limiter.waiting == 0


# Threads.


def test_threads_and_tasks_share_one_quota() -> None:
    limiter = quick()
    limiter.sync(limit=100, remaining=100, reset=1000)
    taken: list[int] = []

    def work() -> None:
        count = 0
        while limiter.try_acquire():
            count += 1
        taken.append(count)

    async def tasks() -> None:
        await asyncio.gather(*(limiter.acquire() for _ in range(20)))
        taken.append(20)

    threads = [threading.Thread(target=work) for _ in range(8)]
    asyncio.run(tasks())
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 100


def test_a_thread_that_waits_is_woken_by_a_response() -> None:
    limiter = quick()
    limiter.sync(limit=10, remaining=0, reset=1000)
    done = threading.Event()

    def work() -> None:
        limiter.acquire_blocking()
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not limiter.waiting:
        pass
    assert not done.is_set()
    limiter.sync(limit=10, remaining=1, reset=1000)
    thread.join()
    assert done.is_set()


def test_a_task_that_waits_is_woken_from_another_thread() -> None:
    limiter = quick()
    limiter.sync(limit=10, remaining=0, reset=1000)

    async def main() -> None:
        waiting = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        await asyncio.to_thread(limiter.sync, limit=10, remaining=1, reset=1000)
        await waiting

    asyncio.run(main())
    assert limiter.in_flight == 1


def test_a_thread_gives_up_at_its_timeout_and_takes_nothing() -> None:
    limiter = quick()
    limiter.sync(limit=10, remaining=0, reset=1000)
    with pytest.raises(AcquireTimeout):
        limiter.acquire_blocking(timeout=0.001)
    assert limiter.waiting == limiter.in_flight == 0


def test_a_waiter_whose_loop_was_closed_holds_up_nobody() -> None:
    limiter = quick()
    limiter.sync(limit=10, remaining=0, reset=1000)
    loop = asyncio.new_event_loop()
    task = loop.create_task(limiter.acquire())
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert limiter.waiting == 1
    limiter.sync(limit=10, remaining=2, reset=1000)
    assert limiter.try_acquire()
    task.get_coro().close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]


async def test_in_a_forked_child_nobody_waits_behind_the_parents_threads(clock: ManualClock) -> None:
    limiter = quick()
    limiter.sync(limit=10, remaining=0, reset=10)
    waiting = asyncio.create_task(limiter.acquire())
    await clock.settle()
    limiter._turns._pid -= 1  # what a child finds
    await clock.run(5)
    limiter.sync(limit=10, remaining=1, reset=10)
    assert limiter.try_acquire()
    waiting.cancel()


def test_with_blocks_take_permits() -> None:
    limiter = quick()
    limiter.sync(limit=10, remaining=3, reset=1000)

    async def main() -> None:
        async with limiter:
            pass

    asyncio.run(main())
    with limiter:
        pass
    with limiter.call() as call:
        call.observe({"X-RateLimit-Remaining": "0"}, 200)
    assert not limiter.try_acquire()


# Bad input.


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"ceiling": 3}, TypeError, "ceiling"),
        # These decide under locks of their own, and so could wait for each other.
        ({"ceiling": Limiter(InMemoryBucket([Rate(3, 1000)], FixedWindow()))}, TypeError, "ceiling"),
        ({"ceiling": Limiter(StateBucket([Rate(3, 1000)]))}, TypeError, "ceiling"),
        ({"spend": "fast"}, ValueError, "spend"),
        ({"limit": 0}, ValueError, "limit"),
        ({"unit": 3}, TypeError, "unit"),
        ({"resources": "core"}, TypeError, "resources"),
        ({"start_rate": 0}, ValueError, "start_rate"),
        ({"start_rate": 0.01}, ValueError, "start_rate"),
        ({"min_rate": float("nan")}, ValueError, "min_rate"),
        ({"max_pause": float("inf")}, ValueError, "max_pause"),
        ({"max_pause": "3"}, TypeError, "max_pause"),
        ({"jitter": 1.5}, ValueError, "jitter"),
        ({"ramp": -1}, ValueError, "ramp"),
        ({"flight_timeout": 0}, ValueError, "flight_timeout"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(options: Any, error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=name):
        AdaptiveLimiter(**options)


def test_wrong_amounts_and_instants_change_nothing() -> None:
    limiter = quick()
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="amount"):
            limiter.try_acquire(wrong)
        with pytest.raises(ValueError, match="amount"):
            limiter.call(wrong)
    with pytest.raises(ValueError, match="when"):
        limiter.pause_until(float("inf"))
    with pytest.raises(ValueError, match="remaining"):
        limiter.sync(remaining=-1)
    assert limiter.in_flight == 0
    assert limiter.paused_until is None
    assert limiter.remaining is None
    assert "rate: 1e+12" in repr(limiter)
