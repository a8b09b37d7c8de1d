"""Builds the one extension. Everything else is in pyproject.toml.

AIOLIMITER_FAST_NO_EXTENSIONS=1 builds the pure-Python package.
AIOLIMITER_FAST_TRACE=1 builds the extension with line tracing, for coverage.
"""

import os
import platform

from setuptools import Extension, setup

DIRECTIVES = {
    "language_level": 3,
    "freethreading_compatible": True,
    "embedsignature": True,
    "embedsignature.format": "clinic",
    "binding": False,
    "autotestdict": False,
}


def switched_on(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


def extensions() -> list[Extension]:
    from Cython.Build import cythonize  # only a build with the extension needs Cython

    trace = switched_on("AIOLIMITER_FAST_TRACE")
    flags = []
    if trace:
        flags = ["-DCYTHON_TRACE_NOGIL=1"]
    elif os.name != "nt" and "CFLAGS" not in os.environ:  # these flags come last, and would win over the user's
        flags = ["-O3"]
    extension = Extension(
        "aiolimiter_fast._bucket",
        ["src/_bucket.pyx"],
        # Heap types: users' tests patch the limiter's methods as they would patch those of a Python class.
        define_macros=[("CYTHON_USE_TYPE_SPECS", "1")],
        extra_compile_args=flags,
    )
    # Time stamps do not tell a traced build from a plain one, so every build starts afresh.
    modules: list[Extension] = cythonize(
        [extension],
        include_path=["src"],
        compiler_directives={**DIRECTIVES, "linetrace": trace},
        force=True,
    )
    return modules


# On PyPy and its like the twin is compiled by the interpreter itself.
pure = switched_on("AIOLIMITER_FAST_NO_EXTENSIONS") or platform.python_implementation() != "CPython"

setup(ext_modules=[] if pure else extensions(), options={"build_ext": {"force": "1"}})
