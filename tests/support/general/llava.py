"""A small LLaVA-1.5 checkpoint in transformers' own layout: Llama's tokenizer, a CLIP tower, <image> and <pad>."""

from __future__ import annotations

from pathlib import Path

from moderation.dev.seeds import phi3
from moderation.dev.seeds.tinyllava import write_json
from tests.support.general import byte_level, weights

IMAGE, PATCH = 56, 14
HIDDEN, TOWER, LAYERS = 64, 32, 2
NAMES = {
    r"lm_head\.": "language_model.lm_head.",
    r"model\.language_model\.": "language_model.model.",
    r"model\.vision_tower\.": "vision_tower.vision_model.",
    r"model\.multi_modal_projector\.": "multi_modal_projector.",
}
# Renders what the published template renders. {% generation %} is transformers' own tag.
TEMPLATE = """\
{%- for message in messages -%}
  {%- set parts = message['content'] -%}
  {%- if message['role'] != 'system' -%}{{ message['role'].upper() + ': ' }}{%- endif -%}
  {%- for part in parts | selectattr('type', 'equalto', 'image') -%}{{ '<image>\\n' }}{%- endfor -%}
  {%- for part in parts | selectattr('type', 'equalto', 'text') -%}
    {%- if message['role'] == 'assistant' -%}
      {%- generation -%}{{ part['text'] + ' ' }}{%- endgeneration -%}
    {%- else -%}
      {{ part['text'] + ' ' }}
    {%- endif -%}
  {%- endfor -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}
"""


def make(folder: Path, seed: int = 0) -> Path:
    """Writes the checkpoint into a folder, which may be new. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, published = phi3.tokenizer("▁USER", "USER", "▁ASSISTANT", "ASSISTANT", "Yes", "No")
    base = {token: ids[token] for token in ("<unk>", "<s>", "</s>")}
    image, pad = len(ids), len(ids) + 1
    tokens = byte_level.added({**base, "<image>": image, "<pad>": pad})
    size = -(-(pad + 1) // 64) * 64
    files: dict[str, object] = {
        "tokenizer.json": {**published, "added_tokens": tokens},
        "tokenizer_config.json": {
            "add_bos_token": True,
            "add_eos_token": False,
            "added_tokens_decoder": byte_level.decoder_of(tokens),
            "bos_token": "<s>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "</s>",
            "extra_special_tokens": {"image_token": "<image>"},
            "image_token": "<image>",
            "legacy": False,
            "model_max_length": 1000000000000000019884624838656,
            "pad_token": "<pad>",
            "padding_side": "left",
            "processor_class": "LlavaProcessor",
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
            "unk_token": "<unk>",
            "use_default_system_prompt": False,
        },
        "added_tokens.json": {"<image>": image, "<pad>": pad},
        "special_tokens_map.json": {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "image_token": "<image>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
        },
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
        "processor_config.json": {
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
            "patch_size": PATCH,
            "processor_class": "LlavaProcessor",
            "vision_feature_select_strategy": "default",
        },
        "chat_template.json": {"chat_template": TEMPLATE},
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": pad},
    }
    for name, content in files.items():
        write_json(folder / name, content)
    answers = [ids[word] for word in ("Yes", "No", "▁Yes", "▁No")]
    weights.save(folder, _config(size, image, pad), answers, seed, NAMES)
    return folder


def _config(vocabulary: int, image: int, pad: int) -> dict[str, object]:
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_seq_length": (IMAGE // PATCH) ** 2,
        "image_token_index": image,
        "model_type": "llava",
        "pad_token_id": pad,
        "projector_hidden_act": "gelu",
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "max_position_embeddings": 4096,
            "model_type": "llama",
            "num_attention_heads": 4,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-05,
            "torch_dtype": "float16",
            "vocab_size": vocabulary,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vision_config": {
            "hidden_size": TOWER,
            "image_size": IMAGE,
            "intermediate_size": 2 * TOWER,
            "model_type": "clip_vision_model",
            "num_attention_heads": 2,
            "num_hidden_layers": 3,
            "patch_size": PATCH,
            "projection_dim": TOWER,
            "vocab_size": 32000,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vocab_size": vocabulary,
    }
