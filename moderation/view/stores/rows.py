"""The rows of one generation of the view in PostgreSQL. `verdicts` is the name of its table, which is always ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moderation.view.stores import SCANNED, Entry, Page, Query, Row


async def put(db: Any, verdicts: str, entries: Sequence[Entry]) -> None:
    """Each that is newer than what is there."""
    if columns := list(zip(*_latest(entries), strict=True)):
        await db.execute(_UPSERT.format(table=verdicts), *columns)


async def tenants(db: Any, verdicts: str, post_ids: Sequence[str]) -> dict[str, str]:
    """By post id."""
    return dict(await db.fetch(_TENANTS.format(table=verdicts), post_ids))


async def find(db: Any, verdicts: str, post_ids: Sequence[str]) -> dict[str, Row]:
    """By post id. What is not there is left out."""
    return {row[0]: tuple(row)[1:] for row in await db.fetch(_FIND.format(table=verdicts), post_ids)}


async def since(db: Any, verdicts: str, partition: int, offsets: tuple[int, int], most: int) -> list[Entry]:
    """See stores.Store."""
    return [Entry(*row) for row in await db.fetch(_SINCE.format(table=verdicts), partition, *offsets, most)]


async def prune(db: Any, verdicts: str, partition: int, before_ms: int, most: int) -> int:
    """Forgets posts of a partition whose record is older. Returns how many."""
    return _count(await db.execute(_PRUNE.format(table=verdicts), partition, most, before_ms))


async def prune_erased(db: Any, verdicts: str, before_ms: int, most: int) -> int:
    """Forgets erasures that are older. Returns how many."""
    return _count(await db.execute(_PRUNE_ERASED.format(table=verdicts), before_ms, most))


async def page(db: Any, verdicts: str, query: Query) -> Page:
    """See stores.Store."""
    scope, values = _scope(query)
    end: tuple[int, str] | None = None
    if query.filters:
        edge = f"SELECT decided_ms, post_id FROM {verdicts} WHERE {scope} {_ORDER} LIMIT 1 OFFSET {SCANNED}"
        if found := await db.fetchrow(edge, *values):
            end = found[0], found[1]
            scope += f" AND (decided_ms, post_id) >= (${len(values) + 1}, ${len(values) + 2})"
            values += end
    for column, wanted in (("outcome", query.outcomes), ("policy", query.policies)):
        if wanted:
            values.append(wanted)
            scope += f" AND {column} = ANY(${len(values)})"
    read = f"SELECT decided_ms, post_id, verdict FROM {verdicts} WHERE {scope} {_ORDER} LIMIT {query.most}"
    rows = await db.fetch(read, *values)
    after = (rows[-1][0], rows[-1][1]) if len(rows) == query.most else end
    return Page([row[2] for row in rows], after)


def _count(status: str) -> int:
    """Of the rows that a statement has changed, as the server says it: "DELETE 12"."""
    return int(status.rpartition(" ")[2])


def _latest(entries: Sequence[Entry]) -> list[Entry]:
    """One for each post: a statement may not change a row twice."""
    latest: dict[str, Entry] = {}
    for entry in entries:
        known = latest.get(entry.post_id)
        if known is None or (
            known.offset < entry.offset if known.partition == entry.partition else known.ms < entry.ms
        ):
            latest[entry.post_id] = entry
    return list(latest.values())


_COLUMNS = (
    "post_id, kind, at_partition, at_offset, at_ms, source_partition, source_offset, "
    "tenant, outcome, policy, decided_ms, verdict"
)
_UPSERT = f"""
    INSERT INTO {{table}} AS known ({_COLUMNS})
    SELECT * FROM unnest($1::text[], $2::smallint[], $3::int[], $4::bigint[], $5::bigint[], $6::int[], $7::bigint[],
                         $8::text[], $9::smallint[], $10::text[], $11::bigint[], $12::bytea[])
    ON CONFLICT (post_id) DO UPDATE
    SET kind = excluded.kind, at_partition = excluded.at_partition, at_offset = excluded.at_offset,
        at_ms = excluded.at_ms, source_partition = excluded.source_partition, source_offset = excluded.source_offset,
        tenant = CASE excluded.kind WHEN 3 THEN known.tenant ELSE excluded.tenant END,
        outcome = excluded.outcome, policy = excluded.policy, decided_ms = excluded.decided_ms,
        verdict = excluded.verdict
    WHERE CASE WHEN known.at_partition = excluded.at_partition THEN known.at_offset < excluded.at_offset
          ELSE known.at_ms < excluded.at_ms END"""
_FIND = """
    SELECT post_id, kind, tenant, source_partition, source_offset, verdict FROM {table}
    WHERE post_id = ANY($1::text[])"""
_SINCE = f"""
    SELECT {_COLUMNS} FROM {{table}} WHERE at_partition = $1 AND at_offset >= $2 AND at_offset < $3
    ORDER BY at_offset LIMIT $4"""
_PRUNE = """
    DELETE FROM {table} WHERE post_id IN (
        SELECT post_id FROM (
            SELECT post_id, at_ms FROM {table} WHERE at_partition = $1 ORDER BY at_offset LIMIT $2) AS oldest
        WHERE at_ms < $3)"""
_PRUNE_ERASED = """
    DELETE FROM {table} WHERE post_id IN (SELECT post_id FROM {table} WHERE kind = 3 AND at_ms < $1 LIMIT $2)"""
_TENANTS = "SELECT post_id, tenant FROM {table} WHERE post_id = ANY($1)"
_ORDER = "ORDER BY decided_ms DESC, post_id DESC"


def _scope(query: Query) -> tuple[str, list[Any]]:
    """The rows that a listing goes over, in one stretch of an index."""
    scope = "kind = 1 AND decided_ms >= $1 AND decided_ms < $2 AND (decided_ms, post_id) < ($3, $4)"
    values: list[Any] = [query.from_ms, query.before_ms, *query.after]
    return (scope, values) if query.tenant is None else (f"tenant = $5 AND {scope}", [*values, query.tenant])
