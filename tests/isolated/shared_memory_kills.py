"""Four processes on one limit in shared memory, killed and stopped at random instants: nothing in excess, nobody stuck.

A log, then a state with GCRA. Arguments: seconds of demand for each (default 1.5), a seed; then it tells what it saw.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import random
import signal
import struct
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from aiolimiter_fast import Limiter, Rate, RateItem, SharedMemoryBucket, SharedMemoryStateBucket

RATES = ((40, 50), (300, 500))  # permits, milliseconds
WORKERS = 4
SPAN = struct.Struct("=qqq")
Spans = list[tuple[int, int, int]]
KINDS: dict[str, Any] = {"log": SharedMemoryBucket, "state": SharedMemoryStateBucket}


def rates() -> list[Rate]:
    return [Rate(*rate) for rate in RATES]


class Board:
    """Counters in shared memory, one per worker, that tell how far it has come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            path.write_bytes(bytes(8 * WORKERS))
        with path.open("r+b") as file:
            self.words = memoryview(mmap.mmap(file.fileno(), 8 * WORKERS)).cast("q")

    def __reduce__(self) -> Any:
        return Board, (self.path,)


def work(kind: str, folder: Path, place: int, life: int, board: Board) -> None:
    """Decide without end; note the clock before and after each admission, and its weight."""
    bucket = KINDS[kind](rates(), path=folder / "limit")
    limiter = Limiter(bucket)
    chance = random.Random(life)
    with open(folder / f"admitted-{life}", "wb", buffering=0) as file:
        while True:
            weight = chance.choice((1, 1, 2, 5))
            before = time.monotonic_ns()
            way = chance.random()
            if way < 0.02:
                admitted = limiter.try_acquire("x", weight, timeout=0.05)
            elif way < 0.5:
                admitted = limiter.try_acquire("x", weight, blocking=False)
            else:
                admitted = bucket.put(RateItem("x", bucket.now(), weight))
            if admitted:
                file.write(SPAN.pack(before, time.monotonic_ns(), weight))
            board.words[place] += 1


def worst_excess(spans: Spans, permits: Any, longest: int) -> int:
    """The most by which the units that were surely admitted in a stretch of time exceed what `permits` says of it."""
    spans = sorted(spans)
    worst = -sys.maxsize
    for i, (start, _, _) in enumerate(spans):
        units = 0
        ends = []
        for before, after, weight in spans[i:]:
            if before > start + longest:
                break
            ends.append((after - start, weight))
        for length, weight in sorted(ends):
            if length > longest:
                break
            units += weight
            worst = max(worst, units - permits(length))
    return worst


def in_window(limit: int, interval: int, length: int) -> int:
    """The units that a log admits within a window."""
    return limit


def in_stretch(limit: int, interval: int, length: int) -> int:
    """The units that GCRA admits in a stretch of any length, with the millisecond by which items may be early."""
    emission = -(-interval * 1000 // limit) * 1000
    return limit + (length + 1_000_000) // emission


def excesses(kind: str, spans: Spans) -> list[int]:
    """By how much each rate was exceeded at worst."""
    if kind == "state":
        return [worst_excess(spans, partial(in_stretch, *rate), 2_000_000_000) for rate in RATES]
    # An item put is dated in whole milliseconds, so it may be admitted up to a millisecond early.
    return [worst_excess(spans, partial(in_window, *rate), (rate[1] - 1) * 1_000_000) for rate in RATES]


def run(kind: str, seconds: float, seed: int, folder: Path, stops: bool) -> tuple[int, int, list[int]]:
    """Return the units admitted, the kills, and the worst excess of each rate."""
    context: Any = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
    chance, board = random.Random(seed), Board(folder / "board")
    lives = kills = 0
    workers: list[Any] = [None] * WORKERS

    def start(place: int) -> None:
        nonlocal lives
        lives += 1
        workers[place] = context.Process(target=work, args=(kind, folder, place, lives, board), daemon=True)
        workers[place].start()

    def all_go_on(but: int = -1) -> None:
        """Wait for every worker to decide: for ever, if one is stuck."""
        seen = list(board.words)
        for place in range(WORKERS):
            while place != but and board.words[place] == seen[place]:
                time.sleep(0.001)

    for place in range(WORKERS):
        start(place)
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            time.sleep(chance.uniform(0.01, 0.1))
            victim = chance.randrange(WORKERS)
            if stops and chance.random() < 0.4:
                os.kill(workers[victim].pid, signal.SIGSTOP)
                all_go_on(but=victim)
                os.kill(workers[victim].pid, signal.SIGCONT)
            else:
                workers[victim].kill()
                workers[victim].join()
                kills += 1
                all_go_on(but=victim)
                start(victim)
            all_go_on()
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    spans = [
        span
        for path in folder.glob("admitted-*")
        for span in SPAN.iter_unpack(path.read_bytes()[: path.stat().st_size // SPAN.size * SPAN.size])
    ]
    return sum(weight for _, _, weight in spans), kills, excesses(kind, spans)


if __name__ == "__main__":
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1.5
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(2**32)
    # The lock of the engine in Python is held by a process that was stopped in the midst of a decision.
    stops = SharedMemoryBucket.METHOD == "cas" and hasattr(signal, "SIGSTOP")
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as name:
            admitted, kills, excess = run(kind, seconds, seed, Path(name), stops)
        report = f"seed {seed}, {kind}: admitted {admitted} units through {kills} kills, over the limits by {excess}"
        if len(sys.argv) > 1:
            print(report)
        assert admitted > 0, report
        assert kills > 0, report
        assert max(excess) <= 0, report
