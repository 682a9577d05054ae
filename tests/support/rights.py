"""A broker that holds clients to their rights: users, what the manifests give them, and what a test takes away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest

from moderation.dev.node import properties

USERS = Path(__file__).parents[2] / "deploy" / "kubernetes" / "components" / "strimzi" / "users.yaml"
# The numbers of Kafka's protocol.
KINDS = {"topic": 2, "group": 3, "cluster": 4, "transactionalId": 5}
PATTERNS = {"literal": 3, "prefix": 4}
OPERATIONS = {"Read": 3, "Write": 4, "Describe": 8, "DescribeConfigs": 10, "IdempotentWrite": 12}
DENY, ALLOW = 2, 3

Acl = tuple[int, str, int, str, str, int, int]  # kind, name, pattern, user, host, operation, permission


def users() -> dict[str, list[dict[str, Any]]]:
    """User -> what it may, as the manifests say."""
    documents = yaml.safe_load_all(USERS.read_text())
    return {user["metadata"]["name"]: user["spec"]["authorization"]["acls"] for user in documents}


def guarded_properties(port: int, logins: Iterable[str]) -> Any:
    """A replacement for `node.properties`: on `port` clients log in, with their name as password, and have rights.

    On the other listener every client is a superuser.
    """
    known = " ".join(f'user_{user}="{user}"' for user in logins)
    module = "org.apache.kafka.common.security.plain.PlainLoginModule required"

    def guarded(node: Any, nodes: Any) -> str:
        lines = dict(line.split("=", 1) for line in properties(node, nodes).splitlines())
        lines["listeners"] += f",SASL://127.0.0.1:{port}"
        lines["advertised.listeners"] += f",SASL://127.0.0.1:{port}"
        lines["listener.security.protocol.map"] += ",SASL:SASL_PLAINTEXT"
        lines |= {
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl.plain.sasl.jaas.config": f"{module} {known};",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }
        return "".join(f"{key}={value}\n" for key, value in lines.items())

    return guarded


def granted(role: str, user: str = "", prefix: str = "") -> list[Acl]:
    """What the manifests give a role's user. `user`, `prefix`: to another user, on resources named with a prefix."""
    return [
        (
            KINDS[acl["resource"]["type"]],
            prefix + acl["resource"]["name"],
            PATTERNS[acl["resource"].get("patternType", "literal")],
            f"User:{user or role}",
            "*",
            OPERATIONS[operation],
            ALLOW,
        )
        for acl in users()[role]
        for operation in acl["operations"]
    ]


def denied(user: str, kind: str, name: str, operation: str, pattern: str = "literal") -> Acl:
    """A rule that takes a right away."""
    return KINDS[kind], name, PATTERNS[pattern], f"User:{user}", "*", OPERATIONS[operation], DENY


async def set_rules(bootstrap: str, acls: Sequence[Acl]) -> None:
    """Adds rules. The brokers have them when this returns."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        for acl in acls:
            response = await admin._send_request(CreateAclsRequest(*acl))  # it has no method for it
            assert [code for code, _ in response.creation_responses] == [0]
    finally:
        await admin.close()


async def take_back(bootstrap: str, acls: Sequence[Acl]) -> None:
    """Removes rules. The brokers have removed them when this returns."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        for acl in acls:
            response = await admin._send_request(DeleteAclsRequest(*acl))
            assert [code for code, *_ in response.filter_responses] == [0]
    finally:
        await admin.close()


def as_user(user: str, port: int) -> dict[str, str]:
    """The settings of a role that logs in."""
    return {
        "MODERATION_KAFKA__BOOTSTRAP": f"127.0.0.1:{port}",
        "MODERATION_KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "MODERATION_KAFKA__SASL_MECHANISM": "PLAIN",
        "MODERATION_KAFKA__SASL_USERNAME": user,
        "MODERATION_KAFKA__SASL_PASSWORD": user,
    }
