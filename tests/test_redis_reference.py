"""Switching a running fleet: both libraries on one Redis, and data of one that the other finds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pyrate_limiter
import pytest
from redis_subjects import Subject, fresh_key, now, subject

from aiolimiter_fast import FixedWindow, Rate, RateItem, RedisBucket, RedisStateStore, StateBucket

HOUR = 3_600_000
RATES = [(4, 1000), (6, HOUR)]


@pytest.fixture
def one(redis_url: str) -> Iterator[Subject]:
    with subject("sync", redis_url) as made:
        yield made


def theirs(one: Subject, key: str, *rates: tuple[int, int], **options: Any) -> Any:
    return pyrate_limiter.RedisBucket.init([pyrate_limiter.Rate(*rate) for rate in rates], one.client, key, **options)


def put_theirs(bucket: Any, weight: int = 1, name: str = "theirs", ago: int = 0) -> bool:
    return bool(bucket.put(pyrate_limiter.RateItem(name, bucket.now() - ago, weight)))


@pytest.mark.parametrize("ours_first", [True, False])
def test_calls_of_both_libraries_together_keep_the_limit(one: Subject, ours_first: bool) -> None:
    ours = one.bucket([Rate(*rate) for rate in RATES], reference_format=True)
    other = theirs(one, ours.bucket_key, *RATES)
    answers = [one.put(ours) if (turn + ours_first) % 2 else put_theirs(other) for turn in range(8)]
    assert answers == [True] * 4 + [False] * 4
    assert other.count() == 4


def test_waits_are_those_of_the_reference(one: Subject) -> None:
    ours = one.bucket([Rate(4, HOUR)], reference_format=True)
    other = theirs(one, ours.bucket_key, (4, HOUR))
    for ago in (4000, 3000, 2000, 1000):
        assert put_theirs(other, ago=ago)
    item, mirror = RateItem("x", now(), 2), pyrate_limiter.RateItem("x", other.now(), 2)
    assert not ours.put(item)
    assert not other.put(mirror)
    assert abs(ours.waiting(item) + item.timestamp - other.waiting(mirror) - mirror.timestamp) <= 20


def test_a_weight_beyond_luas_unpack_is_one_member_per_permit(one: Subject) -> None:
    ours = one.bucket([Rate(10_001, HOUR)], reference_format=True)
    other = theirs(one, ours.bucket_key, (10_001, HOUR))
    assert one.put(ours, 10_000)
    assert other.count() == 10_000
    assert put_theirs(other)
    assert not one.put(ours)
    assert ours.remaining() == [0]


def test_fixed_windows_are_shared_too(one: Subject) -> None:
    ours = one.bucket([Rate(3, HOUR)], algorithm=FixedWindow(), reference_format=True)
    other = theirs(one, ours.bucket_key, (3, HOUR), algorithm=pyrate_limiter.FixedWindow())
    assert [one.put(ours), put_theirs(other), one.put(ours), one.put(ours), put_theirs(other)] == [True] * 3 + [
        False
    ] * 2


def test_data_of_the_reference_is_taken_over_once_and_counted_in_full(one: Subject) -> None:
    key = fresh_key()
    other = theirs(one, key, *RATES)
    assert put_theirs(other, 3, "a:b", ago=2000)
    assert put_theirs(other, 2)
    times = [int(score) for _, score in one.raw.zrange(key, 0, -1, withscores=True)]
    ours = one.bucket([Rate(*rate) for rate in RATES], key)
    assert ours.count() == 5
    kept = [ours.peek(index) for index in (-1, 0)]
    assert [item and item.timestamp for item in kept] == [times[0], times[-1]]
    assert one.raw.zcard(key) == 2
    assert one.raw.pttl(key) >= HOUR
    names = [item and item.name for item in (ours.peek(0), ours.peek(2))]
    assert names == ["theirs", "a:b"]
    assert [one.put(ours) for _ in range(2)] == [True, False]
    assert ours.failing_rate is ours.rates[1]


def test_what_the_reference_adds_later_is_taken_over_as_well(one: Subject) -> None:
    ours = one.bucket([Rate(3, 1000), Rate(5, HOUR)])
    assert one.put(ours, 2)
    other = theirs(one, ours.bucket_key, (10, HOUR))
    assert put_theirs(other, 3)
    assert ours.count() == 5
    assert not one.put(ours)


def test_entries_dated_by_a_fast_clock_hold_nobody_up_for_longer_than_the_interval(one: Subject) -> None:
    key = fresh_key()
    assert put_theirs(theirs(one, key, (2, 1000)), 2, ago=-86_400_000)
    ours = one.bucket([Rate(2, 1000)], key)
    item = RateItem("x", 0)
    assert not ours.put(item)
    assert ours.waiting(item) <= 1001


@pytest.mark.parametrize("reference_format", [True, False])
def test_what_is_neither_format_is_refused_and_left_alone(one: Subject, reference_format: bool) -> None:
    key = fresh_key()
    ours = one.bucket([Rate(2, 1000)], key, reference_format=reference_format)
    one.raw.set(key, "something")
    with pytest.raises(ValueError, match="holds something else than a limit"):
        one.put(ours)
    assert one.raw.get(key) == b"something"
    one.raw.delete(key)
    one.raw.zadd(key, {"a member of somebody": 7})
    with pytest.raises(ValueError, match="or a version that is not known here"):
        one.put(ours)
    for version in (b"L1", b"L3"):
        one.raw.delete(key)
        one.raw.zadd(key, {version + bytes(40): time.time() * 1e6})
        with pytest.raises(ValueError, match=key):
            one.put(ours)
        assert one.raw.zcard(key) == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_who_still_has_the_option_follows_when_others_go_over(redis_url: str, kind: str) -> None:
    with subject(kind, redis_url) as on:
        before = on.bucket([Rate(5, HOUR)], reference_format=True)
        after = on.bucket([Rate(5, HOUR)], before.bucket_key)
        answers = [on.put(bucket) for bucket in (before, after, before, after, before, after, before)]
        assert answers == [True] * 5 + [False] * 2
        assert on.run(before.count()) == on.run(after.count()) == 5
        assert on.run(before.peek(0)).name == "x"
        assert on.raw.zrange(before.bucket_key, 0, 0)[0].startswith(b"L2")


def test_states_are_shared_with_the_reference(one: Subject) -> None:
    key = fresh_key()
    ours = StateBucket([Rate(5, HOUR)], store=RedisStateStore(one.client, key))
    other = pyrate_limiter.StateBucket(
        [pyrate_limiter.Rate(5, HOUR)], store=pyrate_limiter.RedisStateStore(one.client, key)
    )
    answers = [one.put(ours) if turn % 2 else put_theirs(other) for turn in range(7)]
    assert answers == [True] * 5 + [False] * 2


def test_a_bucket_may_be_made_as_the_reference_makes_it(one: Subject) -> None:
    bucket = RedisBucket([Rate(1, HOUR)], one.client, fresh_key(), "0" * 40)
    assert [one.put(bucket), one.put(bucket)] == [True, False]
