"""Small helpers, where users of pyrate-limiter look for them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

from aiolimiter_fast.abstracts.rate import Rate

if TYPE_CHECKING:
    import sqlite3

__all__ = ["dedicated_sqlite_clock_connection", "enforce_rate_list", "id_generator", "validate_rate_list"]


def id_generator(size: int = 10) -> str:
    """A random name of `size` hexadecimal digits, 32 at most."""
    return uuid.uuid4().hex[:size]


def validate_rate_list(rates: Sequence[Rate]) -> bool:
    """Whether there are rates, and each is longer, larger and no faster than the one before."""
    return bool(rates) and all(
        a.interval < b.interval and a.limit < b.limit and a.limit * b.interval >= b.limit * a.interval
        for a, b in pairwise(rates)
    )


def enforce_rate_list(rates: Sequence[Rate]) -> None:
    """Raise ValueError unless `validate_rate_list`."""
    if not validate_rate_list(rates):
        raise ValueError(f"Invalid rate list: {list(rates)!r}: each must be longer, larger and no faster than the last")


def dedicated_sqlite_clock_connection() -> sqlite3.Connection:
    """Open an SQLite database that is there for its clock only, in the folder for temporary files."""
    import sqlite3  # not there in every build of Python

    path = Path(gettempdir(), "pyrate_limiter_clock_only.sqlite")
    return sqlite3.connect(path, isolation_level="EXCLUSIVE", check_same_thread=False)
