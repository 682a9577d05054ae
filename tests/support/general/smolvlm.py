"""A small SmolVLM2 checkpoint in transformers' own layout: pictures in tiles, each tile's place as a token.

SmolVLMProcessor asks its image processor for the tiles' rows and columns: a default of its class, which no file has.
"""

from __future__ import annotations

from pathlib import Path

from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

from moderation.dev.seeds.tinyllava import write_json
from tests.support.general import byte_level, weights

HIDDEN, TOWER, TILE, PATCH, SHUFFLE = 64, 32, 64, 8, 4
NAMES: dict[str, str] = {}
BASE = """
<|endoftext|> <|im_start|> <|im_end|> <repo_name> <reponame> <file_sep> <filename> <gh_stars> <issue_start>
<issue_comment> <issue_closed> <jupyter_start> <jupyter_text> <jupyter_code> <jupyter_output> <jupyter_script>
<empty_output>
"""
PLACES = " ".join(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
RESERVED = " ".join(f"<|reserved_special_token_{number}|>" for number in range(88))
VISION = f"<global-img> {PLACES} <fake_token_around_image> <image> {RESERVED} <end_of_utterance>"
TEMPLATE: str = DEFAULT_CHAT_TEMPLATE
NAMED = {
    "end_of_utterance_token": "<end_of_utterance>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "image_token": "<image>",
}


def make(folder: Path, seed: int = 0) -> Path:
    """Writes the checkpoint into a folder, which may be new. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, merges = byte_level.vocabulary(BASE.split())
    vision = {token: len(ids) + place for place, token in enumerate(VISION.split())}
    added = {token: ids[token] for token in BASE.split()} | vision
    splits = [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ]
    byte_level.write(
        folder,
        ids,
        merges,
        {"type": "Sequence", "pretokenizers": splits},
        byte_level.added(added),
        {
            "add_prefix_space": False,
            "additional_special_tokens": ["<fake_token_around_image>", "<image>", "<end_of_utterance>"],
            "bos_token": "<|im_start|>",
            "clean_up_tokenization_spaces": False,
            "eos_token": "<end_of_utterance>",
            "extra_special_tokens": NAMED,
            "legacy": False,
            "model_max_length": 8192,
            "pad_token": "<|im_end|>",
            "processor_class": "SmolVLMProcessor",
            "tokenizer_class": "GPT2Tokenizer",
            "truncation_side": "left",
            "unk_token": "<|endoftext|>",
            "vocab_size": 49152,
            **NAMED,
        },
    )
    all_ids = {**ids, **vision}
    size = -(-len(all_ids) // 64) * 64
    files: dict[str, object] = {
        "preprocessor_config.json": {
            "do_convert_rgb": True,
            "do_image_splitting": True,
            "do_normalize": True,
            "do_pad": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "SmolVLMImageProcessor",
            "image_std": [0.5, 0.5, 0.5],
            "max_image_size": {"longest_edge": TILE},
            "processor_class": "SmolVLMProcessor",
            "resample": 1,
            "rescale_factor": 0.00392156862745098,
            "size": {"longest_edge": 2 * TILE},
            "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": TILE}},
        },
        "processor_config.json": {
            "image_seq_len": (TILE // PATCH // SHUFFLE) ** 2,
            "processor_class": "SmolVLMProcessor",
        },
        "chat_template.json": {"chat_template": TEMPLATE},
        "generation_config.json": {
            "bos_token_id": ids["<|im_start|>"],
            "eos_token_id": all_ids["<end_of_utterance>"],
            "pad_token_id": ids["<|im_end|>"],
        },
    }
    for name, content in files.items():
        write_json(folder / name, content)
    weights.save(folder, _config(size, all_ids), byte_level.answers(ids), seed, NAMES)
    return folder


def _config(vocabulary: int, ids: dict[str, int]) -> dict[str, object]:
    return {
        "architectures": ["SmolVLMForConditionalGeneration"],
        "image_token_id": ids["<image>"],
        "model_type": "smolvlm",
        "pad_token_id": 128002,  # as published: no token has this id
        "scale_factor": SHUFFLE,
        "text_config": {
            "architectures": ["VLlama3ForCausalLM"],
            "head_dim": HIDDEN // 4,
            "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "is_llama_config": True,
            "max_position_embeddings": 8192,
            "model_type": "llama",
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "pad_token_id": ids["<|im_end|>"],
            "pixel_shuffle_factor": SHUFFLE,
            "qk_layer_norms": False,
            "rms_norm_eps": 1e-05,
            "rope_interleaved": False,
            "rope_theta": 100000,
            "torch_dtype": "bfloat16",
            "use_resampler": False,
            "vocab_size": vocabulary,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": False,
        "vision_config": {
            "hidden_size": TOWER,
            "image_size": TILE,
            "intermediate_size": 2 * TOWER,
            "max_image_size": {"longest_edge": TILE},
            "model_type": "smolvlm_vision",
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "patch_size": PATCH,
            "size": {"longest_edge": 2 * TILE},
            "tie_word_embeddings": False,
            "use_base_siglip": False,
        },
        "vocab_size": vocabulary,
    }
