"""The gRPC service: lookups from the view, and ModeratePost, which goes the way of every post: through Kafka.

Errors are statuses with fixed texts that name fields, never content. What breaks the process (the view's file, the
producer) ends it: Kafka holds all state, and a fresh start is the way back.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeVar

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from moderation import kafka, posts, runtime, verdicts, wire
from moderation.errors import ConfigError, ModerationError, PostError
from moderation.settings import Settings
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1 import moderation_service_pb2_grpc as pb_grpc
from moderation.v1 import verdict_pb2

MAX_BATCH = 1_000
REQUEST_OVERHEAD = 64 << 10  # what a request may hold besides the post
PROBES = 32  # calls let in beyond max_concurrent_calls, so that health checks are answered under load too

Request = TypeVar("Request")
Response = TypeVar("Response")
Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[["Service", Request, Context], Awaitable[Response]]

log = structlog.get_logger()


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Runs the service until `stop` is set, then finishes its calls within drain_timeout_s."""
    names = [settings.kafka.posts_topic, settings.kafka.verdicts_topic]
    topics = await runtime.unless_stopped(stop, kafka.check_topics(settings.kafka, names))
    if topics is None:
        return
    async with AsyncExitStack() as stack:
        inbox = await stack.enter_async_context(posts.open_posts(settings.kafka, topics))
        view = await stack.enter_async_context(verdicts.open_view(settings, topics))
        service = Service(settings, view, inbox)
        server, port = _server(settings, service)
        stack.push_async_callback(server.stop, 0)
        await service.tell(serving=False)
        await server.start()
        async with asyncio.TaskGroup() as tasks:
            side = [tasks.create_task(view.follow()), tasks.create_task(service.fail())]
            ready = tasks.create_task(service.announce(port))
            await stop.wait()
            ready.cancel()
            await service.drain(server)
            for task in side:
                task.cancel()


def _server(settings: Settings, service: Service) -> tuple[grpc.aio.Server, int]:
    largest = settings.kafka.max_message_bytes + REQUEST_OVERHEAD
    server = grpc.aio.server(
        maximum_concurrent_rpcs=settings.api.max_concurrent_calls + PROBES,
        options=[
            ("grpc.max_receive_message_length", largest),
            ("grpc.max_send_message_length", largest),
            ("grpc.so_reuseport", 0),  # a second API on the port is told so, and does not take half of the calls
        ],
    )
    pb_grpc.add_ModerationServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    health_pb2_grpc.add_HealthServicer_to_server(service.health, server)
    reflection.enable_server_reflection([service.name, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    try:
        return server, server.add_insecure_port(settings.api.listen)
    except RuntimeError:
        raise ConfigError(
            f"MODERATION_API__LISTEN: cannot listen on {settings.api.listen}: is something else there?"
        ) from None


def _answered(method: Method[Request, Response]) -> Method[Request, Response]:
    """What a method raises becomes a status."""

    @functools.wraps(method)
    async def call(self: Service, request: Request, context: Context) -> Response:
        if self.under_way >= self.settings.api.max_concurrent_calls:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls at once; try again later")
        self.begin(context)
        try:
            return await method(self, request, context)
        except PostError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{error.reason}: {error}")
        except _RefusedError as error:
            await context.abort(error.code, str(error))
        except posts.NotAcceptedError:
            text = "the post may not have been accepted; the same call again is safe"
            await context.abort(grpc.StatusCode.UNAVAILABLE, text)
        except ModerationError as error:
            self.broken(error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the service is restarting; try again later")
        except Exception:
            log.exception("call_failed", method=method.__name__)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")

    return call


class _RefusedError(Exception):
    """A call that ends with a status."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class Service(pb_grpc.ModerationServiceServicer):
    """moderation.v1.ModerationService; each method's contract stands in the proto."""

    name = pb.DESCRIPTOR.services_by_name["ModerationService"].full_name

    def __init__(self, settings: Settings, view: verdicts.View, inbox: posts.Posts) -> None:
        self.settings = settings
        self.health = health.aio.HealthServicer()
        self.under_way = 0
        self._view = view
        self._inbox = inbox
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = asyncio.Event()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @_answered
    async def GetVerdict(self, request: pb.GetVerdictRequest, context: Context) -> pb.GetVerdictResponse:
        (found,) = await self._find({"post_id": request.post_id})
        verdict = found.verdict if found.HasField("verdict") else None
        return pb.GetVerdictResponse(state=found.state, verdict=verdict)

    @_answered
    async def BatchGetVerdicts(
        self, request: pb.BatchGetVerdictsRequest, context: Context
    ) -> pb.BatchGetVerdictsResponse:
        if not 0 < len(request.post_ids) <= MAX_BATCH:
            raise _RefusedError(grpc.StatusCode.INVALID_ARGUMENT, f"post_ids: 1 to {MAX_BATCH} in one call")
        ids = {f"post_ids[{index}]": id for index, id in enumerate(request.post_ids)}
        return pb.BatchGetVerdictsResponse(results=await self._find(ids))

    async def _find(self, ids: dict[str, str]) -> list[pb.LookupResult]:
        """Results for ids, which come by the names of their fields."""
        for field, id in ids.items():
            if problem := wire.id_problem(id):
                raise _RefusedError(grpc.StatusCode.INVALID_ARGUMENT, f"{field} {problem}")
        self._check_ready()
        return await self._view.find(list(ids.values()))

    @_answered
    async def ModeratePost(self, request: pb.ModeratePostRequest, context: Context) -> pb.ModeratePostResponse:
        wire.post(request.post, self.settings.media)
        self._check_ready()
        remaining = context.time_remaining()
        # gRPC cancels us at the caller's deadline: PENDING must be on its way before.
        seconds = self.settings.api.max_wait_s if remaining is None else remaining - min(0.25, remaining / 4)
        until = asyncio.get_running_loop().time() + seconds
        source = wire.source(await self._inbox.put(request.post, _trace(context), until))
        verdict = await self._wait(request.post.id, source, until)
        state = pb.LOOKUP_STATE_FOUND if verdict else pb.LOOKUP_STATE_PENDING
        return pb.ModeratePostResponse(state=state, verdict=verdict, source=source)

    async def _wait(self, post_id: str, source: verdict_pb2.Source, until: float) -> verdict_pb2.Verdict | None:
        """The verdict for the record, or None when time is up or the service has to go."""
        waiting = asyncio.ensure_future(self._view.wait(post_id, source))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            seconds = until - asyncio.get_running_loop().time()
            await asyncio.wait((waiting, draining), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return waiting.result() if waiting.done() else None
        finally:
            waiting.cancel()
            draining.cancel()

    def _check_ready(self) -> None:
        if not self._view.caught_up.is_set():
            text = "the view of the verdicts topic is still being built; try again later"
            raise _RefusedError(grpc.StatusCode.UNAVAILABLE, text)

    def begin(self, context: Context) -> None:
        """Counts a call until its answer is out."""

        def end(*_: object) -> None:
            self.under_way -= 1
            if not self.under_way:
                self._idle.set()

        self.under_way += 1
        self._idle.clear()
        context.add_done_callback(end)  # type: ignore[arg-type]  # the stubs' protocol is not callable

    def broken(self, error: ModerationError) -> None:
        """Ends the process: `fail` raises the error."""
        if not self._failure.done():
            self._failure.set_exception(error)

    async def fail(self) -> None:
        """Waits for what breaks the process, and raises it."""
        await self._failure

    async def announce(self, port: int) -> None:
        """Tells the world when lookups can be answered."""
        await self._view.caught_up.wait()
        await self.tell(serving=True)
        log.info("api_ready", listen=self.settings.api.listen, port=port)

    async def tell(self, *, serving: bool) -> None:
        """What health checks answer."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in (health.OVERALL_HEALTH, self.name):
            await self.health.set(name, status)

    async def drain(self, server: grpc.aio.Server) -> None:
        """No new calls; those under way end within drain_timeout_s, waits for a verdict with PENDING before that."""
        grace = self.settings.api.drain_timeout_s
        last = min(1.0, grace / 4)
        await self.health.enter_graceful_shutdown()
        stopping = asyncio.ensure_future(server.stop(grace))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace - last)
        self._draining.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), last)
        await server.stop(0)  # what is left watches the health, and would do so for ever
        await stopping


def _trace(context: Context) -> list[tuple[str, bytes]]:
    """The caller's trace, to go with the post and on to its verdict."""
    metadata = context.invocation_metadata() or ()
    return [
        (key, value.encode())
        for key, value in metadata
        if key in ("traceparent", "tracestate") and isinstance(value, str)
    ]
