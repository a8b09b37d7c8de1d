"""What happens while everybody waits for a slot that is an hour away?

Nothing should. Under asyncio the loop's turns are counted at its selector, under uvloop the times
the process went to sleep. The loop is stopped by one timer; the same with an empty loop is the physical limit
and is taken off. CPU time is that of the process.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from time import process_time
from typing import Any

from _candidates import CANDIDATES, Candidate
from _measure import Row, Samples, WatchedSelector, interleave, main, new_loop, run_on

HOUR = 3600.0
EMPTY = "empty loop"


async def visit(acquire: Callable[[], Awaitable[Any]]) -> None:
    await acquire()


def switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


async def watch(
    candidate: Candidate | None, tasks: int, seconds: float, wakeups: Callable[[], int]
) -> tuple[int, float]:
    """Return the wake-ups and the CPU seconds while `tasks` wait, after they have settled."""
    crowd = []
    if candidate is not None:
        acquire = candidate.acquire(candidate.make(1, HOUR))
        crowd = [asyncio.ensure_future(visit(acquire)) for _ in range(tasks)]
    await asyncio.sleep(0.1)
    before, start = wakeups(), process_time()
    await asyncio.sleep(seconds)
    spent, woken = process_time() - start, wakeups() - before
    if any(task.done() for task in crowd[1:]):
        raise RuntimeError("a task did not wait")
    return woken, spent


def idle(loop_name: str, candidate: Candidate | None, tasks: int, seconds: float, cpu: Samples) -> float:
    selector = WatchedSelector() if loop_name == "asyncio" else None
    woken, spent = run_on(
        new_loop(loop_name, selector),
        watch(candidate, tasks, seconds, switches if selector is None else lambda: selector.wakeups),
    )
    cpu.values.append(spent / seconds * 1e3)
    return woken


def rows(loop_name: str, quick: bool) -> list[Row]:
    tasks, seconds, rounds = (2_000, 0.5, 1) if quick else (10_000, 1.0, 2)
    candidates: dict[str, Candidate | None] = {EMPTY: None, **{candidate.name: candidate for candidate in CANDIDATES}}
    cpu = {name: Samples() for name in candidates}
    wakeups = interleave(
        {
            name: partial(idle, loop_name, candidate, tasks, seconds, cpu[name])
            for name, candidate in candidates.items()
        },
        rounds,
    )
    empty = wakeups.pop(EMPTY)
    for samples in wakeups.values():
        samples.values = [max(value - max(empty.values), 0) / seconds for value in samples.values]
    limit = cpu.pop(EMPTY)
    return [
        Row(f"wake-ups per second, {tasks:,} waiting for an hour", loop_name, wakeups, 0.0, worst=True),
        Row(f"CPU ms per second, {tasks:,} waiting for an hour", loop_name, cpu, limit=limit, unit="ms"),
    ]


if __name__ == "__main__":
    if sys.platform == "win32":
        raise SystemExit("needs getrusage")
    main({"idle": rows}, __doc__)
