"""One connection of a hostile client: it sends any frames, keeps to the server's flow control, and counts responses."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.support import frames

CLOSED = (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)


class Connection:
    """Counts in `received` what the server sends. `closed` is set once the server has closed the connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received: Counter[str] = Counter()
        self.closed = asyncio.Event()
        self.limit: int | None = None  # concurrent streams that the server permits; None: not known yet
        self._reader = reader
        self._writer = writer
        self._window = frames.WINDOW
        self._initial = frames.WINDOW
        self._windows: dict[int, int] = {}  # by stream
        self._moved = asyncio.Event()
        self._ended: set[int] = set()
        self._next = 1

    def stream(self) -> int:
        """The number of a new stream."""
        number, self._next = self._next, self._next + 2
        self._windows[number] = self._initial
        return number

    @property
    def ended(self) -> int:
        """Streams that the server has ended."""
        return len(self._ended)

    async def write(self, data: bytes) -> None:
        """Sends, and waits while the socket is full. Raises ConnectionError once the connection is closed."""
        if self.closed.is_set() or self._writer.transport.is_closing():
            raise ConnectionResetError
        self._writer.write(data)
        await self._writer.drain()

    async def open(self, path: str, *metadata: tuple[str, str], end: bool = False, body: bytes = b"") -> int:
        """Opens a stream with these headers, and ends it with the body if there is one. Returns its number."""
        number = self.stream()
        flags = frames.END_HEADERS | (frames.END_STREAM if end else 0)
        await self.write(frames.frame(frames.HEADERS, flags, number, frames.request(path, *metadata)))
        if body:
            await self.write(frames.frame(frames.DATA, frames.END_STREAM, number, body))
        return number

    async def send(self, stream: int, data: bytes, *, end: bool = False) -> int:
        """Sends a body as far as the server's windows let it; returns the bytes sent before the stream ended."""
        sent = 0
        while sent < len(data) and stream not in self._ended:
            room = min(self._window, self._windows.get(stream, 0), 16_384, len(data) - sent)
            if room <= 0:
                self._moved.clear()
                await self._moved.wait()
                if self.closed.is_set():
                    raise ConnectionResetError
                continue
            self._window -= room
            self._windows[stream] -= room
            last = end and sent + room == len(data)
            part = data[sent : sent + room]
            await self.write(frames.frame(frames.DATA, frames.END_STREAM if last else 0, stream, part))
            sent += room
        return sent

    async def read(self) -> None:
        """Reads what the server sends, until it hangs up."""
        try:
            while True:
                head = await self._reader.readexactly(9)
                length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
                number = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
                self._heard(kind, flags, number, await self._reader.readexactly(length))
        except CLOSED:
            self.received["closed"] += 1
        finally:
            self.closed.set()
            self._moved.set()

    def _heard(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == frames.SETTINGS and not flags & frames.ACK:
            self._settings(payload)
            self._writer.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        elif kind == frames.PING and not flags & frames.ACK:
            self._writer.write(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.PING:
            self.received["ponged"] += 1
        elif kind == frames.WINDOW_UPDATE:
            (more,) = struct.unpack(">I", payload)
            if number:
                self._windows[number] = self._windows.get(number, 0) + more
            else:
                self._window += more
            self._moved.set()
        elif kind == frames.RST_STREAM or (kind == frames.HEADERS and flags & frames.END_STREAM):
            self.received["refused" if kind == frames.RST_STREAM else "answered"] += 1
            self._ended.add(number)
            self._moved.set()
        elif kind == frames.GOAWAY:
            self.received["goaway"] += 1

    def _settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == frames.INITIAL_WINDOW_SIZE:
                for stream in self._windows:
                    self._windows[stream] += value - self._initial
                self._initial = value
                self._moved.set()
            elif name == frames.MAX_CONCURRENT_STREAMS:
                self.limit = value


@asynccontextmanager
async def connected(address: str, tls: ssl.SSLContext | None, source: str = "127.0.0.1") -> AsyncIterator[Connection]:
    """A connection on which the preface is exchanged. `source`: the address that it comes from."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=tls, server_hostname="localhost" if tls else None, local_addr=(source, 0)
    )
    connection = Connection(reader, writer)
    reading = asyncio.create_task(connection.read())
    try:
        await connection.write(frames.PREFACE + frames.frame(frames.SETTINGS, 0, 0))
        yield connection
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        writer.transport.abort()


def trusting(ca: str) -> ssl.SSLContext:
    """TLS as a gRPC client speaks it. `ca`: a file."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    return context
