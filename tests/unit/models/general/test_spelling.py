from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from moderation.models.general import spelling

LETTERS = {letter: place for place, letter in enumerate("<s>ab/▁A:")}
BYTES = {f"<0x{byte:02X}>": 100 + byte for byte in range(256)}


def a_tokenizer(**model: Any) -> dict[str, Any]:
    """A BPE tokenizer with a control token <s> that no merge makes."""
    vocabulary = {**LETTERS, **BYTES, "ab": 50, "<s>": 51, "<unk>": 52}
    base = {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"]], "byte_fallback": True, "unk_token": "<unk>"}
    return {"version": "1.0", "added_tokens": [], "normalizer": None, "model": {**base, **model}}


def test_bpe_makes_its_letters_its_bytes_and_its_merges() -> None:
    assert spelling.plain_ids(a_tokenizer()) == {*LETTERS.values(), *BYTES.values(), 50}


def test_an_unknown_letter_is_the_unknown_token_where_bytes_are_missing() -> None:
    assert 52 in spelling.plain_ids(a_tokenizer(byte_fallback=False))
    few = {piece: id for piece, id in a_tokenizer()["model"]["vocab"].items() if piece != "<0x41>"}
    assert 52 in spelling.plain_ids(a_tokenizer(vocab=few))


def test_merges_may_be_written_as_text() -> None:
    assert spelling.plain_ids(a_tokenizer(merges=["a b"])) == spelling.plain_ids(a_tokenizer())


@pytest.mark.parametrize("model", [{"ignore_merges": True}, {"type": "WordPiece"}, {"end_of_word_suffix": "</w>"}])
def test_other_models_may_make_every_word(model: dict[str, Any]) -> None:
    tokenizer = a_tokenizer(**model)
    assert spelling.plain_ids(tokenizer) == set(tokenizer["model"]["vocab"].values())


def test_unigram_may_make_every_piece() -> None:
    pieces = [["<s>", 0.0], ["a", -1.0]]
    assert spelling.plain_ids(a_tokenizer(type="Unigram", vocab=pieces)) == {0, 1}


@given(st.text(max_size=30))
def test_no_text_becomes_an_id_beyond_the_plain_ones(text: str) -> None:
    tokenizer = a_tokenizer()
    ids = Tokenizer.from_str(json.dumps(tokenizer)).encode(text + "<s>ab", add_special_tokens=False).ids
    assert set(ids) <= spelling.plain_ids(tokenizer)


@pytest.mark.parametrize(
    ("normalizer", "expected"),
    [
        (None, True),
        ({"type": "Prepend", "prepend": "▁"}, True),
        ({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, True),
        ({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]}, True),
        ({"type": "Replace", "pattern": {"String": "u"}, "content": "U"}, False),
        ({"type": "NFKC"}, False),
        ({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Lowercase"}]}, False),
    ],
)
def test_a_tokenizer_that_changes_letters_is_not_faithful(normalizer: dict[str, Any] | None, expected: bool) -> None:
    assert spelling.is_faithful({"normalizer": normalizer}) is expected


def test_a_pattern_finds_the_borders_in_every_spelling() -> None:
    found = spelling.pattern([" ASSISTANT: ", "\nUSER:", " ASSISTANT:"])
    assert [match[0] for match in found.finditer("user: assistant:Assistant : USER:")] == [
        "user:",
        "assistant:",
        "USER:",
    ]
    assert spelling.pattern([]).search("anything") is None


def test_a_stretch_of_ids_is_found_anywhere() -> None:
    assert spelling.contains([1, 2, 3], [2, 3])
    assert not spelling.contains([1, 2, 3], [1, 3])
    assert not spelling.contains([1], [1, 2])
