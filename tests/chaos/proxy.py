"""A TCP proxy before one broker that knows where a Kafka request begins, what it asks and which reply is its own."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from types import TracebackType
from typing import Any, Self

from aiokafka.protocol.transaction import AddPartitionsToTxnRequest_v0, TxnOffsetCommitRequest_v0
from aiokafka.protocol.types import Int16, Int32, Int64, String

APIS = {
    "Produce": 0,
    "Fetch": 1,
    "ListOffsets": 2,
    "Metadata": 3,
    "OffsetFetch": 9,
    "FindCoordinator": 10,
    "JoinGroup": 11,
    "Heartbeat": 12,
    "LeaveGroup": 13,
    "SyncGroup": 14,
    "InitProducerId": 22,
    "AddPartitionsToTxn": 24,
    "AddOffsetsToTxn": 25,
    "EndTxn": 26,
    "TxnOffsetCommit": 28,
}
NAMES = {key: name for name, key in APIS.items()}

# The broker never sees the request: the connection is cut in place of an answer, or nothing happens at all.
LOSE_REQUEST, SWALLOW = "lose request", "swallow"
# It has done what it was asked, and the client does not learn of it.
LOSE_REPLY = "lose reply"
# The connection is cut at once, and the broker gets the request `seconds` later.
LATE = "late"
# All is well, after `seconds`.
DELAY = "delay"
# Never forwarded: the proxy replies with the error `code`.
REFUSE = "refuse"
# The broker has done it, and the reply says `code`.
LIE = "lie"
# A byte of the reply is another.
CORRUPT = "corrupt"


@dataclass
class Rule:
    """What happens to requests of one kind, until it has happened `times`."""

    api: str
    action: str
    chance: float = 1.0
    times: int = 1
    seconds: float = 0.0
    code: int = 0

    def __str__(self) -> str:
        """As it is counted."""
        return f"{self.action} {self.api}"


class Proxy:
    """Listens for one broker while its context lasts."""

    def __init__(self, port: int, upstream: int, seed: int = 0) -> None:
        self._port = port
        self._upstream = upstream
        self._random = random.Random(seed)
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.rules: list[Rule] = []
        self.struck: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Cuts every connection, also in the middle of a request."""
        for connection in tuple(self._connections):
            connection.cut()

    def rule_for(self, api: int) -> Rule | None:
        """The first one that strikes this request; it is used up by that."""
        for rule in self.rules:
            if rule.times > 0 and APIS[rule.api] == api and self._random.random() < rule.chance:
                rule.times -= 1
                self.struck[str(rule)] += 1
                return rule
        return None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, downstream = await asyncio.open_connection("127.0.0.1", self._upstream, limit=1 << 20)
        except OSError:
            writer.close()
            return
        connection = _Connection(self, writer, downstream)
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(connection.requests(reader))
                both.create_task(connection.replies(upstream))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections.discard(connection)
            connection.cut()
            downstream.close()


class _Connection:
    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter, broker: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = client
        self._broker = broker
        self._replies: dict[int, Rule] = {}  # by correlation id, what is to happen to a reply

    def cut(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone, and the connection with it
            self._client.transport.abort()

    async def requests(self, reader: asyncio.StreamReader) -> None:
        """Ends the broker's connection when the client's ends, but only after what it had asked is passed on."""
        try:
            while True:
                frame = await _frame(reader)
                api, version, correlation = struct.unpack_from(">hhi", frame, 4)
                rule = self._proxy.rule_for(api)
                if rule is None:
                    self._broker.write(frame)
                elif rule.action == LOSE_REQUEST:
                    self.cut()
                elif rule.action == REFUSE:
                    self._client.write(_refusal(api, version, correlation, frame, rule.code))
                elif rule.action in (LATE, DELAY):
                    if rule.action == LATE:
                        self.cut()
                    await asyncio.sleep(rule.seconds)
                    self._broker.write(frame)
                elif rule.action != SWALLOW:
                    self._replies[correlation] = rule
                    self._broker.write(frame)
                await self._broker.drain()
        finally:
            self._broker.close()

    async def replies(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                frame = bytearray(await _frame(reader))
                rule = self._replies.pop(struct.unpack_from(">i", frame, 4)[0], None)
                if rule and rule.action == LOSE_REPLY:
                    self.cut()
                elif rule and rule.action == LIE:
                    struct.pack_into(">h", frame, 12, rule.code)  # after length, correlation id and throttle time
                elif rule and rule.action == CORRUPT:
                    frame[-1] ^= 0xFF
                if not self._client.is_closing():
                    self._client.write(bytes(frame))
                    with contextlib.suppress(OSError):
                        await self._client.drain()
        finally:
            self.cut()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """Length and all."""
    head = await reader.readexactly(4)
    return head + await reader.readexactly(struct.unpack(">i", head)[0])


def _refusal(api: int, version: int, correlation: int, request: bytes, code: int) -> bytes:
    """A reply of version 0, which is all that aiokafka speaks of these, with one error wherever there can be one."""
    if api == APIS["OffsetFetch"] and version == 3:  # no topics, and the error of the group as a whole
        body = Int32.encode(correlation) + Int32.encode(0) + Int32.encode(0) + Int16.encode(code)
        return bytes(Int32.encode(len(body)) + body)
    if version != 0:
        raise ValueError(f"no refusal for {NAMES[api]} {version}")
    body = Int32.encode(correlation) + Int32.encode(0)
    if api in (APIS["EndTxn"], APIS["AddOffsetsToTxn"]):
        body += Int16.encode(code)
    elif api == APIS["InitProducerId"]:
        body += Int16.encode(code) + Int64.encode(-1) + Int16.encode(-1)
    else:
        body += _per_partition(api, request, code)
    return bytes(Int32.encode(len(body)) + body)


def _per_partition(api: int, request: bytes, code: int) -> bytes:
    stream = BytesIO(request[12:])
    String("utf-8").decode(stream)  # the client's id
    if api == APIS["AddPartitionsToTxn"]:
        topics: Iterable[Any] = AddPartitionsToTxnRequest_v0.decode(stream).topics
        asked = [(topic, list(partitions)) for topic, partitions in topics]
    elif api == APIS["TxnOffsetCommit"]:
        topics = TxnOffsetCommitRequest_v0.decode(stream).topics
        asked = [(topic, [entry[0] for entry in partitions]) for topic, partitions in topics]
    else:
        raise ValueError(f"no refusal for {NAMES[api]}")
    body: bytes = Int32.encode(len(asked))
    for topic, partitions in asked:
        body += String("utf-8").encode(topic) + Int32.encode(len(partitions))
        for partition in partitions:
            body += Int32.encode(partition) + Int16.encode(code)
    return body
