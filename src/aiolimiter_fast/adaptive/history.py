"""What a server admitted, and when, and the window that this fits. Arithmetic only."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["MEMORY", "History", "fit"]

# Seconds: what lies nearer together is one entry, and what is longer ago may be forgotten.
GRAIN = 0.01
MEMORY = 60.0
# Instants in a second at which a window is supposed to begin, the seconds that are looked at, and by which share what
# was found in several windows may differ.
PHASES = 40
LOOKED_AT = 20
TOLERANCE = 0.1


class History:
    """Permits that the server admitted, by the instant at which their requests were sent.

    Attributes:
        total: all of them.
    """

    __slots__ = ("_forgotten", "_sums", "_times", "total")

    def __init__(self) -> None:
        self.total = 0.0
        self._forgotten = 0.0
        self._times = array("d")
        self._sums = array("d")  # all that was admitted of what was sent up to that instant

    def add(self, amount: float, sent: float) -> None:
        """Count a request; one that is told out of order counts as sent together with the last."""
        self.total += amount
        if self._times and sent < self._times[-1] + GRAIN:
            self._sums[-1] = self.total
            return
        self._times.append(sent)
        self._sums.append(self.total)
        if self._times[0] < sent - 2 * MEMORY:
            old = bisect_left(self._times, sent - MEMORY)
            self._forgotten = self._sums[old - 1]
            del self._times[:old], self._sums[:old]

    def between(self, begin: float, end: float) -> float:
        """What was admitted of what was sent from `begin` on and before `end`."""
        return max(self._before(end) - self._before(begin), 0.0)

    def rate(self, begin: float, end: float) -> float:
        """The same per second."""
        return self.between(begin, end) / max(end - begin, 1e-3)

    def _before(self, instant: float) -> float:
        index = bisect_left(self._times, instant)
        return self._sums[index - 1] if index else self._forgotten


def fit(history: History, refusals: Sequence[float], window: float, late: float) -> float | None:
    """What a fixed window of that length holds, if one that begins at some phase explains all refusals.

    In each window with a refusal the quota was used up to there, and in no other was more used than that.

    Arguments: refusals, the instants at which spells of them began; late, seconds for which what was sent after such an
    instant may have arrived before.
    """
    found: tuple[float, float] | None = None
    for step in range(PHASES):
        begins = [at - (at - step * window / PHASES) % window for at in refusals]
        used = [history.between(begin, at + late) for begin, at in zip(begins, refusals, strict=True)]
        if min(used) < 3:
            continue
        others = (history.between(begins[-1] - (n + 1) * window, begins[-1] - n * window) for n in range(LOOKED_AT))
        misfit = max(*used, *others) / min(used)
        if found is None or misfit < found[0]:
            found = misfit, sum(used) / len(used)
    return found[1] / window if found is not None and found[0] <= 1 + TOLERANCE else None
