"""What was decided for the posts of one partition, as far back as there is room.

The same question (see types.Identity) is answered from here: not put to the model again, never contradicted. Posts of
one id come to one partition, so a partition's memory is all that they need. Knows no Kafka: worker/restore.py fills it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from moderation.observability import phases
from moderation.observability.phases import Phase
from moderation.types import Identity, Origin, Verdict

# What a verdict takes in memory, at most (a test measures it): by itself, and for each finding.
VERDICT_BYTES = 2_000
FINDING_BYTES = 450


@dataclass(frozen=True, slots=True)
class _Known:
    """A verdict, or how to read it. Most that are recalled are never asked for, so they are kept as they came."""

    post_id: str
    verdict: Verdict | Callable[[], Verdict | None]
    bytes: int


class VerdictCache:
    """The latest verdicts that stand, by their identity. Full, it forgets what was longest not published."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self.most = most
        self._most_bytes = most_bytes
        self._known: OrderedDict[str, _Known] = OrderedDict()  # by identity digest; the latest last
        self._of: dict[str, tuple[str, ...]] = {}  # those digests, by post id
        self._bytes = 0
        self._turns: dict[str, tuple[str, asyncio.Future[Verdict | None]]] = {}  # being decided: post id, and what came
        self._erased: dict[str, int] = {}  # by post id: offset of an erasure that is not committed yet

    def __len__(self) -> int:
        return len(self._known)

    @property
    def bytes(self) -> int:
        """What it holds, about."""
        return self._bytes

    async def decided(self, identity: Identity, decide: Callable[[], Awaitable[Verdict]], offset: int) -> Verdict:
        """The verdict for it, of stage CACHE where it was there. Raises what `decide` does.

        It is decided once at a time: whoever comes meanwhile waits, and decides anew only if nothing came of it that
        stands (a failure is its own post's, and may pass). `offset` is where the post stands on its topic: of one that
        an erasure behind it has overtaken on its way here, nothing is kept.
        """
        digest = identity.digest
        while True:
            if offset < self._erased.get(identity.post_id, -1):
                return await decide()
            if known := self._find(identity, digest):
                return replace(known, origin=Origin.CACHE)
            if digest not in self._turns:
                break
            _, turn = self._turns[digest]
            phases.enter(Phase.TWIN)
            await asyncio.wait([turn])  # which does not cancel it when we are cancelled
            if verdict := turn.result():
                return replace(verdict, origin=Origin.CACHE)
        mine = self._turns[digest] = identity.post_id, asyncio.get_running_loop().create_future()
        verdict = None
        try:
            verdict = await decide()
        finally:
            stands = self._turns.get(digest) is mine  # else the post was erased meanwhile
            if stands:
                del self._turns[digest]
            mine[1].set_result(verdict if verdict and verdict.stands else None)
        if stands:
            self.remember(verdict)
        return verdict

    def remember(self, verdict: Verdict) -> None:
        """A verdict of now; one that does not stand is no answer to anything later."""
        if verdict.stands:
            size = VERDICT_BYTES + FINDING_BYTES * len(verdict.findings) + 4 * len(verdict.post_id)
            self._put(verdict.identity.digest, _Known(verdict.post_id, verdict, size))
            while len(self._known) > self.most or self._bytes > self._most_bytes:
                self._drop(next(iter(self._known)))

    def forget(self, post_id: str, offset: int) -> None:
        """The post is erased by the record at this offset: it is judged anew, should it come again."""
        self._erased[post_id] = offset
        for digest in self._of.get(post_id, ()):
            self._drop(digest)
        for digest in [digest for digest, (of, _) in self._turns.items() if of == post_id]:
            del self._turns[digest]  # who waits for it came before the erasure

    def answered(self, offset: int) -> None:
        """All posts up to this offset are: there is nothing left for their erasures to overtake."""
        for post_id in [post_id for post_id, at in self._erased.items() if at <= offset]:
            del self._erased[post_id]

    def recall(self, digest: str, post_id: str, read: Callable[[], Verdict | None], size: int) -> bool:
        """A verdict that was published before all that is known. False: there is no room for it, nor for earlier ones.

        `read` gives it, or None if it cannot be read; `size` is what `read` holds, in bytes.
        """
        if digest in self._known:
            return True
        if len(self._known) >= self.most or self._bytes + size > self._most_bytes:
            return False
        self._put(digest, _Known(post_id, read, size))
        self._known.move_to_end(digest, last=False)
        return True

    def _put(self, digest: str, known: _Known) -> None:
        if digest in self._known:
            self._drop(digest)
        self._known[digest] = known
        self._of[known.post_id] = (*self._of.get(known.post_id, ()), digest)
        self._bytes += known.bytes

    def _drop(self, digest: str) -> None:
        known = self._known.pop(digest)
        self._bytes -= known.bytes
        if left := tuple(other for other in self._of[known.post_id] if other != digest):
            self._of[known.post_id] = left
        else:
            del self._of[known.post_id]

    def _find(self, identity: Identity, digest: str) -> Verdict | None:
        known = self._known.get(digest)
        if known is None:
            return None
        verdict = known.verdict if isinstance(known.verdict, Verdict) else known.verdict()
        read = known.verdict is not verdict  # from the topic, where others may write and earlier versions have
        if verdict is None or verdict.identity != identity or not verdict.stands or (read and not _sound(verdict)):
            self._drop(digest)  # what was read is not what its digest says, or no answer of a model
            return None
        self.remember(verdict)  # it is published once more now, and so the latest
        return verdict


def _sound(verdict: Verdict) -> bool:
    """Whether each finding has the score that it stands on."""
    return all(finding.score is not None and finding.score.sound for finding in verdict.findings)
