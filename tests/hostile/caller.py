"""The good caller, as a process: lookups at a steady pace on one connection.

`-m tests.hostile.caller ADDRESS CA TOKEN_FILE PER_SECOND SECONDS`, with `-` for an absent CA or token. Prints JSON:
calls by status code, and their latency in milliseconds. Latency counts from the time at which a call was due, so it
includes the wait for an earlier slow call.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import uvloop

from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1 import moderation_service_pb2_grpc as pb_grpc

POST = "good-post"
TIMEOUT_S = 20.0


async def call(address: str, ca: str, token: str, pace: float, seconds: float) -> dict[str, Any]:
    """Calls, and returns their codes and latencies."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    if ca == "-":
        channel = grpc.aio.insecure_channel(address, options=options)
    else:
        credentials = grpc.ssl_channel_credentials(Path(ca).read_bytes())  # noqa: ASYNC240  before anything runs
        channel = grpc.aio.secure_channel(address, credentials, options=options)
    metadata = () if token == "-" else (("authorization", f"Bearer {Path(token).read_text()}"),)  # noqa: ASYNC240, S105
    codes: Counter[str] = Counter()
    times: list[float] = []
    async with channel:
        stub: Any = pb_grpc.ModerationServiceStub(channel)  # type: ignore[no-untyped-call]
        request = pb.GetVerdictRequest(post_id=POST)

        async def look(due: float, *, counts: bool) -> None:
            try:
                response = await stub.GetVerdict(request, metadata=metadata, timeout=TIMEOUT_S)
                code = "OK" if response.state == pb.LOOKUP_STATE_FOUND else "NOT_FOUND"
            except grpc.aio.AioRpcError as error:
                code = error.code().name
            if counts:
                codes[code] += 1
                times.append(1000 * (time.perf_counter() - due))

        for _ in range(20):  # warms up
            await look(time.perf_counter(), counts=False)
        print("calling", file=sys.stderr, flush=True)
        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for number in range(int(pace * seconds)):
                due = began + number / pace
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.create_task(look(due, counts=True))
    times.sort()
    at = {f"p{share}_ms": round(times[int(len(times) * share / 100)], 2) for share in (50, 99)}
    return {"calls": len(times), "codes": dict(codes), **at, "max_ms": round(times[-1], 2)}


if __name__ == "__main__":
    address, ca, token, pace, seconds = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(call(address, ca, token, float(pace), float(seconds)))))
