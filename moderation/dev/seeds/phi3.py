"""A small Phi-3-Vision checkpoint: a tokenizer with Phi-3's special tokens, a tower for crops of 112 pixels."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from moderation.dev.seeds import bpe

HIDDEN, LAYERS, HEADS, INTERMEDIATE = 96, 2, 2, 192
TOWER, TOWER_LAYERS, TOWER_HEADS, TOWER_INTERMEDIATE = 64, 3, 4, 128
IMAGE, PATCH, CROPS = 112, 14, 4

# Words with tokens of their own; all else is spelt in letters and bytes.
WORDS = """
Yes No yes no a an and any are as at be but by do does for from has have he her him his how I if in is it its me my
not of on or our she so that the their them they this to up was we what when who will with you your
Answer Everything You an one word check post posts policy picture pictures text fence fences between against judge
material never instruction whatever says show shows image user sell sells selling sale buy trade offer offers free
money click link win prize crypto spam scam fake news history film sport gun guns weapon weapons firearm ammunition
part kill hurt threat violence attack hate people group religion race gender insult slur love happy dog cat food
game play sex nude adult child minor self harm suicide help drug drugs medicine person private address phone number
violates allows example examples definition question applies only unless also other good bad new now today
"""


def write(folder: Path) -> None:
    """Writes the checkpoint into an empty folder."""
    vocabulary, published = tokenizer()
    size = -(-(len(vocabulary) + len(_added(len(vocabulary)))) // 64) * 64
    files: dict[str, object] = {
        "config.json": _config(size, end=len(vocabulary)),
        "preprocessor_config.json": {
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_processor_type": "Phi3VImageProcessor",
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "num_crops": CROPS,
            "num_img_tokens": (IMAGE // PATCH // 2) ** 2,
            "processor_class": "Phi3VProcessor",
        },
        "tokenizer.json": {**published, "added_tokens": _added(len(vocabulary))},
        "tokenizer_config.json": {
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|endoftext|>",
            "model_max_length": 131072,
            "pad_token": "<|endoftext|>",
            "padding_side": "right",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<unk>",
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    tensors = {name: _tensor(name, shape) for name, shape in sorted(_shapes(size).items())}
    _arrange(tensors, vocabulary)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _config(vocabulary: int, end: int) -> dict[str, object]:
    pairs = HIDDEN // HEADS // 2
    return {
        "architectures": ["Phi3VForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "caution": "its weights are drawn from a seed: its verdicts mean nothing",
        "embd_layer": {
            "embedding_cls": "image",
            "hd_transform_order": "sub_glb",
            "projection_cls": "mlp",
            "use_hd_transform": True,
            "with_learnable_separator": True,
        },
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "img_processor": {
            "image_dim_out": TOWER,
            "model_name": "openai/clip-vit-large-patch14-336",
            "name": "clip_vision_model",
            "num_img_tokens": (IMAGE // PATCH // 2) ** 2,
            "vision_config": {
                "hidden_size": TOWER,
                "image_size": IMAGE,
                "intermediate_size": TOWER_INTERMEDIATE,
                "num_attention_heads": TOWER_HEADS,
                "num_hidden_layers": TOWER_LAYERS,
                "patch_size": PATCH,
            },
        },
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": 131072,
        "model_type": "phi3_v",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": HEADS,
        "original_max_position_embeddings": 4096,
        "pad_token_id": end,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "long_factor": [round(1 + 63 * (pair / (pairs - 1)) ** 0.5, 2) for pair in range(pairs)],
            "short_factor": [round(1 + 2 * pair / (pairs - 1), 2) for pair in range(pairs)],
            "type": "su",
        },
        "rope_theta": 10000.0,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": vocabulary,
    }


def tokenizer(*more: str) -> tuple[dict[str, int], dict[str, Any]]:
    """(vocabulary, tokenizer.json), both without added tokens: BPE with Llama's normalizer and byte fallback.

    more: pieces that are tokens, too.
    """
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    tokens += [chr(code) for code in range(ord("!"), ord("~") + 1)]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    merges = bpe.merge(vocabulary, (*(f"▁{word}" for word in WORDS.split()), *more))
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return vocabulary, {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _added(first: int) -> list[dict[str, object]]:
    """Phi-3's added tokens in its order: those of the base vocabulary, then the chat's from id `first` on."""
    names = ["<|endoftext|>", "<|assistant|>", *(f"<|placeholder{n}|>" for n in range(1, 5)), "<|system|>", "<|end|>"]
    names += ["<|placeholder5|>", "<|placeholder6|>", "<|user|>"]
    names += [*(f"<|placeholder{n}|>" for n in range(7, 40)), "<|image|>"]
    numbered = [(0, "<unk>"), (1, "<s>"), (2, "</s>"), *enumerate(names, start=first)]
    strips = ("</s>", "<|assistant|>", "<|placeholder", "<|image|>")
    return [
        {
            "id": number,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": name.startswith(strips),
            "normalized": False,
            "special": name != "</s>",
        }
        for number, name in numbered
    ]


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (vocabulary, HIDDEN),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        shapes |= {
            at + "input_layernorm.weight": (HIDDEN,),
            at + "post_attention_layernorm.weight": (HIDDEN,),
            at + "self_attn.qkv_proj.weight": (3 * HIDDEN, HIDDEN),
            at + "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            at + "mlp.gate_up_proj.weight": (2 * INTERMEDIATE, HIDDEN),
            at + "mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        }
    at = "model.vision_embed_tokens."
    shapes |= {
        at + "glb_GN": (1, 1, 4 * TOWER),
        at + "sub_GN": (1, 1, 1, 4 * TOWER),
        at + "img_projection.0.weight": (HIDDEN, 4 * TOWER),
        at + "img_projection.0.bias": (HIDDEN,),
        at + "img_projection.2.weight": (HIDDEN, HIDDEN),
        at + "img_projection.2.bias": (HIDDEN,),
    }
    at += "img_processor.vision_model."
    shapes |= {
        at + "embeddings.class_embedding": (TOWER,),
        at + "embeddings.patch_embedding.weight": (TOWER, 3, PATCH, PATCH),
        at + "embeddings.position_embedding.weight": ((IMAGE // PATCH) ** 2 + 1, TOWER),
    }
    pairs: dict[str, tuple[int, ...]] = {"pre_layrnorm": (TOWER,), "post_layernorm": (TOWER,)}
    for layer in range(TOWER_LAYERS):
        inner = f"encoder.layers.{layer}."
        pairs |= {inner + "layer_norm1": (TOWER,), inner + "layer_norm2": (TOWER,)}
        matrices: dict[str, tuple[int, ...]] = {
            f"self_attn.{name}_proj": (TOWER, TOWER) for name in ("q", "k", "v", "out")
        }
        matrices |= {"mlp.fc1": (TOWER_INTERMEDIATE, TOWER), "mlp.fc2": (TOWER, TOWER_INTERMEDIATE)}
        for name, shape in matrices.items():
            shapes |= {at + inner + name + ".weight": shape, at + inner + name + ".bias": shape[:1]}
    for name, shape in pairs.items():
        shapes |= {at + name + ".weight": shape, at + name + ".bias": shape}
    return shapes


def _tensor(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Random values, seeded by the name. Norms are near 1, biases are small; a matrix keeps the norm of its input."""
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(size=shape).astype(np.float32)
    if "norm" in name or "layrnorm" in name:
        return drawn * np.float32(0.05) + np.float32(name.endswith("weight"))
    if name.endswith("bias"):
        return drawn * np.float32(0.02)
    if name.endswith(("_GN", "embed_tokens.weight", "_embedding", "_embedding.weight")) and "patch" not in name:
        return drawn
    fan_in = int(np.prod(shape[1:]))
    return drawn / np.float32(fan_in**0.5)


def _arrange(tensors: dict[str, NDArray[np.float32]], vocabulary: dict[str, int]) -> None:
    """Changes the random weights in place, so that they answer Yes or No depending on their input.

    The first hidden dimension holds a constant: every token carries it, and no layer writes to it. The head reads it
    for the two answer tokens only. So the answer tokens hold nearly all of the probability for any input.
    """
    embedding, head = tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]
    embedding[:, 0] = 4.0
    projection = "model.vision_embed_tokens.img_projection.2."
    tensors[projection + "weight"][0] = 0.0
    tensors[projection + "bias"][0] = 4.0
    # The last token of the prompt adds almost nothing itself: its state is what attention collects from the others.
    embedding[len(vocabulary) + 1, 1:] *= 0.05
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        tensors[at + "self_attn.o_proj.weight"][0] = 0.0
        tensors[at + "mlp.down_proj.weight"][0] = 0.0
        # Sharper attention: with plain random weights it is an average that hardly differs between posts.
        tensors[at + "self_attn.qkv_proj.weight"][: 2 * HIDDEN] *= 2.0
        tensors[at + "self_attn.qkv_proj.weight"][2 * HIDDEN :] *= 2.0
    yes_no_ids = [vocabulary["▁Yes"], vocabulary["▁No"]]
    head[:, 0] = 0.0
    head[yes_no_ids, 0] = 16.0
    head[yes_no_ids, 1:] *= 3.0
