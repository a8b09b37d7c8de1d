"""A few numbers in a file that processes share: two copies, of which one counts."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import finalize

from aiolimiter_fast._forking import deciding
from aiolimiter_fast._shared_file import PAGE, SLOT, Layout, SharedFile, private_path, remover

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SharedState"]

COPY = 2048
LAYOUT = Layout("state", "lock", 2 * COPY // SLOT)
# The word of the header that says which copy counts, in bytes.
WHICH = 1024
LENGTH = struct.Struct("=I")
NUMBER = struct.Struct("=q")


class SharedState:
    """A tuple of numbers, and the lock under which to change it: a context manager, and assignment to `[:]`.

    Whoever reads takes the lock too: then nobody writes a copy over while it is being read.
    """

    def __init__(self, path: Path, *, make: bool = False) -> None:
        self._file = SharedFile(path, LAYOUT, make=make)
        self._held = ExitStack()
        self._depth = 0

    @classmethod
    def make(cls) -> SharedState:
        """A new one, which goes when this process ends."""
        path = private_path()
        state = cls(path, make=True)
        finalize(state, remover(path))
        return state

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._file.path,)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(deciding)
            if self._depth == 0:  # the system does not count how often it is locked
                self._held.enter_context(self._file.lock())
            self._depth += 1
            stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._held.close()
        deciding.release()

    def texts(self) -> tuple[str, ...]:
        """The numbers, as text."""
        with self:
            place = PAGE + COPY * self._which()
            (length,) = LENGTH.unpack_from(self._file.mapping, place)
            text = bytes(self._file.mapping[place + LENGTH.size : place + LENGTH.size + length]).decode()
        return tuple(text.split(",")) if text else ()

    def __setitem__(self, everything: slice, numbers: Iterable[float]) -> None:
        """Write the other copy, then let that one count. The caller holds the lock.

        Raises ValueError if there are more numbers than fit.
        """
        text = ",".join(map(repr, numbers)).encode()
        if len(text) > COPY - LENGTH.size:
            raise ValueError(f"a state must be at most {COPY - LENGTH.size} bytes as text, got {len(text)}")
        other = 1 - self._which()
        place = PAGE + COPY * other
        record = LENGTH.pack(len(text)) + text
        self._file.mapping[place : place + len(record)] = record
        self._file.mapping[WHICH : WHICH + NUMBER.size] = NUMBER.pack(other)

    def _which(self) -> int:
        which: int = NUMBER.unpack_from(self._file.mapping, WHICH)[0]
        return which & 1
