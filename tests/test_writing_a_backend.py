"""The backend that docs/writing-a-backend.md writes keeps the contract, as the page runs it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "writing-a-backend.md"

if PAGE.exists():  # not beside an installed wheel
    BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    namespace: dict[str, Any] = {"__name__": __name__}
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), namespace)

    TestCacheBucket = namespace["TestCacheBucket"]

    def test_the_page_has_a_bucket_and_its_tests() -> None:
        assert len(BLOCKS) == 2
        assert BLOCKS[0].count("\n") < 90
