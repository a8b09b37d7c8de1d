"""Runs the test suites of aiolimiter 1.3.0, pyrate-limiter 4.5.1 and aiometer 1.0.0 against this package.

The suites come from the libraries' sdists on PyPI, checked by their hashes, and are never kept in this repository.
What is left out of them is listed in `_suites.py`, with the reason.

    python scripts/conformance.py              all suites on both engines
    python scripts/conformance.py aiolimiter   one of them
    python scripts/conformance.py --real-time  aiometer's with the true clocks
    python scripts/conformance.py --reference  the real libraries, if installed, to check this script
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from _suites import SUITES, Suite

ROOT = Path(__file__).resolve().parent.parent
TESTS_FAILED = 1  # pytest's exit code

# Loaded before the tests are imported. It ends the run unless the library under test is the one that was asked for, and
# tells how many tests have passed: an empty or skipped run is not a success.
PLUGIN = """\
import os
from importlib import import_module

import pytest

subject, library = os.environ["CONFORMANCE_SUBJECT"], os.environ["CONFORMANCE_LIBRARY"]
name = os.environ["CONFORMANCE_NAME"]
if subject != "reference":
    import aiolimiter_fast
    from aiolimiter_fast import _budget
    from aiolimiter_fast._engine import ENGINE

    if ENGINE != subject:
        raise pytest.UsageError(f"{subject} was asked for, {ENGINE} was loaded")
    aiolimiter_fast.install(library)
    _budget.BUDGET = 30.0  # that a machine is busy is no outage

found = getattr(import_module(library), name)
if subject != "reference" and found is not getattr(aiolimiter_fast, name):
    raise pytest.UsageError(f"install() left {found!r} under test")

part, parts = int(os.environ["CONFORMANCE_PART"]), int(os.environ["CONFORMANCE_PARTS"])
passed = 0


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    items[:] = items[part::parts]


def pytest_runtest_logreport(report):
    global passed
    passed += report.when == "call" and report.outcome == "passed"


def pytest_sessionfinish(session):
    with open(os.environ["CONFORMANCE_PASSED"], "w") as file:
        file.write(str(passed))
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


@contextmanager
def servers(suite: Suite) -> Iterator[dict[str, str]]:
    """Start what a suite needs, as our own tests do: by the address that it knows, the one to put in its place."""
    sys.path.append(str(ROOT / "tests"))
    addresses = {}
    with ExitStack() as started:
        if suite.postgres:
            from servers import PostgresServer

            dsn = os.environ.get("POSTGRES_DSN") or started.enter_context(PostgresServer()).dsn
            addresses[suite.postgres] = dsn
        if suite.redis:
            from servers import RedisServer

            url = os.environ.get("REDIS_URL") or started.enter_context(RedisServer()).url
            addresses[suite.redis] = url
        yield addresses


def unpack(suite: Suite, sdist: Path, target: Path, real_time: bool, addresses: dict[str, str]) -> None:
    prefix = f"{suite.release}/tests/"
    (target / "tests").mkdir(parents=True)
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member) if member.name.startswith(prefix) else None
            if content is not None:
                text = content.read().decode()
                for theirs, ours in addresses.items():
                    text = text.replace(theirs, ours)
                (target / "tests" / Path(member.name).name).write_text(text, encoding="utf-8")
    (target / "pytest.ini").write_text(f"[pytest]\ntestpaths = tests\n{suite.config}\n")
    (target / "conformance_plugin.py").write_text(PLUGIN)
    if suite.conftest and not real_time:
        (target / "conftest.py").write_text(suite.conftest)


class Run:
    """A suite on a subject, in parts that run at once: most of the time the tests sleep.

    Some of the libraries' tests expect a step to take less than so many milliseconds. So what fails among the others
    gets a second attempt, when there is nothing else to do.
    """

    def __init__(self, suite: Suite, subject: str, target: Path) -> None:
        self.suite, self.subject, self.target = suite, subject, target
        self.parts = [self.start(part, 1) for part in range(suite.parts)]

    def start(self, part: int, attempt: int) -> "subprocess.Popen[str]":
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "conformance_plugin", "-o", f"cache_dir=cache-{part}"]
        # A test that goes on for ever ends the run, with every stack.
        pytest += ["-o", "faulthandler_timeout=120", "-o", "faulthandler_exit_on_timeout=true", *self.suite.options]
        return subprocess.Popen(
            pytest if attempt == 1 else [*pytest, "--last-failed", "--last-failed-no-failures=none"],
            cwd=self.target,
            env=dict(
                os.environ,
                AIOLIMITER_FAST_NO_EXTENSIONS="1" if self.subject == "twin" else "",
                CONFORMANCE_LIBRARY=self.suite.library,
                CONFORMANCE_NAME=self.suite.name,
                CONFORMANCE_SUBJECT=self.subject,
                CONFORMANCE_PART=str(part),
                CONFORMANCE_PARTS=str(self.suite.parts),
                CONFORMANCE_PASSED=str(self.target / f"passed-{part}-{attempt}"),
                PYTHONDONTWRITEBYTECODE="1",
                TMPDIR=str(self.target),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> None:
        """Wait for all parts, and print what they say."""
        print(f"-- {self.suite.library}'s tests on: {self.subject}")
        for part in self.parts:
            print(part.communicate()[0], flush=True)

    def ends_well(self) -> bool:
        """Give what failed its second attempt, and tell whether every test of the suite has passed."""
        ends = [part.returncode for part in self.parts]
        for part, code in enumerate(ends):
            if code == TESTS_FAILED:
                print(f"-- again, what failed of {self.suite.library}'s tests on: {self.subject}")
                again = self.start(part, 2)
                print(again.communicate()[0], flush=True)
                ends[part] = again.returncode
        passed = sum(int(count.read_text()) for count in self.target.glob("passed-*"))
        print(f"{passed} of {self.suite.library}'s tests passed on {self.subject}, {self.suite.tests} should have")
        return passed == self.suite.tests and not any(ends)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", nargs="*", metavar="library", help=f"among {', '.join(SUITES)}; default all")
    parser.add_argument("--reference", action="store_true", help="test the real libraries instead")
    parser.add_argument("--real-time", action="store_true", help="let aiometer's tests take their time")
    arguments = parser.parse_args()
    for library in arguments.libraries:
        if library not in SUITES:
            parser.error(f"library must be among {', '.join(SUITES)}, got {library!r}")
    subjects = ["reference"] if arguments.reference else ["extension", "twin"]
    failed = []
    for suite in [SUITES[library] for library in arguments.libraries or SUITES]:
        sdist = fetch_sdist(suite, ROOT / ".cache" / "conformance")
        with tempfile.TemporaryDirectory() as folder, servers(suite) as addresses:
            runs = {}
            for subject in subjects:
                target = Path(folder) / subject
                unpack(suite, sdist, target, arguments.real_time, addresses)
                runs[subject] = Run(suite, subject, target)
            for run in runs.values():
                run.end()
            for subject, run in runs.items():
                if not run.ends_well():
                    failed.append(f"{suite.library} on {subject}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
