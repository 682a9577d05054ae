"""The API role: opens the view, composes the service, opens its gRPC edge, and stops with no call cut.

Health (grpc.health.v1) is SERVING only while the view is close enough to its topic.
"""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import AsyncExitStack

import structlog

import moderation
from moderation import lifecycle
from moderation.api import service
from moderation.api.auth import Authenticator
from moderation.api.grpc import responses, server
from moderation.api.grpc.server import Server
from moderation.kafka import post_producer
from moderation.kafka.topics import check_topics
from moderation.observability import metrics, probes
from moderation.observability.probes import Liveness
from moderation.policies import PolicySet
from moderation.settings import ApiSettings, Settings
from moderation.view import topic_lag
from moderation.view.topic_lag import ViewLag
from moderation.view.view import View, open_view

LAG_CHECK_S = 0.5  # between two checks of the view's lag
START_CHECK_S = 0.1  # between two such checks of an API that is starting

log = structlog.get_logger()


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Runs the API until `stop` is set, then finishes its calls within drain_timeout_s."""
    async with probes.opened(settings.ops, "api") as liveness:
        await _serve(settings, stop, liveness)


async def _serve(settings: Settings, stop: asyncio.Event, liveness: Liveness) -> None:
    topic_lag.set_unknown()
    policies = _policies(settings)
    names = [settings.kafka.posts_topic, settings.kafka.verdicts_topic]
    topics = await lifecycle.unless_stopped(stop, check_topics(settings.kafka, names))
    if topics is None:
        return
    authenticator = Authenticator(settings.auth, settings.api.calls_per_second)
    if authenticator.keys:
        await lifecycle.unless_stopped(stop, authenticator.keys.load(settings.kafka.connect_timeout_s))
        if stop.is_set():
            return
    async with AsyncExitStack() as stack:
        producer = await stack.enter_async_context(post_producer.open_posts(settings.kafka, topics))
        view = await stack.enter_async_context(open_view(settings, topics, responses.found_result))
        liveness.started = True
        composed = service.compose(settings, view, producer, policies, responses.result)
        edge = await stack.enter_async_context(server.opened(settings, composed, authenticator, liveness))
        async with asyncio.TaskGroup() as tasks:
            background = [view.follow(), composed.failures.wait(), edge.run()]
            if authenticator.keys:
                background.append(authenticator.keys.refresh())
            running = [tasks.create_task(work) for work in background]
            announcing = tasks.create_task(_announce(settings, view, edge))
            await stop.wait()
            announcing.cancel()
            await edge.drain(composed)
            for task in running:
                task.cancel()


def _policies(settings: Settings) -> PolicySet | None:
    if not settings.policies.is_dir():
        log.warning("policies_missing", folder=str(settings.policies), meaning="ListPolicies is refused")
        return None
    policies = PolicySet.load(settings.policies)
    metrics.use_policies(policies.digest, policies.versions, policies.read_ms / 1000)
    log.info("policies_loaded", policies=len(policies.policies), digest=policies.digest, version=moderation.__version__)
    return policies


async def _announce(settings: Settings, view: View, edge: Server) -> None:
    """Keeps health up to date: whether the view is close enough to its topic for callers to rely on lookups."""
    await view.caught_up.wait()
    gc.freeze()  # what the start has made stays: garbage collections need not look through it again
    await _come_close(view.lag, settings.api)
    edge.checks.set_serving(serving=True)
    log.info("api_ready", listen=settings.api.listen, port=edge.port)
    serving = True
    while True:
        await asyncio.sleep(LAG_CHECK_S)
        if (view.caught_up.is_set() and _is_close(view.lag, settings.api, serving)) != serving:
            serving = not serving
            edge.checks.set_serving(serving=serving)
            unknown_s = round(view.lag.unknown_s, 1)
            log.warning("view_lag_changed_health", lag=view.lag.records, unknown_s=unknown_s, serving=serving)


async def _come_close(lag: ViewLag, settings: ApiSettings) -> None:
    """Waits for the view of a starting API: the topic has grown while the view read what was there at the start."""
    logged = time.monotonic()
    while not _is_close(lag, settings, serving=False):
        if time.monotonic() - logged > topic_lag.CATCHING_UP_S:
            logged = time.monotonic()
            log.info("view_catching_up", lag=lag.records)
        await asyncio.sleep(START_CHECK_S)


def _is_close(lag: ViewLag, settings: ApiSettings, serving: bool) -> bool:
    """Whether the view is close enough to its topic for lookups.

    Records behind an open transaction do not count: no replica can read them, so that another would answer no better.
    While the brokers do not respond, the end of the topic is not known. An API that is serving continues for
    max_lag_unknown_s: the brokers may be away for all replicas at once, and a view misses nothing while no new verdict
    can come.
    """
    if lag.readable is None:
        return serving and not 0 < settings.max_lag_unknown_s < lag.unknown_s
    # To serve again, half of the bound: an API that flaps at the bound would make balancers flap, too.
    return lag.readable <= (settings.max_lag if serving else settings.max_lag // 2)
