"""What does a decision cost in SQLite and in PostgreSQL, beside the least that a durable change can cost there?

For SQLite the limit is `BEGIN IMMEDIATE; UPDATE; COMMIT` of one row, in a file with the same settings (write-ahead log,
synchronous=NORMAL); pyrate-limiter's bucket is given such a file too. For PostgreSQL it is a one-row
`UPDATE ... RETURNING` on the same pool, as `with pool.connection()` runs it, and once more in autocommit mode, which is
what our bucket uses. Each ratio is taken within one round, the limit right before it. Every call is admitted. The
server is that of the tests: POSTGRES_DSN, or one from PATH or from the test group's wheel.

The last rows are of fleets: four processes that have room and are denied, 20 tasks over a slow link, and four processes
that demand permits for 10 seconds while one of them is killed every 100 ms, of which `tests/fleets.py` tells more.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import pyrate_limiter
from _measure import OURS, Row, Samples, interleave, main, new_loop, ratios
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool, ConnectionPool

import aiolimiter_fast

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from fleets import Fleet, Limits, longest_silence, most, postgres_bucket, sqlite_bucket
from servers import PostgresServer, Proxy

from aiolimiter_fast import PostgresBucket, Rate, RateItem, SQLiteBucket

THEIRS = "pyrate-limiter"
PEERS = (THEIRS,)
PACKAGES: dict[str, Any] = {OURS: aiolimiter_fast, THEIRS: pyrate_limiter}
MANY = 10**6
ONE = ((MANY, 1000),)
THREE = ((MANY, 1000), (2 * MANY, 5000), (3 * MANY, 60_000))
HOUR = 3_600_000
# Limits that four processes reach again and again.
SQLITE_FLEET = ((500, 100), (20_000, 10_000))
POSTGRES_FLEET = ((50, 100), (3000, 10_000))
UPDATE = "UPDATE bare SET n = n + 1 WHERE id = 1"


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


def putting(bucket: Any, item: type) -> Callable[[], Any]:
    return lambda: bucket.put(item("x", bucket.now()))


def faster(what: str, loop_name: str, figures: dict[str, Samples]) -> Row:
    speed = [other / own for own, other in zip(figures[OURS].values, figures[THEIRS].values, strict=True)]
    return Row(f"  times faster, {what}", loop_name, {OURS: Samples(speed)}, 2.0, at_least=True, peers=PEERS)


# SQLite


def connected(path: str) -> sqlite3.Connection:
    conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    conn.execute("PRAGMA journal_mode=WAL")
    conn.execute("PRAGMA synchronous=NORMAL")
    return conn


def bare_transaction(conn: sqlite3.Connection) -> Callable[[], None]:
    conn.execute("CREATE TABLE bare (id INTEGER PRIMARY KEY, n INTEGER)")
    conn.execute("INSERT INTO bare VALUES (1, 0)")
    execute = conn.cursor().execute

    def run() -> None:
        execute("BEGIN IMMEDIATE")
        execute(UPDATE)
        execute("COMMIT")

    return run


def their_sqlite(rates: Any, path: str) -> Any:
    """Their bucket, with the isolation level that it makes its connections with, and our file's settings."""
    made = pyrate_limiter.SQLiteBucket.init_from_file([pyrate_limiter.Rate(*rate) for rate in rates], "limits", path)
    made.conn.execute("PRAGMA journal_mode=WAL")
    made.conn.execute("PRAGMA synchronous=NORMAL")
    return made


def sqlite_rows(loop_name: str, quick: bool) -> list[Row]:
    if loop_name != "asyncio":
        return []
    rounds, n = (60, 25) if quick else (400, 25)
    answers = []
    with tempfile.TemporaryDirectory() as folder, closing(connected(f"{folder}/bare.sqlite")) as conn:
        bare = partial(timed, bare_transaction(conn), n)
        for what, rates in (("one rate", ONE), ("three rates", THREE)):
            ours = SQLiteBucket.init_from_file([Rate(*rate) for rate in rates], "limits", f"{folder}/ours {what}")
            ours.scheduled()
            theirs = their_sqlite(rates, f"{folder}/theirs {what}")
            cases = {
                OURS: partial(timed, putting(ours, RateItem), n),
                THEIRS: partial(timed, putting(theirs, pyrate_limiter.RateItem), n),
            }
            figures, limit = ratios(bare, cases, rounds)
            answers.append(
                Row(
                    f"SQLite put, {what} / BEGIN; UPDATE; COMMIT",
                    "-",
                    figures,
                    1.5,
                    limit=limit,
                    unit="us",
                    peers=PEERS,
                )
            )
            answers.append(faster(what, "-", figures))
            ours.close()
            theirs.close()
        denials = {name: partial(false_denials, name, "sqlite", f"{folder}/{name}") for name in PACKAGES}
        answers += fleet_rows("SQLite", denials, partial(sqlite_bucket, f"{folder}/fleet"), SQLITE_FLEET, quick)
        answers += heavy_rows("SQLite", [heavy_sqlite(f"{folder}/heavy {number}") for number in range(5)])
    return answers


def heavy_sqlite(path: str) -> tuple[float, float]:
    """Bytes that a call of a million permits adds to the file, and milliseconds that it takes."""
    calls = 1000
    with (
        SQLiteBucket.init_from_file([Rate(calls * MANY, HOUR)], "limits", path) as bucket,
        closing(connected(path)) as c,
    ):
        before = c.execute("PRAGMA page_count").fetchone()[0]
        milliseconds = timed(lambda: bucket.put(RateItem("x", bucket.now(), MANY)), calls) / 1000
        pages = c.execute("PRAGMA page_count").fetchone()[0] - before
        return pages * c.execute("PRAGMA page_size").fetchone()[0] / calls, milliseconds


# PostgreSQL


@contextmanager
def server() -> Iterator[str]:
    if dsn := os.environ.get("POSTGRES_DSN"):
        yield dsn
    else:
        with PostgresServer() as own:
            yield own.dsn


def table() -> str:
    return f"bench_{uuid.uuid4().hex[:12]}"


def bare_update(pool: Any) -> None:
    with pool.connection() as conn:
        conn.execute(UPDATE + " RETURNING n").fetchone()


def bare_update_alone(pool: Any) -> None:
    with pool.connection() as conn:
        conn.autocommit = True
        conn.execute(UPDATE + " RETURNING n").fetchone()
        conn.autocommit = False


async def bare_update_async(pool: Any) -> None:
    async with pool.connection() as conn:
        await (await conn.execute(UPDATE + " RETURNING n")).fetchone()


def sync_rows(dsn: str, rounds: int, n: int) -> list[Row]:
    answers = []
    with ConnectionPool(dsn, min_size=2, max_size=2, open=True) as pool:
        with pool.connection() as conn:
            conn.execute("DROP TABLE IF EXISTS bare")
            conn.execute("CREATE TABLE bare (id int PRIMARY KEY, n bigint)")
            conn.execute("INSERT INTO bare VALUES (1, 0)")
        bare: Any = partial(timed, partial(bare_update, pool), n)
        alone: Any = partial(timed, partial(bare_update_alone, pool), n)
        for what, rates in (("one rate", ONE), ("three rates", THREE)):
            ours = PostgresBucket(pool, table(), [Rate(*rate) for rate in rates])
            ours.scheduled()
            theirs = pyrate_limiter.PostgresBucket(pool, table(), [pyrate_limiter.Rate(*rate) for rate in rates])
            measure = partial(timed, putting(ours, RateItem), n)
            cases = {OURS: measure, THEIRS: partial(timed, putting(theirs, pyrate_limiter.RateItem), n)}
            figures, limit = ratios(bare, cases, rounds)
            answers.append(
                Row(f"PostgreSQL put, {what} / UPDATE", "-", figures, 1.4, limit=limit, unit="us", peers=PEERS)
            )
            answers.append(faster(what, "-", figures))
            figures, limit = ratios(alone, {OURS: measure}, rounds)
            answers.append(
                Row(f"PostgreSQL put, {what} / autocommit UPDATE", "-", figures, limit=limit, unit="us", peers=PEERS)
            )
    return answers


def async_row(dsn: str, loop_name: str, rounds: int, n: int) -> Row:
    loop = new_loop(loop_name)
    pool = AsyncConnectionPool(dsn, min_size=2, max_size=2, open=False)
    loop.run_until_complete(pool.open(wait=True))
    ours = PostgresBucket(pool, table(), [Rate(*rate) for rate in THREE])
    cases = {OURS: partial(timed_on, loop, putting(ours, RateItem), n)}
    figures, limit = ratios(partial(timed_on, loop, partial(bare_update_async, pool), n), cases, rounds)
    loop.run_until_complete(pool.close())
    loop.close()
    what = "PostgreSQL put, three rates, async / UPDATE"
    return Row(what, loop_name, figures, 1.4, limit=limit, unit="us", peers=PEERS)


def together(dsn: str, loop_name: str, name: str) -> float:
    """Seconds for 20 decisions at once over a link with a round trip of 100 ms, its connections made before."""
    loop = new_loop(loop_name)
    with Proxy(int(conninfo_to_dict(dsn)["port"] or 5432)) as link:
        through = make_conninfo(dsn, port=link.port)

        async def run() -> float:
            library: Any = PACKAGES[name]
            pool: Any = (AsyncConnectionPool if name == OURS else ConnectionPool)(through, min_size=20, open=False)
            opened = pool.open(wait=True)
            if name == OURS:
                await opened
            limiter = library.Limiter(library.PostgresBucket(pool, table(), [library.Rate(MANY, 1000)]))
            await limiter.try_acquire_async("x")
            link.delay = 0.05
            start = perf_counter()
            await asyncio.gather(*(limiter.try_acquire_async("x") for _ in range(20)))
            seconds = perf_counter() - start
            link.delay = 0
            closed = pool.close()
            if name == OURS:
                await closed
            return seconds

        seconds = loop.run_until_complete(run())
        loop.close()
        return seconds


def heavy_postgres(pool: Any, calls: int = 5) -> list[tuple[float, float]]:
    """Bytes of the row for a call of a million permits, and milliseconds that it takes the server, of some calls."""
    bucket = PostgresBucket(pool, table(), [Rate((calls + 1) * MANY, HOUR)])
    assert bucket.put(RateItem("x", bucket.now(), MANY))
    statements: Any = bucket._statements
    answers = []
    for _ in range(calls):
        with pool.connection() as conn:
            plan = conn.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statements.put}", (MANY, "x")).fetchone()[0][0]
            size = conn.execute(f"SELECT max(pg_column_size(t.*)) FROM {bucket._full_tbl} t").fetchone()[0]
        answers.append((size, plan["Planning Time"] + plan["Execution Time"]))
    assert not bucket.put(RateItem("x", bucket.now()))
    return answers


# Fleets


WORK = """
import importlib, sys
package, kind, where, name = sys.argv[1:]
library = importlib.import_module(package)
rates = [library.Rate(1_000_000, 3_600_000)]
if kind == "sqlite":
    bucket = library.SQLiteBucket.init_from_file(rates, name, where, use_file_lock=package == "pyrate_limiter")
else:
    from psycopg_pool import ConnectionPool
    bucket = library.PostgresBucket(ConnectionPool(where, min_size=1, max_size=1, open=True), name, rates)
print("ready", flush=True)
sys.stdin.readline()
print(sum(not bucket.put(library.RateItem("x", bucket.now())) for _ in range(300)), flush=True)
bucket.close()
"""


def false_denials(name: str, kind: str, where: str) -> float:
    """The share of calls that are denied although there is room, of four processes at once."""
    command = [sys.executable, "-c", WORK, PACKAGES[name].__name__, kind, where, table()]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    workers = [subprocess.Popen(command, **pipes) for _ in range(4)]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(b"\n")
        worker.stdin.flush()
    return sum(int(worker.communicate()[0]) for worker in workers) / 1200 * 100


def killed(open_bucket: Callable[..., Any], limits: Limits, kills: int) -> tuple[float, float]:
    """The fullest window in percent of its limit, and the longest silence of a process, while others are killed."""
    with tempfile.TemporaryDirectory() as folder:
        with Fleet(partial(open_bucket, limits), Path(folder, "record")) as fleet:
            fleet.run(kills)
            fleet.go_on()
        fullest = max(100 * most(fleet.calls, interval) / limit for limit, interval in limits)
        return fullest, longest_silence(fleet.calls)


def fleet_rows(engine: str, denials: Any, open_bucket: Callable[..., Any], limits: Limits, quick: bool) -> list[Row]:
    denied = interleave(denials, 1 if quick else 3)
    kills = 25 if quick else 100
    fullest, silence = killed(open_bucket, limits, kills)
    return [
        Row(f"{engine} false denials, 4 processes, %", "-", denied, 0.0, worst=True, peers=PEERS),
        Row(
            f"{engine}, {kills} kills, fullest window, %",
            "-",
            {OURS: Samples([fullest])},
            100.0,
            worst=True,
            peers=PEERS,
        ),
        Row("  longest silence of a process, s", "-", {OURS: Samples([silence])}, worst=True, peers=PEERS),
    ]


def heavy_rows(engine: str, answers: list[tuple[float, float]]) -> list[Row]:
    sizes, times = (Samples(list(values)) for values in zip(*answers, strict=True))
    return [
        Row(f"{engine} bytes stored, weight 1,000,000", "-", {OURS: sizes}, 1024.0, worst=True, peers=PEERS),
        Row(f"{engine} ms, weight 1,000,000", "-", {OURS: times}, 1.0, worst=True, peers=PEERS),
    ]


def postgres_rows(loop_name: str, quick: bool) -> list[Row]:
    rounds, n = (40, 10) if quick else (300, 10)
    with server() as dsn:
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool, pool.connection() as conn:
            conn.execute("CREATE TABLE IF NOT EXISTS bare (id int PRIMARY KEY, n bigint)")
            conn.execute("INSERT INTO bare VALUES (1, 0) ON CONFLICT DO NOTHING")
        answers = [async_row(dsn, loop_name, rounds, n)]
        at_once = {name: partial(together, dsn, loop_name, name) for name in PACKAGES}
        figures = interleave(at_once, 1 if quick else 5)
        answers.append(Row("20 decisions at once, 100 ms round trip, s", loop_name, figures, 0.25, peers=PEERS))
        if loop_name == "asyncio":
            answers += sync_rows(dsn, rounds, n)
            denials = {name: partial(false_denials, name, "postgres", dsn) for name in PACKAGES}
            fleet = partial(postgres_bucket, dsn, table())
            answers += fleet_rows("PostgreSQL", denials, fleet, POSTGRES_FLEET, quick)
            with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
                answers += heavy_rows("PostgreSQL", heavy_postgres(pool))
    return answers


if __name__ == "__main__":
    main({"sqlite": sqlite_rows, "postgres": postgres_rows}, __doc__)
