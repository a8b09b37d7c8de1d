"""How a record is replaced, step by step in every order: the protocol of `_core/record.pxd`, explored to the end.

Each process reads the record, adds one to both of its numbers, and replaces it, by the loads and swaps of the C code,
one at a time. In every state that can be reached a reader finds a whole record, as many as were published, and any
process that goes on alone comes to an end: whoever was killed, or stopped, wherever that was.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import pytest

NUMBERS = 2


class Memory(NamedTuple):
    turn: int
    which: tuple[int, int]  # turn and lane of the record that counts
    lanes: tuple[tuple[tuple[int, int], ...], ...]  # (number, turn that wrote it)
    published: int


class Process(NamedTuple):
    at: str
    left: int  # records that it is to publish
    which: tuple[int, int] = (0, 0)
    read: tuple[int, ...] = ()
    turn: int = 0
    found: int = 0  # in the pair that it is about to swap


def step(memory: Memory, process: Process) -> tuple[Memory, Process]:
    """Do the next load or swap of a process."""
    at, which = process.at, process.which
    if at == "read":  # that it is the record of one instant is what the look at `which` before and after is for
        which = memory.which
        numbers = tuple(number for number, _ in memory.lanes[which[1]])
        return memory, process._replace(at="begin", which=which, read=numbers)
    if at == "begin":
        return memory, process._replace(at="begin swap", turn=memory.turn)
    if at == "begin swap":
        if (memory.turn, memory.which) != (process.turn, which):
            return memory, process._replace(at="read")
        turn = process.turn + 1
        return memory._replace(turn=turn), process._replace(at="load 0", turn=turn)
    lane = 1 - which[1]
    what, _, place = at.partition(" ")
    if what == "publish":
        if (memory.turn, memory.which) != (process.turn, which):
            return memory, process._replace(at="read")
        memory = memory._replace(which=(process.turn, lane), published=memory.published + 1)
        return memory, Process("read" if process.left > 1 else "done", process.left - 1)
    i = int(place)
    written = memory.lanes[lane][i][1]
    if what == "load":
        if written > process.turn:
            return memory, process._replace(at="read")
        return memory, process._replace(at=f"swap {i}", found=written)
    if written != process.found:
        return memory, process._replace(at=f"load {i}")
    pairs = list(memory.lanes[lane])
    pairs[i] = process.read[i] + 1, process.turn
    lanes = tuple(tuple(pairs) if n == lane else other for n, other in enumerate(memory.lanes))
    return memory._replace(lanes=lanes), process._replace(at=f"load {i + 1}" if i + 1 < NUMBERS else "publish")


@pytest.mark.parametrize(("tasks", "turns"), [((2, 2), 6), ((3, 1), 6), ((1, 1, 1), 4)])
def test_in_every_order_of_steps_no_record_is_lost_torn_or_waited_for(tasks: tuple[int, ...], turns: int) -> None:
    empty = ((0, 0),) * NUMBERS
    start = Memory(0, (0, 0), (empty, empty), 0), tuple(Process("read", left) for left in tasks)
    seen, ahead, ends = {start}, [start], set()
    while ahead:
        memory, processes = ahead.pop()
        turn, lane = memory.which
        assert memory.lanes[lane] == ((memory.published, turn),) * NUMBERS
        if all(process.at == "done" for process in processes):
            ends.add(memory.published)
        for i, process in enumerate(processes):
            if process.at == "done" or (process.at == "begin swap" and memory.turn == turns):
                continue
            assert comes_to_an_end(memory, process)
            after, following = step(memory, process)
            state = after, (*processes[:i], following, *processes[i + 1 :])
            if state not in seen:
                seen.add(state)
                ahead.append(state)
    assert ends == {sum(tasks)}
    assert len(seen) > 1000


@cache
def comes_to_an_end(memory: Memory, process: Process) -> bool:
    left = process.left
    for _ in range(4 * (NUMBERS + 2)):
        memory, process = step(memory, process)
        if process.left < left:
            return True
    return False
