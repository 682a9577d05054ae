"""Connections to a port of the API: how many a peer may have, and which are closed: those without authenticated calls.

gRPC refuses calls one by one, and each refusal takes time on the event loop. gRPC has no way to close a connection. So
this module finds the socket of a connection among the process's descriptors, by the peer's address, and shuts it down.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
from cachetools import LRUCache

from moderation.observability import metrics
from moderation.settings import ApiSettings

BURST = 64  # refused calls of an address that are answered at once
REFILL_PER_S = 4.0  # further ones in a second; the next one closes its connection
CHECK_COST = 0.02  # of a health check, in refused calls: an address may ask 200 times a second, and 3,200 times at once
SWEEP_S = 0.5
FEW = 200  # connections; up to this number the event loop looks for a socket, beyond it a thread does
LOOK_S = 0.01  # between two such looks of the event loop
LOG_S = 10.0  # between two log lines about refused calls
MAX_ADDRESSES = 10_000  # whose refused calls are counted

DESCRIPTORS = Path("/dev/fd")
RESERVED = 256  # descriptors for files, brokers and databases
HIGHEST = 65_536  # descriptor up to which each number is tried when they cannot be listed

log = structlog.get_logger()


class Connections:
    """The connections to one port. A peer is written as in gRPC: `ipv4:192.0.2.1:40000`."""

    def __init__(self, settings: ApiSettings, *, expire_unadmitted: bool, counted: bool = True) -> None:
        """`expire_unadmitted`: closes a connection on which no call was admitted for unauthenticated_timeout_s.

        `counted`: sets the metric to the number of connections.
        """
        self._counted = counted
        self._max_per_address = settings.max_peer_connections
        self._unadmitted_s = settings.unauthenticated_timeout_s if expire_unadmitted else float("inf")
        self._sockets = _Sockets()
        self._port = 0
        self._looked = 0.0  # when the event loop last looked for a socket
        self._admitted: set[str] = set()  # peers
        self._seen: dict[str, float] = {}  # by peer: when it connected, or had its health check answered
        self._left: LRUCache[str, tuple[float, float]] = LRUCache(MAX_ADDRESSES)  # by address: refusals, as of when
        self._condemned: set[str] = set()  # peers whose connections are to be closed
        self._woken = asyncio.Event()
        self._closed: Counter[str] = Counter()  # by cause, since the last log line
        self._refused = 0  # calls, since the last log line
        self._address = ""  # of the peer that was refused last

    def admitted(self, peer: str) -> None:
        """Notes that a call of this peer was admitted."""
        self._admitted.add(peer)

    def checked(self, peer: str) -> None:
        """Notes that a health check of this peer was answered: balancers need no credentials."""
        self._seen[peer] = time.monotonic()

    def asked(self, peer: str) -> bool:
        """Counts a health check, which needs no credentials. Too many close the peer's connection: then True."""
        return self._spend(peer, CHECK_COST)

    def refused(self, peer: str) -> bool:
        """Counts a refused call of an unauthenticated peer. Too many close its connection: then True."""
        self._refused += 1
        self._address = address_of(peer)
        metrics.UNAUTHENTICATED_REFUSED.inc()
        return self._spend(peer, 1.0)

    def _spend(self, peer: str, cost: float) -> bool:
        """Takes the cost of a call from what an unadmitted peer's address has left; True: its connection is closed."""
        address, now = address_of(peer), time.monotonic()
        if peer in self._condemned:
            return True
        if peer in self._admitted or not peer.startswith(("ipv4:", "ipv6:")):  # other sockets cannot be found
            return False
        left, at = self._left.get(address, (float(BURST), now))
        left = min(float(BURST), left + (now - at) * REFILL_PER_S)
        self._left[address] = max(0.0, left - cost), now
        if left < cost:
            self._condemned.add(peer)
            if len(self._seen) <= FEW and now - self._looked >= LOOK_S:
                self._looked = now
                with suppress(OSError):  # no descriptor is left to list them with: `watch` looks without a list
                    self._shut(self._sockets.peers(self._port), [peer], "unauthenticated")
                    return True
            self._woken.set()
        return left < cost

    def end(self, port: int) -> None:
        """Takes no further connection to this port, and closes the ones there are. For a server without calls."""
        with suppress(OSError):  # no descriptor is left to list them with: the server's own stop closes them
            self._sockets.shut_listeners(port)
            peers = self._sockets.peers(port)
            for peer, descriptor in peers.items():
                self._sockets.shut(descriptor, peer)

    async def watch(self, port: int) -> None:
        """Closes what is to be closed, until it is cancelled. `port`: the port that is served."""
        self._port = port
        swept = logged = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_S):
                    await self._woken.wait()
            self._woken.clear()
            condemned, self._condemned = self._condemned, set()
            peers = await asyncio.to_thread(self._sockets.peers, port, listed=False)
            now = time.monotonic()
            self._shut(peers, condemned, "unauthenticated")
            if now - swept >= SWEEP_S:
                swept = now
                self._sweep(peers, now)
            if (self._closed or self._refused) and now - logged >= LOG_S:
                logged = now
                self._log()

    def _sweep(self, peers: Mapping[str, int], now: float) -> None:
        """Closes connections that were open too long without an admitted call, and the surplus ones of an address."""
        self._seen = {peer: self._seen.get(peer, now) for peer in peers}
        self._admitted.intersection_update(peers)
        if self._counted:
            metrics.CONNECTIONS.set(len(peers))
        expired = {peer for peer, at in self._seen.items() if at < now - self._unadmitted_s} - self._admitted
        self._shut(peers, expired, "unauthenticated")
        by_address: defaultdict[str, list[str]] = defaultdict(list)
        for peer in peers.keys() - expired:
            by_address[address_of(peer)].append(peer)
        for neighbours in by_address.values():
            if 0 < self._max_per_address < len(neighbours):
                # Peers with an admitted call stay first, then the older ones.
                neighbours.sort(key=lambda peer: (peer not in self._admitted, self._seen[peer]))
                self._shut(peers, neighbours[self._max_per_address :], "too_many")

    def _shut(self, peers: Mapping[str, int], chosen: Iterable[str], cause: str) -> None:
        for peer in chosen:
            if peer in peers and self._sockets.shut(peers[peer], peer):
                self._closed[cause] += 1
                metrics.CONNECTIONS_CLOSED.labels(cause).inc()

    def _log(self) -> None:
        closed = {f"{cause}_connections_closed": count for cause, count in self._closed.items()}
        log.warning("unauthenticated_calls_refused", calls=self._refused, latest_address=self._address, **closed)
        self._closed.clear()
        self._refused = 0


class _Sockets:
    """The sockets of this process that are connections to a port."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, str]] = {}  # by descriptor: what it is open on, and the peer

    def peers(self, port: int, *, listed: bool = True) -> dict[str, int]:
        """The descriptors of the connections to a port, by peer. A known descriptor costs one system call.

        Raises OSError when no descriptor is left to list them with. Without `listed` this tries each number that a
        descriptor may have instead, which takes longer.
        """
        known, peers = {}, {}
        try:
            names: Iterable[str] = os.listdir(DESCRIPTORS)
        except OSError:
            if listed:
                raise
            names = map(str, range(min(HIGHEST, resource.getrlimit(resource.RLIMIT_NOFILE)[0])))
        for name in names:
            try:
                target = os.readlink(DESCRIPTORS / name)
            except OSError:  # closed meanwhile
                continue
            before = self._known.get(name)
            if before is None or before[0] != target:
                before = target, _peer_of(int(name), port) if target.startswith("socket:") else ""
            known[name] = before
            if before[1]:
                peers[before[1]] = int(name)
        self._known = known
        return peers

    def shut_listeners(self, port: int) -> None:
        """Shuts the sockets down that take connections to this port. Raises OSError as `peers` does."""
        for name in os.listdir(DESCRIPTORS):
            with _borrowed(int(name)) as listener, suppress(OSError):
                if (
                    listener is not None
                    and listener.family in (socket.AF_INET, socket.AF_INET6)
                    and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                    and listener.getsockname()[1] == port
                ):
                    listener.shutdown(socket.SHUT_RDWR)

    def shut(self, descriptor: int, peer: str) -> bool:
        """Shuts the connection down, if the descriptor is still this peer's; True: it was."""
        with _borrowed(descriptor) as connection:
            if connection is None or _peer(connection) != peer:
                return False
            with suppress(OSError):  # the peer has closed it already
                connection.shutdown(socket.SHUT_RDWR)
        return True


def affordable(wanted: int, ports: int) -> int:
    """How many connections each of the ports may have: `wanted`, or fewer if the descriptors do not suffice.

    Raises the process's limit of descriptors as far as needed and allowed. A process at the limit cannot open files.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = RESERVED + ports * wanted
    if 0 <= soft < needed:
        soft = needed if hard < 0 else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    bound = wanted if soft < 0 else min(wanted, max(1, (soft - RESERVED) // ports))
    if bound < wanted:
        log.warning("connections_bounded", max_connections=wanted, bound=bound, descriptors=soft)
    return bound


def address_of(peer: str) -> str:
    """The peer without its port."""
    return peer.rpartition(":")[0]


def _peer_of(descriptor: int, port: int) -> str:
    """The peer of a connection to the port; empty: the descriptor is something else."""
    with _borrowed(descriptor) as connection:
        if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
            return ""
        try:
            local_port = connection.getsockname()[1]
        except OSError:
            return ""
        return _peer(connection) if local_port == port else ""


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket | None]:
    """The socket of a descriptor; None: the descriptor is not a socket, or is closed.

    The descriptor is neither copied nor closed. When a process closes any copy of a file's descriptor, it loses all its
    locks on that file: those by which SQLite keeps other processes out of the view.
    """
    try:
        borrowed = socket.socket(fileno=descriptor)
    except OSError:
        yield None
        return
    try:
        yield borrowed
    finally:
        borrowed.detach()


def _peer(connection: socket.socket) -> str:
    """The peer of a connection, as gRPC writes it; empty: not connected, or not over TCP."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return ""
    try:
        host, port = connection.getpeername()[:2]
    except OSError:
        return ""
    host = host.removeprefix("::ffff:")
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"
