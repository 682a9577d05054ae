"""Connections to the API's port are found and closed, and no other descriptor of the process is touched."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from moderation.api.grpc.connections import BURST, CHECK_COST, Connections, _Sockets
from moderation.settings import ApiSettings


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@contextmanager
def joined(server: socket.socket) -> Iterator[tuple[socket.socket, str]]:
    """A connection that the server has accepted: the client's end, and the peer as gRPC writes it."""
    with socket.create_connection(server.getsockname()) as client:
        accepted, (host, port) = server.accept()
        with accepted:
            yield client, f"ipv4:{host}:{port}"


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def test_looking_for_peers_keeps_the_locks_of_files(server: socket.socket, tmp_path: Path) -> None:
    """Without the locks of a database, another process that opens and closes it removes its write-ahead log."""
    path = tmp_path / "view.sqlite"
    with closing(sqlite3.connect(path)) as view, joined(server) as (_, peer):
        view.execute("PRAGMA journal_mode = WAL")
        view.execute("CREATE TABLE kept (number)")
        assert list(_Sockets().peers(port_of(server))) == [peer]
        look = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM kept').fetchall()"
        subprocess.run([sys.executable, "-c", look, str(path)], check=True)
        assert Path(f"{path}-wal").exists()


def test_a_peer_is_found_and_shut_out(server: socket.socket) -> None:
    sockets = _Sockets()
    with joined(server) as (client, peer), joined(server) as (other, another):
        peers = sockets.peers(port_of(server))
        assert set(peers) == {peer, another}
        assert not sockets.shut(peers[another], peer)  # the descriptor belongs to another peer
        assert sockets.shut(peers[peer], peer)
        assert client.recv(1) == b""
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(1)
        os.fstat(peers[peer])  # the descriptor stays open for its owner


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    copies: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + 1, hard))
    try:
        with suppress(OSError):
            while True:
                copies.append(os.dup(0))
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        yield
    finally:
        for copy in copies:
            os.close(copy)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("calls", [0, BURST + 1])
async def test_unauthenticated_peers_are_shut_out_when_no_descriptor_is_left(server: socket.socket, calls: int) -> None:
    """Peers that stay too long, and peers that make too many calls."""
    connections = Connections(ApiSettings(unauthenticated_timeout_s=60.0 if calls else 0.1), expire_unadmitted=True)
    watching = asyncio.create_task(connections.watch(port_of(server)))
    with joined(server) as (client, peer):
        client.setblocking(False)
        await asyncio.sleep(0)
        with no_descriptor_left():
            assert [connections.refused(peer) for _ in range(calls)] == [False] * (calls - 1) + [True] * bool(calls)
            async with asyncio.timeout(30):
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
    watching.cancel()


@pytest.mark.parametrize(("hard", "connections", "soft"), [(4_096, 1_000, 2_256), (1_024, 384, 1_024)])
def test_connections_are_as_many_as_there_are_descriptors_for(hard: int, connections: int, soft: int) -> None:
    look = (
        "import resource; from moderation.api.grpc.connections import affordable; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (200, {hard})); "
        "print(affordable(1_000, 2), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    shown = subprocess.run([sys.executable, "-c", look], check=True, capture_output=True, text=True)
    assert shown.stdout.splitlines()[-1].split() == [str(connections), str(soft)]


def test_an_address_may_ask_for_health_far_more_often_than_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    connections = Connections(ApiSettings(), expire_unadmitted=True)
    asked = [connections.asked(f"ipv4:192.0.2.1:{number}") for number in range(6_000)]
    first = asked.index(True)
    assert BURST / CHECK_COST - 1 <= first <= BURST / CHECK_COST
    assert all(asked[first:])
    now += 1
    assert not connections.asked("ipv4:192.0.2.1:7000")
    assert not connections.asked("ipv4:192.0.2.2:1")
    connections.admitted("ipv4:192.0.2.1:1")
    assert not connections.asked("ipv4:192.0.2.1:1")
