"""TinyGPT-V's downloads as one safetensors folder: `moderation model convert tinygptv`.

The folder is written under another name and renamed when it is whole. Tensors are read, merged and written shard by
shard, so the memory in use stays near the size of a shard, whatever the size of the model.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from moderation.errors import ConfigError
from moderation.models.shared import checkpoint, codegen
from moderation.models.shared.tokenizer import TOKENIZER, Tokenizer
from moderation.models.tinygptv import artefacts, merge, network, sizes
from moderation.models.tinygptv.artefacts import Artefact
from moderation.models.tinygptv.merge import Inputs, Planned
from moderation.models.tinygptv.network import TinyGptvConfig, TinyGptvNetwork
from moderation.models.tinygptv.template import TinyGptvTemplate

SHARD = 512 << 20  # bytes of a file of weights, more for a larger tensor

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Files:
    """vit, qformer, stage: the published torch files. phi: the published folder.

    variant, lora_alpha: where `stage` has no config that says them.
    """

    vit: Path
    qformer: Path
    phi: Path
    stage: Path
    variant: str | None = None
    lora_alpha: float | None = None


def convert(out: Path, files: Files, *, shard: int = SHARD, progress: Progress = lambda _line: None) -> None:
    """Writes the folder `out`. shard: bytes of a file of weights. progress: takes lines that say what is done.

    Raises ConfigError, without leaving a folder, when a file cannot be read without running code, when the files are
    not those of one model, and when `out` exists and is not empty.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out}: exists already; name a folder that does not exist or is empty")
    _check_places(files)
    read = (
        artefacts.torch_file("--vit", files.vit),
        artefacts.torch_file("--qformer", files.qformer),
        artefacts.phi_folder("--phi", files.phi),
        artefacts.torch_file("--stage", files.stage),
    )
    config = sizes.config(*read, files.variant)
    inputs = Inputs(*read, lora_alpha=sizes.lora_alpha(read[-1], files.lora_alpha))
    planned, ignored = merge.plan(inputs, config, shapes(config))
    _check_tokenizer(files.phi, config)
    total = sum(tensor.bytes for tensor in planned)
    progress(f"{len(planned)} tensors, {_gigabytes(total)}; adapters are merged with alpha {inputs.lora_alpha:g}")
    for name in ignored:
        progress(f"not used: {name}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _check_space(out.parent, total)
        draft = Path(tempfile.mkdtemp(prefix=f"{out.name}.unfinished.", dir=out.parent))
        try:
            _write(draft, inputs, config, list(_shards(planned, shard)), progress)
            draft.rename(out)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{out}: cannot be written ({error})") from None
    progress(f"written: {out}")


def _check_places(files: Files) -> None:
    """Raises ConfigError naming every option that names nothing, or a folder where a file is needed, or a file."""
    faults = []
    for option, path in (("--vit", files.vit), ("--qformer", files.qformer), ("--stage", files.stage)):
        if not path.is_file():
            faults.append(f"{option} {path}: {'is a folder, not a file' if path.is_dir() else 'there is no such file'}")
    if not files.phi.is_dir():
        kind = "is a file, not a folder" if files.phi.exists() else "there is no such folder"
        faults.append(f"--phi {files.phi}: {kind}")
    if faults:
        raise ConfigError("; ".join(faults))


def shapes(config: TinyGptvConfig) -> dict[str, tuple[int, ...]]:
    """The folder's tensors, by name in the network's order."""
    with checkpoint.meta_modules():
        module = TinyGptvNetwork(config)
    return {network.published(name): tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _write(
    draft: Path, inputs: Inputs, config: TinyGptvConfig, shards: Sequence[Sequence[Planned]], progress: Progress
) -> None:
    """The files of the folder. config.json comes last: without it, nothing takes the folder for a model."""
    sources = [_source(artefact, progress) for artefact in inputs]
    weight_map: dict[str, str] = {}
    done, total = 0, sum(tensor.bytes for part in shards for tensor in part)
    for number, part in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = _made(part)
        save_file(tensors, draft / file, metadata={"format": "pt"})
        _sync(draft / file)
        weight_map |= dict.fromkeys(tensors, file)
        del tensors
        for artefact in inputs:
            artefact.release()
        done += sum(tensor.bytes for tensor in part)
        progress(f"{file}: {_gigabytes(done)} of {_gigabytes(total)}")
    _write_json(draft / checkpoint.INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    for path in inputs.phi.tokenizer:
        shutil.copyfile(path, draft / path.name)
        _sync(draft / path.name)
    for artefact in inputs:
        artefact.check_unchanged()
    draft.chmod(0o755)  # mkdtemp's is for one user
    _write_json(draft / checkpoint.CONFIG, _described(inputs, config, sources))


def _made(part: Sequence[Planned]) -> dict[str, Tensor]:
    """The tensors of a shard, each with memory of its own: safetensors writes no memory twice."""
    tensors: dict[str, Tensor] = {}
    taken: set[int] = set()
    for planned in part:
        tensor = planned.make().contiguous()
        if tensor.untyped_storage().data_ptr() in taken:
            tensor = tensor.clone()
        taken.add(tensor.untyped_storage().data_ptr())
        tensors[planned.name] = tensor
    return tensors


def _described(inputs: Inputs, config: TinyGptvConfig, sources: Sequence[dict[str, object]]) -> dict[str, object]:
    """config.json: the sizes, and what the folder was made of."""
    stored = inputs.stage.tensors.get(merge.POSITIONS, inputs.vit.tensors["pos_embed"]).shape[1] - 1
    used = config.tower.grid**2
    return {
        **config.model_dump(exclude={"caution"}),
        "conversion": {
            "adapters": {"merged": True, "alpha": inputs.lora_alpha},
            "positions": "as in the files"
            if stored == used
            else f"resized from {stored} to {used} patches here, in float32",
            "inputs": sources,
        },
    }


def _source(artefact: Artefact, progress: Progress) -> dict[str, object]:
    """The record of an input in config.json."""
    sums: dict[str, str] = {}
    for path in artefact.files:
        progress(f"SHA-256 of {path}")
        sums[path.name] = artefacts.sha256(path)
    return {"option": artefact.option, "name": artefact.path.resolve().name, "sha256": sums}


def _shards(planned: Sequence[Planned], limit: int) -> Iterator[list[Planned]]:
    """The tensors in their order, at most `limit` bytes together."""
    part: list[Planned] = []
    for tensor in planned:
        if part and sum(each.bytes for each in part) + tensor.bytes > limit:
            yield part
            part = []
        part.append(tensor)
    if part:
        yield part


def _check_tokenizer(phi: Path, config: TinyGptvConfig) -> None:
    tokenizer = Tokenizer(phi) if (phi / TOKENIZER).exists() else codegen.tokenizer(phi)
    if tokenizer.size > config.text_config.vocab_size:
        raise ConfigError(
            f"{phi}: the tokenizer has {tokenizer.size} tokens and config.json a vocab_size of "
            f"{config.text_config.vocab_size}; they are not of one model"
        )
    TinyGptvTemplate(tokenizer, config.arch)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(f"{folder}: {_gigabytes(free)} are free and {_gigabytes(needed)} are needed")


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    """The file's bytes to the disk, so that a rename is never there before them."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
