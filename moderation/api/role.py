"""The API role: the view, the service (grpc/service.py) and its server, from the start to a stop with nothing cut.

Whether it serves is told by grpc.health.v1, under the empty name and each service's: only while the view is caught up.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import grpc
import structlog

import moderation
from moderation import lifecycle
from moderation.api.auth import Authenticator
from moderation.api.grpc import certificates, reflection, responses
from moderation.api.grpc.admission import Admission, Unknown
from moderation.api.grpc.checks import Checks
from moderation.api.grpc.connections import Connections, room
from moderation.api.grpc.service import Service
from moderation.errors import ConfigError
from moderation.kafka import post_producer
from moderation.kafka.topics import check_topics
from moderation.observability import probes
from moderation.observability.probes import Liveness
from moderation.policies import PolicySet
from moderation.settings import ApiSettings, Settings
from moderation.view import topic_lag
from moderation.view.topic_lag import ViewLag
from moderation.view.view import View, open_view

REQUEST_OVERHEAD = 64 << 10  # what a request may hold besides the post
HANDSHAKE_MS = 10_000  # for TLS and HTTP/2's first frames
PROBES = 32  # calls at once on a connection to the port of health checks
PROBE_BYTES = 4 << 10  # of a message on that port
LOOK_S = 0.5  # between two looks at the view's lag
QUIET_S = 0.1  # without a call, after which the answers are out and it is time to stop
PRESSED_S = 1.0  # after which callers that do not heed refusals are waited for no more

log = structlog.get_logger()


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Runs the service until `stop` is set, then finishes its calls within drain_timeout_s."""
    async with probes.opened(settings.ops, "api") as liveness:
        await _serve(settings, stop, liveness)


async def _serve(settings: Settings, stop: asyncio.Event, liveness: Liveness) -> None:
    names = [settings.kafka.posts_topic, settings.kafka.verdicts_topic]
    policies = PolicySet.load(settings.policies) if settings.policies.is_dir() else None
    if policies:
        log.info(
            "policies_loaded", policies=len(policies.policies), digest=policies.digest, version=moderation.__version__
        )
    else:
        log.warning("policies_missing", folder=str(settings.policies), meaning="ListPolicies is refused")
    topics = await lifecycle.unless_stopped(stop, check_topics(settings.kafka, names))
    if topics is None:
        return
    authenticator = Authenticator(settings.auth, settings.api.calls_per_second)
    if authenticator.keys:
        await authenticator.keys.load()
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(post_producer.open_posts(settings.kafka, topics))
        view = await stack.enter_async_context(open_view(settings, topics, responses.found_result))
        liveness.started = True
        connections = Connections(settings.api, guarded=not settings.auth.open)
        admission = Admission(
            settings.api, authenticator, connections, settings.kafka.max_message_bytes + REQUEST_OVERHEAD
        )
        service = Service(settings, view, writer, admission, policies)
        checks = Checks(liveness, authenticator)
        most = room(settings.api.max_connections, 2 if settings.api.health_listen else 1)
        server, port = _server(settings, service, checks, connections, most)
        stack.push_async_callback(server.stop, 0)
        probed = Connections(settings.api, guarded=True, counted=False)
        probes_port = 0
        if settings.api.health_listen:
            probe_server, probes_port = await _probed(settings.api, checks, probed, most)
            stack.push_async_callback(probe_server.stop, 0)
        await server.start()
        async with asyncio.TaskGroup() as tasks:
            side = [tasks.create_task(view.follow()), tasks.create_task(service.fail())]
            side += [tasks.create_task(sweep()) for sweep in (admission.sweep, checks.sweep)]
            side.append(tasks.create_task(connections.watch(port)))
            if probes_port:
                side.append(tasks.create_task(probed.watch(probes_port)))
            if authenticator.keys:
                side.append(tasks.create_task(authenticator.keys.refresh()))
            telling = tasks.create_task(_announce(settings, view, checks, port))
            await stop.wait()
            telling.cancel()
            await _drain(settings, service, server, checks)
            for task in side:
                task.cancel()


def _server(
    settings: Settings, service: Service, checks: Checks, connections: Connections, most: int
) -> tuple[grpc.aio.Server, int]:
    """The server of the API, and its port. `most`: connections at once."""
    api, largest = settings.api, service.admission.largest
    options = [
        *_limits(largest, most, api.max_connection_calls),
        # Calls that have arrived and that we have not got to yet: that is where they queue under too much load. From
        # the first number on some are shed, at the second all, at next to no cost: a refusal of ours would cost as much
        # as an answer, and there would be few of those. gRPC gives them the status CANCELLED.
        ("grpc.server.max_pending_requests", api.max_queued_calls),
        ("grpc.server.max_pending_requests_hard_limit", 2 * api.max_queued_calls),
        *_keepalive(api),
    ]
    if api.connection_age_s:  # and they spread connections when these are made: so clients are told to connect again
        longest = max(api.watch_s, api.max_wait_s) + api.drain_timeout_s  # a call under way is never cut
        options += [
            ("grpc.max_connection_age_ms", int(api.connection_age_s * 1000)),
            ("grpc.max_connection_age_grace_ms", int(longest * 1000)),
        ]
    server = grpc.aio.server(options=options)  # calls: see grpc/admission.py; one bound for all is anybody's to fill
    server.add_generic_rpc_handlers((service.handlers(), checks.handlers(connections)))
    if api.reflection == "on" or (api.reflection == "auto" and settings.auth.open):
        server.add_generic_rpc_handlers((reflection.handlers(service.admission, [service.name, *checks.services]),))
    server.add_generic_rpc_handlers((Unknown(connections),))  # after all others
    credentials = certificates.credentials(settings.auth)
    try:
        if credentials is None:
            return server, server.add_insecure_port(api.listen)
        return server, server.add_secure_port(api.listen, credentials)
    except RuntimeError:
        raise ConfigError(f"MODERATION_API__LISTEN: cannot listen on {api.listen}: is something else there?") from None


def _keepalive(api: ApiSettings) -> list[tuple[str, int]]:
    keepalive_ms = int(api.keepalive_s * 1000)
    return [
        # Balancers that know connections only drop the idle ones, unheard: pings keep them, and find the dead ones.
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Clients may ping as often; by default a server closes the connection on those that do.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", min(10_000, keepalive_ms)),
    ]


def _limits(largest: int, connections: int, calls: int) -> list[tuple[str, int]]:
    """What a connection may cost before a call of it gets to us. `largest`: bytes of a message."""
    return [
        ("grpc.max_receive_message_length", largest),
        ("grpc.max_send_message_length", largest),
        ("grpc.max_metadata_size", 16 << 10),
        ("grpc.absolute_max_metadata_size", 16 << 10),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.max_concurrent_streams", calls),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        # A call that nobody reads holds its sender at 64 KiB. With probes of the bandwidth that would become 4 MiB.
        ("grpc.http2.bdp_probe", 0),
        # Requests come as they are: compressed, 19 kB may become 19 MiB. gRPC refuses them before it unpacks them.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.so_reuseport", 0),  # a second API on the port is told so, and does not take half of the calls
    ]


async def _probed(api: ApiSettings, checks: Checks, connections: Connections, most: int) -> tuple[grpc.aio.Server, int]:
    """A server of the health checks alone, and its port. `most`: connections at once."""
    server = grpc.aio.server(options=[*_limits(PROBE_BYTES, most, PROBES), *_keepalive(api)])
    server.add_generic_rpc_handlers((checks.handlers(connections, probes=True), Unknown(connections)))
    try:
        port = server.add_insecure_port(api.health_listen)
    except RuntimeError:
        raise ConfigError(f"MODERATION_API__HEALTH_LISTEN: cannot listen on {api.health_listen}") from None
    await server.start()
    return server, port


async def _announce(settings: Settings, view: View, checks: Checks, port: int) -> None:
    """Sets health: whether the view is near enough to its topic for lookups to be relied on."""
    await view.caught_up.wait()
    gc.freeze()  # all that was made for the start stays, and need not be looked through for garbage again
    await _come_near(view.lag, settings.api)
    checks.tell(serving=True)
    log.info("api_ready", listen=settings.api.listen, port=port)
    serving = True
    while True:
        await asyncio.sleep(LOOK_S)
        if _is_near(view.lag, settings.api, serving) != serving:
            serving = not serving
            checks.tell(serving=serving)
            unknown_s = round(view.lag.unknown_s, 1)
            log.warning("view_lag_changed_health", lag=view.lag.records, unknown_s=unknown_s, serving=serving)


async def _come_near(lag: ViewLag, bounds: ApiSettings) -> None:
    """Waits for the view of a starting API: while it read what was on the topic at the start, the topic has grown."""
    logged = time.monotonic()
    while not _is_near(lag, bounds, serving=False):
        if time.monotonic() - logged > topic_lag.CATCHING_UP_S:
            logged = time.monotonic()
            log.info("view_catching_up", lag=lag.records)
        await asyncio.sleep(QUIET_S)


def _is_near(lag: ViewLag, bounds: ApiSettings, serving: bool) -> bool:
    """Whether the view is near enough to its topic for lookups.

    While the brokers do not say where the topic ends, nobody knows: an API that serves goes on for max_lag_unknown_s,
    as the brokers may be away for all replicas at once, and then a view without news lacks nothing.
    """
    if lag.records is None:
        return serving and not 0 < bounds.max_lag_unknown_s < lag.unknown_s
    # Half of the bound, back: one that goes in and out at the bound would make balancers do so, too.
    return lag.records <= (bounds.max_lag if serving else bounds.max_lag // 2)


async def _drain(settings: Settings, service: Service, server: grpc.aio.Server, checks: Checks) -> None:
    """Says that it goes, and goes on serving for drain_delay_s; what is under way then ends within drain_timeout_s.

    First those that last: waits under way have up to half of that time to get their verdicts before they are answered
    with what is known, watches go on elsewhere. Lookups are taken until then. The server stops last, when no call is
    under way or time is nearly up: it closes a connection as the last call on it ends, and under load, of the answers
    written just before that, some never arrive (grpcio 1.85).
    """
    patience = settings.api.drain_timeout_s
    checks.leave()
    await asyncio.sleep(settings.api.drain_delay_s)
    end = time.monotonic() + patience
    await _until(lambda: not service.admission.under_way("wait"), end - patience / 2)
    service.close("wait", "watch")
    await _until(lambda: not service.admission.under_way("wait", "watch"), end - patience / 4)
    service.close("lookup")
    checks.end_watches()
    await _quiet(service, end - patience / 8)
    await server.stop(max(0.0, end - time.monotonic()))


async def _quiet(service: Service, end: float) -> None:
    """Until no call of a kind that is closed is under way, and none has come for a moment; or until `end`."""
    pressed = time.monotonic() + PRESSED_S
    before = None

    def quiet() -> bool:
        nonlocal before
        now = service.admission.under_way(*service.admission.closed), service.admission.late
        still, before = now == before, now
        return not now[0] and (still or time.monotonic() > pressed)

    await _until(quiet, end)


async def _until(happened: Callable[[], bool], end: float) -> None:
    while not happened() and time.monotonic() < end:  # noqa: ASYNC110  a call that ends costs no event for this
        await asyncio.sleep(QUIET_S)
