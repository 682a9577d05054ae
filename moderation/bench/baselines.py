"""Other ways to score the same posts, on transformers' own modules with the weights of the service's network.

original   one full prompt for each policy, batch 1, as the published code runs it: the tower runs for each prompt, with
           padded crops and its last layer, and logits over the vocabulary are computed at every position
lean       the same without what a careful caller leaves out: real crops and logits at the last position only
padded     the tower runs once, the prompts of a post are one padded batch, logits at the last position
prefix     the tower runs once, the content's keys and values are kept, and each policy continues from them

Of moderation.models, only the crops are used. The tower's last layer, which the network lacks, has random weights.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moderation.models.phi3.family import Window
from moderation.models.phi3.network import TOWER, Phi3Network
from moderation.models.phi3.preprocessing import Crops

WAYS = ("original", "lean", "padded", "prefix")
EMBEDDING = "model.vision_embed_tokens."
MAX_PROMPTS = 1  # in a measurement of `original` and `lean`: prompts of one length cost the same


class Stock:
    """transformers' Phi3ForCausalLM and CLIPVisionModel, combined as in the published code."""

    def __init__(self, network: Phi3Network, budget: int) -> None:
        """budget: crops that `original` pads a picture to, the global one not counted."""
        transformers: Any = importlib.import_module("transformers")  # slow to import, and its types are loose
        transformers.logging.set_verbosity_error()
        config, weights = network.config, network.state_dict()
        dtype = network.lm_head.weight.dtype
        self.budget = budget
        self.side = config.crop_side
        self.device = network.device
        language = transformers.Phi3Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.kv_heads,
            rms_norm_eps=config.rms_norm_eps,
            max_position_embeddings=config.max_position_embeddings,
            original_max_position_embeddings=config.original_max_position_embeddings,
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": config.rope_theta,
                "original_max_position_embeddings": config.original_max_position_embeddings,
                "short_factor": config.rope_scaling.short_factor,
                "long_factor": config.rope_scaling.long_factor,
            },
            pad_token_id=0,
            attn_implementation="sdpa",
        )
        vision = transformers.CLIPVisionConfig(
            **config.img_processor.vision_config.model_dump(), attn_implementation="sdpa"
        )
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with self.device:
                self.language = transformers.Phi3ForCausalLM(language).eval().requires_grad_(False)
                self.tower = transformers.CLIPVisionModel(vision).eval().requires_grad_(False)
                wide, size = 4 * config.tower.hidden, config.hidden_size
                self.projection = nn.Sequential(nn.Linear(wide, size), nn.GELU(), nn.Linear(size, size))
        finally:
            torch.set_default_dtype(before)
        self.language.load_state_dict(_below("", weights, but=EMBEDDING), assign=True)
        own = self.tower.load_state_dict(_below(TOWER, weights), strict=False, assign=True)
        if own.unexpected_keys:
            raise ValueError(f"transformers' tower lacks {own.unexpected_keys}")
        self.projection.load_state_dict(_below(EMBEDDING + "img_projection.", weights), assign=True)
        self.row_end = weights[EMBEDDING + "sub_GN"].flatten()
        self.picture_end = weights[EMBEDDING + "glb_GN"].flatten()

    @torch.inference_mode()
    def original(self, window: Window, prompts: int | None = None, *, lean: bool = False) -> Tensor:
        """Logits of the first `prompts` policies, [prompts, vocabulary]."""
        rows = []
        for branch in window.tree.branches[:prompts]:
            features = [self._embed_image(picture, 0 if lean else 1 + self.budget) for picture in window.pictures]
            embeds = self._embeds(window.tree.shared + branch, features)[None]
            out = self.language(inputs_embeds=embeds, use_cache=False, logits_to_keep=int(lean))
            rows.append(out.logits[0, -1].float())
        return torch.stack(rows)

    @torch.inference_mode()
    def padded(self, window: Window) -> Tensor:
        """Logits of all policies. Prompts are padded on the left, so that all answers are at the last position."""
        features = [self._embed_image(picture) for picture in window.pictures]
        prompts = [self._embeds(window.tree.shared + branch, features) for branch in window.tree.branches]
        longest = max(map(len, prompts))
        embeds = torch.stack([nn.functional.pad(prompt, (0, 0, longest - len(prompt), 0)) for prompt in prompts])
        mask = torch.tensor(
            [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self.device
        )
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        full = None if bool(mask.all()) else mask  # SDPA is faster without a mask
        out = self.language(
            inputs_embeds=embeds, attention_mask=full, position_ids=places, use_cache=False, logits_to_keep=1
        )
        logits: Tensor = out.logits[:, -1].float()
        return logits

    @torch.inference_mode()
    def prefix(self, window: Window) -> Tensor:
        """Logits of all policies, one after the other, each continuing the same keys and values."""
        features = [self._embed_image(picture) for picture in window.pictures]
        shared = self._embeds(window.tree.shared, features)[None]
        cache = self.language(inputs_embeds=shared, use_cache=True, logits_to_keep=1).past_key_values
        rows = []
        for branch in window.tree.branches:
            places = torch.arange(shared.shape[1], shared.shape[1] + len(branch), device=self.device)[None]
            embeds = self._embeds(branch, [])[None]
            out = self.language(
                inputs_embeds=embeds, past_key_values=cache, position_ids=places, use_cache=True, logits_to_keep=1
            )
            rows.append(out.logits[0, -1].float())
            cache.crop(-len(branch))
        return torch.stack(rows)

    def _embeds(self, ids: Sequence[int], features: Sequence[Tensor]) -> Tensor:
        places = torch.tensor(ids, device=self.device)
        embeds: Tensor = self.language.get_input_embeddings()(places.clamp(min=0))
        if features:
            embeds[places < 0] = torch.cat(list(features))
        return embeds

    def _embed_image(self, picture: Crops, crops: int = 0) -> Tensor:
        """Features of a picture [tokens, hidden]. crops: padded with black crops to so many."""
        pixels = picture.on(self.device).to(self.row_end.dtype)
        if crops > len(pixels):
            pixels = torch.cat([pixels, pixels.new_zeros(crops - len(pixels), *pixels.shape[1:])])
        states = self.tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        side = self.side
        grid = (
            states.reshape(len(states), side, 2, side, 2, -1)
            .permute(0, 1, 3, 2, 4, 5)
            .reshape(-1, side, side, 4 * states.shape[-1])
        )
        tiles = grid[1 : len(picture)].reshape(picture.rows, picture.cols, side, side, -1).permute(0, 2, 1, 3, 4)
        local = tiles.reshape(picture.rows * side, picture.cols * side, -1)
        rows = [self._rows(local), self.picture_end[None], self._rows(grid[0])]
        out: Tensor = self.projection(torch.cat(rows))
        return out

    def _rows(self, grid: Tensor) -> Tensor:
        ends = self.row_end.expand(len(grid), 1, -1)
        return torch.cat([grid, ends], dim=1).flatten(0, 1)


def _below(prefix: str, weights: dict[str, Tensor], but: str | None = None) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix) and not (but and name.startswith(but))
    }
