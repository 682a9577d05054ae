"""Vocabularies of small BPE tokenizers: letters, then words by their merges."""

from __future__ import annotations

from collections.abc import Iterable

_SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]
# The letters that stand for bytes where a BPE is byte-level, as those of GPT-2, Phi-2 and Qwen.
LETTERS = [chr(byte) for byte in _SHOWN] + [chr(256 + place) for place in range(256 - len(_SHOWN))]


def merge(vocabulary: dict[str, int], words: Iterable[str]) -> list[list[str]]:
    """Adds the words to the vocabulary, letter by letter. Returns the merges that make them, in order."""
    merges: list[list[str]] = []
    for word in words:
        left = word[0]
        for letter in word[1:]:
            if left + letter not in vocabulary:
                vocabulary[left + letter] = len(vocabulary)
                merges.append([left, letter])
            left += letter
    return merges
