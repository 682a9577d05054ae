"""The connections to the API's port are found and closed, and nothing else of the process is touched."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from moderation.connections import _Sockets


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


def test_a_look_for_peers_leaves_the_locks_of_files_alone(server: socket.socket, tmp_path: Path) -> None:
    """With a database's locks gone, another process that looks into it and leaves takes its log along."""
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
        assert not sockets.shut(peers[another], peer)  # the descriptor is another's by now
        assert sockets.shut(peers[peer], peer)
        assert client.recv(1) == b""
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(1)
        os.fstat(peers[peer])  # the descriptor stays its owner's to close
