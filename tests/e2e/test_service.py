"""A post on a topic becomes a verdict on a topic and can be looked up over gRPC: real processes on a real Kafka."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moderation import wire
from moderation.client import Client
from moderation.v1 import moderation_service_pb2 as lookup
from moderation.v1 import post_pb2
from moderation.v1.verdict_pb2 import Status, Verdict
from tests.support.builders import a_file, an_image
from tests.support.commands import Service, produce
from tests.support.service import MARK, Record, a_record, look_up
from tests.support.topics import committed_records


def bad_records(folder: Path) -> dict[str, tuple[Record, str]]:
    """By the id its verdict will have: the record, and the reason."""
    cut = base64.b64encode(a_file(an_image(300, 300), "JPEG")[:700]).decode()

    def post(id: str, **fields: Any) -> bytes:
        return json.dumps({"id": id, "text": MARK, **fields}).encode()

    return {
        "key-of-broken": ((b"key-of-broken", b'{"id": "' + MARK.encode(), ()), "NOT_DECODABLE"),
        "cut": ((b"author-1", post("cut", images=[{"data": cut}]), ()), "IMAGE_CORRUPT"),
        "outside": ((b"author-2", post("outside", images=[{"uri": "file:///etc/passwd"}]), ()), "IMAGE_FORBIDDEN"),
        "missing": ((b"author-3", post("missing", images=[{"uri": f"file://{folder}/no"}]), ()), "IMAGE_NOT_FOUND"),
        "typo": ((b"key-of-typo", post("typo", imagse=[]), ()), "NOT_DECODABLE"),
        "xml": ((b"xml", b"<post/>", [("content-type", b"application/xml")]), "UNKNOWN_CONTENT_TYPE"),
    }


def test_each_post_gets_one_verdict_and_bad_ones_leave_their_neighbours_alone(service: Service) -> None:
    records = [a_record(number, service.folder) for number in range(200)]
    bad = bad_records(service.folder)
    for record, _ in bad.values():
        records.insert(random.Random(7).randrange(len(records)), record)
    with service.worker() as worker, service.api() as api:
        asyncio.run(produce(service.kafka, service.posts, records))
        verdicts = asyncio.run(committed_records(service.kafka, service.verdicts, len(records)))
        port = api.wait_for("api_ready")["port"]
        ids = [wire.read_verdict(record.value, record.headers).post_id for record in verdicts]
        looked_up = asyncio.run(look_up(port, ids))
        assert worker.stop() == 0
        assert api.stop() == 0
    posts = asyncio.run(committed_records(service.kafka, service.posts))
    verdicts = asyncio.run(committed_records(service.kafka, service.verdicts, len(records)))
    dead = asyncio.run(committed_records(service.kafka, service.dead_letters, len(bad)))

    check_exactly_one_each_in_order(posts, verdicts)
    messages = [wire.read_verdict(record.value, record.headers) for record in verdicts]
    assert {message.post_id: message for message in messages} == looked_up
    reasons = {id: verdict.problems[0].reason for id, verdict in looked_up.items() if verdict.problems}
    assert reasons == {id: reason for id, (_, reason) in bad.items()}
    unread = {id for id, verdict in looked_up.items() if verdict.status == Status.STATUS_UNDETERMINED}
    assert unread == bad.keys() - {"cut", "outside", "missing"}, "the text beside a picture is judged"
    judged = [verdict for id, verdict in looked_up.items() if id not in bad]
    assert {len(verdict.findings) for verdict in judged} == {6}
    assert {verdict.status for verdict in judged} == {Status.STATUS_FINAL}

    originals = {(record.partition, record.offset): record for record in posts}
    assert len(dead) == len(bad)
    for letter in dead:
        headers = dict(letter.headers)
        original = originals[int(headers["dlq.original.partition"]), int(headers["dlq.original.offset"])]
        value = None if headers.get("dlq.value.null") else letter.value
        assert (value, letter.key, letter.partition) == (original.value, original.key, original.partition)
        assert headers["dlq.error.code"].decode() in reasons.values()
        assert MARK not in str(headers)
    assert MARK not in worker.log + api.log
    assert not any(MARK.encode() in record.value for record in verdicts)


def test_sigterm_drains_and_loses_nothing(service: Service) -> None:
    service = replace(service, extra={"MODERATION_WORKER__MAX_IN_FLIGHT": "12"})  # the rest is still to be read
    records = [a_record(number, service.folder) for number in range(200)]
    with service.worker() as first:
        first.wait_for("worker_ready")
        asyncio.run(produce(service.kafka, service.posts, records))
        asyncio.run(committed_records(service.kafka, service.verdicts, 30))
        pid = first.process.pid
        decoders = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for decoder in decoders:
            os.kill(int(decoder), signal.SIGTERM)  # as a service manager does that signals all processes
        assert first.stop(signal.SIGTERM) == 0
    assert decoders, "some posts have pictures"
    assert not any(Path(f"/proc/{decoder}").exists() for decoder in decoders)
    assert "decoder_lost" not in first.log
    early = len(asyncio.run(committed_records(service.kafka, service.verdicts)))
    assert 30 <= early < 200, "the signal came after the work: the test proves nothing"
    with service.worker() as second:
        asyncio.run(committed_records(service.kafka, service.verdicts, 200))
        assert second.stop(signal.SIGTERM) == 0
    posts = asyncio.run(committed_records(service.kafka, service.posts))
    check_exactly_one_each_in_order(posts, asyncio.run(committed_records(service.kafka, service.verdicts)))


def test_moderate_post_returns_the_verdict_of_the_topic(service: Service) -> None:
    with service.worker() as worker, service.api() as api:
        worker.wait_for("worker_ready")
        port = api.wait_for("api_ready")["port"]
        post = post_pb2.Post(id="now", text="hello", images=[post_pb2.Image(data=a_file())])

        async def call() -> lookup.ModeratePostResponse:
            async with Client(f"127.0.0.1:{port}") as client:
                return await client.moderate(post, timeout=60)

        response = asyncio.run(call())
    (record,) = asyncio.run(committed_records(service.kafka, service.verdicts, 1))
    assert response.state == lookup.LOOKUP_STATE_FOUND
    assert response.verdict == wire.read_verdict(record.value, record.headers)
    assert (response.source.partition, response.source.offset) == (record.partition, 0)


def check_exactly_one_each_in_order(posts: list[Any], verdicts: list[Any]) -> None:
    sources = [(verdict.source.partition, verdict.source.offset) for verdict in map(parsed, verdicts)]
    assert Counter(sources) == Counter((record.partition, record.offset) for record in posts)
    assert all(record.partition == partition for record, (partition, _) in zip(verdicts, sources, strict=True))
    for partition in {record.partition for record in verdicts}:
        offsets = [offset for number, offset in sources if number == partition]
        assert offsets == sorted(offsets)


def parsed(record: Any) -> Verdict:
    return wire.read_verdict(record.value, record.headers)


@pytest.mark.parametrize(
    ("command", "setting", "value", "message"),
    [
        ("worker", "MODERATION_KAFKA__BOOTSTRAP", "127.0.0.1:1", "127.0.0.1:1"),  # Kafka may only be away: code 4
        ("api", "MODERATION_KAFKA__BOOTSTRAP", "127.0.0.1:1", "127.0.0.1:1"),
        ("worker", "MODERATION_KAFKA__POSTS_TOPIC", "no-such-topic", "no-such-topic"),
        ("api", "MODERATION_KAFKA__VERDICTS_TOPIC", "no-such-topic", "no-such-topic"),
        ("worker", "MODERATION_MODEL", "/no/such/model", "/no/such/model"),
        ("worker", "MODERATION_POLICIES", "/no/such/policies", "/no/such/policies"),
        ("worker", "MODERATION_WORKER__BATCH_TOKEN", "1", "did you mean MODERATION_WORKER__BATCH_TOKENS"),
        ("api", "MODERATION_KAFKA__GROUP", "", "MODERATION_KAFKA__GROUP"),
    ],
)
def test_a_wrong_setting_ends_the_process_with_a_message(
    service: Service, command: str, setting: str, value: str, message: str
) -> None:
    extra = {"MODERATION_KAFKA__CONNECT_TIMEOUT_S": "3", setting: value}
    service = replace(service, extra=extra)
    with service.worker() if command == "worker" else service.api() as role:
        assert role.wait(90) == (4 if setting == "MODERATION_KAFKA__BOOTSTRAP" else 2), role.log
    assert message in role.log
    assert "Traceback" not in role.log
