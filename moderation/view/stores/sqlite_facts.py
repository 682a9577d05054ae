"""What a view's file says about itself: its log, its positions, and whether it can be continued."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping

import moderation
from moderation.errors import ConfigError
from moderation.view.stores import MAX_AWAY_S, Log, Progress
from moderation.view.stores.sqlite_budget import PAGE
from moderation.view.stores.sqlite_statements import APPLICATION_ID, FORMAT
from moderation.view.stores.statements import IS_UNREADABLE

CLOCK_S = 60.0  # that a clock may be set back
RECREATED = "the topic was created again"


def unusable(db: sqlite3.Connection, log: Log, max_pages: int) -> str:
    """Returns why the file cannot be continued, or the empty string. Raises ConfigError for another program's file."""
    if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return "new"
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        path = db.execute("PRAGMA database_list").fetchone()[2]
        raise ConfigError(f"MODERATION_API__VIEW: {path} is another program's database: name another file")
    if db.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
        return "another schema"
    facts = dict(db.execute("SELECT name, value FROM facts"))
    for name, value in (("cluster_id", log.cluster_id), ("topic", log.topic)):
        if facts.get(name) != value:
            return f"another {name}"
    if log.topic_id and facts.get("topic_id", "") not in ("", log.topic_id):
        return RECREATED
    if any(at.next > log.ends.get(number, 0) for number, at in progress(db).items()):
        return "the log ends before our position"  # without ids, a topic that was created again and is longer passes
    # A view that has read the whole log has missed nothing. A time in the future comes from a clock that was wrong.
    away_s = time.time() - float(facts.get("seen", 0))
    if not -CLOCK_S <= away_s <= MAX_AWAY_S and log.has_unread(progress(db)):
        return "erasures may have been missed"
    unreadable = db.execute(f"SELECT count(*) FROM verdicts WHERE {IS_UNREADABLE}").fetchone()[0]
    if unreadable and facts["engine_version"] != moderation.__version__:
        return "this version may read what the last one could not"
    pages, size = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if pages * size > max_pages * PAGE:
        return "the file is larger than its bound"
    return ""


def progress(db: sqlite3.Connection) -> dict[int, Progress]:
    """Returns the positions by partition."""
    rows = db.execute("SELECT number, next, decided, posts_id FROM partitions")
    return {number: Progress(*at) for number, *at in rows}


def remember(db: sqlite3.Connection, facts: Mapping[str, str]) -> None:
    """Writes facts. They replace those of the same name."""
    db.executemany(
        "INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", facts.items()
    )


def seen(age_s: float = 0.0) -> dict[str, str]:
    """Returns the fact that the view had read all of its log `age_s` seconds ago."""
    return {"seen": str(time.time() - age_s)}
