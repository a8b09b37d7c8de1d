"""Builds the sdist and, from it, a wheel for every Python found, and tests each wheel away from the tree.

    python scripts/wheels.py            Python 3.10 to 3.14, as far as they are installed
    python scripts/wheels.py 3.11 3.13  only these, and all of them

Pythons are looked for on the path and under pyenv. The last one also tests the pure wheel, built from the same sdist
with AIOLIMITER_FAST_NO_EXTENSIONS=1, and an editable install. Wheels and sdist are left in dist/.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
VERSIONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
LEFTOVERS = [".*", "__pycache__", "build", "dist", "*.egg-info", "*.c", "*.html", "*.so", "*.pyd"]
PURE = {"AIOLIMITER_FAST_NO_EXTENSIONS": "1"}

# Whatever the caller has set must not reach the builds and the tests.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("AIOLIMITER_FAST_", "PYTHON"))}

IMPORT_CHECK = """\
import sys, pathlib, aiolimiter_fast
from aiolimiter_fast._engine import ENGINE
place = pathlib.Path(aiolimiter_fast.__file__).resolve()
engine, folder, version = sys.argv[1:]
assert ENGINE == engine, ENGINE
assert pathlib.Path(folder).resolve() in place.parents, place
assert aiolimiter_fast.__version__ == version, aiolimiter_fast.__version__
"""


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> None:
    print("+", *(part for part in command if "\n" not in str(part)), flush=True)
    subprocess.run([str(part) for part in command], cwd=cwd, env={**CLEAN, **(env or {})}, check=True)


def find_python(version: str) -> Path | None:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    on_path = shutil.which(f"python{version}")
    candidates = [*pyenv.glob(f"{version}.*/bin/python"), *([Path(on_path)] if on_path else [])]
    report = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in candidates:  # pyenv's shims exist also for versions that are not enabled, hence the trial run
        trial = subprocess.run([candidate, "-c", report], env=CLEAN, capture_output=True, text=True)
        if trial.stdout.strip() == version:
            return candidate
    return None


def require(names: Iterable[str], wanted: Iterable[str], unwanted: tuple[str, ...]) -> None:
    names = set(names)
    missing = set(wanted) - names
    stray = {name for name in names if name.endswith(unwanted)}
    if missing or stray:
        raise SystemExit(f"missing: {sorted(missing)}, should not be there: {sorted(stray)}")


def build_sdist(work: Path) -> Path:
    """Build from a copy, so that nothing a previous build left in the tree gets in."""
    copy = work / "tree"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFTOVERS))
    sources = [path for folder in ("src", "tests") for path in (copy / folder).rglob("*") if path.is_file()]
    wanted = {path.relative_to(copy).as_posix() for path in sources}
    run(sys.executable, "-m", "build", "--sdist", "--outdir", DIST, cwd=copy)
    (sdist,) = DIST.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    require(names, wanted | {"setup.py", "pyproject.toml", "LICENSE", "README.md"}, (".c", ".so", ".pyd"))
    return sdist


def new_environment(work: Path, python: Path, name: str) -> Path:
    run(python, "-m", "venv", work / name, cwd=work)
    bin_folder = work / name / ("Scripts" if os.name == "nt" else "bin")
    run(bin_folder / "python", "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1", cwd=work)
    return bin_folder / "python"


def build_wheel(python: Path, sdist: Path, work: Path, *, pure: bool = False) -> Path:
    target = work / "wheels" / ("pure" if pure else python.parent.parent.name)
    env = PURE if pure else {}
    run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", target, sdist, cwd=work, env=env)
    (wheel,) = target.glob("*.whl")
    if pure != wheel.name.endswith("-py3-none-any.whl"):
        raise SystemExit(f"{wheel.name} has the wrong tag")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    extension = (".so", ".pyd")
    require(names, ["aiolimiter_fast/_bucket.pyi", "aiolimiter_fast/py.typed"], (".c", ".pyx", ".pxd"))
    if pure == any(name.endswith(extension) for name in names):
        raise SystemExit(f"{wheel.name} holds {names}")
    return Path(shutil.copy(wheel, DIST))


def test_install(python: Path, requirement: list[str | Path], engine: str, folder: Path, work: Path) -> None:
    """Install into a fresh environment and run the suite from a place where the tree cannot be imported."""
    place = work / "tests-only"
    if not place.exists():
        shutil.copytree(ROOT / "tests", place / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", place)
    run(python, "-m", "pip", "install", "--quiet", *requirement, "--group", place / "pyproject.toml:test", cwd=place)
    version = (ROOT / "src/aiolimiter_fast/_version.py").read_text().split('"')[1]
    run(python, "-c", IMPORT_CHECK, engine, folder, version, cwd=place)
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=place)


def main(versions: list[str]) -> None:
    found = {version: find_python(version) for version in versions or VERSIONS}
    pythons = {version: python for version, python in found.items() if python}
    absent = [version for version in found if version not in pythons]
    if (absent and versions) or not pythons:
        raise SystemExit(f"not found: Python {', '.join(absent)}")
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sdist = build_sdist(work)
        for version, interpreter in pythons.items():
            python = new_environment(work, interpreter, f"cp{version}")
            wheel = build_wheel(python, sdist, work)
            test_install(python, [wheel], "extension", python.parent.parent, work)

        python = new_environment(work, interpreter, "pure")
        wheel = build_wheel(python, sdist, work, pure=True)
        test_install(python, [wheel], "twin", python.parent.parent, work)

        python = new_environment(work, interpreter, "editable")
        test_install(python, ["--editable", work / "tree"], "extension", work / "tree", work)
    print(f"\ntested: Python {', '.join(pythons)}, the pure wheel and an editable install")
    if absent:
        print(f"not found, so not tested: Python {', '.join(absent)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"the last command failed with status {error.returncode}") from None
