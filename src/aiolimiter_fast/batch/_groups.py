"""Exception groups, where there are any.

Python 3.10 has none of its own. There the exceptiongroup package is used if it is installed, as anyio installs it; else
the first exception is raised as it is, and the others are printed with it as its context.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["collapsed", "grouped"]

BaseExceptionGroup: Any
if sys.version_info >= (3, 11):
    from builtins import BaseExceptionGroup
else:
    try:
        from exceptiongroup import BaseExceptionGroup
    except ImportError:
        BaseExceptionGroup = None


def grouped(errors: Sequence[BaseException]) -> BaseException:
    """The errors of a batch as one; what ends the program stays what it is."""
    for error in errors:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            return error
    if BaseExceptionGroup is not None:
        group: BaseException = BaseExceptionGroup("errors in a batch", errors)
        return group
    last = errors[0]
    for error in errors[1:]:
        while last.__context__ is not None and last.__context__ is not error:
            last = last.__context__
        if last is not error:
            last.__context__ = error
    return errors[0]


def collapsed(error: BaseException) -> BaseException:
    """The error itself where a group holds nothing else."""
    while BaseExceptionGroup is not None and isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
