"""Where the results of a batch go."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

__all__ = ["Collected", "Stream"]

MISSING: Any = object()


class Collected:
    """All results, in the order of the input."""

    __slots__ = ("results",)

    def __init__(self) -> None:
        self.results: list[Any] = []

    def put(self, index: int, result: Any) -> None:
        results = self.results
        if index == len(results):
            results.append(result)
            return
        if index > len(results):
            results.extend([MISSING] * (index + 1 - len(results)))
        results[index] = result

    def skip(self, index: int) -> None:
        self.put(index, MISSING)

    def full(self) -> bool:
        return False

    async def room(self) -> None:
        pass

    def complete(self) -> bool:
        return not any(result is MISSING for result in self.results)


class Stream:
    """Results for `async for`, as they complete or in the order of the input.

    Arguments:
        most: results that may wait here before no more items are started; None: any number.
        ordered: in the order of the input.
        include_index: give pairs of index and result.
    """

    __slots__ = ("due", "early", "ended", "include_index", "most", "ordered", "results", "waiters", "wanted")

    def __init__(self, most: int | None, ordered: bool, include_index: bool) -> None:
        self.most = most
        self.ordered = ordered
        self.include_index = include_index
        self.results: deque[Any] = deque()
        self.early: dict[int, Any] = {}  # ordered: those whose turn has not come
        self.due = 0
        self.ended = False
        self.wanted = True
        self.waiters: list[Any] = []

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        while not self.results:
            if self.ended:
                raise StopAsyncIteration
            await self._change()
        result = self.results.popleft()
        self._wake()
        return result

    def put(self, index: int, result: Any) -> None:
        if not self.wanted:
            return
        if self.include_index and result is not MISSING:
            result = (index, result)
        if not self.ordered:
            if result is not MISSING:
                self._give(result)
            return
        self.early[index] = result
        while self.due in self.early:
            result = self.early.pop(self.due)
            self.due += 1
            if result is not MISSING:
                self._give(result)

    def skip(self, index: int) -> None:
        self.put(index, MISSING)

    def full(self) -> bool:
        return self.most is not None and self.wanted and len(self.results) + len(self.early) >= self.most

    async def room(self) -> None:
        while self.full():
            await self._change()

    def end(self) -> None:
        """No more will come."""
        self.ended = True
        self._wake()

    def discard(self) -> None:
        """Nobody will ask for more."""
        self.wanted = False
        self.results.clear()
        self.early.clear()
        self._wake()

    def _give(self, result: Any) -> None:
        self.results.append(result)
        self._wake()

    async def _change(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self.waiters:
                self.waiters.remove(waiter)

    def _wake(self) -> None:
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
