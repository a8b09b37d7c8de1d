"""What a bucket has to decide, and to say of its decisions."""

from __future__ import annotations

import random
from contextlib import suppress
from inspect import isawaitable

import pytest

from aiolimiter_fast.abstracts import Rate, RateItem
from aiolimiter_fast.testing.contract._schedule import Schedule
from aiolimiter_fast.testing.contract._surroundings import AGES, HOUR, Surroundings


class Decisions(Surroundings):
    """Tests of `put`, `put_decision`, `waiting` and the clock."""

    def test_it_admits_up_to_the_limit_and_names_the_rate_that_refuses(self) -> None:
        bucket = self.bucket(Rate(3, HOUR))
        assert bucket.failing_rate is None
        assert [self.put(bucket) for _ in range(5)] == [True] * 3 + [False] * 2, "five puts, with a limit of 3"
        assert bucket.failing_rate is bucket.rates[0], "failing_rate is to be the rate that refused"

    def test_weights_count_in_full(self) -> None:
        bucket = self.bucket(Rate(10, HOUR))
        admitted = [self.put(bucket, weight) for weight in (6, 5, 4, 1)]
        assert admitted == [True, False, True, False], "weights of 6, 5, 4 and 1, with a limit of 10"

    def test_an_item_of_no_weight_takes_nothing_and_clears_the_denial(self) -> None:
        bucket = self.bucket(Rate(1, HOUR))
        assert [self.put(bucket, weight) for weight in (0, 1, 1)] == [True, True, False]
        assert self.put(bucket, 0), "weight 0 is admitted, whatever the bucket holds"
        assert bucket.failing_rate is None, "an admission sets failing_rate to None, also one of weight 0"
        assert self.waiting(bucket, 1, self.now(bucket)) == 0
        assert self.count(bucket) == 1

    def test_a_negative_weight_makes_no_room(self) -> None:
        bucket = self.bucket(Rate(2, HOUR))
        self.put(bucket, 2)
        with suppress(AssertionError, ValueError):
            self.put(bucket, -2)
        assert not self.put(bucket), "a put of weight -2 made room in a full bucket"

    def test_a_weight_that_never_fits_is_refused_for_good_and_takes_nothing(self) -> None:
        bucket = self.bucket(Rate(2, HOUR), Rate(4, 2 * HOUR))
        for weight in (3, 5):
            assert not self.put(bucket, weight)
            assert bucket.failing_rate is bucket.rates[0]
            wait = self.waiting(bucket, weight, self.now(bucket))
            assert wait == -1, f"weight {weight} never fits into a limit of 2, so waiting() is -1, not {wait}"
        assert self.count(bucket) == 0
        assert self.put(bucket, 2)

    def test_the_heaviest_weight_is_counted_in_full(self) -> None:
        bucket = self.bucket(Rate(self.heaviest, AGES))
        admitted = [self.put(bucket, weight) for weight in (self.heaviest - 1, 2, 1, 1)]
        assert admitted == [True, False, True, False], f"{self.heaviest - 1}, 2, 1, 1 of {self.heaviest}"

    def test_rates_come_back_in_order_and_bad_ones_are_refused(self) -> None:
        bucket = self.bucket(Rate(5, 2 * HOUR), Rate(3, HOUR))
        assert [(rate.limit, rate.interval) for rate in bucket.rates] == [(3, HOUR), (5, 2 * HOUR)]
        with pytest.raises(ValueError, match="rate"):
            self.result(self.make_bucket([], self._name))
        with pytest.raises(ValueError, match="rate"):
            self.result(self.make_bucket([Rate(5, HOUR), Rate(3, 2 * HOUR)], self._name))

    def test_the_time_is_whole_milliseconds_that_do_not_fall(self) -> None:
        bucket = self.bucket(Rate(1, HOUR))
        times = [self.now(bucket) for _ in range(3)]
        assert times == sorted(times)

    @pytest.mark.parametrize("seed", range(3))
    def test_it_decides_as_a_list_of_time_stamps_would(self, seed: int) -> None:
        chance, unit = random.Random(seed), self.interval
        bucket = self.bucket(Rate(4, unit), Rate(7, 3 * unit), Rate(9, 5 * unit))
        schedule = Schedule(self, bucket)
        for _ in range(20 if self.own_clock else 400):
            schedule.sleep(chance.choice((0, 0, 1, unit // 3, unit - 1, unit, unit + 1)))
            schedule.put(chance.choice((1, 1, 1, 2, 4, 5)))

    @pytest.mark.parametrize("weight", [1, 2, 4])
    def test_after_exactly_the_wait_it_admits_and_a_millisecond_earlier_it_does_not(self, weight: int) -> None:
        bucket = self.bucket(Rate(4, self.interval))
        schedule = Schedule(self, bucket)
        schedule.put(1)
        schedule.sleep(self.interval // 4)
        while schedule.put(3):
            schedule.sleep(self.interval // 10)
        for _ in range(3):
            if schedule.put(weight):
                continue
            early = schedule.time
            wait = self.waiting(bucket, weight, early)
            late = self.now(bucket) if self.own_clock else early
            assert 0 < wait <= self.interval + 1
            if not self.own_clock:
                assert self.waiting(bucket, weight, early + wait - 1) == 1, "waiting() does not end when it said"
                assert self.waiting(bucket, weight, early + wait) == 0, "waiting() does not end when it said"
                schedule.sleep(wait - 1)
                assert not schedule.put(weight), f"waiting() was {wait} ms, and it was admitted a millisecond earlier"
                schedule.sleep(1)
            else:
                schedule.sleep(max(wait - self.interval // 10, 0))
                admitted = schedule.put(weight)
                assert not admitted or self.now(bucket) >= early + wait - 1
                if admitted:
                    continue
                schedule.time = late
                schedule.sleep(wait)
            assert schedule.put(weight), f"it was refused again after the {wait} ms that waiting() had told"

    def test_several_rates_are_waited_for_one_after_the_other(self) -> None:
        unit = self.interval
        bucket = self.bucket(Rate(2, unit), Rate(3, 3 * unit))
        schedule = Schedule(self, bucket)
        admitted = 0
        for _ in range(40):
            if schedule.put():
                admitted += 1
            else:
                schedule.sleep(max(self.waiting(bucket, 1, schedule.time), 1))
            if admitted == 7:
                break
        assert admitted == 7

    def test_is_async_says_what_put_gives(self) -> None:
        bucket = self.bucket(Rate(3, HOUR))
        now = self.now(bucket)
        admitted = bucket.put(RateItem("item", now))
        kind = "an awaitable" if isawaitable(admitted) else "no awaitable"
        assert self.result(admitted) is True
        if bucket.is_async is not None:
            assert bucket.is_async is (kind == "an awaitable"), f"is_async is {bucket.is_async}, and put() gave {kind}"

    def test_remaining_and_wait_time_tell_of_what_put_would_do(self) -> None:
        """Where they are there at all: a bucket may leave them as they are in AbstractBucket."""
        bucket = self.bucket(Rate(5, HOUR), Rate(8, 2 * HOUR))
        assert self.put(bucket, 3)
        with suppress(NotImplementedError):
            assert bucket.remaining() == [2, 5], "permits left of 5 and of 8, with 3 in the bucket"
        with suppress(NotImplementedError):
            assert bucket.wait_time(2) == 0
            assert 0 < bucket.wait_time(3) <= HOUR / 1000 + 0.001
            assert bucket.wait_time(6) == float("inf")
        assert self.put(bucket, 2), "remaining() and wait_time() are to take nothing"
        assert not self.put(bucket)

    def test_put_decision_tells_what_put_and_waiting_tell(self) -> None:
        bucket = self.bucket(Rate(2, HOUR))
        now = self.now(bucket)
        decisions = [self.result(bucket.put_decision(RateItem("item", now, weight))) for weight in (0, 2, 1, 3)]
        assert [decision.allowed for decision in decisions] == [True, True, False, False]
        assert decisions[2].failing_rate is decisions[3].failing_rate is bucket.rates[0]
        assert decisions[2].retry_after_ms is None or 0 < decisions[2].retry_after_ms <= HOUR + 1
        assert decisions[3].retry_after_ms is None
