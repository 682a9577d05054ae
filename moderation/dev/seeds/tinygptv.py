"""A small TinyGPT-V as the converter writes it: Phi-2's kind of tokenizer, a tower for pictures of 112 pixels."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from moderation.dev.seeds import bpe
from moderation.dev.seeds.phi3 import WORDS

HIDDEN, HEADS, LAYERS, INTERMEDIATE = 160, 2, 2, 320
TOWER, TOWER_HEADS, TOWER_LAYERS, TOWER_INTERMEDIATE, IMAGE, PATCH = 64, 4, 2, 128, 112, 14
QFORMER, QFORMER_HEADS, QFORMER_LAYERS, QFORMER_INTERMEDIATE, QUERIES = 64, 2, 2, 128, 8
PROJECTION = 128
END = "<|endoftext|>"
SPACE = "Ġ"  # as byte-level tokenizers spell it
ANSWERS = ("Yes", "yes", "No", "no")
MARKS = ("###", "INST", "Im", "Human", "Assistant", "vqa")  # of the templates: with tokens longer than a letter

Shapes = dict[str, tuple[int, ...]]


def write(folder: Path) -> None:
    """Writes the checkpoint into an empty folder."""
    vocabulary, tokenizer = tokenizer_of(WORDS.split())
    size = -(-(len(vocabulary) + 64) // 64) * 64
    for name, content in {"config.json": _config(size), "tokenizer.json": tokenizer}.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    tensors = {name: _tensor(name, shape) for name, shape in sorted(_shapes(size).items())}
    _arrange(tensors, vocabulary)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _config(vocabulary: int) -> dict[str, object]:
    return {
        "arch": "minigpt4",
        "caution": "its weights are drawn from a seed: its verdicts mean nothing",
        "model_type": "tinygptv",
        "projection_size": PROJECTION,
        "qformer_config": {
            "hidden_size": QFORMER,
            "intermediate_size": QFORMER_INTERMEDIATE,
            "num_attention_heads": QFORMER_HEADS,
            "num_hidden_layers": QFORMER_LAYERS,
            "num_query_tokens": QUERIES,
        },
        "text_config": {
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "partial_rotary_factor": 0.4,
            "vocab_size": vocabulary,
        },
        "vision_config": {
            "hidden_size": TOWER,
            "image_size": IMAGE,
            "intermediate_size": TOWER_INTERMEDIATE,
            "num_attention_heads": TOWER_HEADS,
            "num_hidden_layers": TOWER_LAYERS,
            "patch_size": PATCH,
        },
    }


def tokenizer_of(words: list[str]) -> tuple[dict[str, int], dict[str, object]]:
    """(vocabulary without the added runs of spaces, tokenizer.json): byte-level BPE in the layout of Phi-2's."""
    vocabulary = {letter: place for place, letter in enumerate(bpe.LETTERS)}
    spaced = [start + word for word in words for start in (SPACE, "")]
    merges = [" ".join(pair) for pair in bpe.merge(vocabulary, [*MARKS, *spaced])]
    vocabulary[END] = len(vocabulary)
    names = [END, *(" " * count for count in range(31, 1, -1)), *("\t" * count for count in range(9, 1, -1))]
    added = [
        {
            "id": vocabulary[END] + place,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": name != END,
            "special": name == END,
        }
        for place, name in enumerate(names)
    ]
    return vocabulary, {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _shapes(vocabulary: int) -> Shapes:
    return {**_tower(), **_qformer(), **_language(vocabulary)}


def _tower() -> Shapes:
    at = "visual_encoder."
    shapes: Shapes = {
        at + "cls_token": (1, 1, TOWER),
        at + "pos_embed": (1, 1 + (IMAGE // PATCH) ** 2, TOWER),
        at + "patch_embed.proj.weight": (TOWER, 3, PATCH, PATCH),
        at + "patch_embed.proj.bias": (TOWER,),
        **_norm("ln_vision", TOWER),
    }
    for layer in range(TOWER_LAYERS):
        block = f"{at}blocks.{layer}."
        shapes |= {
            block + "attn.q_bias": (TOWER,),
            block + "attn.v_bias": (TOWER,),
            block + "attn.qkv.weight": (3 * TOWER, TOWER),
            **_linear(block + "attn.proj", TOWER, TOWER),
            **_linear(block + "mlp.fc1", TOWER_INTERMEDIATE, TOWER),
            **_linear(block + "mlp.fc2", TOWER, TOWER_INTERMEDIATE),
            **_norm(block + "norm1", TOWER),
            **_norm(block + "norm2", TOWER),
        }
    return shapes


def _qformer() -> Shapes:
    shapes: Shapes = {
        "query_tokens": (1, QUERIES, QFORMER),
        **_norm("Qformer.bert.embeddings.LayerNorm", QFORMER),
        **_linear("llama_proj", PROJECTION, QFORMER),
        **_linear("llama_proj2", HIDDEN, PROJECTION),
    }
    for layer in range(QFORMER_LAYERS):
        at = f"Qformer.bert.encoder.layer.{layer}."
        for part, source in {"attention": QFORMER, **({} if layer % 2 else {"crossattention": TOWER})}.items():
            shapes |= {
                **_linear(f"{at}{part}.self.query", QFORMER, QFORMER),
                **_linear(f"{at}{part}.self.key", QFORMER, source),
                **_linear(f"{at}{part}.self.value", QFORMER, source),
                **_linear(f"{at}{part}.output.dense", QFORMER, QFORMER),
                **_norm(f"{at}{part}.output.LayerNorm", QFORMER),
            }
        shapes |= {
            **_linear(at + "intermediate_query.dense", QFORMER_INTERMEDIATE, QFORMER),
            **_linear(at + "output_query.dense", QFORMER, QFORMER_INTERMEDIATE),
            **_norm(at + "output_query.LayerNorm", QFORMER),
        }
    return shapes


def _language(vocabulary: int) -> Shapes:
    at = "llama_model.model."
    shapes: Shapes = {
        at + "embed_tokens.weight": (vocabulary, HIDDEN),
        **_norm(at + "final_layernorm", HIDDEN),
        **_linear("llama_model.lm_head", vocabulary, HIDDEN),
    }
    for layer in range(LAYERS):
        inner = f"{at}layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "dense"):
            shapes |= _linear(f"{inner}self_attn.{name}", HIDDEN, HIDDEN)
        shapes |= {
            **_norm(inner + "self_attn.q_layernorm", HIDDEN // HEADS),
            **_norm(inner + "self_attn.k_layernorm", HIDDEN // HEADS),
            **_linear(inner + "mlp.fc1", INTERMEDIATE, HIDDEN),
            **_linear(inner + "mlp.fc2", HIDDEN, INTERMEDIATE),
            **_norm(inner + "input_layernorm", HIDDEN),
            inner + "post_layernorm.weight": (HIDDEN,),
        }
    return shapes


def _linear(name: str, out: int, into: int) -> Shapes:
    return {name + ".weight": (out, into), name + ".bias": (out,)}


def _norm(name: str, size: int) -> Shapes:
    return {name + ".weight": (size,), name + ".bias": (size,)}


def _tensor(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Random values, seeded by the name. Norms are near 1, biases are small; a matrix keeps the norm of its input."""
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(size=shape).astype(np.float32)
    if "norm" in name.lower() or "ln_vision" in name:
        return drawn * np.float32(0.05) + np.float32(name.endswith("weight"))
    if name.endswith("bias"):
        return drawn * np.float32(0.02)
    if name.endswith(("embed_tokens.weight", "query_tokens", "cls_token", "pos_embed")):
        return drawn
    fan_in = int(np.prod(shape[1:]))
    return drawn / np.float32(fan_in**0.5)


def _arrange(tensors: dict[str, NDArray[np.float32]], vocabulary: dict[str, int]) -> None:
    """Changes the random weights in place, so that they answer Yes or No depending on their input.

    The first hidden dimension holds a constant: every token carries it, and no layer writes to it. The head reads it
    for the answer tokens only. So the answer tokens hold nearly all of the probability for any input.
    """
    embedding, head = tensors["llama_model.model.embed_tokens.weight"], tensors["llama_model.lm_head.weight"]
    embedding[:, 0] = 4.0
    tensors["llama_proj2.weight"][0] = 0.0
    tensors["llama_proj2.bias"][0] = 4.0
    # The last token of the prompt, a space, adds almost nothing itself: its state is what attention collects.
    embedding[vocabulary[SPACE], 1:] *= 0.05
    for layer in range(LAYERS):
        at = f"llama_model.model.layers.{layer}."
        tensors[at + "post_layernorm.weight"][0] = 0.0
        tensors[at + "mlp.fc2.weight"][0] = 0.0
        tensors[at + "mlp.fc2.bias"][0] = 0.0
        # Sharper attention: with plain random weights it is an average that hardly differs between posts.
        tensors[at + "self_attn.q_layernorm.weight"] *= 2.0
        tensors[at + "self_attn.k_layernorm.weight"] *= 2.0
    answers = [vocabulary[word] for word in ANSWERS]
    head[:, 0] = 0.0
    head[answers, 0] = 8.0
    head[answers, 1:] *= 3.0
