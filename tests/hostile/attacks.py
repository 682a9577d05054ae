"""Attacks of hostile clients. Each runs until it is cancelled, or ends by itself, and counts what it has done.

All are bounded: in connections, in bytes and in frames a second. When the server closes a connection, an attack goes on
with a new one after RETRY_S.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1.post_pb2 import Image, Post
from tests.support import frames
from tests.support.connection import CLOSED, Connection, connected

SERVICE = "/moderation.v1.ModerationService"
GET, MODERATE = f"{SERVICE}/GetVerdict", f"{SERVICE}/ModeratePost"
CHECK, HEALTH_WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
STREAMS = 4_488
BODIES = 60
BODY = 19 << 20
RETRY_S = 0.05
MANY = 500  # connections
FRAMES_PER_S = 20_000
GONE = (*CLOSED, OSError, TimeoutError)


@dataclass
class Target:
    """An API and what the attacker knows of it."""

    address: str
    tls: ssl.SSLContext | None = None
    token: str = ""  # of an authenticated attacker; empty: the attacker has no credentials
    source: str = "127.0.0.1"  # the address that it comes from
    scale: float = 1.0  # of connections, streams and bodies
    done: Counter[str] = field(default_factory=Counter)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What its calls carry."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def many(self, count: int) -> range:
        """So many, scaled."""
        return range(max(1, int(count * self.scale)))


Attack = Callable[[Target], Awaitable[None]]


async def _again(target: Target, once: Callable[[Connection], Awaitable[None]]) -> None:
    """Runs `once` on one connection after the other."""
    while True:
        try:
            async with connected(target.address, target.tls, target.source) as connection:
                target.done["connections"] += 1
                try:
                    await once(connection)
                    await connection.closed.wait()
                finally:
                    target.done.update(connection.received)
        except GONE:
            target.done["hung up"] += 1
        await asyncio.sleep(RETRY_S)


async def _hold(target: Target, connection: Connection, start: Callable[[], Awaitable[object]], share: int = 1) -> None:
    """Opens streams until 4,488 are open, and others for those that end; 3,000 a second. Divided by `share`."""
    limit, opened = len(target.many(STREAMS // share)), 0
    while not connection.closed.is_set():
        for _ in range(min(60 // share, limit - opened + connection.ended)):
            await start()
            opened += 1
            target.done["streams"] += 1
        await asyncio.sleep(0.02)


async def watches(target: Target) -> None:
    """Streams of the health service's Watch, 4,488 on one connection, and held."""

    async def once(connection: Connection) -> None:
        async def start() -> None:
            stream = await connection.open(HEALTH_WATCH, *target.metadata)
            await connection.send(stream, frames.message(b""), end=True)

        await _hold(target, connection, start)

    await _again(target, once)


async def checks(target: Target) -> None:
    """The health service's Check without a body, 4,488 streams over eight connections, and held."""

    async def once(connection: Connection) -> None:
        await _hold(target, connection, lambda: connection.open(CHECK), share=8)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(8):
            tasks.create_task(_again(target, once))


async def headers_alone(target: Target) -> None:
    """GetVerdict without a body, 4,488 on one connection, and held."""

    async def once(connection: Connection) -> None:
        await _hold(target, connection, lambda: connection.open(GET, *target.metadata))

    await _again(target, once)


def _post(text_bytes: int) -> bytes:
    post = Post(id="hostile", text="a" * text_bytes)
    return pb.ModeratePostRequest(post=post).SerializeToString()


async def unfinished_bodies(target: Target) -> None:
    """60 bodies of ModeratePost, 19 MiB each less the last byte, each on a connection of its own, and held."""
    body = frames.message(_post(BODY))[:-1]

    async def once(connection: Connection) -> None:
        stream = await connection.open(MODERATE, *target.metadata)
        target.done["bytes"] += await connection.send(stream, body)

    async with asyncio.TaskGroup() as tasks:
        for _ in target.many(BODIES):
            tasks.create_task(_again(target, once))


async def unfinished_lookups(target: Target) -> None:
    """The same as GetVerdict, ten on a connection."""
    body = frames.message(_post(BODY))[:-1]

    async def once(connection: Connection) -> None:
        async def send() -> None:
            stream = await connection.open(GET, *target.metadata)
            target.done["bytes"] += await connection.send(stream, body)

        await asyncio.gather(*(send() for _ in range(10)))

    async with asyncio.TaskGroup() as tasks:
        for _ in target.many(BODIES // 10):
            tasks.create_task(_again(target, once))


async def bombs(target: Target) -> None:
    """Compressed messages, 19 kB that become 19 MiB of text, at 0.5 MB/s."""
    bomb = gzip.compress(_post(BODY), 9)
    packed = frames.message(bomb, compressed=True)

    async def once(connection: Connection) -> None:
        due = time.monotonic()
        while True:
            stream = await connection.open(MODERATE, ("grpc-encoding", "gzip"), *target.metadata)
            target.done["bytes"] += await connection.send(stream, packed, end=True)
            target.done["messages"] += 1
            due += len(packed) / 500_000
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    await _again(target, once)


async def many_small_parts(target: Target) -> None:
    """Whole bodies of 8 MiB that hold four million empty images: they become some hundred MiB. Two a second."""
    body = frames.message(b"\x0a\x80\x80\x80\x04" + b"\x1a\0" * (4 << 20))

    async def once(connection: Connection) -> None:
        while True:
            stream = await connection.open(MODERATE, *target.metadata)
            target.done["bytes"] += await connection.send(stream, body, end=True)
            await asyncio.sleep(0.5)

    await _again(target, once)


async def whole_posts(target: Target) -> None:
    """Whole bodies of 4 x 4.5 MB of image, which are accepted and wait for their verdicts; two at a time."""
    images = [Image(data=b"x" * 4_500_000)] * 4

    async def once(connection: Connection) -> None:
        for number in itertools.count():
            post = Post(id=f"hostile-{number}", images=images)
            body = frames.message(pb.ModeratePostRequest(post=post).SerializeToString())
            stream = await connection.open(MODERATE, *target.metadata)
            target.done["bytes"] += await connection.send(stream, body, end=True)
            await asyncio.sleep(0.25)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(_again(target, once))


async def slow_bodies(target: Target) -> None:
    """One byte a second of a body, 200 streams on each of four connections."""
    body = frames.message(pb.GetVerdictRequest(post_id="x" * 300).SerializeToString())

    async def once(connection: Connection) -> None:
        streams = [await connection.open(GET, *target.metadata) for _ in target.many(200)]
        target.done["streams"] += len(streams)
        for byte in body:
            for stream in streams:
                await connection.send(stream, bytes((byte,)))
            await asyncio.sleep(1)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(_again(target, once))


async def silent_connections(target: Target) -> None:
    """500 connections that say nothing: half-open handshakes where there is TLS."""
    host, _, port = target.address.rpartition(":")

    async def once() -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(host, int(port), local_addr=(target.source, 0))
                target.done["connections"] += 1
                try:
                    while await reader.read(4_096):
                        pass
                finally:
                    writer.transport.abort()
                target.done["hung up"] += 1
            except GONE:
                target.done["refused"] += 1
            await asyncio.sleep(1)

    async with asyncio.TaskGroup() as tasks:
        for _ in target.many(MANY):
            tasks.create_task(once())


async def idle_connections(target: Target) -> None:
    """500 connections that exchange the preface and then ask for nothing."""

    async def idle() -> None:
        while True:
            try:
                async with connected(target.address, target.tls, target.source) as connection:
                    target.done["connections"] += 1
                    await connection.closed.wait()
                target.done["hung up"] += 1
            except GONE:
                target.done["refused"] += 1
            await asyncio.sleep(1)

    async with asyncio.TaskGroup() as tasks:
        for _ in target.many(MANY):
            tasks.create_task(idle())


async def slow_headers(target: Target) -> None:
    """One byte a second of a header block, on 200 connections."""
    head = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, frames.request(GET, ("x", "y" * 300)))

    async def once(connection: Connection) -> None:
        for byte in head:
            await connection.write(bytes((byte,)))
            await asyncio.sleep(1)

    async with asyncio.TaskGroup() as tasks:
        for _ in target.many(200):
            tasks.create_task(_again(target, once))


def _flood(make: Callable[[Connection], bytes], per_write: int = 50) -> Attack:
    """Frames at FRAMES_PER_S."""

    async def attack(target: Target) -> None:
        async def once(connection: Connection) -> None:
            due = time.monotonic()
            while True:
                await connection.write(b"".join(make(connection) for _ in range(per_write)))
                target.done["frames"] += per_write
                due += per_write / FRAMES_PER_S
                await asyncio.sleep(max(0.0, due - time.monotonic()))

        await _again(target, once)

    return attack


def _reset(connection: Connection) -> bytes:
    stream = connection.stream()
    return frames.frame(frames.HEADERS, frames.END_HEADERS, stream, frames.request(GET)) + frames.frame(
        frames.RST_STREAM, 0, stream, b"\0\0\0\x08"
    )


pings = _flood(lambda _: frames.frame(frames.PING, 0, 0, b"hostile."))
settings = _flood(lambda _: frames.frame(frames.SETTINGS, 0, 0))
rapid_resets = _flood(_reset)


async def continuations(target: Target) -> None:
    """A header block that never ends."""

    async def once(connection: Connection) -> None:
        await connection.write(frames.frame(frames.HEADERS, 0, connection.stream(), frames.request(GET)))
        due = time.monotonic()
        while True:
            part = frames.block([("x-hostile", "y" * 8_000)])
            await connection.write(frames.frame(frames.CONTINUATION, 0, 1, part))
            target.done["frames"] += 1
            due += 1 / 2_000
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    await _again(target, once)


async def large_metadata(target: Target) -> None:
    """Calls with 15 kB of metadata each, below the limit, 500 a second."""

    async def once(connection: Connection) -> None:
        due = time.monotonic()
        while True:
            await connection.open(GET, ("x-hostile", "y" * 15_000), end=True)
            target.done["streams"] += 1
            due += 1 / 500
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    await _again(target, once)


async def refused_calls(target: Target) -> None:
    """Whole calls, as many as 2,000 a second on four connections; a new connection as soon as the server closes one."""
    body = frames.message(pb.GetVerdictRequest(post_id="x").SerializeToString())

    async def once(connection: Connection) -> None:
        due = time.monotonic()
        while True:
            stream = await connection.open(GET, *target.metadata)
            await connection.send(stream, body, end=True)
            target.done["streams"] += 1
            due += 1 / 500
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(_again(target, once))


# Attacks of a caller without credentials.
UNAUTHENTICATED: dict[str, Attack] = {
    "watches": watches,
    "checks": checks,
    "headers_alone": headers_alone,
    "unfinished_bodies": unfinished_bodies,
    "unfinished_lookups": unfinished_lookups,
    "bombs": bombs,
    "slow_bodies": slow_bodies,
    "silent_connections": silent_connections,
    "idle_connections": idle_connections,
    "slow_headers": slow_headers,
    "pings": pings,
    "settings": settings,
    "rapid_resets": rapid_resets,
    "continuations": continuations,
    "large_metadata": large_metadata,
    "refused_calls": refused_calls,
}
# Attacks of a caller that is admitted: with a bearer token, or any caller of an open API.
ADMITTED: dict[str, Attack] = {
    "watches": watches,
    "checks": checks,
    "headers_alone": headers_alone,
    "unfinished_bodies": unfinished_bodies,
    "unfinished_lookups": unfinished_lookups,
    "bombs": bombs,
    "many_small_parts": many_small_parts,
    "whole_posts": whole_posts,
    "slow_bodies": slow_bodies,
}
