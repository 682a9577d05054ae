"""Where the view of the verdicts topic is kept: one small contract, SQLite and PostgreSQL behind it.

A store holds, for each post, what the newest record about it says, and how far each partition is folded in: both in one
transaction. It can always be rebuilt from the topic, and decides by itself, when it is opened, whether it must be.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol, cast

from moderation.errors import ModerationError
from moderation.settings import ApiSettings

STORES = {
    "sqlite": "moderation.view.stores.sqlite:open_store",
    "postgresql": "moderation.view.stores.postgres:open_store",
}

SCHEMA = 4
MAX_AWAY_S = 12 * 3600  # half of Kafka's default delete.retention.ms: a view that was away longer may miss erasures
ERASED_KEPT_S = 24 * 3600  # how long an erasure is told to watches that go on from a position; so long Kafka keeps it
SCANNED = 20_000  # rows looked at for one page
EVER_MS = 1 << 62  # later than every record; its negative is earlier
LARGEST_VERDICT = 1 << 20  # bytes; with some thousand findings a verdict is smaller


class StoreUnavailableError(ModerationError):
    """The store cannot be used at the moment (its disk is full, its server away); that may pass."""


class StoreBehindError(ModerationError):
    """The store has lost what it had (its server failed over): go on from its positions."""

    def __init__(self, progress: Mapping[int, Progress]) -> None:
        super().__init__("the view's store is behind what was folded in")
        self.progress = progress


class Kind(IntEnum):
    """What the newest record about a post is."""

    VERDICT = 1
    UNREADABLE = 2  # no verdict that this version can read
    ERASED = 3  # a tombstone


class Entry(NamedTuple):
    """What one record of the verdicts topic says of its post: a row of the store, as the drivers take it."""

    post_id: str
    kind: int
    partition: int
    offset: int
    ms: int  # the record's timestamp
    source_partition: int  # on the posts topic; -1: not known
    source_offset: int
    tenant: str  # of an erasure: what the store knew of the post
    outcome: int
    policy: str  # that decided
    decided_ms: int
    verdict: bytes | None  # its Protobuf


# What a lookup needs of an entry: kind, tenant, source partition, source offset, verdict.
LookupRow = tuple[int, str, int, int, bytes | None]


class Progress(NamedTuple):
    """How far a partition is folded in."""

    next: int  # offset to read next
    decided: int  # highest offset on the posts topic whose outcome is known; -1: none


NO_PROGRESS = Progress(0, -1)


@dataclass(frozen=True, slots=True)
class Log:
    """The log that a view is of."""

    cluster_id: str
    topic: str
    begins: Mapping[int, int]  # by partition
    ends: Mapping[int, int]

    def has_unread(self, progress: Mapping[int, Progress]) -> bool:
        """Whether there are records that a view with these positions has not read."""
        return any(end > (progress[n].next if n in progress else self.begins.get(n, 0)) for n, end in self.ends.items())


@dataclass(frozen=True, slots=True)
class Query:
    """Which verdicts, latest decision first."""

    tenant: str | None  # None: any
    outcomes: tuple[int, ...]  # empty: any
    policies: tuple[str, ...]  # empty: any
    from_ms: int
    before_ms: int
    after: tuple[int, str]  # decided_ms and post_id of the last one seen
    limit: int  # verdicts

    @property
    def filters(self) -> bool:
        """Whether rows may be looked at that are not part of the answer."""
        return bool(self.outcomes or self.policies)


class Page(NamedTuple):
    """Verdicts, and where to go on after them; None: there are no more."""

    verdicts: list[bytes]
    after: tuple[int, str] | None


class Store(Protocol):
    """One view. Every method raises StoreUnavailableError for what may pass, and what ends the process otherwise."""

    async def open(self, ask: Callable[[], Awaitable[Log]]) -> Mapping[int, Progress]:
        """Where to go on from, for every partition of the log. A store that cannot be gone on with is built again.

        `ask` says what the log is, and is called after the store's positions were read: others who write to the store
        are further than an end that was asked for earlier. May be called again after StoreUnavailableError.
        """

    async def serve(self) -> Mapping[int, Progress] | None:
        """The view has read all of its log: lookups may be answered from it, and what it was built beside goes.

        Returns where the store is then. None: it is not as far as what others serve from; ask again after a fold.
        """

    async def followed(self, age_s: float) -> None:
        """The view had read all of its log `age_s` seconds ago.

        To be called regularly, with verdicts or without: a view that was away for MAX_AWAY_S is built again, since it
        may have missed erasures.
        """

    async def add(self, begins: Mapping[int, int]) -> None:
        """Partitions that the log has now, too."""

    async def fold(
        self, entries: Sequence[Entry], before: Mapping[int, Progress], after: Mapping[int, Progress]
    ) -> dict[str, str]:
        """Applies them all or none, each if it is newer than what is there, and goes from `before` to `after`.

        What is folded in already, by another process on the same store, is left out. Returns the tenants of the posts
        that are erased, where they are known. Raises StoreBehindError when the store is not as far as `before`.
        """

    async def find(self, post_ids: Sequence[str]) -> dict[str, LookupRow]:
        """By post id. What is not there is left out."""

    async def page(self, query: Query) -> Page:
        """The next verdicts of a listing: after a bounded amount of work, so it may be short of the last."""

    async def since(self, partition: int, start: int, end: int, limit: int) -> list[Entry]:
        """What the partition's offsets from `start` up to `end` say that still holds, in their order."""

    async def prune(self, before_ms: int, erased_before_ms: int, limit: int) -> int:
        """Forgets posts whose record is older, and erasures: about `limit` at once. Returns how many."""

    async def size(self) -> int:
        """Bytes of its files; 0 where the store's server has to bound them."""

    async def close(self) -> None:
        """Lets go of it."""


def open_store(settings: ApiSettings) -> Store:
    """The store that the settings name. Connects to nothing yet. Raises ConfigError."""
    url = settings.view_database.get_secret_value()
    kind = "postgresql" if url else "sqlite"
    module, _, name = STORES[kind].partition(":")
    return cast(Store, getattr(importlib.import_module(module), name)(settings))
