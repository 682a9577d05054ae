"""A small byte-level tokenizer in the layout of GPT-2's and Qwen's: few words, and all special tokens of its family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from moderation.dev.seeds.bpe import LETTERS, merge
from moderation.dev.seeds.phi3 import WORDS
from moderation.dev.seeds.tinyllava import write_json

ROLES = "system user assistant User Assistant System helpful are following policy"


def vocabulary(reserved: Iterable[str] = ()) -> tuple[dict[str, int], list[list[str]]]:
    """(ids, merges): `reserved` first, then the letters that stand for bytes, then words with and without a space."""
    ids = {token: place for place, token in enumerate([*reserved, *LETTERS])}
    words = f"{WORDS} {ROLES}".split()
    return ids, merge(ids, [*(f"Ġ{word}" for word in words), *words, "ĊĊ"])


def answers(ids: Mapping[str, int]) -> list[int]:
    """The ids of Yes and No with and without a space before them."""
    return [ids[word] for word in ("Yes", "No", "ĠYes", "ĠNo")]


def added(tokens: Mapping[str, int], plain: Iterable[str] = ()) -> list[dict[str, object]]:
    """Entries of tokenizer.json's added_tokens. plain: those that are not `special` there."""
    return [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": token not in set(plain),
        }
        for token, number in sorted(tokens.items(), key=lambda item: item[1])
    ]


def write(
    folder: Path,
    ids: Mapping[str, int],
    merges: Sequence[Sequence[str]],
    pre_tokenizer: Mapping[str, object],
    tokens: Sequence[Mapping[str, object]],
    config: Mapping[str, object],
    *,
    normalizer: Mapping[str, object] | None = None,
) -> None:
    """Writes tokenizer.json, tokenizer_config.json, vocab.json and merges.txt.

    tokens: tokenizer.json's added_tokens. config: keys of tokenizer_config.json beside those of the added tokens.
    """
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    published: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": tokens,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": level,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": ids,
            "merges": merges,
        },
    }
    write_json(folder / "tokenizer.json", published)
    write_json(folder / "tokenizer_config.json", {**config, "added_tokens_decoder": decoder_of(tokens)})
    write_json(folder / "vocab.json", ids)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def decoder_of(tokens: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """tokenizer_config.json's added_tokens_decoder."""
    return {str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in tokens}
