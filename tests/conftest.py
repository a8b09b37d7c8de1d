"""The engines under test, and the manual clock that the tests run on.

Every test of the core and of the limiter runs on both engines: it asks for `engine`, or for `AsyncLimiter`.
AIOLIMITER_FAST_NO_EXTENSIONS=1 leaves the twin; a missing extension is an error, not a reason to skip.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from servers import (  # noqa: F401
    postgres_dsn,
    postgres_server,
    redis_cluster,
    redis_server,
    redis_url,
)

import aiolimiter_fast
from aiolimiter_fast import _budget, _engine
from aiolimiter_fast._twin import importing, load_all, load_twin
from aiolimiter_fast._waiting.asyncio import attach
from aiolimiter_fast.testing import ManualClock

# No test asserts a time, Hypothesis's own included: a busy machine would fail it.
settings.register_profile("untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
# Nor is that an outage: calls of backends have half a minute where a test says nothing else.
_budget.BUDGET = 30.0

MODULES = {"extension": "aiolimiter_fast._bucket", "twin": "aiolimiter_fast._bucket_py"}
if os.environ.get("AIOLIMITER_FAST_NO_EXTENSIONS", "0") not in ("", "0"):
    del MODULES["extension"]

# Where no server can be had, as in the images that wheels are tested in: what needs one is not collected.
if os.environ.get("AIOLIMITER_FAST_NO_SERVERS", "0") not in ("", "0"):
    collect_ignore_glob = ["test_redis*.py", "test_postgres*.py", "test_outages*.py", "test_servers.py"]


@lru_cache(None)
def load(name: str) -> ModuleType:
    module = importlib.import_module(MODULES[name])
    if module is not _engine.engine:
        attach(module)
    return module


def load_package(name: str) -> ModuleType:
    if name == _engine.ENGINE:
        return aiolimiter_fast
    return load_twin()["aiolimiter_fast"]


def modules_of(package: ModuleType) -> dict[str, ModuleType]:
    return load_all() if package is aiolimiter_fast else load_twin()


@pytest.fixture(scope="session", params=MODULES)
def engine(request: pytest.FixtureRequest) -> ModuleType:
    return load(request.param)


@pytest.fixture(scope="session", params=MODULES)
def package(request: pytest.FixtureRequest) -> ModuleType:
    """The whole package, `aiolimiter_fast`, on each engine."""
    return load_package(request.param)


@pytest.fixture
def imported(package: ModuleType) -> Iterator[None]:
    """Imports and pickle find the package under test."""
    with importing(modules_of(package)):
        yield


@pytest.fixture(scope="session")
def both_packages() -> tuple[ModuleType, ModuleType]:
    return load_package("extension"), load_package("twin")


@pytest.fixture(scope="session")
def AsyncLimiter(engine: Any) -> Any:  # noqa: N802
    return engine.AsyncLimiter


@lru_cache(None)
def load_pacing(name: str) -> ModuleType:
    """The module `pacing` on an engine."""
    engine = load(name)
    module = importlib.import_module("aiolimiter_fast.pacing")
    if engine is _engine.engine:
        return module
    spec = importlib.util.spec_from_file_location(f"pacing_on_{name}", module.__file__)
    assert spec is not None
    assert spec.loader is not None
    other = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    with mock.patch.object(_engine, "engine", engine):
        spec.loader.exec_module(other)
    return other


@pytest.fixture(scope="session", params=MODULES)
def pacing(request: pytest.FixtureRequest) -> ModuleType:
    return load_pacing(request.param)


@pytest.fixture(scope="session", params=[*MODULES, "asynciolimiter"])
def pacing_or_asynciolimiter(request: pytest.FixtureRequest) -> ModuleType:
    """Our module on each engine, and the one that it replaces."""
    if request.param == "asynciolimiter":
        return importlib.import_module("asynciolimiter")
    return load_pacing(request.param)


@pytest.fixture(scope="session")
def both_engines() -> tuple[ModuleType, ModuleType]:
    return load("extension"), load("twin")


@pytest.fixture(scope="session")
def both_pacings(both_engines: Any) -> tuple[ModuleType, ModuleType]:
    return load_pacing("extension"), load_pacing("twin")


COMPARISONS = {"both_engines", "both_packages"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[Any]) -> None:
    """Leave out what compares the engines where there is only one."""
    if "extension" not in MODULES:
        comparisons = [item for item in items if COMPARISONS & set(item.fixturenames)]
        items[:] = [item for item in items if item not in comparisons]
        config.hook.pytest_deselected(items=comparisons)


@pytest.fixture
async def clock() -> AsyncIterator[ManualClock]:
    """A manual clock, installed on the test's loop."""
    with ManualClock().installed() as manual:
        yield manual


class Simulation:
    """A limiter on a loop and a manual clock of its own, called from outside the loop; to be closed.

    Calls are numbered in order. Instants are nanoseconds since the start. After every step the loop is at rest,
    but for `turn`.
    """

    START = 1000.0

    def __init__(self, limiter: Any) -> None:
        self.limiter = limiter
        self.clock = ManualClock(self.START)
        self.amounts: list[float] = []
        self.admitted: list[tuple[int, int]] = []  # instant, call
        self.refused: list[tuple[int, int]] = []  # by ValueError
        self._tasks: list[asyncio.Task[None]] = []
        self._loop = asyncio.new_event_loop()
        self._exit = ExitStack()
        self._exit.enter_context(self.clock.installed(self._loop))

    @property
    def now(self) -> int:
        return self.clock.time_ns() - round(self.START * 1e9)

    @property
    def waiting(self) -> list[int]:
        return [call for call, task in enumerate(self._tasks) if not task.done()]

    async def _call(self, call: int, amount: float) -> None:
        try:
            await self.limiter.acquire(amount)
        except ValueError:
            self.refused.append((self.now, call))
        else:
            self.admitted.append((self.now, call))

    def acquire(self, amount: float, *, settle: bool = True) -> int:
        """Start a task that acquires, and return its number."""
        call = len(self._tasks)
        self.amounts.append(amount)
        self._tasks.append(self._loop.create_task(self._call(call, amount)))
        if settle:
            self.settle()
        return call

    def cancel(self, call: int) -> None:
        self._tasks[call].cancel()
        self.settle()

    def settle(self) -> None:
        self._loop.run_until_complete(self.clock.settle())

    def turn(self) -> None:
        """Let the loop run once, so that what was granted has not been resumed yet."""
        self._loop.call_soon(self._loop.stop)
        self._loop.run_forever()

    def run(self, nanoseconds: int) -> None:
        """Let time pass, from timer to timer."""
        self._loop.run_until_complete(self.clock.run(nanoseconds / 1e9))

    def inside(self, function: Callable[[], Any]) -> Any:
        """Call a function in the loop, and settle."""

        async def call() -> Any:
            return function()

        result = self._loop.run_until_complete(call())
        self.settle()
        return result

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            self._loop.run_until_complete(asyncio.wait(self._tasks))
        self._exit.close()
        self._loop.close()


@pytest.fixture(scope="session")
def simulation() -> type[Simulation]:
    """The class, since Hypothesis makes many within one test."""
    return Simulation
