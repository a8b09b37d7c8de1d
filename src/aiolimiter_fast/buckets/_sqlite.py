"""SQLite: the two formats in which a table holds what was admitted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["MOST", "ReferenceTable", "RunTable", "Table", "open_table", "quoted"]

# The format of RunTable. It stands in the table's own schema, so that it goes wherever the table goes.
FORMAT = 1
MARK = "aiolimiter_fast_"
# Units that the running total counts to before it begins anew; SQLite's integers go on until 2**63.
MOST = 1 << 62
# The time of day in milliseconds, the same wherever it stands in a statement.
NOW = "CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER)"
# Milliseconds by which SQLite's time may differ from that of the process where an item is entered by it.
AGREED = 1000
# Entries in a row that are looked at one by one, before a search is quicker.
FEW = 64
# Entries at most that one decision removes.
BATCH = 512


def quoted(name: str) -> str:
    """A name as an identifier, whatever it consists of. Raises TypeError or ValueError for what SQLite cannot have."""
    if not isinstance(name, str):
        raise TypeError(f"table must be a string, got {name!r}")
    if "\0" in name or name.lower().startswith("sqlite_"):
        raise ValueError(f"table must have no NUL and not begin with sqlite_, got {name!r}")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"table must be Unicode text without surrogates, got {name!r}") from error
    return '"' + name.replace('"', '""') + '"'


class Table:
    """What was admitted, in a table; its methods run within a transaction."""

    usage: str

    def __init__(self, name: str, rates: int, fixed: bool) -> None:
        self.name = quoted(name)
        self.fixed = fixed
        self.prepare(rates)

    def prepare(self, rates: int) -> None:
        """Write the statements; some look at the windows of so many rates."""
        raise NotImplementedError

    def use(self, execute: Any, starts: Sequence[int]) -> tuple[int | None, int, list[int]]:
        """The newest time stamp, None for an empty table; the running total, and the units since each start."""
        raise NotImplementedError

    def append(self, execute: Any, at: int, total: int, weight: int, name: str) -> None:
        """Enter an item at a time that is not before the newest."""
        raise NotImplementedError

    def time_of(self, execute: Any, offset: int, total: int, start: int, count: int) -> int | None:
        """The time stamp of the unit at `offset`, 0 the newest; it is among the `count` units since `start`."""
        raise NotImplementedError

    def unit(self, execute: Any, index: int) -> tuple[str, int, int] | None:
        """Name, time stamp and weight of the entry with the unit at `index`: 0 the newest, -1 the oldest."""
        raise NotImplementedError

    def count(self, execute: Any, since: int | None) -> int:
        """Units since a time, or all."""
        raise NotImplementedError

    def prune(self, execute: Any, bound: int) -> None:
        """Remove some of the entries before a time."""
        raise NotImplementedError

    def leak(self, execute: Any, bound: int) -> int:
        """Remove the entries before a time; say how many units."""
        units = self.count(execute, None) - self.count(execute, bound)
        if units:
            execute(f"DELETE FROM {self.name} WHERE item_timestamp < ?", (bound,))
        return units

    def redate(self, execute: Any, now: int) -> None:
        """Let nothing be later than now."""
        execute(f"UPDATE {self.name} SET item_timestamp = ?1 WHERE item_timestamp > ?1", (now,))

    def flush(self, execute: Any) -> None:
        execute(f"DELETE FROM {self.name}")


class RunTable(Table):
    """Our format: an entry per item, with the running total of all weights up to it.

    Entries are in order of time and of total alike, so the units since any time are the difference of two totals, both
    found by the primary key.
    """

    @staticmethod
    def schema(name: str) -> tuple[str, ...]:
        return (
            f"CREATE TABLE {quoted(name)} (item_timestamp INTEGER NOT NULL, total INTEGER NOT NULL,"
            " weight INTEGER NOT NULL, name TEXT NOT NULL,"
            f" CONSTRAINT {MARK}{FORMAT} PRIMARY KEY (item_timestamp, total)) WITHOUT ROWID",
        )

    def prepare(self, rates: int) -> None:
        order, back = "ORDER BY item_timestamp, total LIMIT 1", "ORDER BY item_timestamp DESC, total DESC LIMIT 1"
        self.window = f"SELECT total - weight FROM {self.name} WHERE item_timestamp >= ? {order}"
        self.usage = (
            f"SELECT item_timestamp, total{''.join(f', ({self.window})' for _ in range(rates))} FROM {self.name} {back}"
        )
        self.insert = f"INSERT INTO {self.name} VALUES (?, ?, ?, ?)"
        self.newest = f"SELECT item_timestamp, total FROM {self.name} {back}"
        self.enter = self.entering(NOW, f"abs(now - ?3) < {AGREED} AND", rates)
        self.enter_at = self.entering("?3", "", rates)
        self.oldest = f"SELECT item_timestamp, total - weight FROM {self.name} {order}"
        self.reached = f"SELECT total FROM {self.name} WHERE item_timestamp <= ? {back}"
        self.next = f"SELECT item_timestamp FROM {self.name} WHERE item_timestamp >= ? AND total >= ? {order}"
        self.entry = (
            f"SELECT name, item_timestamp, weight FROM {self.name} WHERE item_timestamp >= ? AND total >= ? {order}"
        )
        self.delete = (
            f"DELETE FROM {self.name} WHERE item_timestamp < ?1 AND item_timestamp <= coalesce((SELECT item_timestamp"
            f" FROM {self.name} ORDER BY item_timestamp, total LIMIT 1 OFFSET {BATCH}), ?1)"
        )

    def entering(self, now: str, condition: str, rates: int) -> str:
        """Enter an item of weight ?1 and name ?2 if there is an entry already, none from the future, and room.

        Limits and intervals are ?4, ?5 and so on. Where the total is NULL nothing is entered. It is no INSERT SELECT,
        since for one from the table itself SQLite makes a temporary table.
        """
        base = f"SELECT total - weight FROM {self.name} WHERE item_timestamp >= now - {'now %' if self.fixed else ''}"
        windows = [
            f"coalesce(({base} ?{5 + 2 * i} ORDER BY item_timestamp, total LIMIT 1), total)" for i in range(rates)
        ]
        room = " AND ".join(f"total + ?1 <= ?{4 + 2 * i} + {window}" for i, window in enumerate(windows))
        if rates > 1 and not self.fixed:
            # There is for all rates if the longest window holds no more than the smallest limit. Fixed windows may
            # begin after those of shorter rates.
            room = f"(total + ?1 <= ?4 + {windows[-1]} OR {room})"
        return (
            f"INSERT OR IGNORE INTO {self.name} VALUES ({now}, (SELECT total + ?1 FROM"
            f" (SELECT item_timestamp, total, {now} AS now FROM {self.name}"
            " ORDER BY item_timestamp DESC, total DESC LIMIT 1)"
            f" WHERE {condition} item_timestamp <= now AND total < {MOST // 2} AND {room}), ?1, ?2)"
        )

    def use(self, execute: Any, starts: Sequence[int]) -> tuple[int | None, int, list[int]]:
        row = execute(self.usage, starts).fetchone()
        if row is None:
            return None, 0, [0] * len(starts)
        newest, total, *bases = row
        return newest, total, [0 if base is None else total - base for base in bases]

    def append(self, execute: Any, at: int, total: int, weight: int, name: str) -> None:
        if total + weight > MOST:
            total = self.rebase(execute, total, weight)
        execute(self.insert, (at, total + weight, weight, name))

    def rebase(self, execute: Any, total: int, weight: int) -> int:
        """Count the running total from the oldest entry on."""
        oldest = execute(self.oldest).fetchone()
        base = 0 if oldest is None else oldest[1]
        if total - base + weight > MOST:
            raise ValueError(f"weight must leave the table with at most {MOST} units, got {weight!r}")
        execute(f"UPDATE {self.name} SET total = total - ?", (base,))
        return int(total - base)

    def time_of(self, execute: Any, offset: int, total: int, start: int, count: int) -> int | None:
        if count - offset <= FEW:
            return int(execute(self.next, (start, total - offset)).fetchone()[0])
        return self.search(execute, total - offset, start)

    def search(self, execute: Any, position: int, low: int) -> int:
        """The time stamp at which the running total reached `position`, by halves."""
        high = execute(self.newest).fetchone()[0]
        while low < high:
            middle = (low + high) // 2
            reached = execute(self.reached, (middle,)).fetchone()
            if reached is not None and reached[0] >= position:
                high = middle
            else:
                low = middle + 1
        return int(low)

    def unit(self, execute: Any, index: int) -> tuple[str, int, int] | None:
        newest, oldest = execute(self.newest).fetchone(), execute(self.oldest).fetchone()
        if newest is None:
            return None
        position = newest[1] - index if index >= 0 else oldest[1] - index
        if not oldest[1] < position <= newest[1]:
            return None
        entry: tuple[str, int, int] = execute(
            self.entry, (self.search(execute, position, oldest[0]), position)
        ).fetchone()
        return entry

    def count(self, execute: Any, since: int | None) -> int:
        newest = execute(self.newest).fetchone()
        if newest is None:
            return 0
        if since is None:
            return int(newest[1] - execute(self.oldest).fetchone()[1])
        base = execute(self.window, (since,)).fetchone()
        return 0 if base is None else int(newest[1] - base[0])

    def prune(self, execute: Any, bound: int) -> None:
        if execute(self.oldest).fetchone()[0] < bound:
            execute(self.delete, (bound,))


class ReferenceTable(Table):
    """pyrate-limiter's format: a row per unit, with its name and its time stamp."""

    @staticmethod
    def schema(name: str) -> tuple[str, ...]:
        index = quoted(f"idx_{name}_rate_item_timestamp")
        return (
            f"CREATE TABLE {quoted(name)} (name VARCHAR, item_timestamp INTEGER)",
            f"CREATE INDEX IF NOT EXISTS {index} ON {quoted(name)} (item_timestamp)",
        )

    def prepare(self, rates: int) -> None:
        self.window = f"SELECT COUNT(*) FROM {self.name} WHERE item_timestamp >= ?"
        self.usage = f"SELECT MAX(item_timestamp), COUNT(rowid){''.join(f', ({self.window})' for _ in range(rates))}"
        self.usage += f" FROM {self.name}"
        self.insert = (
            "WITH RECURSIVE units(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM units WHERE number < ?3)"
            f" INSERT INTO {self.name} (name, item_timestamp) SELECT ?1, ?2 FROM units"
        )
        self.entry = f"SELECT name, item_timestamp, 1 FROM {self.name} ORDER BY item_timestamp"

    def use(self, execute: Any, starts: Sequence[int]) -> tuple[int | None, int, list[int]]:
        row = execute(self.usage, starts).fetchone()
        return row[0], row[1], list(row[2:])

    def append(self, execute: Any, at: int, total: int, weight: int, name: str) -> None:
        execute(self.insert, (name, at, weight))

    def time_of(self, execute: Any, offset: int, total: int, start: int, count: int) -> int | None:
        entry = self.unit(execute, offset)
        return None if entry is None else entry[1]

    def unit(self, execute: Any, index: int) -> tuple[str, int, int] | None:
        order, skipped = ("DESC", index) if index >= 0 else ("ASC", -1 - index)
        entry: tuple[str, int, int] | None = execute(
            f"{self.entry} {order} LIMIT 1 OFFSET ?", (min(skipped, MOST),)
        ).fetchone()
        return entry

    def count(self, execute: Any, since: int | None) -> int:
        if since is None:
            return int(execute(f"SELECT COUNT(*) FROM {self.name}").fetchone()[0])
        return int(execute(self.window, (since,)).fetchone()[0])

    def prune(self, execute: Any, bound: int) -> None:
        execute(f"DELETE FROM {self.name} WHERE item_timestamp < ?", (bound,))


def open_table(
    execute: Any, name: str, rates: int, fixed: bool, *, create: bool, reference: bool
) -> tuple[Table, bool]:
    """Find the table within a transaction that may write, or make it, or take over one in the reference's format.

    Returns it, and whether it was made.

    Arguments: fixed, whether windows are; create, whether to make one that is missing; reference, whether to leave or
    make it in the reference's format.

    Raises ValueError if it is missing, or in another format.
    """
    table = quoted(name)
    columns = [row[1] for row in execute(f"PRAGMA table_info({table})").fetchall()]
    if not columns:
        if not create:
            raise ValueError(f"there is no table {name!r}, and create_new_table is false")
        kind = ReferenceTable if reference else RunTable
        for statement in kind.schema(name):
            execute(statement)
        return kind(name, rates, fixed), True
    schema = execute("SELECT sql FROM sqlite_master WHERE name = ? COLLATE NOCASE", (name,)).fetchone()[0]
    mark = re.search(rf"CONSTRAINT {MARK}(\d+) PRIMARY KEY", schema)
    if mark and int(mark[1]) == FORMAT and columns == ["item_timestamp", "total", "weight", "name"]:
        return RunTable(name, rates, fixed), False
    if mark:
        raise ValueError(
            f"table {name!r} is in format {mark[1]} of aiolimiter_fast; this release knows format {FORMAT}: update it"
        )
    if sorted(columns) != ["item_timestamp", "name"]:
        raise ValueError(f"table {name!r} holds something else: its columns are {columns}")
    if reference:
        return ReferenceTable(name, rates, fixed), False
    _take_over(execute, name)
    return RunTable(name, rates, fixed), False


def _take_over(execute: Any, name: str) -> None:
    """Bring a table of the reference's format into ours; every unit goes on counting."""
    table, former = quoted(name), quoted(f"{name} (former)")
    execute(f"ALTER TABLE {table} RENAME TO {former}")
    execute(RunTable.schema(name)[0])
    execute(
        f"INSERT INTO {table} SELECT at, SUM(units) OVER (ORDER BY at, name), units, name FROM"
        " (SELECT CAST(item_timestamp AS INTEGER) AS at, COUNT(*) AS units, coalesce(CAST(name AS TEXT), '') AS name"
        f" FROM {former} WHERE item_timestamp IS NOT NULL GROUP BY 1, 3)"
    )
    execute(f"DROP TABLE {former}")
