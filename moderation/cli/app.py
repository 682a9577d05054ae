"""The commands. Each reads the settings, wires the parts together and hands over; nothing imports this."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import moderation
from moderation import lifecycle, settings
from moderation import policies as policy_files
from moderation.bench import commands as bench
from moderation.cli import render
from moderation.errors import ConfigError, PostError
from moderation.observability import logs
from moderation.settings import Settings
from moderation.types import Image, Post
from moderation.v1.verdict_pb2 import Verdict

if TYPE_CHECKING:
    from moderation.client import Client

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=moderation.__doc__)
policies = typer.Typer(no_args_is_help=True, help="Check policies before they judge.")
model = typer.Typer(no_args_is_help=True, help="Look into a model.")
dev = typer.Typer(no_args_is_help=True, help="What a developer's machine lacks.")
app.add_typer(policies, name="policies")
app.add_typer(model, name="model")
app.add_typer(dev, name="dev")
app.add_typer(bench.app, name="bench")

out = Console(soft_wrap=True)
err = Console(soft_wrap=True, stderr=True)


def main() -> None:
    """The console script: errors of ours end in one clear message and their own exit code."""
    lifecycle.command(lambda: app(standalone_mode=True))


# The two roles


@app.command()
def worker() -> None:
    """Pull posts from their topic, judge them, publish verdicts. Runs until SIGTERM."""

    def role(some: Settings) -> Callable[[asyncio.Event], Awaitable[None]]:
        from moderation.worker import role as worker_role

        return lambda stop: worker_role.run(some, stop)

    _serve("worker", role)


@app.command()
def api() -> None:
    """Answer lookups over gRPC. Runs until SIGTERM."""
    import uvloop

    # gRPC's core writes to stderr by itself, a line for each bad call: whoever calls could fill the log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    def role(some: Settings) -> Callable[[asyncio.Event], Awaitable[None]]:
        from moderation.api import role as api_role

        return lambda stop: api_role.serve(some, stop)

    _serve("api", role, uvloop.new_event_loop)  # a call takes a seventh less of the CPU


def _serve(
    name: str,
    role: Callable[[Settings], Callable[[asyncio.Event], Awaitable[None]]],
    loop: lifecycle.LoopFactory | None = None,
) -> None:
    some = settings.load()
    logs.configure(some.log)
    logs.capture_prints(some.log)
    flush = _exporter(some, name)
    code = lifecycle.run(role(some), loop)
    flush()  # within the grace that an end has
    sys.exit(code)


def _exporter(some: Settings, role: str) -> Callable[[], None]:
    """Traces, where the settings want them. Returns what sends the last ones. Raises ConfigError."""
    if not some.traces.endpoint:
        return lambda: None
    try:
        from moderation.observability import trace_export
    except ImportError:
        raise ConfigError("MODERATION_TRACES__ENDPOINT needs the extra otel: pip install 'moderation[otel]'") from None
    return trace_export.start(some.traces, role)


@app.command()
def health(
    target: Annotated[str, typer.Argument(help="http://host:port/livez of MODERATION_OPS__LISTEN, or host:port: gRPC")],
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds to wait for the answer")] = 5.0,
) -> None:
    """Ask a role how it is; exits with 1 unless it is well. What the images' health checks run."""
    from moderation.cli.health import ask

    answer = ask(target, timeout)
    (out if answer.healthy else err).print(answer.answer, highlight=False, markup=False)
    sys.exit(0 if answer.healthy else 1)


# One post at a time

Text = Annotated[str, typer.Option(help="what the user wrote")]
Images = Annotated[list[Path], typer.Option("--image", help="a picture of the post; give it once for each")]
Identity = Annotated[str, typer.Option("--id", help="the post's id; default: a new one")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Address = Annotated[str | None, typer.Option("--api", help="host:port of the API; default MODERATION_API__LISTEN")]


@app.command()
def classify(
    text: Text = "",
    image: Images = [],  # noqa: B006  typer copies it
    model_name: Annotated[
        str | None, typer.Option("--model", help="hub id, folder or demo; default MODERATION_MODEL")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--policies", help="default MODERATION_POLICIES")] = None,
    as_json: AsJson = False,
) -> None:
    """Judge one post here and now, without Kafka."""
    _check_content(text, image)
    some = settings.load()
    if model_name:
        some = some.model_copy(update={"model": some.model.model_copy(update={"name": model_name})})
    post = Post(f"cli-{uuid.uuid4()}", text, tuple(Image(data=_file(path)) for path in image))
    logs.configure(some.log.model_copy(update={"level": "warning"}))
    logs.capture_prints(some.log)
    render.verdict(out, asyncio.run(_classify(some, folder or some.policies, post)), as_json=as_json)


async def _classify(some: Settings, folder: Path, post: Post) -> Verdict:
    from moderation import models, wire
    from moderation.inference.batcher import Batcher
    from moderation.media.reader import Media
    from moderation.moderator import Moderator

    policy_set = policy_files.PolicySet.load(folder)
    classifier = models.load(some.model)
    if classifier.info.caution:
        logs.say(f"{classifier.info.name}: {classifier.info.caution}")
    async with Batcher(classifier, some.worker) as batcher:
        moderator = Moderator(policy_set, Media(some.media), batcher, classifier.info)
        try:
            return wire.verdict_message(await moderator.moderate(post))
        except PostError as error:
            raise ConfigError(f"{error.reason}: {error}") from None


@app.command()
def submit(
    text: Text = "",
    image: Images = [],  # noqa: B006  typer copies it
    id: Identity = "",
    address: Address = None,
    timeout: Annotated[float, typer.Option(help="seconds to wait for the verdict")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Put a post on the posts topic, through the API, and wait for its verdict."""
    from moderation.v1 import post_pb2

    _check_content(text, image)
    images = [post_pb2.Image(data=_file(path)) for path in image]
    post = post_pb2.Post(id=id or f"cli-{uuid.uuid4()}", text=text, images=images)

    async def call() -> None:
        async with _client(address) as client:
            render.answer(out, post.id, await client.moderate(post, timeout=timeout), as_json=as_json)

    asyncio.run(call())


@app.command()
def get(post_ids: list[str], address: Address = None, as_json: AsJson = False) -> None:
    """Look verdicts up by post id; exits with 1 when one has none. With --json: one object a line."""
    from moderation.v1.moderation_service_pb2 import LOOKUP_STATE_FOUND

    async def call() -> bool:
        async with _client(address) as client:
            results = await client.get_many(post_ids)
        for result in results:
            render.answer(out, result.post_id, result, as_json=as_json)
        return all(result.state == LOOKUP_STATE_FOUND for result in results)

    sys.exit(0 if asyncio.run(call()) else 1)


@app.command()
def watch(
    outcome: Annotated[
        list[str], typer.Option(help="only verdicts of this outcome: allow, review or remove; once for each")
    ] = [],  # noqa: B006  typer copies it
    policy: Annotated[list[str], typer.Option(help="only what this policy has decided; once for each")] = [],  # noqa: B006
    after: Annotated[str, typer.Option(help="the last consistencyToken that --json printed: go on after it")] = "",
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Print verdicts and erasures as they come, until Ctrl-C. With --json: one message a line."""
    from moderation.v1.verdict_pb2 import Outcome as Wanted

    try:
        token = base64.b64decode(after, validate=True)
    except ValueError:
        raise ConfigError("--after: not a token that --json has printed") from None
    if unknown := [one for one in outcome if f"OUTCOME_{one.upper()}" not in Wanted.keys()]:  # noqa: SIM118
        raise ConfigError(f"--outcome: allow, review or remove, not {', '.join(unknown)}")
    outcomes: list[Any] = [Wanted.Value(f"OUTCOME_{one.upper()}") for one in outcome]

    async def follow() -> None:
        async with _client(address) as client:
            async for message in client.watch(outcomes=outcomes, policy_ids=policy, after=token):
                render.changes(out, message, as_json=as_json)

    with suppress(KeyboardInterrupt):
        asyncio.run(follow())


def _client(address: str | None) -> Client:
    """As the settings say. Raises ConfigError."""
    from moderation.client import Client

    some = settings.load()
    ours, file = some.client, some.client.token_file
    certificate = (ours.certificate, ours.key) if ours.certificate and ours.key else None
    token = (lambda: _file(file).decode().strip()) if file else None
    return Client(address or some.api.listen, tenant=ours.tenant, token=token, ca=ours.ca, certificate=certificate)


def _check_content(text: str, images: list[Path]) -> None:
    if not text and not images:
        raise ConfigError("a post has a text, pictures or both: give --text, --image")


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


# Policies

Folder = Annotated[Path | None, typer.Argument(help="folder of the set; default MODERATION_POLICIES")]


@policies.command()
def check(folder: Folder = None) -> None:
    """Validate a set; exits non-zero and names file, line and key of each mistake."""
    policy_set = policy_files.PolicySet.load(folder or settings.load().policies)
    table = Table("policy", "version", "status", "severity", "review", "remove", "on error")
    for one in policy_set.policies:
        limits = f"{one.thresholds.review:.2f}", f"{one.thresholds.remove:.2f}"
        table.add_row(one.id, str(one.version), one.status, one.severity, *limits, one.on_error)
    out.print(table)
    out.print(f"{len(policy_set.policies)} policies, digest {policy_set.digest}", highlight=False)


@policies.command()
def schema() -> None:
    """Print the JSON Schema of a policy file, for editors."""
    typer.echo(policy_files.json_schema(), nl=False)


# Models


@model.command()
def probe(
    folder: Annotated[str, typer.Argument(help="folder or hub id of a checkpoint")],
    prompt: Annotated[Path, typer.Option(help="file with a raw prompt; <|image_1|> marks a picture's place")],
    output: Annotated[Path, typer.Option("--out", help="the .npz file to write")],
    image: Images = [],  # noqa: B006  typer copies it
    num_crops: Annotated[int | None, typer.Option(min=1, help="crop budget; default the checkpoint's")] = None,
) -> None:
    """Run one raw prompt, exactly as the original processor takes it, and write what the model computed."""
    from moderation.models.phi3.probe import probe as run_probe

    if not output.absolute().parent.is_dir():
        raise ConfigError(f"{output.parent}: no such folder")
    try:
        words = _file(prompt).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{prompt}: a prompt is UTF-8 text") from None
    logs.capture_prints(settings.load().log)
    run_probe(folder, words, image, num_crops=num_crops, out=output)


@model.command()
def info(folder: Annotated[str, typer.Argument(help="folder or hub id of a checkpoint, or demo")]) -> None:
    """Print what a checkpoint is, and its model card."""
    from moderation.models.phi3.describe import describe

    logs.capture_prints(settings.load().log)
    typer.echo(describe(folder))


@model.command()
def seed(folder: Annotated[Path, typer.Argument(help="folder to write it to")]) -> None:
    """Write a small checkpoint in Phi-3-Vision's layout with weights from a seed: to try things without a model."""
    from moderation.dev.checkpoint import seeded

    out.print(f"{seeded(folder)}: random weights, so its verdicts mean nothing", highlight=False, markup=False)


# Development


@dev.command()
def kafka(
    host: Annotated[str, typer.Option(help="address of this machine to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0: any")] = 9092,
    data: Annotated[Path | None, typer.Option(help="folder that keeps the records; default: none are kept")] = None,
    partitions: Annotated[int, typer.Option(min=1, help="of the topics that the settings name")] = 6,
) -> None:
    """Run a real Apache Kafka here, with the topics that the settings name. Ctrl-C stops it."""
    from moderation.dev import kafka as local

    some = settings.load()
    logs.configure(some.log)
    sys.exit(
        lifecycle.run(
            lambda stop: local.run_until_stopped(
                stop, some.kafka, host=host, port=port, data=data, partitions=partitions
            )
        )
    )


@dev.command()
def topics(
    partitions: Annotated[int, typer.Option(min=1, help="of each")] = 6,
    replication: Annotated[int, typer.Option(min=1, help="copies of each record")] = 1,
) -> None:
    """Create the topics that the settings name, where they are not there yet: posts, verdicts, dead letters."""
    from moderation.dev.kafka import create_missing_topics

    some = settings.load()
    asyncio.run(create_missing_topics(some.kafka, partitions=partitions, replication=replication))
    names = some.kafka.posts_topic, some.kafka.verdicts_topic, some.kafka.dead_letters
    out.print(f"{', '.join(names)}: there, on {some.kafka.bootstrap}", highlight=False, markup=False)


@app.command()
def demo(
    keep: Annotated[bool | None, typer.Option(help="stay up until Ctrl-C; default: on a terminal")] = None,
) -> None:
    """A local Kafka, a worker, an API and a dozen posts: see it work."""
    from moderation.demo import run

    sys.exit(run.demo(keep=sys.stdin.isatty() and sys.stdout.isatty() if keep is None else keep))


@app.command()
def top(
    endpoints: Annotated[
        list[str] | None, typer.Argument(help="host:port or URL of each; default MODERATION_OPS__LISTEN, or port 9464")
    ] = None,
    interval: Annotated[float, typer.Option(min=0.1, help="seconds between two readings")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="print one page, of one interval, and end")] = False,
) -> None:
    """Watch workers and APIs: lag, rates, batches, outcomes, calls, from their /metrics. Ctrl-C ends it."""
    from moderation.cli import top as page

    given = endpoints or [settings.load().ops.listen or "127.0.0.1:9464"]
    with suppress(KeyboardInterrupt):
        page.show([page.address(one) for one in given], Console(), interval=interval, once=once)


@app.command(name="settings")
def print_settings() -> None:
    """List every setting: the variable, its default, what it does."""
    settings.load()  # tells of the variables that are set and wrong
    for variable, default, description in settings.knobs():
        out.print(f"{variable}={default}", style="bold", highlight=False, markup=False)
        out.print(f"    {description}", highlight=False, markup=False)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(moderation.__version__)
