"""One lock for decisions in Python, held across a fork, so that no child inherits one half made or the lock held."""

from __future__ import annotations

import os
import threading

__all__ = ["deciding"]

deciding = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=deciding.acquire, after_in_parent=deciding.release, after_in_child=deciding.release)
