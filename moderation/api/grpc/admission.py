"""How a call gets in: its caller first, then a place among the calls of its kind, then its body.

All but the body is decided on the headers, before a byte of a message is read. A caller who is not known holds nothing
and waits for nothing. Callers who are known share the places, and the memory that bodies are read into (bodies.py).
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from moderation.api.auth import Authenticator, Caller, Context
from moderation.api.grpc.bodies import LOOKUP_S, Bodies
from moderation.api.grpc.connections import Connections, address_of
from moderation.api.grpc.status import RefusedError, exhausted, unavailable
from moderation.settings import ApiSettings

OVERLOAD_S = 0.5  # after which a call that found no place may be tried again
LOOKUP_READS = 32  # requests of lookups that are read at a time
MOST_HELD_OFF = 1_000  # calls that are refused late at a time; more are refused at once
# What only callers are told who are known: their connections are no strangers'.
KNOWN = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.RESOURCE_EXHAUSTED)
SHARE = 9  # a caller may have so many times the places that are left free: alone at most nine tenths


class Admission:
    """Lets calls in, and counts those under way by their kind: lookup, wait or watch."""

    def __init__(
        self, settings: ApiSettings, authenticator: Authenticator, connections: Connections, largest: int
    ) -> None:
        """`largest`: bytes of the largest message that the server takes."""
        self.authenticator = authenticator
        self.largest = largest
        self.closed: set[str] = set()  # kinds that are taken no more
        self.late = 0  # calls of those that came all the same
        self._connections = connections
        self._held_off = 0  # calls that are refused late
        self._most = {
            "lookup": settings.max_concurrent_calls,
            "wait": settings.max_waits,
            "watch": settings.max_watches,
        }
        self._free = dict(self._most)
        self._held: dict[str, dict[str, int]] = {kind: {} for kind in self._most}  # places, by caller
        half = settings.max_body_bytes // 2
        self.posts = Bodies(half, largest, settings.body_timeout_s)
        # Lookups are small and here at once: many are read at a time, and only the slow ones count in full.
        slow, most_s = max(1, half // largest), min(LOOKUP_S, settings.body_timeout_s)
        self.lookups = Bodies(LOOKUP_READS * largest, largest, most_s, slow)

    def caller(self, context: Context, method: str) -> tuple[Caller, str]:
        """Who calls, and under which name its share is counted: its own, or its address. Raises RefusedError."""
        peer = context.peer()
        try:
            caller = self.authenticator.admit(context, method)
        except RefusedError as error:
            if error.code is grpc.StatusCode.UNAUTHENTICATED:
                if self._connections.refused(peer):
                    raise asyncio.CancelledError from None  # nobody is there to be told any more
            elif error.code in KNOWN:
                self._connections.admitted(peer)
            raise
        self._connections.admitted(peer)
        return caller, caller.name or address_of(peer)

    def owner(self, caller: Caller, context: Context) -> str:
        """The name under which a caller's share is counted."""
        return caller.name or address_of(context.peer())

    def take(self, kind: str, owner: str) -> None:
        """Takes a place among the calls of this kind; `check` says whether the call may have it."""
        self._free[kind] -= 1
        held = self._held[kind]
        held[owner] = held.get(owner, 0) + 1

    def give_back(self, kind: str, owner: str) -> None:
        """The call has ended."""
        self._free[kind] += 1
        held = self._held[kind]
        if left := held[owner] - 1:
            held[owner] = left
        else:
            del held[owner]

    def crowded(self, kind: str, owner: str) -> bool:
        """Whether a caller has its share of the places of this kind already, and others need the rest."""
        free = self._free[kind]
        return free > 0 and kind not in self.closed and self._held[kind].get(owner, 0) >= SHARE * free

    async def hold_off(self) -> None:
        """Raises RefusedError, late: a caller that tries again at once would be all that is served."""
        if self._held_off < MOST_HELD_OFF:
            self._held_off += 1
            try:
                await asyncio.sleep(OVERLOAD_S)
            finally:
                self._held_off -= 1
        raise exhausted("OVERLOADED", "too many calls of this caller at once; try again later", OVERLOAD_S)

    def check(self, kind: str) -> None:
        """Raises RefusedError when a call that has taken a place is one too many, or comes too late."""
        if kind in self.closed:
            self.late += 1
            raise unavailable("STOPPING", "the service is stopping; try again elsewhere", 0.0)
        if self._free[kind] < 0:
            raise exhausted("OVERLOADED", "too many calls at once; try again later", OVERLOAD_S)

    async def sweep(self) -> None:
        """Cuts bodies that are late, until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.posts.sweep())
            tasks.create_task(self.lookups.sweep())

    def under_way(self, *kinds: str) -> int:
        """How many calls of these kinds are."""
        return sum(self._most[kind] - self._free[kind] for kind in kinds)


class Unknown(grpc.GenericRpcHandler):
    """Ends the calls of methods that no handler before it has. They count as a stranger's refused calls."""

    def __init__(self, connections: Connections) -> None:
        async def end(_: object, context: Context) -> None:
            if connections.refused(context.peer()):
                raise asyncio.CancelledError  # nobody is there to be told any more
            try:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the method is not known")
            except grpc.aio.UsageError:  # the caller has left: gRPC would log it with its frames
                raise asyncio.CancelledError from None

        self._handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(end)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """What ends them all."""
        return self._handler
