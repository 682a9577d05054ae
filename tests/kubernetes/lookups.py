"""Runs in a pod, from the API's own image: looks posts up through the Service, over new connections.

    python lookups.py ADDRESS PREFIX RATE

Posts are called PREFIX-0, PREFIX-1, ... A line a second says what came of it so far, as JSON: `failed` counts calls
that raised in the client, `lost` posts that had been found OLD_S before or earlier, and are not any more.
"""

from __future__ import annotations

import asyncio
import collections
import json
import signal
import sys
import time

from moderation.client import CallError, Client
from moderation.v1.moderation_service_pb2 import LookupState

OF_A_CONNECTION = 40
OLD_S = 10.0  # replicas receive a verdict within milliseconds of each other, not at the same time


async def main(address: str, prefix: str, rate: float) -> None:
    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    counts = dict.fromkeys(("calls", "failed", "found", "lost"), 0)
    codes: collections.Counter[str] = collections.Counter()
    seen: list[float] = []  # when each post was first found, by number
    printed = time.monotonic()
    while not stop.is_set():
        async with Client(address) as client:
            for call in range(OF_A_CONNECTION):
                # In turn one that is to come, and one of old.
                old = [number for number in range(call % 7, len(seen), 7) if time.monotonic() - seen[number] > OLD_S]
                number = old[(call * 31) % len(old)] if old and call % 2 else len(seen)
                counts["calls"] += 1
                try:
                    result = await client.get(f"{prefix}-{number}")
                except CallError as error:
                    counts["failed"] += 1
                    codes[error.code.name] += 1
                else:
                    if result.state == LookupState.LOOKUP_STATE_FOUND:
                        if number == len(seen):
                            seen.append(time.monotonic())
                            counts["found"] += 1
                    elif number < len(seen):
                        counts["lost"] += 1
                if time.monotonic() - printed > 1:
                    printed = time.monotonic()
                    print(json.dumps(counts | {"codes": codes}), flush=True)
                await asyncio.sleep(1 / rate)
                if stop.is_set():
                    break
    print(json.dumps(counts | {"codes": codes}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
