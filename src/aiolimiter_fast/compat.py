"""Answer to the names of the libraries that this package replaces."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

from aiolimiter_fast import errors
from aiolimiter_fast._version import __version__

# A library's modules and what they are: one of ours, or what it holds. The first is the library itself.
Modules = dict[str, "ModuleType | dict[str, object]"]

# Each imports its HTTP library.
EXTRAS = ("aiohttp_limiter", "httpx2_limiter", "httpx_limiter", "requests_limiter")

_MARK = "__aiolimiter_fast__"


def _aiolimiter() -> Modules:
    from aiolimiter_fast.leaky import AsyncLimiter

    return {
        "aiolimiter": {"AsyncLimiter": AsyncLimiter, "__version__": __version__, "__all__": ["AsyncLimiter"]},
        "aiolimiter.leakybucket": {
            "AsyncLimiter": AsyncLimiter,
            "LIMITER_REUSED_ACROSS_LOOPS_WARNING": errors.REUSED_ACROSS_LOOPS,
        },
    }


def _aiometer() -> Modules:
    batch = import_module("aiolimiter_fast.batch")
    names = ["amap", "run_all", "run_any", "run_on_each"]
    functions = {name: getattr(batch, name) for name in names}
    return {"aiometer": {**functions, "__version__": __version__, "__all__": ["__version__", *names]}}


# What pyrate-limiter 4.5 exports.
_PYRATE_LIMITER = (
    "GCRA", "AbstractBucket", "AbstractClock", "Algorithm", "BucketAsyncWrapper", "BucketFactory", "Decision",
    "Duration", "FixedWindow", "InMemoryBucket", "InMemoryStateStore", "Limiter", "LogAlgorithm", "MonotonicAsyncClock",
    "MonotonicClock", "MultiprocessBucket", "MultiprocessStateStore", "PgQueries", "PostgresBucket", "PostgresClock",
    "Rate", "RateItem", "RedisBucket", "RedisStateStore", "SQLiteBucket", "SQLiteClock", "SQLiteQueries",
    "SingleBucketFactory", "SlidingWindowLog", "StateAlgorithm", "StateBucket", "StateStore", "TokenBucket",
    "WallClock", "__version__", "dedicated_sqlite_clock_connection", "id_generator", "limiter_factory",
    "validate_rate_list",
)  # fmt: skip


def _pyrate_limiter() -> Modules:
    package = import_module("aiolimiter_fast")
    names = [name for name in _PYRATE_LIMITER if name in package.__all__]
    modules = (
        "_version", "abstracts", "abstracts.algorithm", "abstracts.bucket", "abstracts.rate", "abstracts.store",
        "abstracts.wrappers", "buckets", "buckets.in_memory_bucket", "buckets.mp_bucket", "buckets.postgres",
        "buckets.redis_bucket", "buckets.redis_state", "buckets.sqlite_bucket", "buckets.state_bucket", "clocks",
        "limiter", "limiter_factory", "utils",
    )  # fmt: skip
    return {
        "pyrate_limiter": {**{name: getattr(package, name) for name in names}, "__all__": names},
        **{f"pyrate_limiter.{name}": import_module(f"aiolimiter_fast.{name}") for name in modules},
        "pyrate_limiter.extras": {},
        **{
            f"pyrate_limiter.extras.{name}": {"__getattr__": _lazy(f"aiolimiter_fast.extras.{name}")} for name in EXTRAS
        },
    }


def _asynciolimiter() -> Modules:
    # The module itself: asynciolimiter's tests replace what it waits with.
    return {"asynciolimiter": import_module("aiolimiter_fast.pacing")}


def _asyncio_throttle() -> Modules:
    names: dict[str, object] = {"Throttler": import_module("aiolimiter_fast.pacing").Throttler}
    return {"asyncio_throttle": names, "asyncio_throttle.throttler": names}


def _throttler() -> Modules:
    module = import_module("aiolimiter_fast.throttling")
    return {"throttler": {**{name: getattr(module, name) for name in module.__all__}, "__version__": __version__}}


def _lazy(module: str) -> Callable[[str], object]:
    """What looks a name up in a module that is imported only then: it needs a library that may not be there."""

    def look_up(name: str) -> object:
        if name.startswith("__"):  # what those who look through sys.modules ask
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(import_module(module), name)

    return look_up


_LIBRARIES: dict[str, Callable[[], Modules]] = {
    "aiolimiter": _aiolimiter,
    "aiometer": _aiometer,
    "asyncio_throttle": _asyncio_throttle,
    "asynciolimiter": _asynciolimiter,
    "pyrate_limiter": _pyrate_limiter,
    "throttler": _throttler,
}


def install(*libraries: str, force: bool = False) -> tuple[str, ...]:
    """Make `import aiolimiter` and the like, anywhere in this process, give what this package has under these names.

    Arguments:
        libraries: "aiolimiter", "aiometer", "asyncio_throttle", "asynciolimiter", "pyrate_limiter", "throttler";
            default all of them.
        force: replace a library that is imported already; modules that hold its names keep them.

    Returns the module names taken. Calling it again changes nothing.

    Raises ValueError for another library, and RuntimeError if one is imported already and force is false; then no name
    is taken.
    """
    for library in libraries:
        if library not in _LIBRARIES:
            raise ValueError(f"libraries must be among {', '.join(_LIBRARIES)}, got {library!r}")
    wanted = libraries or tuple(_LIBRARIES)
    present = [library for library in wanted if library in sys.modules and not _is_ours(library)]
    if present and not force:
        raise RuntimeError(
            f"install() must come before the first import of {', '.join(present)};"
            " force=True replaces it for imports from now on"
        )
    taken: list[str] = []
    for library in wanted:
        known = _is_ours(library)
        for name, contents in _LIBRARIES[library]().items():
            taken.append(name)
            if not known:
                _take(name, contents, is_library=name == library)
    return tuple(taken)


def _is_ours(library: str) -> bool:
    return hasattr(sys.modules.get(library), _MARK)


def _take(name: str, contents: ModuleType | dict[str, object], *, is_library: bool) -> None:
    if isinstance(contents, ModuleType):
        module = contents
    else:
        module = ModuleType(name, f"aiolimiter_fast under the name {name}.")
        module.__spec__ = ModuleSpec(name, None, is_package=is_library)
        module.__dict__.update(contents)
        if is_library:
            module.__path__ = []  # a package without files: what is not listed above does not exist
    if is_library:
        setattr(module, _MARK, True)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
