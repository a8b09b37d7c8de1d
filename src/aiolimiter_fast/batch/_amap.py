"""amap on asyncio: workers in the background of an `async with` block."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from aiolimiter_fast.batch._groups import collapsed, grouped
from aiolimiter_fast.batch._job import Job
from aiolimiter_fast.batch._results import Stream
from aiolimiter_fast.batch._workers import Crew

__all__ = ["Amap"]


class Amap:
    """Workers that run while a block runs, and end with it.

    As in a task group, the first failure cancels the rest of the block, and an exception in the block cancels the
    workers. A block that just ends waits for them; if the input has no length, they take nothing more from it then.
    """

    __slots__ = ("block", "cancelled", "crew", "endless", "leaving", "results")

    def __init__(self, job: Job, items: Any, most: int | None, results: Stream, endless: bool) -> None:
        block = asyncio.current_task()
        if block is None:
            raise RuntimeError("amap() must be entered in a task")
        self.block: Any = block
        self.results = results
        self.endless = endless
        self.cancelled = self.leaving = False
        self.crew = Crew(job, items, most, results, self._fail, results.end)

    def _fail(self) -> None:
        if not self.leaving:
            self.cancelled = True
            self.block.cancel()

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Leave the block, which ended with `error`; raises what went wrong besides."""
        crew, self.leaving = self.crew, True
        ours = self.cancelled and isinstance(error, asyncio.CancelledError)
        if self.cancelled and hasattr(self.block, "uncancel"):
            self.block.uncancel()
        if error is not None:
            crew.stop()
        if self.endless:
            crew.close()
        self.results.discard()
        failure = await crew.join()
        if self.cancelled and not ours and not crew.interrupted:
            with suppress(asyncio.CancelledError):  # it is on its way to this task still
                await asyncio.sleep(0)
        if failure is None:
            return
        if error is not None and not isinstance(error, asyncio.CancelledError):
            failure = grouped([error, failure])
        try:
            raise collapsed(failure) from None
        finally:
            del failure, error
