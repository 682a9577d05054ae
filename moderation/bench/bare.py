"""The least that answers over grpc.aio: a constant of so many bytes to every call. `python -m moderation.bench.bare`.

Prints its port. It reads each request and keeps no state; it runs on the event loop that the API runs on.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import uvloop

from moderation.api.grpc.methods import Methods
from moderation.v1 import moderation_service_pb2 as pb


async def serve(point_bytes: int, batch_bytes: int) -> None:
    """Until it is killed."""
    point, batch = b"\x00" * point_bytes, b"\x00" * batch_bytes

    async def get(request: pb.GetVerdictRequest, context: Any) -> bytes:
        return point

    async def get_many(request: pb.BatchGetVerdictsRequest, context: Any) -> bytes:
        return batch

    server = grpc.aio.server()
    methods: dict[str, Any] = {
        "GetVerdict": grpc.unary_unary_rpc_method_handler(get, pb.GetVerdictRequest.FromString),
        "BatchGetVerdicts": grpc.unary_unary_rpc_method_handler(get_many, pb.BatchGetVerdictsRequest.FromString),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(Methods.name, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1]), int(sys.argv[2])))
