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
    postgres: str = ""  # where the tests expect a PostgreSQL
    redis: str = ""  # and a Redis
    parts: int = 1  # that run at once

    @property
    def release(self) -> str:
        return f"{self.library}-{self.version}"


def left_out(file: str, *tests: str) -> list[str]:
    """Options that deselect the tests of a file that begin so."""
    return [f"--deselect=tests/{file}::{test}" for test in tests]


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
    tests=384,
    name="Limiter",
    config="asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    "filterwarnings =\n    ignore::pytest.PytestUnknownMarkWarning",
    options=(
        # Shared memory keeps no names.
        "--deselect", "tests/test_bucket_all.py::test_bucket_03[create_mp_bucket]",
        # It dates calls by when their tasks run on, and counts on the 50 ms that are added to a wait there.
        "--deselect", "tests/test_multiprocessing.py::test_mp_bucket_async",
        # It asserts a time, to 20 ms: on a busy machine it fails.
        "--deselect", "tests/test_bucket_all.py::test_bucket_waiting",
        # These look into the table, which is in a format of our own here, or expect that its entries are dated, to a
        # millisecond, by the client.
        "-k", "not (test_concurrent_put and not multiple_rates and not weighted)",
        "--deselect", "tests/test_postgres_concurrent.py::test_peek_timestamp_matches_put_outside_utc",
        # RedisBucket forgets by itself.
        *left_out("test_bucket_all.py", "test_bucket_02[create_redis", "test_bucket_02[create_async_redis"),
        *left_out("test_bucket_all.py", "test_bucket_leak[create_redis", "test_bucket_leak[create_async_redis"),
        # These date calls by clocks of the tests' own. In Redis time is the server's here.
        *left_out("test_bucket_all.py", "test_bucket_records_retry_after[create_redis"),
        *left_out("test_bucket_all.py", "test_bucket_records_retry_after[create_async_redis"),
        *left_out("test_fixed_window.py", "test_backends_agree_on_fixed_window[redis]"),
        *left_out("test_gcra.py", "test_stores_agree_on_the_same_sequence[redis]", "test_async_redis_client"),
        *left_out("test_gcra.py", "test_async_redis_count_and_re_derived_wait"),
        *left_out("test_gcra.py", "test_async_wrapper_awaits_state_bucket_wait_replay"),
        *left_out("test_gcra.py", "test_redis_store_holds_the_limit_across_separate_clients"),
        # These make up the answers of the library's own script.
        *left_out("test_retry_after.py", "test_redis_sentinel", "test_redis_blocking_timestamp_becomes_a_wait"),
        # These call private functions of the library, or replace them.
        "--deselect", "tests/test_clocks.py::test_postgres_clock_fallback_to_local_on_exception",
        "--deselect", "tests/test_clocks.py::test_postgres_clock_no_rows_falls_back",
        "--deselect", "tests/test_acquire_path.py::test_plan_delay_step_outcomes",
        "--deselect", "tests/test_limiter.py::test_handle_async_result_cancels_pending_task_on_timeout",
        "--deselect", "tests/test_limiter.py::test_delay_waiter_handles_sync_waiting_with_async_put",
        "--deselect", "tests/test_limiter.py::test_delay_waiter_clamps_negative_sync_delay_to_zero",
    ),
    postgres="postgresql://postgres:postgres@localhost:5432",
    redis="redis://localhost:6379",
    parts=3,
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
