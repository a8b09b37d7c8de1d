"""PostgreSQL: the function that decides, and the two formats of its table."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Statements", "Steps", "advisory_lock_id", "checked", "set_up"]

# The format of our table, which stands in its comment.
FORMAT = 1
COMMENT = "aiolimiter_fast, format {}"
# Bytes of an identifier; PostgreSQL cuts longer ones off, so that two of them could be one.
LONGEST = 63
PREFIX = "ratelimit___"
# Milliseconds by which the newest entry may be ahead of the clock before it is said that the clock went back.
AHEAD = 1000
# Units that are looked for one entry after the other, before a search by halves is quicker.
FEW = 64

# In our format an entry is an item, with the running total of all weights up to it; entries are in order of time and of
# total alike. The units since a time are the difference of two totals, which the primary key finds.
TABLE = """CREATE TABLE {table} (item_timestamp bigint NOT NULL, total bigint NOT NULL, weight bigint NOT NULL,
name text NOT NULL, PRIMARY KEY (item_timestamp, total))"""
REFERENCE_TABLE = "CREATE TABLE {table} (name VARCHAR, weight SMALLINT, item_timestamp TIMESTAMP)"
REFERENCE_INDEX = "CREATE INDEX IF NOT EXISTS {index} ON {table} (item_timestamp)"
TAKE_OVER = """INSERT INTO {table}
SELECT moment, sum(units) OVER (ORDER BY moment, name), units, name FROM (
SELECT (extract(epoch FROM item_timestamp::timestamptz) * 1000)::bigint AS moment, count(*) AS units,
coalesce(name, '') AS name FROM {former} WHERE item_timestamp IS NOT NULL GROUP BY 1, 3) AS runs"""
KIND = """SELECT n.nspname, obj_description(c.oid, 'pg_class'), ARRAY(SELECT a.attname::text FROM pg_attribute a
WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%s)"""
KNOWN = """SELECT 1 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = %s AND p.proname = %s"""
GUARD = """IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'a limit is decided in transactions of isolation level read committed, not %',
            current_setting('transaction_isolation') USING ERRCODE = 'feature_not_supported';
    END IF;"""
FIXED_WAIT = "RETURN ARRAY[i, intervals[i] - moment % intervals[i] + moment - began];"
CLOCK = "floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

# The lock is held until the statement's transaction ends, by the server alone: no client can keep it. It is taken in a
# condition, which costs no query; what is admitted to a table that is not empty is one query after it.
DECIDE = """
DECLARE
    answer bigint[]; limits bigint[]; intervals bigint[]; moment bigint; began bigint; start bigint; newest bigint;
    reached bigint; base bigint; place bigint; low bigint; high bigint; middle bigint;
BEGIN
    IF pg_advisory_xact_lock({key}) IS NULL THEN
        RETURN answer;
    END IF;
    INSERT INTO {table} (item_timestamp, total, weight, name)
    SELECT l.moment, l.total + units, units, item_name
    FROM (
        SELECT e.item_timestamp, e.total, coalesce(instant, {clock}) AS moment FROM {table} e
        ORDER BY e.item_timestamp DESC, e.total DESC LIMIT 1
    ) AS l
    WHERE current_setting('transaction_isolation') = 'read committed' AND l.item_timestamp <= l.moment AND {room};
    IF FOUND AND NOT prune THEN
        RETURN answer;
    END IF;
    moment := coalesce(instant, {clock});
    IF FOUND THEN
        DELETE FROM {table} e WHERE e.item_timestamp < least({all_starts});
        RETURN answer;
    END IF;
    {guard}
    limits := ARRAY[{limits}];
    intervals := ARRAY[{intervals}];
    began := moment;
    SELECT e.item_timestamp, e.total INTO newest, reached FROM {table} e
    ORDER BY e.item_timestamp DESC, e.total DESC LIMIT 1;
    IF newest > moment THEN
        IF instant IS NULL AND newest > moment + {ahead} THEN
            -- The clock went back. Whatever the entries say, they were made before now.
            UPDATE {table} e SET item_timestamp = moment WHERE e.item_timestamp > moment;
        ELSE
            moment := newest;
        END IF;
    END IF;
    FOR i IN 1..{rates} LOOP
        start := moment - {width};
        SELECT e.total - e.weight INTO base FROM {table} e
        WHERE e.item_timestamp >= start ORDER BY e.item_timestamp, e.total LIMIT 1;
        CONTINUE WHEN units <= limits[i] - coalesce(reached - base, 0);
        IF units > limits[i] THEN
            RETURN ARRAY[i, -1];
        END IF;
        {fixed_wait}
        -- The unit that has to leave, and when it came.
        place := reached - limits[i] + units;
        IF place - base <= {few} THEN
            SELECT e.item_timestamp INTO low FROM {table} e
            WHERE e.item_timestamp >= start AND e.total >= place ORDER BY e.item_timestamp, e.total LIMIT 1;
        ELSE
            low := start;
            high := moment;
            WHILE low < high LOOP
                middle := (low + high) / 2;
                SELECT e.total INTO base FROM {table} e
                WHERE e.item_timestamp <= middle ORDER BY e.item_timestamp DESC, e.total DESC LIMIT 1;
                IF coalesce(base, 0) >= place THEN
                    high := middle;
                ELSE
                    low := middle + 1;
                END IF;
            END LOOP;
        END IF;
        RETURN ARRAY[i, low + intervals[i] + 1 - began];
    END LOOP;
    INSERT INTO {table} (item_timestamp, total, weight, name)
    VALUES (moment, coalesce(reached, 0) + units, units, item_name);
    RETURN NULL;
END
"""
# pyrate-limiter's format has a row per unit; its library locks the table, so this does too.
DECIDE_REFERENCE = """
DECLARE
    limits CONSTANT bigint[] := ARRAY[{limits}];
    intervals CONSTANT bigint[] := ARRAY[{intervals}];
    moment bigint; began bigint; start bigint; used bigint; blocking bigint;
BEGIN
    {guard}
    LOCK TABLE {table} IN EXCLUSIVE MODE;
    moment := coalesce(instant, {clock});
    began := moment;
    FOR i IN 1..{rates} LOOP
        start := moment - {width};
        SELECT count(*) INTO used FROM {table} e WHERE e.item_timestamp >= to_timestamp(start::float8 / 1000);
        CONTINUE WHEN units <= limits[i] - used;
        IF units > limits[i] THEN
            RETURN ARRAY[i, -1];
        END IF;
        {fixed_wait}
        SELECT (extract(epoch FROM e.item_timestamp::timestamptz) * 1000)::bigint INTO blocking FROM {table} e
        ORDER BY e.item_timestamp DESC LIMIT 1 OFFSET limits[i] - units;
        RETURN ARRAY[i, coalesce(blocking + intervals[i] - moment + 1, 0)];
    END LOOP;
    INSERT INTO {table} (name, weight, item_timestamp)
    SELECT item_name, least(units, 32767), to_timestamp(moment::float8 / 1000) FROM generate_series(1, units);
    IF prune THEN
        DELETE FROM {table} e
        WHERE e.item_timestamp < to_timestamp((moment - intervals[{rates}])::float8 / 1000);
    END IF;
    RETURN NULL;
END
"""
FUNCTION = """CREATE FUNCTION {function} (units bigint, item_name text, instant bigint, prune boolean, {arguments})
RETURNS bigint[] LANGUAGE plpgsql AS {body}"""

# What else is asked of a table: in our format, and in the reference's.
LAST = "(SELECT e.total FROM {table} e ORDER BY e.item_timestamp DESC, e.total DESC LIMIT 1)"
FIRST = "(SELECT e.total - e.weight FROM {table} e ORDER BY e.item_timestamp, e.total LIMIT 1)"
SINCE = """coalesce({last} - (SELECT e.total - e.weight FROM {table} e WHERE e.item_timestamp >= {since}
ORDER BY e.item_timestamp, e.total LIMIT 1), 0)"""
ENTRY = "SELECT name, item_timestamp, weight FROM {table} WHERE"
OURS = {
    "count": f"SELECT {SINCE}",
    "leak": "WITH gone AS (DELETE FROM {table} WHERE item_timestamp < {since} RETURNING weight)"
    " SELECT coalesce(sum(weight), 0)::bigint FROM gone",
    "newest": f"{ENTRY} total >= {LAST} - %s::bigint AND {LAST} - %s::bigint > {FIRST} ORDER BY 2, total LIMIT 1",
    "oldest": f"{ENTRY} total >= {FIRST} + %s::bigint ORDER BY 2, total LIMIT 1",
    "fill": "INSERT INTO {table} VALUES ({clock}, {most}, {most}, 'lost')",
}
THEIRS_ENTRY = "SELECT name, (extract(epoch FROM item_timestamp::timestamptz) * 1000)::bigint, weight FROM {table}"
THEIRS = {
    "count": "SELECT (SELECT count(*) FROM {table} WHERE item_timestamp >= {since})",
    "leak": "WITH gone AS (DELETE FROM {table} WHERE item_timestamp < {since} RETURNING 1) SELECT count(*) FROM gone",
    "newest": f"{THEIRS_ENTRY} WHERE %s::bigint >= 0 ORDER BY item_timestamp DESC LIMIT 1 OFFSET %s",
    "oldest": f"{THEIRS_ENTRY} ORDER BY item_timestamp LIMIT 1 OFFSET %s - 1",
    "fill": "INSERT INTO {table} SELECT 'lost', 1, to_timestamp({clock}::float8 / 1000)"
    " FROM generate_series(1, {most})",
}
# Milliseconds until one rate has room for so many units.
WAIT = """CASE WHEN {used} + {units} > {limit} THEN (SELECT e.item_timestamp FROM {table} e
WHERE e.item_timestamp >= {since} AND e.total >= {last} - {limit} + {units}
ORDER BY e.item_timestamp, e.total LIMIT 1) + {interval} + 1 - {clock} ELSE 0 END"""


def advisory_lock_id(table: str) -> int:
    """The advisory lock under which a table is made, the same in every process and for pyrate-limiter."""
    return zlib.crc32(table.encode()) & 0x7FFFFFFF


@dataclass(frozen=True)
class Statements:
    """What a bucket says to the server; `put` takes weight and name, `put_at` the time as well."""

    put: str
    put_and_prune: str
    put_at: str
    count: str
    count_since: str
    used: str
    wait: str
    leak: str
    leak_at: str
    newest: str
    oldest: str
    fill: str
    flush: str
    reference: bool
    made: bool


Terms = Sequence[tuple[int, int]]
Steps = Generator[tuple[str, "tuple[Any, ...] | None"], "list[Any]", Statements]


def identifier(name: str) -> str:
    """A name as an identifier, whatever it consists of."""
    from psycopg import sql

    return sql.Identifier(name).as_string(None)


def checked(table: str) -> str:
    """The table's real name. Raises TypeError or ValueError for one that PostgreSQL cannot have, or would cut off."""
    if not isinstance(table, str):
        raise TypeError(f"table must be a string, got {table!r}")
    name = PREFIX + table.lower()
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"table must be Unicode text without surrogates, got {table!r}") from error
    if "\0" in name or size > LONGEST:
        raise ValueError(f"table must be at most {LONGEST - len(PREFIX)} bytes without NUL, got {table!r}")
    return name


def set_up(name: str, terms: Terms, fixed: bool, reference: bool, full: bool) -> Steps:
    """Find the table, make it, or take it over; and make the function. Yields statements, within one transaction.

    Arguments: name, the table's; terms, limit and interval of each rate; fixed, whether windows are; reference, whether
    to leave or make it in pyrate-limiter's format; full, whether one that has to be made is to leave no room.

    Raises ValueError for a table in another format.
    """
    plain = identifier(name)
    yield "SELECT pg_advisory_xact_lock(%s)", (advisory_lock_id(name),)
    found = yield KIND, (plain,)
    made = not found
    if found:
        schema, comment, columns = found[0]
    else:
        schema, comment, columns = (yield "SELECT current_schema()", None)[0][0], None, []
        if schema is None:
            raise ValueError(f"there is no schema to make the table {name!r} in: set search_path")
    table = f"{identifier(schema)}.{plain}"
    mark = re.fullmatch(re.escape(COMMENT).replace(r"\{\}", r"(\d+)"), comment or "")
    if mark and int(mark[1]) != FORMAT:
        raise ValueError(
            f"table {name!r} is in format {mark[1]} of aiolimiter_fast; this release knows format {FORMAT}: update it"
        )
    if found and not mark and sorted(columns) != ["item_timestamp", "name", "weight"]:
        raise ValueError(f"table {name!r} holds something else: its columns are {columns}")
    reference = reference and not mark
    if made and reference:
        yield REFERENCE_TABLE.format(table=table), None
        index = identifier("timestampindex_" + name[len(PREFIX) :])
        yield REFERENCE_INDEX.format(index=index, table=table), None
    elif made or (not mark and not reference):
        former = f"{identifier(schema)}.{identifier('aiolimiter_fast_former')}"
        if found:
            yield f"ALTER TABLE {table} RENAME TO {identifier('aiolimiter_fast_former')}", None
        yield TABLE.format(table=table), None
        yield f"COMMENT ON TABLE {table} IS '{COMMENT.format(FORMAT)}'", None
        if found:
            yield TAKE_OVER.format(table=table, former=former), None
            yield f"DROP TABLE {former}", None
    function, body = written(schema, table, len(terms), fixed, reference)
    if not (yield KNOWN, (schema, function)):
        from psycopg import sql

        arguments = ", ".join(f"limit{i} bigint, interval{i} bigint" for i in range(1, len(terms) + 1))
        named = f"{identifier(schema)}.{identifier(function)}"
        quoted = sql.Literal(body).as_string(None)
        yield FUNCTION.format(function=named, arguments=arguments, body=quoted), None
    said = statements(f"{identifier(schema)}.{identifier(function)}", table, terms, fixed, reference, made)
    if made and full:
        yield said.fill, ()
    return said


def written(schema: str, table: str, rates: int, fixed: bool, reference: bool) -> tuple[str, str]:
    """Name and body of the function for so many rates. The name tells the body, so releases do not replace theirs."""
    numbers = range(1, rates + 1)
    key = int.from_bytes(hashlib.sha256(f"aiolimiter_fast {table}".encode()).digest()[:8], "big", signed=True)
    starts = {i: f"moment - {'{0}moment % ' if fixed else ''}interval{i}" for i in numbers}
    room = " AND ".join(
        f"l.total + units <= limit{i} + coalesce((SELECT e.total - e.weight FROM {table} e WHERE e.item_timestamp >="
        f" l.{start.format('l.')} ORDER BY e.item_timestamp, e.total LIMIT 1), l.total)"
        for i, start in starts.items()
    )
    body = (DECIDE_REFERENCE if reference else DECIDE).format(
        table=table,
        key=key,
        guard=GUARD,
        clock=CLOCK,
        ahead=AHEAD,
        few=FEW,
        rates=rates,
        room=room,
        limits=", ".join(f"limit{i}" for i in numbers),
        intervals=", ".join(f"interval{i}" for i in numbers),
        all_starts=", ".join(start.format("") for start in starts.values()),
        width="moment % intervals[i]" if fixed else "intervals[i]",
        fixed_wait=FIXED_WAIT if fixed else "",
    )
    return "aiolimiter_fast_" + hashlib.sha256(f"{schema} {body}".encode()).hexdigest()[:24], body


def statements(function: str, table: str, terms: Terms, fixed: bool, reference: bool, made: bool) -> Statements:
    """What to say to the server, always with parameters: a percent sign is doubled."""
    function, table = function.replace("%", "%%"), table.replace("%", "%%")
    rates = ", ".join(f"{limit}, {interval}" for limit, interval in terms)

    def call(instant: str, prune: str) -> str:
        return f"SELECT {function}(%s::bigint, %s::text, {instant}, {prune}, {rates})"

    starts = [f"({CLOCK} - {f'{CLOCK} %% {interval}' if fixed else interval})" for _, interval in terms]
    waits = [
        f"{interval} - {CLOCK} %% {interval}"
        if fixed
        else WAIT.format(
            used=SINCE.format(last=LAST, table="{table}", since=start), last=LAST, table="{table}", since=start,
            units="%(units)s", limit=limit, interval=interval, clock=CLOCK,
        )
        for start, (limit, interval) in zip(starts, terms, strict=True)
    ]  # fmt: skip

    def since(moment: str) -> str:
        return f"to_timestamp(({moment})::float8 / 1000)" if reference else moment

    texts = THEIRS if reference else OURS

    def text(name: str, moment: str = "") -> str:
        filled = texts[name].replace("{last}", LAST).replace("{since}", moment).replace("{clock}", CLOCK)
        return filled.replace("{most}", str(terms[-1][0])).replace("{table}", table)

    earliest = since(f"least({', '.join(starts)})")
    return Statements(
        put=call("NULL", "false"),
        put_and_prune=call("NULL", "true"),
        put_at=call("%s::bigint", "%s"),
        count=text("count", "'-infinity'" if reference else "-9223372036854775808"),
        count_since=text("count", earliest),
        used="SELECT " + ", ".join(text("count", since(start)).removeprefix("SELECT ") for start in starts),
        wait=f"SELECT greatest({', '.join(waits)})".replace("{table}", table),
        leak=text("leak", earliest),
        leak_at=text("leak", since("%s::bigint")),
        newest=text("newest"),
        oldest=text("oldest"),
        fill=text("fill"),
        flush=f"DELETE FROM {table}",
        reference=reference,
        made=made,
    )
