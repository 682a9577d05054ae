"""Connections to the API's port: how many a peer may have, and what becomes of those that only cost.

gRPC refuses calls one by one, and each refusal takes time on the event loop. It offers no way to close a connection:
this file shuts its socket down, found among the process's own descriptors by the peer's address.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from moderation.observability import metrics
from moderation.settings import ApiSettings

BURST = 64  # refused calls of a peer's address that are answered at once,
CHECK_COST = 0.02  # of a health check in such calls: an address may ask 200 times a second, and 3,200 times at once
REFILL_PER_S = 4.0  # and so many a second after that; the next one closes its connection
SWEEP_S = 0.5
FEW = 200  # connections, among which one is found at once: beyond that a thread does it
LOOK_S = 0.01  # between two such looks
LOG_S = 10.0  # between two lines about what was refused
REMEMBERED = 10_000  # addresses

DESCRIPTORS = Path("/dev/fd")
KEPT = 256  # descriptors that are for files, brokers and databases
HIGHEST = 65_536  # descriptors, among which those are looked for that cannot be listed

log = structlog.get_logger()


class Connections:
    """Watches the connections to one port. A peer is `ipv4:192.0.2.1:40000`, as gRPC writes it."""

    def __init__(self, settings: ApiSettings, *, guarded: bool, counted: bool = True) -> None:
        """`guarded`: a connection on which nothing was let in is a stranger's. `counted`: as the metric has them."""
        self._counted = counted
        self._most = settings.max_peer_connections
        self._stranger_s = settings.unauthenticated_timeout_s if guarded else float("inf")
        self._sockets = _Sockets()
        self._port = 0
        self._looked = 0.0  # for one peer, at once
        self._admitted: set[str] = set()  # peers
        self._seen: dict[str, float] = {}  # by peer: when it connected, or had its health check answered
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # by address: refusals left, as of when
        self._condemned: set[str] = set()  # peers that are to be closed
        self._woken = asyncio.Event()
        self._closed: Counter[str] = Counter()  # by cause, since the last line
        self._refused = 0  # calls, since then
        self._address = ""  # of the peer that was refused last

    def admitted(self, peer: str) -> None:
        """A call of this peer was let in."""
        self._admitted.add(peer)

    def checked(self, peer: str) -> None:
        """A health check of this peer was answered: a balancer's connection is of use without credentials."""
        self._seen[peer] = time.monotonic()

    def asked(self, peer: str) -> bool:
        """A peer asks for health, which needs no credentials. Too many such calls close its connection: then True."""
        return self._spend(peer, CHECK_COST)

    def refused(self, peer: str) -> bool:
        """A call of this peer was refused as a stranger's. Too many close its connection: then it is True."""
        self._refused += 1
        self._address = address_of(peer)
        metrics.UNAUTHENTICATED_REFUSED.inc()
        return self._spend(peer, 1.0)

    def _spend(self, peer: str, cost: float) -> bool:
        """Takes the cost of a call from what is left to a stranger's address; True: its connection is closed."""
        address, now = address_of(peer), time.monotonic()
        if peer in self._condemned:
            return True
        if peer in self._admitted or not peer.startswith(("ipv4:", "ipv6:")):  # of those none can be found
            return False
        left, at = self._left.pop(address, (float(BURST), now))
        left = min(float(BURST), left + (now - at) * REFILL_PER_S)
        self._left[address] = max(0.0, left - cost), now
        if len(self._left) > REMEMBERED:
            self._left.popitem(last=False)
        if left < cost:
            self._condemned.add(peer)
            if len(self._seen) <= FEW and now - self._looked >= LOOK_S:
                self._looked = now
                with suppress(OSError):  # no descriptor is left to list them with: `watch` looks without
                    self._shut(self._sockets.peers(self._port), [peer], "unauthenticated")
                    return True
            self._woken.set()
        return left < cost

    async def watch(self, port: int) -> None:
        """Closes what is to be closed, until it is cancelled. `port`: the one that is served."""
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
                self._tell()

    def _sweep(self, peers: Mapping[str, int], now: float) -> None:
        """Closes strangers' connections that have been open too long, and those of a peer that are too many."""
        self._seen = {peer: self._seen.get(peer, now) for peer in peers}
        self._admitted.intersection_update(peers)
        if self._counted:
            metrics.CONNECTIONS.set(len(peers))
        strange = {peer for peer, at in self._seen.items() if at < now - self._stranger_s} - self._admitted
        self._shut(peers, strange, "unauthenticated")
        by_address: defaultdict[str, list[str]] = defaultdict(list)
        for peer in peers.keys() - strange:
            by_address[address_of(peer)].append(peer)
        for theirs in by_address.values():
            if 0 < self._most < len(theirs):
                # Those that have been let in stay, then the older ones.
                theirs.sort(key=lambda peer: (peer not in self._admitted, self._seen[peer]))
                self._shut(peers, theirs[self._most :], "too_many")

    def _shut(self, peers: Mapping[str, int], chosen: Iterable[str], cause: str) -> None:
        for peer in chosen:
            if peer in peers and self._sockets.shut(peers[peer], peer):
                self._closed[cause] += 1
                metrics.CONNECTIONS_CLOSED.labels(cause).inc()

    def _tell(self) -> None:
        closed = {f"{cause}_connections_closed": count for cause, count in self._closed.items()}
        log.warning("unauthenticated_calls_refused", calls=self._refused, latest_address=self._address, **closed)
        self._closed.clear()
        self._refused = 0


class _Sockets:
    """The sockets of this process that are connections to a port."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, str]] = {}  # by descriptor: what it is open on, and the peer

    def peers(self, port: int, *, listed: bool = True) -> dict[str, int]:
        """Their peers and descriptors. A look costs one system call for each that was there before.

        Raises OSError: they cannot be listed, as no descriptor is left for that. Without `listed` each number that a
        descriptor may have is then looked at, which takes longer.
        """
        known, found = {}, {}
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
                found[before[1]] = int(name)
        self._known = known
        return found

    def shut(self, descriptor: int, peer: str) -> bool:
        """Shuts the connection down, if the descriptor is still this peer's."""
        with _borrowed(descriptor) as found:
            if found is None or _peer(found) != peer:
                return False
            with suppress(OSError):  # the peer was faster
                found.shutdown(socket.SHUT_RDWR)
        return True


def room(wanted: int, ports: int) -> int:
    """How many connections each of so many ports may have: `wanted`, or fewer if there are no descriptors for them.

    Raises the process's limit of descriptors, as far as it needs to and may. At the limit it could open no file either.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = KEPT + ports * wanted
    if 0 <= soft < needed:
        soft = needed if hard < 0 else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    found = wanted if soft < 0 else min(wanted, max(1, (soft - KEPT) // ports))
    if found < wanted:
        log.warning("connections_bounded", max_connections=wanted, bound=found, descriptors=soft)
    return found


def address_of(peer: str) -> str:
    """The peer without its port."""
    return peer.rpartition(":")[0]


def _peer_of(descriptor: int, port: int) -> str:
    """The peer of a connection to the port; empty: the descriptor is something else."""
    with _borrowed(descriptor) as found:
        if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
            return ""
        try:
            ours = found.getsockname()[1] == port
        except OSError:
            return ""
        return _peer(found) if ours else ""


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket | None]:
    """The socket that this descriptor is; None: it is no socket, or gone.

    The descriptor is neither copied nor closed. With any copy of a file that is closed, a process loses all its locks
    on that file: those by which SQLite keeps other processes out of the view.
    """
    try:
        found = socket.socket(fileno=descriptor)
    except OSError:
        yield None
        return
    try:
        yield found
    finally:
        found.detach()


def _peer(found: socket.socket) -> str:
    """Who is at the other end, as gRPC writes it; empty: nobody, or not over TCP."""
    if found.family not in (socket.AF_INET, socket.AF_INET6):
        return ""
    try:
        host, port = found.getpeername()[:2]
    except OSError:
        return ""
    host = host.removeprefix("::ffff:")
    return f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"
