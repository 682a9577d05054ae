"""Runs in a pod, from the API's own image: a stock gRPC client, with the service config beside this file and no more.

    python stubs.py ADDRESS PREFIX RATE [HEADLESS]

A thread of each kind makes RATE calls a second: on one connection through the Service, on a connection for every 40
calls, and on one to each pod that the headless Service names. A line a second says what came of it so far, as JSON.
"""

from __future__ import annotations

import collections
import json
import signal
import sys
import threading
import time
from pathlib import Path

import grpc

from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1 import moderation_service_pb2_grpc as pb_grpc

OF_A_CONNECTION = 40
TIMEOUT_S = 10.0
RESOLVE_MS = 5_000  # what protos/README.md asks of clients that use the headless Service


def main(address: str, prefix: str, rate: float, headless: str = "") -> None:
    config = Path(__file__).with_name("service_config.json").read_text()
    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stop.set())
    kinds: dict[str, collections.Counter[str]] = {}

    def ask(target: str, of_a_connection: float, codes: collections.Counter[str]) -> None:
        # Channels with equal options would share one connection.
        options = [("grpc.service_config", config), ("grpc.use_local_subchannel_pool", 1)]
        if target == headless:
            options.append(("grpc.dns_min_time_between_resolutions_ms", RESOLVE_MS))
        while not stop.is_set():
            with grpc.insecure_channel(target, options=options) as channel:
                stub = pb_grpc.ModerationServiceStub(channel)  # type: ignore[no-untyped-call]
                made = 0
                while made < of_a_connection and not stop.wait(1 / rate):
                    made += 1
                    try:
                        stub.GetVerdict(pb.GetVerdictRequest(post_id=f"{prefix}-{made}"), timeout=TIMEOUT_S)
                        codes["OK"] += 1
                    except grpc.RpcError as error:
                        codes[error.code().name] += 1

    kept, new = float("inf"), float(OF_A_CONNECTION)
    asked = [("one connection", address, kept), ("new connections", address, new)]
    asked += [("headless", headless, kept)] if headless else []
    threads = []
    for kind, target, of_a_connection in asked:
        kinds[kind] = collections.Counter()
        threads.append(threading.Thread(target=ask, args=(target, of_a_connection, kinds[kind])))
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(1)
        calls = sum(codes.total() for codes in kinds.values())
        failed = calls - sum(codes["OK"] for codes in kinds.values())
        print(json.dumps({"calls": calls, "failed": failed, "lost": 0, "kinds": kinds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), *sys.argv[4:])
