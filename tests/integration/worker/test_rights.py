"""The rights that the manifests give each role on Kafka are enough for its work, on a broker that holds it to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import TopicAuthorizationFailedError

from moderation.client import Client
from moderation.dev.kafka import LocalKafka
from moderation.dev.ports import free_ports
from moderation.dev.topics import create_service_topics
from moderation.settings import KafkaSettings
from moderation.v1.post_pb2 import Post
from tests.support.commands import Role, Service, produce
from tests.support.consumer_groups import new_member
from tests.support.rights import OPERATIONS, as_user, granted, guarded_properties, set_rules, users
from tests.support.topics import committed_records, make_topics

TOPICS = KafkaSettings()


@pytest.fixture
def sasl_port(monkeypatch: pytest.MonkeyPatch) -> int:
    """Of the listener that authenticates. On the other listener every client is a superuser."""
    (port,) = free_ports(1)
    monkeypatch.setattr("moderation.dev.kafka.properties", guarded_properties(port, users()))
    return port


@pytest.fixture
async def broker(local_kafka: None, sasl_port: int) -> AsyncIterator[str]:
    async with LocalKafka() as kafka:
        await create_service_topics(KafkaSettings(bootstrap=kafka.bootstrap), partitions=3)
        await allow(kafka.bootstrap)
        yield kafka.bootstrap


async def allow(bootstrap: str, *, but: tuple[str, str] = ("", "")) -> None:
    """What the manifests say. but: a topic and an operation on it that no user has."""
    rules = [rule for user in users() for rule in granted(user)]
    await set_rules(bootstrap, [rule for rule in rules if (rule[1], rule[5]) != (but[0], OPERATIONS.get(but[1]))])


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
    await produce(broker, TOPICS.posts_topic, [*posts, (b"broken", b"{", ()), (b"p0", None, ())])
    await committed_records(broker, TOPICS.verdicts_topic, count=21 + 3)  # a null in each partition
    assert len(await committed_records(broker, TOPICS.dead_letters, count=1)) == 1
    port = api.wait_for("api_ready")["port"]
    async with Client(f"127.0.0.1:{port}") as client:
        response = await client.moderate(Post(id="asked", text="hello"), 30.0)
        assert response.verdict.post_id == "asked"
    assert worker.stop() == 0
    assert api.stop() == 0


async def test_a_member_of_the_group_with_a_topic_that_the_worker_may_not_see_is_counted(
    broker: str, sasl_port: int, tmp_path: Path
) -> None:
    """Brokers then describe no member of the group."""
    await make_topics(broker, "hidden")
    service = Service(broker, TOPICS.posts_topic, TOPICS.verdicts_topic, TOPICS.group, "fake", tmp_path)
    async with new_member(broker, TOPICS.group, "hidden", "billing"):
        with Role("worker", environment=service.environment | as_user("moderation-worker", sasl_port)) as worker:
            event = await asyncio.to_thread(worker.wait_for, "group_shared")
            assert (event["group"], event["client_id"], event["partitions"]) == (TOPICS.group, "", 0)
            await produce(broker, TOPICS.posts_topic, [(b"a", b'{"id": "a", "text": "hello"}', ())])
            await committed_records(broker, TOPICS.verdicts_topic, count=1)
            assert await asyncio.to_thread(worker.stop) == 0


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
async def test_a_worker_that_may_not_copy_erasures_says_so_and_goes_on(
    local_kafka: None, sasl_port: int, tmp_path: Path, delivery: str
) -> None:
    async with LocalKafka() as kafka:
        await create_service_topics(KafkaSettings(bootstrap=kafka.bootstrap), partitions=3)
        await allow(kafka.bootstrap, but=(TOPICS.posts_topic, "Write"))
        service = Service(kafka.bootstrap, TOPICS.posts_topic, TOPICS.verdicts_topic, TOPICS.group, "fake", tmp_path)
        environment = service.environment | as_user("moderation-worker", sasl_port)
        with Role("worker", environment=environment | {"MODERATION_KAFKA__DELIVERY": delivery}) as worker:
            post = b"p0", b'{"id": "p0", "text": "hello"}', ()
            await produce(kafka.bootstrap, TOPICS.posts_topic, [(b"p0", None, ()), post])
            line = worker.wait_for("erasures_not_copied")
            records = await committed_records(kafka.bootstrap, TOPICS.verdicts_topic, count=2)
            await allow(kafka.bootstrap)
            await produce(kafka.bootstrap, TOPICS.posts_topic, [(b"p0", None, ())])
            again = await committed_records(kafka.bootstrap, TOPICS.verdicts_topic, count=2 + 3)
            assert worker.stop() == 0
    assert (line["partition"], line["offset"], line["erasures"]) == (records[0].partition, 0, 1)
    assert [record.value is None for record in records] == [True, False]
    assert [record.value for record in again if record.key == b"p0"].count(None) == 1 + 3


@pytest.mark.parametrize(
    ("user", "topic"),
    [
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
