"""The statements of the view in SQLite (sqlite.py), and which rows they go over."""

from __future__ import annotations

from moderation.view.stores import Query

APPLICATION_ID = 0x6D6F6476  # in the file's header: so that we never take another program's database for ours
FORMAT = 4  # of the file; another one is rebuilt

_COLUMNS = (
    "post_id, kind, at_partition, at_offset, at_ms, source_partition, source_offset, "
    "tenant, outcome, policy, decided_ms, verdict"
)
CREATE = (
    f"PRAGMA application_id={APPLICATION_ID}",
    f"PRAGMA user_version={FORMAT}",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE partitions (number INTEGER PRIMARY KEY, next INTEGER NOT NULL, judged INTEGER NOT NULL)",
    """CREATE TABLE verdicts (
        post_id TEXT PRIMARY KEY, kind INTEGER NOT NULL,
        at_partition INTEGER NOT NULL, at_offset INTEGER NOT NULL, at_ms INTEGER NOT NULL,
        source_partition INTEGER NOT NULL, source_offset INTEGER NOT NULL,
        tenant TEXT NOT NULL, outcome INTEGER NOT NULL, policy TEXT NOT NULL, decided_ms INTEGER NOT NULL,
        verdict BLOB)""",
    "CREATE INDEX by_place ON verdicts (at_partition, at_offset)",
    "CREATE INDEX by_age ON verdicts (at_ms) WHERE kind <> 3",
    "CREATE INDEX by_time ON verdicts (decided_ms, post_id) WHERE kind = 1",
    "CREATE INDEX by_tenant ON verdicts (tenant, decided_ms, post_id) WHERE kind = 1",
    "CREATE INDEX erased ON verdicts (at_ms) WHERE kind = 3",
)
# Offsets order the records of a partition. After partitions were added a post may change its partition: then time does.
UPSERT = f"""
    INSERT INTO verdicts ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (post_id) DO UPDATE
    SET kind = excluded.kind, at_partition = excluded.at_partition, at_offset = excluded.at_offset,
        at_ms = excluded.at_ms, source_partition = excluded.source_partition, source_offset = excluded.source_offset,
        tenant = CASE excluded.kind WHEN 3 THEN verdicts.tenant ELSE excluded.tenant END,
        outcome = excluded.outcome, policy = excluded.policy, decided_ms = excluded.decided_ms,
        verdict = excluded.verdict
    WHERE CASE at_partition WHEN excluded.at_partition THEN at_offset < excluded.at_offset
          ELSE at_ms < excluded.at_ms END"""
SUPERSEDE = """
    DELETE FROM verdicts WHERE post_id = :post_id
    AND CASE at_partition WHEN :partition THEN at_offset < :offset ELSE at_ms < :ms END"""
FIND_ONE = "SELECT kind, tenant, source_partition, source_offset, verdict FROM verdicts WHERE post_id = ?"
FIND = """
    SELECT post_id, kind, tenant, source_partition, source_offset, verdict FROM verdicts
    WHERE post_id IN (SELECT value FROM json_each(?))"""
LENGTHS = """
    SELECT post_id, length(verdict) FROM verdicts
    WHERE post_id IN (SELECT value FROM json_each(?)) AND length(verdict) > ?"""
SINCE = f"""
    SELECT {_COLUMNS} FROM verdicts WHERE at_partition = ? AND at_offset >= ? AND at_offset < ?
    ORDER BY at_offset LIMIT ?"""
OLDEST = """
    SELECT rowid, at_ms, coalesce(length(verdict), 0) FROM verdicts WHERE kind <> 3 AND at_ms < ?
    ORDER BY at_ms LIMIT ?"""
ERASED = "SELECT rowid, at_ms, 0 FROM verdicts WHERE kind = 3 AND at_ms < ? ORDER BY at_ms LIMIT ?"
_ORDER = "ORDER BY decided_ms DESC, post_id DESC"
EDGE = "SELECT decided_ms, post_id FROM verdicts WHERE {scope} " + _ORDER + " LIMIT 1 OFFSET {scanned}"
PAGE = "SELECT decided_ms, post_id, verdict FROM verdicts WHERE {scope} " + _ORDER + " LIMIT :most"


def scope(query: Query) -> tuple[str, dict[str, object]]:
    """The rows that a listing goes over, in one stretch of an index, and the values of the parameters."""
    found = "kind = 1 AND decided_ms >= :from AND decided_ms < :before AND (decided_ms, post_id) < (:at_ms, :at_id)"
    values: dict[str, object] = {
        "from": query.from_ms,
        "before": query.before_ms,
        "at_ms": query.after[0],
        "at_id": query.after[1],
        "most": query.most,
    }
    if query.tenant is None:
        return found, values
    return f"tenant = :tenant AND {found}", values | {"tenant": query.tenant}
