"""All questions in one table: this package, its peers and the physical limit, on asyncio and uvloop."""

from __future__ import annotations

import batch
import cost
import delivered
import idle
import limiter
import memory
import tasks
import window
from _measure import main

if __name__ == "__main__":
    main(
        {
            "cost": cost.rows,
            "tasks": tasks.rows,
            "memory": memory.rows,
            "delivered": delivered.rows,
            "window": window.rows,
            "idle": idle.rows,
            "limiter": limiter.rows,
            "batch": batch.rows,
        },
        __doc__,
    )
