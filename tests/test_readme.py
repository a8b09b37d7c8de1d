"""The examples in the README and in public docstrings run."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from aiolimiter_fast.testing import ManualClock

README = Path(__file__).parent.parent / "README.md"


def examples() -> dict[str, str]:
    docstring = inspect.getdoc(ManualClock) or ""
    found = {"ManualClock": textwrap.dedent(docstring.partition("Example:\n")[2])}
    if README.exists():  # not beside an installed wheel
        blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        assert blocks
        found |= {f"README {number}": block for number, block in enumerate(blocks)}
    return found


@pytest.mark.parametrize(("name", "source"), examples().items())
def test_an_example_runs(name: str, source: str) -> None:
    assert source.strip(), name
    subprocess.run([sys.executable, "-W", "error", "-c", source], check=True, timeout=60)
