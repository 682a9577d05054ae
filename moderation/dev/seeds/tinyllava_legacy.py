"""A small TinyLLaVA checkpoint in its legacy layout: Phi-2 with a head without bias, its SigLIP in a subfolder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moderation.dev.seeds import tinyllava

FOLDER = "vision_tower"  # a tower beside the decoder's tensors would have the published width
TOWER = "vision_tower._vision_tower."
# Beginnings of names, in the Factory's layout and here.
NAMES = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "connector._connector.": "model.mm_projector.",
}
LAST = f"vision_model.encoder.layers.{tinyllava.TOWER_LAYERS - 1}."  # deleted before training, with the pooling head


def write(folder: Path) -> None:
    """Writes the checkpoint into an empty folder."""
    vocabulary, size = tinyllava.write_tokenizer(folder)
    end = vocabulary[tinyllava.END]
    config = {
        "architectures": ["TinyLlavaPhiForCausalLM"],
        "caution": tinyllava.CAUTION,
        "image_aspect_ratio": "pad",
        "mm_hidden_size": tinyllava.TOWER,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": FOLDER,
        "pad_token": tinyllava.END,
        "tokenizer_model_max_length": 3072,
        **tinyllava.phi_config("tiny_llava_phi", size, end),
    }
    tinyllava.write_json(folder / "config.json", config)
    whole = tinyllava.drawn(size)
    tower = {name.removeprefix(TOWER): tensor for name, tensor in whole.items() if name.startswith(TOWER)}
    tensors = {_name(name): tensor for name, tensor in whole.items() if not name.startswith(TOWER)}
    del tensors["lm_head.bias"]
    _arrange(tensors, [vocabulary["ĠYes"], vocabulary["ĠNo"]])
    tinyllava.save(tensors, folder)
    (folder / FOLDER).mkdir()
    tinyllava.write_json(folder / FOLDER / "config.json", tinyllava.SIGLIP)
    kept = {name: tensor for name, tensor in tower.items() if not name.startswith((LAST, "vision_model.head."))}
    tinyllava.save(kept, folder / FOLDER)


def _name(name: str) -> str:
    beginning = next(beginning for beginning in NAMES if name.startswith(beginning))
    return NAMES[beginning] + name.removeprefix(beginning)


def _arrange(tensors: dict[str, NDArray[np.float32]], answers: list[int]) -> None:
    """Changes the random weights in place, so that they answer Yes or No depending on their input.

    The first hidden dimension holds a constant: every token carries it, and no layer writes to it. The head reads it
    for the two answer tokens only. So the answer tokens hold nearly all of the probability for any input.
    """
    embedding, head = tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]
    embedding[:, 0] = 4.0
    constant = {"model.mm_projector.2": 4.0}
    for layer in range(tinyllava.LAYERS):
        constant |= {f"model.layers.{layer}.{name}": 0.0 for name in ("self_attn.dense", "mlp.fc2")}
    for name, value in constant.items():
        tensors[f"{name}.weight"][0] = 0.0
        tensors[f"{name}.bias"][0] = value
    head[:, 0] = 0.0
    head[answers, 0] = 16.0
    head[answers, 1:] *= 3.0
