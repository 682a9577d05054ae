"""What gRPC says of a call, as values: its request, credentials, deadline and trace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from moderation import wire
from moderation.api import validation
from moderation.api.auth import Authenticator, Credentials
from moderation.api.errors import unreadable
from moderation.api.grpc.connections import address_of
from moderation.api.grpc.status import Context
from moderation.errors import PostError
from moderation.types import Detail, Reason
from moderation.v1 import moderation_service_pb2 as pb
from moderation.wire import prescan

LOOKUP_BYTES = 64 << 10  # of a request; a merged consistency token takes the most
BATCH_BYTES = validation.MAX_BATCH * 520 + LOOKUP_BYTES  # an id has up to 512 bytes
POST_PARTS = prescan.nested(pb.ModeratePostRequest)  # the post, and its images


def parser(message: str, *, post: bool) -> Callable[[bytes], Any]:
    """A function that returns a request of this type from its bytes.

    The function raises RefusedError, or PostError. `post`: whether to count the fields before they are parsed.
    """
    from_bytes: Callable[[bytes], Any] = getattr(pb, message).FromString

    def parse(body: bytes) -> Any:
        try:
            if post:
                prescan.check_protobuf(body, POST_PARTS, wire.MAX_ELEMENTS)
            return from_bytes(body)
        except prescan.ShapeError as error:
            detail = Detail.TOO_MANY if isinstance(error, prescan.TooManyError) else Detail.NOT_PROTOBUF
            raise PostError(Reason.INVALID_POST, str(error), detail=detail) from None
        except DecodeError:
            raise unreadable(message) from None

    return parse


def tenant(request: Any) -> str | None:
    """The tenant that a request names; None: it names none."""
    return request.tenant if request.HasField("tenant") else None


def credentials(authenticator: Authenticator, context: Context, peer: str) -> Credentials:
    """What the caller has presented, as far as the authenticator needs it: an open API looks at nothing."""
    address = address_of(peer)
    if not (authenticator.needs_bearers or authenticator.needs_certificates):
        return Credentials(address)
    names, authorization = [], []
    if authenticator.needs_certificates:
        names = [name.decode("utf-8", "replace") for name in context.peer_identities() or ()]
    if authenticator.needs_bearers:
        authorization = [value for name, value in context.invocation_metadata() or () if name == "authorization"]
    return Credentials(address, names, authorization)


def deadline(context: Context, max_wait_s: float) -> float:
    """When to answer at the latest, by the loop's clock: a little before gRPC cancels the call."""
    seconds, remaining = max_wait_s, context.time_remaining()
    if remaining is not None:
        seconds = min(seconds, remaining - min(0.25, remaining / 4))
    return asyncio.get_running_loop().time() + seconds


def trace(context: Context) -> list[tuple[str, bytes]]:
    """The headers of the caller's trace, for the record of a post and on to its verdict."""
    return [
        (name, value.encode())
        for name, value in context.invocation_metadata() or ()
        if name in ("traceparent", "tracestate") and isinstance(value, str)
    ]
