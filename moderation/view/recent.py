"""The newest entries of the view, in memory. Most lookups are for recent verdicts, and the store is slower than memory.

It holds what this process has folded in. So it agrees with this process's view, even if other processes are further.
The store may know a later record of a post than one that comes now from another partition with a longer backlog. Such a
record is not held: only the store can tell.

The cache is bounded by bytes, and first in, first out. It keeps its own dicts: with a cache class between them and a
batch lookup of one tenant, a lookup takes twice the time, and a fold a third more.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from moderation.view.stores import EVER_MS, Entry, Kind, LookupRow, rank_of, statements

ENTRY_BYTES = 600  # that an entry takes in addition to its result

# Post id and verdict, as Protobuf, to the post's result in the response to a batch. The result ends with the verdict.
Encode = Callable[[str, bytes], bytes]


class _Held(NamedTuple):
    tenant: str | None  # None: the entry is no verdict
    result: bytes  # in the response to a batch, with the verdict; empty: the entry is no verdict
    verdict_at: int  # where in the result the verdict begins
    kind: int
    partition: int
    offset: int
    ms: int
    rank: int
    source_partition: int
    source_offset: int
    erased_tenant: str


class Recent:
    """Entries by post id, the one folded in last at the end. When it is full, it drops the first."""

    def __init__(self, max_bytes: int, encode: Encode) -> None:
        self._max_bytes = max_bytes
        self._encode = encode
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._results: dict[str, bytes] = {}  # of the verdicts alone: what most lookups ask for
        self._bytes = 0
        self._certain = -EVER_MS  # no post that is not held has a record of a higher rank

    def __len__(self) -> int:
        return len(self._held)

    def warmed(self) -> None:
        """Notes that the entries so far are rows of a store. It may hold others that are as late as now."""
        if self._held:
            self._certain = rank_of(time.time_ns() // 1_000_000, copied=False)

    def put(self, entries: Iterable[Entry]) -> list[Entry]:
        """Adds entries, in the order in which they were folded in. Returns those that win over what is held."""
        latest: list[Entry] = []
        for entry in entries:
            held = self._held.pop(entry.post_id, None)
            wins = held is None or statements.is_newer(entry, held)
            if wins:
                latest.append(entry)
            if held is not None:
                self._bytes -= _size(entry.post_id, held)
            elif entry.rank <= self._certain:
                continue
            if held is None or wins:
                held = self._hold(entry)  # otherwise the store has kept its row, too
            self._held[entry.post_id] = held
            self._bytes += _size(entry.post_id, held)
            if held.result:
                self._results[entry.post_id] = held.result
            else:
                self._results.pop(entry.post_id, None)
        while self._bytes > self._max_bytes:
            self._drop_first()
        return latest

    def find(self, post_id: str) -> LookupRow | None:
        """Returns what is known of a post. None: only the store knows."""
        held = self._held.get(post_id)
        if held is None:
            return None
        verdict = held.result[held.verdict_at :] if held.result else None
        return held.kind, held.tenant or held.erased_tenant, held.source_partition, held.source_offset, verdict

    def results(self, post_ids: Sequence[str], tenant: str | None) -> list[bytes | None]:
        """Returns each post's result in the response to a batch. None: no verdict here that the tenant may see."""
        if tenant is None:
            return list(map(self._results.get, post_ids))
        get = self._held.get
        return [held.result if (held := get(id)) is not None and held.tenant == tenant else None for id in post_ids]

    def forget(self, before_ms: int) -> None:
        """Drops older entries, up to the first that is not older."""
        while self._held and next(iter(self._held.values())).ms < before_ms:
            self._drop_first()

    def _drop_first(self) -> None:
        post_id, held = self._held.popitem(last=False)
        self._certain = max(self._certain, held.rank)
        self._bytes -= _size(post_id, held)
        self._results.pop(post_id, None)

    def _hold(self, entry: Entry) -> _Held:
        result, tenant = b"", None
        if entry.kind == Kind.VERDICT and entry.verdict is not None:
            result, tenant = self._encode(entry.post_id, entry.verdict), entry.tenant
        return _Held(
            tenant,
            result,
            len(result) - len(entry.verdict or b""),
            entry.kind,
            entry.partition,
            entry.offset,
            entry.ms,
            entry.rank,
            entry.source_partition,
            entry.source_offset,
            "" if result else entry.tenant,
        )


def _size(post_id: str, held: _Held) -> int:
    return ENTRY_BYTES + len(post_id) + len(held.result)
