"""The examples of docs/backends.md run, in order, against a real server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "backends.md"


@pytest.mark.parametrize("page", [PAGE] if PAGE.exists() else [])  # not beside an installed wheel
def test_its_examples_run(page: Path, redis_url: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) > 1
    source = "\n".join(blocks).replace("Redis()", f"Redis.from_url({redis_url!r})")
    assert source.count(redis_url) > 1
    exec(compile(source, str(page), "exec"), {})
