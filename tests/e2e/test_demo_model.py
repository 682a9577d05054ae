"""The checkpoint that ships, in a real worker: a changed policy file changes the verdict of the same post."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from pathlib import Path

from moderation import wire
from moderation.demo import posts
from moderation.v1.verdict_pb2 import Verdict
from tests.support.commands import Service, produce
from tests.support.topics import committed_records

POLICIES = Path(__file__).parents[2] / "policies" / "demo"


def judged(service: Service, records: list[tuple[bytes, bytes | None, tuple[()]]], total: int) -> dict[str, Verdict]:
    """The latest verdict of each post once `total` are there, by a worker that is started for it and stopped."""
    with service.worker() as worker:
        caution = worker.wait_for("demo_model_loaded")
        assert caution["level"] == "warning"
        worker.wait_for("worker_ready")
        asyncio.run(produce(service.kafka, service.posts, records))
        verdicts = asyncio.run(committed_records(service.kafka, service.verdicts, total))
        assert worker.stop() == 0
    by_id = {}
    for record in sorted(verdicts, key=lambda record: record.offset):
        verdict = wire.read_verdict(record.value, record.headers)
        by_id[verdict.post_id] = verdict
    return by_id


def a_record(id: str, text: str, *pictures: str) -> tuple[bytes, bytes | None, tuple[()]]:
    files = [base64.b64encode((posts.FOLDER / name).read_bytes()).decode() for name in pictures]
    post = {"id": id, "text": text, "images": [{"data": file} for file in files]}
    return id.encode(), json.dumps(post).encode(), ()


def test_a_changed_policy_file_changes_the_verdict(service: Service) -> None:
    folder = service.folder / "policies"
    folder.mkdir()
    for path in POLICIES.glob("*.yaml"):
        (folder / path.name).write_text(path.read_text())
    demo = replace(service, model="demo", extra={"MODERATION_POLICIES": str(folder)})
    sent = [
        a_record("beer", "look at my beer"),
        a_record("cat", "", "cat.png"),
        a_record("knife", "for sale, write me for the price", "knife.jpg"),
        a_record("bicycle", "for sale, write me for the price", "bicycle.jpg"),
    ]
    before = judged(demo, sent, 4)
    path = folder / "alcohol.yaml"
    path.write_text(path.read_text().replace("alcohol", "animals").replace("id: animals", "id: alcohol"))
    after = judged(demo, sent, 8)
    deciding = {id: (before[id].deciding_policy, after[id].deciding_policy) for id in before}
    assert deciding == {
        "beer": ("alcohol", ""),
        "cat": ("", "alcohol"),
        "knife": ("weapons-sale", "weapons-sale"),
        "bicycle": ("", ""),
    }
