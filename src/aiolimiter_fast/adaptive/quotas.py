"""All quotas of a server that count. Arithmetic only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from math import inf

from aiolimiter_fast.adaptive.flights import NEAR, Flights
from aiolimiter_fast.adaptive.observation import Observation
from aiolimiter_fast.adaptive.quota import Quota
from aiolimiter_fast.adaptive.response import REFUSALS

__all__ = ["Quotas"]

# A server that invents names fills no memory.
MOST = 100


class Quotas:
    """A server's quotas by name: those of one unit, and of the resources that were asked for.

    Arguments:
        unit: what is counted.
        resources: names; None: all of that unit.
        limit: the quota of a window where a server tells only what is used.
        max_pause: the longest pause in seconds that a server is believed.

    Attributes: limit, as above.
    """

    __slots__ = ("_by_name", "_max_pause", "_resources", "_unit", "limit")

    def __init__(self, unit: str, resources: Collection[str] | None, limit: float | None, max_pause: float) -> None:
        self._unit = unit
        self._resources = None if resources is None else frozenset(resources)
        self.limit = limit
        self._max_pause = max_pause
        self._by_name: dict[str, Quota] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Quota]:
        return iter(self._by_name.values())

    def at(self, name: str) -> Quota:
        quota = self._by_name.get(name)
        if quota is None:
            while len(self._by_name) >= MOST:
                del self._by_name[min(self._by_name, key=lambda each: self._by_name[each].seen)]
            quota = self._by_name[name] = Quota(self._max_pause, self.limit)
        return quota

    def are_known(self, now: float) -> bool:
        return any(quota.is_known(now) for quota in self)

    def tightest(self) -> Quota | None:
        """The quota that is nearest to its end, of those that have told what is left."""
        known = [quota for quota in self if quota.left is not None]
        return min(known, key=lambda quota: (quota.left or 0.0) / max(quota.limit or 1.0, 1e-9), default=None)

    def observe(
        self, found: Iterable[Observation], status: int, sent: float, now: float, amount: float, flights: Flights
    ) -> float:
        """Take in what the response to a request for `amount` said; seconds for which the server wants no request."""
        stated = 0.0
        for quota in self:
            quota.unsaid += 1
        for seen in found:
            if seen.pause_for is not None:
                stated = max(stated, min(seen.pause_for, self._max_pause))
            counts = seen.unit == self._unit and (self._resources is None or seen.resource in self._resources)
            if not counts or (seen.remaining is None and seen.used is None):
                continue
            quota = self.at(seen.resource)
            if status in REFUSALS and sent >= quota.more_at() - NEAR:
                quota.is_periodic = False
            quota.observe(seen, sent, now, 0 if status in REFUSALS else amount, flights.permits)
            if status in REFUSALS and quota.left == 0 and seen.reset_after:
                stated = max(stated, min(seen.reset_after, self._max_pause))
        return stated

    def exhaust(self, now: float, until: float) -> None:
        """A refusal of which they know nothing: none is left until then."""
        for quota in self:
            if quota.is_known(now) and quota.left and quota.left > 0:
                quota.exhaust(now, until)

    def wait(self, amount: float, now: float, flights: Flights, is_even: bool) -> float | None:
        """Seconds until `amount` may go; inf until a response comes; None where the server does not tell."""
        longest: float | None = None
        for quota in self:
            if quota.is_known(now):
                seconds = quota.wait(amount, now, flights, is_even)
                longest = max(longest or 0.0, seconds)
                if longest == inf:
                    break
        return longest
