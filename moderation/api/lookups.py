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
        (result,) = await self._find(query)
        return result

    async def batch(self, query: LookupQuery) -> list[bytes]:
        """What is known of each post now, encoded. Checks the ids that have no verdict in the view's cache."""
        self.check_ready()
        encoded: list[bytes | None] = [None] * len(query.post_ids)
        if query.posts is None or self._view.reached(query.posts):
            encoded = self._view.results(query.post_ids, query.tenant)
        if None in encoded:
            missing = [index for index, part in enumerate(encoded) if part is None]
            ids = [validation.check_id(query.post_ids[index], index) for index in missing]
            results = await self._find(replace(query, post_ids=ids))
            for index, post_id, result in zip(missing, ids, results, strict=True):
                encoded[index] = self._encode(post_id, result)
        return encoded  # type: ignore[return-value]  # no part is None any more

    async def page(self, query: Query, common: bytes) -> Page:
        """A page of a listing. `common`: key that all pages of the listing share."""
        self.check_ready()
        page = await self._view.store.page(query)
        return Page(page.verdicts, cursors.of_page(common, page.after) if page.after else "")

    async def wait(self, query: LookupQuery, until: float) -> Result:
        """What is known of one post once there is a verdict or will be none, or at `until`, by the loop's clock.

        Ends early, too, when the service drains.
        """
        with self._view.waiting(query.post_ids[0], query.posts or {}) as woken:
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

    async def _find(self, query: LookupQuery) -> list[Result]:
        self.check_ready()
        # Before the rows are read: a fold that ends while the rows are being read must not make old rows look new.
        reached = query.posts is None or self._view.reached(query.posts)
        open = {id for id in query.post_ids if not reached or self._pending.is_pending(id, query.tenant)}
        rows = await self._view.find(query.post_ids)
        return [_result(query, rows.get(post_id), reached, post_id in open) for post_id in query.post_ids]

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


def _result(query: LookupQuery, row: LookupRow | None, reached: bool, open: bool) -> Result:
    """What a row means. `reached`: the row is as new as requested. `open`: an outcome is still to come."""
    if row is not None:
        kind, tenant, partition, offset, verdict = row
        fresh = reached or offset >= (query.posts or {}).get(partition, 1 << 62)
        if kind == Kind.VERDICT and fresh and query.tenant in (None, tenant) and _is_on(verdict, query.digest):
            return pb.LOOKUP_STATE_FOUND, verdict
        if kind == Kind.UNREADABLE and fresh and query.tenant is None:
            return pb.LOOKUP_STATE_UNREADABLE, None
    return (pb.LOOKUP_STATE_PENDING if open else pb.LOOKUP_STATE_NOT_FOUND), None


def _is_on(verdict: bytes | None, digest: str) -> bool:
    """Whether a verdict is on the content with this digest; an empty digest matches any."""
    return not digest or verdict_pb2.Verdict.FromString(verdict or b"").content_digest == digest
