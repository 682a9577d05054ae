"""A small TinyLLaVA checkpoint in the stock Llava layout: TinyLlama's tokenizer files, a CLIP tower."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moderation.dev.seeds import phi3, tinyllava

HIDDEN, LAYERS, HEADS, KV_HEADS, INTERMEDIATE = 96, 2, 4, 2, 192
TOWER, TOWER_LAYERS, TOWER_HEADS, TOWER_INTERMEDIATE = 64, 3, 4, 128
IMAGE, PATCH = 112, 14
LANGUAGE, VISION, PROJECTOR = "language_model.", "vision_tower.vision_model.", "multi_modal_projector."


def write(folder: Path) -> None:
    """Writes the checkpoint into an empty folder."""
    vocabulary, tokenizer = phi3.tokenizer("▁USER", "▁ASSISTANT", "USER", "ASSISTANT")
    image, pad = len(vocabulary), len(vocabulary) + 1
    size = -(-(pad + 1) // 64) * 64
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    names = {0: "<unk>", 1: "<s>", 2: "</s>", image: "<image>", pad: "<pad>"}
    files: dict[str, object] = {
        "added_tokens.json": {"<image>": image, "<pad>": pad},
        "config.json": _config(size, image, pad),
        "preprocessor_config.json": {
            "crop_size": {"height": IMAGE, "width": IMAGE},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_processor_type": "CLIPImageProcessor",
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "processor_class": "LlavaProcessor",
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "size": {"shortest_edge": IMAGE},
        },
        "tokenizer.json": {
            **tokenizer,
            "added_tokens": [{"id": id, "content": name, **flags} for id, name in names.items()],
        },
        "tokenizer_config.json": {
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": {str(id): {"content": name, **flags} for id, name in names.items()},
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "legacy": False,
            "model_max_length": 2048,
            "pad_token": "<pad>",
            "padding_side": "right",
            "processor_class": "LlavaProcessor",
            "tokenizer_class": "LlamaTokenizer",
            "unk_token": "<unk>",
        },
    }
    for name, content in files.items():
        tinyllava.write_json(folder / name, content)
    tensors = {name: _tensor(name, shape) for name, shape in sorted(_shapes(size).items())}
    _arrange(tensors, vocabulary)
    tinyllava.save(tensors, folder)


def _config(vocabulary: int, image: int, pad: int) -> dict[str, object]:
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "caution": tinyllava.CAUTION,
        "ignore_index": -100,
        "image_token_index": image,
        "model_type": "llava",
        "pad_token_id": pad,
        "projector_hidden_act": "gelu",
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "model_type": "llama",
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": KV_HEADS,
            "rms_norm_eps": 1e-05,
            "torch_dtype": "bfloat16",
            "vocab_size": vocabulary,
        },
        "torch_dtype": "float16",
        "vision_config": {
            "hidden_size": TOWER,
            "image_size": IMAGE,
            "intermediate_size": TOWER_INTERMEDIATE,
            "model_type": "clip_vision_model",
            "num_attention_heads": TOWER_HEADS,
            "num_hidden_layers": TOWER_LAYERS,
            "patch_size": PATCH,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vocab_size": vocabulary,
    }


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    keys = HIDDEN // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {
        f"{LANGUAGE}model.embed_tokens.weight": (vocabulary, HIDDEN),
        f"{LANGUAGE}model.norm.weight": (HIDDEN,),
        f"{LANGUAGE}lm_head.weight": (vocabulary, HIDDEN),
        f"{VISION}embeddings.class_embedding": (TOWER,),
        f"{VISION}embeddings.patch_embedding.weight": (TOWER, 3, PATCH, PATCH),
        f"{VISION}embeddings.position_embedding.weight": ((IMAGE // PATCH) ** 2 + 1, TOWER),
    }
    for layer in range(LAYERS):
        at = f"{LANGUAGE}model.layers.{layer}."
        shapes |= {
            at + "input_layernorm.weight": (HIDDEN,),
            at + "post_attention_layernorm.weight": (HIDDEN,),
            at + "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            at + "self_attn.k_proj.weight": (keys, HIDDEN),
            at + "self_attn.v_proj.weight": (keys, HIDDEN),
            at + "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            at + "mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
            at + "mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            at + "mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        }
    with_bias: dict[str, tuple[int, ...]] = {
        f"{PROJECTOR}linear_1": (HIDDEN, TOWER),
        f"{PROJECTOR}linear_2": (HIDDEN, HIDDEN),
        f"{VISION}pre_layrnorm": (TOWER,),
        f"{VISION}post_layernorm": (TOWER,),
    }
    for layer in range(TOWER_LAYERS):
        at = f"{VISION}encoder.layers.{layer}."
        with_bias |= {at + f"self_attn.{name}_proj": (TOWER, TOWER) for name in ("q", "k", "v", "out")}
        with_bias |= {at + "mlp.fc1": (TOWER_INTERMEDIATE, TOWER), at + "mlp.fc2": (TOWER, TOWER_INTERMEDIATE)}
        with_bias |= {at + "layer_norm1": (TOWER,), at + "layer_norm2": (TOWER,)}
    for name, shape in with_bias.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def _tensor(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Random values, seeded by the name. Norms are near 1, biases are small; a matrix keeps the norm of its input."""
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(size=shape).astype(np.float32)
    if "norm" in name or "layrnorm" in name:
        return drawn * np.float32(0.05) + np.float32(name.endswith("weight"))
    if name.endswith("bias"):
        return drawn * np.float32(0.02)
    if name.endswith(("embed_tokens.weight", "class_embedding", "position_embedding.weight")):
        return drawn
    return drawn / np.float32(int(np.prod(shape[1:])) ** 0.5)


def _arrange(tensors: dict[str, NDArray[np.float32]], vocabulary: dict[str, int]) -> None:
    """Changes the random weights in place, so that they answer Yes or No depending on their input.

    The first hidden dimension holds a constant: every token carries it, and no layer writes to it. The head reads it
    for the two answer tokens only. So the answer tokens hold nearly all of the probability for any input.
    """
    embedding, head = tensors[f"{LANGUAGE}model.embed_tokens.weight"], tensors[f"{LANGUAGE}lm_head.weight"]
    embedding[:, 0] = 4.0
    tensors[f"{PROJECTOR}linear_2.weight"][0] = 0.0
    tensors[f"{PROJECTOR}linear_2.bias"][0] = 4.0
    # The last token of the prompt adds almost nothing itself: its state is what attention collects from the others.
    embedding[vocabulary[":"], 1:] *= 0.05
    for layer in range(LAYERS):
        at = f"{LANGUAGE}model.layers.{layer}."
        tensors[at + "self_attn.o_proj.weight"][0] = 0.0
        tensors[at + "mlp.down_proj.weight"][0] = 0.0
        # Sharper attention: with plain random weights it is an average that hardly differs between posts.
        for matrix in ("q_proj", "k_proj", "v_proj"):
            tensors[f"{at}self_attn.{matrix}.weight"] *= 2.0
    answers = [vocabulary["▁Yes"], vocabulary["▁No"]]
    head[:, 0] = 0.0
    head[answers, 0] = 16.0
    head[answers, 1:] *= 3.0
