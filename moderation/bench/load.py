"""Calls one method, so many at a time, for so many seconds, and prints what came back: `-m moderation.bench.load`.

Requests are made before, and answers are not parsed: what is measured is the server, as far as a client in Python
lets it.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from typing import Any

import grpc
import uvloop

from moderation.api.grpc.methods import Methods
from moderation.v1 import moderation_service_pb2 as pb

VARIETY = 2_000  # requests to choose from


def requests(method: str, known: int, keys: int) -> list[bytes]:
    """For posts that are known, drawn from a seed."""
    draw = random.Random(20)  # noqa: S311  a load, no secret
    if method == "GetVerdict":
        return [
            pb.GetVerdictRequest(post_id=post_id(draw.randrange(known))).SerializeToString() for _ in range(VARIETY)
        ]
    batches = ([post_id(draw.randrange(known)) for _ in range(keys)] for _ in range(VARIETY // 10))
    return [pb.BatchGetVerdictsRequest(post_ids=ids).SerializeToString() for ids in batches]


def post_id(number: int) -> str:
    """Of the post with this number."""
    return f"post-{number:08d}"


async def load(address: str, method: str, concurrency: int, seconds: float, known: int, keys: int) -> dict[str, Any]:
    """Counts by status code, calls answered a second, and latencies of the calls that were, in milliseconds."""
    prepared = requests(method, known, keys)
    codes: Counter[str] = Counter()
    times: list[float] = []
    total = [0]  # the warm-up's, too
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        call: Any = channel.unary_unary(f"/{Methods.name}/{method}")
        await channel.channel_ready()

        async def caller(number: int, until: float, *, counts: bool) -> None:
            index = number * 17
            while (started := time.perf_counter()) < until:
                index += 1
                try:
                    await call(prepared[index % len(prepared)], timeout=20)
                    code = "OK"
                except grpc.aio.AioRpcError as error:
                    code = error.code().name
                total[0] += 1
                if counts:
                    codes[code] += 1
                    if code == "OK":
                        times.append(time.perf_counter() - started)

        for span, counts in ((0.5, False), (seconds, True)):  # the first one warms up
            began = time.perf_counter()
            await asyncio.gather(*(caller(number, began + span, counts=counts) for number in range(concurrency)))
        took = time.perf_counter() - began
    times.sort()
    at = {f"p{share}": round(1000 * times[int(len(times) * share / 100)], 3) for share in (50, 99)} if times else {}
    return {"codes": dict(codes), "all": total[0], "per_s": round(len(times) / took, 1), **at}


if __name__ == "__main__":
    address, method, *numbers = sys.argv[1:]
    concurrency, seconds, known, keys = (float(number) for number in numbers)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(load(address, method, int(concurrency), seconds, int(known), int(keys)))
    sys.stdout.write(json.dumps(found) + "\n")
