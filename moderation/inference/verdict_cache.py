"""The latest verdicts of one partition, by identity (see types.Identity). Knows no Kafka: worker/restore.py fills it.

A question with a known identity is answered from the cache. The model is not asked again and the verdict is never
contradicted. Posts with one id are in one partition where all producers use murmur2, so each partition has a cache of
its own. Erasures reach all of them (worker/erasures.py).

cachetools does not fit: a restored verdict is added as the oldest entry, two bounds hold (entries and bytes), and an
erasure removes all entries of a post.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from moderation.observability import phases
from moderation.observability.phases import Phase
from moderation.types import STANDING, Identity, Origin, Verdict

# Most bytes that a verdict takes in memory (a test measures it): by itself, and for each finding. Its decision state
# comes on top, because it names the certificates of the whole set.
VERDICT_BYTES = 2_000
FINDING_BYTES = 700


@dataclass(frozen=True, slots=True)
class _Entry:
    """A verdict, or a function that decodes one. Most restored verdicts are never looked up, so they stay encoded."""

    post_id: str
    verdict: Verdict | Callable[[], Verdict | None]
    bytes: int


@dataclass(eq=False, slots=True)
class _Computation:
    """A verdict that is being computed. Others with the same identity wait for it."""

    post_id: str
    done: asyncio.Future[Verdict | None]  # None: the verdict cannot be reused


class VerdictCache:
    """The latest reusable verdicts, by their identity. A full cache drops the verdict whose last use is oldest."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self.max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # by identity digest; the latest last
        self._digests: dict[str, tuple[str, ...]] = {}  # keys of `_entries`, by post id
        self._bytes = 0
        self._computations: dict[str, _Computation] = {}  # by identity digest
        self._erased: dict[str, int] = {}  # offset of an erasure that is not committed yet, by post id

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """Estimated bytes of all entries."""
        return self._bytes

    async def decided(
        self,
        identity: Identity,
        decide: Callable[[], Awaitable[Verdict]],
        offset: int,
        decide_again: Callable[[Verdict], Verdict | None] = lambda _: None,
    ) -> Verdict:
        """Returns the verdict of this identity, with origin CACHE if it was known. Raises what `decide` raises.

        One caller computes; callers with the same identity wait for it. If it fails or its result cannot be reused,
        they compute their own.

        `decide_again`: gives what the scores of a verdict mean in the decision state of this identity; None if they are
        not enough for that. It is called for a verdict of another state, whose outcome is not repeated.

        `offset`: of the post on its topic. If a later erasure has already passed this post, its verdict is not kept.
        """
        digest = identity.question.digest
        while True:
            if offset < self._erased.get(identity.post_id, -1):
                return await decide()
            if known := self._find(identity, digest, decide_again):
                return replace(known, origin=Origin.CACHE)
            if (computation := self._computations.get(digest)) is None:
                break
            phases.enter(Phase.DUPLICATE)
            await asyncio.wait([computation.done])  # unlike await, this does not cancel the future with this task
            verdict = computation.done.result()
            if verdict and (verdict := _in_state(identity, verdict, decide_again)):
                return replace(verdict, origin=Origin.CACHE)
        return await self._compute(identity, digest, decide)

    async def _compute(self, identity: Identity, digest: str, decide: Callable[[], Awaitable[Verdict]]) -> Verdict:
        computation = _Computation(identity.post_id, asyncio.get_running_loop().create_future())
        self._computations[digest] = computation
        verdict = None
        try:
            verdict = await decide()
        finally:
            current = self._computations.get(digest) is computation  # False: the post was erased meanwhile
            if current:
                del self._computations[digest]
            computation.done.set_result(verdict if verdict and verdict.stands else None)
        if current:
            self.remember(verdict)
        return verdict

    def remember(self, verdict: Verdict) -> None:
        """Adds a verdict as the latest, if it can be reused."""
        if verdict.stands:
            own = VERDICT_BYTES + 4 * len(verdict.post_id) + len(verdict.decision_state)
            size = own + FINDING_BYTES * len(verdict.findings)
            self._put(verdict.identity.question.digest, _Entry(verdict.post_id, verdict, size))
            while len(self._entries) > self.max_entries or self._bytes > self._max_bytes:
                self._drop(next(iter(self._entries)))

    def forget(self, post_id: str, offset: int) -> None:
        """Removes all verdicts of the post. The record at this offset erases the post."""
        self._erased[post_id] = offset
        for digest in self._digests.get(post_id, ()):
            self._drop(digest)
        erased = [digest for digest, computation in self._computations.items() if computation.post_id == post_id]
        for digest in erased:
            del self._computations[digest]  # its callers came before the erasure and still get the verdict

    def committed(self, offset: int) -> None:
        """Forgets erasures up to this offset. All posts before them have their outcome."""
        for post_id in [post_id for post_id, erasure in self._erased.items() if erasure <= offset]:
            del self._erased[post_id]

    def restore_older(self, digest: str, post_id: str, read: Callable[[], Verdict | None], size: int) -> bool:
        """Adds a verdict that is older than all entries. Returns False if the cache is full.

        `read` decodes the verdict, or returns None if it cannot be decoded. `size`: bytes that `read` holds.
        """
        if digest in self._entries:
            return True
        if len(self._entries) >= self.max_entries or self._bytes + size > self._max_bytes:
            return False
        self._put(digest, _Entry(post_id, read, size))
        self._entries.move_to_end(digest, last=False)
        return True

    def _put(self, digest: str, entry: _Entry) -> None:
        if digest in self._entries:
            self._drop(digest)
        self._entries[digest] = entry
        self._digests[entry.post_id] = (*self._digests.get(entry.post_id, ()), digest)
        self._bytes += entry.bytes

    def _drop(self, digest: str) -> None:
        entry = self._entries.pop(digest)
        self._bytes -= entry.bytes
        if left := tuple(other for other in self._digests[entry.post_id] if other != digest):
            self._digests[entry.post_id] = left
        else:
            del self._digests[entry.post_id]

    def _find(
        self, identity: Identity, digest: str, decide_again: Callable[[Verdict], Verdict | None]
    ) -> Verdict | None:
        entry = self._entries.get(digest)
        if entry is None:
            return None
        verdict = entry.verdict if isinstance(entry.verdict, Verdict) else entry.verdict()
        decoded = entry.verdict is not verdict  # from the topic, where other programs and earlier versions write too
        if verdict is not None and verdict.stands and (not decoded or _sound(verdict)):
            verdict = _in_state(identity, verdict, decide_again)
        else:
            verdict = None
        if verdict is None:
            self._drop(digest)  # the record does not hold what its digest claims, or not a model's scores
            return None
        self.remember(verdict)  # it is published again now, and so becomes the latest
        return verdict


def _in_state(
    identity: Identity, verdict: Verdict, decide_again: Callable[[Verdict], Verdict | None]
) -> Verdict | None:
    """The verdict in the decision state of the identity; None: it is another question's, or cannot be decided again."""
    if verdict.identity.question != identity.question:
        return None
    return verdict if verdict.decision_state == identity.decision_state else decide_again(verdict)


def _sound(verdict: Verdict) -> bool:
    """Whether each finding has a sound score, or a reason to have none."""
    return all(
        finding.score.sound if finding.score is not None else finding.reason in STANDING for finding in verdict.findings
    )
