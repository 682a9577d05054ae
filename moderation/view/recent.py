"""The newest entries of the view, in memory: what was judged last is what is asked for most, and a store is far away.

Holds what this process has folded in, and so says what its own view says, whatever others have written to the store.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from moderation.view.stores import Entry, Kind, LookupRow, statements

ENTRY_BYTES = 600  # that an entry takes beside its answer

# Post id and verdict, as Protobuf, to the post's part of the answer to a batch. The verdict's bytes stand at its end.
Encode = Callable[[str, bytes], bytes]


class _Held(NamedTuple):
    tenant: str | None  # None: it is no verdict
    answer: bytes  # with the verdict, as it stands in the answer to a batch; empty: it is no verdict
    verdict_at: int  # where in it the verdict begins
    kind: int
    partition: int
    offset: int
    ms: int
    source_partition: int
    source_offset: int
    erased_tenant: str


class Recent:
    """Entries by post, the one folded in last at the end. Full, it lets go of the first."""

    def __init__(self, most_bytes: int, encode: Encode) -> None:
        self._most = most_bytes
        self._encode = encode
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._answers: dict[str, bytes] = {}  # of those that are verdicts: what is asked for most, at hand at once
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def put(self, entries: Iterable[Entry]) -> None:
        """In the order in which they were folded in."""
        for entry in entries:
            known = self._held.pop(entry.post_id, None)
            if known is not None:
                self._bytes -= _size(entry.post_id, known)
            if known is None or statements.is_newer(entry, known):
                known = self._hold(entry)  # else the store has kept what is known, too
            self._held[entry.post_id] = known
            self._bytes += _size(entry.post_id, known)
            if known.answer:
                self._answers[entry.post_id] = known.answer
            else:
                self._answers.pop(entry.post_id, None)
        while self._bytes > self._most:
            self._drop_first()

    def find(self, post_id: str) -> LookupRow | None:
        """What is known of a post; None: ask the store."""
        known = self._held.get(post_id)
        if known is None:
            return None
        verdict = known.answer[known.verdict_at :] if known.answer else None
        return known.kind, known.tenant or known.erased_tenant, known.source_partition, known.source_offset, verdict

    def answers(self, post_ids: Sequence[str], tenant: str | None) -> list[bytes | None]:
        """For each post its part of the answer to a batch; None: it has no verdict here that the tenant may see."""
        if tenant is None:
            return list(map(self._answers.get, post_ids))
        get = self._held.get
        return [known.answer if (known := get(id)) is not None and known.tenant == tenant else None for id in post_ids]

    def forget(self, before_ms: int) -> None:
        """What is older, as far as it came first."""
        while self._held and next(iter(self._held.values())).ms < before_ms:
            self._drop_first()

    def _drop_first(self) -> None:
        post_id, known = self._held.popitem(last=False)
        self._bytes -= _size(post_id, known)
        self._answers.pop(post_id, None)

    def _hold(self, entry: Entry) -> _Held:
        answer, tenant = b"", None
        if entry.kind == Kind.VERDICT and entry.verdict is not None:
            answer, tenant = self._encode(entry.post_id, entry.verdict), entry.tenant
        return _Held(
            tenant,
            answer,
            len(answer) - len(entry.verdict or b""),
            entry.kind,
            entry.partition,
            entry.offset,
            entry.ms,
            entry.source_partition,
            entry.source_offset,
            "" if answer else entry.tenant,
        )


def _size(post_id: str, known: _Held) -> int:
    return ENTRY_BYTES + len(post_id) + len(known.answer)
