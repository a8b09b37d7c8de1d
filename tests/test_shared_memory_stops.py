"""A process that is stopped or killed in the midst of a decision: what the others see of it, on each engine."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aiolimiter_fast import (
    BackendUnavailable,
    Limiter,
    MultiprocessStateStore,
    Rate,
    RateItem,
    SharedMemoryBucket,
    SharedMemoryStateBucket,
    StateBucket,
    _budget,
    _shared_file,
)

HOUR = 3_600_000
# The engine in Python decides under this lock, the other one without.
LOCKS = SharedMemoryBucket.METHOD == "lock"
CHILD = """
import os, signal, sys
from aiolimiter_fast import Rate, SharedMemoryBucket, SharedMemoryStateBucket
bucket = {kind}([Rate(5, 3_600_000)], path=sys.argv[1])
with bucket._file.lock():
    os.kill(os.getpid(), signal.SIGSTOP)
"""


def put(bucket: Any) -> bool:
    admitted: bool = bucket.put(RateItem("item", bucket.now()))
    return admitted


@contextmanager
def stopped(kind: str, path: Path) -> Iterator[Callable[[], None]]:
    """Run a process that stops while it holds the lock; gives the function that kills it."""
    child = subprocess.Popen([sys.executable, "-c", CHILD.format(kind=kind), str(path)])

    def kill() -> None:
        child.kill()
        child.wait(60)

    try:
        assert os.WIFSTOPPED(os.waitpid(child.pid, os.WUNTRACED)[1])
        yield kill
    finally:
        kill()


if hasattr(signal, "SIGSTOP"):

    @pytest.mark.parametrize("kind", [SharedMemoryBucket, SharedMemoryStateBucket])
    def test_a_stopped_process_holds_others_for_their_budget_at_most_and_a_killed_one_not_at_all(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
    ) -> None:
        with kind([Rate(5, HOUR)], path=tmp_path / "limit") as bucket:
            limiter = Limiter(bucket)
            monkeypatch.setattr(_budget, "BUDGET", 0.05)
            with stopped(kind.__name__, tmp_path / "limit") as kill:
                for decide in (
                    partial(put, bucket),
                    partial(limiter.try_acquire, "x", blocking=False),
                    partial(limiter.try_acquire, "x", timeout=0.05),
                    lambda: asyncio.run(limiter.try_acquire_async("x", timeout=0.05)),
                ):
                    if LOCKS:
                        with pytest.raises(BackendUnavailable, match="has kept the lock of the shared memory for 0"):
                            decide()
                    else:
                        assert decide()
                kill()
                assert put(bucket)
            assert [put(bucket) for _ in range(5)] == ([True] * 4 + [False] if LOCKS else [False] * 5)

    def test_whoever_waits_already_is_told_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_budget, "BUDGET", 0.05)
        with SharedMemoryBucket([Rate(1, 300)], path=tmp_path / "limit") as bucket:
            limiter = Limiter(bucket)
            assert limiter.try_acquire("x")
            locks: list[Any] = []

            async def main() -> bool:
                task = asyncio.create_task(limiter.try_acquire_async("x"))
                await asyncio.sleep(0)
                if LOCKS:  # somebody else takes it from here on
                    locks.append(monkeypatch.setattr(_shared_file, "_lock", lambda _: False))
                return await task

            if LOCKS:
                with pytest.raises(BackendUnavailable, match="has kept the lock"):
                    asyncio.run(main())
                monkeypatch.undo()
                assert limiter.try_acquire("x")
            else:
                assert asyncio.run(main())

    def test_a_process_stopped_in_the_midst_of_a_step_of_its_own_algorithm_delays_nobody_and_steps_again() -> None:
        child = """
import os, pickle, signal, sys
from aiolimiter_fast import GCRA, Rate, RateItem, StateBucket
class Stopping(GCRA):
    steps = 0
    def step(self, *arguments):
        self.steps += 1
        if self.steps == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        return super().step(*arguments)
algorithm = Stopping()
bucket = StateBucket([Rate(5, 36_000_000)], algorithm, pickle.loads(bytes.fromhex(sys.argv[1])))
print([bucket.put(RateItem("x", 10**6)) for _ in range(2)], algorithm.steps)
"""
        store = MultiprocessStateStore.init()
        bucket = StateBucket([Rate(5, 10 * HOUR)], store=store)
        command = [sys.executable, "-c", child, pickle.dumps(store).hex()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
            assert [bucket.put(RateItem("x", 10**6)) for _ in range(4)] == [True] * 4
            os.kill(process.pid, signal.SIGCONT)
            told, _ = process.communicate(timeout=60)
        assert told == "[True, False] 3\n"  # the step that was overtaken, and the two that counted
