"""A process is traced through its decisions, instruction by instruction: wherever it may be killed, what it leaves is a
whole limit, at which another process goes on at once.

That is tried whenever it has changed the shared memory. It needs the ptrace of Linux on x86-64, and the engine that
decides without a lock. Arguments: any; then it tells what it saw.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from aiolimiter_fast import Rate, RateItem, SharedMemoryBucket, SharedMemoryStateBucket

PTRACE = ("linux", "x86_64")
TRACEME, SINGLESTEP = 0, 9
PUTS = 2
HOUR = 3_600_000


def rates() -> list[Rate]:
    return [Rate(5, HOUR), Rate(8, 2 * HOUR)]


def free(kind: Any, copy: Path, memory: bytes) -> int:
    """How many units another process would be granted."""
    copy.write_bytes(memory)
    with kind(rates(), path=copy) as bucket:
        admitted = 0
        while bucket.put(RateItem("x", 10**6)):
            admitted += 1
        return admitted


def traced(kind: Any, folder: Path) -> tuple[list[int], int]:
    """What would have been free after each change of the memory, and the instructions that were traced."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    bucket = kind(rates(), path=folder / "limit")
    put, item = bucket.put, RateItem("x", 10**6)
    left = [free(kind, folder / "copy", bytes(bucket._file.mapping))]
    os.kill(os.getpid(), signal.SIGCONT)  # what is loaded when it is called first is not to be traced
    child = os.fork()
    if child == 0:
        ptrace(TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        admitted = sum(put(item) for _ in range(PUTS))
        os._exit(0 if admitted == PUTS else 1)
    view = memoryview(bucket._file.mapping)
    last, steps = bytes(view), 0
    status = os.waitpid(child, 0)[1]
    try:
        while os.WIFSTOPPED(status):
            if ptrace(SINGLESTEP, child, None, None) != 0:
                raise OSError(ctypes.get_errno(), "ptrace")
            status = os.waitpid(child, 0)[1]
            steps += 1
            if view != last:
                last = bytes(view)
                left.append(free(kind, folder / "copy", last))
    finally:
        if os.WIFSTOPPED(status):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    view.release()
    bucket.close()
    assert os.waitstatus_to_exitcode(status) == 0, status
    return left, steps


if __name__ == "__main__" and SharedMemoryBucket.METHOD == "cas" and (sys.platform, platform.machine()) == PTRACE:
    for kind, changes in ((SharedMemoryBucket, 1), (SharedMemoryStateBucket, 4)):
        with tempfile.TemporaryDirectory() as name:
            left, steps = traced(kind, Path(name))
        if len(sys.argv) > 1:
            print(f"{kind.__name__}: {steps} instructions, free after each change: {left}")
        # A decision takes effect by one of its changes, the last, and by no other.
        expected = [5 - put - (change == changes) for put in range(PUTS) for change in range(1, changes + 1)]
        assert left == [5, *expected], (left, expected)
