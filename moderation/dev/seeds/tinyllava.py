"""A small TinyLLaVA checkpoint in the layout of its Factory: Phi-2's slow tokenizer files, a SigLIP tower."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from moderation.dev.seeds import bpe
from moderation.dev.seeds.phi3 import WORDS

HIDDEN, LAYERS, HEADS, INTERMEDIATE = 96, 2, 3, 192
TOWER, TOWER_LAYERS, TOWER_HEADS, TOWER_INTERMEDIATE = 64, 3, 2, 128
IMAGE, PATCH = 120, 14  # as in the published tower, some pixels are beyond the last whole patch
SIGLIP = {
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": TOWER,
    "image_size": IMAGE,
    "intermediate_size": TOWER_INTERMEDIATE,
    "layer_norm_eps": 1e-06,
    "model_type": "siglip_vision_model",
    "num_attention_heads": TOWER_HEADS,
    "num_hidden_layers": TOWER_LAYERS,
    "patch_size": PATCH,
}
CAUTION = "its weights are drawn from a seed: its verdicts mean nothing"
END = "<|endoftext|>"
ROLES = "USER ASSISTANT chat curious artificial intelligence assistant gives helpful detailed polite answers questions"


def write(folder: Path) -> None:
    """Writes the checkpoint into an empty folder."""
    vocabulary, size = write_tokenizer(folder)
    write_json(folder / "config.json", _config(size, vocabulary[END]))
    tensors = drawn(size)
    for answer in ("ĠYes", "ĠNo"):  # the answers hold nearly all of the probability, and depend on the input
        tensors["language_model.lm_head.bias"][vocabulary[answer]] = 16.0
        tensors["language_model.lm_head.weight"][vocabulary[answer]] *= 3.0
    save(tensors, folder)


def write_tokenizer(folder: Path) -> tuple[dict[str, int], int]:
    """Writes Phi-2's slow tokenizer files, with few words. (vocabulary, rows that an embedding has for it)."""
    vocabulary, merges = _byte_level()
    runs = [" " * length for length in range(31, 1, -1)] + ["\t" * length for length in range(9, 1, -1)]
    added = {run: len(vocabulary) + place for place, run in enumerate(runs)}
    size = -(-(len(vocabulary) + len(added)) // 64) * 64
    files: dict[str, object] = {
        "vocab.json": vocabulary,
        "added_tokens.json": added,
        "special_tokens_map.json": {f"{name}_token": END for name in ("bos", "eos", "pad", "unk")},
        "tokenizer_config.json": {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(id): {
                    "content": token,
                    "lstrip": False,
                    "normalized": token != END,
                    "rstrip": False,
                    "single_word": False,
                    "special": token == END,
                }
                for token, id in {END: vocabulary[END], **added}.items()
            },
            "errors": "replace",
            "model_max_length": 3072,
            "padding_side": "right",
            "tokenizer_class": "CodeGenTokenizer",
            **{f"{name}_token": END for name in ("bos", "eos", "pad", "unk")},
        },
    }
    for name, content in files.items():
        write_json(folder / name, content)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    return vocabulary, size


def drawn(size: int) -> dict[str, NDArray[np.float32]]:
    """The tensors for a vocabulary of so many rows, with random values."""
    return {name: _tensor(name, shape) for name, shape in sorted(_shapes(size).items())}


def write_json(path: Path, content: object) -> None:
    """Writes a file as the published ones are written."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def save(tensors: dict[str, NDArray[np.float32]], folder: Path) -> None:
    """Writes the tensors as float16."""
    halved = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    save_file(halved, folder / "model.safetensors", metadata={"format": "pt"})


def _byte_level() -> tuple[dict[str, int], list[str]]:
    """(vocab.json, merges): the letters that stand for bytes, words with the space before them, and the roles."""
    vocabulary = {letter: place for place, letter in enumerate(bpe.LETTERS)}
    words = [*(f"Ġ{word}" for word in f"{WORDS} {ROLES}".split()), "USER", "ASSISTANT"]
    merges = [" ".join(pair) for pair in bpe.merge(vocabulary, words)]
    vocabulary[END] = len(vocabulary)
    return vocabulary, merges


def phi_config(model_type: str, vocabulary: int, end: int) -> dict[str, object]:
    """Phi-2's keys of a config.json. end: the id of <|endoftext|>."""
    return {
        "bos_token_id": end,
        "embd_pdrop": 0.0,
        "eos_token_id": end,
        "hidden_act": "gelu_new",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "layer_norm_eps": 1e-05,
        "model_type": model_type,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": HEADS,
        "partial_rotary_factor": 0.4,
        "qk_layernorm": False,
        "torch_dtype": "float16",
        "vocab_size": vocabulary,
    }


def _config(vocabulary: int, end: int) -> dict[str, object]:
    return {
        "architectures": ["TinyLlavaForConditionalGeneration"],
        "cache_dir": None,
        "caution": CAUTION,
        "connector_type": "mlp2x_gelu",
        "hidden_size": HIDDEN,
        "ignore_index": -100,
        "image_aspect_ratio": "square",
        "image_token_index": -200,
        "llm_model_name_or_path": "microsoft/phi-2",
        "model_type": "tinyllava",
        "pad_token": END,
        "pad_token_id": end,
        "text_config": {"architectures": ["PhiForCausalLM"], **phi_config("phi", vocabulary, end)},
        "tokenizer_model_max_length": 3072,
        "tokenizer_padding_side": "right",
        "tokenizer_use_fast": False,
        "torch_dtype": "float16",
        "vision_config": SIGLIP,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "patch",
        "vision_hidden_size": TOWER,
        "vocab_size": vocabulary,
    }


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    language, tower = "language_model.model.", "vision_tower._vision_tower.vision_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{language}embed_tokens.weight": (vocabulary, HIDDEN),
        f"{tower}embeddings.position_embedding.weight": ((IMAGE // PATCH) ** 2, TOWER),
        f"{tower}head.probe": (1, 1, TOWER),
        f"{tower}head.attention.in_proj_weight": (3 * TOWER, TOWER),
        f"{tower}head.attention.in_proj_bias": (3 * TOWER,),
    }
    # Weight and bias.
    pairs: dict[str, tuple[int, ...]] = {
        "language_model.lm_head": (vocabulary, HIDDEN),
        f"{language}final_layernorm": (HIDDEN,),
        "connector._connector.0": (HIDDEN, TOWER),
        "connector._connector.2": (HIDDEN, HIDDEN),
        f"{tower}embeddings.patch_embedding": (TOWER, 3, PATCH, PATCH),
        f"{tower}post_layernorm": (TOWER,),
        f"{tower}head.attention.out_proj": (TOWER, TOWER),
        f"{tower}head.layernorm": (TOWER,),
        f"{tower}head.mlp.fc1": (TOWER_INTERMEDIATE, TOWER),
        f"{tower}head.mlp.fc2": (TOWER, TOWER_INTERMEDIATE),
    }
    for layer in range(LAYERS):
        at = f"{language}layers.{layer}."
        pairs |= {at + f"self_attn.{name}": (HIDDEN, HIDDEN) for name in ("q_proj", "k_proj", "v_proj", "dense")}
        pairs |= {at + "mlp.fc1": (INTERMEDIATE, HIDDEN), at + "mlp.fc2": (HIDDEN, INTERMEDIATE)}
        pairs[at + "input_layernorm"] = (HIDDEN,)
    for layer in range(TOWER_LAYERS):
        at = f"{tower}encoder.layers.{layer}."
        pairs |= {at + f"self_attn.{name}_proj": (TOWER, TOWER) for name in ("q", "k", "v", "out")}
        pairs |= {at + "mlp.fc1": (TOWER_INTERMEDIATE, TOWER), at + "mlp.fc2": (TOWER, TOWER_INTERMEDIATE)}
        pairs |= {at + "layer_norm1": (TOWER,), at + "layer_norm2": (TOWER,)}
    for name, shape in pairs.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def _tensor(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Random values, seeded by the name. Norms are near 1, biases are small; a matrix keeps the norm of its input."""
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(size=shape).astype(np.float32)
    if "norm" in name:
        return drawn * np.float32(0.05) + np.float32(name.endswith("weight"))
    if name.endswith("bias"):
        return drawn * np.float32(0.02)
    if name.endswith(("embed_tokens.weight", "position_embedding.weight", "probe")):
        return drawn
    # Sharper attention: with plain random weights it is an average that hardly differs between posts.
    gain = 2.0 if name.startswith("language_model.model") and "self_attn" in name else 1.0
    return drawn * np.float32(gain / int(np.prod(shape[1:])) ** 0.5)
