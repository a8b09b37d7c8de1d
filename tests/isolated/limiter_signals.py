"""Signals that come while the main thread waits at a Limiter are handled; Ctrl-C ends the wait and takes no permit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from aiolimiter_fast import InMemoryBucket, Limiter, Rate

HOUR = 3_600_000

# Who runs the tests in the background, as shells do with `&`, has Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Bucket(InMemoryBucket):
    """One of the user's own."""

    def put(self, item: object) -> bool:
        return super().put(item)  # type: ignore[arg-type]


def wait_until_main_sleeps() -> None:
    """Return once the main thread is asleep for good: Python code that runs before may be interrupted anywhere."""
    stat = Path(f"/proc/self/task/{threading.main_thread().native_id}/stat")
    if not stat.exists():
        time.sleep(1)
        return
    asleep = 0
    while asleep < 10:
        time.sleep(0.005)
        asleep = asleep + 1 if stat.read_text().rpartition(")")[2].split()[0] == "S" else 0


def once_it_waits(limiter: Limiter, act: Callable[[], None]) -> threading.Thread:
    def watch() -> None:
        while limiter.counters.waiting == 0:
            time.sleep(0.001)
        wait_until_main_sleeps()
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def send(number: int) -> None:
    signal.pthread_kill(threading.main_thread().ident, number)  # type: ignore[arg-type]


def interrupt(limiter: Limiter, *timeout: float) -> None:
    thread = once_it_waits(limiter, lambda: send(signal.SIGINT))
    try:
        limiter.try_acquire("x", 1, True, *timeout)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("not interrupted")
    thread.join()
    assert limiter.counters.waiting == 0


for limiter in (Limiter(Rate(2, HOUR)), Limiter(Bucket([Rate(2, HOUR)]))):
    bucket: InMemoryBucket = limiter.bucket_factory.bucket  # type: ignore[attr-defined]
    assert limiter.try_acquire(weight=2)
    interrupt(limiter)
    interrupt(limiter, 3600.0)
    bucket.flush()
    assert limiter.try_acquire(weight=2, blocking=False)

    # A handler runs at once, may use the limiter itself, and the wait goes on.
    handled: list[object] = []

    def handler(*args: object, limiter: Limiter = limiter, handled: list[object] = handled) -> None:
        handled.append(limiter.counters.waiting)
        handled.append(limiter.try_acquire(blocking=False))
        limiter.rates = Rate(2, 5)

    signal.signal(signal.SIGUSR1, handler)
    thread = once_it_waits(limiter, lambda: send(signal.SIGUSR1))
    # The line is planned anew when rates change; a bucket of the user's own has said already how long to wait.
    served = type(bucket) is InMemoryBucket
    assert limiter.try_acquire(timeout=3600 if served else 0.5) is served
    thread.join()
    assert handled == [1, False]

# Those behind the one that is interrupted are served in its place.
limiter = Limiter(Rate(2, HOUR))
assert limiter.try_acquire()
results = []


async def one() -> bool:
    return bool(await limiter.try_acquire_async())


def behind() -> None:
    while limiter.counters.waiting == 0:
        time.sleep(0.001)
    results.append(asyncio.run(one()))


def kill() -> None:
    while limiter.counters.waiting < 2:
        time.sleep(0.001)
    wait_until_main_sleeps()
    send(signal.SIGINT)


threads = [threading.Thread(target=behind), threading.Thread(target=kill)]
for thread in threads:
    thread.start()
try:
    limiter.try_acquire(weight=2)
except KeyboardInterrupt:
    results.append(False)
for thread in threads:
    thread.join()
assert sorted(results) == [False, True]

# asyncio.run ends by Ctrl-C as well, and what waited in it takes no permit.
limiter = Limiter(Rate(1, HOUR))
assert limiter.try_acquire()
thread = once_it_waits(limiter, lambda: os.kill(os.getpid(), signal.SIGINT))
with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(one())
thread.join()
assert limiter.counters == (1, 0, 0, 0)
