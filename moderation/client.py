"""A typed client of the API.

    async with Client("api.internal:50051", ca=Path("ca.pem"), token=read_token) as client:
        found = await client.get("42")

It tries again where the status is UNAVAILABLE, and nowhere else: gRPC's own retries, with backoff, within the call's
deadline. Lookups of one post that come while a call is under way go out together, as one batch. Where the program has
OpenTelemetry set up, a call is a span of its trace.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import grpc
from google.rpc import error_details_pb2
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
RECONNECT_S = 1.0  # before a watch goes on somewhere else
KEEPALIVE_MS = 60_000

SERVICE = pb.DESCRIPTOR.services_by_name["ModerationService"].full_name
RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": SERVICE}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


class CallError(ModerationError):
    """The API cannot be reached, or says no: `code` says what, and `reason` (an ErrorReason) why."""

    def __init__(self, text: str, code: grpc.StatusCode, reason: str = "", retry_s: float | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.reason = reason
        self.retry_s = retry_s  # when to try again, if the API says so


class Client:
    """Calls one API. Every method raises CallError, and what `token` raises."""

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
        """`ca` or `certificate` (chain and key): TLS. `token` is asked for each call, so that it may change.

        Raises ConfigError when a file cannot be read, or a token would go out in the clear.
        """
        self._address = address
        self._tenant = tenant
        self._token = token
        self._timeout = timeout
        self._asked: dict[str, asyncio.Future[pb.LookupResult]] = {}  # to go out with the next batch
        self._asking: asyncio.Task[None] | None = None
        options: list[tuple[str, Any]] = [
            # No limits of our own: a batch of verdicts or a post with images may be larger than gRPC's 4 MiB.
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.service_config", json.dumps(RETRIES)),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ]
        if ca or certificate:
            self._channel = grpc.aio.secure_channel(address, _credentials(ca, certificate), options=options)
        elif token and not _is_here(address):
            raise ConfigError("a token goes over TLS only: name the CA")
        else:
            self._channel = grpc.aio.insecure_channel(address, options=options)
        self._stub: Any = pb_grpc.ModerationServiceStub(self._channel)  # type: ignore[no-untyped-call]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        _fail(self._asked, self._closed())
        self._asked = {}
        await self._channel.close()

    async def get(self, post_id: str, *, after: bytes = b"") -> pb.LookupResult:
        """What is known of one post; `after` is a consistency token that the answer must not be older than."""
        if after:
            (result,) = await self.get_many([post_id], after=after)
            return result
        self._check_id(post_id)  # here, for the API would refuse the whole batch
        asked = self._asked.get(post_id)
        if asked is None:
            asked = self._asked[post_id] = asyncio.get_running_loop().create_future()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(asked)

    async def get_many(self, post_ids: Sequence[str], *, after: bytes = b"") -> list[pb.LookupResult]:
        """What is known of each post, in the order asked."""
        results: list[pb.LookupResult] = []
        for start in range(0, len(post_ids), BATCH):
            ids = post_ids[start : start + BATCH]
            request = pb.BatchGetVerdictsRequest(post_ids=ids, consistency_token=after, tenant=self._tenant)
            results += (await self._call("BatchGetVerdicts", request, self._timeout)).results
        return results

    async def wait(self, post_id: str, timeout: float, *, after: bytes = b"") -> pb.WaitVerdictResponse:
        """The verdict for a post as soon as there is one; what is known then when there is none within `timeout`."""
        request = pb.WaitVerdictRequest(post_id=post_id, consistency_token=after, tenant=self._tenant)
        answer: pb.WaitVerdictResponse = await self._call("WaitVerdict", request, timeout)
        return answer

    async def moderate(self, post: Post, timeout: float) -> pb.ModeratePostResponse:
        """The verdict for a post, or PENDING when there is none within `timeout` seconds. Put on the topic once."""
        request = pb.ModeratePostRequest(post=post, request_id=str(uuid.uuid4()))
        answer: pb.ModeratePostResponse = await self._call("ModeratePost", request, timeout)
        return answer

    async def watch(
        self,
        *,
        outcomes: Sequence[Outcome] = (),
        policy_ids: Sequence[str] = (),
        after: bytes = b"",
    ) -> AsyncGenerator[pb.WatchVerdictsResponse, None]:
        """Changes as they come, from now or after a token; the stream is opened anew where it ends, without a gap.

        The first message says, without changes, that the watch stands.
        """
        while True:
            request = pb.WatchVerdictsRequest(
                outcomes=outcomes, policy_ids=policy_ids, consistency_token=after, tenant=self._tenant
            )
            stood = False
            try:
                with self._explained():
                    async for message in self._stub.WatchVerdicts(request, metadata=self._metadata()):
                        after, stood = message.consistency_token, True
                        yield message
            except CallError as error:
                # A reader that was shed has not lost its place; without one we have never been in.
                shed = error.code is grpc.StatusCode.UNAVAILABLE or error.reason == "SLOW_READER"
                # A watch ends with the bearer token that it was opened with; by now there may be a newer one.
                expired = stood and self._token is not None and error.code is grpc.StatusCode.UNAUTHENTICATED
                if not (after and (shed or expired)):
                    raise
            await asyncio.sleep(RECONNECT_S)

    async def list(self, *, outcomes: Sequence[Outcome] = (), policy_ids: Sequence[str] = ()) -> AsyncIterator[Verdict]:
        """All verdicts that the API holds, latest decision first."""
        request = pb.ListVerdictsRequest(page_size=BATCH, outcomes=outcomes, policy_ids=policy_ids, tenant=self._tenant)
        while True:
            page = await self._call("ListVerdicts", request, self._timeout)
            for verdict in page.verdicts:
                yield verdict
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return

    async def policies(self) -> pb.ListPoliciesResponse:
        """The policies that the API's deployment judges by."""
        answer: pb.ListPoliciesResponse = await self._call("ListPolicies", pb.ListPoliciesRequest(), self._timeout)
        return answer

    async def _ask(self) -> None:
        """Batches of what was asked for while the last one was under way."""
        while self._asked:
            asked, self._asked = self._asked, {}
            try:
                for future, result in zip(asked.values(), await self.get_many(list(asked)), strict=True):
                    if not future.done():
                        future.set_result(result)
            except asyncio.CancelledError:
                _fail(asked, self._closed())
                raise
            except Exception as error:  # noqa: BLE001  who asked has it, whatever it is
                _fail(asked, error)

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
        with traces.calling(SERVICE, method) as span:
            try:
                with self._explained():
                    call = getattr(self._stub, method)
                    answer = await call(request, timeout=timeout, metadata=self._metadata())
            except CallError as error:
                traces.ended(span, error.code.name)
                raise
            traces.ended(span, "OK")
            return answer

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


def _fail(asked: Mapping[str, asyncio.Future[pb.LookupResult]], error: Exception) -> None:
    """Every one of them ends: nobody waits for what will not come."""
    for future in asked.values():
        if not future.done():
            future.set_exception(error)
            future.exception()  # whoever asked may have left


def _is_here(address: str) -> bool:
    """Whether what is sent there does not leave the machine. A name may begin like an address: 127.example.com."""
    if address.startswith("unix:"):
        return True
    host, _, port = address.rpartition(":")
    try:
        return port.isdecimal() and (host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback)
    except ValueError:
        return False


def _details(error: grpc.aio.AioRpcError) -> tuple[str, float | None]:
    """ErrorInfo's reason and RetryInfo's delay, where the status has them."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # has all of a Call that is read
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
