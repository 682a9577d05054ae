"""Which tensor of a TinyGPT-V comes from which of its downloads, and whether the downloads belong together.

The trained file overrides all others, name by name. Its low-rank adapters are added to the matrices that they adapt, in
float32. Everything else keeps the dtype of its file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from moderation.errors import ConfigError
from moderation.models.tinygptv.artefacts import FLOATS, Artefact, Stored
from moderation.models.tinygptv.eva import interpolated
from moderation.models.tinygptv.network import LANGUAGE, TinyGptvConfig

ADAPTED = "llama_model.base_model.model."  # how names of the language model begin in a file with adapters
ADAPTER = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")  # as PEFT spells it before 0.3, and from then on
ADAPTABLE = re.compile(
    re.escape(LANGUAGE) + r"layers\.\d+\.self_attn\.(?:query_key_value|dense)"
)  # as the original trains
LAYER = re.compile(re.escape(LANGUAGE) + r"layers\.(\d+)\.(.+)")
SPLIT = re.compile(r"(.+\.self_attn\.)([qkv])_proj\.(weight|bias)")
POSITIONS = "visual_encoder.pos_embed"
# Norms that the trainer put into the language model. Where no file has them, they change nothing.
ADDED_NORMS = re.compile(r".+\.(?:self_attn\.[qk]_layernorm\.(?:weight|bias)|post_layernorm\.weight)")
SOME = 4  # names that an error lists

# What the files hold and the network does not use. The tower's last block is found by its number.
UNUSED_VIT = re.compile(r"visual_encoder\.(?:norm|fc_norm|head)\.(?:weight|bias)")
UNUSED_QFORMER = re.compile(
    r"t5_proj\.(?:weight|bias)|Qformer\.bert\.embeddings\.(?:position_ids|(?:word|position)_embeddings\.weight)"
    r"|Qformer\.cls\..+|Qformer\.bert\.encoder\.layer\.\d+\.(?:intermediate|output)\.(?:dense|LayerNorm)\.(?:weight|bias)"
)
UNUSED_STAGE = re.compile(r"Qformer\.bert\.embeddings\.position_ids")
QFORMER = ("query_tokens", "ln_vision.", "Qformer.", "t5_proj.")  # how names in its file begin


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor of the converted folder, which `make` reads and computes."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The four downloads, and the strength of the adapters."""

    vit: Artefact
    qformer: Artefact
    phi: Artefact
    stage: Artefact
    lora_alpha: float

    def __iter__(self) -> Iterator[Artefact]:
        return iter((self.vit, self.qformer, self.phi, self.stage))


@dataclass(slots=True)
class _Taken:
    """Tensors by their names in the original code, each with the file that has it."""

    values: dict[str, tuple[Artefact, Stored]] = field(default_factory=dict)
    adapters: dict[str, dict[str, Stored]] = field(default_factory=dict)  # of a matrix: A and B
    ignored: list[str] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)  # by file

    def refuse(self, artefact: Artefact, problem: str) -> None:
        self.problems.setdefault(str(artefact), []).append(problem)


def plan(
    inputs: Inputs, config: TinyGptvConfig, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[list[Planned], list[str]]:
    """(every tensor of the folder, names that are in the files and not used).

    shapes: of the folder's tensors, by name. Raises ConfigError, naming files and tensors, unless the four files hold
    exactly the tensors of one model.
    """
    wanted = _wanted(shapes)
    taken = _Taken()
    _take(taken, inputs.vit, wanted, "visual_encoder.", lambda name: _unused_vit(name, config.tower.layers))
    _take(taken, inputs.qformer, wanted, "", lambda name: UNUSED_QFORMER.fullmatch(name) is not None)
    _take(taken, inputs.phi, wanted, "llama_model.", lambda _name: False)
    _take_stage(taken, inputs.stage, wanted)
    _check_layers(taken, inputs, config.text_config.num_hidden_layers)
    _check_adapters(taken, inputs.stage, wanted)
    _check_values(taken, inputs, wanted)
    if taken.problems:
        faults = [f"{file}: {_some(problems, '; ')}" for file, problems in taken.problems.items()]
        raise ConfigError("these files are not those of one model, or one of them is damaged. " + ". ".join(faults))
    heads = config.text_config.num_attention_heads
    planned = [_planned(name, shape, taken, inputs.lora_alpha, heads) for name, shape in shapes.items()]
    return planned, taken.ignored


def _wanted(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes by the names of the original code, in which query, key and value are one matrix."""
    wanted: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        split = SPLIT.fullmatch(name)
        if split is None:
            wanted[name] = shape
        else:
            wanted[f"{split[1]}query_key_value.{split[3]}"] = (3 * shape[0], *shape[1:])
    return wanted


def _unused_vit(name: str, layers: int) -> bool:
    block = re.match(r"visual_encoder\.blocks\.(\d+)\.", name)
    return UNUSED_VIT.fullmatch(name) is not None or (block is not None and int(block[1]) == layers)


def _take(
    taken: _Taken,
    artefact: Artefact,
    wanted: Mapping[str, tuple[int, ...]],
    prefix: str,
    unused: Callable[[str], bool],
) -> None:
    unknown: list[str] = []
    for name, stored in artefact.tensors.items():
        full = prefix + name
        if not prefix and not name.startswith(QFORMER):
            unknown.append(name)
        elif full in wanted:
            taken.values[full] = artefact, stored
        elif unused(full):
            taken.ignored.append(f"{artefact.path.name}: {name}")
        else:
            unknown.append(name)
    _unknown(taken, artefact, unknown)


def _take_stage(taken: _Taken, stage: Artefact, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Every name overrides, whatever file has it, too."""
    unknown: list[str] = []
    misplaced: list[str] = []
    for name, stored in stage.tensors.items():
        full = "llama_model." + name.removeprefix(ADAPTED) if name.startswith(ADAPTED) else name
        adapter = ADAPTER.fullmatch(full)
        if adapter is not None and not ADAPTABLE.fullmatch(adapter[1]):
            misplaced.append(name)
        elif adapter is not None and f"{adapter[1]}.weight" in wanted:
            pair = taken.adapters.setdefault(f"{adapter[1]}.weight", {})
            if adapter[2] in pair:
                taken.refuse(stage, f"the adapter {name} is there in two spellings")
            pair[adapter[2]] = stored
        elif full in wanted:
            if taken.values.get(full, (None,))[0] is stage:
                taken.refuse(stage, f"{name} is there in two spellings")
            taken.values[full] = stage, stored
        elif UNUSED_STAGE.fullmatch(full):
            taken.ignored.append(f"{stage.path.name}: {name}")
        else:
            unknown.append(name)
    _unknown(taken, stage, unknown)
    if misplaced:
        taken.refuse(
            stage,
            f"{len(misplaced)} adapters of other matrices than the language model's query_key_value and dense: "
            f"{_some(sorted(misplaced))}",
        )


def _unknown(taken: _Taken, artefact: Artefact, names: Sequence[str]) -> None:
    if names:
        taken.refuse(artefact, f"{len(names)} tensors that this model lacks: {_some(sorted(names))}")


def _check_layers(taken: _Taken, inputs: Inputs, layers: int) -> None:
    """The trained file must have the same tensors for each layer that the Phi-2 folder has."""
    trained: dict[int, set[str]] = {}
    names = [(name, "the adapter of ") for name in taken.adapters]
    names += [(name, "") for name, (artefact, _) in taken.values.items() if artefact is inputs.stage]
    for name, what in names:
        if layer := LAYER.fullmatch(name):
            trained.setdefault(int(layer[1]), set()).add(what + layer[2])
    whole = set().union(*trained.values())
    partial = [layer for layer in range(layers) if trained and trained.get(layer) != whole]
    if partial:
        lacks = sorted(whole - trained.get(partial[0], set()))
        taken.refuse(
            inputs.stage,
            f"trained with {len(trained)} layers of the language model, where {inputs.phi} has {layers}: layer "
            f"{partial[0]} lacks {_some(lacks)}",
        )


def _check_adapters(taken: _Taken, stage: Artefact, wanted: Mapping[str, tuple[int, ...]]) -> None:
    for name, pair in taken.adapters.items():
        if pair.keys() != {"A", "B"}:
            taken.refuse(stage, f"the adapter of {name} lacks lora_{'A' if 'B' in pair else 'B'}")
            continue
        (rank, into), (out, other) = (_matrix(pair[half]) for half in "AB")
        if (out, into) != wanted[name] or rank != other or rank < 1:
            taken.refuse(
                stage, f"the adapter of {name} is {[out, other]} x {[rank, into]}, and the matrix {list(wanted[name])}"
            )
        for half in pair.values():
            _check_dtype(taken, stage, f"the adapter of {name}", half)


def _check_values(taken: _Taken, inputs: Inputs, wanted: Mapping[str, tuple[int, ...]]) -> None:
    missing: dict[str, tuple[Artefact, list[str]]] = {}
    for name, shape in wanted.items():
        if name not in taken.values:
            if not ADDED_NORMS.fullmatch(name):
                source = _source(name, inputs)
                missing.setdefault(source.option, (source, []))[1].append(name)
            continue
        artefact, stored = taken.values[name]
        if stored.shape != shape and not (name == POSITIONS and _square(stored.shape, shape)):
            taken.refuse(artefact, f"{name} is {list(stored.shape)}, where the others need {list(shape)}")
        _check_dtype(taken, artefact, name, stored)
    for artefact, names in missing.values():
        taken.refuse(artefact, f"lacks {len(names)} tensors: {_some(sorted(names))}")


def _check_dtype(taken: _Taken, artefact: Artefact, name: str, stored: Stored) -> None:
    if stored.dtype not in FLOATS:
        taken.refuse(artefact, f"{name} is {stored.dtype}, not a float of 16 or 32 bits")


def _source(name: str, inputs: Inputs) -> Artefact:
    """The file in which a tensor is published."""
    if name.startswith("visual_encoder."):
        return inputs.vit
    if name.startswith("llama_proj"):
        return inputs.stage
    return inputs.phi if name.startswith("llama_model.") else inputs.qformer


def _planned(name: str, shape: tuple[int, ...], taken: _Taken, alpha: float, heads: int) -> Planned:
    split = SPLIT.fullmatch(name)
    source = name if split is None else f"{split[1]}query_key_value.{split[3]}"
    if source not in taken.values:
        fill = 0.0 if name.endswith(".bias") else 1.0
        return Planned(name, shape, torch.float32, lambda: torch.full(shape, fill))
    part: Callable[[Tensor], Tensor] = lambda whole: whole  # noqa: E731
    if split is not None:
        which = "qkv".index(split[2])
        part = lambda whole: whole.reshape(heads, 3, -1, *whole.shape[1:])[:, which].flatten(0, 1)  # noqa: E731
    artefact, stored = taken.values[source]
    if source in taken.adapters:
        pair = taken.adapters[source]
        merged = lambda: _merged(part(stored.read()), part(pair["B"].read()), pair["A"].read(), alpha)  # noqa: E731
        return Planned(name, shape, torch.float32, _checked(artefact, source, merged))
    if source == POSITIONS and stored.shape != shape:
        grid = round((shape[1] - 1) ** 0.5)
        return Planned(
            name, shape, torch.float32, _checked(artefact, source, lambda: interpolated(stored.read(), grid))
        )
    return Planned(name, shape, stored.dtype, _checked(artefact, source, lambda: part(stored.read())))


def _merged(base: Tensor, wide: Tensor, narrow: Tensor, alpha: float) -> Tensor:
    """base + alpha / rank * wide @ narrow, in float32. These may be some rows of the matrices: rows are independent."""
    return torch.addmm(base.float(), wide.float(), narrow.float(), alpha=alpha / len(narrow))


def _checked(artefact: Artefact, name: str, make: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Raises ConfigError when the tensor is not finite, which a damaged file shows by."""

    def checked() -> Tensor:
        tensor = make()
        if not torch.isfinite(tensor).all():
            raise ConfigError(f"{artefact}: {name} holds a number that is not finite; fetch the file again")
        return tensor

    return checked


def _matrix(stored: Stored) -> tuple[int, int]:
    return (stored.shape[0], stored.shape[1]) if len(stored.shape) == 2 else (0, 0)


def _square(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether these are positions of a square of patches behind a class token, as wide as those wanted."""
    if len(shape) != 3 or (shape[0], shape[2]) != (wanted[0], wanted[2]):
        return False
    patches = shape[1] - 1
    return patches > 0 and round(patches**0.5) ** 2 == patches


def _some(texts: Sequence[str], between: str = ", ") -> str:
    rest = f"{between}and {len(texts) - SOME} more" if len(texts) > SOME else ""
    return between.join(texts[:SOME]) + rest
