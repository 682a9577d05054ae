"""A text as its readers see it, where that differs from its characters: disguises are undone, ordinary words stay.

kinds.py        what kinds of characters a text has, so that ordinary texts cost little
invisible.py    what no reader sees
marks.py        stacked combining marks
styled.py       letters in another style: full width, mathematical, circled, emoji
look_alikes.py  letters of another script that look like those of the word's own
spelling.py     letters spaced out, and digits in place of letters
"""

from __future__ import annotations

import re
from functools import lru_cache

import regex

from moderation.normal_form import invisible, kinds, look_alikes, marks, spelling, styled

LONGEST = 1 << 17  # characters of a piece: a longer text has its normal form piece by piece
CONTEXT = 2_000  # characters that are shown on both sides of what differs
KNOWN = 64  # longest word whose normal form is kept

ADDRESS = r"https?://\S++|www\.\S++|[\w+-]{1,64}+@[\w-]{1,64}+\.\w"
TOKEN = re.compile(r"\S+")
PIECE = re.compile(rf"(?s:.{{1,{LONGEST}}}(?:(?<=\w\w\s)|\Z)|.{{1,{LONGEST}}})")  # ends behind a word, where it can
# Scripts without spaces, and emoji, are no part of a word: their neighbours are judged apart.
WORD = regex.compile(
    rf"({ADDRESS})|[[\p{{L}}\p{{M}}\p{{N}}{styled.SIGNS}\u200c\u200d@$!]--{look_alikes.APART}]+", regex.V1
)


def normal_form(text: str) -> str:
    """The text with its disguises undone; the same text if it has none.

    The time is linear in the length.
    """
    return _normal(text) if len(text) <= LONGEST else PIECE.sub(lambda piece: _normal(piece[0]), text)


def to_judge(text: str) -> str:
    """The part of the normal form that differs from the text, with its context; empty if nothing differs."""
    normal = normal_form(text)
    if normal == text:
        return ""
    begin = _shared(text, normal)
    end = min(_shared(text[::-1], normal[::-1]), len(normal) - begin)
    return normal[max(0, begin - CONTEXT) : len(normal) - max(0, end - CONTEXT)]


def _normal(text: str) -> str:
    kind = kinds.of(text)
    plain = invisible.removed(text) if kind & kinds.HIDDEN else text
    plain = styled.flags_as_letters(plain) if kind & kinds.FLAG else plain
    if kind & kinds.STYLED or spelling.APART.search(plain):
        plain = spelling.closed(plain)
    return _words(plain) if kinds.may_be_disguised(plain) else plain


def _words(text: str) -> str:
    main = look_alikes.main_script(text)
    wide = look_alikes.has_wide_script(text)

    def plain(token: re.Match[str]) -> str:
        return (_known if len(token[0]) <= KNOWN else _plain)(token[0], main, wide)

    return look_alikes.whole_words(TOKEN.sub(plain, text), main)


def _plain(token: str, main: str, wide: bool) -> str:
    """A piece without spaces in its normal form. main: the script of the text.

    wide: whether full-width letters are ordinary in the text.
    """
    if not kinds.may_be_disguised(token):
        return token
    return WORD.sub(lambda word: word[1] or _plain_word(word[0], main, wide), token)


def _plain_word(word: str, main: str, wide: bool) -> str:
    if not word.isascii():
        word = look_alikes.in_one_script(styled.plain(marks.unstacked(word), wide), main)
    return spelling.lettered(word)


_known = lru_cache(maxsize=1 << 14)(_plain)


def _shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low
