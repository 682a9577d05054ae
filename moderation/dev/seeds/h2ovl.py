"""A small H2OVL-Mississippi checkpoint: a SentencePiece model, a tower for tiles of 112 pixels, MSAC."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from moderation.dev.seeds.phi3 import WORDS

HIDDEN, LAYERS, HEADS, KV_HEADS, INTERMEDIATE = 96, 2, 4, 2, 192
TOWER, TOWER_LAYERS, TOWER_HEADS, TOWER_INTERMEDIATE = 64, 2, 4, 128
IMAGE, PATCH = 112, 14
BEHIND_OTHER_TEXT = ("Yes", "No", "prompt", "answer")  # words that also have tokens without a space before them
ADDED = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>", "<|end|>")
NORMAL, UNKNOWN, CONTROL, BYTE, BPE = 1, 2, 3, 6, 2  # of sentencepiece_model.proto
FIRST = 259  # piece behind the control and byte tokens


def write(folder: Path) -> None:
    """Writes the checkpoint into an empty folder."""
    pieces = _pieces()
    numbered = [(0, "<unk>"), (1, "<s>"), (2, "</s>"), *enumerate(ADDED, start=len(pieces))]
    size = len(pieces) + len(ADDED)
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    files: dict[str, object] = {
        "added_tokens.json": {name: number for number, name in numbered[3:]},
        "config.json": _config(size),
        "tokenizer_config.json": {
            "add_bos_token": False,
            "add_eos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": {str(number): {"content": name, **flags} for number, name in numbered},
            "additional_special_tokens": list(ADDED),
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|end|>",
            "legacy": True,
            "model_max_length": 8192,
            "pad_token": "<unk>",
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
            "unk_token": "<unk>",
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(_sentencepiece(pieces))
    tensors = {name: _tensor(name, shape) for name, shape in sorted(_shapes(size).items())}
    _arrange(tensors, pieces)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _config(vocabulary: int) -> dict[str, object]:
    return {
        "architectures": ["H2OVLChatModel"],
        "caution": "its weights are drawn from a seed: its verdicts mean nothing",
        "downsample_ratio": 0.5,
        "force_image_size": IMAGE,
        "llm_config": {
            "architectures": ["MistralForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "max_position_embeddings": 8192,
            "model_type": "mistral",
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": KV_HEADS,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000,
            "sliding_window": None,
            "vocab_size": vocabulary,
        },
        "max_dynamic_patch": 6,
        "min_dynamic_patch": 1,
        "model_type": "h2ovl_chat",
        "ps_version": "v2",
        "select_layer": -1,
        "template": "h2ogpt2",
        "torch_dtype": "float32",
        "use_msac": True,
        "use_thumbnail": True,
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "hidden_act": "gelu",
            "hidden_size": TOWER,
            "image_size": IMAGE,
            "intermediate_size": TOWER_INTERMEDIATE,
            "layer_norm_eps": 1e-06,
            "model_type": "intern_vit_6b",
            "norm_type": "layer_norm",
            "num_attention_heads": TOWER_HEADS,
            "num_hidden_layers": TOWER_LAYERS,
            "patch_size": PATCH,
            "qk_normalization": False,
            "qkv_bias": True,
        },
    }


def _pieces() -> list[str]:
    """The vocabulary. From the byte tokens on, pieces that merge first come first, and letters last."""
    words = [*(f"▁{word}" for word in WORDS.split()), *BEHIND_OTHER_TEXT]
    beginnings = dict.fromkeys(word[:end] for word in words for end in range(2, len(word) + 1))
    letters = ["▁", *map(chr, range(ord("!"), ord("~") + 1))]
    return ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *beginnings, *letters]


def _sentencepiece(pieces: list[str]) -> bytes:
    """A ModelProto of SentencePiece: BPE with byte fallback, as Mistral's tokenizer.model has it."""
    kinds = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}
    message = b""
    for place, piece in enumerate(pieces):
        kind = kinds.get(piece, BYTE if place < FIRST else NORMAL)
        score = float(FIRST - place) if kind == NORMAL else 0.0
        message += _bytes(1, _bytes(1, piece.encode()) + _float(2, score) + _number(3, kind))
    trainer = {3: BPE, 4: len(pieces), 35: True, 40: 0, 41: 1, 42: 2}  # byte fallback; unknown, begin, end
    normalizer = {3: True, 4: False, 5: True}  # a "▁" in front; runs of spaces stay; spaces become "▁"
    message += _bytes(2, b"".join(_number(*field) for field in trainer.items()))
    return message + _bytes(3, _bytes(1, b"identity") + b"".join(_number(*field) for field in normalizer.items()))


# Fields of protobuf messages.


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    keys = HIDDEN // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "language_model.model.embed_tokens.weight": (vocabulary, HIDDEN),
        "language_model.model.norm.weight": (HIDDEN,),
        "language_model.lm_head.weight": (vocabulary, HIDDEN),
    }
    for layer in range(LAYERS):
        at = f"language_model.model.layers.{layer}."
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
    at = "vision_model.embeddings."
    shapes |= {
        at + "class_embedding": (1, 1, TOWER),
        at + "position_embedding": (1, (IMAGE // PATCH) ** 2 + 1, TOWER),
    }
    with_bias: dict[str, tuple[int, ...]] = {
        at + "patch_embedding": (TOWER, 3, PATCH, PATCH),
        "mlp1.0": (4 * TOWER,),
        "mlp1.1": (HIDDEN, 4 * TOWER),
        "mlp1.3": (HIDDEN, HIDDEN),
    }
    for layer in range(TOWER_LAYERS):
        at = f"vision_model.encoder.layers.{layer}."
        shapes |= {at + "ls1": (TOWER,), at + "ls2": (TOWER,)}
        with_bias |= {
            at + "norm1": (TOWER,),
            at + "norm2": (TOWER,),
            at + "attn.qkv": (3 * TOWER, TOWER),
            at + "attn.proj": (TOWER, TOWER),
            at + "mlp.fc1": (TOWER_INTERMEDIATE, TOWER),
            at + "mlp.fc2": (TOWER, TOWER_INTERMEDIATE),
        }
    for name, shape in with_bias.items():
        shapes |= {name + ".weight": shape, name + ".bias": shape[:1]}
    return shapes


def _tensor(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Random values, seeded by the name. Norms are near 1, biases are small; a matrix keeps the norm of its input."""
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(size=shape).astype(np.float32)
    if "norm" in name or name.startswith("mlp1.0."):
        return drawn * np.float32(0.05) + np.float32(name.endswith("weight"))
    if name.endswith(("ls1", "ls2")):
        return drawn * np.float32(0.1) + np.float32(0.5)
    if name.endswith("bias"):
        return drawn * np.float32(0.02)
    if name.endswith(("embed_tokens.weight", "class_embedding", "position_embedding")):
        return drawn
    return drawn / np.float32(int(np.prod(shape[1:])) ** 0.5)


def _arrange(tensors: dict[str, NDArray[np.float32]], pieces: list[str]) -> None:
    """Changes the random weights in place, so that they answer Yes or No depending on their input.

    The first hidden dimension holds a constant: every token carries it, and no layer writes to it. The head reads it
    for the two answer tokens only. So the answer tokens hold nearly all of the probability for any input.
    """
    embedding, head = tensors["language_model.model.embed_tokens.weight"], tensors["language_model.lm_head.weight"]
    embedding[:, 0] = 4.0
    tensors["mlp1.3.weight"][0] = 0.0
    tensors["mlp1.3.bias"][0] = 4.0
    # The last token of the prompt adds almost nothing itself: its state is what attention collects from the others.
    embedding[pieces.index(">"), 1:] *= 0.05
    for layer in range(LAYERS):
        at = f"language_model.model.layers.{layer}."
        tensors[at + "self_attn.o_proj.weight"][0] = 0.0
        tensors[at + "mlp.down_proj.weight"][0] = 0.0
        # Sharper attention: with plain random weights it is an average that hardly differs between posts.
        for matrix in ("q_proj", "k_proj", "v_proj"):
            tensors[f"{at}self_attn.{matrix}.weight"] *= 2.0
    yes_no_ids = [pieces.index("Yes"), pieces.index("No")]
    head[:, 0] = 0.0
    head[yes_no_ids, 0] = 16.0
    head[yes_no_ids, 1:] *= 3.0
