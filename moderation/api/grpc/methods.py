"""moderation.v1.ModerationService over gRPC. The proto has each method's contract."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from moderation.api import validation
from moderation.api.auth import Permit
from moderation.api.grpc import requests, responses, status
from moderation.api.grpc.admission import Admission
from moderation.api.grpc.requests import BATCH_BYTES, LOOKUP_BYTES, tenant
from moderation.api.grpc.status import Context
from moderation.api.pending import LARGE_BYTES
from moderation.api.service import Service
from moderation.observability import metrics, traces
from moderation.v1 import moderation_service_pb2 as pb

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")
Method = Callable[["Methods", Request, Permit, Context], Awaitable[Response]]
Handler = Callable[["Methods", object, Context], Awaitable[Response]]


def _admitted(kind: str, limit: int = LOOKUP_BYTES) -> Callable[[Method[Request, Response]], Handler[Response]]:
    """Admits the caller of a method and reads its request, of up to `limit` bytes; 0: a post. Errors become statuses.

    For gRPC each method takes a stream of requests, which is the same on the wire. So a call begins with its headers,
    and its message is read once the caller is admitted.
    """

    def wrap(method: Method[Request, Response]) -> Handler[Response]:
        name = method.__name__
        answered, seconds = metrics.CALLS.labels(name, "OK"), metrics.CALL.series(name)
        message = pb.DESCRIPTOR.services_by_name["ModerationService"].methods_by_name[name].input_type.name
        parse = requests.parser(message, post=not limit)

        @functools.wraps(method)
        async def call(self: Methods, _: object, context: Context) -> Response:
            begun, admission = time.perf_counter(), self.admission
            try:
                permit = admission.admit(context, name)
                admission.check_open(kind)
                if admission.crowded(kind, permit.owner):
                    await admission.hold_off()
            except Exception as error:
                await self.refuse(error, name, None, context)
                raise
            admission.take(kind, permit.owner)
            try:
                with traces.serving(self.name, name, context) as span:
                    try:
                        admission.check(kind)
                        if limit:
                            body = await admission.lookups.read(context, permit.owner, limit)
                        else:
                            body = await admission.posts.read(context, permit.owner, admission.largest)
                        if len(body) > LARGE_BYTES:
                            await asyncio.sleep(0)  # other calls run between the copy that gRPC has made and this one
                        permit.check()  # the body may have come after the caller's key was withdrawn
                        request = parse(body)
                        del body
                        items = getattr(request, "post_ids", ()) if limit else request.post.images
                        if (calls := len(items) / 100) > 1:
                            permit.spend(calls - 1)
                        work = method(self, request, permit, context)
                        del request  # only the method holds a post, and drops it while it waits for the verdict
                        response = await work
                    except Exception as error:
                        await self.refuse(error, name, span, context)
                        raise
                    traces.served(span, "OK")
            finally:
                admission.give_back(kind, permit.owner)
                seconds.add(time.perf_counter() - begun)
            answered.inc()
            return response

        return call

    return wrap


class Methods:
    """The methods, by their names in the proto. A response is a message, or the bytes of one."""

    name = pb.DESCRIPTOR.services_by_name["ModerationService"].full_name

    def __init__(self, service: Service, admission: Admission) -> None:
        self.admission = admission
        self._service = service
        self._lookups = service.lookups

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a server needs of the methods."""
        handlers: dict[str, Any] = {}
        for method in pb.DESCRIPTOR.services_by_name["ModerationService"].methods:
            streams = method.server_streaming
            kind = grpc.stream_stream_rpc_method_handler if streams else grpc.stream_unary_rpc_method_handler
            handlers[method.name] = kind(getattr(self, method.name), None, responses.serialized)
        return grpc.method_handlers_generic_handler(self.name, handlers)

    @_admitted("lookup")
    async def GetVerdict(self, request: pb.GetVerdictRequest, permit: Permit, context: Context) -> bytes:
        query = validation.lookup(request, permit.caller.tenant_of(tenant(request)))
        return responses.lookup(await self._lookups.get(query))

    @_admitted("lookup", BATCH_BYTES)
    async def BatchGetVerdicts(self, request: pb.BatchGetVerdictsRequest, permit: Permit, context: Context) -> bytes:
        query = validation.batch(request, permit.caller.tenant_of(tenant(request)))
        return responses.batch(query.post_ids, await self._lookups.batch(query))

    @_admitted("lookup")
    async def ListVerdicts(self, request: pb.ListVerdictsRequest, permit: Permit, context: Context) -> bytes:
        query, common = validation.listing(request, permit.caller.tenant_of(tenant(request)))
        return responses.page(await self._lookups.page(query, common))

    @_admitted("wait")
    async def WaitVerdict(self, request: pb.WaitVerdictRequest, permit: Permit, context: Context) -> bytes:
        query = validation.lookup(request, permit.caller.tenant_of(tenant(request)))
        result = await self._lookups.wait(query, self._deadline(context))
        permit.check()  # no verdict for a caller whose key was withdrawn meanwhile
        return responses.lookup(result)

    @_admitted("watch")
    async def WatchVerdicts(self, request: pb.WatchVerdictsRequest, permit: Permit, context: Context) -> None:
        query = validation.watch(request, permit.caller.tenant_of(tenant(request)))
        await self._service.watch(query, permit, context.write).run()

    @_admitted("lookup")
    async def ListPolicies(
        self, request: pb.ListPoliciesRequest, permit: Permit, context: Context
    ) -> pb.ListPoliciesResponse:
        policies = self._service.policies()
        after = validation.policies(request, policies.digest)
        return responses.policies(policies, after, prompts=self._service.settings.api.show_prompts)

    @_admitted("wait", 0)
    async def ModeratePost(
        self, request: pb.ModeratePostRequest, permit: Permit, context: Context
    ) -> pb.ModeratePostResponse:
        until = self._deadline(context)
        with ExitStack() as body_share:
            body_share.enter_context(self.admission.posts.held(permit.owner, request.ByteSize()))
            accepted = await self._service.submissions.submit(
                request, permit, requests.trace(context), until, body_share
            )
        del request  # up to 20 MiB, and the verdict may be a minute away
        result = await self._lookups.wait(accepted.query, until)
        permit.check()
        return responses.submission(accepted, result)

    async def refuse(self, error: Exception, method: str, span: traces.Span | None, context: Context) -> None:
        """Ends a call with the status for this error. Raises what gRPC raises then."""
        refused = self._service.failures.refusal(error, method)
        code = status.code_of(refused).name
        metrics.CALLS.labels(method, code).inc()
        traces.served(span, code)
        await status.end(context, refused)

    def _deadline(self, context: Context) -> float:
        return requests.deadline(context, self._service.settings.api.max_wait_s)
