"""Processes: memory, logs, event loops, rebalances, devices and requests."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

from moderation.dev.ports import free_ports
from tests.alerts.site import Site
from tests.alerts.situation import Alert, situation
from tests.chaos.proxy import LOSE_REPLY, Proxy, Rule
from tests.support.builders import a_file

CGROUP = Path("/sys/fs/cgroup/memory/moderation-alerts")


@situation(
    Alert("ModerationMemoryNearLimit", {"instance": "worker-0"}),
    caused="the worker's memory limit (cgroup) is 3 % above what it uses",
    top="near its limit",
    silent="silent until it was killed",
)
async def memory_near_limit(site: Site) -> AsyncGenerator[None, None]:
    await site.topics()
    CGROUP.mkdir(exist_ok=True)  # noqa: ASYNC240  memory, and no disk
    home = CGROUP.parent / _own_group()
    (CGROUP / "cgroup.procs").write_text(str(os.getpid()))
    site.stack.callback(CGROUP.rmdir)
    try:
        site.start()  # a child is in the group of its parent
    finally:
        (home / "cgroup.procs").write_text(str(os.getpid()))
    await site.calm()
    await site.during(site.stream(5))
    await site.judged(50)
    limit = CGROUP / "memory.limit_in_bytes"
    limit.write_text(str(1 << 30))
    await asyncio.sleep(1)
    limit.write_text(str(int(await site.metric("worker-0", "moderation_memory_bytes") * 1.05)))
    site.caused()
    yield
    limit.write_text(str(1 << 30))


def _own_group() -> str:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next(line.split(":", 2)[2] for line in lines if line.split(":")[1] == "memory").lstrip("/")


@situation(
    Alert("ModerationLogLost", {"instance": "worker-0"}),
    caused="the reader of the worker's log is stopped: its pipe is full",
    top="log lines of worker",
)
async def log_not_read(site: Site) -> AsyncGenerator[None, None]:
    await site.topics()
    role = site.start(LOG__LEVEL="debug")
    await site.calm()
    await site.during(site.stream(200))
    site.caused()
    with role._changed:  # what reads the pipe waits for it
        yield


@situation(
    Alert("ModerationLoopLag", {"instance": "worker-0"}),
    caused="the worker stands still for 1.5 s of every 2 s (SIGSTOP)",
)
async def loop_late(site: Site) -> AsyncGenerator[None, None]:
    await site.begin()
    site.caused()
    async with site.meanwhile(site.pulses("worker-0", 1.5, 0.5)):
        yield


@situation(
    Alert("ModerationRebalancing", {"instance": "worker-0"}),
    caused="a second worker comes and goes",
)
async def workers_come_and_go(site: Site) -> AsyncGenerator[None, None]:
    await site.begin()

    async def come_and_go() -> None:
        while True:
            role = site.start("worker", 1)
            with contextlib.suppress(AssertionError):
                await asyncio.to_thread(role.wait_for, "worker_ready", 30)
            await asyncio.to_thread(role.stop)

    site.caused()
    async with site.meanwhile(come_and_go()):
        yield


@situation(
    Alert("ModerationMemoryPressure", {"instance": "worker-0"}),
    caused="steps of more than one post run out of memory (the fake model's oom_above)",
    silent="its query was empty without a GPU",
)
async def batches_too_large(site: Site) -> AsyncGenerator[None, None]:
    await site.begin(MODEL="fake?oom_above=1&step_ms=20")

    async def bursts() -> None:
        while True:
            await site.put(20)
            await asyncio.sleep(1)

    site.caused()
    async with site.meanwhile(bursts()):
        yield


@situation(
    Alert("ModerationDecodersLost", {"instance": "worker-0", "cause": "killed"}),
    caused="each decoder process is killed (SIGKILL) a second after it starts, as where memory runs out",
    silent="a log line for each",
)
async def decoders_killed(site: Site) -> AsyncGenerator[None, None]:
    file = base64.b64encode(a_file()).decode()
    await site.begin()
    await site.during(site.stream(10, lambda _: site.a_post(images=[{"data": file}])))
    await site.judged(20)

    async def kill() -> None:
        parent = site.roles["worker-0"].process.pid
        while True:
            await asyncio.sleep(1)
            for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():  # noqa: ASYNC240  no disk
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    site.caused()
    async with site.meanwhile(kill()):
        yield


@situation(
    Alert("ModerationProducersReplaced", {"instance": "worker-0"}),
    caused="a proxy cuts the connection in place of one in ten answers to a transaction's first request",
    silent="never fired for its causes",
)
async def requests_lost(site: Site) -> AsyncGenerator[None, None]:
    (port,) = free_ports(1)
    kafka = await site.own_kafka(proxies=[port])
    (upstream,) = kafka.proxied_ports
    proxy = await site.stack.enter_async_context(Proxy(port, upstream, 1))
    site.kafka = f"127.0.0.1:{port}"
    await site.begin()
    await site.during(site.stream(10))
    await site.judged(20)
    proxy.rules = [Rule("AddPartitionsToTxn", LOSE_REPLY, chance=0.1, times=12)]
    site.caused()
    yield
    proxy.rules = []
