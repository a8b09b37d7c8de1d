"""Fifty tasks and an AdaptiveLimiter against a metered server, in virtual time: `run` with tasks, `simulate` without.

`simulate` asks the limiter as the first in line does, and is ten times as fast.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import Counter
from collections.abc import Callable
from math import inf
from typing import Any
from unittest import mock

from metering_servers import EPOCH, Answer, MeteredServer

from aiolimiter_fast import AdaptiveLimiter, Observation
from aiolimiter_fast.testing import ManualClock


def run(
    limiter: AdaptiveLimiter,
    server: MeteredServer,
    seconds: float = 20.0,
    *,
    tasks: int = 50,
    latency: tuple[float, float] = (0.02, 0.08),
    another_every: float = 0.0,
    while_running: Callable[[float], None] | None = None,
) -> None:
    """Let `tasks` tasks send one request after the other; `another_every` seconds a second client sends one."""
    asyncio.run(_run(limiter, server, seconds, tasks, latency, another_every, while_running))


async def _run(
    limiter: AdaptiveLimiter,
    server: MeteredServer,
    seconds: float,
    tasks: int,
    latency: tuple[float, float],
    another_every: float,
    while_running: Callable[[float], None] | None,
) -> None:
    chance = random.Random(1)
    limiter._spell.chance.seed(1)
    with ManualClock().installed() as clock:
        start = clock.time()

        def now() -> float:
            return clock.time() - start

        async def client() -> None:
            while True:
                async with limiter.call() as call:
                    trip = chance.uniform(*latency) / 2
                    await asyncio.sleep(trip)
                    answer = server.answer(now())
                    await asyncio.sleep(trip)
                    call.observe(answer.headers, answer.status)
                    if while_running is not None:
                        while_running(now())

        async def another() -> None:
            while True:
                await asyncio.sleep(another_every)
                server.take_by_another(now())

        running: list[asyncio.Task[Any]] = [asyncio.create_task(client()) for _ in range(tasks)]
        if another_every:
            running.append(asyncio.create_task(another()))
        with mock.patch("time.time", side_effect=lambda: EPOCH + now()):
            await clock.run(seconds)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class Simulation:
    """Tasks that send one request after the other, as events. `now` is in seconds from the start."""

    def __init__(
        self, limiter: AdaptiveLimiter, server: MeteredServer, latency: tuple[float, float], seed: int, phase: float
    ) -> None:
        self.now = 0.0
        self._limiter = limiter
        self._server = server
        self._latency = latency
        self._chance = random.Random(seed)
        self._phase = phase
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._idle = 0
        self._wake_at = inf
        limiter._spell.chance.seed(seed)

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, do))

    def run(self, seconds: float, tasks: int) -> None:
        def monotonic() -> float:
            return 1000.0 + self.now

        def unix() -> float:
            return EPOCH + self._phase + self.now

        self._idle = tasks
        with mock.patch("time.monotonic", monotonic), mock.patch("time.time", unix):
            self._send()
            while self._events and self._events[0][0] <= seconds:
                self.now, _, do = heapq.heappop(self._events)
                do()

    def _send(self) -> None:
        """Let go who may, and come back when another may."""
        while self._idle:
            wait = self._limiter._decide(1)
            if wait > 0:
                if wait < inf:
                    self._wake_at = self.now + max(wait, 1e-6)
                    self.after(self._wake_at - self.now, self._wake)
                return
            self._idle -= 1
            sent_at = self._limiter.time()
            trip = self._chance.uniform(*self._latency) / 2
            self.after(trip, lambda sent_at=sent_at, trip=trip: self._arrive(sent_at, trip))  # type: ignore[misc]

    def _wake(self) -> None:
        if self.now >= self._wake_at:  # or something else has woken it meanwhile
            self._wake_at = inf
            self._send()

    def _arrive(self, sent_at: float, trip: float) -> None:
        answer = self._server.answer(self._phase + self.now)
        self.after(trip, lambda: self._return(sent_at, answer))

    def _return(self, sent_at: float, answer: Answer) -> None:
        headers: Any = answer.headers
        if not headers or headers.keys() == {"Retry-After"}:  # spare the parser, which takes most of the time
            headers = Observation(pause_for=float(headers["Retry-After"]) if headers else None)
        self._limiter.observe(headers, answer.status, sent_at=sent_at)
        self._idle += 1
        self._send()

    def send_another(self, every: float) -> None:
        self._server.take_by_another(self._phase + self.now)
        self.after(every, lambda: self.send_another(every))


def simulate(
    limiter: AdaptiveLimiter,
    server: MeteredServer,
    seconds: float = 20.0,
    *,
    tasks: int = 50,
    latency: tuple[float, float] = (0.02, 0.08),
    another_every: float = 0.0,
    seed: int = 1,
    phase: float = 0.0,
) -> None:
    """As `run`, and the server's clock shows `phase` at the start."""
    simulation = Simulation(limiter, server, latency, seed, phase)
    if another_every:
        simulation.after(another_every, lambda: simulation.send_another(another_every))
    simulation.run(seconds, tasks)


def share(server: MeteredServer, quota: float, begin: float = 0.0) -> float:
    """What was used of `quota` permits from `begin` on, by us and by the second client."""
    return (sum(at >= begin for at in server.admitted) + server.taken_by_others) / quota


def most_refused(server: MeteredServer, window: float) -> int:
    """The largest number of refusals in one window."""
    return max(Counter(int(at // window) for at in server.refused).values(), default=0)


def refused_share(server: MeteredServer, begin: float) -> float:
    """The share of the responses from `begin` on that were refusals."""
    refused = sum(at >= begin for at in server.refused)
    return refused / max(refused + sum(at >= begin for at in server.admitted), 1)
