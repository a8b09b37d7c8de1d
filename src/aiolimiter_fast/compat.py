"""Answer to the names of the libraries that this package replaces."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from aiolimiter_fast import errors
from aiolimiter_fast._version import __version__
from aiolimiter_fast.leaky import AsyncLimiter

# Library -> its modules -> what they hold. The first module is the library itself.
_ALIASES: dict[str, dict[str, dict[str, object]]] = {
    "aiolimiter": {
        "aiolimiter": {"AsyncLimiter": AsyncLimiter, "__version__": __version__, "__all__": ["AsyncLimiter"]},
        "aiolimiter.leakybucket": {
            "AsyncLimiter": AsyncLimiter,
            "LIMITER_REUSED_ACROSS_LOOPS_WARNING": errors.REUSED_ACROSS_LOOPS,
        },
    },
}
_MARK = "__aiolimiter_fast__"


def install(*, force: bool = False) -> tuple[str, ...]:
    """Make `import aiolimiter`, anywhere in this process, give this package's limiter.

    Arguments: force replaces a library that is imported already; modules that hold its names keep them.

    Returns the module names taken. Calling it again changes nothing.

    Raises RuntimeError, and takes no name, if one of the libraries is imported already and force is false.
    """
    present = [library for library in _ALIASES if library in sys.modules and not hasattr(sys.modules[library], _MARK)]
    if present and not force:
        raise RuntimeError(
            f"install() must come before the first import of {', '.join(present)};"
            " force=True replaces it for imports from now on"
        )
    taken: list[str] = []
    for modules in _ALIASES.values():
        for name, contents in modules.items():
            taken.append(name)
            if hasattr(sys.modules.get(name), _MARK):
                continue
            module = ModuleType(name, f"aiolimiter_fast under the name {name}.")
            module.__spec__ = ModuleSpec(name, None, is_package=name in _ALIASES)
            module.__dict__.update(contents)
            setattr(module, _MARK, True)
            sys.modules[name] = module
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)
            else:
                module.__path__ = []  # a package without files: what is not listed above does not exist
    return tuple(taken)
