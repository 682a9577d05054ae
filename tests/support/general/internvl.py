"""A small InternVL3 checkpoint in transformers' own layout: Qwen2's tokenizer, pictures in tiles and a thumbnail.

InternVLProcessor has its image processor cut tiles: a default of its class, against `crop_to_patches` of the file.
"""

from __future__ import annotations

from pathlib import Path

from moderation.dev.seeds.tinyllava import write_json
from tests.support.general import byte_level, qwen2_5_vl, weights

HIDDEN, TOWER, IMAGE, PATCH = 64, 32, 56, 7
TOKENS = (IMAGE // PATCH // 2) ** 2
NAMES = {
    r"lm_head\.": "language_model.lm_head.",
    r"model\.language_model\.": "language_model.model.",
    r"model\.(?=vision_tower\.|multi_modal_projector\.)": "",
}
VISION = "<img> </img> <IMG_CONTEXT> <quad> </quad> <ref> </ref> <box> </box> <video>"
# Renders what the published template renders.
TEMPLATE = """\
{%- for message in messages -%}
  {{ '<|im_start|>' + message['role'] + '\\n' }}
  {%- if message['content'] is string -%}
    {{ message['content'] }}
  {%- else -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}
      {%- if part['type'] == 'image' -%}{{ '<IMG_CONTEXT>\\n' }}{%- endif -%}
      {%- if part['type'] == 'video' -%}{{ '<video>\\n' }}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


def make(folder: Path, seed: int = 0) -> Path:
    """Writes the checkpoint into a folder, which may be new. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {
        "context_image_token": "<IMG_CONTEXT>",
        "end_image_token": "</img>",
        "start_image_token": "<img>",
        "video_token": "<video>",
    }
    special = [*qwen2_5_vl.SPECIAL.split(), *VISION.split()]
    more = {
        "extra_special_tokens": named,
        "model_max_length": 8192,
        "processor_class": "InternVLProcessor",
        "return_token_type_ids": False,
        **named,
    }
    ids, size = qwen2_5_vl.write_tokenizer(folder, special, qwen2_5_vl.PLAIN.split(), more)
    files: dict[str, object] = {
        "preprocessor_config.json": {
            "crop_size": None,
            "crop_to_patches": False,
            "data_format": "channels_first",
            "default_to_square": True,
            "device": None,
            "do_center_crop": None,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.485, 0.456, 0.406],
            "image_processor_type": "GotOcr2ImageProcessorFast",
            "image_std": [0.229, 0.224, 0.225],
            "input_data_format": None,
            "max_patches": 4,
            "min_patches": 1,
            "processor_class": "InternVLProcessor",
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "return_tensors": None,
            "size": {"height": IMAGE, "width": IMAGE},
        },
        "processor_config.json": {"image_seq_length": TOKENS, "processor_class": "InternVLProcessor"},
        "generation_config.json": {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"]},
    }
    for name, content in files.items():
        write_json(folder / name, content)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    weights.save(folder, _config(size, ids), byte_level.answers(ids), seed, NAMES)
    return folder


def _config(vocabulary: int, ids: dict[str, int]) -> dict[str, object]:
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "downsample_ratio": 0.5,
        "image_seq_length": TOKENS,
        "image_token_id": ids["<IMG_CONTEXT>"],
        "model_type": "internvl",
        "projector_hidden_act": "gelu",
        "text_config": {
            "architectures": ["Qwen2ForCausalLM"],
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "hidden_act": "silu",
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "max_position_embeddings": 32768,
            "max_window_layers": 2,
            "model_type": "qwen2",
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06,
            "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": vocabulary,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "attention_bias": True,
            "attention_dropout": 0.0,
            "hidden_act": "gelu",
            "hidden_size": TOWER,
            "image_size": [IMAGE, IMAGE],
            "initializer_range": 1e-10,
            "intermediate_size": 2 * TOWER,
            "layer_norm_eps": 1e-06,
            "layer_scale_init_value": 0.1,
            "model_type": "internvl_vision",
            "norm_type": "layer_norm",
            "num_attention_heads": 2,
            "num_channels": 3,
            "num_hidden_layers": 2,
            "patch_size": [PATCH, PATCH],
            "projection_dropout": 0.0,
            "use_absolute_position_embeddings": True,
            "use_mask_token": False,
            "use_mean_pooling": True,
            "use_qk_norm": False,
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }
