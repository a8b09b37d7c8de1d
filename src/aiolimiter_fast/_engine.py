"""The one choice between the compiled engine and its twin in Python."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from aiolimiter_fast._waiting import asyncio as _asyncio

__all__ = ["ENGINE", "engine"]

if TYPE_CHECKING:
    import aiolimiter_fast._bucket as engine

    ENGINE = "extension"
elif os.environ.get("AIOLIMITER_FAST_NO_EXTENSIONS", "0") not in ("", "0"):
    import aiolimiter_fast._bucket_py as engine

    ENGINE = "twin"
else:
    try:
        import aiolimiter_fast._bucket as engine

        ENGINE = "extension"
    except ModuleNotFoundError as error:
        # Only where none was built: a broken extension is an error to be seen.
        if error.name != "aiolimiter_fast._bucket":
            raise
        import aiolimiter_fast._bucket_py as engine

        ENGINE = "twin"

_asyncio.attach(engine)
