"""A typed client of the API.

    async with Client("api.internal:50051", ca=Path("ca.pem"), token=read_token) as client:
        result = await client.get("42")

gRPC retries a call whose status is UNAVAILABLE, and no other, with backoff, within the call's deadline. Lookups of one
post that come while a call is under way are sent together, as one batch. If the program has set up OpenTelemetry, each
call is a span of its trace.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

from moderation import wire
from moderation.errors import ConfigError, ModerationError
from moderation.observability import traces
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1 import moderation_service_pb2_grpc as pb_grpc
from moderation.v1.moderation_service_pb2 import LookupState
from moderation.v1.post_pb2 import Post
from moderation.v1.verdict_pb2 import Outcome, Verdict

__all__ = ["Client", "LookupState", "Outcome", "Post", "Verdict"]  # what callers need

TIMEOUT_S = 10.0
BATCH = 1_000
RECONNECT_S = 1.0  # before a watch continues on another connection
KEEPALIVE_MS = 60_000

SERVICE = pb.DESCRIPTOR.services_by_name["ModerationService"].full_name
RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": SERVICE}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


class CallError(ModerationError):
    """The API cannot be reached, or refuses a call. `code` is the gRPC code, `reason` an ErrorReason or empty."""

    def __init__(self, text: str, code: grpc.StatusCode, reason: str = "", retry_s: float | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.reason = reason
        self.retry_s = retry_s  # seconds after which to try again, if the API names them


class Client:
    """Calls an API. Every method raises CallError, and any error of `token`."""

    def __init__(
        self,
        address: str,
        *,
        tenant: str | None = None,
        token: Callable[[], str] | None = None,
        ca: Path | None = None,
        certificate: tuple[Path, Path] | None = None,
        timeout: float = TIMEOUT_S,
    ) -> None:
        """`ca` or `certificate` (chain and key) turn on TLS. `token` returns the bearer token of each call.

        Raises ConfigError when a file cannot be read, or a bearer token would be sent without TLS.
        """
        self._address = address
        self._server = traces.server_of(address)  # for spans
        self._tenant = tenant
        self._token = token
        self._timeout = timeout
        self._queued: dict[str, asyncio.Future[pb.LookupResult]] = {}  # by post id: lookups of the next batch
        self._sending: asyncio.Task[None] | None = None
        options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", -1),  # a post with images may be large; no response is
            ("grpc.service_config", json.dumps(RETRIES)),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ]
        if ca or certificate:
            self._channel = grpc.aio.secure_channel(address, _credentials(ca, certificate), options=options)
        elif token and not _is_local(address):
            raise ConfigError("a bearer token needs TLS: set `ca`")
        else:
            self._channel = grpc.aio.insecure_channel(address, options=options)
        self._stub: Any = pb_grpc.ModerationServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
        _fail(self._queued, self._closed())
        self._queued = {}
        await self._channel.close()

    async def get(self, post_id: str, *, after: bytes = b"") -> pb.LookupResult:
        """What is known of one post. `after`: consistency token that the result must not be older than."""
        if after:
            (result,) = await self.get_many([post_id], after=after)
            return result
        self._check_id(post_id)  # because the API would refuse the whole batch
        queued = self._queued.get(post_id)
        if queued is None:
            queued = self._queued[post_id] = asyncio.get_running_loop().create_future()
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_batches())
        return await asyncio.shield(queued)

    async def get_many(self, post_ids: Sequence[str], *, after: bytes = b"") -> list[pb.LookupResult]:
        """What is known of each post, in the order of the ids. Asks again for what one response had no room for."""
        results: list[pb.LookupResult] = []
        while len(results) < len(post_ids):
            ids = post_ids[len(results) : len(results) + BATCH]
            request = pb.BatchGetVerdictsRequest(post_ids=ids, consistency_token=after, tenant=self._tenant)
            part = (await self._call("BatchGetVerdicts", request, self._timeout)).results
            answered = list(itertools.takewhile(lambda result: result.state != pb.LOOKUP_STATE_DEFERRED, part))
            if not answered:
                code = grpc.StatusCode.INTERNAL
                raise CallError(f"{self._address}: {code.name}: BatchGetVerdicts answered for no id", code)
            results += answered
        return results

    async def wait(self, post_id: str, timeout: float, *, after: bytes = b"") -> pb.WaitVerdictResponse:
        """The verdict for a post as soon as there is one, or what is known after `timeout` seconds."""
        request = pb.WaitVerdictRequest(post_id=post_id, consistency_token=after, tenant=self._tenant)
        response: pb.WaitVerdictResponse = await self._call("WaitVerdict", request, timeout)
        return response

    async def moderate(self, post: Post, timeout: float) -> pb.ModeratePostResponse:
        """Puts a post on the topic, once. Returns its verdict, or PENDING after `timeout` seconds."""
        request = pb.ModeratePostRequest(post=post, request_id=str(uuid.uuid4()))
        response: pb.ModeratePostResponse = await self._call("ModeratePost", request, timeout)
        return response

    async def watch(
        self,
        *,
        outcomes: Sequence[Outcome] = (),
        policy_ids: Sequence[str] = (),
        after: bytes = b"",
    ) -> AsyncGenerator[pb.WatchVerdictsResponse, None]:
        """Changes as they come, from now or after a consistency token. Reconnects when a stream ends, without a gap.

        The first message has no changes: the watch is open.
        """
        while True:
            request = pb.WatchVerdictsRequest(
                outcomes=outcomes, policy_ids=policy_ids, consistency_token=after, tenant=self._tenant
            )
            opened = False
            try:
                with self._explained():
                    async for message in self._stub.WatchVerdicts(request, metadata=self._metadata()):
                        after, opened = message.consistency_token, True
                        yield message
            except CallError as error:
                # With a token, a reader that was disconnected can continue. Without one, it was never connected.
                disconnected = error.code is grpc.StatusCode.UNAVAILABLE or error.reason == "SLOW_READER"
                # A watch ends when its bearer token expires; `token` may return a newer one by now.
                expired = opened and self._token is not None and error.code is grpc.StatusCode.UNAUTHENTICATED
                if not (after and (disconnected or expired)):
                    raise
            await asyncio.sleep(RECONNECT_S)

    async def list(
        self, *, outcomes: Sequence[Outcome] = (), policy_ids: Sequence[str] = (), page_size: int = BATCH
    ) -> AsyncIterator[Verdict]:
        """All verdicts that the API holds, latest decision first. `page_size`: how many a call asks for."""
        request = pb.ListVerdictsRequest(
            page_size=page_size, outcomes=outcomes, policy_ids=policy_ids, tenant=self._tenant
        )
        while True:
            page = await self._call("ListVerdicts", request, self._timeout)
            for verdict in page.verdicts:
                yield verdict
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return

    async def policies(self) -> pb.ListPoliciesResponse:
        """The policies of the API's deployment, of all pages."""
        policies, request = pb.ListPoliciesResponse(), pb.ListPoliciesRequest()
        while True:
            page: pb.ListPoliciesResponse = await self._call("ListPolicies", request, self._timeout)
            policies.policies.extend(page.policies)
            policies.digest, request.page_token = page.digest, page.next_page_token
            policies.read_at.CopyFrom(page.read_at)
            if not page.next_page_token:
                return policies

    async def serving(self) -> None:
        """Returns once the API is reached and serves lookups. Has no timeout of its own."""
        watch = self._channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        with self._explained():
            call = watch(health_pb2.HealthCheckRequest(), metadata=self._metadata(), wait_for_ready=True)
            async for response in call:
                if response.status == health_pb2.HealthCheckResponse.SERVING:
                    call.cancel()
                    return
        code = grpc.StatusCode.UNAVAILABLE
        raise CallError(f"{self._address}: {code.name}: the watch of its health ended", code)

    async def _send_batches(self) -> None:
        """Sends batches, each with the lookups that came during the previous one."""
        while self._queued:
            batch, self._queued = self._queued, {}
            try:
                for future, result in zip(batch.values(), await self.get_many(list(batch)), strict=True):
                    if not future.done():
                        future.set_result(result)
            except asyncio.CancelledError:
                _fail(batch, self._closed())
                raise
            except Exception as error:  # noqa: BLE001  each caller gets the error
                _fail(batch, error)

    def _check_id(self, post_id: str) -> None:
        try:
            problem = wire.id_problem(post_id)
        except UnicodeEncodeError:
            problem = "is not Unicode"
        if problem:
            code = grpc.StatusCode.INVALID_ARGUMENT
            raise CallError(f"{self._address}: {code.name}: post_id {problem}", code, "INVALID_FIELD")

    def _closed(self) -> CallError:
        return CallError(f"{self._address}: the client was closed", grpc.StatusCode.CANCELLED)

    async def _call(self, method: str, request: Any, timeout: float) -> Any:
        with traces.calling(SERVICE, method, self._server) as span:
            try:
                with self._explained():
                    call = getattr(self._stub, method)
                    response = await call(request, timeout=timeout, metadata=self._metadata())
            except CallError as error:
                traces.ended(span, error.code.name)
                raise
            traces.ended(span, "OK")
            return response

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        token = (("authorization", f"Bearer {self._token()}"),) if self._token else ()
        return (*token, *traces.metadata())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            reason, retry_s = _details(error)
            code = error.code()
            text = f"{self._address}: {code.name}: {error.details()}"
            raise CallError(text, code, reason, retry_s) from None


def _fail(lookups: Mapping[str, asyncio.Future[pb.LookupResult]], error: Exception) -> None:
    """Ends every lookup with this error: else its caller would wait for ever."""
    for future in lookups.values():
        if not future.done():
            future.set_exception(error)
            future.exception()  # marks the error as seen: the caller may have left


def _is_local(address: str) -> bool:
    """Whether bytes for this address stay on this machine. A name may begin like an address: 127.example.com."""
    if address.startswith("unix:"):
        return True
    host, _, port = address.rpartition(":")
    try:
        return port.isdecimal() and (host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback)
    except ValueError:
        return False


def _details(error: grpc.aio.AioRpcError) -> tuple[str, float | None]:
    """ErrorInfo's reason and RetryInfo's delay in seconds, if the status has them."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # has the part of a Call that is read
    reason, retry_s = "", None
    for detail in status.details if status is not None else ():
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(retry):
            retry_s = retry.retry_delay.ToTimedelta().total_seconds()
    return reason, retry_s


def _credentials(ca: Path | None, certificate: tuple[Path, Path] | None) -> grpc.ChannelCredentials:
    try:
        chain, key = (path.read_bytes() for path in certificate) if certificate else (None, None)
        return grpc.ssl_channel_credentials(ca.read_bytes() if ca else None, key, chain)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
