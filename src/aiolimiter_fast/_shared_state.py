"""A state in a file that processes share, for a StateAlgorithm of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import finalize

from aiolimiter_fast._engine import engine
from aiolimiter_fast._shared_file import Layout, SharedFile, private_path, remover
from aiolimiter_fast.abstracts.algorithm import Decision, State, StateAlgorithm
from aiolimiter_fast.abstracts.rate import Rate

__all__ = ["SLOTS", "SharedState", "state_of", "step"]

# Of two lanes.
SLOTS = 128


class SharedState:
    """A state and what is done with it; `init` makes one that goes when this process ends. Picklable."""

    def __init__(self, path: Path, *, make: bool = False) -> None:
        self._record = engine.SharedRecord()
        self._file = SharedFile(path, Layout("state", self._record.METHOD, SLOTS), make=make)
        self._record._attach(self._file if self._record.METHOD == "lock" else self._file.mapping)

    @classmethod
    def init(cls) -> SharedState:
        path = private_path()
        state = cls(path, make=True)
        finalize(state, remover(path))
        return state

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._file.path,)

    def check(self, algorithm: StateAlgorithm, rates: Sequence[Rate], now: int, weight: int) -> Decision:
        return step(self._record, algorithm, rates, now, weight)

    def read(self, algorithm: StateAlgorithm, rates: Sequence[Rate]) -> State:
        return state_of(self._record._read()[1], algorithm, rates)

    def reset(self) -> None:
        self._record._clear()


def state_of(numbers: State, algorithm: StateAlgorithm, rates: Sequence[Rate]) -> State:
    """The state; the initial one for other rates than those that it is of."""
    return numbers if len(numbers) == len(rates) else algorithm.initial(rates)


def step(record: Any, algorithm: StateAlgorithm, rates: Sequence[Rate], now: int, weight: int) -> Decision:
    """Take a step of the algorithm, from the state as it is when the next one takes its place."""
    while True:
        seen, numbers = record._read()
        following, decision = algorithm.step(rates, state_of(numbers, algorithm, rates), now, weight)
        if not decision.allowed or record._replace(seen, tuple(following)):
            return decision
