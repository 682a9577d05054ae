"""What stands between callers and API processes, as in a cluster: a Service's address, and a name in the DNS."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

NAME = "api-headless.test"
A, IN = 1, 1
TTL_S = 1
RESPONSE, NAME_AT_QUESTION = 0x8580, 0xC00C  # authoritative, recursion available, no error; a pointer to the question


class Endpoints:
    """Addresses of this machine, all with one port, that callers are led to. Change `addresses` as a cluster does."""

    def __init__(self, port: int) -> None:
        self.addresses: list[str] = []
        self.port = port
        self.service = ""  # as of the Service `api`: each connection goes to one of the addresses
        self.name = ""  # as of the Service `api-headless`: it resolves to all of them

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answers and forwards until the block ends."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Names(self), local_addr=("127.0.0.1", 0))
        turns = itertools.count()
        streams: set[asyncio.Task[None]] = set()

        def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._forward(reader, writer, next(turns)))
            streams.add(task)
            task.add_done_callback(streams.discard)

        server = await asyncio.start_server(forward, "127.0.0.1", 0)
        self.service = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self.name = f"dns://127.0.0.1:{transport.get_extra_info('sockname')[1]}/{NAME}:{self.port}"
        try:
            yield
        finally:
            transport.close()
            server.close()
            for task in streams:
                task.cancel()
            await asyncio.gather(*streams, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, turn: int) -> None:
        try:
            there = await asyncio.open_connection(self.addresses[turn % len(self.addresses)], self.port)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))
        finally:
            writer.close()
            there[1].close()


class _Names(asyncio.DatagramProtocol):
    """Answers each question: with the addresses for one of type A, without any for another."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        end = data.index(0, 12) + 5  # after the name, its type and its class
        (kind,) = struct.unpack_from("!H", data, end - 4)
        addresses = self._endpoints.addresses if kind == A else []
        header = data[:2] + struct.pack("!5H", RESPONSE, 1, len(addresses), 0, 0)
        record = struct.pack("!3HIH", NAME_AT_QUESTION, A, IN, TTL_S, 4)
        records = b"".join(record + socket.inet_aton(address) for address in addresses)
        self._transport.sendto(header + data[12:end] + records, addr)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()
