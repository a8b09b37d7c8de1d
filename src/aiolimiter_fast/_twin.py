"""The whole package a second time, on the twin: for the tests and the benchmarks that compare the engines."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType

_PACKAGE = __package__ or "aiolimiter_fast"
_SWITCH = "AIOLIMITER_FAST_NO_EXTENSIONS"
# What the lazy names do not bring along. Imported at once, since a later import would find the other engine.
_MODULES = ("clocks", "compat", "errors", "leaky", "limiter_factory", "testing", "utils")


def _take() -> dict[str, ModuleType]:
    """Remove the package from `sys.modules`."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == _PACKAGE}


@contextmanager
def importing(modules: dict[str, ModuleType]) -> Iterator[None]:
    """Let imports, and with them pickle, find these modules of the package within a `with` block, and no others."""
    others = _take()
    sys.modules.update(modules)
    try:
        yield
    finally:
        _take()
        sys.modules.update(others)


def load_all() -> dict[str, ModuleType]:
    """Import all of the package that `sys.modules` leads to; return its modules by name."""
    package = importlib.import_module(_PACKAGE)
    for name in package.__all__:
        getattr(package, name)
    for name in _MODULES:
        importlib.import_module(f"{_PACKAGE}.{name}")
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == _PACKAGE}


@lru_cache(None)
def load_twin() -> dict[str, ModuleType]:
    """Import the package with the extension switched off; return its modules by name."""
    switch = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = "1"
    try:
        with importing({}):
            modules = load_all()
            if importlib.import_module(f"{_PACKAGE}._engine").ENGINE != "twin":
                raise RuntimeError("asked for the twin, got the extension")
    finally:
        if switch is None:
            del os.environ[_SWITCH]
        else:
            os.environ[_SWITCH] = switch
    return modules
