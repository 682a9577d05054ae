"""grpc.reflection, v1 and v1alpha: the services of the server, for tools. Calls are admitted like those of a lookup.

Both versions have the same messages under another package. The library has v1alpha alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection, reflection_pb2

from moderation.api.errors import RefusedError, unreadable
from moderation.api.grpc import status
from moderation.api.grpc.admission import Admission
from moderation.api.grpc.bodies import EndedError
from moderation.api.grpc.status import Context

MAX_REQUEST_BYTES = 4_096
METHOD = "ListPolicies"  # a caller that may list the policies may also list the services
V1ALPHA, V1 = "grpc.reflection.v1alpha", "grpc.reflection.v1"
SERVICES = tuple(f"{package}.ServerReflection" for package in (V1, V1ALPHA))


class Descriptors:
    """The descriptors of this process, with those of grpc.reflection.v1. Every method raises KeyError."""

    def __init__(self) -> None:
        self._known: Any = descriptor_pool.Default()
        # A pool of its own: another library may bring this file, too, and a pool takes one file of a name.
        self._v1: Any = descriptor_pool.DescriptorPool()
        self._v1.Add(_v1())

    def FindFileByName(self, name: str) -> Any:
        """The file of this name."""
        return self._found("FindFileByName", name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        """The file that a symbol stands in. protobuf's own pool does not find methods."""
        try:
            return self._found("FindFileContainingSymbol", symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            found = self._found("FindServiceByName", service)
            if method not in found.methods_by_name:
                raise
            return found.file

    def FindMessageTypeByName(self, name: str) -> Any:
        """The message of this name."""
        return self._found("FindMessageTypeByName", name)

    def FindExtensionByNumber(self, message: Any, number: int) -> Any:
        """The extension of a message with this number."""
        return self._known.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Any) -> Any:
        """The extensions of a message."""
        return self._known.FindAllExtensions(message)

    def _found(self, method: str, name: str) -> Any:
        try:
            return getattr(self._known, method)(name)
        except KeyError:
            return getattr(self._v1, method)(name)


def _v1() -> descriptor_pb2.FileDescriptorProto:
    """The file of v1, which is that of v1alpha under other names."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file = json_format.Parse(json_format.MessageToJson(file).replace(V1ALPHA, V1), descriptor_pb2.FileDescriptorProto())
    file.name = "grpc/reflection/v1/reflection.proto"
    return file


def handlers(admission: Admission, services: Sequence[str]) -> list[grpc.GenericRpcHandler]:
    """What a server needs. `services`: the names to list in addition to these."""
    servicer: Any = reflection.aio.ReflectionServicer([*services, *SERVICES], Descriptors())

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

    handler: dict[str, Any] = {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(info)}
    return [grpc.method_handlers_generic_handler(service, handler) for service in SERVICES]


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
