"""Leaks the buckets that need it, now and then: synchronous ones in a thread, asynchronous ones in a task."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from inspect import isawaitable, iscoroutine
from typing import Any

__all__ = ["Leaker"]


class Leaker:
    """The buckets of one factory by id, and what leaks them. It starts nothing for buckets that need no leaking.

    Argument: leak_interval, milliseconds between two leaks.
    """

    log = logging.getLogger(__name__)

    def __init__(self, leak_interval: int) -> None:
        self.leak_interval = leak_interval
        self.sync_buckets: dict[int, Any] = {}
        self.async_buckets: dict[int, Any] = {}
        self.aio_leak_task: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None
        self._stop: threading.Event | None = None
        self._process = os.getpid()

    def register(self, bucket: Any) -> None:
        """Leak this bucket from now on; an asynchronous one from the next call in a running loop on."""
        asynchronous = bucket.is_async
        if asynchronous is None:
            result = bucket.leak(0)
            asynchronous = isawaitable(result)
            if iscoroutine(result):
                result.close()
        if asynchronous:
            self.async_buckets[id(bucket)] = bucket
            self.leak_async()
        else:
            self.sync_buckets[id(bucket)] = bucket
            self.start()

    def deregister(self, bucket_id: int) -> bool:
        """Leak it no more; say whether it was registered."""
        known = self.sync_buckets.pop(bucket_id, None) or self.async_buckets.pop(bucket_id, None)
        if not self._needing(self.async_buckets) and self.aio_leak_task is not None:
            self._cancel_task()
        if self._stop is not None and not self._needing(self.sync_buckets):
            self._stop.set()
        return known is not None

    def buckets(self) -> list[Any]:
        return [*self.sync_buckets.values(), *self.async_buckets.values()]

    @staticmethod
    def _needing(buckets: dict[int, Any]) -> list[Any]:
        return [bucket for bucket in list(buckets.values()) if getattr(bucket, "needs_leak", True)]

    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._process == os.getpid() and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread, or another one where it has ended or stayed behind in a forked process's parent."""
        stopping = self._stop is None or self._stop.is_set()
        if not self._needing(self.sync_buckets) or (self.is_alive() and not stopping):
            return
        self._process = os.getpid()
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._leak_in_thread, args=(self._stop,), name="aiolimiter_fast leaker", daemon=True
        )
        self._thread.start()

    def _leak_in_thread(self, stop: threading.Event) -> None:
        while buckets := self._needing(self.sync_buckets):
            for bucket in buckets:
                try:
                    now = bucket.now()
                    bucket.leak(asyncio.run(_result(now)) if isawaitable(now) else now)
                except Exception:  # noqa: PERF203
                    self.log.exception("leaking %r failed", bucket)
            if stop.wait(self.leak_interval / 1000):
                return

    def leak_async(self) -> None:
        """Start the task, if there is a running loop and anything for it to do."""
        if self.aio_leak_task is not None and not self.aio_leak_task.done():
            return
        if not self._needing(self.async_buckets):
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self.aio_leak_task = loop.create_task(self._leak_in_task())

    async def _leak_in_task(self) -> None:
        while buckets := self._needing(self.async_buckets):
            for bucket in buckets:
                try:
                    await _result(bucket.leak(await _result(bucket.now())))
                except Exception:  # noqa: PERF203
                    self.log.exception("leaking %r failed", bucket)
            await asyncio.sleep(self.leak_interval / 1000)

    def _cancel_task(self) -> None:
        task, self.aio_leak_task = self.aio_leak_task, None
        if task is not None and not task.get_loop().is_closed():
            try:
                here = asyncio.get_running_loop() is task.get_loop()
            except RuntimeError:
                here = False
            if here:
                task.cancel()
            else:
                task.get_loop().call_soon_threadsafe(task.cancel)

    def close(self) -> None:
        """Leak nothing any more."""
        self.sync_buckets.clear()
        self.async_buckets.clear()
        if self._stop is not None:
            self._stop.set()
        self._cancel_task()


async def _result(value: Any) -> Any:
    while isawaitable(value):
        value = await value
    return value
