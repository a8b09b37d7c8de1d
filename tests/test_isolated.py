"""The scripts of tests/isolated, each in an interpreter of its own, with every warning an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parent / "isolated"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "growth")
if not hasattr(os, "fork"):
    SCRIPTS = [script for script in SCRIPTS if "fork" not in script and "signals" not in script]


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_ends_well_and_says_nothing(engine: ModuleType, script: str) -> None:
    options = ["-X", "dev", "-W", "error"] if script.endswith("debug_mode") else ["-W", "error"]
    twin = engine.__name__.endswith("_py")
    result = subprocess.run(
        [sys.executable, *options, str(FOLDER / f"{script}.py")],
        env={**os.environ, "AIOLIMITER_FAST_NO_EXTENSIONS": "1" if twin else ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
