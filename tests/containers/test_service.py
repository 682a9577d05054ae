"""Posts in, verdicts out, lookups answered: through the containers, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from moderation.client import Client
from moderation.demo import posts
from moderation.v1.moderation_service_pb2 import LOOKUP_STATE_FOUND
from moderation.v1.post_pb2 import Image, Post
from moderation.v1.verdict_pb2 import OUTCOME_ALLOW
from tests.containers.conftest import Box
from tests.support.commands import produce
from tests.support.topics import committed_records, make_topics

Boxes = Callable[..., AbstractContextManager[Box]]
PROTOBUF = (("content-type", b"application/x-protobuf"),)
POLICIES = ((str(Path(__file__).parents[2] / "policies" / "demo"), "/etc/moderation/policies"),)


@pytest.fixture
def environment(kafka: str, names: Callable[[str], str]) -> dict[str, str]:
    """Topics of this test."""
    given = {
        "MODERATION_KAFKA__BOOTSTRAP": kafka,
        "MODERATION_KAFKA__POSTS_TOPIC": names("posts"),
        "MODERATION_KAFKA__VERDICTS_TOPIC": names("verdicts"),
        "MODERATION_KAFKA__DEAD_LETTER_TOPIC": names("dead"),
        "MODERATION_KAFKA__GROUP": names("group")[-20:],
        "MODERATION_LOG__FORMAT": "json",
    }
    topics = (value for name, value in given.items() if name.endswith("TOPIC"))
    asyncio.run(make_topics(kafka, *topics, partitions=3))
    return given


def the_samples() -> list[tuple[posts.Sample, Post]]:
    """Their pictures travel in them: containers share no folder."""

    def image(name: str) -> Image:
        return Image(data=(posts.FOLDER / name).read_bytes())

    return [
        (sample, Post(id=sample.id, text=sample.text, images=map(image, sample.pictures))) for sample in posts.SAMPLES
    ]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("user", ["", "1234567:0", "1234567:1234567"])
def test_posts_are_moderated_and_looked_up(box: Boxes, kafka: str, environment: dict[str, str], user: str) -> None:
    samples = the_samples()
    by_topic, by_grpc = samples[::2], samples[1::2]
    with (
        box("worker", user=user, volumes=POLICIES, MODERATION_MODEL="demo", **environment) as worker,
        box("api", user=user, volumes=POLICIES, **environment) as api,
    ):
        worker.wait_until_healthy()
        api.wait_until_healthy()
        records = [(post.id.encode(), post.SerializeToString(), PROTOBUF) for _, post in by_topic]
        asyncio.run(produce(kafka, environment["MODERATION_KAFKA__POSTS_TOPIC"], records))

        async def look_up() -> dict[str, tuple[str, bool]]:
            async with Client(f"{api.address}:50051") as client:
                for _, post in by_grpc:
                    assert (await client.moderate(post, timeout=60)).state == LOOKUP_STATE_FOUND
                for _, post in by_topic:
                    assert (await client.wait(post.id, timeout=60)).state == LOOKUP_STATE_FOUND
                results = await client.get_many([post.id for _, post in samples])
            return {
                result.post_id: (result.verdict.deciding_policy, result.verdict.outcome == OUTCOME_ALLOW)
                for result in results
            }

        expected = {sample.id: (sample.breaks, not sample.breaks) for sample, _ in samples}
        assert asyncio.run(look_up()) == expected
        codes = {role: container.stop() for role, container in {"worker": worker, "api": api}.items()}
        assert codes == {"worker": 0, "api": 0}, worker.container.logs().decode()
        verdicts = asyncio.run(
            committed_records(kafka, environment["MODERATION_KAFKA__VERDICTS_TOPIC"], len(samples), timeout=60)
        )
        assert sorted(record.key.decode() for record in verdicts) == sorted(expected)
        logs = worker.container.logs() + api.container.logs()
        assert not [sample.text for sample, _ in samples if sample.text and sample.text.encode() in logs]
        assert {event["event"] for event in worker.events} >= {"worker_ready", "stop_requested", "process_stopped"}


def test_a_role_that_cannot_do_its_work_is_not_healthy(box: Boxes, environment: dict[str, str]) -> None:
    """The topic is not there: it ends, and says what to do."""
    environment["MODERATION_KAFKA__POSTS_TOPIC"] = "not-there"
    with box("api", **environment) as api:
        assert api.container.wait(timeout=120)["StatusCode"] == 2
        api.container.reload()
        assert api.container.attrs["State"]["Health"]["Status"] != "healthy"
        (refused,) = (event for event in api.events if event["event"] == "configuration_rejected")
    assert "not-there" in refused["message"]
