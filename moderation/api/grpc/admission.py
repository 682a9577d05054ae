"""How a call is admitted: its caller first, then a place among the calls of its kind, then its body.

All but the body is decided by the headers, before a byte of a message is read. An unauthenticated caller holds nothing
and waits for nothing. Authenticated callers share the places, and the memory that bodies are read into (bodies.py).
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from moderation.api.auth import Authenticator, Permit
from moderation.api.errors import RefusalKind, RefusedError, exhausted, unavailable
from moderation.api.grpc import requests
from moderation.api.grpc.bodies import LOOKUP_S, Bodies
from moderation.api.grpc.connections import Connections
from moderation.api.grpc.status import Context
from moderation.settings import ApiSettings

OVERLOAD_S = 0.5  # after which a call that got no place may be tried again
LOOKUP_READS = 32  # requests of lookups that are read at a time
MAX_HELD_OFF = 1_000  # calls that are refused late at a time; further ones are refused at once
AUTHENTICATED = (RefusalKind.FORBIDDEN, RefusalKind.EXHAUSTED)  # refusals that only an authenticated caller gets
SHARE = 9  # a caller may hold at most this multiple of the free places: alone at most nine tenths of all


class Admission:
    """Admits calls, and counts the calls under way by kind: lookup, wait or watch."""

    def __init__(
        self, settings: ApiSettings, authenticator: Authenticator, connections: Connections, largest: int
    ) -> None:
        """`largest`: bytes of the largest message that the server takes."""
        self.largest = largest
        self.closed: set[str] = set()  # kinds that are not admitted any more
        self._authenticator = authenticator
        self._connections = connections
        self._held_off = 0  # calls that are being refused late
        self._places = {
            "lookup": settings.max_concurrent_calls,
            "wait": settings.max_waits,
            "watch": settings.max_watches,
        }
        self._free = dict(self._places)
        self._held: dict[str, dict[str, int]] = {kind: {} for kind in self._places}  # places, by owner
        half = settings.max_body_bytes // 2
        self.posts = Bodies(half, largest, settings.body_timeout_s)
        # Lookups are small and arrive at once: many are read at a time, and only the slow ones count in full.
        slow, longest_s = max(1, half // largest), min(LOOKUP_S, settings.body_timeout_s)
        self.lookups = Bodies(LOOKUP_READS * largest, largest, longest_s, slow)

    def admit(self, context: Context, method: str) -> Permit:
        """Admits a call by its headers. Raises RefusedError, or CancelledError when its connection was closed."""
        peer = context.peer()
        try:
            permit = self._authenticator.admit(requests.credentials(self._authenticator, context, peer), method)
        except RefusedError as error:
            if error.kind is RefusalKind.UNAUTHENTICATED:
                if self._connections.refused(peer):
                    raise asyncio.CancelledError from None  # the connection is closed: no one reads a status
            elif error.kind in AUTHENTICATED:
                self._connections.admitted(peer)
            raise
        self._connections.admitted(peer)
        return permit

    def take(self, kind: str, owner: str) -> None:
        """Takes a place among the calls of this kind. `check` decides whether the call may keep it."""
        self._free[kind] -= 1
        held = self._held[kind]
        held[owner] = held.get(owner, 0) + 1

    def give_back(self, kind: str, owner: str) -> None:
        """Gives a place back when its call has ended."""
        self._free[kind] += 1
        held = self._held[kind]
        if left := held[owner] - 1:
            held[owner] = left
        else:
            del held[owner]

    def crowded(self, kind: str, owner: str) -> bool:
        """Whether an owner holds its share of the places of this kind already, and others need the rest."""
        free = self._free[kind]
        return free > 0 and self._held[kind].get(owner, 0) >= SHARE * free

    async def hold_off(self) -> None:
        """Raises RefusedError, late: a caller that tries again at once would take all of the server's time."""
        if self._held_off < MAX_HELD_OFF:
            self._held_off += 1
            try:
                await asyncio.sleep(OVERLOAD_S)
            finally:
                self._held_off -= 1
        raise exhausted("OVERLOADED", "this caller makes too many calls at once; try again later", OVERLOAD_S)

    def check_open(self, kind: str) -> None:
        """Raises RefusedError when calls of this kind are not admitted any more."""
        if kind in self.closed:
            raise unavailable("STOPPING", "this API is stopping; try again on a new connection", 0.0)

    def check(self, kind: str) -> None:
        """Raises RefusedError when a call that has taken a place is one too many."""
        if self._free[kind] < 0:
            raise exhausted("OVERLOADED", "too many calls at once; try again later", OVERLOAD_S)

    def close(self, *kinds: str) -> None:
        """Refuses calls of these kinds from now on."""
        self.closed.update(kinds)

    async def sweep(self) -> None:
        """Cuts bodies that are late, until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.posts.sweep())
            tasks.create_task(self.lookups.sweep())

    def under_way(self, *kinds: str) -> int:
        """How many admitted calls of these kinds are under way."""
        return sum(self._places[kind] - self._free[kind] for kind in kinds)


class UnknownMethods(grpc.GenericRpcHandler):
    """Refuses the calls of methods that no handler before it has. They count as calls of an unauthenticated caller."""

    def __init__(self, connections: Connections) -> None:
        async def end(_: object, context: Context) -> None:
            if connections.refused(context.peer()):
                raise asyncio.CancelledError  # the connection is closed: no one reads a status
            try:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the method is not known")
            except grpc.aio.UsageError:  # the caller has left: gRPC would log the error with its frames
                raise asyncio.CancelledError from None

        self._handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(end)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of every call."""
        return self._handler
