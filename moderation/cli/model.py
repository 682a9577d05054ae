"""`moderation model ...`: inspect a checkpoint, run a raw prompt, or write a small checkpoint with random weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from moderation import settings
from moderation.cli.options import AsJson, Images, out, read_file
from moderation.errors import ConfigError
from moderation.observability import logs

app = typer.Typer(no_args_is_help=True, help="Inspect a model.")


@app.command()
def probe(
    folder: Annotated[str, typer.Argument(help="folder or hub id of a checkpoint")],
    prompt: Annotated[Path, typer.Option(help="file with a raw prompt; the original's tag marks a picture's place")],
    output: Annotated[Path, typer.Option("--out", help="the .npz file to write")],
    image: Images = [],  # noqa: B006  typer copies it
    num_crops: Annotated[int | None, typer.Option(min=1, help="crops of a picture; default: the checkpoint's")] = None,
) -> None:
    """Run one raw prompt, exactly as the original processor takes it, and write what the model computed."""
    from moderation import models

    if not output.absolute().parent.is_dir():
        raise ConfigError(f"{output.parent}: no such folder")
    try:
        words = read_file(prompt).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{prompt}: a prompt must be UTF-8 text") from None
    logs.capture_prints(settings.load().log)
    models.probe(folder, words, image, num_crops=num_crops, out=output)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Print the models that this service was built for, and what was verified of each."""
    from moderation import models

    rows = [{"family": family, **asdict(row)} for family, row in models.published()]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table("model", "parameters", "weights", "licence", "memory", "context", "640x480", box=box.ROUNDED)
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['parameters'] / 1e9:.2f} B",
            f"{row['weight_bytes'] / 1e9:.1f} GB",
            row["licence"],
            f"{row['memory_bytes'] / 1e9:.1f} GB",
            f"{row['context']:,}",
            f"{row['image_tokens']:,} tokens",
        )
    out.print(table)
    for row in rows:
        out.print(
            f"{row['name']}\n  verified: {row['verified']}\n  not verified: {row['unverified']}",
            markup=False,
            highlight=False,
        )


@app.command()
def info(folder: Annotated[str, typer.Argument(help="folder or hub id of a checkpoint, or demo")]) -> None:
    """Print what a checkpoint holds, and its model card."""
    from moderation import models

    logs.capture_prints(settings.load().log)
    typer.echo(models.describe(folder))


@app.command()
def seed(
    folder: Annotated[Path, typer.Argument(help="folder to write the checkpoint to")],
    family: Annotated[
        str, typer.Option(help="phi3, tinyllava, tinyllava_legacy, tinyllava_v1, h2ovl or tinygptv")
    ] = "phi3",
) -> None:
    """Write a small checkpoint in a family's layout with random weights: to try commands without a real model."""
    from moderation.dev.checkpoint import seeded

    out.print(f"{seeded(folder, family)}: random weights, so its verdicts mean nothing", highlight=False, markup=False)
