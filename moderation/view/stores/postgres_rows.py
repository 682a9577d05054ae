"""The rows of one generation of the view in PostgreSQL. `verdicts` is the name of its table, which is always ours.

What SQLite shares is in statements.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moderation.view.stores import Entry, LookupRow, Page, Query, statements
from moderation.view.stores.statements import IS_ERASED, POSTGRES


async def put(db: Any, verdicts: str, entries: Sequence[Entry]) -> None:
    """Writes each entry that is newer than the row of its post."""
    if columns := list(zip(*_newest(entries), strict=True)):
        await db.execute(_UPSERT.format(table=verdicts), *columns)


async def tenants(db: Any, verdicts: str, post_ids: Sequence[str]) -> dict[str, str]:
    """Returns the tenants by post id."""
    return dict(await db.fetch(_TENANTS.format(table=verdicts), post_ids))


async def find(db: Any, verdicts: str, post_ids: Sequence[str]) -> dict[str, LookupRow]:
    """Returns the rows by post id. Posts without a row are left out."""
    return {row[0]: tuple(row)[1:] for row in await db.fetch(_FIND.format(table=verdicts), post_ids)}


async def since(db: Any, verdicts: str, partition: int, offsets: tuple[int, int], limit: int) -> list[Entry]:
    """See stores.Store."""
    return [Entry(*row) for row in await db.fetch(_SINCE.format(table=verdicts), partition, *offsets, limit)]


async def prune(db: Any, verdicts: str, partition: int, before_ms: int, limit: int) -> int:
    """Deletes posts of a partition whose record is older. Returns how many."""
    return _count(await db.execute(_PRUNE.format(table=verdicts), partition, limit, before_ms))


async def prune_erased(db: Any, verdicts: str, before_ms: int, limit: int) -> int:
    """Deletes erasures that are older. Returns how many."""
    return _count(await db.execute(_PRUNE_ERASED.format(table=verdicts), before_ms, limit))


async def page(db: Any, verdicts: str, query: Query) -> Page:
    """See stores.Store."""
    listing = statements.Listing(POSTGRES, verdicts, query)
    scan_end = None
    if query.filters:
        statement, values = listing.scan_end()
        scan_end = await db.fetchrow(statement, *values)
    statement, values = listing.page(scan_end)
    return listing.result(await db.fetch(statement, *values), scan_end)


def _count(status: str) -> int:
    """How many rows a statement has changed. `status` is the server's, such as "DELETE 12"."""
    return int(status.rpartition(" ")[2])


def _newest(entries: Sequence[Entry]) -> list[Entry]:
    """One entry for each post: a statement may not change a row twice."""
    newest: dict[str, Entry] = {}
    for entry in entries:
        known = newest.get(entry.post_id)
        if known is None or statements.is_newer(entry, known):
            newest[entry.post_id] = entry
    return list(newest.values())


_ARRAYS = ", ".join(f"${number}::{POSTGRES.types[type]}[]" for number, (_, type) in enumerate(statements.COLUMNS, 1))
_UPSERT = statements.upsert("{table}", f"SELECT * FROM unnest({_ARRAYS})")
_FIND = statements.find(POSTGRES, "{table}")
_SINCE = statements.since(POSTGRES, "{table}")
_PRUNE = """
    DELETE FROM {table} WHERE post_id IN (
        SELECT post_id FROM (
            SELECT post_id, at_ms FROM {table} WHERE at_partition = $1 ORDER BY at_offset LIMIT $2) AS oldest
        WHERE at_ms < $3)"""
_PRUNE_ERASED = f"""
    DELETE FROM {{table}} WHERE post_id IN (
        SELECT post_id FROM {{table}} WHERE {IS_ERASED} AND at_ms < $1 LIMIT $2)"""
_TENANTS = "SELECT post_id, tenant FROM {table} WHERE post_id = ANY($1)"
