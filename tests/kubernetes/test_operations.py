"""What operators do to a cluster while posts flow: each post ends as one verdict, and no lookup fails."""

from __future__ import annotations

import time
from asyncio import to_thread
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from rich.console import Console
from rich.table import Table

from moderation.dev.topics import create_service_topics
from moderation.policies import PolicySet
from moderation.settings import KafkaSettings
from tests.kubernetes.cluster import Refused
from tests.kubernetes.conftest import Place
from tests.kubernetes.deployment import ROLES, Deployment
from tests.kubernetes.traffic import Traffic
from tests.support.until import until

POSTS_A_SECOND = 4.0
LOOKUPS_A_SECOND = 20.0
FLOW = 20  # posts that have to be answered after each step before the next begins
PARTITIONS = 6
NO_IMAGE = {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull"}


class Session:
    """What is done to the cluster, and what came of posts and lookups meanwhile."""

    def __init__(self, deployment: Deployment, traffic: Traffic) -> None:
        self.deployment = deployment
        self.traffic = traffic
        self.table = Table(
            "what was done", "seconds", "posts", "verdicts", "lookups", "failed", "lost", "what was seen"
        )
        self.seen = ""

    @asynccontextmanager
    async def step(self, what: str) -> AsyncIterator[None]:
        """A row of the table. It ends when posts that came after it are answered."""
        before, begun, self.seen = await self._numbers(), time.monotonic(), ""
        print(f"{time.strftime('%X')} {what}", flush=True)
        yield
        await self.traffic.more(FLOW)
        took = f"{time.monotonic() - begun:.0f}"
        after = await self._numbers()
        row = [str(now - then) for now, then in zip(after, before, strict=True)]
        self.table.add_row(what, took, *row, self.seen)

    async def end(self) -> dict[str, int]:
        """All of it, as the last row."""
        posts, places, dead = await self.traffic.read_again()
        lookups = await to_thread(self.deployment.lookups)
        repeated = sum(count - 1 for count in places.values())
        seen = f"{len(posts - set(places))} missing, {repeated} repeated, {dead} dead letters"
        numbers = (len(posts), sum(places.values()), lookups["calls"], lookups["failed"], lookups["lost"])
        self.table.add_section()
        self.table.add_row("all of it", "", *map(str, numbers), seen)
        return {
            "missing": len(posts - set(places)),
            "repeated": repeated,
            "unasked": len(set(places) - posts),
            "dead": dead,
            "failed": lookups["failed"],
            "lost": lookups["lost"],
        }

    async def _numbers(self) -> tuple[int, int, int, int, int]:
        lookups = await to_thread(self.deployment.lookups)
        return (
            len(self.traffic.posts),
            len(self.traffic.verdicts),
            lookups["calls"],
            lookups["failed"],
            lookups["lost"],
        )


@pytest.mark.timeout(2400)
async def test_each_post_ends_as_one_verdict_and_no_lookup_fails(place: Place, broker: str, tmp_path: Path) -> None:
    run = uuid4().hex[:6]
    kafka = KafkaSettings(
        bootstrap=broker, posts_topic=f"posts-{run}", verdicts_topic=f"verdicts-{run}", group=f"g-{run}"
    )
    await create_service_topics(kafka, partitions=PARTITIONS)
    deployment = Deployment(place.cluster, tmp_path, place.images, kafka)
    traffic = Traffic(kafka, f"post-{run}", POSTS_A_SECOND)
    session = Session(deployment, traffic)
    try:
        async with traffic.watched():
            await to_thread(deployment.apply)
            await to_thread(deployment.rolled_out)
            async with traffic.flowing():
                await traffic.more(FLOW)
                image = place.images["moderation-api"]
                await to_thread(deployment.look_up, image, traffic.prefix, LOOKUPS_A_SECOND)
                await operate(session, place)
            await traffic.settled()
            counts = await session.end()
    except BaseException:
        print(deployment.report())
        raise
    finally:
        Console(width=160).print(session.table)
        await to_thread(place.cluster.run, "delete", "namespace", "moderation", "--timeout=120s", timeout_s=150)
    assert counts == dict.fromkeys(("missing", "repeated", "unasked", "dead", "failed", "lost"), 0)


async def operate(session: Session, place: Place) -> None:
    """One step after the other; what each must show is asserted where it is done."""
    async with session.step("nothing"):
        pass
    for role in ROLES:
        async with session.step(f"rolling update of the {role}"):
            session.seen = await update(session.deployment, role)
    async with session.step("a policy changed through the ConfigMap"):
        session.seen = await change_policy(session.deployment, session.traffic)
    async with session.step("a worker killed"):
        session.seen = await kill_worker(session.deployment, place)
    async with session.step("a node drained"):
        session.seen = await drain(session.deployment)
    for role in ROLES:
        async with session.step(f"a bad image of the {role}, rolled back"):
            session.seen = await roll_back(session.deployment, session.traffic, role)


async def update(deployment: Deployment, role: str) -> str:
    before = set(await to_thread(deployment.ready, role))
    await to_thread(deployment.kubectl, "rollout", "restart", f"deployment/{role}")
    await to_thread(deployment.rolled_out, role)
    after = set(await to_thread(deployment.ready, role))
    assert after
    assert not before & after
    return f"{len(after)} new pods"


async def change_policy(deployment: Deployment, traffic: Traffic) -> str:
    old = PolicySet.load(deployment.policies).digest
    policy = deployment.policies / "alcohol.yaml"
    policy.write_text(policy.read_text().replace("review: 0.50", "review: 0.40"))
    new = PolicySet.load(deployment.policies).digest
    assert {verdict.policy_set.digest for verdict in await traffic.more(FLOW)} == {old} != {new}
    await to_thread(deployment.apply)
    await to_thread(deployment.rolled_out)
    assert {verdict.policy_set.digest for verdict in await traffic.more(FLOW)} == {new}
    return f"digest {old[:8]} before, {new[:8]} in every verdict after the roll"


async def kill_worker(deployment: Deployment, place: Place) -> str:
    (victim, *_) = await to_thread(deployment.ready, "worker")
    if place.node:
        before = deployment.restarts()
        await to_thread(place.node.kill, victim)
        await to_thread(
            until, lambda: deployment.restarts() > before, 120, lambda: "the container is not started again"
        )
    else:
        await to_thread(deployment.kubectl, "delete", "pod", victim, "--grace-period=0", "--force")
    await to_thread(deployment.rolled_out, "worker")
    return "SIGKILL to its container" if place.node else "deleted by force, without grace"


async def drain(deployment: Deployment) -> str:
    (pod, *_) = await to_thread(deployment.pods, "api")
    node = pod["spec"]["nodeName"]
    options = ("--pod-selector=app.kubernetes.io/part-of=moderation", "--delete-emptydir-data", "--ignore-daemonsets")
    try:
        await to_thread(deployment.kubectl, "drain", node, *options, "--timeout=20s")
        seen = "the pods had somewhere to go"
    except Refused as held:
        assert "violate the pod's disruption budget" in str(held)
        left = {role: len(await to_thread(deployment.ready, role)) for role in ROLES}
        assert all(left.values()), f"some role has no pod left: {left}"
        seen = "held by the budgets; left: " + ", ".join(f"{count} {role}" for role, count in left.items())
    finally:
        await to_thread(deployment.kubectl, "uncordon", node)
    await to_thread(deployment.rolled_out)
    return seen


async def roll_back(deployment: Deployment, traffic: Traffic, role: str) -> str:
    await to_thread(deployment.kubectl, "set", "image", f"deployment/{role}", f"{role}=moderation.test/none:1")
    await to_thread(until, lambda: bool(deployment.waiting(role) & NO_IMAGE), 120, lambda: "the image was found")
    await traffic.more(FLOW)
    left = await to_thread(deployment.ready, role)
    assert left, "no working pod is left"
    await to_thread(deployment.kubectl, "rollout", "undo", f"deployment/{role}")
    await to_thread(deployment.rolled_out, role)
    return f"{len(left)} of 2 went on meanwhile"
