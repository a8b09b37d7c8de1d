"""The test suites that `conformance.py` runs, what they need, and what is left out of them and why."""

from dataclasses import dataclass

__all__ = ["SUITES", "Suite"]


@dataclass(frozen=True)
class Suite:
    """A library's tests."""

    library: str
    version: str
    sha256: str  # of the sdist
    tests: int  # how many pass when run on the library itself
    name: str  # something that is ours once install() has run
    config: str
    options: tuple[str, ...] = ()
    conftest: str = ""  # not used in real time

    @property
    def release(self) -> str:
        return f"{self.library}-{self.version}"


AIOLIMITER = Suite(
    library="aiolimiter",
    version="1.3.0",
    sha256="7343008c2228e89def7d4ce29ab98ee98822bf5db69018c09c90088929f7c104",
    tests=13,
    name="AsyncLimiter",
    config="asyncio_mode = auto\nasyncio_default_fixture_loop_scope = session",
    # It asks git for the version of aiolimiter's own checkout.
    options=("--deselect", "tests/test_aiolimiter.py::test_version"),
)

PYRATE_LIMITER = Suite(
    library="pyrate_limiter",
    version="4.5.1",
    sha256="7f03c6a9235b00a4ba3c7b1e8cb6b23fbacc9d40b09f326220917a12ef22cc09",
    tests=267,
    name="Limiter",
    config="asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    "filterwarnings =\n    ignore::pytest.PytestUnknownMarkWarning",
    options=(
        # The buckets over servers and files come later; their tests, and parameters of others, bear these names.
        "-k", "not sqlite and not redis and not postgres and not test_default_clock_follows_the_store",
        # Shared memory keeps no names.
        "--deselect", "tests/test_bucket_all.py::test_bucket_03[create_mp_bucket]",
        # It dates calls by when their tasks run on, and counts on the 50 ms that are added to a wait there.
        "--deselect", "tests/test_multiprocessing.py::test_mp_bucket_async",
        # So do the HTTP clients.
        "--ignore", "tests/test_aiohttp_limiter.py",
        # It asserts a time, to 20 ms: on a busy machine it fails.
        "--deselect", "tests/test_bucket_all.py::test_bucket_waiting",
        # These call private functions of the library.
        "--deselect", "tests/test_acquire_path.py::test_plan_delay_step_outcomes",
        "--deselect", "tests/test_limiter.py::test_handle_async_result_cancels_pending_task_on_timeout",
        "--deselect", "tests/test_limiter.py::test_delay_waiter_handles_sync_waiting_with_async_put",
        "--deselect", "tests/test_limiter.py::test_delay_waiter_clamps_negative_sync_delay_to_zero",
    ),
)  # fmt: skip

# Its tests run on asyncio and on trio. They assert how long something took, so they are told the time: where all would
# sleep, the clock jumps, and a busy machine does not fail them.
JUMPING_CLOCKS = """\
import asyncio
import selectors

import pytest
import trio.testing


class JumpingSelector(selectors.DefaultSelector):
    slept = 0.0

    def select(self, timeout=None):
        events = super().select(timeout if timeout is None else 0)
        if not events and timeout is not None:
            self.slept += max(timeout, 0)
        return events


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        super().__init__(JumpingSelector())

    def time(self):
        return 1000.0 + self._selector.slept


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    if request.param == "trio":
        return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return "asyncio", {"loop_factory": JumpingLoop}
"""

AIOMETER = Suite(
    library="aiometer",
    version="1.0.0",
    sha256="c492933dbd3a90c619473c3f242d00842ee274f6285a44b5d5fbee228a407056",
    tests=126,
    name="run_on_each",
    config="filterwarnings = error\nmarkers = slow",
    options=("-p", "no:asyncio"),
    conftest=JUMPING_CLOCKS,
)

SUITES = {suite.library: suite for suite in (AIOLIMITER, PYRATE_LIMITER, AIOMETER)}
