"""`leaky.pxd` in Python, for the twin: the same integers from the same arguments."""

from __future__ import annotations

from math import ceil, floor, frexp, ldexp

# Before the first look at a clock; as a deadline, never.
NEVER = 2**63 - 1


class Leak:
    """The leaky bucket in integer units."""

    __slots__ = ("capacity", "drain", "idle", "last", "latest", "level", "permit")

    def __init__(self, max_rate: float, period_ns: float, burst: float) -> None:
        self.last = self.latest = NEVER
        self.configure(max_rate, period_ns, burst, 0.0)

    def configure(self, max_rate: float, period_ns: float, burst: float, level: float) -> None:
        extent = max(burst, level, 1.0)
        emission = period_ns / max_rate
        shift = 61 - max(frexp(extent * period_ns)[1], frexp(max_rate)[1])
        permit = ldexp(period_ns, shift)
        drain = ldexp(max_rate, shift)
        if permit != floor(permit) or drain != floor(drain):
            shift = 61 - max(frexp(extent * emission)[1], 1)
            permit = ceil(ldexp(emission, shift))
            drain = ldexp(1.0, shift)
        self.permit = int(permit)
        self.drain = int(drain)
        self.capacity = self.cost(burst)
        self.level = self.cost(level)
        self.idle = max(self.capacity, self.level) // self.drain + 1

    def cost(self, amount: float) -> int:
        return ceil(amount * float(self.permit))

    def advance(self, now: int) -> None:
        start = self.last
        if now > start:
            if now > self.latest:
                start, self.latest = self.latest, now
            level = self.level
            if level:
                leaked = (now - start) * self.drain
                self.level = level - leaked if level > leaked else 0
        elif start == NEVER:
            self.latest = now
        self.last = now

    def fits(self, cost: int) -> bool:
        return self.level + cost <= self.capacity

    def due(self, cost: int) -> int:
        excess = self.level + cost - self.capacity
        return self.last if excess <= 0 else self.last + (excess - 1) // self.drain + 1

    def due_from(self, cost: int, instant: int, least: int) -> int:
        """When `cost` fits if nothing is admitted before `instant`, and the level then is at least `least`."""
        last, latest, level = self.last, self.latest, self.level
        self.advance(instant)
        self.level = max(self.level, least)
        due = self.due(cost)
        self.last, self.latest, self.level = last, latest, level
        return due

    def empty(self) -> int:
        return self.last + self.level // self.drain

    def give_back(self, cost: int, empty: int) -> None:
        left = (empty - self.last) * self.drain
        if left > 0:
            self.level = max(self.level - min(cost, left), 0)

    def permits(self) -> float:
        return float(self.level) / float(self.permit)
