"""`moderation demo` and `moderation dev ...`: a local Kafka, and the whole service on it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from moderation import lifecycle, settings
from moderation.cli.options import out, table_console
from moderation.observability import logs

app = typer.Typer(no_args_is_help=True, help="Run a local Kafka and create topics, for development.")


@app.command()
def kafka(
    host: Annotated[str, typer.Option(help="address of this machine to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0: any free port")] = 9092,
    data: Annotated[
        Path | None, typer.Option(help="folder that keeps the records; default: they are deleted at the end")
    ] = None,
    partitions: Annotated[int, typer.Option(min=1, help="partitions of each topic")] = 6,
) -> None:
    """Run a real Apache Kafka on this machine, with the topics that the settings name. Ctrl-C stops it."""
    from moderation.dev import kafka as local

    with lifecycle.starting():
        loaded = settings.load()
        logs.configure(loaded.log)
    sys.exit(
        lifecycle.run(
            lambda stop: local.serve(stop, loaded.kafka, host=host, port=port, data=data, partitions=partitions)
        )
    )


@app.command()
def topics(
    partitions: Annotated[int, typer.Option(min=1, help="partitions of each topic")] = 6,
    replication: Annotated[int, typer.Option(min=1, help="copies of each record")] = 1,
) -> None:
    """Create the topics that the settings name, where missing: posts, verdicts, dead letters."""
    from moderation.dev.topics import create_missing_topics

    loaded = settings.load()
    made = asyncio.run(create_missing_topics(loaded.kafka, partitions=partitions, replication=replication))
    count = f"{partitions} partition{'' if partitions == 1 else 's'}"
    out.print(f"{loaded.kafka.bootstrap}, {count} each:", highlight=False, markup=False)
    for name, created in made.items():
        out.print(f"  {name}: {'created' if created else 'was there'}", highlight=False, markup=False)


def demo(
    keep: Annotated[bool | None, typer.Option(help="keep running until Ctrl-C; default: on a terminal")] = None,
    policies: Annotated[
        Path | None, typer.Option(help="folder of the policy set; default MODERATION_POLICIES, else policies/demo")
    ] = None,
) -> None:
    """Start a local Kafka, a worker and an API, send a dozen posts and show their verdicts."""
    from moderation.cli import render
    from moderation.demo import run

    loaded = settings.load()
    if policies is None and "policies" in loaded.model_fields_set:
        policies = loaded.policies
    keep = sys.stdin.isatty() and sys.stdout.isatty() if keep is None else keep
    sys.exit(run.demo(render, table_console(), policies, keep=keep))
