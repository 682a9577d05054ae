"""What both stores share: the columns of the verdicts, the rule which record of a post wins, the orders, the queries.

A column is added in two places: here, and in stores.Entry, whose fields have the same order. What differs between
SQLite and PostgreSQL is a Dialect, or stands in the module of the store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from moderation.view.stores import SCANNED, VERDICT_BYTES, Kind, Page, Query


class Column(NamedTuple):
    """A column of the verdicts."""

    name: str
    type: str  # a key of Dialect.types


COLUMNS = (
    Column("post_id", "text"),
    Column("kind", "int16"),
    Column("at_partition", "int32"),
    Column("at_offset", "int64"),
    Column("at_ms", "int64"),
    Column("rank", "int64"),
    Column("source_partition", "int32"),
    Column("source_offset", "int64"),
    Column("tenant", "text"),
    Column("outcome", "int16"),
    Column("policy", "text"),
    Column("decided_ms", "int64"),
    Column("verdict", "bytes"),
)
NAMES = ", ".join(column.name for column in COLUMNS)
LOOKUP_NAMES = "kind, tenant, source_partition, source_offset, verdict"  # of a stores.LookupRow

IS_VERDICT = f"kind = {Kind.VERDICT:d}"
IS_UNREADABLE = f"kind = {Kind.UNREADABLE:d}"
IS_ERASED = f"kind = {Kind.ERASED:d}"
IS_NOT_ERASED = f"kind <> {Kind.ERASED:d}"
LATEST_FIRST = "ORDER BY decided_ms DESC, post_id DESC"

INDEXES = {  # by name: columns and, behind them, the condition
    "by_place": "(at_partition, at_offset)",
    "by_time": f"(decided_ms, post_id) WHERE {IS_VERDICT}",
    "by_tenant": f"(tenant, decided_ms, post_id) WHERE {IS_VERDICT}",
    "erased": f"(at_ms) WHERE {IS_ERASED}",
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a database spells what both stores say."""

    types: Mapping[str, str]  # by Column.type
    key: str  # type and constraints of post_id
    parameter: str  # its number stands in the braces, where there are any
    any_of: str  # condition: is among the values of the parameter in the braces
    array: Callable[[Sequence[Any]], object]  # several values as one parameter


SQLITE = Dialect(
    types={"text": "TEXT", "bytes": "BLOB", **dict.fromkeys(("int16", "int32", "int64"), "INTEGER")},
    key="TEXT PRIMARY KEY",
    parameter="?",
    any_of="IN (SELECT value FROM json_each({}))",
    array=json.dumps,
)
POSTGRES = Dialect(
    types={"text": "text", "bytes": "bytea", "int16": "smallint", "int32": "int", "int64": "bigint"},
    key='text COLLATE "C" PRIMARY KEY',
    parameter="${}",
    any_of="= ANY({})",
    array=list,
)


class Placed(Protocol):
    """A record's place on the topic."""

    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def rank(self) -> int: ...


def is_newer(record: Placed, known: Placed) -> bool:
    """Whether a record of a post wins over the known record.

    Offsets order the records of a partition. Posts under one id may lie in several partitions, if producers use
    different partitioners or partitions were added. Then the later post or erasure wins, and not the one that was
    judged later: partitions have different backlogs. A record that is read again wins over itself.

    Each partition's last record is right for its own posts (worker/erasures.py). So a view that was built from what
    compaction has left says the same as one that has read everything.
    """
    if known.partition == record.partition:
        return known.offset <= record.offset
    return (known.rank, known.partition) < (record.rank, record.partition)


def is_older(partition: str, offset: str, rank: str) -> str:
    """The condition that a row, named `known`, is older than a record. The arguments are SQL expressions.

    Same rule as `is_newer`, except that a record that is read again changes nothing.
    """
    return (
        f"CASE WHEN known.at_partition = {partition} THEN known.at_offset < {offset} WHEN known.rank = {rank} "
        f"THEN known.at_partition < {partition} ELSE known.rank < {rank} END"
    )


def create_table(dialect: Dialect, table: str) -> str:
    """The statement that makes the table of verdicts."""
    types = {name: f"{dialect.types[type]} NOT NULL" for name, type in COLUMNS}
    types |= {"post_id": dialect.key, "verdict": dialect.types["bytes"]}
    return f"CREATE TABLE {table} ({', '.join(f'{name} {type}' for name, type in types.items())})"


def upsert(table: str, source: str) -> str:
    """The statement that writes entries, each if it is newer than the row of its post. `source`: VALUES or a SELECT.

    An erasure keeps the tenant that the row had.
    """
    assignments = [f"{name} = excluded.{name}" for name, _ in COLUMNS if name not in ("post_id", "tenant")]
    assignments.append(f"tenant = CASE excluded.kind WHEN {Kind.ERASED:d} THEN known.tenant ELSE excluded.tenant END")
    condition = is_older("excluded.at_partition", "excluded.at_offset", "excluded.rank")
    return (
        f"INSERT INTO {table} AS known ({NAMES}) {source} "
        f"ON CONFLICT (post_id) DO UPDATE SET {', '.join(assignments)} WHERE {condition}"
    )


def find(dialect: Dialect, table: str) -> str:
    """The statement that reads post id and LOOKUP_NAMES of several posts. Parameter: a Dialect.array of post ids."""
    post_ids = dialect.any_of.format(dialect.parameter.format(1))
    return f"SELECT post_id, {LOOKUP_NAMES} FROM {table} WHERE post_id {post_ids}"


def since(dialect: Dialect, table: str) -> str:
    """The statement that reads entries in the order of their offsets. Parameters: partition, start, end, limit."""
    partition, start, end, limit = map(dialect.parameter.format, range(1, 5))
    return (
        f"SELECT {NAMES} FROM {table} WHERE at_partition = {partition} AND at_offset >= {start} AND at_offset < {end} "
        f"ORDER BY at_offset LIMIT {limit}"
    )


class Listing:
    """The statements of one page of a listing. Each goes over one stretch of an index, latest decision first."""

    def __init__(self, dialect: Dialect, table: str, query: Query) -> None:
        self._dialect = dialect
        self._table = table
        self._query = query
        self._values: list[object] = []
        where = [IS_VERDICT, f"decided_ms >= {self._add(query.from_ms)}", f"decided_ms < {self._add(query.before_ms)}"]
        where.append(f"(decided_ms, post_id) < ({self._add(query.after[0])}, {self._add(query.after[1])})")
        if query.tenant is not None:
            where.append(f"tenant = {self._add(query.tenant)}")
        self._where = where

    def scan_end(self) -> tuple[str, list[object]]:
        """The statement that finds the last row that this page may look at, and its values. No row: it may look at all.

        Needed where the query filters.
        """
        where = " AND ".join(self._where)
        read = f"SELECT decided_ms, post_id FROM {self._table} WHERE {where} {LATEST_FIRST} LIMIT 1 OFFSET {SCANNED}"
        return read, list(self._values)

    def page(self, scan_end: Sequence[Any] | None) -> tuple[str, list[object]]:
        """The statement that reads the page, and its values. `scan_end`: the row that the other statement has found."""
        if scan_end:
            self._where.append(f"(decided_ms, post_id) >= ({self._add(scan_end[0])}, {self._add(scan_end[1])})")
        for column, wanted in (("outcome", self._query.outcomes), ("policy", self._query.policies)):
            if wanted:
                parameter = self._add(self._dialect.array(wanted))
                self._where.append(f"{column} {self._dialect.any_of.format(parameter)}")
        where, limit = " AND ".join(self._where), self._query.limit
        read = f"SELECT decided_ms, post_id, verdict FROM {self._table} WHERE {where} {LATEST_FIRST} LIMIT {limit}"
        return read, list(self._values)

    def result(self, rows: Sequence[Sequence[Any]], scan_end: Sequence[Any] | None) -> Page:
        """The page, from the rows of both statements."""
        fitting = rows[: self._fitting(rows)]
        last = fitting[-1] if len(fitting) < len(rows) or len(rows) == self._query.limit else scan_end
        return Page([row[2] for row in fitting], (last[0], last[1]) if last else None)

    def _fitting(self, rows: Sequence[Sequence[Any]]) -> int:
        """How many of these rows the page has room for."""
        left = self._query.max_bytes
        for count, row in enumerate(rows):
            left -= len(row[2]) + VERDICT_BYTES
            if left < 0 and count:
                return count
        return len(rows)

    def _add(self, value: object) -> str:
        """Returns the value's parameter. The parameters stand in the statement in the order of these calls."""
        self._values.append(value)
        return self._dialect.parameter.format(len(self._values))
