"""Where the view of the verdicts topic is kept: one small contract, implemented by SQLite and PostgreSQL.

A store holds what the newest record about each post says, and how far each partition is folded in. Both change in one
transaction. A store can always be rebuilt from the topic. When it is opened, it decides whether that is necessary.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol, cast

from moderation.errors import DeliveryError, ModerationError
from moderation.settings import ApiSettings

STORES = {
    "sqlite": "moderation.view.stores.sqlite:open_store",
    "postgresql": "moderation.view.stores.postgres:open_store",
}

SCHEMA = 6
FIND_S = 2.0  # no lookup waits longer for a store: callers had better try again
MAX_AWAY_S = 12 * 3600  # half of Kafka's default delete.retention.ms: a view that was away longer may miss erasures
ERASED_KEPT_S = 24 * 3600  # how long watches from an old position get an erasure; Kafka keeps tombstones as long
SCANNED = 20_000  # rows read for one page, at most
EVER_MS = 1 << 62  # later than every record; its negative is earlier
VERDICT_BYTES = 16  # that a verdict takes in a response besides its own
LARGEST_VERDICT = 1 << 20  # bytes; with some thousand findings a verdict is smaller


class StoreUnavailableError(ModerationError):
    """The store cannot be used now, for a reason that may pass: its disk is full, its server is away."""


class StoreReplacedError(DeliveryError):
    """Another process has replaced the view by the view of another log. Open the store again."""


class StoreBehindError(ModerationError):
    """The store has lost what it had, as a server that failed over: continue from `progress`."""

    def __init__(self, progress: Mapping[int, Progress]) -> None:
        super().__init__("the view's store is behind what was folded in")
        self.progress = progress


class Kind(IntEnum):
    """The kind of the newest record about a post."""

    VERDICT = 1
    UNREADABLE = 2  # not a verdict that this version can read
    ERASED = 3  # a tombstone


class Entry(NamedTuple):
    """What one record of the verdicts topic says about its post: a row of the store, with the drivers' types."""

    post_id: str
    kind: int
    partition: int
    offset: int
    ms: int  # the record's timestamp
    rank: int  # orders records of one post that lie in different partitions: see rank_of
    source_partition: int  # on the posts topic; -1: not known
    source_offset: int
    tenant: str  # of an erasure: the tenant that the post had in the store
    outcome: int
    policy: str  # that decided the outcome
    decided_ms: int
    verdict: bytes | None  # as Protobuf

    @property
    def copied(self) -> bool:
        """Whether it is the tombstone of a copied erasure. The view passes on the erasure itself."""
        return self.kind == Kind.ERASED and self.rank % 2 == 0


def rank_of(written_ms: int, *, copied: bool) -> int:
    """The rank of a record by the time of the post or erasure on the posts topic, in ms.

    copied: the record is the tombstone of a copied erasure. The tombstone of the erasure itself wins over its copies.
    """
    ms = max(-EVER_MS // 2, min(written_ms, EVER_MS // 2))  # of a foreign record it may be any 64 bits
    return 2 * ms + (not copied)


# What a lookup needs of an entry: kind, tenant, source partition, source offset, verdict.
LookupRow = tuple[int, str, int, int, bytes | None]


class Progress(NamedTuple):
    """How far a partition is folded in."""

    next: int  # offset to read next
    decided: int  # highest offset on the posts topic whose outcome is known; -1: none
    posts_id: str = ""  # of that posts topic, as Kafka prints it; empty: not known


NO_PROGRESS = Progress(0, -1)


@dataclass(frozen=True, slots=True)
class Log:
    """The verdicts topic that a view is built from."""

    cluster_id: str
    topic: str
    begins: Mapping[int, int]  # by partition
    ends: Mapping[int, int]
    topic_id: str = ""  # as Kafka prints it; empty: not known

    def has_unread(self, progress: Mapping[int, Progress]) -> bool:
        """Whether there are records that a view with these positions has not read."""
        return any(end > (progress[n].next if n in progress else self.begins.get(n, 0)) for n, end in self.ends.items())


@dataclass(frozen=True, slots=True)
class Query:
    """What a listing asks for: verdicts, latest decision first."""

    tenant: str | None  # None: any
    outcomes: tuple[int, ...]  # empty: any
    policies: tuple[str, ...]  # empty: any
    from_ms: int
    before_ms: int
    after: tuple[int, str]  # decided_ms and post_id of the last verdict on the page before
    limit: int  # verdicts
    max_bytes: int = EVER_MS  # of these verdicts, with VERDICT_BYTES for each; one verdict is always taken

    @property
    def filters(self) -> bool:
        """Whether the store may read rows that are not part of the page."""
        return bool(self.outcomes or self.policies)


class Page(NamedTuple):
    """Verdicts, and `Query.after` of the next page. None: this is the last page."""

    verdicts: list[bytes]
    after: tuple[int, str] | None


class Store(Protocol):
    """One view. Every method raises StoreUnavailableError for what may pass. All other errors end the process."""

    @property
    def gone(self) -> Mapping[int, Progress]:
        """Positions in a topic that was deleted, if `open` has just found another topic in its place."""

    async def open(self, ask: Callable[[], Awaitable[Log]]) -> Mapping[int, Progress]:
        """Returns where to continue, for every partition of the log. Builds the store again if it cannot be continued.

        A view of a topic that was deleted cannot be continued: its offsets are those of another log. What it knows of
        outcomes (Progress.decided) is kept.

        `ask` returns the log. It is called after the store's positions were read: other writers of the store may be
        beyond an end that was asked for before. `open` may be called again after StoreUnavailableError, and when the
        topic was deleted and made again.
        """

    async def serve(self) -> Mapping[int, Progress] | None:
        """Lets lookups read this view, which has read all of its log. The view that served before is removed.

        Returns the store's positions. None: the view that serves is further; call again after a fold.
        """

    async def followed(self, age_s: float) -> None:
        """Notes that the view had read all of its log `age_s` seconds ago.

        Call it regularly, with verdicts or without. A view that was away for MAX_AWAY_S is built again, because it may
        have missed erasures.
        """

    async def add(self, begins: Mapping[int, int]) -> None:
        """Adds partitions that the log has now. `begins`: their first offsets."""

    async def fold(
        self, entries: Sequence[Entry], before: Mapping[int, Progress], after: Mapping[int, Progress]
    ) -> dict[str, str]:
        """Applies all entries or none, each if it is newer than the row of its post. Moves from `before` to `after`.

        Entries that another process on the same store has already folded in are left out. Returns the tenants of
        erased posts, by post id, where they are known. Raises StoreBehindError when the store is behind `before`.
        """

    async def find(self, post_ids: Sequence[str]) -> dict[str, LookupRow]:
        """Returns rows by post id. Posts without a row are left out."""

    async def page(self, query: Query) -> Page:
        """Returns the next verdicts of a listing. It may hold fewer than `limit`: its work and bytes are bounded."""

    async def since(self, partition: int, start: int, end: int, limit: int) -> list[Entry]:
        """Returns entries that still hold, of a partition's offsets from `start` up to `end`, in order."""

    async def prune(self, before_ms: int, erased_before_ms: int, limit: int) -> int:
        """Deletes posts whose record is older, and erasures: about `limit` in a call. Returns how many."""

    async def size(self) -> int:
        """Returns the bytes of the store's files; 0 where a server has to bound them."""

    async def close(self) -> None:
        """Closes files and connections."""


def open_store(settings: ApiSettings) -> Store:
    """Returns the store that the settings name, not connected yet. Raises ConfigError."""
    url = settings.view_database.get_secret_value()
    kind = "postgresql" if url else "sqlite"
    module, _, name = STORES[kind].partition(":")
    return cast(Store, getattr(importlib.import_module(module), name)(settings))
