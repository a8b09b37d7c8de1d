"""Runs the test suites of aiolimiter 1.3.0 and pyrate-limiter 4.5.1 against this package.

The suites come from the libraries' sdists on PyPI, checked by their hashes, and are never kept in this repository.
What is left out of them is listed below, with the reason.

    python scripts/conformance.py              both suites on both engines
    python scripts/conformance.py aiolimiter   one of them
    python scripts/conformance.py --reference  the real libraries, to check this script
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Suite:
    """A library's tests: the sdist, how many pass when run on the library itself, and what is left out."""

    library: str
    release: str
    sha256: str
    tests: int
    options: tuple[str, ...]


AIOLIMITER = Suite(
    library="aiolimiter",
    release="aiolimiter-1.3.0",
    sha256="7343008c2228e89def7d4ce29ab98ee98822bf5db69018c09c90088929f7c104",
    tests=13,
    # It asks git for the version of aiolimiter's own checkout.
    options=("--deselect", "tests/test_aiolimiter.py::test_version"),
)
PYRATE_LIMITER = Suite(
    library="pyrate_limiter",
    release="pyrate_limiter-4.5.1",
    sha256="7f03c6a9235b00a4ba3c7b1e8cb6b23fbacc9d40b09f326220917a12ef22cc09",
    tests=269,
    options=(
        # The buckets over servers and files come later; their tests, and parameters of others, bear these names.
        "-k", "not sqlite and not redis and not postgres and not test_default_clock_follows_the_store",
        # So do the HTTP clients.
        "--ignore", "tests/test_aiohttp_limiter.py",
        # It is 20 ms from failing: where a sleep takes longer than that, the library fails it too.
        "--deselect", "tests/test_bucket_all.py::test_bucket_waiting",
        # These call private functions of the library.
        "--deselect", "tests/test_acquire_path.py::test_plan_delay_step_outcomes",
        "--deselect", "tests/test_limiter.py::test_handle_async_result_cancels_pending_task_on_timeout",
        "--deselect", "tests/test_limiter.py::test_delay_waiter_handles_sync_waiting_with_async_put",
        "--deselect", "tests/test_limiter.py::test_delay_waiter_clamps_negative_sync_delay_to_zero",
    ),
)  # fmt: skip
SUITES = {suite.library: suite for suite in (AIOLIMITER, PYRATE_LIMITER)}

CONFIG = """\
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = {scope}
testpaths = tests
filterwarnings =
    ignore::pytest.PytestUnknownMarkWarning
"""

# Loaded before the tests are imported. It ends the run unless the limiter under test is the one that was asked for,
# and unless every test of the suite has passed: an empty or skipped run is not a success.
PLUGIN = """\
import importlib
import os
import sys

import pytest

library = os.environ["CONFORMANCE_LIBRARY"]
subject = os.environ["CONFORMANCE_SUBJECT"]
if subject != "reference":
    import aiolimiter_fast
    from aiolimiter_fast._engine import ENGINE

    if ENGINE != subject:
        raise pytest.UsageError(f"{subject} was asked for, {ENGINE} was loaded")
    aiolimiter_fast.install(library)

replaced = importlib.import_module(library)
limiter = {"aiolimiter": "AsyncLimiter", "pyrate_limiter": "Limiter"}[library]
if subject != "reference" and getattr(replaced, limiter) is not getattr(aiolimiter_fast, limiter):
    raise pytest.UsageError(f"install() left {replaced!r} under test")

# Names that are imported by the tests that are run, for those that are not.
LATER = {
    "pyrate_limiter": (
        "PgQueries", "PostgresBucket", "RedisBucket", "RedisStateStore", "SQLiteBucket", "SQLiteClock", "SQLiteQueries",
        "dedicated_sqlite_clock_connection",
    ),
    "pyrate_limiter.clocks": ("PostgresClock",),
}
if library == "pyrate_limiter":
    for module, names in LATER.items():
        for name in names:
            if not hasattr(sys.modules[module], name):
                setattr(sys.modules[module], name, type(name, (), {}))

passed = 0


def pytest_runtest_logreport(report):
    global passed
    passed += report.when == "call" and report.outcome == "passed"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    expected = int(os.environ["CONFORMANCE_TESTS"])
    if passed != expected:
        print(f"\\n{passed} tests passed, {expected} should have")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
"""


def fetch_sdist(suite: Suite, cache: Path) -> Path:
    """Return the path of the sdist, downloaded by pip if it is not in the cache yet."""
    sdist = cache / f"{suite.release}.tar.gz"
    if not sdist.exists():
        cache.mkdir(parents=True, exist_ok=True)
        requirements = cache / "requirements.txt"
        requirements.write_text(f"{suite.release.replace('-', '==')} --hash=sha256:{suite.sha256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        pip += [f"--no-binary={suite.library}", "--require-hashes", "--requirement", str(requirements)]
        subprocess.run([*pip, "--dest", str(cache)], check=True)
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if digest != suite.sha256:
        raise SystemExit(f"{sdist} has sha256 {digest}, not {suite.sha256}: remove it")
    return sdist


def unpack(suite: Suite, sdist: Path, target: Path) -> None:
    prefix = f"{suite.release}/tests/"
    (target / "tests").mkdir(parents=True)
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member) if member.name.startswith(prefix) else None
            if content is not None:
                (target / "tests" / Path(member.name).name).write_bytes(content.read())
    (target / "pytest.ini").write_text(CONFIG.format(scope="session" if suite is AIOLIMITER else "function"))
    (target / "conformance_plugin.py").write_text(PLUGIN)


def start(suite: Suite, subject: str, target: Path) -> "subprocess.Popen[str]":
    environment = dict(os.environ, CONFORMANCE_LIBRARY=suite.library, CONFORMANCE_SUBJECT=subject)
    environment["CONFORMANCE_TESTS"] = str(suite.tests)
    environment["AIOLIMITER_FAST_NO_EXTENSIONS"] = "1" if subject == "twin" else ""
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "conformance_plugin", "-p", "no:cacheprovider"]
    return subprocess.Popen(
        [*pytest, *suite.options],
        cwd=target,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", nargs="*", metavar="library", help=f"{' or '.join(SUITES)}; default both")
    parser.add_argument("--reference", action="store_true", help="test the real libraries instead")
    arguments = parser.parse_args()
    for library in arguments.libraries:
        if library not in SUITES:
            parser.error(f"library must be among {', '.join(SUITES)}, got {library!r}")
    subjects = ["reference"] if arguments.reference else ["extension", "twin"]
    failed = []
    for suite in [SUITES[library] for library in arguments.libraries or SUITES]:
        sdist = fetch_sdist(suite, ROOT / ".cache" / "conformance")
        with tempfile.TemporaryDirectory() as folder:
            # The engines at once: most of the time the tests sleep.
            runs = {}
            for subject in subjects:
                target = Path(folder) / subject
                unpack(suite, sdist, target)
                runs[subject] = start(suite, subject, target)
            for subject, run in runs.items():
                output, _ = run.communicate()
                print(f"-- {suite.library}'s tests on: {subject}\n{output}", flush=True)
                if run.returncode != 0:
                    failed.append(f"{suite.library} on {subject}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
