"""The contract catches buckets that do not keep it, and says what is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aiolimiter_fast import AbstractBucket, InMemoryBucket, Rate, RateItem
from aiolimiter_fast.testing import BucketContract


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


class CountsItems(InMemoryBucket):
    def count(self) -> int:
        return len(self.items)


class LeaksByTheShortWindow(InMemoryBucket):
    def leak(self, current_timestamp: int | None = None) -> int:
        assert current_timestamp is not None
        return int(self._leak((current_timestamp - self._rates[0].interval) * 1_000_000))


class LeaksAll(InMemoryBucket):
    def leak(self, current_timestamp: int | None = None) -> int:
        return int(self._leak(1 << 61))


class SaysItIsAsync(InMemoryBucket):
    is_async = True


class HasMoreLeftThanItGives(InMemoryBucket):
    def remaining(self) -> list[int]:
        return [left + 1 for left in super().remaining()]


class HoldsTheLoop(InMemoryBucket):
    """Asks somewhere else, and waits for the answer in the loop's thread."""

    def put(self, item: RateItem) -> bool:
        time.sleep(0.03)
        return super().put(item)


class Asynchronous(InMemoryBucket):
    is_async = True

    def __init__(self, rates: list[Rate]) -> None:
        super().__init__(rates)
        self.lock = asyncio.Lock()


class TakesTwoSteps(Asynchronous):
    async def put(self, item: RateItem) -> bool:  # type: ignore[override]
        room = self.count() + item.weight <= self.rates[0].limit
        await asyncio.sleep(0)
        if room:
            self._append(item.name, item.weight, item.timestamp * 1_000_000)
        return room


class KeepsItsLockIfCancelled(Asynchronous):
    async def put(self, item: RateItem) -> bool:  # type: ignore[override]
        await self.lock.acquire()
        await asyncio.sleep(0)
        admitted = super().put(item)
        self.lock.release()
        return admitted


def contract_of(broken: Callable[[list[Rate]], Any], **claims: Any) -> BucketContract:
    class Contract(BucketContract):
        def make_bucket(self, rates: list[Rate], name: str) -> Any:
            return broken(rates)

    for claim, value in claims.items():
        setattr(Contract, claim, value)
    return Contract()


def catches(contract: BucketContract, folder: Path, test: str, message: str, *arguments: Any) -> None:
    with contract.set_up(folder), pytest.raises(AssertionError, match=message):
        getattr(BucketContract, test)(contract, *arguments)


LIKE_A_LIST = "test_it_decides_as_a_list_of_time_stamps_would"
EXACT_WAIT = "test_after_exactly_the_wait_it_admits_and_a_millisecond_earlier_it_does_not"
ANY_NAME = "test_an_item_of_any_name_is_kept_or_refused_with_an_error"


@pytest.mark.parametrize(
    ("broken", "test", "message", "arguments"),
    [
        (OneTooMany, "test_weights_count_in_full", "weights of 6, 5, 4 and 1, with a limit of 10", ()),
        (OneTooMany, LIKE_A_LIST, "admitted weight .*, over a limit, after", (0,)),
        (AMillisecondEarly, LIKE_A_LIST, "admitted weight .*, over a limit, after", (0,)),
        (AMillisecondLong, EXACT_WAIT, "waiting.. does not end when it said", (1,)),
        (AMillisecondShort, EXACT_WAIT, "does not end when it said|refused again after", (1,)),
        (NeverSaysNever, "test_a_weight_that_never_fits_is_refused_for_good_and_takes_nothing", "is -1, not 0", ()),
        (
            KeepsTheDenial,
            "test_an_item_of_no_weight_takes_nothing_and_clears_the_denial",
            "sets failing_rate to None",
            (),
        ),
        (FlushesLittle, "test_flush_forgets_everything", "flush.. forgets all units", ()),
        (ChecksThenActs, "test_threads_get_exactly_the_limit", "room for 40: a put is no single step", ()),
        (CutsNames, ANY_NAME, "and peek.0. names it 'nul'", ("nul\0byte",)),
        (CutsNames, ANY_NAME, "and peek.0. names it 'x{255}'", ("x" * 10_240,)),
        (MakesRoom, "test_a_negative_weight_makes_no_room", "weight -2 made room", ()),
        (CountsItems, "test_count_peek_and_leak_tell_of_units", "units, of two items of weights 2 and 3", ()),
        (
            LeaksByTheShortWindow,
            "test_what_has_left_the_short_window_stays_for_the_long_one",
            "2 units were leaked",
            (),
        ),
        (LeaksAll, "test_what_has_left_every_window_leaks_and_the_rest_stays", "leak.. says that 3 have gone", ()),
        (SaysItIsAsync, "test_is_async_says_what_put_gives", "is_async is True, and put.. gave no awaitable", ()),
        (HasMoreLeftThanItGives, "test_remaining_and_wait_time_tell_of_what_put_would_do", "permits left", ()),
        (HoldsTheLoop, "test_a_call_in_asyncio_does_not_hold_the_event_loop", "a call held the event loop for 0", ()),
        (TakesTwoSteps, "test_tasks_get_exactly_the_limit", "room for 30: a put is no single step", ()),
        (KeepsItsLockIfCancelled, "test_a_cancelled_call_stops_nobody", "not come back within 0.1 seconds", ()),
    ],
)
def test_a_broken_bucket_is_caught(
    broken: type[InMemoryBucket], test: str, message: str, arguments: tuple[Any, ...], tmp_path: Path
) -> None:
    catches(contract_of(broken, threads=True, patience=0.1), tmp_path, test, message, *arguments)


class SelfTimed(InMemoryBucket):
    """Goes by its own clock, whatever an item says, as a server does."""

    def put(self, item: RateItem) -> bool:
        return super().put(RateItem(item.name, self._clock.now(), item.weight))  # type: ignore[arg-type]

    def waiting(self, item: RateItem) -> Any:
        return super().waiting(RateItem(item.name, self._clock.now(), item.weight))  # type: ignore[arg-type]


class TooShort(SelfTimed):
    def waiting(self, item: RateItem) -> Any:
        return min(super().waiting(item), 1)


class TooMany(SelfTimed, OneTooMany):
    pass


@pytest.mark.parametrize(
    ("broken", "test", "message", "arguments"),
    [
        (TooMany, "test_weights_count_in_full", "weights of 6, 5, 4 and 1", ()),
        (TooMany, LIKE_A_LIST, "admitted weight .*, over a limit, after", (0,)),
        (TooShort, EXACT_WAIT, "refused again after the 1 ms", (1,)),
    ],
)
def test_a_broken_bucket_with_a_clock_of_its_own_is_caught(
    broken: type[InMemoryBucket], test: str, message: str, arguments: tuple[Any, ...], tmp_path: Path
) -> None:
    catches(contract_of(broken, own_clock=True, interval=1000), tmp_path, test, message, *arguments)


# Between processes.


class InAFile(AbstractBucket):
    """Reads a list of time stamps, decides, and writes it: what comes in between is lost."""

    is_async = False

    def __init__(self, rates: list[Rate], path: Path) -> None:
        self.rates = rates
        self.path = path

    def read(self) -> list[int]:
        return list(json.loads(self.path.read_text())) if self.path.exists() else []

    def write(self, times: list[int]) -> None:
        other = self.path.with_name(f"{os.getpid()}")
        other.write_text(json.dumps(times))
        other.replace(self.path)

    def put(self, item: RateItem) -> bool:
        times = self.read()
        time.sleep(0.002)
        if len(times) + item.weight > self.rates[0].limit:
            return False
        self.write(times + [item.timestamp] * item.weight)
        return True

    def leak(self, current_timestamp: int | None = None) -> int:
        return 0

    def flush(self) -> None:
        self.path.unlink(missing_ok=True)

    def count(self) -> int:
        return len(self.read())

    def peek(self, index: int) -> None:
        return None


class UnderALockThatStays(InAFile):
    """Takes a lock that is a file: nobody takes it away from a process that was killed."""

    def put(self, item: RateItem) -> bool:
        lock = self.path.with_suffix(".lock")
        while True:
            try:
                os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
                break
            except FileExistsError:
                time.sleep(0.001)
        admitted = super().put(item)
        time.sleep(0.05)
        lock.unlink()
        return admitted


class WritesLater(InAFile):
    """Keeps what it admits to itself until there is enough of it."""

    def __init__(self, rates: list[Rate], path: Path) -> None:
        super().__init__(rates, path)
        self.kept: list[int] = []

    def put(self, item: RateItem) -> bool:
        self.kept.append(item.timestamp)
        if len(self.kept) == 1000:
            self.close()
        return True

    def count(self) -> int:
        return len(self.read()) + len(self.kept)

    def close(self) -> None:
        self.write(self.read() + self.kept)
        self.kept.clear()


class FailsElsewhere(InAFile):
    """Can be used by the process that made the file, and by no other."""

    def put(self, item: RateItem) -> bool:
        raise PermissionError("this file belongs to somebody else")


@pytest.mark.parametrize(
    ("broken", "test", "message"),
    [
        (InAFile, "test_processes_get_exactly_the_limit", "a put is no single step"),
        (FailsElsewhere, "test_processes_get_exactly_the_limit", "a put failed in another process"),
        (
            UnderALockThatStays,
            "test_a_killed_process_stops_nobody_and_what_it_took_counts",
            r"has not come back within 0\.5 seconds: who holds what it waits for\?",
        ),
        (
            WritesLater,
            "test_a_killed_process_stops_nobody_and_what_it_took_counts",
            "a process that was killed took what it held along",
        ),
    ],
)
def test_a_bucket_that_is_broken_between_processes_is_caught(
    broken: type[InAFile], test: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Contract(BucketContract):
        processes = True
        patience = 30.0 if broken is not UnderALockThatStays else 0.5

        def make_bucket(self, rates: list[Rate], name: str) -> InAFile:
            return self.opener(rates, name)()

        def opener(self, rates: list[Rate], name: str) -> Callable[[], InAFile]:
            return partial(broken, rates, self.folder / "times.json")

    catches(Contract(), tmp_path, test, message)
    assert ("PermissionError: this file belongs to somebody else" in capfd.readouterr().err) is (
        broken is FailsElsewhere
    )
