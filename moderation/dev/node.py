"""One broker of a local Apache Kafka: its ports and its settings."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace

from moderation.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Node:
    """One broker, which is a controller too."""

    id: int
    port: int
    controller_port: int
    proxied_port: int = 0  # for those who come through the proxy, and are told to come that way again
    proxy_port: int = 0  # 0: there is none
    host: str = "127.0.0.1"  # where it listens, and where clients are told that it is


def pick_ports(count: int, first: int = 0, proxies: Sequence[int] = (), host: str = "127.0.0.1") -> tuple[Node, ...]:
    """Nodes with ports that are free at this moment. Raises ConfigError when a port asked for is taken.

    `proxies`: the port of each node's proxy, or none at all.
    """
    with contextlib.ExitStack() as stack:

        def bind(port: int) -> int:
            held = stack.enter_context(socket.socket())
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the broker does: TIME_WAIT is no obstacle
            try:
                held.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from error
                raise ConfigError(f"port {port} is taken ({error.strerror}): choose another, or 0 for any") from error
            return int(held.getsockname()[1])

        nodes = [Node(id + 1, bind(first and first + id), bind(0), host=host) for id in range(count)]
        if proxies:
            nodes = [
                replace(node, proxied_port=bind(0), proxy_port=proxy)
                for node, proxy in zip(nodes, proxies, strict=True)
            ]
        return tuple(nodes)


def properties(node: Node, nodes: Sequence[Node]) -> str:
    """The server.properties of one of `nodes`. Voters are static, so that ports may change between runs."""
    copies = min(3, len(nodes))
    in_sync = min(2, copies)
    listeners = advertised = f"PLAINTEXT://{node.host}:{node.port}"
    if node.proxy_port:
        listeners += f",PROXIED://127.0.0.1:{node.proxied_port}"
        advertised += f",PROXIED://127.0.0.1:{node.proxy_port}"
    values = {
        "process.roles": "broker,controller",
        "node.id": node.id,
        "listeners": f"{listeners},CONTROLLER://{node.host}:{node.controller_port}",
        "advertised.listeners": advertised,
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT",
        "controller.quorum.voters": ",".join(f"{each.id}@{each.host}:{each.controller_port}" for each in nodes),
        "log.dirs": "log",
        "auto.create.topics.enable": "false",
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": copies,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": in_sync,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
    }
    return "".join(f"{key}={value}\n" for key, value in values.items())
