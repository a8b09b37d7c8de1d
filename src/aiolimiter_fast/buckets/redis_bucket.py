"""The bucket in Redis or Valkey, for processes on any number of hosts."""

from __future__ import annotations

import os
from binascii import crc32
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiolimiter_fast import _lua
from aiolimiter_fast.abstracts.algorithm import ADMITTED, Algorithm, Decision, FixedWindow, SlidingWindowLog
from aiolimiter_fast.abstracts.rate import Rate, RateItem
from aiolimiter_fast.buckets._outage import BackendBucket, Outages
from aiolimiter_fast.buckets._redis_client import link_to
from aiolimiter_fast.buckets._redis_wire import Arguments, packed
from aiolimiter_fast.clocks import AbstractClock, WallClock
from aiolimiter_fast.errors import BackendUnavailable

if TYPE_CHECKING:
    from redis import Redis, RedisCluster
    from redis.asyncio import Redis as AsyncRedis
    from redis.asyncio import RedisCluster as AsyncRedisCluster

__all__ = ["LuaScript", "RedisBucket"]

MICROSECONDS = 1000
# Units up to which Lua's numbers count, with room for what is counted on top.
MOST = 1 << 50
LONGEST_NAME = 1 << 16
LOSS = {"open": 0, "closed": 1, "raise": 2}
FOREIGN, LOST = -2, -3
OURS = [-4]


class LuaScript:
    """The scripts of a bucket, under the name that pyrate-limiter has for its own."""

    PUT_ITEM = _lua.LOG.source


class Tail:
    """What seldom changes of a script's arguments, and how it came about."""

    __slots__ = ("loss", "rates", "seen", "terms", "values", "wire")

    def __init__(self, is_fixed: bool, loss: int, seen: tuple[int, int], rates: list[Rate]) -> None:
        self.loss = loss
        self.seen = seen
        self.rates = rates
        self.terms = [(rate, rate.limit, rate.interval) for rate in rates]
        scaled = (term for _, limit, interval in self.terms for term in (int(limit), interval * MICROSECONDS))
        # Whose hints are meant: of so many rates with these windows.
        windows = repr((is_fixed, [rate.interval for rate in rates])).encode()
        hints = bytes([len(rates)]) + crc32(windows).to_bytes(4, "big")
        self.values: tuple[bytes | int, ...] = int(is_fixed), loss, *seen, hints, *scaled
        self.wire = packed(*self.values)

    def is_true(self) -> bool:
        """Whether the rates are still what they were."""
        for rate, limit, interval in self.terms:  # noqa: SIM110  # all() takes twice the time
            if rate.limit != limit or rate.interval != interval:
                return False
        return True


class RedisBucket(BackendBucket):
    """A log of what was admitted, in one key of a Redis or Valkey; each decision is one script there.

    Arguments:
        rates: one Rate or more, each longer, larger and slower than the one before.
        redis: a client of redis-py or valkey-py, sync or async, of one server or a cluster.
        bucket_key: the key. It expires when the longest interval has passed without an admission.
        script_hash: not needed; pyrate-limiter's callers give it.
        algorithm: SlidingWindowLog (default) or FixedWindow.
        reference_format: read and write what pyrate-limiter's RedisBucket does, one entry per permit, so that both can
            work on the key at once. Without it, entries of that format found there are taken over, once and in full.
        on_backend_error: what to do when the server fails or does not answer: "raise" BackendUnavailable (default);
            "open" admits; "closed" denies; "local" decides by a limiter in this process.
        on_state_loss: what to take a log for that has vanished before its time, by a failover to an empty server for
            one: "open", empty (default); "closed", full; "raise" BackendUnavailable once.
        local_share: the share of each limit that "local" admits in this process, above 0 and at most 1.
        budget: seconds that a call may take, connecting included. Default the timeout of the limiter's caller and
            50 ms, or a second where there is none.

    Time is the server's, so the clocks of clients do not matter, and the wait is exact. Methods are to be awaited where
    the client is asynchronous; a synchronous client holds up no event loop.

    Raises ValueError or TypeError for arguments that make no sense.

    Example:
        from redis import Redis
        from aiolimiter_fast import Duration, Limiter, Rate, RedisBucket

        bucket = RedisBucket([Rate(10, Duration.SECOND)], Redis(), "limits:api")
        limiter = Limiter(bucket)
    """

    _clock: AbstractClock = WallClock()

    def __init__(
        self,
        rates: list[Rate],
        redis: Redis | AsyncRedis | RedisCluster | AsyncRedisCluster,
        bucket_key: str,
        script_hash: str | None = None,
        algorithm: Algorithm | None = None,
        *,
        reference_format: bool = False,
        on_backend_error: str = "raise",
        on_state_loss: str = "open",
        local_share: float | None = None,
        budget: float | None = None,
    ) -> None:
        if algorithm is not None:
            if type(algorithm) not in (SlidingWindowLog, FixedWindow):
                raise TypeError(f"algorithm must be SlidingWindowLog or FixedWindow, got {algorithm!r}")
            self._algorithm = algorithm
        if reference_format and on_state_loss != "open":
            raise ValueError(f'reference_format needs on_state_loss="open", got {on_state_loss!r}')
        link: Any = link_to(redis)
        self.outages = Outages(link.errors, on_backend_error, on_state_loss, local_share, budget, bounds=False)
        self.redis = redis
        self.bucket_key = bucket_key
        self.script_hash = script_hash
        self.is_async = link.is_async
        self.blocks = not self.is_async
        self.reference_format = reference_format
        self._link = link
        self._key = bytes_of("bucket_key", bucket_key)
        self._log = _lua.LOG
        self._loss = LOSS[on_state_loss]
        self._tail = Tail(False, 0, (0, 0), [])
        self._seen: tuple[int, int] = 0, 0  # birth and last time of the log, where losses matter
        self.rates = rates

    @classmethod
    def init(
        cls,
        rates: list[Rate],
        redis: Redis | AsyncRedis | RedisCluster | AsyncRedisCluster,
        bucket_key: str,
        algorithm: Algorithm | None = None,
        **options: Any,
    ) -> Any:
        """Make a bucket; a coroutine of one for an asynchronous client. Nothing is asked of the server."""
        bucket = cls(rates, redis, bucket_key, None, algorithm, **options)
        return bucket._itself() if bucket.is_async else bucket

    async def _itself(self) -> RedisBucket:
        return self

    @property
    def rates(self) -> list[Rate]:
        """The rates by rising interval. Can be set while in use: the log stays."""
        return self._rates

    @rates.setter
    def rates(self, rates: list[Rate]) -> None:
        BackendBucket.rates.fset(self, rates)  # type: ignore[attr-defined]
        if len(self._rates) > 255:
            raise ValueError(f"rates must be at most 255 for Redis, got {len(self._rates)}")
        for rate in self._rates:
            if rate.limit != int(rate.limit) or rate.limit > MOST:
                raise ValueError(f"limit must be a whole number up to {MOST} for Redis, got {rate!r}")
        if self.outages.local_share is not None:
            self.outages.local(self._algorithm, self._rates)

    def _arguments(self, weight: int, name: bytes, loss: int) -> Arguments:
        digits = b"%d" % weight
        tail = self._tail  # other threads may change it meanwhile
        if not (tail.loss == loss and tail.seen == self._seen and tail.rates is self._rates and tail.is_true()):
            tail = self._tail = Tail(type(self._algorithm) is FixedWindow, loss, self._seen, self._rates)
        wire = b"$%d\r\n%b\r\n$%d\r\n%b\r\n%b" % (len(digits), digits, len(name), name, tail.wire)
        return Arguments((weight, name), wire, tail.values)

    def _decide(self, item: RateItem, seconds: float) -> Any:
        if not isinstance(item.weight, int):
            raise TypeError(f"weight must be a whole number, got {item.weight!r}")
        name = bytes_of("name", str(item.name))
        if self.reference_format:
            answer = self._run(self._log, lambda name: self._arguments(item.weight, name, self._loss), name, seconds)
        else:
            answer = self._link.script(self._log, self._key, self._arguments(item.weight, name, self._loss), seconds)
        return self._read_later(answer) if self.is_async else self._read(answer)

    def _run(self, script: _lua.Script, arguments: Callable[[bytes], Arguments], name: bytes, seconds: float) -> Any:
        """Run a script; where the reference format is asked for, its counterpart, unless the key is ours already."""
        if not self.reference_format:
            return self._link.script(script, self._key, arguments(name), seconds)
        other = _lua.REFERENCE if script is self._log else _lua.LOOK_REFERENCE
        digits = b":%b:" % os.urandom(5).hex().encode()
        if self.is_async:
            return self._run_async(other, script, arguments, name, digits, seconds)
        answer = self._link.script(other, self._key, arguments(name + digits), seconds)
        return answer if answer != OURS else self._link.script(script, self._key, arguments(name), seconds)

    async def _run_async(
        self,
        other: _lua.Script,
        script: _lua.Script,
        arguments: Callable[[bytes], Arguments],
        name: bytes,
        digits: bytes,
        seconds: float,
    ) -> Any:
        answer = await self._link.script(other, self._key, arguments(name + digits), seconds)
        return answer if answer != OURS else await self._link.script(script, self._key, arguments(name), seconds)

    async def _read_later(self, answer: Awaitable[Any]) -> Decision:
        return self._read(await answer)

    def _read(self, answer: Any) -> Decision:
        if answer == 0:
            return ADMITTED
        failing, wait = self._checked(answer)[:2]
        if self._loss:
            self._seen = answer[2], answer[3]
        return ADMITTED if failing == 0 else Decision(self._rates[failing - 1], -(-wait // MICROSECONDS))

    def _checked(self, answer: list[Any]) -> list[Any]:
        if answer[0] == FOREIGN:
            raise ValueError(foreign(self.bucket_key))
        if answer[0] == LOST:
            self._seen = 0, 0
            raise BackendUnavailable(f"the server has lost the log at {self.bucket_key!r}")
        return answer

    def _look(self, what: str, last: int = 0) -> Any:
        arguments = Arguments((what, self._rates[-1].interval * MICROSECONDS, last))

        def attempt(seconds: float) -> Any:
            return self._run(_lua.LOOK, lambda _: arguments, b"", seconds)

        return self.outages.ask_async(attempt) if self.is_async else self.outages.ask(attempt)

    def count(self) -> Any:
        """Units within the longest interval; awaitable with an asynchronous client."""
        return self._then(self._look("count"), self._counted)

    def _counted(self, answer: Any) -> int:
        return int(answer if isinstance(answer, int) else self._checked(answer)[0])

    def leak(self, current_timestamp: int | None = None) -> Any:
        """Remove what is older than the longest interval, by the server's clock; return how many units.

        It never needs to be called: an admission does it too. Raises AssertionError without a timestamp.
        """
        if current_timestamp is None:
            raise AssertionError("leak() needs the current timestamp, got None")
        return self._then(self._look("leak"), self._counted)

    def peek(self, index: int) -> Any:
        """The item of the unit at `index`, 0 the newest, -1 the oldest; None if there is none."""
        return self._then(self._look("peek", index), self._peeked)

    def _peeked(self, answer: Any) -> RateItem | None:
        if self._checked(answer)[0] == 0:
            return None
        name, time, weight = answer[1:]
        return RateItem(name.decode(), int(time) // MICROSECONDS, weight)

    def flush(self) -> Any:
        """Forget everything; awaitable with an asynchronous client. For `on_state_loss`, this is no loss."""
        self.failing_rate = self._last_wait = None
        self._seen = 0, 0
        return self._then(self._look("flush", int(self._loss != 0)), lambda _: None)

    @staticmethod
    def _then(answer: Any, read: Any) -> Any:
        async def later() -> Any:
            return read(await answer)

        return later() if isinstance(answer, Awaitable) else read(answer)

    def remaining(self) -> list[int]:
        """Permits left now, per rate in order of interval."""
        used = self._asked(1)[4:]
        return [max(int(rate.limit) - units, 0) for rate, units in zip(self._rates, used, strict=True)]

    def wait_time(self, weight: int = 1) -> float:
        """Seconds until `weight` permits would be admitted; inf if never."""
        if weight > self._rates[0].limit:
            return float("inf")
        return float(self._asked(weight)[1] / 1e6)

    def _asked(self, weight: int) -> list[Any]:
        if self.is_async:
            raise NotImplementedError("an asynchronous client cannot be asked from synchronous code")

        def attempt(seconds: float) -> Any:
            return self._run(self._log, lambda name: self._arguments(weight, name, -1), b"", seconds)

        return self._checked(self.outages.ask(attempt))


def bytes_of(argument: str, text: Any) -> bytes:
    """Text as it is stored. Raises ValueError for what cannot be, TypeError for what is none."""
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise TypeError(f"{argument} must be a string, got {text!r}")
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{argument} must be text that UTF-8 can encode, got {text!r}") from None
    if len(encoded) > LONGEST_NAME:
        raise ValueError(f"{argument} must be at most {LONGEST_NAME} bytes, got {len(encoded)}")
    return encoded


def foreign(key: Any) -> str:
    return f"the key {key!r} holds something else than a limit, or a version that is not known here"
