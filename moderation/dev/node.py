"""One broker of a local Apache Kafka: its ports and its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moderation.dev.ports import HeldPorts


@dataclass(frozen=True, slots=True)
class Node:
    """One broker, which is a controller too."""

    id: int
    port: int
    controller_port: int
    proxied_port: int = 0  # the listener behind the proxy: it advertises the proxy's port
    proxy_port: int = 0  # 0: there is no proxy
    host: str = "127.0.0.1"  # the address that it listens on and advertises


def pick_ports(count: int, first: int = 0, proxies: Sequence[int] = (), host: str = "127.0.0.1") -> tuple[Node, ...]:
    """Nodes with ports that are free at this moment. Raises ConfigError when a requested port is taken.

    `first`: port of the first node, the others follow; 0 takes free ports. `proxies`: port of each node's proxy, or ().
    """
    with HeldPorts(host, avoid=proxies) as ports:
        nodes = [
            Node(number + 1, ports.take(first + number) if first else ports.pick(), ports.pick(), host=host)
            for number in range(count)
        ]
        if proxies:
            nodes = [
                replace(node, proxied_port=ports.pick(), proxy_port=proxy)
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
        "controller.quorum.voters": ",".join(f"{voter.id}@{voter.host}:{voter.controller_port}" for voter in nodes),
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
