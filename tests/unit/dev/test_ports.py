"""A free port is one that a restarted server gets again."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from moderation.dev import ports
from moderation.dev.ports import HeldPorts, free_ports, lasting_ports


def test_free_ports_differ_and_can_be_bound() -> None:
    picked = free_ports(20)
    assert len(set(picked)) == 20
    for port in picked:
        with socket.socket() as free:
            free.bind(("127.0.0.1", port))


def test_the_kernel_gives_no_outgoing_connection_a_free_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = tmp_path / "range"
    published.write_text("20000\t60999\n")
    monkeypatch.setattr(ports, "EPHEMERAL", published)
    assert lasting_ports() == range(ports.LOWEST, 20_000)
    assert all(port in lasting_ports() for port in free_ports(20))


@pytest.mark.parametrize("published", [None, "", "1024 65000", "many few"])
def test_without_a_usable_range_a_free_port_is_an_ephemeral_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: str | None
) -> None:
    if published is not None:
        (tmp_path / "range").write_text(published)
    monkeypatch.setattr(ports, "EPHEMERAL", tmp_path / "range")
    assert not lasting_ports()
    assert len(set(free_ports(3))) == 3


def test_a_taken_port_is_not_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, HeldPorts() as held:
        taken = server.getsockname()[1]
        monkeypatch.setattr(ports, "lasting_ports", lambda: range(taken, taken + 1))
        assert held.pick() != taken


def test_a_held_port_is_not_picked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = free_ports(1)
    monkeypatch.setattr(ports, "lasting_ports", lambda: range(first, first + 1))
    with HeldPorts() as held:
        assert held.pick() == first
        assert held.pick() != first


def test_a_port_to_avoid_is_not_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    (reserved,) = free_ports(1)
    monkeypatch.setattr(ports, "lasting_ports", lambda: range(reserved, reserved + 1))
    with HeldPorts(avoid=(reserved,)) as held:
        assert held.pick() != reserved
