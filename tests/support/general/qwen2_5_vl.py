"""A small Qwen2.5-VL checkpoint in transformers' own layout: Qwen2's byte-level tokenizer, pictures of any size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from moderation.dev.seeds.tinyllava import write_json
from tests.support.general import byte_level, weights

HIDDEN, TOWER, PATCH = 64, 32, 14
NAMES = {r"model\.visual\.": "visual.", r"model\.language_model\.": "model."}
SPECIAL = """
<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> <|quad_start|>
<|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>
"""
PLAIN = """
<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>
"""
# Renders what the published template renders.
TEMPLATE = """\
{%- set seen = namespace(pictures=0, videos=0) -%}
{%- for message in messages -%}
  {%- if loop.first and message['role'] != 'system' -%}
    {{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
  {%- endif -%}
  {{ '<|im_start|>' + message['role'] + '\\n' }}
  {%- if message['content'] is string -%}
    {{ message['content'] }}
  {%- else -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}
        {%- set seen.pictures = seen.pictures + 1 -%}
        {%- if add_vision_id -%}{{ 'Picture ' ~ seen.pictures ~ ': ' }}{%- endif -%}
        {{ '<|vision_start|><|image_pad|><|vision_end|>' }}
      {%- elif part['type'] == 'video' or 'video' in part -%}
        {%- set seen.videos = seen.videos + 1 -%}
        {%- if add_vision_id -%}{{ 'Video ' ~ seen.videos ~ ': ' }}{%- endif -%}
        {{ '<|vision_start|><|video_pad|><|vision_end|>' }}
      {%- elif 'text' in part -%}
        {{ part['text'] }}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


def make(folder: Path, seed: int = 0) -> Path:
    """Writes the checkpoint into a folder, which may be new. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, size = write_tokenizer(folder, SPECIAL.split(), PLAIN.split(), {"chat_template": TEMPLATE})
    files: dict[str, object] = {
        "preprocessor_config.json": {
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_processor_type": "Qwen2VLImageProcessor",
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "max_pixels": 48 * (2 * PATCH) ** 2,
            "merge_size": 2,
            "min_pixels": 3136,
            "patch_size": PATCH,
            "processor_class": "Qwen2_5_VLProcessor",
            "temporal_patch_size": 2,
        },
        "chat_template.json": {"chat_template": TEMPLATE},
        "generation_config.json": {
            "bos_token_id": ids["<|endoftext|>"],
            "do_sample": True,
            "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
            "pad_token_id": ids["<|endoftext|>"],
        },
    }
    for name, content in files.items():
        write_json(folder / name, content)
    weights.save(folder, _config(size, ids), byte_level.answers(ids), seed, NAMES)
    return folder


def write_tokenizer(
    folder: Path, special: Sequence[str], plain: Sequence[str], config: dict[str, object]
) -> tuple[dict[str, int], int]:
    """Writes Qwen2's tokenizer files. (ids of all tokens, rows that an embedding has for them).

    special, plain: its added tokens. config: more keys of tokenizer_config.json.
    """
    ids, merges = byte_level.vocabulary()
    added = {token: len(ids) + place for place, token in enumerate([*special, *plain])}
    splits = [
        {"type": "Split", "pattern": {"Regex": PRETOKENIZE_REGEX}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
    ]
    byte_level.write(
        folder,
        ids,
        merges,
        {"type": "Sequence", "pretokenizers": splits},
        byte_level.added(added, plain),
        {
            "add_bos_token": False,
            "add_prefix_space": False,
            "additional_special_tokens": list(special[1:]),
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 131072,
            "pad_token": "<|endoftext|>",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
            **config,
        },
        normalizer={"type": "NFC"},
    )
    return {**ids, **added}, -(-(len(ids) + len(added)) // 64) * 64


def _config(vocabulary: int, ids: dict[str, int]) -> dict[str, object]:
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "image_token_id": ids["<|image_pad|>"],
        "initializer_range": 0.02,
        "intermediate_size": 2 * HIDDEN,
        "max_position_embeddings": 128000,
        "max_window_layers": 2,
        "model_type": "qwen2_5_vl",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "video_token_id": ids["<|video_pad|>"],
        "vision_config": {
            "depth": 3,
            "fullatt_block_indexes": [2],
            "hidden_act": "silu",
            "hidden_size": TOWER,
            "in_chans": 3,
            "intermediate_size": 2 * TOWER,
            "model_type": "qwen2_5_vl",
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "spatial_patch_size": PATCH,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
        },
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "vocab_size": vocabulary,
    }
