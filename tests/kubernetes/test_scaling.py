"""KEDA's own operator scales the workers by real lag, up and down again, and no post is lost or answered twice."""

from __future__ import annotations

import contextlib
import json
import os
import time
from asyncio import sleep, to_thread
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from moderation.dev.topics import create_service_topics
from moderation.settings import KafkaSettings
from tests.kubernetes.conftest import Place
from tests.kubernetes.deployment import Deployment
from tests.kubernetes.keda import keda
from tests.kubernetes.programs import Unavailable
from tests.kubernetes.traffic import Traffic
from tests.support.terminal import say

PARTITIONS = 6
BACKLOG = 1200
PATIENCE_S = 600
# What the manifests say is right for GPUs and hours; a test has minutes. Nothing else is changed.
BEHAVIOR = "/spec/advanced/horizontalPodAutoscalerConfig/behavior"
SOONER = f"""\
- {{op: replace, path: /spec/pollingInterval, value: 5}}
- {{op: replace, path: {BEHAVIOR}/scaleUp/stabilizationWindowSeconds, value: 0}}
- {{op: replace, path: {BEHAVIOR}/scaleDown/stabilizationWindowSeconds, value: 20}}
- {{op: replace, path: {BEHAVIOR}/scaleDown/policies/0/periodSeconds, value: 15}}
"""


@pytest.fixture
def scaler(place: Place, pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[None]:
    """KEDA's own; a cluster that KUBECONFIG names has it installed, or it has not."""
    if place.node is None:
        services = json.loads(place.cluster.run("get", "apiservices", "-o", "json"))["items"]
        if not any(service["metadata"]["name"] == "v1beta1.external.metrics.k8s.io" for service in services):
            pytest.skip("this cluster has no KEDA")
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(keda(place.node, tmp_path / "keda", lambda line: say(pytestconfig, line)))
        except Unavailable as reason:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(str(reason))
        yield


@pytest.mark.timeout(1800)
async def test_workers_follow_the_lag(place: Place, broker: str, scaler: None, tmp_path: Path) -> None:
    run = uuid4().hex[:6]
    kafka = KafkaSettings(
        bootstrap=broker, posts_topic=f"posts-{run}", verdicts_topic=f"verdicts-{run}", group=f"g-{run}"
    )
    await create_service_topics(kafka, partitions=PARTITIONS)
    deployment = Deployment(
        place.cluster,
        tmp_path,
        place.images,
        kafka,
        components=["keda"],
        # The fake model: a batch takes half a second on any machine, so lag builds up as with a real model.
        settings={"MODEL": "fake?step_ms=500", "WORKER__BATCH_TOKENS": "300", "WORKER__MAX_IN_FLIGHT": "32"},
        patches=[{"target": {"kind": "ScaledObject"}, "patch": SOONER}],
    )
    traffic = Traffic(kafka, f"post-{run}", 1.0)
    seen: list[tuple[float, int]] = []

    async def until_replicas(lowest: int, highest: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            ready = len(await to_thread(deployment.ready, "worker"))
            if not seen or seen[-1][1] != ready:
                seen.append((time.monotonic() - begun, ready))
                print(
                    f"{seen[-1][0]:5.0f} s  {ready} workers, {len(traffic.verdicts)} of {len(traffic.posts)} answered",
                    flush=True,
                )
            if lowest <= ready <= highest:
                return
            assert time.monotonic() < deadline, f"not {lowest} to {highest} workers in {PATIENCE_S} s, but {seen}"
            await sleep(1)

    begun = time.monotonic()
    try:
        async with traffic.watched():
            await to_thread(deployment.apply)
            await to_thread(deployment.rolled_out)
            await until_replicas(1, 1)
            await traffic.put(BACKLOG)
            await until_replicas(3, PARTITIONS)
            await traffic.settled()
            await until_replicas(1, 1)
            posts, places, dead = await traffic.read_again()
    except BaseException:
        print(deployment.report())
        print(deployment.kubectl("describe", "scaledobject,hpa"))
        raise
    finally:
        await to_thread(place.cluster.run, "delete", "namespace", "moderation", "--timeout=120s", timeout_s=150)
    assert max(count for _, count in seen) <= PARTITIONS
    assert (len(posts), dead) == (BACKLOG, 0)
    assert set(places) == posts
    assert set(places.values()) == {1}, "a post was answered twice while its partition moved"
