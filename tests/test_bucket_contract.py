"""The package's own buckets keep the contract, and the contract notices those that do not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from aiolimiter_fast import BucketAsyncWrapper, InMemoryBucket, Rate, RateItem, StateBucket
from aiolimiter_fast.testing import BucketContract


class TestInMemoryBucket(BucketContract):
    threads = True

    def make_bucket(self, rates: list[Rate], name: str) -> InMemoryBucket:
        return InMemoryBucket(rates)


class TestStateBucket(BucketContract):
    threads = True

    def make_bucket(self, rates: list[Rate], name: str) -> StateBucket:
        return StateBucket(rates)


class TestBucketAsyncWrapper(BucketContract):
    def make_bucket(self, rates: list[Rate], name: str) -> BucketAsyncWrapper:
        return BucketAsyncWrapper(InMemoryBucket(rates))


class SelfTimed(InMemoryBucket):
    """Goes by its own clock, whatever an item says, as a server does."""

    def put(self, item: RateItem) -> bool:
        return super().put(RateItem(item.name, self._clock.now(), item.weight))  # type: ignore[arg-type]

    def waiting(self, item: RateItem) -> Any:
        return super().waiting(RateItem(item.name, self._clock.now(), item.weight))  # type: ignore[arg-type]


class TestABucketWithAClockOfItsOwn(BucketContract):
    threads = True
    own_clock = True

    def make_bucket(self, rates: list[Rate], name: str) -> InMemoryBucket:
        return SelfTimed(rates)


class OneTooMany(InMemoryBucket):
    def put(self, item: RateItem) -> bool:
        return super().put(RateItem(item.name, item.timestamp, item.weight - (item.weight > 1)))


class AMillisecondEarly(InMemoryBucket):
    def put(self, item: RateItem) -> bool:
        return super().put(item) or super().put(RateItem(item.name, item.timestamp + 1, item.weight))


class AMillisecondLong(InMemoryBucket):
    def waiting(self, item: RateItem) -> Any:
        wait: Any = super().waiting(item)
        return wait + 1 if wait > 0 else wait


class AMillisecondShort(InMemoryBucket):
    def waiting(self, item: RateItem) -> Any:
        wait: Any = super().waiting(item)
        return wait - 1 if wait > 1 else wait


class NeverSaysNever(InMemoryBucket):
    def waiting(self, item: RateItem) -> Any:
        return max(super().waiting(item), 0)  # type: ignore[type-var]


class KeepsTheDenial(InMemoryBucket):
    def put(self, item: RateItem) -> bool:
        before = self.failing_rate
        admitted = super().put(item)
        if item.weight == 0:
            self.failing_rate = before
        return admitted


class FlushesLittle(InMemoryBucket):
    def flush(self) -> None:
        self.failing_rate = None


class ChecksThenActs(InMemoryBucket):
    """Reads, thinks, and writes."""

    def put(self, item: RateItem) -> bool:
        room = self.count() + item.weight <= self.rates[0].limit
        time.sleep(0.001)
        if room:
            self._append(item.name, item.weight, item.timestamp * 1_000_000)
        return room


class CutsNames(InMemoryBucket):
    def put(self, item: RateItem) -> bool:
        return super().put(RateItem(item.name.split("\0")[0][:255], item.timestamp, item.weight))


class MakesRoom(InMemoryBucket):
    def put(self, item: RateItem) -> bool:
        if item.weight < 0:
            self.flush()
            return True
        return super().put(item)


@pytest.mark.parametrize(
    ("broken", "test", "arguments"),
    [
        (OneTooMany, "test_weights_count_in_full", ()),
        (OneTooMany, "test_it_decides_as_a_list_of_time_stamps_would", (0,)),
        (AMillisecondEarly, "test_it_decides_as_a_list_of_time_stamps_would", (0,)),
        (AMillisecondLong, "test_after_exactly_the_wait_it_admits_and_a_millisecond_earlier_it_does_not", (1,)),
        (AMillisecondShort, "test_after_exactly_the_wait_it_admits_and_a_millisecond_earlier_it_does_not", (1,)),
        (NeverSaysNever, "test_a_weight_that_never_fits_is_refused_for_good_and_takes_nothing", ()),
        (KeepsTheDenial, "test_an_item_of_no_weight_takes_nothing_and_clears_the_denial", ()),
        (FlushesLittle, "test_flush_forgets_everything", ()),
        (ChecksThenActs, "test_threads_get_exactly_the_limit", ()),
        (CutsNames, "test_an_item_of_any_name_is_kept_or_refused_with_an_error", ("nul\0byte",)),
        (CutsNames, "test_an_item_of_any_name_is_kept_or_refused_with_an_error", ("x" * 10_240,)),
        (MakesRoom, "test_a_negative_weight_makes_no_room", ()),
    ],
)
def test_a_broken_bucket_is_noticed(
    broken: type[InMemoryBucket], test: str, arguments: tuple[Any, ...], tmp_path: Path
) -> None:
    class Contract(BucketContract):
        threads = True

        def make_bucket(self, rates: list[Rate], name: str) -> InMemoryBucket:
            return broken(rates)

    contract = Contract()
    with contract.set_up(tmp_path), pytest.raises(AssertionError):
        getattr(contract, test)(*arguments)


class TooShort(SelfTimed):
    def waiting(self, item: RateItem) -> Any:
        return min(super().waiting(item), 1)


class TooMany(SelfTimed, OneTooMany):
    pass


@pytest.mark.parametrize(
    ("broken", "test", "arguments"),
    [
        (TooMany, "test_weights_count_in_full", ()),
        (TooMany, "test_it_decides_as_a_list_of_time_stamps_would", (0,)),
        (TooShort, "test_after_exactly_the_wait_it_admits_and_a_millisecond_earlier_it_does_not", (1,)),
    ],
)
def test_a_broken_bucket_with_a_clock_of_its_own_is_noticed(
    broken: type[InMemoryBucket], test: str, arguments: tuple[Any, ...], tmp_path: Path
) -> None:
    class Contract(BucketContract):
        own_clock = True
        interval = 1000

        def make_bucket(self, rates: list[Rate], name: str) -> InMemoryBucket:
            return broken(rates)

    contract = Contract()
    with contract.set_up(tmp_path), pytest.raises(AssertionError):
        getattr(contract, test)(*arguments)


def test_what_a_bucket_does_not_claim_is_not_tested() -> None:
    class Modest(BucketContract):
        pass

    class Proud(Modest):
        shared = persistent = threads = processes = True

    for test in ("test_threads_get_exactly_the_limit", "test_a_killed_process_stops_nobody"):
        assert getattr(Modest, test) is None
        assert getattr(Proud, test) is getattr(BucketContract, test)
