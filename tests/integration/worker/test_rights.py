"""The rights that the manifests give each role on Kafka are enough for its work, on a broker that holds it to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.protocol.admin import CreateAclsRequest

from moderation.client import Client
from moderation.dev.kafka import LocalKafka
from moderation.dev.node import properties
from moderation.dev.ports import free_ports
from moderation.dev.topics import create_service_topics
from moderation.settings import KafkaSettings
from moderation.v1.post_pb2 import Post
from tests.support.commands import Role, Service, produce
from tests.support.topics import committed_records

USERS = Path(__file__).parents[3] / "deploy" / "kubernetes" / "components" / "strimzi" / "users.yaml"
# The numbers of Kafka's protocol.
KINDS = {"topic": 2, "group": 3, "transactionalId": 5}
PATTERNS = {"literal": 3, "prefix": 4}
OPERATIONS = {"Read": 3, "Write": 4, "Describe": 8, "DescribeConfigs": 10}
ALLOW = 3
TOPICS = KafkaSettings()


def users() -> dict[str, list[dict[str, Any]]]:
    """User -> what it may, as the manifests say."""
    documents = yaml.safe_load_all(USERS.read_text())
    return {user["metadata"]["name"]: user["spec"]["authorization"]["acls"] for user in documents}


@pytest.fixture
def sasl_port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Of the listener that authenticates. On the other listener every client is a superuser."""
    (port,) = free_ports(1)
    logins = " ".join(f'user_{user}="{user}"' for user in users())
    module = "org.apache.kafka.common.security.plain.PlainLoginModule required"

    def guarded(node: Any, nodes: Any) -> str:
        lines = dict(line.split("=", 1) for line in properties(node, nodes).splitlines())
        lines["listeners"] += f",SASL://127.0.0.1:{port}"
        lines["advertised.listeners"] += f",SASL://127.0.0.1:{port}"
        lines["listener.security.protocol.map"] += ",SASL:SASL_PLAINTEXT"
        lines |= {
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl.plain.sasl.jaas.config": f"{module} {logins};",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }
        return "".join(f"{key}={value}\n" for key, value in lines.items())

    monkeypatch.setattr("moderation.dev.kafka.properties", guarded)
    return port


@pytest.fixture
async def broker(local_kafka: None, sasl_port: int) -> AsyncIterator[str]:
    async with LocalKafka() as kafka:
        await create_service_topics(KafkaSettings(bootstrap=kafka.bootstrap), partitions=3)
        await allow(kafka.bootstrap)
        yield kafka.bootstrap


async def allow(bootstrap: str) -> None:
    """What the manifests say."""
    rows = [
        (
            KINDS[acl["resource"]["type"]],
            acl["resource"]["name"],
            PATTERNS[acl["resource"].get("patternType", "literal")],
            f"User:{user}",
            "*",
            OPERATIONS[operation],
            ALLOW,
        )
        for user, acls in users().items()
        for acl in acls
        for operation in acl["operations"]
    ]
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        for row in rows:
            response = await admin._send_request(CreateAclsRequest(*row))  # it has no method for it
            assert [code for code, _ in response.creation_responses] == [0]
    finally:
        await admin.close()


def as_user(user: str, port: int) -> dict[str, str]:
    return {
        "MODERATION_KAFKA__BOOTSTRAP": f"127.0.0.1:{port}",
        "MODERATION_KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "MODERATION_KAFKA__SASL_MECHANISM": "PLAIN",
        "MODERATION_KAFKA__SASL_USERNAME": user,
        "MODERATION_KAFKA__SASL_PASSWORD": user,
    }


@pytest.fixture
def roles(broker: str, sasl_port: int, tmp_path: Path) -> Iterator[tuple[Role, Role]]:
    def role(name: str) -> Role:
        service = Service(broker, TOPICS.posts_topic, TOPICS.verdicts_topic, TOPICS.group, "fake", tmp_path)
        return Role(name, environment=service.environment | as_user(f"moderation-{name}", sasl_port))

    with role("worker") as worker, role("api") as api:
        yield worker, api


async def test_each_role_can_do_its_work(broker: str, roles: tuple[Role, Role]) -> None:
    worker, api = roles
    posts = [(f"p{number}".encode(), f'{{"id": "p{number}", "text": "hello"}}'.encode(), ()) for number in range(20)]
    await produce(broker, TOPICS.posts_topic, [*posts, (b"broken", b"{", ())])
    await committed_records(broker, TOPICS.verdicts_topic, count=21)
    assert len(await committed_records(broker, TOPICS.dead_letters, count=1)) == 1
    port = api.wait_for("api_ready")["port"]
    async with Client(f"127.0.0.1:{port}") as client:
        response = await client.moderate(Post(id="asked", text="hello"), 30.0)
        assert response.verdict.post_id == "asked"
    assert worker.stop() == 0
    assert api.stop() == 0


@pytest.mark.parametrize(
    ("user", "topic"),
    [
        ("moderation-worker", TOPICS.posts_topic),
        ("moderation-api", TOPICS.verdicts_topic),
        ("moderation-api", TOPICS.dead_letters),
    ],
)
async def test_a_role_cannot_do_the_work_of_others(broker: str, sasl_port: int, user: str, topic: str) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=f"127.0.0.1:{sasl_port}",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_plain_username=user,
        sasl_plain_password=user,
    )
    async with producer:
        with pytest.raises(TopicAuthorizationFailedError):
            await producer.send_and_wait(topic, b"forged", partition=0)
