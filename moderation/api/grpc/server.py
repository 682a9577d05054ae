"""The gRPC servers of the API: their options, credentials and ports, and how they stop with no call cut.

One server has the methods. A second one, if the settings name a port for it, has the health checks alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc

from moderation.api.auth import Authenticator
from moderation.api.grpc import certificates, reflection
from moderation.api.grpc.admission import Admission, UnknownMethods
from moderation.api.grpc.checks import Checks
from moderation.api.grpc.connections import Connections, affordable
from moderation.api.grpc.methods import Methods
from moderation.api.service import Service
from moderation.errors import ConfigError
from moderation.observability.probes import Liveness
from moderation.settings import ApiSettings, Settings

REQUEST_OVERHEAD = 64 << 10  # bytes of a request besides its post
HANDSHAKE_MS = 10_000  # for TLS and HTTP/2's first frames
RESPONSE_BYTES = 4 << 20  # that clients take; the methods keep below it
PING_MS = 1_000  # between two pings of a client; one that pings faster is disconnected ("too_many_pings")
PROBES = 32  # concurrent calls on a connection to the port of health checks
PROBE_BYTES = 4 << 10  # of a message on that port
LEFT_S = 0.05  # after the last call, until its response has left the process
LOOK_S = 0.02  # between two looks at the calls under way

Options = list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Server:
    """The gRPC edge while it is open. Made by `opened`."""

    port: int
    checks: Checks
    _settings: ApiSettings
    _admission: Admission
    _server: grpc.aio.Server
    _watched: tuple[tuple[Connections, int], ...]  # and the port that they are on

    async def run(self) -> None:
        """Cuts late bodies and closes connections that only cost, until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._admission.sweep())
            tasks.create_task(self.checks.sweep())
            for connections, port in self._watched:
                tasks.create_task(connections.watch(port))

    async def drain(self, service: Service) -> None:
        """Announces the stop, serves on for drain_delay_s, and then ends all calls within drain_timeout_s.

        - Long calls end first. Waits have up to half of the time to get their verdicts. They are then answered with
          what is known, and watches end, so that their readers continue elsewhere.
        - Lookups are admitted until then.
        - When no call is under way or the time is nearly up, the connections are closed. What a caller sends meanwhile
          ends as UNAVAILABLE, which gRPC's clients repeat on another connection.
        - The server stops last. While connections are open, its stop ends calls that come as CANCELLED, which no client
          repeats, and loses some of the responses written just before (grpcio 1.85).
        """
        timeout_s = self._settings.drain_timeout_s
        self.checks.leave()
        await asyncio.sleep(self._settings.drain_delay_s)
        end = time.monotonic() + timeout_s
        await _until(lambda: not self._admission.under_way("wait"), end - timeout_s / 2)
        self._admission.close("wait", "watch")
        service.end_waits_and_watches()
        await _until(lambda: not self._admission.under_way("wait", "watch"), end - timeout_s / 4)
        self._admission.close("lookup")
        self.checks.end_watches()
        await _until(lambda: not self._admission.under_way(*self._admission.closed), end - timeout_s / 8)
        await asyncio.sleep(LEFT_S)
        for connections, port in self._watched[:1]:  # those of the methods; probes are answered until the end
            connections.end(port)
        await self._server.stop(max(0.0, end - time.monotonic()))


@asynccontextmanager
async def opened(
    settings: Settings, service: Service, authenticator: Authenticator, liveness: Liveness
) -> AsyncIterator[Server]:
    """The servers, started. Cuts what is left of calls at the end. Raises ConfigError when it cannot listen."""
    api = settings.api
    connections = Connections(api, expire_unadmitted=not settings.auth.open)
    largest = settings.kafka.max_message_bytes + REQUEST_OVERHEAD
    admission = Admission(api, authenticator, connections, largest)
    methods, checks = Methods(service, admission), Checks(liveness, authenticator, Methods.name)
    max_connections = affordable(api.max_connections, 2 if api.health_listen else 1)
    server = grpc.aio.server(options=_options(api, largest, max_connections))
    # No bound for all calls together: any caller could fill it. Admission has a bound for each kind.
    server.add_generic_rpc_handlers((methods.handlers(), checks.handlers(connections)))
    if api.reflection == "on" or (api.reflection == "auto" and settings.auth.open):
        server.add_generic_rpc_handlers(reflection.handlers(admission, [Methods.name, *checks.services]))
    server.add_generic_rpc_handlers((UnknownMethods(connections),))  # after all others
    async with AsyncExitStack() as stack:
        port = _listen(server, api.listen, "MODERATION_API__LISTEN", certificates.credentials(settings.auth))
        stack.push_async_callback(server.stop, 0)
        watched = [(connections, port)]
        if api.health_listen:
            probes = Connections(api, expire_unadmitted=True, counted=False)
            probe_server = grpc.aio.server(options=_probe_options(api, max_connections))
            probe_server.add_generic_rpc_handlers((checks.handlers(probes, probes=True), UnknownMethods(probes)))
            probe_port = _listen(probe_server, api.health_listen, "MODERATION_API__HEALTH_LISTEN", None)
            stack.push_async_callback(probe_server.stop, 0)
            await probe_server.start()
            watched.append((probes, probe_port))
        await server.start()
        yield Server(port, checks, api, admission, server, tuple(watched))


def _listen(server: grpc.aio.Server, address: str, setting: str, credentials: grpc.ServerCredentials | None) -> int:
    """Opens a port and returns its number. Raises ConfigError."""
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError:
        raise ConfigError(f"{setting}: cannot listen on {address}: does another process use the port?") from None


def _options(api: ApiSettings, largest: int, connections: int) -> Options:
    """Of the server of the methods. `largest`: bytes of a message. `connections`: at once."""
    options = [
        *_limits(largest, connections, api.max_connection_calls),
        # Calls that have arrived and that this process has not read yet: under too much load, calls queue there. From
        # the first number on gRPC sheds some, at the second all, with the status CANCELLED. That costs next to
        # nothing. A refusal by this process would cost as much as a response.
        ("grpc.server.max_pending_requests", api.max_queued_calls),
        ("grpc.server.max_pending_requests_hard_limit", 2 * api.max_queued_calls),
        *_keepalive(api),
    ]
    if api.connection_age_s:  # balancers spread connections when clients make them: so clients have to reconnect
        longest_s = max(api.watch_s, api.max_wait_s) + api.drain_timeout_s  # a call under way is never cut
        options += [
            ("grpc.max_connection_age_ms", int(api.connection_age_s * 1000)),
            ("grpc.max_connection_age_grace_ms", int(longest_s * 1000)),
        ]
    return options


def _probe_options(api: ApiSettings, connections: int) -> Options:
    """Of the server of the health checks alone."""
    return [*_limits(PROBE_BYTES, connections, PROBES), *_keepalive(api)]


def _keepalive(api: ApiSettings) -> Options:
    keepalive_ms = int(api.keepalive_s * 1000)
    return [
        # Balancers silently drop idle connections. Pings keep connections open, and find the dead ones.
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Clients may ping, too, with calls or without. By default a server closes the connection of a client that pings
        # more often than every five minutes. Many clients ping every 10 s, and their timers are not exact.
        ("grpc.http2.min_ping_interval_without_data_ms", PING_MS),
    ]


def _limits(largest: int, connections: int, calls: int) -> Options:
    """What a connection may cost before this process sees a call of it. `largest`: bytes of a message."""
    return [
        ("grpc.max_receive_message_length", largest),
        ("grpc.max_send_message_length", RESPONSE_BYTES),
        ("grpc.max_metadata_size", 16 << 10),
        ("grpc.absolute_max_metadata_size", 16 << 10),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.max_concurrent_streams", calls),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        # A call that is not read holds its sender at 64 KiB. With bandwidth probes that would become 4 MiB.
        ("grpc.http2.bdp_probe", 0),
        # Without compression: 19 kB may become 19 MiB. gRPC refuses compressed requests before it unpacks them.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.so_reuseport", 0),  # a second API on the port fails, and does not take half of the calls
    ]


async def _until(happened: Callable[[], bool], end: float) -> None:
    while not happened() and time.monotonic() < end:  # noqa: ASYNC110  an event for each call that ends would cost more
        await asyncio.sleep(LOOK_S)
