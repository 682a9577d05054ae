"""Combining marks that no spelling needs: stacks, lines through letters, and a mark on each letter."""

from __future__ import annotations

import unicodedata

import regex

MOST = 2  # marks on a letter, besides those that have become one character with it
OF_ANY_SCRIPT = r"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20f0\ufe20-\ufe2f]"
ACROSS = (
    r"[\u0334-\u0338\u0488\u0489\u20d2\u20d3\u20d8-\u20e0\u20e2-\u20e6\u20ea\u20eb]"  # through a letter, or around it
)
MARK = regex.compile(r"\p{M}")
MARKS = regex.compile(rf"{OF_ANY_SCRIPT}++")
LONG = regex.compile(r"(\p{M}{3})\p{M}{3,}+")  # no script has six marks on a letter
REPEATED = regex.compile(r"(\p{M})\1{2,}+")
STACKED = regex.compile(rf"{LONG.pattern.replace('(', '(?:')}|{REPEATED.pattern}")
LINED = regex.compile(ACROSS)
STACK = regex.compile(rf"{OF_ANY_SCRIPT}{{{MOST + 1},}}+")
LETTER = regex.compile(r"\p{L}")
MARKED_PART = 2 / 3  # of a word's letters: no spelling puts marks on more of them


def unstacked(word: str) -> str:
    """The word without marks that no spelling needs."""
    plain = LONG.sub(r"\1", REPEATED.sub(r"\1", word))
    letters = len(LETTER.findall(plain))
    if not letters or not MARKS.search(plain):
        return plain
    composed = unicodedata.normalize("NFC", plain)
    left = MARKS.findall(composed)
    if STACK.search(composed) or sum(len(stack) >= MOST for stack in left) > 1:
        return unicodedata.normalize("NFC", MARKS.sub("", unicodedata.normalize("NFD", composed)))
    if LINED.search(plain) or len(left) > max(2, MARKED_PART * letters):
        return MARKS.sub("", composed)
    return plain
