"""Networks of named sizes with weights from a seed, for speeds. Their verdicts mean nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moderation.models.phi3.network import Phi3Config, Phi3Network
from moderation.models.shared import checkpoint


@dataclass(frozen=True, slots=True)
class Size:
    """A network's shape. A head has 96 elements in every size."""

    hidden: int
    intermediate: int
    layers: int
    vision_layers: int  # of a tower as wide as the published one
    about: str


SIZES = {
    "small": Size(768, 2048, 8, 3, "0.11 B: minutes on two CPU cores"),
    "mini": Size(1536, 4096, 16, 12, "0.66 B: half an hour on two CPU cores, seconds on a GPU"),
    "full": Size(3072, 8192, 32, 24, "4.15 B: Phi-3-Vision's own shapes"),
}
HEAD = 96
VOCABULARY = 32064


def config(size: Size) -> Phi3Config:
    """The config of a size, as a published config.json. The rope factors rise as the published factors do."""
    pairs = HEAD // 2
    return Phi3Config.model_validate(
        {
            "vocab_size": VOCABULARY,
            "hidden_size": size.hidden,
            "intermediate_size": size.intermediate,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.hidden // HEAD,
            "max_position_embeddings": 131072,
            "rope_scaling": {
                "type": "su",
                "short_factor": [1 + 2 * pair / (pairs - 1) for pair in range(pairs)],
                "long_factor": [1 + 63 * (pair / (pairs - 1)) ** 0.5 for pair in range(pairs)],
            },
            "img_processor": {"name": "clip_vision_model", "vision_config": {"num_hidden_layers": size.vision_layers}},
            "embd_layer": {
                "use_hd_transform": True,
                "with_learnable_separator": True,
                "projection_cls": "mlp",
                "hd_transform_order": "sub_glb",
            },
        }
    )


def network(shape: Phi3Config, *, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Phi3Network:
    """A network with random weights: norms near 1, matrices that keep lengths, so that scores differ."""
    with checkpoint.meta_modules():
        made = Phi3Network(shape)
    made = made.to(dtype).to_empty(device=device)
    drawn = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "norm" in name or "layrnorm" in name:
                weight.normal_(std=0.05, generator=drawn).add_(1.0 if name.endswith("weight") else 0.0)
            elif weight.dim() < 2:
                weight.normal_(std=0.02, generator=drawn)
            else:
                wide = name.endswith(("_GN", "embed_tokens.weight", "position_embedding.weight"))
                weight.normal_(std=1.0 if wide else weight[0].numel() ** -0.5, generator=drawn)
    return made.requires_grad_(False).eval()
