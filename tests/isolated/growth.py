"""Measure what a piece of code leaves behind."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable


def growth(work: Callable[[], object], rounds: int = 8, warm_up: int = 3) -> tuple[int, int]:
    """Call `work` again and again; return how many objects and memory blocks the later rounds have added.

    The fewest of three attempts count, since caches may grow once.
    """
    for _ in range(warm_up):
        work()
    added = []
    for _ in range(3):
        gc.collect()
        before = len(gc.get_objects()), sys.getallocatedblocks()
        for _ in range(rounds):
            work()
        gc.collect()
        added.append((len(gc.get_objects()) - before[0], sys.getallocatedblocks() - before[1]))
    return min(added)


def assert_no_growth(work: Callable[[], object]) -> None:
    """`work` handles hundreds of things a round, so that one left behind of each kind would show."""
    objects, blocks = growth(work)
    assert objects < 50, f"{objects} objects more"
    assert blocks < 200, f"{blocks} memory blocks more"
