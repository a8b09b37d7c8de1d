"""Rate limiting for Python at the cost of one clock read."""

from aiolimiter_fast._version import __version__
from aiolimiter_fast.compat import install
from aiolimiter_fast.errors import AcquireTimeout, LimiterError, LimitReached
from aiolimiter_fast.leaky import AsyncLimiter

__all__ = ["AcquireTimeout", "AsyncLimiter", "LimitReached", "LimiterError", "__version__", "install"]
