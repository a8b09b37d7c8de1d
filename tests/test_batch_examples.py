"""The examples of batches, Throttle and WorkerPool run: in docstrings, in docs/batch.md and under examples/."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from aiolimiter_fast import Throttle, WorkerPool, amap, run_on_each

ROOT = Path(__file__).parent.parent
EXAMPLES = [name for name in ("batches.py", "worker_pool.py") if (ROOT / "examples" / name).exists()]


def sources() -> dict[str, str]:
    found = {}
    public: Any
    for public in (Throttle, WorkerPool, amap, run_on_each):
        docstring = inspect.getdoc(public) or ""
        found[public.__name__] = textwrap.dedent(docstring.partition("Example:\n")[2])
    page = ROOT / "docs" / "batch.md"
    if page.exists():  # not beside an installed wheel
        blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        found |= {f"page {number}": block for number, block in enumerate(blocks)}
    return found


@pytest.mark.parametrize(("name", "source"), sources().items())
def test_an_example_runs(name: str, source: str) -> None:
    assert source.strip(), name
    subprocess.run([sys.executable, "-W", "error", "-c", source], check=True, timeout=60, stdout=subprocess.PIPE)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_program_keeps_to_the_limits_of_its_service(name: str) -> None:
    program = ROOT / "examples" / name
    result = subprocess.run(
        [sys.executable, "-W", "error", str(program)], timeout=60, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    assert "refused 0" in result.stdout
