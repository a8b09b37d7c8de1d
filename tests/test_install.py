"""`install()`: programs that import aiolimiter get this package. Each case is an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

import aiolimiter_fast

PACKAGE = Path(aiolimiter_fast.__file__).parent.parent


@pytest.fixture(autouse=True)
def _engine(engine: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = engine.__name__.endswith("_py")
    monkeypatch.setenv("AIOLIMITER_FAST_NO_EXTENSIONS", "1" if twin else "")


def run(program: str, *options: str) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_imports_of_aiolimiter_give_this_package() -> None:
    run("""
        import aiolimiter_fast
        aiolimiter_fast.install()

        import aiolimiter
        import aiolimiter.leakybucket
        from aiolimiter import AsyncLimiter, __version__
        from aiolimiter.leakybucket import AsyncLimiter as Other, LIMITER_REUSED_ACROSS_LOOPS_WARNING

        assert AsyncLimiter is Other is aiolimiter.AsyncLimiter is aiolimiter_fast.AsyncLimiter
        assert aiolimiter.__all__ == ["AsyncLimiter"]
        assert __version__ == aiolimiter_fast.__version__
        assert LIMITER_REUSED_ACROSS_LOOPS_WARNING.startswith("This AsyncLimiter instance is being re-used")

        import asyncio

        async def main():
            async with AsyncLimiter(4, 8):
                pass

        asyncio.run(main())
    """)


def test_a_star_import_gives_what_aiolimiter_gives() -> None:
    run("""
        import aiolimiter_fast
        aiolimiter_fast.install()
        before = set(globals())
        from aiolimiter import *
        assert set(globals()) - before == {"AsyncLimiter", "before"}
    """)


def test_it_says_which_names_it_took_and_may_be_called_again() -> None:
    run("""
        import sys
        from aiolimiter_fast import install
        taken = install("aiolimiter")
        assert taken == ("aiolimiter", "aiolimiter.leakybucket"), taken
        modules = [sys.modules[name] for name in taken]
        assert install("aiolimiter") == install("aiolimiter", force=True) == taken
        assert [sys.modules[name] for name in taken] == modules
    """)


def test_nothing_is_taken_without_it() -> None:
    run("""
        import sys
        import aiolimiter_fast
        assert "aiolimiter" not in sys.modules
        import aiolimiter
        assert aiolimiter.AsyncLimiter is not aiolimiter_fast.AsyncLimiter
    """)


def test_it_refuses_if_aiolimiter_was_imported_and_changes_nothing() -> None:
    run("""
        import sys
        import aiolimiter
        from aiolimiter_fast import install
        before = {name: module for name, module in sys.modules.items() if name.startswith("aiolimiter.")}
        for _ in range(2):
            try:
                install()
            except RuntimeError as error:
                assert "before the first import of aiolimiter" in str(error), error
                assert "force=True" in str(error), error
            else:
                raise AssertionError
        assert sys.modules["aiolimiter"] is aiolimiter
        assert before == {name: module for name, module in sys.modules.items() if name.startswith("aiolimiter.")}
    """)


def test_force_replaces_it_for_later_imports() -> None:
    run("""
        import aiolimiter as original
        from aiolimiter.leakybucket import AsyncLimiter as Original
        import aiolimiter_fast
        assert aiolimiter_fast.install("aiolimiter", force=True) == ("aiolimiter", "aiolimiter.leakybucket")
        import aiolimiter
        import aiolimiter.leakybucket
        assert aiolimiter is not original
        assert aiolimiter.AsyncLimiter is aiolimiter.leakybucket.AsyncLimiter is aiolimiter_fast.AsyncLimiter
        assert original.AsyncLimiter is Original is not aiolimiter.AsyncLimiter
    """)


def test_aiolimiter_need_not_be_installed() -> None:
    run(
        """
        import sys

        class Missing:
            def find_spec(self, name, path=None, target=None):
                assert not name.startswith("aiolimiter."), name
                assert name != "aiolimiter"

        sys.meta_path.insert(0, Missing())
        import aiolimiter_fast
        aiolimiter_fast.install()
        from aiolimiter import AsyncLimiter
        assert AsyncLimiter is aiolimiter_fast.AsyncLimiter
        from importlib.util import find_spec
        assert find_spec("aiolimiter").name == "aiolimiter"
    """
    )


def test_what_is_not_there_is_an_import_error() -> None:
    run("""
        from aiolimiter_fast import install
        install()
        for statement in ("import aiolimiter.nothing", "from aiolimiter import nothing"):
            try:
                exec(statement)
            except ImportError as error:
                assert "nothing" in str(error)
            else:
                raise AssertionError(statement)
    """)


def test_it_is_found_by_those_who_look_for_the_module() -> None:
    run("""
        import importlib
        from aiolimiter_fast import install
        install()
        assert importlib.import_module("aiolimiter").AsyncLimiter
        assert importlib.import_module(".leakybucket", "aiolimiter").AsyncLimiter
        assert "aiolimiter_fast" in importlib.import_module("aiolimiter").__doc__
    """)


def test_imports_of_aiometer_give_this_package() -> None:
    run("""
        import aiolimiter_fast
        assert aiolimiter_fast.install("aiometer") == ("aiometer",)

        import aiometer
        from aiometer import amap, run_all, run_any, run_on_each, __version__
        assert aiometer.__all__ == ["__version__", "amap", "run_all", "run_any", "run_on_each"]
        for name in aiometer.__all__:
            assert getattr(aiometer, name) is getattr(aiolimiter_fast, name), name

        import asyncio
        from functools import partial
        assert asyncio.run(run_all([partial(asyncio.sleep, 0, 7)])) == [7]
    """)


def test_nothing_but_asyncio_is_imported_where_asyncio_runs() -> None:
    run("""
        import asyncio
        import sys
        from aiolimiter_fast import Throttle, WorkerPool, run_on_each
        asyncio.run(run_on_each(asyncio.sleep, [0, 0], max_per_second=1000))
        assert not {"aiometer", "anyio", "rich", "sniffio", "tenacity", "trio"} & set(sys.modules)
    """)


def test_limiters_travel_by_pickle_though_installed() -> None:
    run("""
        import pickle
        from aiolimiter_fast import install
        install()
        import aiolimiter
        limiter = pickle.loads(pickle.dumps(aiolimiter.AsyncLimiter(3, 7)))
        assert (limiter.max_rate, limiter.time_period) == (3, 7)
    """)
