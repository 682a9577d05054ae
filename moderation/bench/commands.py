"""The commands `moderation bench ...`. Each imports what it needs when it runs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from moderation import settings
from moderation.errors import ConfigError
from moderation.observability import logs

app = typer.Typer(no_args_is_help=True, help="Measure this service against the simplest program that does the same.")
out = Console(soft_wrap=True, emoji=False)


@app.command()
def engine(
    context: typer.Context,
    *,
    model: Annotated[
        str | None, typer.Option(help="hub id, folder or demo: measure a checkpoint instead of a random network")
    ] = None,
    size: Annotated[str, typer.Option(help="size of the random network: small, mini, full")] = "small",
    kinds: Annotated[
        str, typer.Option(help="posts: text, image4, image16; `mix` needs the other three; with --model: text, picture")
    ] = "text,image4",
    policies: Annotated[str, typer.Option(help="numbers of policies for a post")] = "1,5,20",
    ways: Annotated[str, typer.Option(help="ways to score")] = "tree,tree1,bfloat16,original,lean,padded,prefix",
    rounds: Annotated[int, typer.Option(min=1, help="rounds; in each, ways alternate")] = 3,
    threads: Annotated[int, typer.Option(min=0, help="threads of torch; 0: torch's default")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="file for all times")] = None,
    plot: Annotated[Path | None, typer.Option(help="file for an SVG")] = None,
) -> None:
    """Measure scoring against one prompt for each policy, on a random network or on a checkpoint (--model)."""
    counts = tuple(int(count) for count in policies.split(","))
    if model is not None:
        if only_random := [f"--{name}" for name in ("size", "ways", "plot") if _is_given(context, name)]:
            raise ConfigError(
                f"{', '.join(only_random)}: only for random networks, which have sizes and transformers' modules to "
                "compare with; leave it out with --model"
            )
        from moderation.bench import checkpoint

        loaded = settings.load()
        logs.capture_prints(loaded.log)
        asked = loaded.model.model_copy(update={"name": model, "device": device})
        chosen = tuple(kinds.split(",")) if _is_given(context, "kinds") else tuple(checkpoint.KINDS)
        sys.exit(checkpoint.main(checkpoint.Options(asked, chosen, counts, rounds, threads, json_file)))
    from moderation.bench.engine import Options, main

    sys.exit(
        main(
            Options(
                size=size,
                kinds=tuple(kinds.split(",")),
                policies=counts,
                ways=tuple(ways.split(",")),
                rounds=rounds,
                threads=threads,
                where=device,
                json=json_file,
                plot=plot,
            )
        )
    )


@app.command()
def agreement(
    gguf: Annotated[Path | None, typer.Option(help="file of a small Llama; default: a random network")] = None,
    batches: Annotated[int, typer.Option(min=2, help="mixed batches")] = 1000,
    threads: Annotated[int, typer.Option(min=0, help="threads of torch; 0: torch's default")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the figures")] = None,
) -> None:
    """Measure score agreement: how far a score moves with its batch in each type, and how many verdicts change."""
    from moderation.bench.agreement import main

    sys.exit(main(gguf, batches, json_file, threads))


@app.command()
def stream(
    delivery: Annotated[Literal["exactly_once", "at_least_once"], typer.Option()] = "exactly_once",
    posts: Annotated[int, typer.Option(min=1000, help="posts of each measurement")] = 6000,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    memory: Annotated[int, typer.Option(min=0, help="posts over which memory is measured; 0: none")] = 0,
    quiet: Annotated[int, typer.Option(min=0, help="seconds of quiet partitions next to full ones; 0: none")] = 0,
    results: Annotated[Path | None, typer.Option("--json", help="file for the results")] = None,
) -> None:
    """Measure the worker against a plain consume-produce loop, on KAFKA_BOOTSTRAP_SERVERS or a broker of its own."""
    from moderation.bench import stream as measure

    measure.run(measure.Plan(settings.load().policies, delivery, posts, rounds, memory, quiet), results)


@app.command()
def lookup(
    seconds: Annotated[float, typer.Option(min=0.5, help="seconds of each measurement")] = 4.0,
    rounds: Annotated[int, typer.Option(min=1, help="rounds of each measurement; the median is shown")] = 3,
    verdicts: Annotated[int, typer.Option(min=100, help="verdicts in the view")] = 60_000,
    as_json: Annotated[bool, typer.Option("--as-json", help="put verdicts on their topic as JSON")] = False,
    output: Annotated[Path | None, typer.Option("--json", help="file for the results")] = None,
) -> None:
    """Measure lookups over gRPC against a bare handler that returns a constant of the same size."""
    from moderation.bench import lookup as lookups

    plan = lookups.Plan(verdicts, rounds, seconds, format="json" if as_json else "protobuf")
    lookups.print_tables(asyncio.run(lookups.run(plan, out, output)), out)


@app.command()
def redecide(
    verdicts: Annotated[int, typer.Option(min=1000, help="archived verdicts")] = 1_000_000,
    output: Annotated[Path | None, typer.Option("--json", help="file for the results")] = None,
) -> None:
    """Measure how fast archived verdicts are decided again with other thresholds, on two cores."""
    from moderation.bench import redecide as redeciding

    redeciding.print_table(redeciding.run(settings.load().policies, verdicts, out, output), out)


def _is_given(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"
