"""A small Gemma 3 checkpoint in transformers' own layout: SentencePiece in tokenizer.json, a SigLIP tower.

Image tokens see each other in both directions, and most layers see a sliding window. The template writes <bos>, which
the tokenizer adds once more to a text that it encodes with special tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moderation.dev.seeds import bpe
from moderation.dev.seeds.phi3 import WORDS
from moderation.dev.seeds.tinyllava import write_json
from tests.support.general import byte_level, weights

HIDDEN, TOWER, IMAGE, PATCH, TOKENS, SLIDING = 64, 32, 56, 7, 16, 96
NAMES = {
    r"lm_head\.": "language_model.lm_head.",
    r"model\.language_model\.": "language_model.model.",
    r"model\.vision_tower\.": "vision_tower.vision_model.",
    r"model\.multi_modal_projector\.": "multi_modal_projector.",
}
BASE = "<pad> <eos> <bos> <unk> <mask>"
TURNS = "<start_of_turn> <end_of_turn>"
VISION = "<start_of_image> <end_of_image> <image_soft_token>"
# Added tokens that are not special: unused ones, runs of line ends and spaces, HTML.
PLAIN = [
    "[multimodal]",
    *(f"<unused{number}>" for number in range(8)),
    *("\n" * length for length in range(2, 6)),
    *("▁" * length for length in range(2, 6)),
    *(f"<{slash}{tag}>" for tag in ("table", "ul", "h1", "strong", "code", "pre") for slash in ("", "/")),
]
ROLES = "user model system You are a helpful policy expert violation safety image above start"
# Renders what the published template renders.
TEMPLATE = """\
{%- macro words(content) -%}
  {%- if content is string -%}
    {{ content | trim }}
  {%- elif content is iterable -%}
    {%- for part in content -%}
      {%- if part['type'] == 'image' -%}{{ '<start_of_image>' }}{%- endif -%}
      {%- if part['type'] == 'text' -%}{{ part['text'] | trim }}{%- endif -%}
    {%- endfor -%}
  {%- else -%}
    {{ raise_exception('a message needs a text or a list of parts') }}
  {%- endif -%}
{%- endmacro -%}
{%- set prefix, turns = '', messages -%}
{%- if messages[0]['role'] == 'system' -%}
  {%- set rules = messages[0]['content'] -%}
  {%- set prefix = (rules if rules is string else rules[0]['text']) + '\\n\\n' -%}
  {%- set turns = messages[1:] -%}
{%- endif -%}
{{ bos_token }}
{%- for message in turns -%}
  {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
    {{ raise_exception('the turns of user and assistant must alternate') }}
  {%- endif -%}
  {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
  {{ '<start_of_turn>' + role + '\\n' + (prefix if loop.first else '') -}}
  {{ words(message['content']) + '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
"""


def make(folder: Path, seed: int = 0) -> Path:
    """Writes the checkpoint into a folder, which may be new. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = write_files(folder, "Gemma3Processor", TEMPLATE)
    weights.save(folder, config(ids), answers(ids), seed, NAMES)
    return folder


def write_files(folder: Path, processor: str, template: str) -> dict[str, int]:
    """Writes all but weights and config.json. Returns the ids of all tokens. processor: the class that files name."""
    ids, published = _tokenizer()
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    usual = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    files: dict[str, object] = {
        "tokenizer.json": published,
        "tokenizer_config.json": {
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": byte_level.decoder_of(published["added_tokens"]),
            "clean_up_tokenization_spaces": False,
            "extra_special_tokens": named,
            "model_max_length": 1000000000000000019884624838656,
            "processor_class": processor,
            "sp_model_kwargs": None,
            "spaces_between_special_tokens": False,
            "tokenizer_class": "GemmaTokenizer",
            "use_default_system_prompt": False,
            **named,
            **usual,
        },
        "special_tokens_map.json": {**named, **usual},
        "added_tokens.json": {"<image_soft_token>": ids["<image_soft_token>"]},
        "preprocessor_config.json": {
            "do_convert_rgb": None,
            "do_normalize": True,
            "do_pan_and_scan": None,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "Gemma3ImageProcessor",
            "image_seq_length": TOKENS,
            "image_std": [0.5, 0.5, 0.5],
            "pan_and_scan_max_num_crops": None,
            "pan_and_scan_min_crop_size": None,
            "pan_and_scan_min_ratio_to_activate": None,
            "processor_class": processor,
            "resample": 2,
            "rescale_factor": 0.00392156862745098,
            "size": {"height": IMAGE, "width": IMAGE},
        },
        "processor_config.json": {"image_seq_length": TOKENS, "processor_class": processor},
        "chat_template.json": {"chat_template": template},
        "generation_config.json": {
            "bos_token_id": ids["<bos>"],
            "cache_implementation": "hybrid",
            "do_sample": True,
            "eos_token_id": [ids["<eos>"], ids["<end_of_turn>"]],
            "pad_token_id": ids["<pad>"],
            "top_k": 64,
            "top_p": 0.95,
        },
    }
    for name, content in files.items():
        write_json(folder / name, content)
    return ids


def answers(ids: Mapping[str, int]) -> list[int]:
    """The ids of Yes and No with and without a space before them."""
    return [ids[word] for word in ("Yes", "No", "▁Yes", "▁No")]


def config(ids: Mapping[str, int]) -> dict[str, object]:
    """config.json for so many tokens."""
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": ids["<start_of_image>"],
        "eoi_token_index": ids["<end_of_image>"],
        "eos_token_id": [ids["<eos>"], ids["<end_of_turn>"]],
        "image_token_index": ids["<image_soft_token>"],
        "initializer_range": 0.02,
        "mm_tokens_per_image": TOKENS,
        "model_type": "gemma3",
        "text_config": {
            "head_dim": 16,
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "model_type": "gemma3_text",
            "num_attention_heads": 4,
            "num_hidden_layers": 3,
            "num_key_value_heads": 2,
            "query_pre_attn_scalar": 16,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": SLIDING,
            "sliding_window_pattern": 3,
            "vocab_size": -(-len(ids) // 64) * 64,
        },
        "torch_dtype": "bfloat16",
        "vision_config": {
            "hidden_size": TOWER,
            "image_size": IMAGE,
            "intermediate_size": 2 * TOWER,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "patch_size": PATCH,
            "vision_use_head": False,
        },
    }


def _tokenizer() -> tuple[dict[str, int], dict[str, Any]]:
    """(ids of all tokens, tokenizer.json): BPE with byte fallback, a word's space as ▁, no space in front of a text."""
    tokens = [*BASE.split(), *PLAIN[:9], *TURNS.split(), *PLAIN[9:], *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["▁", "\n", *(chr(code) for code in range(ord("!"), ord("~") + 1))]
    ids = {token: place for place, token in enumerate(tokens)}
    # As in the published file, merges make the runs of spaces and line ends that are added tokens, too.
    runs = [token for token in PLAIN if set(token) in ({"▁"}, {"\n"})]
    merges: list[list[str]] = [[run[:cut], run[cut:]] for run in runs for cut in range(1, len(run))]
    words = f"{WORDS} {ROLES}".split()
    merges += bpe.merge(ids, (*(f"▁{word}" for word in words), *words))
    model = dict(ids)
    ids |= {token: len(ids) + place for place, token in enumerate(VISION.split())}
    added = [*BASE.split(), *PLAIN, *TURNS.split(), *VISION.split()]
    begin = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    return ids, {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": byte_level.added({token: ids[token] for token in added}, PLAIN),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [ids["<bos>"]], "tokens": ["<bos>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
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
            "vocab": model,
            "merges": merges,
        },
    }
