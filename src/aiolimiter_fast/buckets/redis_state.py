"""The state of GCRA and its like in Redis or Valkey, for processes on any number of hosts."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from aiolimiter_fast import _lua
from aiolimiter_fast.abstracts.algorithm import ADMITTED, GCRA, Decision, State, StateAlgorithm
from aiolimiter_fast.abstracts.rate import Rate
from aiolimiter_fast.abstracts.store import StateStore
from aiolimiter_fast.buckets._outage import Outages
from aiolimiter_fast.buckets._redis_client import link_to
from aiolimiter_fast.buckets._redis_wire import Arguments, packed
from aiolimiter_fast.buckets.redis_bucket import FOREIGN, LOSS, LOST, MICROSECONDS, bytes_of, foreign
from aiolimiter_fast.clocks import WallClock
from aiolimiter_fast.errors import BackendUnavailable

if TYPE_CHECKING:
    from redis import Redis, RedisCluster
    from redis.asyncio import Redis as AsyncRedis
    from redis.asyncio import RedisCluster as AsyncRedisCluster

__all__ = ["RedisStateStore"]


class Tail:
    """What seldom changes of a script's arguments, and for which rates."""

    __slots__ = ("algorithm", "seen", "terms", "values", "wire")

    def __init__(
        self, algorithm: StateAlgorithm | None, seen: tuple[int, int], rates: Sequence[Rate], values: tuple[Any, ...]
    ) -> None:
        self.algorithm = algorithm
        self.seen = seen
        self.terms = [(rate, rate.limit, rate.interval, rate.burst) for rate in rates]
        self.values = values
        self.wire = packed(*values)

    def is_of(self, rates: Sequence[Rate]) -> bool:
        """Whether these are the rates, as they were."""
        if len(rates) != len(self.terms):
            return False
        for given, (rate, limit, interval, burst) in zip(rates, self.terms, strict=True):
            if given is not rate or rate.limit != limit or rate.interval != interval or rate.burst != burst:
                return False
        return True


class RedisStateStore(StateStore):
    """A state in one hash of a Redis or Valkey, changed by one script per decision.

    Arguments:
        redis: a client of redis-py or valkey-py, sync or async, of one server or a cluster.
        key: the hash. It is what pyrate-limiter's store of this name reads and writes, too.
        ttl_ms: milliseconds after which an idle state expires; default twice the time in which the slowest rate
            recovers from a full burst, and no less than the longest interval.
        on_backend_error, on_state_loss, local_share, budget: as for RedisBucket.

    For GCRA and TokenBucket time is the server's, so the clocks of clients do not matter, and the wait is exact.
    An algorithm of the user's own brings its script, which is told the client's time.

    Raises ValueError or TypeError for arguments that make no sense.

    Example:
        from redis import Redis
        from aiolimiter_fast import Limiter, Rate, RedisStateStore, StateBucket

        store = RedisStateStore(Redis(), "limits:uploads")
        limiter = Limiter(StateBucket([Rate(100, 60_000, burst=10)], store=store))
    """

    default_clock = WallClock()
    keeps_budget = True
    exact_wait = True
    tries_at_once = 64

    def __init__(
        self,
        redis: Redis | AsyncRedis | RedisCluster | AsyncRedisCluster,
        key: str,
        ttl_ms: int | None = None,
        *,
        on_backend_error: str = "raise",
        on_state_loss: str = "open",
        local_share: float | None = None,
        budget: float | None = None,
    ) -> None:
        if ttl_ms is not None and not ttl_ms > 0:
            raise ValueError(f"ttl_ms must be positive milliseconds, got {ttl_ms!r}")
        link: Any = link_to(redis)
        self.outages = Outages(link.errors, on_backend_error, on_state_loss, local_share, budget, bounds=False)
        self.redis = redis
        self.key = key
        self.is_async = link.is_async
        self.blocks = not self.is_async
        self._ttl_ms = ttl_ms
        self._link = link
        self._key = bytes_of("key", key)
        self._seen: tuple[int, int] = 0, 0
        self._tail = Tail(None, (0, 0), [], ())
        self._own = _lua.GCRA
        self._scripts: dict[str, _lua.Script] = {_lua.GCRA.source: _lua.GCRA}

    def _script(self, algorithm: StateAlgorithm) -> _lua.Script:
        source = algorithm.redis_script()
        if source is None:
            raise TypeError(f"{type(algorithm).__name__} has no Redis implementation: redis_script() gives None")
        if source not in self._scripts:
            self._scripts[source] = _lua.Script(source)
        return self._scripts[source]

    def _keep(self, rates: Sequence[Rate]) -> int:
        """Milliseconds after which an idle state means nothing any more."""
        if self._ttl_ms is not None:
            return self._ttl_ms
        return max(max(-(-2 * rate.burst * rate.interval // rate.limit), rate.interval) for rate in rates)

    def check(self, algorithm: StateAlgorithm, rates: Sequence[Rate], now: int, weight: int) -> Any:
        """Take one step of the algorithm; return the Decision, awaitable with an asynchronous client.

        Raises BackendUnavailable by the policy for outages, TypeError for an algorithm without a script.
        """
        script = self._script(algorithm)
        arguments = self._arguments(script, algorithm, rates, now, weight)
        if self.outages.local_share is not None:
            self.outages.local(algorithm, rates)
        decide = self.outages.decide_async if self.is_async else self.outages.decide
        return decide(algorithm, rates, weight, partial(self._decide, script, arguments, rates))

    def _arguments(
        self, script: _lua.Script, algorithm: StateAlgorithm, rates: Sequence[Rate], now: int, weight: int
    ) -> Arguments:
        own = script is self._own
        tail = self._tail  # other threads may change it meanwhile
        if not (own and tail.algorithm is algorithm and tail.seen == self._seen and tail.is_of(rates)):
            values = self._keep(rates), len(rates), *algorithm.redis_args(rates)
            if own:
                values += (LOSS[self.outages.on_state_loss], *self._seen)
            self._tail = tail = Tail(algorithm, self._seen, rates, values)
        instant = 0 if own else now
        return Arguments((instant, weight), packed(instant, weight) + tail.wire, tail.values)

    def _decide(self, script: _lua.Script, arguments: Arguments, rates: Sequence[Rate], seconds: float) -> Any:
        answer = self._link.script(script, self._key, arguments, seconds)
        return self._read_later(rates, answer) if self.is_async else self._read(rates, answer)

    async def _read_later(self, rates: Sequence[Rate], answer: Awaitable[Any]) -> Decision:
        return self._read(rates, await answer)

    def _read(self, rates: Sequence[Rate], answer: Any) -> Decision:
        if answer == 0:
            return ADMITTED
        failing = int(answer[0])
        if failing == FOREIGN:
            raise ValueError(foreign(self.key))
        if failing == LOST:
            self._seen = 0, 0
            raise BackendUnavailable(f"the server has lost the state at {self.key!r}")
        if len(answer) == 4:
            self._seen = answer[2], answer[3]
        if failing < 0:
            return ADMITTED
        wait = int(answer[1])
        return Decision(rates[failing], None if wait < 0 else wait)

    def read(self, algorithm: StateAlgorithm, rates: Sequence[Rate]) -> Any:
        """The state; where its numbers are GCRA's, by this machine's clock."""
        fields = tuple(f"tat{index + 1}" for index in range(len(rates)))

        def attempt(seconds: float) -> Any:
            return self._link.script(_lua.STATE, self._key, Arguments(fields), seconds)

        # The time before the question is asked: what is owed is told too low by the way there, not too high.
        state = partial(self._state, algorithm, rates, self._now())
        if not self.is_async:
            return state(self.outages.ask(attempt))
        return self._state_later(state, self.outages.ask_async(attempt))

    @staticmethod
    async def _state_later(state: Any, answer: Awaitable[Any]) -> Any:
        return state(await answer)

    def _state(self, algorithm: StateAlgorithm, rates: Sequence[Rate], now: int, answer: Any) -> State:
        if answer[0] == FOREIGN:
            raise ValueError(foreign(self.key))
        _, server, stored = answer
        if any(value is None for value in stored):
            return algorithm.initial(rates)
        state = algorithm.decode([value.decode() for value in stored])
        if not isinstance(algorithm, GCRA):
            return state
        ahead = now * MICROSECONDS - server
        return tuple(arrival + ahead for arrival in state)

    def _now(self) -> int:
        now: Any = self.default_clock.now()
        return int(now)

    def reset(self) -> Any:
        """Forget the state. For `on_state_loss`, this is no loss."""
        marks = self.outages.on_state_loss != "open"
        keep = max(self._seen[1] // MICROSECONDS - self._now(), 0) + 3_600_000 if marks else 0
        self._seen = 0, 0

        def attempt(seconds: float) -> Any:
            return self._link.script(_lua.RESET, self._key, Arguments((int(marks), keep)), seconds)

        if not self.is_async:
            self.outages.ask(attempt)
            return None
        return self._reset_later(self.outages.ask_async(attempt))

    @staticmethod
    async def _reset_later(answer: Awaitable[Any]) -> None:
        await answer
