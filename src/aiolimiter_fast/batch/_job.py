"""What is done for one item of a batch, whatever the event loop: its weight, its attempts, what becomes of errors."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Protocol, cast

from aiolimiter_fast.batch._progress import Tally

__all__ = ["Gate", "Job"]


class Gate(Protocol):
    """What an item passes before it starts: a Throttle, or what stands for it where asyncio does not run."""

    def key_of(self, item: Any, /) -> Hashable: ...
    async def enter(self, key: Hashable, amount: float) -> None: ...
    def leave(self, key: Hashable) -> None: ...


class Job:
    """The function of a batch with all that goes with it. Whoever runs an item has entered the gate for it."""

    __slots__ = ("function", "gate", "on_error", "retry", "tally", "weight")

    def __init__(
        self,
        function: Callable[[Any], Awaitable[Any]],
        gate: Gate | None,
        weight: float | Callable[[Any], float],
        on_error: Any,
        retry: Any,
        tally: Tally | None,
    ) -> None:
        self.function = function
        self.gate = gate
        self.weight = weight
        self.on_error = on_error
        self.retry = retry
        self.tally = tally

    def amount(self, item: Any) -> float:
        return self.weight(item) if callable(self.weight) else self.weight

    async def attempts(self, item: Any, key: Hashable, amount: float) -> Any:
        """Run the item as often as the retry policy wants; each attempt but the first enters anew. Leaves the gate."""
        gate, inside = self.gate, True

        async def attempt(item: Any) -> Any:
            nonlocal inside
            if not inside and gate is not None:
                await gate.enter(key, amount)
            inside = True
            try:
                return await self.function(item)
            finally:
                inside = False
                if gate is not None:
                    gate.leave(key)

        # Calls that overlap must not share what tenacity remembers of one.
        policy = self.retry.copy() if hasattr(self.retry, "copy") else self.retry
        try:
            call: Any = policy if callable(policy) else None
            if call is not None:
                return await call(attempt, item)
            result = None
            async for trial in cast(Any, policy):
                with trial:
                    result = await attempt(item)
                state = getattr(trial, "retry_state", None)
                if state is not None and not state.outcome.failed:
                    state.set_result(result)
            return result
        finally:
            if inside and gate is not None:  # the policy has not even tried
                gate.leave(key)

    async def mend(self, error: BaseException, item: Any) -> Any:
        """What to put in place of the result; raises the error, or another, where the batch is to fail."""
        if self.on_error == "raise":
            raise error
        if self.on_error == "return":
            return error
        result: Any = self.on_error(error, item)
        return await result if inspect.isawaitable(result) else result
