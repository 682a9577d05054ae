"""moderation.v1.ModerationService: each method's contract stands in the proto. Lookups come from the view; ModeratePost
goes the way of every post: through Kafka.

Errors are statuses with fixed texts that name fields, never content. What breaks the process (the view's file, the
producer) ends it: Kafka holds all state, and a fresh start is the way back.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from moderation import wire
from moderation.api import cursors, validation
from moderation.api.auth import Caller, Context
from moderation.api.grpc import responses, status
from moderation.api.grpc.admission import Admission
from moderation.api.grpc.responses import Found
from moderation.api.grpc.status import RefusedError, unavailable
from moderation.api.submissions import LARGE_BYTES, Submissions
from moderation.api.validation import Look
from moderation.api.watches import Watching
from moderation.errors import ModerationError, PostError
from moderation.kafka import post_producer
from moderation.observability import metrics, traces
from moderation.policies import Policy, PolicySet, digest_of
from moderation.settings import Settings
from moderation.types import Outcome, Reason, Severity
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1 import policy_pb2, verdict_pb2
from moderation.view.stores import Kind, LookupRow, StoreUnavailableError
from moderation.view.view import View
from moderation.wire import prescan

LOOKUP_BYTES = 64 << 10  # of a request, of which a merged consistency token is the most
BATCH_BYTES = validation.MAX_BATCH * 520 + LOOKUP_BYTES  # ids have up to 512 bytes
POST_PARTS = prescan.nested(pb.ModeratePostRequest)  # the post, and its images
PARTS, IMAGE_PARTS = 100, 4  # fields that a post may have, and more for each image that it may have

Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer")
Method = Callable[["Service", Request, Caller, Context], Awaitable[Answer]]
Handler = Callable[["Service", object, Context], Awaitable[Answer]]

log = structlog.get_logger()


def _answered(kind: str, limit: int = LOOKUP_BYTES) -> Callable[[Method[Request, Answer]], Handler[Answer]]:
    """Admits a caller to a method and reads its request, of up to `limit` bytes; 0: a post. Errors become statuses.

    To gRPC each method takes a stream of requests, which is the same on the wire: so a call begins with its headers,
    and its message is read when the caller is let in.
    """

    def wrap(method: Method[Request, Answer]) -> Handler[Answer]:
        name = method.__name__
        answered, seconds = metrics.CALLS.labels(name, "OK"), metrics.CALL.series(name)
        message = pb.DESCRIPTOR.services_by_name["ModerationService"].methods_by_name[name].input_type.name
        parse = _parser(message, post=not limit)

        @functools.wraps(method)
        async def call(self: Service, _: object, context: Context) -> Answer:
            begun, admission = time.perf_counter(), self.admission
            try:
                caller, owner = admission.caller(context, name)
                if admission.crowded(kind, owner):
                    await admission.hold_off()
            except Exception as error:
                await self.refuse(error, name, None, context)
                raise
            edition = admission.authenticator.edition  # of the keys that the caller was admitted with
            admission.take(kind, owner)
            try:
                with traces.serving(self.name, name, context) as span:
                    try:
                        admission.check(kind)
                        if limit:
                            body = await admission.lookups.read(context, owner, limit)
                        else:
                            body = await admission.posts.read(context, owner, admission.largest)
                        if len(body) > LARGE_BYTES:
                            await asyncio.sleep(0)  # others come in between the copy that gRPC has made and ours
                        admission.authenticator.check(
                            context, edition
                        )  # the body may have come after its key was withdrawn
                        request = parse(body, self.most_parts)
                        del body
                        if (cost := len(getattr(request, "post_ids", ())) / 100) > 1:
                            admission.authenticator.spend(caller, context, cost - 1)
                        work = method(self, request, caller, context)
                        del request  # the method's own now: a post is let go of while its verdict is waited for
                        answer = await work
                    except Exception as error:
                        await self.refuse(error, name, span, context)
                        raise
                    traces.ended(span, "OK")
            finally:
                admission.give_back(kind, owner)
                seconds.add(time.perf_counter() - begun)
            answered.inc()
            return answer

        return call

    return wrap


def _parser(message: str, *, post: bool) -> Callable[[bytes, int], Any]:
    """What reads a request of this type, of which a post may have so many parts."""
    read: Callable[[bytes], Any] = getattr(pb, message).FromString

    def parse(body: bytes, most: int) -> Any:
        try:
            if post:
                prescan.check_protobuf(body, POST_PARTS, most)
            return read(body)
        except prescan.ShapeError as error:
            raise PostError(Reason.INVALID_POST, str(error)) from None
        except DecodeError:
            text = f"the request is no {message}"
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", text) from None

    return parse


class Service:
    """The methods, by their names in the proto. An answer is a message, or the bytes of one."""

    name = pb.DESCRIPTOR.services_by_name["ModerationService"].full_name

    def __init__(
        self,
        settings: Settings,
        view: View,
        inbox: post_producer.PostProducer,
        admission: Admission,
        policies: PolicySet | None,
    ) -> None:
        self.admission = admission
        self.most_parts = PARTS + IMAGE_PARTS * settings.media.max_images
        self._settings = settings
        self._view = view
        self._policies = policies
        self._ledger = Submissions(settings.api, inbox, self.broken)
        view.on_decided(self._ledger.settle)
        self._draining = asyncio.Event()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a server is given."""
        found: dict[str, Any] = {}
        for method in pb.DESCRIPTOR.services_by_name["ModerationService"].methods:
            streams = method.server_streaming
            kind = grpc.stream_stream_rpc_method_handler if streams else grpc.stream_unary_rpc_method_handler
            found[method.name] = kind(getattr(self, method.name), None, _bytes)
        return grpc.method_handlers_generic_handler(self.name, found)

    # Lookups

    @_answered("lookup")
    async def GetVerdict(self, request: pb.GetVerdictRequest, caller: Caller, context: Context) -> bytes:
        (found,) = await self._find(validation.one(request, caller.tenant_of(_tenant(request))))
        return responses.one(found)

    @_answered("lookup", BATCH_BYTES)
    async def BatchGetVerdicts(self, request: pb.BatchGetVerdictsRequest, caller: Caller, context: Context) -> bytes:
        look = validation.many(request, caller.tenant_of(_tenant(request)))
        self._check_ready()
        written: list[bytes | None] = [None] * len(look.post_ids)
        if look.posts is None or self._view.reached(look.posts):
            written = self._view.results(look.post_ids, look.tenant)
        if None in written:
            rest = [index for index, part in enumerate(written) if part is None]
            ids = [validation.check_id(look.post_ids[index], index) for index in rest]
            found = await self._find(replace(look, post_ids=ids))
            for index, post_id, one in zip(rest, ids, found, strict=True):
                written[index] = responses.result(post_id, one)
        return b"".join(written)  # type: ignore[arg-type]  # none of them is None any more

    @_answered("lookup")
    async def ListVerdicts(self, request: pb.ListVerdictsRequest, caller: Caller, context: Context) -> bytes:
        query, common = validation.listing(request, caller.tenant_of(_tenant(request)))
        self._check_ready()
        page = await self._view.store.page(query)
        return responses.page(page.verdicts, cursors.of_page(common, page.after) if page.after else "")

    @_answered("wait")
    async def WaitVerdict(self, request: pb.WaitVerdictRequest, caller: Caller, context: Context) -> bytes:
        look = validation.one(request, caller.tenant_of(_tenant(request)))
        edition = self.admission.authenticator.edition
        found = await self._wait(look, self._until(context))
        self.admission.authenticator.check(
            context, edition
        )  # a token whose key was withdrawn meanwhile gets no verdict
        return responses.one(found)

    @_answered("watch")
    async def WatchVerdicts(self, request: pb.WatchVerdictsRequest, caller: Caller, context: Context) -> None:
        watch = validation.watch(request, caller.tenant_of(_tenant(request)))
        self._check_ready()
        await Watching(self._settings.api, self._view, watch, caller, self.admission.authenticator, context).run()

    @_answered("lookup")
    async def ListPolicies(
        self, request: pb.ListPoliciesRequest, caller: Caller, context: Context
    ) -> pb.ListPoliciesResponse:
        if self._policies is None:
            text = "this API was started without policies"
            raise RefusedError(grpc.StatusCode.FAILED_PRECONDITION, "NO_POLICIES", text)
        shown = [_policy(policy, prompt=self._settings.api.show_prompts) for policy in self._policies.policies]
        return pb.ListPoliciesResponse(policies=shown, digest=self._policies.digest)

    async def _find(self, look: Look) -> list[Found]:
        """What is known of each post."""
        self._check_ready()
        # Before the rows are read: a fold that ends while they are on their way would pass old rows off as new.
        reached = look.posts is None or self._view.reached(look.posts)
        open = {id for id in look.post_ids if not reached or self._ledger.pending(id, look.tenant)}
        rows = await self._view.find(look.post_ids)
        return [_found(look, rows.get(post_id), reached, post_id in open) for post_id in look.post_ids]

    async def _wait(self, look: Look, until: float) -> Found:
        """What is known once there is a verdict or will be none, time is up, or the service has to go."""
        with self._view.waiting(look.post_ids[0], look.posts or {}) as woken:
            while True:
                woken.clear()  # before the look: what is folded in from here on wakes us
                (found,) = await self._find(look)
                certain = found[0] == pb.LOOKUP_STATE_NOT_FOUND and look.posts is not None
                if certain or found[0] in (pb.LOOKUP_STATE_FOUND, pb.LOOKUP_STATE_UNREADABLE):
                    return found
                if not await self._news(woken, until):
                    return found

    async def _news(self, woken: asyncio.Event, until: float) -> bool:
        """Waits; False: time is up, or the service has to go."""
        waits = [asyncio.ensure_future(event.wait()) for event in (woken, self._draining)]
        try:
            seconds = until - asyncio.get_running_loop().time()
            await asyncio.wait(waits, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
            return woken.is_set()
        finally:
            for wait in waits:
                wait.cancel()

    def _until(self, context: Context) -> float:
        """When to answer at the latest, by the loop's clock: gRPC cancels us at the caller's deadline."""
        seconds, remaining = self._settings.api.max_wait_s, context.time_remaining()
        if remaining is not None:
            seconds = min(seconds, remaining - min(0.25, remaining / 4))
        return asyncio.get_running_loop().time() + seconds

    def _check_ready(self) -> None:
        if not self._view.caught_up.is_set():
            raise unavailable("NOT_READY", "the view of the verdicts topic is still being built; try again later")

    # Posts

    @_answered("wait", 0)
    async def ModeratePost(
        self, request: pb.ModeratePostRequest, caller: Caller, context: Context
    ) -> pb.ModeratePostResponse:
        post, request_id = request.post, validation.request_id(request)
        post.tenant = caller.tenant_of(post.tenant or None) or ""
        until, edition = self._until(context), self.admission.authenticator.edition
        with ExitStack() as held:
            held.enter_context(self.admission.posts.held(self.admission.owner(caller, context), request.ByteSize()))
            wire.post(post, self._settings.media)
            self._check_ready()
            if caller.tenant is not None:
                await self._check_id_is_free(post.id, caller.tenant)
            record = await self._ledger.put(post, request_id, _trace(context), until, held)
        look = Look((post.id,), post.tenant, posts={record.partition: record.offset})
        del request, post  # up to 20 MiB each, and the verdict may be a minute away
        state, verdict = await self._wait(look, until)
        self.admission.authenticator.check(context, edition)
        return pb.ModeratePostResponse(
            state=state,
            verdict=verdict_pb2.Verdict.FromString(verdict) if verdict is not None else None,
            source=wire.source_message(record),
            consistency_token=cursors.of_record(record.partition, record.offset),
        )

    async def _check_id_is_free(self, post_id: str, tenant: str) -> None:
        """A verdict supersedes that of the same id: no tenant may take another's away.

        What others have put on the topic is known once it is judged: across replicas this is best effort.
        """
        taken = self._ledger.of_another(post_id, tenant)  # before the row is read, too: meanwhile it may be judged
        row = (await self._view.find((post_id,))).get(post_id)
        judged = row is not None and row[0] == Kind.VERDICT and row[1] != tenant
        if taken or judged or self._ledger.of_another(post_id, tenant):
            text = "the post's id belongs to another tenant"
            raise RefusedError(grpc.StatusCode.PERMISSION_DENIED, "OTHER_TENANT", text, field="post.id")

    # The life of a call, and of the service

    async def refuse(self, error: Exception, method: str, span: traces.Span | None, context: Context) -> None:
        """Ends a call with the status for this error. Raises what gRPC raises then."""
        refused = self.refusal(error, method)
        metrics.CALLS.labels(method, refused.code.name).inc()
        traces.ended(span, refused.code.name)
        await status.end(context, refused)

    def refusal(self, error: Exception, method: str) -> RefusedError:
        """The status that a call ends with for this error; what breaks the process ends it."""
        if isinstance(error, RefusedError):
            return error
        if isinstance(error, PostError):
            text, code = f"{error.reason}: {error}", grpc.StatusCode.INVALID_ARGUMENT
            return RefusedError(code, "INVALID_POST", text, field="post", post_reason=str(error.reason))
        if isinstance(error, post_producer.NotAcceptedError):
            return unavailable("NOT_ACCEPTED", "the post may not have been accepted; the same call again is safe")
        if isinstance(error, StoreUnavailableError):
            return unavailable("STORE_UNAVAILABLE", "the view cannot be read at the moment; try again later")
        if isinstance(error, ModerationError):
            self.broken(error)
            return unavailable("STOPPING", "the service is restarting; try again later")
        log.error("call_failed", method=method, exc_info=error)
        return RefusedError(grpc.StatusCode.INTERNAL, "INTERNAL", "internal error")

    def broken(self, error: ModerationError) -> None:
        """Ends the process: `fail` raises the error."""
        if not self._failure.done():
            self._failure.set_exception(error)

    async def fail(self) -> None:
        """Waits for what breaks the process, and raises it."""
        await self._failure

    def close(self, *kinds: str) -> None:
        """These kinds are refused from now on; waits are answered with what is known, watches go on elsewhere."""
        self.admission.closed.update(kinds)
        if "wait" in kinds:
            self._draining.set()
        if "watch" in kinds:
            self._view.end_feeds()


def _bytes(answer: Message | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def _tenant(request: Any) -> str | None:
    return request.tenant if request.HasField("tenant") else None


def _found(look: Look, row: LookupRow | None, reached: bool, open: bool) -> Found:
    """What a row, or none, says. `reached`: it is as new as is asked for. `open`: an outcome is still to come."""
    if row is not None:
        kind, tenant, partition, offset, verdict = row
        fresh = reached or offset >= (look.posts or {}).get(partition, 1 << 62)
        if kind == Kind.VERDICT and fresh and look.tenant in (None, tenant) and _is_of(verdict, look.digest):
            return pb.LOOKUP_STATE_FOUND, verdict
        if kind == Kind.UNREADABLE and fresh and look.tenant is None:
            return pb.LOOKUP_STATE_UNREADABLE, None
    return (pb.LOOKUP_STATE_PENDING if open else pb.LOOKUP_STATE_NOT_FOUND), None


def _is_of(verdict: bytes | None, digest: str) -> bool:
    """Whether it is on this content; any will do where none is named."""
    return not digest or verdict_pb2.Verdict.FromString(verdict or b"").content_digest == digest


def _policy(policy: Policy, *, prompt: bool) -> policy_pb2.Policy:
    limits = policy.thresholds
    return policy_pb2.Policy(
        id=policy.id,
        version=policy.version,
        digest=digest_of([policy]),
        title=policy.title,
        status=f"POLICY_STATUS_{policy.status.name}",
        severity=wire.number(Severity[policy.severity.upper()]),
        thresholds=verdict_pb2.Thresholds(review=limits.review, remove=limits.remove, mass=limits.mass),
        on_error=wire.number(Outcome[policy.on_error.upper()]),
        prompt=policy.prose if prompt else "",
    )


def _trace(context: Context) -> list[tuple[str, bytes]]:
    """The caller's trace, to go with the post and on to its verdict."""
    metadata = context.invocation_metadata() or ()
    return [
        (key, value.encode())
        for key, value in metadata
        if key in ("traceparent", "tracestate") and isinstance(value, str)
    ]
