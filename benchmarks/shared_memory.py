"""What does one limit for several processes cost, and does it hold while they are killed?

A decision in one process is a ratio to one `time.monotonic()` call. The decisions of four processes together, by
`Limiter.try_acquire` with room for all, are a ratio to those of the reference library's MultiprocessBucket in the same
run; with blocking=False the reference refuses whenever somebody holds its lock: the share refused. Then four processes
demand without pause, one is killed about every 60 ms and another begins: the units admitted beyond the limit in the
worst window, and the share of what the limit permits that was delivered. All for the log, and for the state with GCRA.
"""

from __future__ import annotations

import itertools
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyrate_limiter
from _measure import OURS, Row, Samples, interleave, main, ratios

from aiolimiter_fast import (
    InMemoryBucket,
    Limiter,
    MultiprocessBucket,
    Rate,
    RateItem,
    SharedMemoryBucket,
    SharedMemoryStateBucket,
)
from aiolimiter_fast._shared_file import private_path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "isolated"))
import shared_memory_kills

PROCESSES = 4
REFERENCE = "pyrate-limiter"
IN_MEMORY = "InMemoryBucket"
PEERS = (IN_MEMORY, REFERENCE)
CALLS = 2_000


def per_call(function: Callable[[], Any]) -> float:
    """Nanoseconds for one call of a function that makes CALLS of them."""
    start = time.perf_counter_ns()
    function()
    return (time.perf_counter_ns() - start) / CALLS


def read_clock() -> None:
    clock = time.monotonic
    for _ in range(CALLS):
        clock()


def puts(bucket: Any) -> Callable[[], float]:
    """Nanoseconds for one `put`, of items that come a millisecond apart."""
    clock = itertools.count(bucket.now())

    def measure() -> float:
        items = [RateItem("x", next(clock)) for _ in range(CALLS)]
        put = bucket.put

        def calls() -> None:
            for item in items:
                put(item)

        return per_call(calls)

    return measure


def acquires(bucket: Any) -> Callable[[], float]:
    acquire = Limiter(bucket).try_acquire

    def calls() -> None:
        for _ in range(CALLS):
            acquire("x", blocking=False)

    return partial(per_call, calls)


def one_process(quick: bool) -> list[Row]:
    rounds = 100 if quick else 400
    rows = []
    rate = Rate(20_000, 1)  # room for all, in a log of the size that logs have
    even = [Rate(10**9, 1000), Rate(10**10, 60_000)]
    for what, measure in (("put", puts), ("try_acquire(blocking=False)", acquires)):
        with tempfile.TemporaryDirectory() as name, SharedMemoryBucket([rate], path=Path(name) / "limit") as shared:
            measures = {OURS: measure(shared), IN_MEMORY: measure(InMemoryBucket([rate]))}
            figures, limit = ratios(partial(per_call, read_clock), measures, rounds)
        rows.append(Row(f"shared memory, {what}", "-", figures, 2.5, limit=limit, unit="ns", peers=PEERS))
        with tempfile.TemporaryDirectory() as name, SharedMemoryStateBucket(even, path=Path(name) / "limit") as shared:
            figures, limit = ratios(partial(per_call, read_clock), {OURS: measure(shared)}, rounds)
        rows.append(Row(f"the same, GCRA of two rates, {what}", "-", figures, 2.5, limit=limit, unit="ns", peers=PEERS))
    return rows


def decide(bucket: Any, kind: Any, blocking: bool, ready: Any, go: Any, seconds: float, results: Any) -> None:
    decisions = admitted = 0
    acquire = kind(bucket, buffer_ms=0).try_acquire
    ready.release()
    go.wait()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(20):
            admitted += acquire("x", blocking=blocking)
        decisions += 20
    results.put((decisions, admitted))


def together(make: Callable[[], Any], kind: Any, blocking: bool, seconds: float) -> tuple[float, float]:
    """Decisions per second of all processes, and the share of them that were refusals; `kind`: the limiter."""
    context = multiprocessing.get_context("fork")
    bucket = make()
    ready, go, results = context.Semaphore(0), context.Event(), context.SimpleQueue()
    processes = [
        context.Process(target=decide, args=(bucket, kind, blocking, ready, go, seconds, results), daemon=True)
        for _ in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    go.set()
    counts = [results.get() for _ in processes]
    for process in processes:
        process.join()
    bucket.close()
    decisions = sum(decided for decided, _ in counts)
    return decisions / seconds, 1 - sum(admitted for _, admitted in counts) / decisions


def ours() -> Any:
    return MultiprocessBucket.init([Rate(100_000, 10)])


def gcra() -> Any:
    path = private_path()
    bucket = SharedMemoryStateBucket([Rate(100_000_000, 1000)], path=path)
    bucket.unlink()  # the processes are forked
    return bucket


def reference() -> Any:
    return pyrate_limiter.MultiprocessBucket.init([pyrate_limiter.Rate(100_000, 10)])


def four_processes(quick: bool) -> list[Row]:
    seconds, rounds = (0.5, 2) if quick else (2.0, 5)
    theirs = pyrate_limiter.Limiter
    rows = []
    for what, bucket in (("4 processes, decisions", ours), ("the same, GCRA", gcra)):
        measures = {OURS: partial(speed, bucket, Limiter, seconds)}
        figures, limit = ratios(partial(speed, reference, theirs, seconds), measures, rounds)
        rows.append(Row(what, "-", figures, 300, at_least=True, limit=limit, unit="/s", peers=PEERS))
    refused = interleave(
        {
            OURS: lambda: together(ours, Limiter, False, 0.05)[1],
            REFERENCE: lambda: together(reference, theirs, False, 0.05)[1],
        },
        rounds,
    )
    rows.append(Row("4 processes with room, share refused", "-", refused, 0, worst=True, peers=PEERS))
    refused = interleave({OURS: lambda: together(gcra, Limiter, False, 0.05)[1]}, rounds)
    return [*rows, Row("the same, GCRA, share refused", "-", refused, 0, worst=True, peers=PEERS)]


def speed(make: Callable[[], Any], kind: Any, seconds: float) -> float:
    return together(make, kind, True, seconds)[0]


def killed(quick: bool) -> list[Row]:
    seconds = 3.0 if quick else 10.0
    rows = []
    limit, interval = shared_memory_kills.RATES[-1]
    # What the second limit permits: one limit's worth at once, and then one in each interval and a little; or evenly.
    permits = {"log": limit * (1 + seconds * 1000 // interval), "state": limit * (1 + seconds * 1000 / interval)}
    for kind in ("log", "state"):
        with tempfile.TemporaryDirectory() as name:
            admitted, kills, excess = shared_memory_kills.run(kind, seconds, 1, Path(name), stops=False)
        share = admitted / permits[kind]
        rows += [
            Row(f"4 processes, one killed again and again, {kind}, units over", "-", {OURS: Samples([max(excess)])}, 0,
                worst=True, limit=Samples([kills]), unit="kills", peers=PEERS),
            Row(f"the same, {kind}, delivered share", "-", {OURS: Samples([share])}, peers=PEERS),
        ]  # fmt: skip
    return rows


def rows(loop_name: str, quick: bool) -> list[Row]:
    return [*one_process(quick), *four_processes(quick), *killed(quick)] if loop_name == "asyncio" else []


if __name__ == "__main__":
    main({"shared_memory": rows}, __doc__)
