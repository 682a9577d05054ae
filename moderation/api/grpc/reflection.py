"""grpc.reflection.v1alpha: what the server has, for tools. Its callers are let in as those of a lookup are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection, reflection_pb2

from moderation.api.auth import Context
from moderation.api.grpc import status
from moderation.api.grpc.admission import Admission
from moderation.api.grpc.bodies import EndedError
from moderation.api.grpc.status import RefusedError

MAX_REQUEST_BYTES = 4_096
METHOD = "ListPolicies"  # who may read what the API judges by may read what it can be asked


def handlers(admission: Admission, services: Sequence[str]) -> grpc.GenericRpcHandler:
    """What a server is given. `services`: those to list in addition to this one."""
    servicer: Any = reflection.aio.ReflectionServicer([*services, reflection.SERVICE_NAME])

    async def info(_: object, context: Context) -> None:
        taken = None
        try:
            _caller, owner = admission.caller(context, METHOD)
            if admission.crowded("watch", owner):
                await admission.hold_off()
            admission.take("watch", owner)
            taken = owner
            admission.check("watch")
            async for answer in servicer.ServerReflectionInfo(_asked(admission, owner, context), context):
                await context.write(answer.SerializeToString())
        except RefusedError as error:
            await status.end(context, error)
        finally:
            if taken is not None:
                admission.give_back("watch", taken)

    return grpc.method_handlers_generic_handler(
        reflection.SERVICE_NAME, {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(info)}
    )


async def _asked(admission: Admission, owner: str, context: Context) -> AsyncIterator[Any]:
    """The requests of a call, until the caller has no more."""
    message: Any = reflection_pb2
    while True:
        try:
            body = await admission.lookups.read(context, owner, MAX_REQUEST_BYTES)
            yield message.ServerReflectionRequest.FromString(body)
        except EndedError:
            return
        except DecodeError:
            text = "the request is no ServerReflectionRequest"
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", text) from None
