"""Runs the test suite of aiolimiter 1.3.0 against this package.

The suite comes from aiolimiter's sdist on PyPI, checked by its hash, and is never kept in this repository.
Only its version test is left out: it asks git for the version of aiolimiter's own checkout.

    python scripts/conformance.py              both engines
    python scripts/conformance.py --reference  the real aiolimiter, to check this script
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

RELEASE = "aiolimiter-1.3.0"
SHA256 = "7343008c2228e89def7d4ce29ab98ee98822bf5db69018c09c90088929f7c104"
TESTS = 13  # what it passes when run on aiolimiter itself
ROOT = Path(__file__).resolve().parent.parent

CONFIG = """\
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = session
testpaths = tests
"""

# Loaded before the tests are imported. It ends the run unless the limiter under test is the one that was asked for,
# and unless every test of the suite has passed: an empty or skipped run is not a success.
PLUGIN = """\
import os

import pytest

subject = os.environ["CONFORMANCE_SUBJECT"]
if subject != "reference":
    import aiolimiter_fast
    from aiolimiter_fast._engine import ENGINE

    if ENGINE != subject:
        raise pytest.UsageError(f"{subject} was asked for, {ENGINE} was loaded")
    aiolimiter_fast.install()

import aiolimiter

if subject != "reference" and aiolimiter.AsyncLimiter is not aiolimiter_fast.AsyncLimiter:
    raise pytest.UsageError(f"install() left {aiolimiter.AsyncLimiter!r} under test")

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


def fetch_sdist(cache: Path) -> Path:
    """Return the path of the sdist, downloaded by pip if it is not in the cache yet."""
    sdist = cache / f"{RELEASE}.tar.gz"
    if not sdist.exists():
        cache.mkdir(parents=True, exist_ok=True)
        requirements = cache / "requirements.txt"
        requirements.write_text(f"{RELEASE.replace('-', '==')} --hash=sha256:{SHA256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        pip += ["--no-binary=aiolimiter", "--require-hashes", "--requirement", str(requirements)]
        subprocess.run([*pip, "--dest", str(cache)], check=True)
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{sdist} has sha256 {digest}, not {SHA256}: remove it")
    return sdist


def unpack(sdist: Path, target: Path) -> None:
    prefix = f"{RELEASE}/tests/"
    (target / "tests").mkdir()
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member) if member.name.startswith(prefix) else None
            if content is not None:
                (target / "tests" / Path(member.name).name).write_bytes(content.read())
    (target / "pytest.ini").write_text(CONFIG)
    (target / "conformance_plugin.py").write_text(PLUGIN)


def run(subject: str, target: Path) -> int:
    print(f"-- aiolimiter's tests on: {subject}", flush=True)
    environment = dict(os.environ, CONFORMANCE_SUBJECT=subject, CONFORMANCE_TESTS=str(TESTS))
    environment["AIOLIMITER_FAST_NO_EXTENSIONS"] = "1" if subject == "twin" else ""
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "conformance_plugin", "-p", "no:cacheprovider"]
    pytest += ["--deselect", "tests/test_aiolimiter.py::test_version"]
    return subprocess.run(pytest, cwd=target, env=environment).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", action="store_true", help="test the real aiolimiter instead")
    subjects = ["reference"] if parser.parse_args().reference else ["extension", "twin"]
    sdist = fetch_sdist(ROOT / ".cache" / "conformance")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        unpack(sdist, target)
        failed = [subject for subject in subjects if run(subject, target) != 0]
    if failed:
        print(f"failed on: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
