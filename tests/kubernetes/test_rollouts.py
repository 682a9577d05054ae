"""The API is rolled out again and again, and no call of a stock gRPC client fails.

ROLLOUTS says how often, and JSON names a file for the figures.
"""

from __future__ import annotations

import json
import os
import platform
import time
from asyncio import to_thread
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

import pytest

from moderation.dev.jars import VERSION
from moderation.dev.topics import create_service_topics
from moderation.settings import KafkaSettings
from tests.kubernetes import stubs
from tests.kubernetes.conftest import Place
from tests.kubernetes.deployment import HEADLESS, SERVICE_CONFIG, Deployment

ROLLOUTS = int(os.environ.get("ROLLOUTS", "20"))
CALLS_A_SECOND = 40.0  # of each kind of client
NO_WORKER = [{"op": "replace", "path": "/spec/replicas", "value": 0}]


@pytest.mark.timeout(3600)
async def test_no_call_of_a_stock_client_fails_in_rollouts(place: Place, broker: str, tmp_path: Path) -> None:
    run = uuid4().hex[:6]
    kafka = KafkaSettings(
        bootstrap=broker, posts_topic=f"posts-{run}", verdicts_topic=f"verdicts-{run}", group=f"g-{run}"
    )
    await create_service_topics(kafka, partitions=1)
    seconds: list[float] = []
    patches = [{"target": {"kind": "Deployment", "name": "worker"}, "patch": json.dumps(NO_WORKER)}]
    deployment = Deployment(place.cluster, tmp_path, place.images, kafka, patches=patches)
    try:
        await to_thread(deployment.apply)
        await to_thread(deployment.rolled_out, "api")
        image = place.images["moderation-api"]
        await to_thread(deployment.look_up, image, "post", CALLS_A_SECOND, Path(stubs.__file__), HEADLESS)
        for number in range(ROLLOUTS):
            before, begun = set(await to_thread(deployment.ready, "api")), time.monotonic()
            await to_thread(deployment.kubectl, "rollout", "restart", "deployment/api")
            await to_thread(deployment.rolled_out, "api")
            assert not before & set(await to_thread(deployment.ready, "api"))
            counts = await to_thread(deployment.lookups)
            seconds.append(round(time.monotonic() - begun, 1))
            print(f"rollout {number + 1}: {seconds[-1]:.0f} s, {counts}", flush=True)
        # The last pods are still on their way out.
        await to_thread(deployment.kubectl, "wait", "--for=delete", *(f"pod/{name}" for name in before), timeout_s=90)
        counts = await to_thread(deployment.lookups)
    except BaseException:
        print(deployment.report())
        raise
    finally:
        await to_thread(
            place.cluster.run,
            "delete",
            "namespace",
            "moderation",
            "--ignore-not-found",
            "--timeout=120s",
            timeout_s=150,
        )
    if path := os.environ.get("JSON"):
        figures = what_ran(place) | counts | {"rollouts": seconds}
        await to_thread(Path(path).write_text, json.dumps(figures, indent=1) + "\n")
    assert counts["failed"] == 0, counts
    assert len(counts["kinds"]) == 3
    assert all(codes["OK"] > ROLLOUTS * CALLS_A_SECOND for codes in counts["kinds"].values()), counts


def what_ran(place: Place) -> dict[str, object]:
    """Where it ran, and with what."""
    nodes = [node["status"]["nodeInfo"] for node in place.cluster.get("nodes")["items"]]
    return {
        "command": f"ROLLOUTS={ROLLOUTS} pytest tests/kubernetes/test_rollouts.py -s",
        "date": f"{datetime.now(UTC):%F}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "nodes": len(nodes),
        "versions": {
            "kubernetes": nodes[0]["kubeletVersion"],
            "runtime": nodes[0]["containerRuntimeVersion"],
            "kafka": VERSION,
            **{name: version(name) for name in ("moderation", "grpcio", "aiokafka")},
        },
        "service_config": json.loads(SERVICE_CONFIG.read_text()),
        "calls_a_second_of_each": CALLS_A_SECOND,
    }
