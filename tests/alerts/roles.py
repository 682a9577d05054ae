"""Roles that end, hang or start again."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator

from tests.alerts.site import Site
from tests.alerts.situation import Alert, situation


@situation(caused="nothing: two workers and an API do their work", quiet=90.0, top="")
async def nothing_is_wrong(site: Site) -> AsyncGenerator[None, None]:
    await site.begin(workers=2, apis=1)
    await site.during(site.stream(10))
    await asyncio.sleep(10)  # the first assignments are rebalances
    site.caused()
    yield


@situation(
    Alert("ModerationWorkerDown"),
    Alert("ModerationProcessDown", {"instance": "worker-0", "job": "moderation-worker"}),
    caused="the only worker is killed; other installations of the same Prometheus have workers",
    top="worker-0 does not answer",
    silent="another installation's workers hid it",
)
async def worker_killed(site: Site) -> AsyncGenerator[None, None]:
    await site.begin(apis=1)
    await site.kill("worker-0")
    site.caused()
    yield
    site.start("worker")


@situation(
    Alert("ModerationApiDown"),
    Alert("ModerationProcessDown", {"instance": "api-0", "job": "moderation-api"}),
    caused="the only API is killed",
    top="api-0 does not answer",
)
async def api_killed(site: Site) -> AsyncGenerator[None, None]:
    await site.begin(workers=0, apis=1)
    await site.kill("api-0")
    site.caused()
    yield
    site.start("api")


@situation(
    Alert("ModerationProcessDown", {"instance": "worker-1"}),
    caused="one of two workers is frozen (SIGSTOP)",
    top="worker-1 does not answer",
    silent="one of two workers frozen: silent",
)
async def worker_frozen(site: Site) -> AsyncGenerator[None, None]:
    await site.begin(workers=2, apis=1)
    await site.during(site.stream(5))
    site.roles["worker-1"].process.send_signal(signal.SIGSTOP)
    site.caused()
    yield
    site.roles["worker-1"].process.send_signal(signal.SIGCONT)
    await asyncio.sleep(3)  # the group may have removed it: it then ends
    if site.roles["worker-1"].process.poll() is not None:
        site.start("worker", 1)


@situation(
    Alert("ModerationPostGivenUp", {"instance": "worker-0"}),
    caused="a post ends each process that judges it; the worker is started again each time",
    silent="silent whenever a scrape met a start",
)
async def poison_post(site: Site) -> AsyncGenerator[None, None]:
    await site.topics()
    await site.during(site.again("worker", MODEL="fake?dies_on=poison"), site.stream(5))
    await site.calm()
    await site.put(1, "poison")
    site.caused()
    yield


@situation(
    Alert("ModerationWorkerDown"),
    Alert("ModerationRestarting", {"instance": "worker-0", "role": "worker"}),
    caused="a worker hangs while it loads its model; the startup probe kills it after what the rules call 5 minutes",
    top="worker-0",
    silent="a worker that hangs in its warm-up: silent",
)
async def worker_hangs_at_start(site: Site) -> AsyncGenerator[None, None]:
    await site.topics()

    async def probe() -> None:
        while True:
            await site.answers("worker-0")
            await asyncio.sleep(300 / site.factor)
            site.roles["worker-0"].process.kill()

    site.caused()
    hanging = site.again("worker", module="tests.misbehaving.worker", MODEL="misbehaving?load=hang")
    async with site.meanwhile(hanging, probe()):
        yield
    await site.kill("worker-0")
    site.start()


@situation(
    Alert("ModerationPostStuck", {"instance": "worker-0"}),
    caused="the model hangs on a post",
    top="a post makes no progress",
)
async def model_hangs(site: Site) -> AsyncGenerator[None, None]:
    await site.topics()
    site.start(module="tests.misbehaving.worker", MODEL="misbehaving?step_ms=1")
    await site.calm()
    await site.put(1, "number fault:score:hang")
    site.caused()
    yield
    await site.kill("worker-0")
    site.start()
