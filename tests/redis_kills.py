"""Four processes on one limit in Redis, killed at random instants and started anew: nothing in excess, nobody stuck.

Each notes the clock before and after a call that was admitted in a file, before it would use the permit; what a killed
process has written stays. A call whose process dies before that used no permit. The server dates a call between the
two instants, so those that were surely within one window are those whose instants both are: more of them than the limit
is an excess for certain. The server's own log, which an hour's rate keeps, is looked through as well.

Arguments: the server's URL, kills, the seconds between them, and `apart` to give each process a limit of its own, which
must be found out. Then it prints, as JSON, what it saw.
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
import random
import struct
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis

from aiolimiter_fast import Limiter, Rate, RateItem, RedisBucket

RATES = ((40, 50), (300, 500), (1_000_000, 3_600_000))  # permits, milliseconds
WORKERS = 4
HEAVIEST = 5
SPAN = struct.Struct("=qqq")
# Nanoseconds by which the server may date a call too early: it knows microseconds only.
COARSE = 2000


@dataclass
class Report:
    """What was seen. `excess` is by how much the limits were surely exceeded, below 0 if they were not."""

    kills: int
    seconds: float
    admitted: int  # units that processes lived to note
    logged: int  # units in the server's log
    excess: list[int]
    excess_in_log: list[int]
    delivered: float  # share of what the limits permit
    longest_wait: float  # seconds until each of the survivors had decided again after a kill


class Board:
    """Counters in shared memory, one per worker, that tell how many calls it has made."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(8 * WORKERS))
        with path.open("r+b") as file:
            self.words = memoryview(mmap.mmap(file.fileno(), 8 * WORKERS)).cast("q")


def work(url: str, key: str, path: Path, place: int, seed: int, board: Board) -> None:
    """Decide without end."""
    bucket = RedisBucket([Rate(*rate) for rate in RATES], redis.Redis.from_url(url), key, budget=30)
    limiter = Limiter(bucket)
    chance = random.Random(seed)
    with path.open("wb", buffering=0) as file:
        while True:
            weight = chance.choice((1, 1, 2, HEAVIEST))
            way = chance.random()
            before = time.time_ns()
            if way < 0.02:
                admitted = limiter.try_acquire("x", weight, timeout=0.05)
            elif way < 0.5:
                admitted = limiter.try_acquire("x", weight, blocking=False)
            else:
                admitted = bucket.put(RateItem("x", 0, weight))
            if admitted:
                file.write(SPAN.pack(before, time.time_ns(), weight))
            board.words[place] += 1


def worst_excess(spans: list[tuple[int, int, int]], limit: int, interval: int) -> int:
    """The most by which the units that were surely admitted within one interval exceed the limit."""
    spans = sorted(spans)
    worst = -limit
    for index, (start, _, _) in enumerate(spans):
        units = 0
        for before, after, weight in spans[index:]:
            if before > start + interval:
                break
            units += weight if after <= start + interval else 0
        worst = max(worst, units - limit)
    return worst


def logged(client: Any, key: str) -> list[tuple[int, int, int]]:
    """Time and units of each call in the server's log, as spans that are instants, in nanoseconds."""
    calls = client.zrange(key, 0, -1, withscores=True)
    return [(int(time) * 1000, int(time) * 1000, int(struct.unpack_from(">d", entry, 10)[0])) for entry, time in calls]


def run(url: str, kills: int, pause: float, seed: int, apart: bool = False) -> Report:
    """Let them demand while so many are killed, about so many seconds apart. Whoever calls it must have no threads."""
    context: Any = multiprocessing.get_context("fork")  # a process that starts slowly would not come to decide
    chance, key = random.Random(seed), f"kills:{uuid.uuid4().hex}"
    workers: list[Any] = [None] * WORKERS
    lives, longest = 0, 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        board = Board(folder / "board")

        def start(place: int) -> None:
            nonlocal lives
            lives += 1
            own = f"{key}:{place}" if apart else key
            arguments = url, own, folder / f"admitted-{lives}", place, seed + lives, board
            workers[place] = context.Process(target=work, args=arguments, daemon=True)
            workers[place].start()

        def all_go_on(but: int) -> None:
            """Wait for every worker to decide: for ever, if one is stuck."""
            nonlocal longest
            seen, began = list(board.words), time.monotonic()
            for place in range(WORKERS):
                while place != but and board.words[place] == seen[place]:
                    assert workers[place].is_alive(), f"worker {place} has ended with {workers[place].exitcode}"
                    time.sleep(0.0005)
            longest = max(longest, time.monotonic() - began)

        try:
            began = time.monotonic()
            for place in range(WORKERS):
                start(place)
            for _ in range(kills):
                time.sleep(chance.uniform(0.5, 1.5) * pause)
                victim = chance.randrange(WORKERS)
                workers[victim].kill()
                workers[victim].join()
                all_go_on(but=victim)
                start(victim)
            all_go_on(but=-1)
            seconds = time.monotonic() - began
        finally:
            for worker in workers:
                worker.kill()
                worker.join()
        spans = [
            span
            for path in folder.glob("admitted-*")
            for span in SPAN.iter_unpack(path.read_bytes()[: path.stat().st_size // SPAN.size * SPAN.size])
        ]
    with redis.Redis.from_url(url) as client:
        keys = [f"{key}:{place}" for place in range(WORKERS)] if apart else [key]
        log = [call for each in keys for call in logged(client, each)]
        client.delete(*keys)
    admitted = sum(weight for _, _, weight in spans)
    windows = [(limit, interval * 1_000_000 - COARSE) for limit, interval in RATES]
    return Report(
        kills=kills,
        seconds=seconds,
        admitted=admitted,
        logged=sum(units for _, _, units in log),
        excess=[worst_excess(spans, *window) for window in windows],
        excess_in_log=[worst_excess(log, *window) for window in windows],
        delivered=admitted / (seconds * 1000 / RATES[1][1] + 1) / RATES[1][0],
        longest_wait=longest,
    )


if __name__ == "__main__":
    url, kills, pause, *how = sys.argv[1:]
    print(json.dumps(asdict(run(url, int(kills), float(pause), random.randrange(2**32), apart=how == ["apart"]))))
