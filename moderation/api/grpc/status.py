"""Refusals as gRPC statuses: a code, a fixed text, and google.rpc details for programs."""

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

from moderation.api.errors import RefusalKind, RefusedError

DOMAIN = "moderation.v1"
CODES = {
    RefusalKind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    RefusalKind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    RefusalKind.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    RefusalKind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    RefusalKind.ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    RefusalKind.PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    RefusalKind.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    RefusalKind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    RefusalKind.TOO_SLOW: grpc.StatusCode.DEADLINE_EXCEEDED,
    RefusalKind.UNIMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    RefusalKind.INTERNAL: grpc.StatusCode.INTERNAL,
}

Context = grpc.aio.ServicerContext[Any, Any]


def code_of(refused: RefusedError) -> grpc.StatusCode:
    """The gRPC code of a refusal."""
    return CODES[refused.kind]


def status_of(refused: RefusedError) -> Any:
    """What gRPC sends for a refusal: code, text and trailing metadata."""
    metadata = tuple(refused.metadata.items())
    return _status(CODES[refused.kind], refused.reason, str(refused), refused.field, refused.retry_s, metadata)


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


async def end(context: Context, refused: RefusedError) -> None:
    """Ends a call with the status of a refusal. Raises gRPC's AbortError, or CancelledError if the caller has left."""
    status = status_of(refused)
    try:
        await context.abort(status.code, status.details, status.trailing_metadata)
    except grpc.aio.AbortError:
        raise
    except grpc.aio.BaseError:  # gRPC would log the error with its frames, for each caller who hangs up
        raise asyncio.CancelledError from None
