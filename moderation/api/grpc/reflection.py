"""grpc.reflection.v1alpha: the services of the server, for tools. Its calls are admitted like those of a lookup."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection, reflection_pb2

from moderation.api.errors import RefusedError, unreadable
from moderation.api.grpc import status
from moderation.api.grpc.admission import Admission
from moderation.api.grpc.bodies import EndedError
from moderation.api.grpc.status import Context

MAX_REQUEST_BYTES = 4_096
METHOD = "ListPolicies"  # a caller that may list the policies may also list the services


def handlers(admission: Admission, services: Sequence[str]) -> grpc.GenericRpcHandler:
    """What a server needs. `services`: the names to list in addition to this one."""
    servicer: Any = reflection.aio.ReflectionServicer([*services, reflection.SERVICE_NAME])

    async def info(_: object, context: Context) -> None:
        taken = None
        try:
            owner = admission.admit(context, METHOD).owner
            if admission.crowded("watch", owner):
                await admission.hold_off()
            admission.take("watch", owner)
            taken = owner
            admission.check("watch")
            async for response in servicer.ServerReflectionInfo(_requests(admission, owner, context), context):
                await context.write(response.SerializeToString())
        except RefusedError as error:
            await status.end(context, error)
        finally:
            if taken is not None:
                admission.give_back("watch", taken)

    return grpc.method_handlers_generic_handler(
        reflection.SERVICE_NAME, {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(info)}
    )


async def _requests(admission: Admission, owner: str, context: Context) -> AsyncIterator[Any]:
    """The requests of a call, until its caller sends no more."""
    message: Any = reflection_pb2
    while True:
        try:
            body = await admission.lookups.read(context, owner, MAX_REQUEST_BYTES)
            yield message.ServerReflectionRequest.FromString(body)
        except EndedError:
            return
        except DecodeError:
            raise unreadable("ServerReflectionRequest") from None
