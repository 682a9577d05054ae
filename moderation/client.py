"""A typed client of the API, as small as the command line needs it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import grpc

from moderation.errors import ModerationError
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1 import moderation_service_pb2_grpc as pb_grpc
from moderation.v1.post_pb2 import Post

TIMEOUT_S = 10.0
BATCH = 1_000


class CallError(ModerationError):
    """The API cannot be reached, or says no."""


class Client:
    """Calls one API. Every method raises CallError."""

    def __init__(self, address: str) -> None:
        self._address = address
        # No limits of our own: a batch of verdicts or a post with images may be larger than gRPC's 4 MiB.
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.aio.insecure_channel(address, options=unlimited)
        self._stub = pb_grpc.ModerationServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def get(self, post_id: str) -> pb.LookupResult:
        """What is known of one post."""
        (result,) = await self.get_many([post_id])
        return result

    async def get_many(self, post_ids: Sequence[str]) -> list[pb.LookupResult]:
        """What is known of each post, in the order asked."""
        results: list[pb.LookupResult] = []
        with self._explained():
            for start in range(0, len(post_ids), BATCH):
                request = pb.BatchGetVerdictsRequest(post_ids=post_ids[start : start + BATCH])
                answer = await self._stub.BatchGetVerdicts(request, timeout=TIMEOUT_S)
                results += answer.results
        return results

    async def moderate(self, post: Post, timeout: float) -> pb.ModeratePostResponse:
        """The verdict for a post, or PENDING when there is none within `timeout` seconds."""
        with self._explained():
            answer: pb.ModeratePostResponse = await self._stub.ModeratePost(
                pb.ModeratePostRequest(post=post), timeout=timeout
            )
            return answer

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise CallError(f"{self._address}: {error.code().name}: {error.details()}") from None
