"""`moderation demo`: a real broker, a worker and an API as processes, a dozen posts, and what becomes of them."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import grpc
from aiokafka import TopicPartition
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from moderation import lifecycle, wire
from moderation.cli import render
from moderation.client import Client
from moderation.demo import posts
from moderation.dev import supervise
from moderation.dev.kafka import LocalKafka, create_service_topics
from moderation.errors import ConfigError
from moderation.kafka import clients
from moderation.policies import PolicySet
from moderation.settings import KafkaSettings
from moderation.v1 import moderation_service_pb2 as service
from moderation.v1.post_pb2 import Post
from moderation.v1.verdict_pb2 import Verdict

PARTITIONS = 3
GRACE_S = 20.0
PATIENCE_S = 180.0  # for a dozen posts on a small, busy machine
MODEL = "demo"
SMALL = (
    "The model is small, and has learned [bold]a world of pictographs[/] only: a hundredth of a second on a CPU, real "
    "weights, and no moderation model for people."
)


def demo(*, keep: bool) -> int:
    """Runs it all; with `keep`, until Ctrl-C. Returns the exit code. Leaves no process and no file behind."""
    return lifecycle.run(lambda stop: _until_stopped(Console(), stop, keep=keep))


async def _until_stopped(console: Console, stop: asyncio.Event, *, keep: bool) -> None:
    show_it, stopped = asyncio.create_task(_demo(console, keep=keep)), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({show_it, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (show_it, stopped):
            task.cancel()
        await asyncio.wait({show_it, stopped})
    if not show_it.cancelled():
        show_it.result()


async def _demo(console: Console, *, keep: bool) -> None:
    policies = Path("policies/demo").absolute()  # noqa: ASYNC240  once, and nothing runs beside it yet
    if not policies.is_dir():
        raise ConfigError(
            "`moderation demo` reads policies/demo: run it in a checkout of the project, or `make demo` there"
        )
    PolicySet.load(policies)  # what is wrong with them is told now, not by a worker that dies
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moderation-demo-")))
        console.print(Panel(SMALL, border_style="red"))
        with console.status("starting Apache Kafka") as status:
            broker = await stack.enter_async_context(LocalKafka(port=_port(9092), progress=status.update))
        console.print(f"Apache Kafka listens on {broker.bootstrap}")
        settings = KafkaSettings(bootstrap=broker.bootstrap)
        await create_service_topics(settings, partitions=PARTITIONS)
        listen = f"127.0.0.1:{_port(50051)}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MODERATION_")} | {
            "MODERATION_KAFKA__BOOTSTRAP": broker.bootstrap,
            "MODERATION_MODEL": MODEL,
            "MODERATION_POLICIES": str(policies),
            "MODERATION_MEDIA__ROOTS": str(folder),
            "MODERATION_API__LISTEN": listen,
            "MODERATION_API__VIEW": str(folder / "verdicts.sqlite"),
            "MODERATION_LOG__FORMAT": "json",
        }
        ops = {name: f"127.0.0.1:{_port(wanted)}" for name, wanted in (("worker", 9464), ("api", 9465))}
        roles = [
            await stack.enter_async_context(_role(name, environment | {"MODERATION_OPS__LISTEN": port}, folder))
            for name, port in ops.items()
        ]
        samples = posts.samples(folder)

        async def story() -> None:
            await _moderate(console, settings, samples)
            await _look_up(console, listen, posts.LOOKED_UP)
            _how_to_go_on(console, listen, ops.values(), keep=keep)
            if keep:
                await asyncio.Event().wait()  # until Ctrl-C

        await _while_alive(story(), roles)


@dataclass(frozen=True, slots=True)
class _Role:
    """`moderation worker` or `moderation api` as a process, its log in a file."""

    name: str
    process: asyncio.subprocess.Process
    log: Path


@asynccontextmanager
async def _role(name: str, environment: dict[str, str], folder: Path) -> AsyncIterator[_Role]:
    log = folder / f"{name}.log"
    with log.open("wb") as file:
        # A session of its own: Ctrl-C is ours to handle, and the role then drains while its broker is still there.
        # The leash stops it when we let go of its stdin, in whatever way we end.
        command = (sys.executable, "-IS", supervise.__file__, str(os.getpid()), str(GRACE_S))
        process = await asyncio.create_subprocess_exec(
            *command,
            *(sys.executable, "-m", "moderation", name),
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield _Role(name, process, log)
    finally:
        if process.stdin:
            process.stdin.close()
        await process.wait()  # GRACE_S at most: then the leash kills


async def _while_alive(work: Coroutine[None, None, None], roles: Sequence[_Role]) -> None:
    """Raises ConfigError, with the end of its log, when a role ends before the work does."""
    task = asyncio.create_task(work)
    ends = {asyncio.create_task(role.process.wait()): role for role in roles}
    try:
        await asyncio.wait({task, *ends}, return_when=asyncio.FIRST_COMPLETED)
        for role in (role for end, role in ends.items() if end.done() and not task.done()):
            tail = "\n".join(role.log.read_text().splitlines()[-5:])
            raise ConfigError(f"the {role.name} ended with {role.process.returncode}; its log ends:\n{tail}")
        task.result()
    finally:
        for each in (task, *ends):
            each.cancel()
        await asyncio.gather(task, *ends, return_exceptions=True)


async def _moderate(console: Console, settings: KafkaSettings, samples: Sequence[Post]) -> None:
    """Produces the posts and shows each verdict as it arrives."""
    verdicts: dict[str, Verdict] = {}
    async with AsyncExitStack() as stack:
        consumer, producer = clients.consumer(settings), clients.producer(settings)
        for client in (consumer, producer):
            stack.push_async_callback(clients.stop, client)
            await clients.connected(client.start, settings)
        consumer.assign([TopicPartition(settings.verdicts_topic, number) for number in range(PARTITIONS)])
        for post in samples:
            value = json_format.MessageToJson(post).encode()
            await producer.send_and_wait(settings.posts_topic, value, key=post.id.encode())
        with Live(_table(samples, verdicts, console.width), console=console, refresh_per_second=8) as live:
            async with asyncio.timeout(PATIENCE_S):
                while len(verdicts) < len(samples):
                    polled = await consumer.poll(most=len(samples), room=settings.max_message_bytes, timeout_s=1.0)
                    for record in chain(*polled.values()):
                        verdict = wire.read_verdict(record.value or b"", record.headers)
                        verdicts[verdict.post_id] = verdict
                        live.update(_table(samples, verdicts, console.width))


def _table(samples: Sequence[Post], verdicts: dict[str, Verdict], width: int) -> Table:
    table = Table(title=f"{len(verdicts)} of {len(samples)} verdicts", title_justify="left")
    table.add_column("post", no_wrap=True, min_width=9)
    table.add_column("text", no_wrap=True, overflow="ellipsis", max_width=max(10, min(60, width - 72)))
    table.add_column("pics", no_wrap=True, min_width=4)
    table.add_column("outcome", no_wrap=True, min_width=7)
    table.add_column("status", no_wrap=True, min_width=12)
    table.add_column("why", no_wrap=True, min_width=16)
    for post in samples:
        row: list[str | Text] = [post.id, Text(post.text.replace("\n", " ")), "▪" * len(post.images)]
        if verdict := verdicts.get(post.id):
            row += [render.outcome(verdict), render.status(verdict), verdict.reason or verdict.deciding_policy]
        table.add_row(*row)
    return table


async def _look_up(console: Console, listen: str, post_id: str) -> None:
    console.print(f"\nThe same over gRPC, as another service would ask: GetVerdict({post_id})")
    async with asyncio.timeout(PATIENCE_S):
        await _serving(listen)
        async with Client(listen) as client:
            # the view follows the topic, and no call of the API waits for it
            while (found := await client.get(post_id)).state != service.LOOKUP_STATE_FOUND:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    render.verdict(console, found.verdict)


async def _serving(listen: str) -> None:
    """Returns when the API's health says SERVING."""
    async with grpc.aio.insecure_channel(listen) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answers = health.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True)  # type: ignore[attr-defined]
        async for answer in answers:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                answers.cancel()
                return


def _how_to_go_on(console: Console, listen: str, ops: Iterable[str], *, keep: bool) -> None:
    command = Path(sys.argv[0]).name if Path(sys.argv[0]).parent.as_posix() in os.get_exec_path() else sys.argv[0]
    if keep:
        console.print("\nAll of it stays up until Ctrl-C. In another terminal:", style="bold")
        console.print(f'  {command} submit --api {listen} --text "your own post" --image picture.jpg', soft_wrap=True)
        console.print(f"  {command} get --api {listen} {posts.LOOKED_UP}", soft_wrap=True)
        console.print(f"  {command} top {' '.join(ops)}", soft_wrap=True)
        console.print(
            "Your own policy: change one of policies/demo, or write one as the README shows, then", style="bold"
        )
        console.print(f"  {command} policies check policies/demo")
        console.print(
            f'  {command} classify --model {MODEL} --policies policies/demo --text "selling guns"', soft_wrap=True
        )
    else:
        console.print(f"\n`{command} demo --keep` stays up, for posts and policies of your own.")


def _port(wanted: int) -> int:
    """`wanted` if it is free, so that the commands' defaults reach us; else any."""
    for port in (wanted, 0):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", port))
                one.listen()  # two may bind, where neither listens yet
            except OSError:
                continue
            return int(one.getsockname()[1])
    raise ConfigError("no port is free on 127.0.0.1")
