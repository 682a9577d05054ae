"""A view's store without a view: entries, folds and queries."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from moderation.settings import ApiSettings
from moderation.view import stores
from moderation.view.stores import EVER_MS, SCHEMA, Entry, Kind, Log, Progress, Query, Store, rank_of

LOG = Log("cluster", "verdicts", {0: 0, 1: 0}, {0: 1_000, 1: 1_000})


def answering(log: Log) -> Callable[[], Awaitable[Log]]:
    """A question to the brokers that is answered with this log."""

    async def ask() -> Log:
        return log

    return ask


@asynccontextmanager
async def opened(settings: ApiSettings, log: Log = LOG) -> AsyncIterator[Store]:
    store = stores.open_store(settings)
    try:
        await store.open(answering(log))
        yield store
    finally:
        await store.close()


def sql(statement: str) -> str:
    """A statement on tables in PostgreSQL, with their names as this version has them: verdicts_1 is verdicts_5_1."""
    return re.sub(r"\b(facts|generations|partitions|verdicts)(_\d+)?\b", rf"\1_{SCHEMA}\2", statement)


def an_entry(post_id: str, offset: int = 0, partition: int = 0, **fields: Any) -> Entry:
    verdict = {"kind": Kind.VERDICT, "verdict": f"{post_id}@{offset}".encode()}
    erased = {"kind": Kind.ERASED, "verdict": None, "outcome": 0, "policy": "", "tenant": "", "decided_ms": 0}
    defaults: dict[str, Any] = {
        "ms": 1_000 + offset,
        "source_partition": partition,
        "source_offset": offset,
        "tenant": "",
        "outcome": 1,
        "policy": "",
        "decided_ms": 1_000 + offset,
    }
    defaults["rank"] = rank_of(fields.get("ms", defaults["ms"]), copied=False)
    known = defaults | (erased if fields.pop("erased", False) else verdict) | fields
    return Entry(post_id=post_id, partition=partition, offset=offset, **known)


class Folding:
    """Folds as a view does: from where it is to behind its records."""

    def __init__(self, store: Store, at: dict[int, Progress] | None = None) -> None:
        self.store = store
        self.at = at or {0: Progress(0, -1), 1: Progress(0, -1)}

    async def __call__(self, *entries: Entry) -> dict[str, str]:
        after = {entry.partition: Progress(entry.offset + 1, entry.source_offset) for entry in entries}
        tenants = await self.store.fold(entries, self.at, after)
        self.at |= after
        return tenants


async def verdict(store: Store, post_id: str) -> bytes | None:
    found = await store.find([post_id])
    return found[post_id][-1] if post_id in found else None


def query(**fields: Any) -> Query:
    defaults: dict[str, Any] = {
        "tenant": None,
        "outcomes": (),
        "policies": (),
        "from_ms": -EVER_MS,
        "before_ms": EVER_MS,
    }
    return Query(**defaults | {"after": (EVER_MS, ""), "limit": 10} | fields)
