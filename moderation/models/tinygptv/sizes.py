"""The config.json of a TinyGPT-V, read from the shapes of its downloads and the trainer's own config."""

from __future__ import annotations

import re

from pydantic import ValidationError

from moderation.errors import ConfigError
from moderation.models.shared import checkpoint
from moderation.models.shared.phi import PhiConfig
from moderation.models.tinygptv.artefacts import Artefact
from moderation.models.tinygptv.network import QFormerConfig, TinyGptvConfig, VisionConfig
from moderation.models.tinygptv.template import TURNS

# Widths of a head, which are in no file: EVA ViT-g's and BERT's.
TOWER_HEAD, QFORMER_HEAD = 88, 64
TOWER_BLOCKS = 39  # that the original builds; the published file holds one more
T5 = 4096  # width of FLAN-T5-XXL: BLIP-2's files for other language models have another
LORA_ALPHA = 16.0  # the original's, where the config has none
LARGEST_SIDE = 2048  # of a picture in pixels: the published variants have 224 and 448
LARGEST_ALPHA = 1e6  # far above any that is trained with; above it, products could leave float32
VARIANTS = {"224": ("minigpt4", 224), "448": ("minigpt_v2", 448)}  # arch and image size by the option's value


def variant(stage: Artefact, chosen: str | None) -> tuple[str, int]:
    """(arch, side of a picture in pixels): the config's, or the chosen one's where the trained file has no config."""
    if chosen is not None and chosen not in VARIANTS:
        raise ConfigError(f"--variant {chosen}: TinyGPT-V has {' and '.join(VARIANTS)}")
    if not stage.config:
        if chosen is None:
            raise ConfigError(
                f"{stage} has no config of its run, so it does not say which variant it is: add --variant 224 "
                "(stages 1 to 3) or --variant 448 (stage 4)"
            )
        return VARIANTS[chosen]
    arch, side = stage.config.get("arch"), stage.config.get("image_size", 224)
    if not isinstance(arch, str) or arch not in TURNS:
        raise ConfigError(f"{stage}: its config says arch {arch!r}; supported are {', '.join(TURNS)}")
    if isinstance(side, bool) or not isinstance(side, int) or not 0 < side <= LARGEST_SIDE:
        raise ConfigError(
            f"{stage}: its config says image_size {side!r}, which is not a number of pixels up to {LARGEST_SIDE}"
        )
    if chosen is not None and VARIANTS[chosen] != (arch, side):
        raise ConfigError(f"--variant {chosen}: {stage} says itself that it is {arch} at {side} x {side} pixels")
    return arch, side


def lora_alpha(stage: Artefact, chosen: float | None) -> float:
    """The strength of the adapters: the config's, or the chosen one where the trained file does not say it."""
    if chosen is not None and not 0 < chosen <= LARGEST_ALPHA:
        raise ConfigError(f"--lora-alpha {chosen:g}: not a positive number of at most {LARGEST_ALPHA:g}")
    own = stage.config.get("lora_alpha")
    if own is None:
        return LORA_ALPHA if chosen is None else chosen
    if isinstance(own, bool) or not isinstance(own, int | float) or not 0 < own <= LARGEST_ALPHA:
        raise ConfigError(
            f"{stage}: its config says lora_alpha {own!r}, which is not a positive number of at most {LARGEST_ALPHA:g}"
        )
    if chosen is not None and chosen != own:
        raise ConfigError(f"--lora-alpha {chosen:g}: {stage} says itself that it is {own:g}")
    return float(own)


def config(
    vit: Artefact, qformer: Artefact, phi: Artefact, stage: Artefact, chosen: str | None = None
) -> TinyGptvConfig:
    """The sizes of the model. chosen: see `variant`.

    Raises ConfigError naming the file that is another than its option says.
    """
    hidden, _, patch, _ = _shape(vit, "patch_embed.proj.weight", 4, "the vision tower's file, eva_vit_g.pth")
    query = _shape(qformer, "query_tokens", 3, "BLIP-2's file, blip2_pretrained_flant5xxl.pth")
    former = "Qformer.bert.encoder.layer."
    wide, _ = _shape(qformer, f"{former}0.intermediate_query.dense.weight", 2, "BLIP-2's file")
    projection, _ = _shape(stage, "llama_proj.weight", 2, "a TinyGPT-V's trained file, TinyGPT-V_for_StageN.pth")
    blocks = _count(vit, "blocks.")
    _check_t5(qformer)
    arch, side = variant(stage, chosen)
    try:
        return TinyGptvConfig(
            arch=arch,
            vision_config=VisionConfig(
                hidden_size=hidden,
                intermediate_size=_shape(vit, "blocks.0.mlp.fc1.weight", 2, "the vision tower's file")[0],
                num_hidden_layers=blocks if blocks == TOWER_BLOCKS else blocks - 1,
                num_attention_heads=_heads(vit, hidden, TOWER_HEAD),
                image_size=side,
                patch_size=patch,
            ),
            qformer_config=QFormerConfig(
                hidden_size=query[2],
                intermediate_size=wide,
                num_hidden_layers=_count(qformer, former),
                num_attention_heads=_heads(qformer, query[2], QFORMER_HEAD),
                num_query_tokens=query[1],
            ),
            projection_size=projection,
            text_config=text_config(phi),
        )
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_url=False)]
        raise ConfigError(f"these files do not make a TinyGPT-V: {'; '.join(faults)}") from None


def text_config(phi: Artefact) -> PhiConfig:
    """The Phi-2's. Raises ConfigError for another kind of model."""
    path = phi.path / checkpoint.CONFIG
    kind = checkpoint.read_json(path).get("model_type")
    if kind != "phi":
        raise ConfigError(f"{path}: model_type is {kind!r}, not 'phi'; {phi.option} names the folder of a Phi-2")
    parsed = checkpoint.parse(path, PhiConfig)
    if parsed.kv_heads != parsed.num_attention_heads:
        raise ConfigError(
            f"{path}: num_key_value_heads is {parsed.kv_heads}; TinyGPT-V's Phi-2 has a key for each head"
        )
    return parsed


def _check_t5(qformer: Artefact) -> None:
    stored = qformer.tensors.get("t5_proj.weight")
    if stored is not None and stored.shape[0] != T5:
        raise ConfigError(
            f"{qformer} is of a BLIP-2 with a language model of width {stored.shape[0]}; TinyGPT-V was trained on that "
            f"with FLAN-T5-XXL ({T5}), blip2_pretrained_flant5xxl.pth"
        )


def _shape(artefact: Artefact, name: str, length: int, what: str) -> tuple[int, ...]:
    stored = artefact.tensors.get(name)
    if stored is None:
        raise ConfigError(f"{artefact} lacks {name}, so it is not {what}")
    if len(stored.shape) != length:
        raise ConfigError(f"{artefact}: {name} is {list(stored.shape)}, so this is not {what}")
    return stored.shape


def _count(artefact: Artefact, prefix: str) -> int:
    """One more than the largest number behind the prefix."""
    numbered = (re.match(re.escape(prefix) + r"(\d{1,4})\.", name) for name in artefact.tensors)
    return 1 + max((int(match[1]) for match in numbered if match), default=-1)


def _heads(artefact: Artefact, width: int, size: int) -> int:
    if width % size:
        raise ConfigError(f"{artefact}: its width {width} is no whole number of heads of {size}")
    return width // size
