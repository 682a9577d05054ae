"""Reflection as tools use it: both versions list the services, and describe each kind of symbol."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tests.support.lookups import SERVICE, Api

message: Any = reflection_pb2  # half typed. v1 has the same messages
VERSIONS = ("v1", "v1alpha")
SERVICES = {SERVICE, "grpc.health.v1.Health", *(f"grpc.reflection.{each}.ServerReflection" for each in VERSIONS)}
SYMBOLS = {
    SERVICE: "moderation/v1/moderation_service.proto",
    f"{SERVICE}.GetVerdict": "moderation/v1/moderation_service.proto",
    "moderation.v1.Verdict": "moderation/v1/verdict.proto",
    "moderation.v1.Verdict.post_id": "moderation/v1/verdict.proto",
    "moderation.v1.Change.change": "moderation/v1/moderation_service.proto",
    "moderation.v1.Outcome": "moderation/v1/verdict.proto",
    "moderation.v1.OUTCOME_REMOVE": "moderation/v1/verdict.proto",
    "moderation.v1.Position.PostsEntry": "moderation/v1/moderation_service.proto",
    "google.protobuf.Timestamp": "google/protobuf/timestamp.proto",
    "grpc.health.v1.Health.Check": "grpc_health/v1/health.proto",
    "grpc.reflection.v1.ServerReflection.ServerReflectionInfo": "grpc/reflection/v1/reflection.proto",
    "grpc.reflection.v1.ServerReflectionRequest": "grpc/reflection/v1/reflection.proto",
}
UNKNOWN = ("", "moderation.v1", "moderation.v1.Nothing", f"{SERVICE}.Nothing", "Nothing.Nothing")


@pytest.mark.parametrize("version", VERSIONS)
async def test_reflection_lists_the_services_and_describes_every_symbol(running_api: Api, version: str) -> None:
    async with running_api.running() as channel:
        call: Any = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=message.ServerReflectionRequest.SerializeToString,
            response_deserializer=message.ServerReflectionResponse.FromString,
        )

        async def ask(**request: str) -> Any:
            (response,) = [each async for each in call(iter([message.ServerReflectionRequest(**request)]))]
            return response

        listed = await ask(list_services="")
        assert {service.name for service in listed.list_services_response.service} == SERVICES
        for symbol, file in SYMBOLS.items():
            found = (await ask(file_containing_symbol=symbol)).file_descriptor_response.file_descriptor_proto
            files = {each.name: each for each in map(descriptor_pb2.FileDescriptorProto.FromString, found)}
            assert file in files, symbol
            assert all(needed in files for each in files.values() for needed in each.dependency), symbol
        by_name = await ask(file_by_filename="grpc/reflection/v1/reflection.proto")
        (file_,) = map(
            descriptor_pb2.FileDescriptorProto.FromString, by_name.file_descriptor_response.file_descriptor_proto
        )
        assert file_.package == "grpc.reflection.v1"
        for symbol in UNKNOWN:
            error = (await ask(file_containing_symbol=symbol)).error_response
            assert error.error_code == grpc.StatusCode.NOT_FOUND.value[0], symbol
