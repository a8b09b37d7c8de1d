"""One lock for decisions in Python, held across a fork, so that no child inherits one half made or the lock held."""

from __future__ import annotations

import os
import threading

__all__ = ["deciding", "forks"]

deciding = threading.RLock()
_forks = 0


def forks() -> int:
    """How many forks lie between this process and the first of its ancestors that had this module."""
    return _forks


def _forked() -> None:
    global _forks
    _forks += 1
    deciding.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=deciding.acquire, after_in_parent=deciding.release, after_in_child=_forked)
