"""What a bucket has to say of what it holds."""

from __future__ import annotations

import pytest

from aiolimiter_fast.abstracts import Rate
from aiolimiter_fast.testing.contract._schedule import Schedule
from aiolimiter_fast.testing.contract._surroundings import HOUR, Surroundings

HOSTILE_NAMES = (
    "", " ", "it's", '"quoted"', "`tick`", "a;b--c", "{brace}", "{hash}:tag", "%s", "%", "_", "*", "?", "[a-z]", "a\\b",
    "../up", "a/b", "line\nbreak", "nul\0byte", "\U0001f6a6", "\u0000", "e\u0301", "x" * 10_240, "'; DROP TABLE items",
)  # fmt: skip


class Contents(Surroundings):
    """Tests of `count`, `peek`, `leak` and `flush`, and of names."""

    def test_count_peek_and_leak_tell_of_units(self) -> None:
        bucket = self.bucket(Rate(5, HOUR))
        assert (self.count(bucket), self.result(bucket.peek(0))) == (0, None)
        assert self.result(bucket.leak(self.now(bucket))) == 0
        start = self.now(bucket)  # no item is to be older than what the bucket was asked before
        self.put(bucket, 2, start, "first")
        self.put(bucket, 3, start + 1, "second")
        assert not self.put(bucket, 1, start + 2)
        assert self.count(bucket) == 5, "units, of two items of weights 2 and 3"
        if self.is_log(bucket):
            units = [self.result(bucket.peek(index)) for index in range(5)]
            times = [unit.timestamp for unit in units]
            assert times == sorted(times, reverse=True)
            if not self.own_clock:
                assert times == [start + 1] * 3 + [start] * 2
            if self.keeps_names:
                assert [unit.name for unit in units] == ["second"] * 3 + ["first"] * 2
        assert self.result(bucket.peek(5)) is None
        assert self.result(bucket.leak(self.now(bucket))) == 0
        assert self.count(bucket) == 5

    def test_what_has_left_every_window_leaks_and_the_rest_stays(self) -> None:
        bucket = self.bucket(Rate(3, self.interval), Rate(4, 3 * self.interval))
        schedule = Schedule(self, bucket)
        schedule.put(2)
        schedule.sleep(3 * self.interval + 2)
        schedule.put(1)
        before = self.count(bucket)
        gone = self.result(bucket.leak(schedule.time))
        if self.is_log(bucket):
            assert gone in (0, 2), f"2 units are in no window any more, and leak() says that {gone} have gone"
            assert before - gone == self.count(bucket) == 1, f"count() was {before}, {gone} have gone"
        else:
            assert gone == 0
        assert not schedule.put(3)

    def test_what_has_left_the_short_window_stays_for_the_long_one(self) -> None:
        bucket = self.bucket(Rate(3, self.interval), Rate(4, 20 * self.interval))
        schedule = Schedule(self, bucket)
        assert schedule.put(2)
        schedule.sleep(self.interval + 2)
        gone = self.result(bucket.leak(schedule.time))
        assert gone == 0, f"{gone} units were leaked that the longest window still holds"
        assert schedule.put(2)
        schedule.sleep(self.interval + 2)
        assert not schedule.put(2)

    def test_flush_forgets_everything(self) -> None:
        bucket = self.bucket(Rate(2, HOUR))
        assert self.put(bucket, 2)
        assert not self.put(bucket)
        assert self.result(bucket.flush()) is None, "flush() gives None"
        assert bucket.failing_rate is None, "flush() forgets the refusal too"
        assert self.count(bucket) == 0, "flush() forgets all units"
        assert self.result(bucket.peek(0)) is None
        assert self.put(bucket, 2)
        assert not self.put(bucket)

    @pytest.mark.parametrize("name", HOSTILE_NAMES, ids=range(len(HOSTILE_NAMES)))
    def test_an_item_of_any_name_is_kept_or_refused_with_an_error(self, name: str) -> None:
        bucket = self.bucket(Rate(2, HOUR))
        try:
            admitted = self.put(bucket, 1, name=name)
        except (TypeError, ValueError):
            assert self.count(bucket) == 0
        else:
            assert admitted
            assert self.count(bucket) == 1
            if self.keeps_names and self.is_log(bucket):
                kept = self.result(bucket.peek(0)).name
                assert kept == name, f"the item was named {name!r}, and peek(0) names it {kept!r}"
        assert self.put(bucket)

    @pytest.mark.parametrize("name", HOSTILE_NAMES[1:], ids=range(1, len(HOSTILE_NAMES)))
    def test_a_bucket_of_any_name_is_a_limit_of_its_own_or_refused_with_an_error(self, name: str) -> None:
        plain = self.bucket(Rate(1, HOUR))
        near = self.bucket(Rate(1, HOUR), suffix="xx")
        try:
            bucket = self.bucket(Rate(1, HOUR), suffix=name)
        except (TypeError, ValueError):
            pass
        else:
            assert self.put(bucket)
            if self.shared:
                assert not self.put(self.bucket(Rate(1, HOUR), suffix=name))
            self.result(bucket.flush())
            assert self.put(bucket)
        assert [self.put(other) for other in (plain, near)] == [True, True]
