"""The posts that this API has put on their topic: which of them wait for a verdict, and under which request ids."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import grpc

from moderation.api.grpc.status import RefusedError, exhausted
from moderation.errors import DeliveryError, ModerationError
from moderation.kafka.post_producer import PostProducer
from moderation.observability import metrics
from moderation.settings import ApiSettings
from moderation.types import Source
from moderation.v1.post_pb2 import Post

REQUEST_S = 15 * 60  # how long a request id is remembered
REQUESTS = 50_000  # how many of them
LARGE_BYTES = 1 << 20  # a post
RETRY_S = 2.0  # after which a full backlog may have moved


@dataclass(slots=True)
class _Request:
    digest: bytes
    putting: asyncio.Future[Source]
    at: float


class Submissions:
    """Puts posts, once for each request id, within bounds."""

    def __init__(self, settings: ApiSettings, posts: PostProducer, broken: Callable[[ModerationError], None]) -> None:
        """`broken`: is told what the process must end for."""
        self._settings = settings
        self._posts = posts
        self._broken = broken
        self._requests: OrderedDict[tuple[str, str], _Request] = OrderedDict()
        self._putting: set[asyncio.Task[Source]] = set()
        self._under_way: defaultdict[str, list[str]] = defaultdict(list)  # by post id: tenants of the posts
        self._bytes = 0  # of posts on their way
        self._waiting: defaultdict[int, deque[tuple[int, str]]] = defaultdict(deque)  # by partition: offset, post id
        self._latest: dict[str, tuple[int, int, str]] = {}  # by post id: partition, offset, tenant
        self._judged: Mapping[int, int] = {}  # by partition: up to where outcomes are known

    def __len__(self) -> int:
        """Posts without a verdict: on the topic, or on their way to it."""
        return sum(map(len, self._waiting.values())) + len(self._putting)

    def pending(self, post_id: str, tenant: str | None) -> bool:
        """Whether the post is accepted and, as far as is known, has no outcome."""
        known = self._latest.get(post_id)
        return known is not None and known[1] > self._judged.get(known[0], -1) and tenant in (None, known[2])

    def of_another(self, post_id: str, tenant: str) -> bool:
        """Whether a post of this id that is pending, or on its way to the topic, is another tenant's."""
        if any(other != tenant for other in self._under_way.get(post_id, ())):
            return True
        return self.pending(post_id, None) and not self.pending(post_id, tenant)

    def settle(self, judged: Mapping[int, int]) -> None:
        """The outcomes of the posts topic's records up to these are known."""
        self._judged = judged
        for partition, waiting in self._waiting.items():
            limit = judged.get(partition, -1)
            while waiting and waiting[0][0] <= limit:
                offset, post_id = waiting.popleft()
                if self._latest.get(post_id, (0, 0))[:2] == (partition, offset):
                    del self._latest[post_id]
        metrics.PENDING.set(len(self))

    async def put(
        self, post: Post, request_id: str, trace: Sequence[tuple[str, bytes]], until: float, held: ExitStack
    ) -> Source:
        """Where the post is on its topic. Raises RefusedError, and what Posts.put raises.

        A caller who leaves does not take the post back: it is put all the same, or the same call again would not know.
        `held`: what the post holds of the memory of its caller. It is taken over, and closed when the put has ended,
        unless the request came before.
        """
        if not request_id:
            return await asyncio.shield(self._start(post, trace, until, held))
        # A digest of 20 MiB takes long enough for others to notice.
        digest = await asyncio.to_thread(_digest, post) if post.ByteSize() > LARGE_BYTES else _digest(post)
        known = self._known(post.tenant, request_id, digest)
        if known is None:
            known = self._start(post, trace, until, held)
            self._remember(post.tenant, request_id, digest, known)
        return await asyncio.shield(known)

    def _known(self, tenant: str, request_id: str, digest: bytes) -> asyncio.Future[Source] | None:
        """How the post of this request fares, if it came before. Raises RefusedError: it was another post."""
        now = time.monotonic()
        while self._requests and next(iter(self._requests.values())).at < now - REQUEST_S:
            self._requests.popitem(last=False)
        known = self._requests.get((tenant, request_id))
        if known is None or _failed(known.putting):  # what failed may be there or not; it is put again
            return None
        if known.digest != digest:
            text = "the request id came before with another post"
            raise RefusedError(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", text, field="request_id")
        return known.putting

    def _remember(self, tenant: str, request_id: str, digest: bytes, putting: asyncio.Future[Source]) -> None:
        self._requests[tenant, request_id] = _Request(digest, putting, time.monotonic())
        self._requests.move_to_end((tenant, request_id))
        if len(self._requests) > REQUESTS:
            self._requests.popitem(last=False)

    def _start(
        self, post: Post, trace: Sequence[tuple[str, bytes]], until: float, held: ExitStack
    ) -> asyncio.Task[Source]:
        size = post.ByteSize()
        full = self._bytes and self._bytes + size > self._settings.max_submit_bytes
        if full or len(self) >= self._settings.max_pending_posts:
            raise exhausted("BACKLOG_FULL", "too many posts wait for their verdicts; try again later", RETRY_S)
        memory = held.pop_all()  # a caller who leaves does not give it back: the post is here until it is put
        self._bytes += size
        task = asyncio.create_task(self._posts.put(post, trace, until))
        self._putting.add(task)
        self._under_way[post.id].append(post.tenant)
        metrics.PENDING.set(len(self))

        def ended(_: object) -> None:
            memory.close()
            self._bytes -= size
            self._putting.discard(task)
            self._under_way[post.id].remove(post.tenant)
            if not self._under_way[post.id]:
                del self._under_way[post.id]
            if not task.cancelled():
                error = task.exception()
                if isinstance(error, DeliveryError):
                    self._broken(error)
                elif error is None:
                    self._accepted(post, task.result())
            metrics.PENDING.set(len(self))

        task.add_done_callback(ended)
        return task

    def _accepted(self, post: Post, source: Source) -> None:
        if source.offset > self._judged.get(source.partition, -1):  # its verdict may come before the broker's word
            self._waiting[source.partition].append((source.offset, post.id))
            self._latest[post.id] = source.partition, source.offset, post.tenant


def _digest(post: Post) -> bytes:
    return hashlib.sha256(post.SerializeToString(deterministic=True)).digest()


def _failed(putting: asyncio.Future[Source]) -> bool:
    return putting.done() and (putting.cancelled() or putting.exception() is not None)
