"""Runs the test suites of aiolimiter 1.3.0 and aiometer 1.0.0 against this package.

The suites come from their sdists on PyPI, checked by their hashes, and are never kept in this repository.
Only aiolimiter's version test is left out: it asks git for the version of aiolimiter's own checkout. aiometer's tests
run on asyncio and on trio. They assert how long something took, so they are told the time: where all would sleep, the
clock jumps, and a busy machine does not fail them.

    python scripts/conformance.py                  both suites, both engines
    python scripts/conformance.py --real-time      with the true clocks
    python scripts/conformance.py --only aiometer  one of them
    python scripts/conformance.py --reference      the real libraries, if installed, to check this script
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
    library: str
    version: str
    sha256: str
    tests: int  # what it passes when run on the library itself
    name: str  # something that is ours once install() has run
    config: str
    options: tuple[str, ...] = ()
    conftest: str = ""  # not used in real time

    @property
    def release(self) -> str:
        return f"{self.library}-{self.version}"


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

SUITES = (
    Suite(
        library="aiolimiter",
        version="1.3.0",
        sha256="7343008c2228e89def7d4ce29ab98ee98822bf5db69018c09c90088929f7c104",
        tests=13,
        name="AsyncLimiter",
        config="asyncio_mode = auto\nasyncio_default_fixture_loop_scope = session",
        options=("--deselect", "tests/test_aiolimiter.py::test_version"),
    ),
    Suite(
        library="aiometer",
        version="1.0.0",
        sha256="c492933dbd3a90c619473c3f242d00842ee274f6285a44b5d5fbee228a407056",
        tests=126,
        name="run_on_each",
        config="filterwarnings = error\nmarkers = slow",
        options=("-p", "no:asyncio"),
        conftest=JUMPING_CLOCKS,
    ),
)

# Loaded before the tests are imported. It ends the run unless the library under test is the one that was asked for,
# and unless every test of the suite has passed: an empty or skipped run is not a success.
PLUGIN = """\
import os
from importlib import import_module

import pytest

subject, library = os.environ["CONFORMANCE_SUBJECT"], os.environ["CONFORMANCE_LIBRARY"]
name = os.environ["CONFORMANCE_NAME"]
if subject != "reference":
    import aiolimiter_fast
    from aiolimiter_fast._engine import ENGINE

    if ENGINE != subject:
        raise pytest.UsageError(f"{subject} was asked for, {ENGINE} was loaded")
    aiolimiter_fast.install()

found = getattr(import_module(library), name)
if subject != "reference" and found is not getattr(aiolimiter_fast, name):
    raise pytest.UsageError(f"install() left {found!r} under test")

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
        requirements.write_text(f"{suite.library}=={suite.version} --hash=sha256:{suite.sha256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        pip += [f"--no-binary={suite.library}", "--require-hashes", "--requirement", str(requirements)]
        subprocess.run([*pip, "--dest", str(cache)], check=True)
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if digest != suite.sha256:
        raise SystemExit(f"{sdist} has sha256 {digest}, not {suite.sha256}: remove it")
    return sdist


def unpack(suite: Suite, sdist: Path, target: Path, real_time: bool) -> None:
    prefix = f"{suite.release}/tests/"
    (target / "tests").mkdir()
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member) if member.name.startswith(prefix) else None
            if content is not None:
                (target / "tests" / Path(member.name).name).write_bytes(content.read())
    (target / "pytest.ini").write_text(f"[pytest]\ntestpaths = tests\n{suite.config}\n")
    (target / "conformance_plugin.py").write_text(PLUGIN)
    if suite.conftest and not real_time:
        (target / "conftest.py").write_text(suite.conftest)


def run(suite: Suite, subject: str, target: Path) -> int:
    print(f"-- {suite.library}'s tests on: {subject}", flush=True)
    environment = dict(
        os.environ,
        AIOLIMITER_FAST_NO_EXTENSIONS="1" if subject == "twin" else "",
        CONFORMANCE_LIBRARY=suite.library,
        CONFORMANCE_NAME=suite.name,
        CONFORMANCE_SUBJECT=subject,
        CONFORMANCE_TESTS=str(suite.tests),
    )
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "conformance_plugin", "-p", "no:cacheprovider"]
    return subprocess.run([*pytest, *suite.options], cwd=target, env=environment).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", action="store_true", help="test the real libraries instead")
    parser.add_argument("--only", choices=[suite.library for suite in SUITES], help="one suite")
    parser.add_argument("--real-time", action="store_true", help="let aiometer's tests take their time")
    options = parser.parse_args()
    subjects = ["reference"] if options.reference else ["extension", "twin"]
    failed = []
    for suite in SUITES:
        if options.only not in (None, suite.library):
            continue
        sdist = fetch_sdist(suite, ROOT / ".cache" / "conformance")
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder)
            unpack(suite, sdist, target, options.real_time)
            failed += [f"{suite.library} on {subject}" for subject in subjects if run(suite, subject, target) != 0]
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
