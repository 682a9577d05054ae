"""Posts that are submitted through the API: checked, held to the caller's tenant, put on the posts topic.

Nothing here knows a transport. A submitted post goes the way of every post, through Kafka: its verdict comes back
through the view, and `Lookups.wait` waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from moderation import wire
from moderation.api import cursors, validation
from moderation.api.auth import Permit
from moderation.api.errors import forbidden
from moderation.api.lookups import Lookups
from moderation.api.pending import PendingPosts
from moderation.api.validation import LookupQuery
from moderation.settings import MediaSettings
from moderation.types import Source
from moderation.v1 import moderation_service_pb2 as pb
from moderation.view.stores import Kind
from moderation.view.view import View


@dataclass(frozen=True, slots=True)
class Accepted:
    """A post that is on the posts topic."""

    source: Source
    query: LookupQuery  # of the verdict on this record, or a later one of the same post

    @property
    def consistency_token(self) -> bytes:
        """For lookups that must not miss this post."""
        return cursors.of_record(self.source.partition, self.source.offset, self.source.topic_id)


class Submissions:
    """Submits posts."""

    def __init__(self, settings: MediaSettings, view: View, pending: PendingPosts, lookups: Lookups) -> None:
        self._settings = settings
        self._view = view
        self._pending = pending
        self._lookups = lookups

    async def submit(
        self,
        request: pb.ModeratePostRequest,
        permit: Permit,
        trace: Sequence[tuple[str, bytes]],
        until: float,
        body_share: ExitStack,
    ) -> Accepted:
        """Puts the post of a request on the posts topic, once for each request id and tenant.

        `trace`: headers for the post's record. `until`: deadline by the loop's clock. `body_share`: closing it gives
        back what the post holds of its caller's share. The put takes it over, since a put continues when its caller
        leaves.

        Raises RefusedError, PostError, NotAcceptedError and StoreUnavailableError.
        """
        post, request_id = request.post, validation.request_id(request)
        wire.post(post, self._settings)
        post.tenant = permit.caller.tenant_of(post.tenant or None) or ""
        self._lookups.check_ready()
        if permit.caller.tenant is not None:
            await self._check_id_is_free(post.id, permit.caller.tenant)
        source = await self._pending.put(post, request_id, trace, until, body_share)
        position = {source.partition: source.offset}
        return Accepted(source, LookupQuery((post.id,), post.tenant, "", position, source.topic_id))

    async def _check_id_is_free(self, post_id: str, tenant: str) -> None:
        """Raises RefusedError if another tenant has a post of this id: a new verdict would supersede that post's.

        A verdict without a tenant is nobody's: its record may be one that could not be read. What another replica has
        put is known once it is judged: across replicas this is best effort.
        """
        # Twice, before and after the row is read: a pending post may be judged while the row is being read.
        taken = self._pending.is_of_another(post_id, tenant)
        row = (await self._view.find((post_id,))).get(post_id)
        judged = row is not None and row[0] == Kind.VERDICT and row[1] not in ("", tenant)
        if taken or judged or self._pending.is_of_another(post_id, tenant):
            raise forbidden("OTHER_TENANT", "the id of the post belongs to another tenant", field="post.id")
