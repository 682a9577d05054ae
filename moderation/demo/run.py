"""`moderation demo`: a real broker, a worker and an API as processes, a dozen posts, and their verdicts."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

from aiokafka import TopicPartition
from google.protobuf import json_format
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from moderation import lifecycle, wire
from moderation.client import Client
from moderation.demo import posts
from moderation.dev import supervise
from moderation.dev.kafka import LocalKafka
from moderation.dev.ports import HeldPorts
from moderation.dev.topics import create_service_topics
from moderation.errors import ConfigError
from moderation.kafka import clients
from moderation.policies import PolicySet, check
from moderation.settings import PREFIX, KafkaSettings
from moderation.v1 import moderation_service_pb2 as service
from moderation.v1.post_pb2 import Post
from moderation.v1.verdict_pb2 import Verdict

PARTITIONS = 3
PANEL_COLUMNS = 120
GRACE_S = 20.0
DEADLINE_S = 180.0  # for a dozen posts on a small, busy machine
MODEL = "demo"
POLICIES = Path("policies/demo")
USED = {f"{PREFIX}POLICIES"}  # settings of this process that the demo uses
NOTICE = (
    "The model is small and knows [bold]a world of pictographs[/] only. On a CPU it takes a hundredth of a second for "
    "a post. It has real weights, but it is not a moderation model for people."
)


class Render(Protocol):
    """How the command line prints verdicts (moderation/cli/render.py)."""

    def outcome(self, message: Verdict) -> Text:
        """The outcome in its colour."""

    def status(self, message: Verdict) -> str:
        """The status in words."""

    def why(self, message: Verdict) -> str:
        """What decided the verdict, or why nothing did, or what of the post was not judged."""

    def verdict(self, console: Console, message: Verdict) -> None:
        """Prints the verdict with all its findings."""


def demo(render: Render, console: Console, policies: Path | None, *, keep: bool) -> int:
    """Runs the demo; with `keep`, until Ctrl-C. Returns the exit code. Leaves no process and no file behind.

    An error is said in plain words on standard error: the demo is for a person.

    policies: the folder of the policy set; None: that of the demo model, in a checkout.
    """
    run = _Demo(console, render, policies, keep=keep)
    return lifecycle.run(lambda stop: lifecycle.unless_stopped(stop, run.run()), report=lifecycle.say)


class _Demo:
    """One run of the demo on a terminal."""

    def __init__(self, console: Console, render: Render, policies: Path | None, *, keep: bool) -> None:
        self._console = console
        self._render = render
        self._policies = policies or POLICIES
        self._own = policies is not None
        self._keep = keep

    async def run(self) -> None:
        """Starts everything, shows the verdicts, and with `keep` waits until it is cancelled. Raises ConfigError."""
        if not self._own and not self._policies.is_dir():
            raise ConfigError(
                "`moderation demo` reads policies/demo: run it in a checkout of the project, or name a folder of your "
                "own with --policies"
            )
        policy_set = PolicySet.load(self._policies)  # a mistake is reported here, not by a worker that ends
        policies = self._policies.absolute()
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moderation-demo-")))
            self._console.print(Panel(NOTICE, border_style="red", width=min(self._console.width, PANEL_COLUMNS)))
            count = len(policy_set.policies)
            lines = [f"policies: {count} of {policies}", f"digest {policy_set.digest}"]
            if ignored := sorted(name for name in os.environ if name.startswith(PREFIX) and name not in USED):
                lines.append(f"The demo has settings of its own and does not use {', '.join(ignored)}")
            lines += map(str, check(policies).warnings)
            self._console.print(*lines, sep="\n", soft_wrap=True, highlight=False, markup=False)
            settings = await self._start_kafka(stack)
            listen = f"127.0.0.1:{_port(50051)}"
            environment = _environment(settings, policies, listen, folder)
            ops = {name: f"127.0.0.1:{_port(wanted)}" for name, wanted in (("worker", 9464), ("api", 9465))}
            roles = [
                await stack.enter_async_context(_role(name, environment | {"MODERATION_OPS__LISTEN": address}, folder))
                for name, address in ops.items()
            ]
            await _while_alive(self._story(settings, posts.samples(folder), listen, ops.values()), roles)

    async def _start_kafka(self, stack: AsyncExitStack) -> KafkaSettings:
        with self._console.status("starting Apache Kafka") as status:
            broker = await stack.enter_async_context(LocalKafka(port=_port(9092), progress=status.update))
        self._console.print(f"Apache Kafka listens on {broker.bootstrap}")
        settings = KafkaSettings(bootstrap=broker.bootstrap)
        await create_service_topics(settings, partitions=PARTITIONS)
        return settings

    async def _story(self, settings: KafkaSettings, samples: Sequence[Post], listen: str, ops: Iterable[str]) -> None:
        await self._moderate(settings, samples)
        await self._look_up(listen, posts.LOOKED_UP)
        self._next_steps(listen, ops)
        if self._keep:
            await asyncio.Event().wait()  # until Ctrl-C

    async def _moderate(self, settings: KafkaSettings, samples: Sequence[Post]) -> None:
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
            with Live(self._table(samples, verdicts), console=self._console, refresh_per_second=8) as live:
                async with asyncio.timeout(DEADLINE_S):
                    while len(verdicts) < len(samples):
                        polled = await consumer.poll(
                            max_records=len(samples), max_bytes=settings.max_message_bytes, timeout_s=1.0
                        )
                        for record in chain(*polled.values()):
                            verdict = wire.read_verdict(record.value or b"", record.headers)
                            verdicts[verdict.post_id] = verdict
                            live.update(self._table(samples, verdicts))

    def _table(self, samples: Sequence[Post], verdicts: dict[str, Verdict]) -> Table:
        table = Table(title=f"{len(verdicts)} of {len(samples)} verdicts", title_justify="left")
        most = 60 if self._console.is_terminal else self._console.width  # a pipe has room
        text_width = max(10, min(most, self._console.width - 76))
        table.add_column("post", no_wrap=True, min_width=9)
        table.add_column("text", no_wrap=True, overflow="ellipsis", max_width=text_width)
        table.add_column("pics", no_wrap=True, min_width=4)
        table.add_column("outcome", no_wrap=True, min_width=7)
        table.add_column("status", no_wrap=True, min_width=12)
        table.add_column("why", min_width=20)
        for post in samples:
            row: list[str | Text] = [post.id, Text(post.text.replace("\n", " ")), "▪" * len(post.images)]
            if verdict := verdicts.get(post.id):
                row += [self._render.outcome(verdict), self._render.status(verdict), self._render.why(verdict)]
            table.add_row(*row)
        return table

    async def _look_up(self, listen: str, post_id: str) -> None:
        self._console.print(f"\nThe same verdict over gRPC, as another service would ask: GetVerdict({post_id})")
        async with asyncio.timeout(DEADLINE_S):
            await _serving(listen)
            async with Client(listen) as client:
                # the view follows the topic, and no call of the API waits for the view
                while (result := await client.get(post_id)).state != service.LOOKUP_STATE_FOUND:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        self._render.verdict(self._console, result.verdict)

    def _next_steps(self, listen: str, ops: Iterable[str]) -> None:
        command = Path(sys.argv[0]).name if Path(sys.argv[0]).parent.as_posix() in os.get_exec_path() else sys.argv[0]
        if not self._keep:
            self._console.print(f"\n`{command} demo --keep` keeps running, for posts and policies of your own.")
            return
        picture = shlex.quote(str(posts.FOLDER / "knife.jpg"))
        lines = (
            f'{command} submit --api {listen} --text "for sale, write me" --image {picture}',
            f"{command} get --api {listen} {posts.LOOKED_UP}",
            f"{command} top {' '.join(ops)}",
            f"{command} policies live {' '.join(ops)} --api {listen} --policies {shlex.quote(str(self._policies))}",
        )
        folder = shlex.quote(str(self._policies))
        policy_lines = (
            f"{command} policies check {folder}",
            f'{command} classify --model {MODEL} --policies {folder} --text "selling guns"',
            f"{command} demo --policies {folder}  # after Ctrl-C here",
        )
        self._console.print("\nEverything stays up until Ctrl-C. In another terminal:", style="bold")
        for line in lines:
            self._console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)
        advice = f"Your own policy: change a file in {folder}, or write one as the README shows, then"
        self._console.print(advice, style="bold", soft_wrap=True, highlight=False, markup=False)
        for line in policy_lines:
            self._console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)


def _environment(settings: KafkaSettings, policies: Path, listen: str, folder: Path) -> dict[str, str]:
    """Variables of the two roles: those of this process without its settings, and the demo's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)} | {
        "MODERATION_KAFKA__BOOTSTRAP": settings.bootstrap,
        "MODERATION_MODEL": MODEL,
        "MODERATION_POLICIES": str(policies),
        "MODERATION_MEDIA__ROOTS": str(folder),
        "MODERATION_API__LISTEN": listen,
        "MODERATION_API__VIEW": str(folder / "verdicts.sqlite"),
        "MODERATION_LOG__FORMAT": "json",
    }


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
        # A session of its own, so that Ctrl-C reaches this process only: the roles drain while their broker still runs.
        # supervise.py stops the role when its stdin is closed, which happens however this process ends.
        supervisor = (sys.executable, "-IS", supervise.__file__, str(os.getpid()), str(GRACE_S))
        process = await asyncio.create_subprocess_exec(
            *supervisor,
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
        await process.wait()  # GRACE_S at most: then supervise.py kills the role


async def _while_alive(work: Coroutine[None, None, None], roles: Sequence[_Role]) -> None:
    """Raises ConfigError, with the end of its log, when a role ends before the work does."""

    async def end_of(role: _Role) -> _Role:
        await role.process.wait()
        return role

    if role := await lifecycle.first_result(work, *map(end_of, roles)):
        tail = "\n".join(role.log.read_text().splitlines()[-5:])
        raise ConfigError(f"the {role.name} ended with {role.process.returncode}; its log ends:\n{tail}")


async def _serving(listen: str) -> None:
    async with Client(listen) as client:
        await client.serving()


def _port(wanted: int) -> int:
    """`wanted` if it is free, so that the commands' defaults reach the demo; else any free port."""
    with HeldPorts() as ports:
        try:
            return ports.take(wanted)
        except ConfigError:
            return ports.pick()
