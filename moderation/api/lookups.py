"""Lookups of verdicts: one post, several, a wait for one, a page of all. They read the view and know no transport.

A lookup returns a state and the stored bytes of the verdict. Nothing is parsed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from moderation.api import cursors, validation
from moderation.api.errors import unavailable
from moderation.api.pending import PendingPosts
from moderation.api.validation import LookupQuery
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1 import verdict_pb2
from moderation.view.outcomes import Reach
from moderation.view.stores import Kind, LookupRow, Query
from moderation.view.view import View

Result = tuple[pb.LookupState, bytes | None]  # the verdict's bytes when the state is FOUND
Encode = Callable[[str, Result], bytes]  # post id and result to the post's part of the response to a batch


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing."""

    verdicts: Sequence[bytes]  # serialized, latest decision first
    next_page_token: str  # empty: this is the last page


class Lookups:
    """Reads verdicts. Every method raises RefusedError, and StoreUnavailableError when the view cannot be read."""

    def __init__(self, view: View, pending: PendingPosts, encode: Encode) -> None:
        """`encode`: writes a result as the view's cache of recent verdicts holds it."""
        self._view = view
        self._pending = pending
        self._encode = encode
        self._draining = asyncio.Event()

    def check_ready(self) -> None:
        """Raises RefusedError while the view is still being built."""
        if not self._view.caught_up.is_set():
            raise unavailable("NOT_READY", "the view of the verdicts topic is still being built; try again later")

    async def get(self, query: LookupQuery) -> Result:
        """What is known of one post now."""
        (result,) = await self._find(query, await self._reach(query))
        return result

    async def batch(self, query: LookupQuery) -> list[bytes]:
        """What is known of each post now, encoded. Checks the ids that have no verdict in the view's cache."""
        reach = await self._reach(query)
        encoded: list[bytes | None] = [None] * len(query.post_ids)
        if reach is Reach.REACHED:
            encoded = self._view.results(query.post_ids, query.tenant)
        if None in encoded:
            missing = [index for index, part in enumerate(encoded) if part is None]
            ids = [validation.check_id(query.post_ids[index], index) for index in missing]
            results = await self._find(replace(query, post_ids=ids), reach)
            for index, post_id, result in zip(missing, ids, results, strict=True):
                encoded[index] = self._encode(post_id, result)
        return encoded  # type: ignore[return-value]  # no part is None any more

    async def page(self, query: Query, common: bytes) -> Page:
        """A page of a listing. `common`: key that all pages of the listing share."""
        self.check_ready()
        page = await self._view.store.page(query)
        self.check_ready()
        return Page(page.verdicts, cursors.of_page(common, page.after) if page.after else "")

    async def wait(self, query: LookupQuery, until: float) -> Result:
        """What is known of one post once there is a verdict or will be none, or at `until`, by the loop's clock.

        Ends early, too, when the service drains.
        """
        with self._view.waiting(query.post_ids[0], query.posts or {}, query.posts_id) as woken:
            while True:
                woken.clear()  # before the lookup: a fold from here on wakes this wait
                state, verdict = await self.get(query)
                certain = state == pb.LOOKUP_STATE_NOT_FOUND and query.posts is not None
                if certain or state in (pb.LOOKUP_STATE_FOUND, pb.LOOKUP_STATE_UNREADABLE):
                    return state, verdict
                if not await self._is_woken(woken, until):
                    return state, verdict

    def end_waits(self) -> None:
        """Waits return what is known, from now on without waiting."""
        self._draining.set()

    async def _find(self, query: LookupQuery, reach: Reach) -> list[Result]:
        """`reach`: of before the rows are read. A fold that ends meanwhile must not make old rows look new."""
        ahead = reach is Reach.AHEAD
        open = {id for id in query.post_ids if ahead or self._pending.is_pending(id, query.tenant)}
        rows = await self._view.find(query.post_ids)
        self.check_ready()  # the rows may be of a view that is being built again
        now = self._view.posts_id
        return [_result(query, rows.get(post_id), reach, post_id in open, now) for post_id in query.post_ids]

    async def _reach(self, query: LookupQuery) -> Reach:
        """Whether the view is as new as the query asks. Raises RefusedError while the view is being built."""
        self.check_ready()
        if query.posts is None:
            return Reach.REACHED
        if not query.posts_id:  # a token of the topic that exists now
            await self._view.lives.refresh()
            self.check_ready()
        return self._view.reach(query.posts, query.posts_id)

    async def _is_woken(self, woken: asyncio.Event, until: float) -> bool:
        """Waits; False: the time is up, or the service drains."""
        waits = [asyncio.ensure_future(event.wait()) for event in (woken, self._draining)]
        try:
            seconds = until - asyncio.get_running_loop().time()
            await asyncio.wait(waits, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
            return woken.is_set()
        finally:
            for wait in waits:
                wait.cancel()


def _result(query: LookupQuery, row: LookupRow | None, reach: Reach, open: bool, now: str) -> Result:
    """What a row means. `open`: an outcome is still to come. `now`: id of the posts topic that exists."""
    if row is not None:
        kind, tenant, _, _, verdict = row
        fresh = reach is Reach.REACHED or _is_fresh(query, row, reach, now)
        if kind == Kind.VERDICT and fresh and query.tenant in (None, tenant) and _is_on(verdict, query.digest):
            return pb.LOOKUP_STATE_FOUND, verdict
        if kind == Kind.UNREADABLE and fresh and query.tenant is None:
            return pb.LOOKUP_STATE_UNREADABLE, None
    return (pb.LOOKUP_STATE_PENDING if open else pb.LOOKUP_STATE_NOT_FOUND), None


def _is_fresh(query: LookupQuery, row: LookupRow, reach: Reach, now: str) -> bool:
    """Whether a row alone is as new as requested, although the outcomes of other posts are to come, or never came.

    Offsets can be compared in one life of the posts topic. What came of a later one is newer.
    """
    kind, _, partition, offset, verdict = row
    if kind != Kind.VERDICT:
        return False
    id = verdict_pb2.Verdict.FromString(verdict or b"").source.topic_id
    if id == (query.posts_id or now):
        return offset >= (query.posts or {}).get(partition, 1 << 62)
    return reach is Reach.GONE and id == now


def _is_on(verdict: bytes | None, digest: str) -> bool:
    """Whether a verdict is on the content with this digest; an empty digest matches any."""
    return not digest or verdict_pb2.Verdict.FromString(verdict or b"").content_digest == digest
