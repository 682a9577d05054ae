"""Why a call is refused, for people and for programs: a code, a fixed text, and google.rpc details."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import lru_cache
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "moderation.v1"


class RefusedError(Exception):
    """A call that ends with a status. `reason` is an ErrorReason without its prefix; nothing here holds content."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        text: str,
        *,
        field: str = "",
        retry_s: float | None = None,
        **metadata: str,
    ) -> None:
        super().__init__(text)
        self.code = code
        self.reason = reason
        self.field = field  # of the request, that breaks a rule
        self.retry_s = retry_s  # when to try again
        self.metadata = metadata

    def status(self) -> Any:
        """What gRPC sends: code, text and trailing metadata."""
        return _status(self.code, self.reason, str(self), self.field, self.retry_s, tuple(self.metadata.items()))


@lru_cache(maxsize=256)  # under an attack, the same few are sent again and again
def _status(
    code: grpc.StatusCode,
    reason: str,
    text: str,
    field: str,
    retry_s: float | None,
    metadata: tuple[tuple[str, str], ...],
) -> Any:
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=dict(metadata))]
    if field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=text)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if retry_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromTimedelta(timedelta(seconds=retry_s))
        details.append(retry)
    packed = []
    for detail in details:
        packed.append(Packed())
        packed[-1].Pack(detail)
    return rpc_status.to_status(status_pb2.Status(code=code.value[0], message=text, details=packed))


async def end(context: grpc.aio.ServicerContext[Any, Any], refused: RefusedError) -> None:
    """Ends a call with this status. Raises what gRPC raises then, or CancelledError if the caller has left."""
    status = refused.status()
    try:
        await context.abort(status.code, status.details, status.trailing_metadata)
    except grpc.aio.AbortError:
        raise
    except grpc.aio.BaseError:  # gRPC would log it with its frames, for each caller who hangs up
        raise asyncio.CancelledError from None


def invalid(field: str, problem: str) -> RefusedError:
    """A field breaks its rule."""
    return RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", f"{field} {problem}", field=field)


def bad_token(field: str) -> RefusedError:
    """A token is none that we gave."""
    text = f"{field} is none that this service gave, or is of another query"
    return RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_CURSOR", text, field=field)


def exhausted(reason: str, text: str, retry_s: float) -> RefusedError:
    """There is no room now."""
    return RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, reason, text, retry_s=retry_s)


def unavailable(reason: str, text: str, retry_s: float = 1.0) -> RefusedError:
    """Not now; the same call again is safe."""
    return RefusedError(grpc.StatusCode.UNAVAILABLE, reason, text, retry_s=retry_s)
