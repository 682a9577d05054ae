"""The statements of the view in SQLite (sqlite.py). What PostgreSQL shares is in statements.py."""

from __future__ import annotations

from moderation.view.stores import statements
from moderation.view.stores.statements import IS_ERASED, IS_NOT_ERASED, SQLITE

APPLICATION_ID = 0x6D6F6476  # in the file's header: so that another program's database is never taken for a view
FORMAT = 7  # of the file; a file of another format is rebuilt

CREATE = (
    f"PRAGMA application_id={APPLICATION_ID}",
    f"PRAGMA user_version={FORMAT}",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE partitions ("
    "number INTEGER PRIMARY KEY, next INTEGER NOT NULL, decided INTEGER NOT NULL, posts_id TEXT NOT NULL)",
    statements.create_table(SQLITE, "verdicts"),
    *(f"CREATE INDEX {name} ON verdicts {columns}" for name, columns in statements.INDEXES.items()),
    f"CREATE INDEX by_age ON verdicts (at_ms) WHERE {IS_NOT_ERASED}",
)
UPSERT = statements.upsert("verdicts", f"VALUES ({', '.join('?' * len(statements.COLUMNS))})")
SUPERSEDE = f"""
    DELETE FROM verdicts AS known
    WHERE post_id = :post_id AND {statements.is_older(":partition", ":offset", ":rank")}"""
FIND_ONE = f"SELECT {statements.LOOKUP_NAMES} FROM verdicts WHERE post_id = ?"
FIND = statements.find(SQLITE, "verdicts")
SINCE = statements.since(SQLITE, "verdicts")
LENGTHS = """
    SELECT post_id, length(verdict) FROM verdicts
    WHERE post_id IN (SELECT value FROM json_each(?)) AND length(verdict) > ?"""
OLDEST = f"""
    SELECT rowid, at_ms, coalesce(length(verdict), 0) FROM verdicts WHERE {IS_NOT_ERASED} AND at_ms < ?
    ORDER BY at_ms LIMIT ?"""
OLDEST_ERASED = f"SELECT rowid, at_ms, 0 FROM verdicts WHERE {IS_ERASED} AND at_ms < ? ORDER BY at_ms LIMIT ?"
