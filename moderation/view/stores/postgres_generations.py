"""Generations of the view in PostgreSQL: one serves lookups, and another may be built at the same time.

A table that serves is never emptied. A view that has to be rebuilt becomes a new generation, with its own table and its
own positions. The new generation is filled while the old one serves, and then replaces it in one transaction. The old
table is dropped once no replica can still read it. At most one generation is built at a time. So a database holds at
most two views, and those that were replaced within the last minute.

Every function runs in a transaction of the caller. Functions that write need the turn (see postgres.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

import moderation
from moderation.view.stores import EVER_MS, MAX_AWAY_S, NO_PROGRESS, SCHEMA, Log, Progress, postgres_rights
from moderation.view.stores.statements import INDEXES, IS_ERASED, IS_UNREADABLE, POSTGRES, create_table

NAME = "moderation_view"  # of the schema, which all versions share. So CREATE on the database is needed once at most
# Each version of our tables has names of its own: two may be in use during a rollout. Of another version's tables, this
# one reads `seen` and `written` of the generations, and drops all (remove_outdated).
FACTS, GENERATIONS, PARTITIONS = (f"{NAME}.{kind}_{SCHEMA}" for kind in ("facts", "generations", "partitions"))
REPLACED_S = 60.0  # that a replaced table is kept: replicas use the new table within seconds
ABANDONED_S = 3600.0  # without a write, after which a generation that is built has no builder left
COPIED = 5_000  # tenants at a time: folds go on between two, and no statement takes long
FIRST = (-EVER_MS, "")  # before every erasure
ANOTHER_LOG = "the log ends before our position"
RECREATED = "the topic was created again"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Generation:
    """One table of verdicts, and its positions."""

    number: int
    log: int  # generations with the same number here are of the same log: their offsets can be compared
    topic_id: str  # of that log; empty: not known
    serving: bool  # False: it is being built
    version: str  # the oldest version of this program that may have left a record unreadable
    away_s: float  # seconds since a replica has read all of the log, by the database's clock
    progress: Mapping[int, Progress]  # by partition


def table(number: int) -> str:
    """Returns the name of a generation's table."""
    return f"{NAME}.verdicts_{SCHEMA}_{number}"


async def prepare(db: Any) -> None:
    """Creates what is missing of the schema and its tables. Raises ConfigError for a missing right."""
    if not await postgres_rights.check(db, NAME, SCHEMA):
        await db.execute(f"CREATE SCHEMA {NAME}")
    if await db.fetchval("SELECT to_regclass($1)", GENERATIONS) is None:
        for statement in _CREATE:
            await db.execute(statement)


async def live(db: Any) -> list[Generation]:
    """Returns the generation that serves, first, and the one that is built. Either may be missing."""
    by_number: dict[int, Generation] = {}
    for row in await db.fetch(_LIVE):
        number, log_number, topic_id, serving, version, away_s, partition, *at = row
        known = by_number.get(number) or Generation(number, log_number, topic_id, serving, version, away_s, {})
        progress = {partition: Progress(*at)} if partition is not None else {}
        by_number[number] = replace(known, progress={**known.progress, **progress})
    return list(by_number.values())


async def choose(db: Any, log_: Log, before: Mapping[int, Generation]) -> tuple[int, str]:
    """Returns the number of the generation to follow, and why it was created just now. Empty: it existed before.

    `before`: the generations by number, as they were before the ends of the log were asked for. Positions that are read
    later may be beyond these ends, without a fault. A generation that is not in `before` was created since then, by a
    replica that had a reason.
    """
    reason, log_number = "", 1
    for generation in await live(db):
        known = before.get(generation.number)
        problem = await _unusable(db, known, log_) if known else ""
        if not generation.serving and generation.log < log_number:
            problem = ANOTHER_LOG
        if not problem:
            await db.execute(_NAME_LOG, generation.number, log_.topic_id)
            return generation.number, ""
        if generation.serving:
            reason, log_number = problem, generation.log + (problem in (ANOTHER_LOG, RECREATED))
        else:
            await _drop(db, generation.number)
    number = await db.fetchval(_BEGIN, log_number, log_.topic_id, not reason, moderation.__version__)
    for statement in _CREATE_TABLE:
        await db.execute(statement.format(table=table(number)))
    return number, reason


async def add(db: Any, number: int, begins: Mapping[int, int]) -> None:
    """Adds partitions that the generation does not have yet. `begins`: their first offsets."""
    await db.executemany(_ADD, [(number, partition, begin) for partition, begin in begins.items()])


async def copy_tenants(db: Any, number: int, after: tuple[int, str]) -> tuple[int, str] | None:
    """Copies the tenants of the next COPIED erased posts from the generation that serves. Returns the next `after`.

    `after`: timestamp in ms and post id of the last erased post; FIRST at the start. None: all are copied.
    """
    known = {generation.number: generation for generation in await live(db)}
    new, old = known[number], _serving(known.values())
    if old is None or old is new or old.log != new.log:
        return None
    last = await db.fetchrow(_COPY_TENANTS.format(new=table(number), old=table(old.number)), *after, COPIED)
    return (last[0], last[1]) if last else None


async def switch(db: Any, number: int, copied: Mapping[int, int]) -> bool:
    """Makes a generation the one that serves. False: the serving generation is further, and nothing was changed.

    `copied`: by partition, the offset up to which erasures have their tenants (copy_tenants).
    """
    known = {generation.number: generation for generation in await live(db)}
    new, old = known[number], _serving(known.values())
    if new.serving:
        return True
    if old is not None and old.log == new.log:
        if any(at.next > new.progress.get(partition, NO_PROGRESS).next for partition, at in old.progress.items()):
            return False
        rest = _COPY_REST.format(new=table(number), old=table(old.number))
        await db.executemany(rest, [(partition, copied.get(partition, 0)) for partition in new.progress])
    if old is not None and (old.log == new.log or old.topic_id != new.topic_id):
        # A new verdicts topic has no outcomes of the posts that were judged before.
        await db.execute(_COPY_DECIDED, number, old.number)
    await db.execute(_RETIRE)
    await db.execute(_SERVE, number)
    log.info("view_switched", database=NAME, generation=number, before=old.number if old else None)
    return True


async def renew(db: Any, number: int, age_s: float) -> None:
    """Notes that a replica had read all of the log `age_s` seconds ago."""
    await db.execute(_RENEW, number, age_s)


async def removable(db: Any) -> list[int]:
    """Returns the numbers of generations that no replica reads: replaced REPLACED_S ago, or left half built."""
    return [row[0] for row in await db.fetch(_REMOVABLE, REPLACED_S, ABANDONED_S)]


async def remove(db: Any, number: int) -> None:
    """Drops a generation if it is still removable: its builder may have come back, and the generation may serve.

    Does not wait for readers: fails on a table that is still read. Try again later.
    """
    if number not in await removable(db):
        return
    await db.execute("SET LOCAL lock_timeout = '100ms'")
    await _drop(db, number)
    log.info("view_generation_removed", database=NAME, generation=number)


async def remove_outdated(db: Any) -> None:
    """Drops the tables of other versions of this program, once nobody uses them.

    They stay while a process of another version is connected, and for MAX_AWAY_S after its last write. A view that was
    away for longer has to be built again anyway. Does not wait for readers, as `remove`.
    """
    versions = [row[0] for row in await db.fetch(_OTHER_VERSIONS, NAME, SCHEMA)]
    if not versions or await db.fetchval(_OTHER_PROCESSES, f"moderation-{moderation.__version__}"):
        return
    await db.execute("SET LOCAL lock_timeout = '100ms'")
    for version in versions:
        used = f"SELECT max(greatest(seen, written)) > now() - $1::float8 * interval '1 second' FROM {NAME}"
        if await db.fetchval(f"{used}.generations_{version}", MAX_AWAY_S):
            continue
        tables = [row[0] for row in await db.fetch(_TABLES_OF_VERSION, NAME, version)]
        await db.execute(f"DROP TABLE {', '.join(tables)}")
        log.info("view_outdated_removed", database=NAME, version=version, tables=len(tables))


def _serving(generations: Iterable[Generation]) -> Generation | None:
    return next((generation for generation in generations if generation.serving), None)


async def _drop(db: Any, number: int) -> None:
    await db.execute(f"DROP TABLE IF EXISTS {table(number)}")
    await db.execute(_FORGET_PARTITIONS, number)
    await db.execute(_FORGET, number)


async def _unusable(db: Any, generation: Generation, log: Log) -> str:
    """Why a generation cannot be continued, or the empty string."""
    if log.topic_id and generation.topic_id not in ("", log.topic_id):
        return RECREATED
    if any(at.next > log.ends.get(partition, 0) for partition, at in generation.progress.items()):
        return ANOTHER_LOG
    # A view that has read the whole log has missed nothing, for however long it was away.
    if generation.away_s > MAX_AWAY_S and log.has_unread(generation.progress):
        return "erasures may have been missed"
    unreadable = f"SELECT EXISTS (SELECT 1 FROM {table(generation.number)} WHERE {IS_UNREADABLE})"
    if is_older(generation.version, moderation.__version__) and await db.fetchval(unreadable):
        return "this version may read what the last one could not"
    return ""


def is_older(version: str, other: str) -> bool:
    """Whether one version of this program came before another, by the first three numbers."""
    return _numbers(version) < _numbers(other)


def _numbers(version: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", version)[:3]]


_CREATE = (
    f"CREATE TABLE {FACTS} (name text PRIMARY KEY, value text NOT NULL)",
    f"""CREATE TABLE {GENERATIONS} (
        number int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, log int NOT NULL, topic_id text NOT NULL,
        serving boolean NOT NULL, version text NOT NULL, seen timestamptz NOT NULL DEFAULT now(),
        written timestamptz NOT NULL DEFAULT now(), replaced timestamptz)""",
    f"CREATE UNIQUE INDEX ON {GENERATIONS} (serving) WHERE serving",
    f"""CREATE TABLE {PARTITIONS} (
        generation int NOT NULL, number int NOT NULL, next bigint NOT NULL, decided bigint NOT NULL,
        posts_id text NOT NULL, PRIMARY KEY (generation, number))""",
)
_CREATE_TABLE = (
    create_table(POSTGRES, "{table}"),
    *(f"CREATE INDEX ON {{table}} {columns}" for columns in INDEXES.values()),
    f"CREATE INDEX ON {{table}} (at_partition) WHERE {IS_UNREADABLE}",
)
_OTHER_VERSIONS = r"""
    SELECT version FROM (
        SELECT substring(relname FROM '^generations_(\d{1,6})$')::int AS version FROM pg_class
        WHERE relnamespace = to_regnamespace($1) AND relkind = 'r') AS versions
    WHERE version <> $2 ORDER BY version"""
_OTHER_PROCESSES = """
    SELECT EXISTS (
        SELECT 1 FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE 'moderation-%' AND application_name <> $1)"""
_TABLES_OF_VERSION = r"""
    SELECT oid::regclass::text FROM pg_class
    WHERE relnamespace = to_regnamespace($1) AND relkind = 'r'
    AND relname ~ ('^(facts|generations|partitions|verdicts)_' || $2::int || '(_\d+)?$')"""
_LIVE = f"""
    SELECT g.number, g.log, g.topic_id, g.serving, g.version, extract(epoch FROM now() - g.seen)::float8,
           p.number, p.next, p.decided, p.posts_id
    FROM {GENERATIONS} g LEFT JOIN {PARTITIONS} p ON p.generation = g.number
    WHERE g.replaced IS NULL ORDER BY g.serving DESC, g.number, p.number"""
_BEGIN = f"INSERT INTO {GENERATIONS} (log, topic_id, serving, version) VALUES ($1, $2, $3, $4) RETURNING number"
_NAME_LOG = f"UPDATE {GENERATIONS} SET topic_id = $2 WHERE number = $1 AND topic_id = ''"
_ADD = f"INSERT INTO {PARTITIONS} VALUES ($1, $2, $3, -1, '') ON CONFLICT DO NOTHING"
_RENEW = f"""
    UPDATE {GENERATIONS}
    SET seen = greatest(seen, now() - $2::float8 * interval '1 second'), written = now() WHERE number = $1"""
_COPY_DECIDED = f"""
    UPDATE {PARTITIONS} new SET decided = greatest(new.decided, old.decided), posts_id = old.posts_id
    FROM {PARTITIONS} old
    WHERE new.generation = $1 AND old.generation = $2 AND new.number = old.number
    AND new.posts_id IN ('', old.posts_id)"""
# The topic no longer has the erased verdicts: only the old generation knows their tenants.
_COPY_TENANTS = f"""
    WITH erased AS (
        SELECT post_id, at_ms FROM {{new}} WHERE {IS_ERASED} AND (at_ms, post_id) > ($1, $2)
        ORDER BY at_ms, post_id LIMIT $3),
    copied AS (
        UPDATE {{new}} new SET tenant = old.tenant FROM erased JOIN {{old}} old USING (post_id)
        WHERE new.post_id = erased.post_id AND new.tenant = '' AND old.tenant <> '')
    SELECT at_ms, post_id FROM erased ORDER BY at_ms DESC, post_id DESC LIMIT 1"""
_COPY_REST = f"""
    UPDATE {{new}} new SET tenant = old.tenant FROM {{old}} old
    WHERE new.at_partition = $1 AND new.at_offset >= $2 AND new.{IS_ERASED} AND new.tenant = ''
    AND old.post_id = new.post_id AND old.tenant <> ''"""
_RETIRE = f"UPDATE {GENERATIONS} SET serving = false, replaced = now() WHERE serving"
_SERVE = f"UPDATE {GENERATIONS} SET serving = true WHERE number = $1"
_REMOVABLE = f"""
    SELECT number FROM {GENERATIONS}
    WHERE replaced < now() - $1::float8 * interval '1 second'
    OR (replaced IS NULL AND NOT serving AND written < now() - $2::float8 * interval '1 second')"""
_FORGET_PARTITIONS = f"DELETE FROM {PARTITIONS} WHERE generation = $1"
_FORGET = f"DELETE FROM {GENERATIONS} WHERE number = $1"
