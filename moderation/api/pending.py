"""The posts that this API has put on their topic: which of them wait for a verdict, and under which request ids."""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from cachetools import TTLCache

from moderation.api.errors import RefusalKind, RefusedError, exhausted
from moderation.errors import ConfigError, DeliveryError, ModerationError
from moderation.kafka.post_producer import PostProducer
from moderation.observability import metrics
from moderation.settings import ApiSettings
from moderation.types import Source
from moderation.v1.post_pb2 import Post

REQUEST_ID_S = 15 * 60  # for which a request id is kept
MAX_REQUEST_IDS = 50_000
LARGE_BYTES = 1 << 20  # of a post that is hashed on a thread
BACKLOG_RETRY_S = 2.0  # after which a full backlog may have moved

IsOver = Callable[[Source], bool]  # whether nothing is to come of this record of the posts topic any more


@dataclass(frozen=True, slots=True)
class _Request:
    digest: bytes  # of the post
    put: asyncio.Future[Source]


class PendingPosts:
    """Puts posts on their topic, once for each request id, within bounds. Knows which have no verdict yet."""

    def __init__(self, settings: ApiSettings, producer: PostProducer, fail: Callable[[ModerationError], None]) -> None:
        """`fail`: is called with an error that the process must end for."""
        self._settings = settings
        self._producer = producer
        self._fail = fail
        self._requests: TTLCache[tuple[str, str], _Request] = TTLCache(MAX_REQUEST_IDS, REQUEST_ID_S)
        self._puts: set[asyncio.Task[Source]] = set()
        self._tenants: defaultdict[str, list[str]] = defaultdict(list)  # by post id: tenants of posts being put
        self._bytes = 0  # of posts being put
        self._waiting: defaultdict[int, deque[tuple[Source, str]]] = defaultdict(deque)  # by partition: with post ids
        self._latest: dict[str, tuple[Source, str]] = {}  # by post id: its record, and its tenant
        self._is_over: IsOver = lambda _: False

    def __len__(self) -> int:
        """How many posts have no verdict yet: on the topic, or being put there."""
        return sum(map(len, self._waiting.values())) + len(self._puts)

    def is_pending(self, post_id: str, tenant: str | None) -> bool:
        """Whether a post of this tenant (None: any) is on the topic and, as far as is known, has no outcome."""
        latest = self._latest.get(post_id)
        if latest is None:
            return False
        source, owner = latest
        return tenant in (None, owner) and not self._is_over(source)

    def is_of_another(self, post_id: str, tenant: str) -> bool:
        """Whether a post of this id that is pending, or being put, belongs to another tenant."""
        if any(other not in ("", tenant) for other in self._tenants.get(post_id, ())):
            return True
        return self.is_pending(post_id, None) and self._latest[post_id][1] not in ("", tenant)

    def settle(self, is_over: IsOver) -> None:
        """Forgets posts whose outcome is known, and those whose outcome will never come. `is_over`: as of now."""
        self._is_over = is_over
        for waiting in self._waiting.values():
            while waiting and is_over(waiting[0][0]):
                source, post_id = waiting.popleft()
                if post_id in self._latest and self._latest[post_id][0] == source:
                    del self._latest[post_id]
        metrics.PENDING.set(len(self))

    async def put(
        self, post: Post, request_id: str, trace: Sequence[tuple[str, bytes]], until: float, body_share: ExitStack
    ) -> Source:
        """Puts a post on its topic. A put continues when its caller leaves: else a repeated call could not find it.

        `body_share`: closing it gives back what the post holds of its caller's share. The put takes it over and closes
        it at its end, unless the same request came before.

        Raises RefusedError, and what PostProducer.put raises.
        """
        if not request_id:
            return await asyncio.shield(self._start(post, trace, until, body_share))
        # Hashing 20 MiB takes so long that other calls would notice.
        digest = await asyncio.to_thread(_digest, post) if post.ByteSize() > LARGE_BYTES else _digest(post)
        put = self._put_before(post.tenant, request_id, digest)
        if put is None:
            put = self._start(post, trace, until, body_share)
            self._requests[post.tenant, request_id] = _Request(digest, put)
        return await asyncio.shield(put)

    def _put_before(self, tenant: str, request_id: str, digest: bytes) -> asyncio.Future[Source] | None:
        """The put of the same request, if it came before. Raises RefusedError if its post was another one."""
        request = self._requests.get((tenant, request_id))
        if request is None or _failed(request.put):  # a post whose put has failed may be there or not: put it again
            return None
        if request.digest != digest:
            text = "the request id was used before, with another post"
            raise RefusedError(RefusalKind.ALREADY_EXISTS, "REQUEST_ID_REUSED", text, field="request_id")
        return request.put

    def _start(
        self, post: Post, trace: Sequence[tuple[str, bytes]], until: float, body_share: ExitStack
    ) -> asyncio.Task[Source]:
        size = post.ByteSize()
        full = self._bytes and self._bytes + size > self._settings.max_submit_bytes
        if full or len(self) >= self._settings.max_pending_posts:
            raise exhausted("BACKLOG_FULL", "too many posts wait for their verdicts; try again later", BACKLOG_RETRY_S)
        owned = body_share.pop_all()  # kept until the post is put, also when its caller leaves
        self._bytes += size
        task = asyncio.create_task(self._producer.put(post, trace, until))
        self._puts.add(task)
        self._tenants[post.id].append(post.tenant)
        metrics.PENDING.set(len(self))

        def ended(_: object) -> None:
            owned.close()
            self._bytes -= size
            self._puts.discard(task)
            self._tenants[post.id].remove(post.tenant)
            if not self._tenants[post.id]:
                del self._tenants[post.id]
            if not task.cancelled():
                error = task.exception()
                if isinstance(error, DeliveryError | ConfigError):
                    self._fail(error)
                elif error is None:
                    self._accepted(post, task.result())
            metrics.PENDING.set(len(self))

        task.add_done_callback(ended)
        return task

    def _accepted(self, post: Post, source: Source) -> None:
        # The verdict may come before the broker has acknowledged the post.
        if not self._is_over(source):
            self._waiting[source.partition].append((source, post.id))
            self._latest[post.id] = source, post.tenant


def _digest(post: Post) -> bytes:
    return hashlib.sha256(post.SerializeToString(deterministic=True)).digest()


def _failed(put: asyncio.Future[Source]) -> bool:
    return put.done() and (put.cancelled() or put.exception() is not None)
