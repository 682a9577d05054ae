"""API processes are replaced, one after the other, under load: no call of a stock gRPC client fails."""

from __future__ import annotations

import asyncio
import threading
import time
from asyncio import to_thread
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from moderation.dev.ports import free_ports
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1 import moderation_service_pb2_grpc as pb_grpc
from tests.support.builders import a_verdict
from tests.support.commands import Role
from tests.support.endpoints import Endpoints
from tests.support.lookups import Api

CONFIG = (Path(__file__).parents[3] / "protos" / "service_config.json").read_text()
REPLACED = 3
CALLERS = 6  # threads of each stub
RESOLVED_MS = 1_000  # between two look-ups of the name. A client's own 30 s are too long where all pods go within them
SETTLED_S = 1.0  # in which callers use the new process
LEAVING_S = 0.5
REFUSED_S = 0.6  # at a stop, where a stub repeats nothing: 0.1 s on an idle machine


class Caller:
    """A stub as protoc makes it, with a service config and nothing else."""

    def __init__(self, target: str, config: str) -> None:
        self.codes: Counter[str] = Counter()
        self.failed: list[float] = []  # when
        self._done = threading.Event()
        options = [("grpc.service_config", config), ("grpc.dns_min_time_between_resolutions_ms", RESOLVED_MS)]
        self._channel = grpc.insecure_channel(target, options=options)
        stub = pb_grpc.ModerationServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._calls = (
            (stub.GetVerdict, pb.GetVerdictRequest(post_id="a")),
            (stub.WaitVerdict, pb.WaitVerdictRequest(post_id="a")),
        )
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CALLERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()
        self._channel.close()

    def _ask(self, number: int) -> None:
        call, request = self._calls[number % len(self._calls)]
        while not self._done.is_set():
            try:
                call(request, timeout=10)
                self.codes["OK"] += 1
            except grpc.RpcError as error:
                self.codes[error.code().name] += 1
                self.failed.append(time.monotonic())


@pytest.fixture
def started(running_api: Api, tmp_path: Path) -> Callable[[str, int], Role]:
    """Starts an API process that listens on an address."""
    kafka = running_api.settings.kafka

    def start(address: str, port: int) -> Role:
        return Role(
            "api",
            environment={
                "MODERATION_KAFKA__BOOTSTRAP": kafka.bootstrap,
                "MODERATION_KAFKA__POSTS_TOPIC": kafka.posts_topic,
                "MODERATION_KAFKA__VERDICTS_TOPIC": kafka.verdicts_topic,
                "MODERATION_API__LISTEN": f"{address}:{port}",
                "MODERATION_API__VIEW": str(tmp_path / f"{address}.sqlite"),
                "MODERATION_API__DRAIN_DELAY_S": str(LEAVING_S),
            },
        )

    return start


async def test_no_call_fails_while_apis_are_replaced(running_api: Api, started: Callable[[str, int], Role]) -> None:
    await running_api.put(a_verdict("a"))
    (port,) = free_ports(1)
    endpoints = Endpoints(port)
    addresses = (f"127.0.0.{number}" for number in range(2, 250))  # of Linux's loopback network
    with ExitStack() as stack:
        running: list[tuple[str, Role]] = []
        longest_s = 0.0

        async def add() -> None:
            address = next(addresses)
            role = stack.enter_context(started(address, port))
            await to_thread(role.wait_for, "api_ready")
            running.append((address, role))
            endpoints.addresses.append(address)

        async with endpoints.running():
            await add()
            await add()
            callers = [Caller(endpoints.service, CONFIG), Caller(endpoints.name, CONFIG)]
            bare = Caller(endpoints.service, "{}")
            for caller in (*callers, bare):
                caller.start()
            try:
                for _ in range(REPLACED):
                    await add()
                    address, role = running.pop(0)
                    endpoints.addresses.remove(address)
                    before = len(bare.failed)
                    assert await to_thread(role.stop) == 0
                    if refused := bare.failed[before:]:
                        longest_s = max(longest_s, refused[-1] - refused[0])
                    await asyncio.sleep(SETTLED_S)
            finally:
                for caller in (*callers, bare):
                    await to_thread(caller.end)
    print(bare.codes, f"refused for {longest_s:.2f} s")
    assert set(bare.codes) <= {"OK", "UNAVAILABLE"}, "no client repeats other codes"
    assert longest_s < REFUSED_S
    for caller in callers:
        print(caller.codes)
        assert set(caller.codes) == {"OK"}
        assert caller.codes["OK"] > 100
