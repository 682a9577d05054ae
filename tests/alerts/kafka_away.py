"""Brokers that are away, and rights that a role lacks."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from moderation.dev.ports import free_ports
from tests.alerts.site import Site
from tests.alerts.situation import Alert, situation
from tests.support.rights import (
    OPERATIONS,
    Acl,
    as_user,
    denied,
    granted,
    guarded_properties,
    set_rules,
    take_back,
    users,
)


@situation(
    Alert("ModerationKafkaSilent", {"instance": "worker-0"}),
    Alert("ModerationKafkaSilent", {"instance": "api-0"}),
    Alert("ModerationLagUnknown", {"instance": "worker-0"}),
    Alert("ModerationViewLagUnknown", {"instance": "api-0"}),
    caused="the only broker is killed, with posts waiting",
    top="Kafka is away",
    silent="ready, alive, SERVING; lag 0, as unknown ends were 0; zeros in top",
)
async def kafka_killed(site: Site) -> AsyncGenerator[None, None]:
    kafka = await site.own_kafka()
    await site.begin(apis=1)
    await site.put(30)
    kafka.kill(1)
    site.caused()
    yield
    await kafka.revive(1)


@situation(
    Alert("ModerationWorkerDown"),
    Alert("ModerationRestarting", {"instance": "worker-0", "role": "worker"}),
    caused="a worker finds no broker, ends, and is started again, all the time",
    top="worker-0",
    silent="build_info stayed present, and so WorkerDown silent",
)
async def worker_never_ready(site: Site) -> AsyncGenerator[None, None]:
    await site.topics()
    (port,) = free_ports(1)
    lost = f"127.0.0.1:{port}"
    site.caused()
    async with site.meanwhile(site.again("worker", KAFKA__BOOTSTRAP=lost, KAFKA__CONNECT_TIMEOUT_S="2")):
        yield
    await site.kill("worker-0")
    site.note = f"exit code {site.roles['worker-0'].process.returncode}"
    site.start()


async def _guarded(site: Site, *, but: str = "") -> None:
    """A broker that holds a worker to the manifests' rights. `but`: an operation on posts that it lacks."""
    (port,) = free_ports(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moderation.dev.kafka.properties", guarded_properties(port, users()))
        await site.own_kafka()
    site.posts, site.verdicts, site.group = "posts", "verdicts", "moderation"
    await site.topics()
    rules = granted("moderation-worker")
    await set_rules(site.kafka, [rule for rule in rules if (rule[1], rule[5]) != ("posts", OPERATIONS.get(but))])
    site.extra = as_user("moderation-worker", port)


async def _without(site: Site, rule: Acl) -> AsyncGenerator[None, None]:
    """A right of a running worker is taken away. It is started again whenever it ends, and gets the right back."""
    await _guarded(site)
    async with site.meanwhile(site.again(), site.stream(5)):
        await site.calm()
        first = site.roles["worker-0"]
        await set_rules(site.kafka, [rule])
        site.caused()
        yield
        said = [event["message"] for event in first.events if event["event"] == "process_crashed"]
        site.note = f"exit code {first.process.poll()}: {' '.join(said) or first.log[-600:]}"
    await site.kill("worker-0")
    await take_back(site.kafka, [rule])
    site.start()


@situation(
    Alert("ModerationWorkerDown"),
    Alert("ModerationProcessDown", {"instance": "worker-0"}),
    caused="READ on the posts topic is taken from a running worker",
    silent="`cannot be read at offset N: the record or its batch is broken`, and a command that skips a sound post",
)
async def no_right_on_posts(site: Site) -> AsyncGenerator[None, None]:
    async for _ in _without(site, denied("moderation-worker", "topic", "posts", "Read")):
        yield


@situation(
    Alert("ModerationWorkerDown"),
    Alert("ModerationProcessDown", {"instance": "worker-0"}),
    caused="READ on the group is taken from a running worker",
    silent="`cannot be read at offset N: the record or its batch is broken`, and a command that skips a sound post",
)
async def no_right_on_group(site: Site) -> AsyncGenerator[None, None]:
    async for _ in _without(site, denied("moderation-worker", "group", "moderation", "Read")):
        yield


@situation(
    Alert("ModerationErasuresNotCopied", {"instance": "worker-0"}),
    caused="a worker may not write to the posts topic, and an erasure comes",
)
async def erasures_not_copied(site: Site) -> AsyncGenerator[None, None]:
    await _guarded(site, but="Write")
    site.start()
    await site.calm()
    site.caused()
    await site.erase("post-1")
    yield
