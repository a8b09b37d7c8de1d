"""Every exception of the package."""

from __future__ import annotations

import asyncio
import sys

# aiolimiter's words, since its users filter on them.
REUSED_ACROSS_LOOPS = (
    "This AsyncLimiter instance is being re-used across loops. Please create a new limiter per event loop as "
    "re-use can lead to undefined behaviour."
)


class LimiterError(Exception):
    """A limiter did not admit a call, and took nothing.

    Attribute: retry_after, the seconds until the call would have been admitted, as far as is known.
    """

    retry_after: float

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[LimiterError], tuple[str, float]]:
        return type(self), (str(self), self.retry_after)


class LimitReached(LimiterError):
    """There is no room now, and the caller did not want to wait."""


class CircuitOpen(LimiterError):
    """The circuit breaker is open: nothing was sent, and no permit was spent.

    Attribute: retry_after, the seconds until one call will be let through to see whether all is well.
    """


# asyncio's own TimeoutError is the built-in one from Python 3.11 on.
if sys.version_info >= (3, 11):

    class AcquireTimeout(LimiterError, TimeoutError):
        """The wait is, or is known to become, longer than the caller's timeout."""

else:

    class AcquireTimeout(LimiterError, TimeoutError, asyncio.TimeoutError):
        """The wait is, or is known to become, longer than the caller's timeout."""


class BackendUnavailable(Exception):
    """The server or file that keeps a limit did not decide in time; `__cause__` is the driver's own error.

    Whether the permit was counted is not known: what was sent may have arrived.
    """


class SharedMemoryError(ValueError):
    """A file that is no shared memory of this kind, limit, version or boot of the machine, or is damaged."""
