"""Exception groups, where there are any.

Python 3.10 has none of its own. There the exceptiongroup package is used if it is installed, as anyio installs it; else
the first exception is raised as it is, and the others are printed with it as its context.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, cast

__all__ = ["collapsed", "grouped", "is_exit"]

BaseExceptionGroup: Any = getattr(builtins, "BaseExceptionGroup", None)
if BaseExceptionGroup is None:
    with suppress(ImportError):
        BaseExceptionGroup = import_module("exceptiongroup").BaseExceptionGroup


def grouped(errors: Sequence[BaseException]) -> BaseException:
    """The errors of a batch as one; what ends the program stays what it is."""
    for error in errors:
        if is_exit(error):
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


def is_exit(error: BaseException) -> bool:
    """Whether it ends the program. Then the event loop has raised it already, and cancels all that is left."""
    return isinstance(error, (KeyboardInterrupt, SystemExit))


def collapsed(error: BaseException) -> BaseException:
    """The error itself where a group holds nothing else."""
    only: Any = error
    while BaseExceptionGroup is not None and isinstance(only, BaseExceptionGroup) and len(only.exceptions) == 1:
        only = only.exceptions[0]
    return cast(BaseException, only)
