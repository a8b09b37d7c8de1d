"""What does a decision cost at a backend, and what does a fleet get from it?

The limit for Redis is a bare EVALSHA of a script that returns 1, by the same client on the same server. Each ratio is
taken within one round, the limit right before it. How many times faster we are is taken within one round, too: both
libraries have the same client and server, and each a key that it fills as the other does. Decisions are those with room
for all, those of rates that are in use, whose windows move on while the calls are made, and denials.

Four processes demand for ten seconds, and every 100 ms one of them is killed and another begins: how many units were
surely admitted beyond a limit within one of its windows, by what the processes noted and by the server's log; and how
long it took the survivors to decide again.

The server is the one of the tests: REDIS_URL, or one from PATH or from the test group's wheel.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

import pyrate_limiter
import redis
import redis.asyncio
from _measure import OURS, Row, Samples, interleave, main, new_loop, ratios

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from redis_workers import ask
from servers import Proxy, RedisServer

from aiolimiter_fast import GCRA, Rate, RateItem, RedisBucket, RedisStateStore, StateBucket

PEERS = ("pyrate-limiter",)
MANY = 10**9
HOUR = 3_600_000
ONE = ((MANY, 1000),)
THREE = ((MANY, 1000), (2 * MANY, 5000), (3 * MANY, 60_000))
IN_USE = ((60, 1), (5000, 100), (40_000, 1000))
FULL = ((500, HOUR), (1000, 3 * HOUR), (1500, 5 * HOUR))


@contextmanager
def redis_at() -> Iterator[str]:
    if url := os.environ.get("REDIS_URL"):
        yield url
    else:
        with RedisServer() as server:
            yield server.url


def key() -> str:
    return f"bench:{uuid.uuid4().hex}"


def ours(rates: Any, client: Any) -> Any:
    return RedisBucket([Rate(*rate) for rate in rates], client, key())


def our_state(rates: Any, client: Any) -> Any:
    return StateBucket([Rate(*rate) for rate in rates], GCRA(), RedisStateStore(client, key()))


def theirs(rates: Any, client: Any, script_hash: str) -> Any:
    return pyrate_limiter.RedisBucket([pyrate_limiter.Rate(*rate) for rate in rates], client, key(), script_hash)


def their_state(rates: Any, client: Any) -> Any:
    store = pyrate_limiter.RedisStateStore(client, key())
    return pyrate_limiter.StateBucket([pyrate_limiter.Rate(*rate) for rate in rates], store=store)


def putting(bucket: Any, item: type) -> Callable[[], Any]:
    return lambda: bucket.put(item("x", bucket.now()))


def timed(call: Callable[[], Any], n: int) -> float:
    start = perf_counter()
    for _ in range(n):
        call()
    return (perf_counter() - start) / n * 1e6


def timed_on(loop: asyncio.AbstractEventLoop, call: Callable[[], Awaitable[Any]], n: int) -> float:
    async def run() -> float:
        start = perf_counter()
        for _ in range(n):
            await call()
        return (perf_counter() - start) / n * 1e6

    return loop.run_until_complete(run())


def cost_rows(url: str, is_async: bool, loop_name: str, quick: bool) -> list[Row]:
    rounds, n = (15, 20) if quick else (150, 20)
    loop = new_loop(loop_name)
    plain = redis.Redis.from_url(url)
    bare_hash = plain.script_load("return 1")
    put_hash: Any = plain.script_load(pyrate_limiter.buckets.redis_bucket.LuaScript.PUT_ITEM)
    client: Any = redis.asyncio.Redis.from_url(url) if is_async else plain
    measure: Any = partial(timed_on, loop) if is_async else timed
    how = "async" if is_async else "sync"
    bare = partial(measure, partial(client.evalsha, bare_hash, 1, key()), n)
    answers = []

    def compare(what: str, our: Any, their: Any, fill: int = 0) -> None:
        calls = {OURS: putting(our, RateItem), "pyrate-limiter": putting(their, pyrate_limiter.RateItem)}
        if fill:
            for call in calls.values():
                measure(call, fill)
        figures, limit = ratios(bare, {name: partial(measure, call, n) for name, call in calls.items()}, rounds)
        about = f"Redis {what}, {how} / EVALSHA"
        answers.append(Row(about, loop_name, figures, 1.3, limit=limit, unit="us", peers=PEERS))
        pairs = zip(*(figures[name].values for name in calls), strict=True)
        speed = Samples([other / own for own, other in pairs])
        answers.append(Row(f"  times faster, {what}, {how}", loop_name, {OURS: speed}, 2.0, at_least=True, peers=PEERS))

    for what, rates, fill in (
        ("put, one rate", ONE, 0), ("put, three rates", THREE, 0), ("put, three in use", IN_USE, 500),
        ("put, denied", FULL, 600),
    ):  # fmt: skip
        compare(what, ours(rates, client), theirs(rates, client, put_hash), fill)
    compare("GCRA, three rates", our_state(THREE, client), their_state(THREE, client))
    if is_async:
        loop.run_until_complete(client.aclose())
    plain.close()
    loop.close()
    return answers


def together(loop_name: str, url: str, library: Any, make: Any) -> float:
    """Seconds for 20 decisions at once over a link with a round trip of 100 ms, its connections made before."""
    loop = new_loop(loop_name)
    port = redis.ConnectionPool.from_url(url).connection_kwargs["port"]
    with Proxy(port) as link:
        client = redis.asyncio.Redis.from_url(f"redis://127.0.0.1:{link.port}/0")

        async def run() -> float:
            await asyncio.gather(*(client.ping() for _ in range(20)))
            limiter = library.Limiter(await make(client))
            await limiter.try_acquire_async("x")
            link.delay = 0.05
            start = perf_counter()
            await asyncio.gather(*(limiter.try_acquire_async("x") for _ in range(20)))
            seconds = perf_counter() - start
            link.delay = 0
            limiter.close()
            await client.aclose()
            return seconds

        seconds = loop.run_until_complete(run())
        loop.close()
        return seconds


async def make_ours(client: Any) -> Any:
    return ours(ONE, client)


async def make_theirs(client: Any) -> Any:
    return await pyrate_limiter.RedisBucket.init([pyrate_limiter.Rate(*ONE[0])], client, key())


def heavy(url: str, is_ours: bool) -> tuple[float, float]:
    """Bytes for a key after one call of a million permits, and the milliseconds it took the server."""
    million = ((10**6, HOUR),)
    with redis.Redis.from_url(url, socket_timeout=60) as client:
        bucket: Any
        item: Any
        if is_ours:
            bucket, item = ours(million, client), RateItem
        else:
            rates = [pyrate_limiter.Rate(*million[0])]
            bucket, item = pyrate_limiter.RedisBucket.init(rates, client, key()), pyrate_limiter.RateItem
        client.config_resetstat()
        assert bucket.put(item("x", bucket.now(), 10**6))
        stats: Any = client.info("commandstats")
        spent = sum(value["usec"] for name, value in stats.items() if name in ("cmdstat_evalsha", "cmdstat_eval"))
        size: Any = client.memory_usage(bucket.bucket_key)
        client.unlink(bucket.bucket_key)
        return float(size), spent / 1000


def false_denials(url: str) -> float:
    """Percent of the calls of four processes that are denied although there is room for all."""
    context: Any = get_context("spawn")
    answers, calls = context.SimpleQueue(), 500
    arguments = (url, key(), [(4 * calls, HOUR)], calls, time.time() + 1.5, answers)
    workers = [context.Process(target=ask, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    admitted = sum(answers.get() for _ in workers)
    for worker in workers:
        worker.join()
    return float(100 * (4 * calls - admitted) / (4 * calls))


def kills(url: str, number: int) -> dict[str, Any]:
    """What four processes saw of which so many were killed, one every 100 ms."""
    script = Path(__file__).parents[1] / "tests" / "redis_kills.py"
    command = [sys.executable, str(script), url, str(number), "0.1"]
    seen: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return seen


def kill_rows(url: str, loop_name: str, quick: bool) -> list[Row]:
    seen = kills(url, 25 if quick else 100)
    what = f"{seen['kills']} kills in {seen['seconds']:.0f} s"

    def row(about: str, figure: float, bar: float | None = None, at_least: bool = False) -> Row:
        return Row(about, loop_name, {OURS: Samples([figure])}, bar, at_least=at_least, peers=PEERS)

    return [
        row(f"units over the limit, {what}", max(seen["excess"]), 0.0),
        row("  the same by the server's log", max(seen["excess_in_log"]), 0.0),
        row("  share of the limit that was delivered", seen["delivered"]),
        row("  s until the survivors went on, at worst", seen["longest_wait"]),
    ]


def fleet_rows(url: str, loop_name: str, quick: bool) -> list[Row]:
    rounds = 1 if quick else 5
    at_once = {
        OURS: partial(together, loop_name, url, __import__("aiolimiter_fast"), make_ours),
        "pyrate-limiter": partial(together, loop_name, url, pyrate_limiter, make_theirs),
    }
    sizes: dict[str, Samples] = {}
    times: dict[str, Samples] = {}
    for name in (OURS, "pyrate-limiter"):
        answers = [heavy(url, name == OURS) for _ in range(rounds)]
        sizes[name], times[name] = (Samples(list(values)) for values in zip(*answers, strict=True))
    return [
        Row("20 decisions at once, 100 ms round trip, s", loop_name, interleave(at_once, rounds), 0.25, peers=PEERS),
        Row("bytes stored, weight 1,000,000", loop_name, sizes, 1024.0, worst=True, peers=PEERS),
        Row("ms at the server, weight 1,000,000", loop_name, times, 1.0, peers=PEERS),
        Row(
            "false denials of 4 processes, %", loop_name, interleave({OURS: partial(false_denials, url)}, rounds), 0.0,
            worst=True, peers=PEERS,
        ),
    ]  # fmt: skip


def redis_rows(loop_name: str, quick: bool) -> list[Row]:
    with redis_at() as url:
        if loop_name == "uvloop":
            return cost_rows(url, True, loop_name, quick)
        return [
            *cost_rows(url, True, loop_name, quick),
            *cost_rows(url, False, loop_name, quick),
            *fleet_rows(url, loop_name, quick),
            *kill_rows(url, loop_name, quick),
        ]


if __name__ == "__main__":
    main({"redis": redis_rows}, __doc__)
