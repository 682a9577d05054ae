"""The proof that a user's words never become structure: which ids a tokenizer can make of plain text.

A turn ends where the template says so. Two kinds of templates mark it:

- By an added token, as in <|im_end|>. Then the tokenizer of a user's words, which has no added tokens, must not be
  able to make that id out of any text. `plain_ids` says which ids it can make.
- By plain words alone, as in ASSISTANT:. Then these words, where a user writes them, are tokenised letter by letter,
  and the ids of the template's own words stand nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

# Normalizers under which the spelling of the template's words is the only text that becomes them.
FAITHFUL = frozenset({"Prepend", "Replace"})


def plain_ids(tokenizer: Mapping[str, Any]) -> frozenset[int]:
    """Every id that the model of a tokenizer.json can make of a text without its added tokens; perhaps more.

    A BPE model makes its letters, the bytes that stand for unknown ones, and what its merges join.
    """
    model = tokenizer["model"]
    vocabulary: Mapping[str, int] | Sequence[Sequence[Any]] = model["vocab"]
    if not isinstance(vocabulary, Mapping):  # Unigram: pairs of piece and score
        return frozenset(range(len(vocabulary)))
    if model.get("type") != "BPE" or model.get("ignore_merges"):
        return frozenset(vocabulary.values())
    affixes = [model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""]
    if any(affixes):
        return frozenset(vocabulary.values())
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    made = {left + right for left, right in pairs}
    made |= {token for token in vocabulary if len(token) == 1}
    if model.get("byte_fallback"):
        made |= {f"<0x{byte:02X}>" for byte in range(256)}
    if not (model.get("byte_fallback") and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))):
        made |= {model.get("unk_token") or ""}
    return frozenset(vocabulary[token] for token in made if token in vocabulary)


def blanks(tokenizer: Mapping[str, Any]) -> frozenset[int]:
    """The added tokens that are nothing but spaces, as in Gemma's ▁▁. They are no structure."""
    added = tokenizer.get("added_tokens") or ()
    return frozenset(int(token["id"]) for token in added if not token["content"].replace("▁", " ").strip())


def is_faithful(tokenizer: Mapping[str, Any]) -> bool:
    """Whether the tokenizer changes no letter of a text before it cuts the text into tokens."""
    normalizer = tokenizer.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    return all(
        step.get("type") in FAITHFUL and (step["type"] == "Prepend" or _is_space(step.get("pattern"))) for step in steps
    )


def words(border: str) -> str:
    """What a border between turns looks like to a reader; "": nothing but white space."""
    return border.strip()


def pattern(borders: Collection[str]) -> re.Pattern[str]:
    """Every spelling of the borders in a user's words: in capitals or not, with SentencePiece's ▁ for a space too."""
    longest_first = sorted({words(border) for border in borders}, key=len, reverse=True)
    spellings = [re.escape(border).replace(r"\ ", "[ ▁]") for border in longest_first]
    return re.compile("|".join(spellings) or "(?!)", re.IGNORECASE)


def contains(ids: Sequence[int], part: Sequence[int]) -> bool:
    """Whether the part stands somewhere in the ids, as it is."""
    return any(list(ids[start : start + len(part)]) == list(part) for start in range(len(ids) - len(part) + 1))


def _is_space(searched: object) -> bool:
    return isinstance(searched, Mapping) and searched.get("String") in {" ", "  "}
