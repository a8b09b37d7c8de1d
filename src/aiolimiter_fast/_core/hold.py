"""`hold.pxd` in Python: what somebody has stated is left, and until when."""

from __future__ import annotations

from aiolimiter_fast._core.leaky import NEVER

# Statements kept at most.
STATEMENTS = 8
# As `left`: nothing at all, not even what is free.
PAUSED = -1
# Permits: sums of fractions are no nearer.
DUST = 1e-9


class Hold:
    """Statements (until, left): at most so much until then. They rise in both; all of them are obeyed."""

    __slots__ = ("entries", "opens")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.entries: list[tuple[int, float]] = []
        # The first instant at which a statement is over.
        self.opens = NEVER

    def state(self, until: int, left: float) -> bool:
        """Obey one statement more; False where that changes nothing."""
        entries = self.entries
        end = sum(entry[0] < until for entry in entries)
        if end < len(entries) and entries[end][1] <= left:
            return False
        first = sum(entry[1] < left for entry in entries[:end])
        if end < len(entries) and entries[end][0] == until:
            end += 1
        if first < end or len(entries) < STATEMENTS:
            entries[first:end] = [(until, left)]
            self.opens = entries[0][0]
        elif first > 0:
            entries[first - 1] = until, entries[first - 1][1]
        else:
            entries[0] = entries[0][0], left
        return True

    def pop(self) -> None:
        """Forget the first."""
        del self.entries[0]
        self.opens = self.entries[0][0] if self.entries else NEVER

    def failing(self, amount: float) -> tuple[int, float] | None:
        """The last statement that leaves less than `amount`."""
        for entry in reversed(self.entries):
            if entry[1] < amount - DUST:
                return entry
        return None

    def take(self, amount: float) -> None:
        """Take what every statement leaves."""
        if self.entries:
            self.entries = [(until, left - amount) for until, left in self.entries]

    def give_back(self, amount: float) -> None:
        """Take back what was taken when all of the statements stood, and was not used."""
        if self.entries:
            self.entries = [(until, left if left == PAUSED else left + amount) for until, left in self.entries]

    def shift(self, ns: int) -> None:
        """Go by a clock that is so far ahead."""
        self.entries = [(until + ns, left) for until, left in self.entries]
        self.opens = self.entries[0][0] if self.entries else NEVER
