"""`moderation model ...`: inspect a checkpoint, run a raw prompt, or write a small checkpoint with random weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from moderation import settings
from moderation.cli.options import AsJson, Images, err, out, read_file
from moderation.dev.checkpoint import FAMILIES, seeded
from moderation.errors import ConfigError
from moderation.observability import logs

app = typer.Typer(no_args_is_help=True, help="List models, inspect a checkpoint, convert one, or make a small one.")
converters = typer.Typer(no_args_is_help=True, help="Write a model's published files as a folder that can be loaded.")
app.add_typer(converters, name="convert")


@app.command()
def probe(
    folder: Annotated[str, typer.Argument(help="folder or hub id of a checkpoint")],
    prompt: Annotated[
        Path,
        typer.Option(
            help="file with a raw prompt; <|image_1|>, <image> or <ImageHere>, as in the original, is a picture's place"
        ),
    ],
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
    err.print(f"{output}: written", highlight=False, markup=False)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Print the models that this service was built for, and what was verified of each."""
    from moderation import models

    rows = [{"family": family, **asdict(row)} for family, row in models.published()]
    if as_json:
        general = [{"family": "transformers", **asdict(kind)} for kind in models.kinds()]
        typer.echo(json.dumps([*rows, *general], indent=1))
        return
    for row in rows:
        figures = (
            f"{row['parameters'] / 1e9:.2f} B parameters, {row['weight_bytes'] / 1e9:.1f} GB of files, licence "
            f"{row['licence']}",
            f"memory {row['memory_bytes'] / 1e9:.1f} GB on a GPU, twice that on a CPU; context {row['context']:,} "
            f"tokens, a 640x480 picture {row['image_tokens']:,} tokens",
            f"verified: {row['verified']}",
            f"not verified: {row['unverified']}",
        )
        out.print(row["name"], *figures, sep="\n  ", markup=False, highlight=False)
    for kind in models.kinds():
        lines = (
            f"model_type {kind.name}, run by transformers' {kind.class_}, slower than a family of this list",
            f"turns: {kind.turns}",
            f"verified: {kind.verified}",
            f"not verified: {kind.unverified}",
        )
        out.print(kind.title, *lines, sep="\n  ", markup=False, highlight=False)


@app.command()
def info(folder: Annotated[str, typer.Argument(help="folder or hub id of a checkpoint, or demo")]) -> None:
    """Print what a checkpoint holds, and its model card."""
    from moderation import models

    loaded = settings.load()
    logs.capture_prints(loaded.log)
    typer.echo(models.describe(folder, loaded.model.num_crops))


@app.command()
def seed(
    folder: Annotated[Path, typer.Argument(help="folder to write the checkpoint to")],
    family: Annotated[str, typer.Option(help=f"one of {', '.join(FAMILIES)}")] = "phi3",
) -> None:
    """Write a small checkpoint in a family's layout with random weights: to try commands without a real model."""
    out.print(f"{seeded(folder, family)}: random weights, so its verdicts mean nothing", highlight=False, markup=False)


@converters.command()
def tinygptv(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="folder to write; it must not exist, or be empty")],
    *,
    vit: Annotated[Path, typer.Option(help="the vision tower, eva_vit_g.pth")],
    qformer: Annotated[Path, typer.Option(help="BLIP-2's Q-Former, blip2_pretrained_flant5xxl.pth")],
    phi: Annotated[Path, typer.Option(help="folder of the Phi-2 that TinyGPT-V was published with")],
    stage: Annotated[Path, typer.Option(help="what was trained, TinyGPT-V_for_StageN.pth")],
    variant: Annotated[
        str | None, typer.Option(help="224 (stages 1 to 3) or 448 (stage 4), where the stage file has no config")
    ] = None,
    lora_alpha: Annotated[
        float | None, typer.Option(help="strength of the adapters, where the stage file has no config: 16")
    ] = None,
) -> None:
    """Write TinyGPT-V's downloads as one safetensors folder, with their SHA-256. Runs nothing that is in them."""
    from moderation.models.tinygptv.convert import Files, convert

    convert(
        folder,
        Files(vit, qformer, phi, stage, variant, lora_alpha),
        progress=lambda line: err.print(line, highlight=False, markup=False),
    )
