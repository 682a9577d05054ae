"""grpc.health.v1: whether the API serves, under the empty name and the service's.

Probes have no credentials. So Check answers every caller, and reads its requests of a few bytes within separate bounds.
Watch holds a stream: where the API needs credentials, Watch needs them, too. Callers without credentials then get
UNIMPLEMENTED, so that clients that check health by themselves do without.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2

from moderation.api.auth import Authenticator
from moderation.api.errors import RefusalKind, RefusedError, exhausted, invalid
from moderation.api.grpc import requests, status
from moderation.api.grpc.bodies import Bodies
from moderation.api.grpc.connections import Connections, address_of
from moderation.api.grpc.status import Context
from moderation.observability.probes import Liveness

MAX_REQUEST_BYTES = 1_024
READS = 4  # requests that are read at a time; each may take up to the port's largest message
PROBE_READS = 256  # on the port of probes, whose largest message is small
READ_S = 1.0
MAX_WAITING = 16  # checks of an address that wait to be read; further ones are refused at once
MAX_WATCHES = 100
SHARE = 9  # an address may hold at most this multiple of the free watches
STALL_S = 30.0  # after which a watch that takes no message is ended
RECHECK_S = 15.0  # between two checks of the credentials of a watch
WATCH_RETRY_S = 1.0

WATCH_NEEDS_CREDENTIALS = RefusedError(
    RefusalKind.UNIMPLEMENTED, "UNAUTHENTICATED", "Watch needs credentials; Check does not"
)
UNKNOWN_SERVICE = RefusedError(RefusalKind.NOT_FOUND, "INVALID_FIELD", "the service is not known", field="service")

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Checks:
    """The health of the API, on one port or several."""

    services = (health.SERVICE_NAME,)

    def __init__(self, liveness: Liveness, authenticator: Authenticator, service: str) -> None:
        """`liveness`: its /readyz says the same. `service`: name of the service that is checked."""
        self.names = (health.OVERALL_HEALTH, service)
        self._liveness = liveness
        self._authenticator = authenticator
        self._bodies: list[Bodies] = []  # one for each port: requests on one port hold up none on another
        self._serving = False
        self._left = False
        self._ended = False
        self._changed = asyncio.Event()  # a new one after each change
        self._watches: Counter[str] = Counter()  # by address

    def handlers(self, connections: Connections, *, probes: bool = False) -> grpc.GenericRpcHandler:
        """What a server needs. `probes`: the port is for probes alone, and every caller there may watch."""
        bodies = Bodies(PROBE_READS if probes else READS, 1, READ_S, max_waiting=MAX_WAITING)
        self._bodies.append(bodies)

        async def check(_: object, context: Context) -> bytes:
            if not probes and connections.asked(context.peer()):
                raise asyncio.CancelledError  # the connection is closed: no one reads a status
            try:
                response = await self._check(context, bodies)
            except RefusedError as error:
                counts = not probes and error is not UNKNOWN_SERVICE
                if counts and connections.refused(context.peer()):
                    raise asyncio.CancelledError from None  # the connection is closed: no one reads a status
                await status.end(context, error)
                raise AssertionError("an abort raises") from None
            connections.checked(context.peer())
            return response

        async def watch(_: object, context: Context) -> None:
            try:
                if not probes:
                    self._identify(context)
            except RefusedError as error:
                unauthenticated = error.kind is RefusalKind.UNAUTHENTICATED
                if unauthenticated and connections.refused(context.peer()):
                    raise asyncio.CancelledError from None  # the connection is closed: no one reads a status
                await status.end(context, WATCH_NEEDS_CREDENTIALS if unauthenticated else error)
            connections.admitted(context.peer())
            try:
                await self._watch(context, bodies, authenticated=not probes)
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
        """Cuts late requests, on the ports that have handlers by now, until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for bodies in self._bodies:
                tasks.create_task(bodies.sweep())

    def set_serving(self, *, serving: bool) -> None:
        """Sets the health. Has no effect after `leave`."""
        if self._left:
            return
        self._liveness.ready = self._serving = serving
        self._wake()

    def leave(self) -> None:
        """Sets the health to not serving, for good."""
        self.set_serving(serving=False)
        self._left = True

    def end_watches(self) -> None:
        """Ends the watches. They have received that the API stops."""
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

    async def _watch(self, context: Context, bodies: Bodies, *, authenticated: bool) -> None:
        address = address_of(context.peer())
        free = MAX_WATCHES - self._watches.total()
        if not free or self._watches[address] >= SHARE * free:
            await asyncio.sleep(WATCH_RETRY_S)  # a caller that tries again at once would take all of the server's time
            raise exhausted("OVERLOADED", "too many watches of health at once", WATCH_RETRY_S)
        self._watches[address] += 1
        try:
            await self._follow(await self._name(context, bodies), context, authenticated=authenticated)
        finally:
            self._watches[address] -= 1
            self._watches += Counter()  # drops what is zero

    async def _follow(self, name: str, context: Context, *, authenticated: bool) -> None:
        """Sends each change. `authenticated`: ends with the caller's credentials. Raises RefusedError."""
        sent = None
        while not self._ended:
            if authenticated:
                self._identify(context)
            changed, serving = self._changed, self._status(name)
            if serving != sent:
                try:
                    async with asyncio.timeout(STALL_S):
                        await context.write(health_pb2.HealthCheckResponse(status=serving).SerializeToString())
                except TimeoutError:
                    text = "the reader did not keep up"
                    raise exhausted("SLOW_READER", text, WATCH_RETRY_S) from None
                sent = serving
            with suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_S):
                    await changed.wait()

    async def _name(self, context: Context, bodies: Bodies) -> str:
        """The name of the service in a request. Raises RefusedError."""
        try:
            body = await bodies.read(context, address_of(context.peer()), MAX_REQUEST_BYTES)
            return str(health_pb2.HealthCheckRequest.FromString(body).service)
        except DecodeError:
            raise invalid("service", "cannot be read") from None

    def _identify(self, context: Context) -> None:
        """Raises RefusedError when the caller's credentials are not valid."""
        self._authenticator.identify(requests.credentials(self._authenticator, context, context.peer()))

    def _status(self, name: str) -> Any:
        if name not in self.names:
            return SERVICE_UNKNOWN
        return SERVING if self._serving else NOT_SERVING
