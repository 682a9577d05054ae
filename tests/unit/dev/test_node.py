"""The settings of local brokers fit their number, their ports and their proxies."""

from __future__ import annotations

import socket

import pytest

from moderation.dev.node import Node, pick_ports, properties
from moderation.errors import ConfigError


def parsed(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines())


def test_one_broker_asks_for_one_copy() -> None:
    node = Node(1, 19092, 19093)
    values = parsed(properties(node, [node]))
    assert values["controller.quorum.voters"] == "1@127.0.0.1:19093"
    assert values["advertised.listeners"] == "PLAINTEXT://127.0.0.1:19092"
    assert values["transaction.state.log.replication.factor"] == values["min.insync.replicas"] == "1"
    assert values["auto.create.topics.enable"] == "false"


def test_three_brokers_survive_the_loss_of_one() -> None:
    nodes = [Node(id, 19000 + id, 19100 + id) for id in (1, 2, 3)]
    values = [parsed(properties(node, nodes)) for node in nodes]
    assert {each["controller.quorum.voters"] for each in values} == {
        "1@127.0.0.1:19101,2@127.0.0.1:19102,3@127.0.0.1:19103"
    }
    assert [each["node.id"] for each in values] == ["1", "2", "3"]
    assert values[0]["offsets.topic.replication.factor"] == "3"
    assert values[0]["transaction.state.log.min.isr"] == "2"


def test_behind_a_proxy_brokers_advertise_only_proxies() -> None:
    nodes = pick_ports(2, proxies=(21001, 21002))
    values = parsed(properties(nodes[1], nodes))
    assert values["listeners"].split(",")[1] == f"PROXIED://127.0.0.1:{nodes[1].proxied_port}"
    assert values["advertised.listeners"].split(",") == [
        f"PLAINTEXT://127.0.0.1:{nodes[1].port}",
        "PROXIED://127.0.0.1:21002",
    ]
    assert "PROXIED" not in parsed(properties(Node(1, 19092, 19093), nodes))["listeners"]


def test_ports_are_free_and_differ() -> None:
    nodes = pick_ports(3)
    ports = [port for node in nodes for port in (node.port, node.controller_port)]
    assert len(set(ports)) == 6
    for port in ports:
        with socket.socket() as free:
            free.bind(("127.0.0.1", port))


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is taken"):
            pick_ports(1, port)


def test_a_broker_on_another_address_advertises_it() -> None:
    (node,) = pick_ports(1, host="127.0.0.2")
    values = parsed(properties(node, [node]))
    assert values["advertised.listeners"] == f"PLAINTEXT://127.0.0.2:{node.port}"
    assert values["controller.quorum.voters"] == f"1@127.0.0.2:{node.controller_port}"
    with pytest.raises(ConfigError, match=r"cannot listen on 198\.51\.100\.1:0: "):  # reserved for documentation
        pick_ports(1, host="198.51.100.1")
