"""grpc.health.v1: whether the API serves, under the empty name and the service's.

Probes have no credentials, so Check answers anybody, from a few bytes that it reads within bounds of their own. Watch
holds a stream: where callers need credentials it is for those who have them. To others it is UNIMPLEMENTED, which tells
clients that check health by themselves to do without.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2

from moderation.api.auth import Authenticator, Context
from moderation.api.grpc import status
from moderation.api.grpc.bodies import Bodies
from moderation.api.grpc.connections import Connections, address_of
from moderation.api.grpc.service import Service
from moderation.api.grpc.status import RefusedError, exhausted, invalid
from moderation.observability.probes import Liveness

MAX_REQUEST_BYTES = 1_024
READS = 4  # requests that are read at a time; each may take up to the port's largest message
PROBE_READS = 256  # on the port of probes, whose largest message is small
READ_S = 1.0
MOST_WAITING = 16  # checks of an address that wait to be read; more are refused at once
MAX_WATCHES = 100
SHARE = 9  # an address may have so many times the watches that are left free
STALL_S = 30.0  # a watch that takes no message for so long has left
LOOK_S = 15.0  # between two looks at the credentials of a watch
RETRY_S = 1.0

NOT_FOR_STRANGERS = RefusedError(
    grpc.StatusCode.UNIMPLEMENTED, "UNAUTHENTICATED", "Watch needs credentials; Check does not"
)
UNKNOWN_SERVICE = RefusedError(grpc.StatusCode.NOT_FOUND, "INVALID_FIELD", "the service is not known", field="service")

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Checks:
    """What a port says of health. Several ports may say it."""

    names = (health.OVERALL_HEALTH, Service.name)
    services = (health.SERVICE_NAME,)

    def __init__(self, liveness: Liveness, authenticator: Authenticator) -> None:
        """`guard`: decides who may watch."""
        self._liveness = liveness  # whose /readyz says the same
        self._authenticator = authenticator
        self._bodies: list[Bodies] = []  # one for each port: what is asked on one holds up none of another
        self._serving = False
        self._left = False
        self._ended = False
        self._changed = asyncio.Event()  # a new one after each change
        self._watches: Counter[str] = Counter()  # by address

    def handlers(self, connections: Connections, *, probes: bool = False) -> grpc.GenericRpcHandler:
        """What a server is given. `probes`: its port is theirs alone, and anybody there may watch."""
        bodies = Bodies(PROBE_READS if probes else READS, 1, READ_S, most_waiting=MOST_WAITING)
        self._bodies.append(bodies)

        async def check(_: object, context: Context) -> bytes:
            if not probes and connections.asked(context.peer()):
                raise asyncio.CancelledError  # nobody is there to be told any more
            try:
                answer = await self._check(context, bodies)
            except RefusedError as error:
                known = probes or error is UNKNOWN_SERVICE
                if not known and connections.refused(context.peer()):
                    raise asyncio.CancelledError from None  # nobody is there to be told any more
                await status.end(context, error)
                raise AssertionError("an abort raises") from None
            connections.checked(context.peer())
            return answer

        async def watch(_: object, context: Context) -> None:
            try:
                if not probes:
                    self._authenticator.identify(context)
            except RefusedError as error:
                strange = error.code is grpc.StatusCode.UNAUTHENTICATED
                if strange and connections.refused(context.peer()):
                    raise asyncio.CancelledError from None  # nobody is there to be told any more
                await status.end(context, NOT_FOR_STRANGERS if strange else error)
            connections.admitted(context.peer())
            try:
                await self._watch(context, bodies, guarded=not probes)
            except RefusedError as error:
                await status.end(context, error)

        return grpc.method_handlers_generic_handler(
            health.SERVICE_NAME,
            {
                "Check": grpc.stream_unary_rpc_method_handler(check),
                "Watch": grpc.stream_stream_rpc_method_handler(watch),
            },
        )

    async def sweep(self) -> None:
        """Cuts requests that are late, on the ports that have handlers by now, until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for bodies in self._bodies:
                tasks.create_task(bodies.sweep())

    def tell(self, *, serving: bool) -> None:
        """What checks answer."""
        if self._left:
            return
        self._liveness.ready = self._serving = serving
        self._wake()

    def leave(self) -> None:
        """Not serving, whatever is told from now on."""
        self.tell(serving=False)
        self._left = True

    def end_watches(self) -> None:
        """They have heard that we go."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _check(self, context: Context, bodies: Bodies) -> bytes:
        serving = self._status(await self._name(context, bodies))
        if serving == SERVICE_UNKNOWN:
            raise UNKNOWN_SERVICE
        return health_pb2.HealthCheckResponse(status=serving).SerializeToString()

    async def _watch(self, context: Context, bodies: Bodies, *, guarded: bool) -> None:
        address = address_of(context.peer())
        free = MAX_WATCHES - self._watches.total()
        if not free or self._watches[address] >= SHARE * free:
            await asyncio.sleep(RETRY_S)  # one that tries again at once would be all that is served
            raise exhausted("OVERLOADED", "too many watches of health at once", RETRY_S)
        self._watches[address] += 1
        try:
            await self._follow(await self._name(context, bodies), context, guarded=guarded)
        finally:
            self._watches[address] -= 1
            self._watches += Counter()  # drops what is zero

    async def _follow(self, name: str, context: Context, *, guarded: bool) -> None:
        """`guarded`: for as long as the caller's credentials hold. Raises RefusedError."""
        told = None
        while not self._ended:
            if guarded:
                self._authenticator.identify(context)
            changed, serving = self._changed, self._status(name)
            if serving != told:
                try:
                    async with asyncio.timeout(STALL_S):
                        await context.write(health_pb2.HealthCheckResponse(status=serving).SerializeToString())
                except TimeoutError:
                    text = "the reader took no message for too long"
                    raise exhausted("SLOW_READER", text, RETRY_S) from None
                told = serving
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await changed.wait()

    async def _name(self, context: Context, bodies: Bodies) -> str:
        """The service that a request asks about. Raises RefusedError."""
        try:
            body = await bodies.read(context, address_of(context.peer()), MAX_REQUEST_BYTES)
            return str(health_pb2.HealthCheckRequest.FromString(body).service)
        except DecodeError:
            raise invalid("service", "cannot be read") from None

    def _status(self, name: str) -> Any:
        if name not in self.names:
            return SERVICE_UNKNOWN
        return SERVING if self._serving else NOT_SERVING
