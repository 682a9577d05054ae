"""What no reader sees: controls, joiners that join nothing, hidden tags, and text that is displayed backwards."""

from __future__ import annotations

import re

import regex

# What shows nothing, or a gap. Signs such as the Arabic number sign are format controls, too, but visible.
HIDDEN = r"[[\p{Default_Ignorable_Code_Point}\p{Cf}\p{Cs}\p{Cc}]--[\t-\r\x85\p{Prepended_Concatenation_Mark}]]"
BLANK = r"[\u115f\u1160\u3164\uffa0\u2800]"
DIRECTIONS = r"[\u061c\u200e\u200f\u202a-\u202c\u2066-\u2069]"
RIGHT_TO_LEFT = regex.compile(r"[\p{Bidi_Class=R}\p{Bidi_Class=AL}]")
ANY = regex.compile(rf"{HIDDEN}|{BLANK}", regex.V1)

# Scripts that need joiners within words, or a space that shows nothing between words.
JOINED = r"[\p{Arabic}\p{Syriac}\p{Nko}\p{Mandaic}\p{Mongolian}]"
SPACELESS = r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Javanese}\p{Balinese}]"
KILLER = r"[\p{InSC=Virama}\p{InSC=Invisible_Stacker}\p{InSC=Pure_Killer}]"
JOINERS = re.compile(r"[\u200b-\u200d]+")
DENSE = regex.compile(  # a word with joiners
    rf"(?<![{JOINED}\p{{M}}])(?:{JOINED}\p{{M}}*+)++(?:[\u200c\u200d]++(?:{JOINED}\p{{M}}*+)++)+"
    rf"|(?<![{SPACELESS}\p{{M}}])(?:{SPACELESS}\p{{M}}*+)++(?:[\u200b-\u200d]++(?:{SPACELESS}\p{{M}}*+)++)+",
    regex.V1,
)
MOST = 3  # letters for each joiner: a word with fewer has joiners that nobody needs

EMOJI = r"[\p{Extended_Pictographic}\p{Emoji_Presentation}]"
NEEDED = "|".join(  # the flag of a region, emoji, forms of a letter, joiners within words
    [
        r"(?<=\U0001f3f4)[\U000e0061-\U000e007a]{2}[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,3}\U000e007f",
        rf"(?<={EMOJI}[\ufe0f\p{{Emoji_Modifier}}]?)\u200d(?={EMOJI})",
        r"(?<=[0-9#*])\ufe0f(?=\u20e3)",
        r"(?<=[\p{Emoji}--[0-9#*]])[\ufe0e\ufe0f]",
        r"(?<=[\p{Sm}\p{So}\p{Myanmar}\p{Phags_Pa}])\ufe00",
        r"(?<=\p{Han})[\ufe00-\ufe02\U000e0100-\U000e01ef]",
        r"(?<=\p{Mongolian})[\u180b-\u180f]",
        rf"(?<={KILLER})[\u200c\u200d]|[\u200c\u200d](?={KILLER})",
        rf"(?<={JOINED}\p{{M}}{{0,3}})\u200c(?!\u200c)",
        rf"(?<={JOINED}\p{{M}}{{0,3}})\u200d(?!\p{{L}})|(?<![\p{{L}}\p{{M}}])\u200d(?={JOINED})",
        rf"(?<={SPACELESS}\p{{M}}{{0,3}})[\u200b-\u200d]{{1,3}}(?![\u200b-\u200d])|\u200b{{1,3}}(?={SPACELESS})",
    ]
)
# Beside words of scripts from right to left, marks put the order right.
MARKED = (
    rf"(?<![\p{{L}}\p{{M}}]{DIRECTIONS}{{0,2}}){DIRECTIONS}{{1,2}}|{DIRECTIONS}{{1,2}}(?![\p{{L}}\p{{M}}]|{DIRECTIONS})"
)
FIRST = rf"(?=[{HIDDEN}{BLANK}])"  # decides at once for most characters
LEFT = regex.compile(rf"{FIRST}(?:(?P<needed>{NEEDED})|(?P<blank>{BLANK})|{HIDDEN}++)", regex.V1)
RIGHT = regex.compile(rf"{FIRST}(?:(?P<needed>{NEEDED}|{MARKED})|(?P<blank>{BLANK})|{HIDDEN}++)", regex.V1)

OVERRIDES = regex.compile(r"[\u202d\u202e]")
CONTROLS = regex.compile(r"([\u202a-\u202e\u2066-\u2069])")
LINES = regex.compile(r"([\n\r\x85\u2029]+)")
CLUSTER = regex.compile(r".\p{M}*+", regex.DOTALL)
DEEPEST = 125  # directions within each other: the bound of the standard


def removed(text: str) -> str:
    """The text without what no reader sees. What is displayed backwards is turned."""
    if not ANY.search(text):
        return text
    if OVERRIDES.search(text):
        text = "".join(_turned(line) if OVERRIDES.search(line) else line for line in LINES.split(text))
    text = DENSE.sub(_sparse, text) if JOINERS.search(text) else text
    return (RIGHT if RIGHT_TO_LEFT.search(text) else LEFT).sub(_seen, text)


def _seen(found: regex.Match[str]) -> str:
    return found["needed"] or (" " if found["blank"] else "")


def _sparse(word: regex.Match[str]) -> str:
    """The word without its joiners, if there are too many of them."""
    bare, count = JOINERS.subn("", word[0])
    return bare if count * MOST > len(bare) else word[0]


def _turned(line: str) -> str:
    """A line in the order in which it is displayed. Overrides alone turn letters of scripts from left to right."""
    open_: list[tuple[bool, list[str]]] = [(False, [])]  # (whether it is displayed from the right, its parts)
    beyond = 0  # directions that are too deep

    def close() -> None:
        backwards, parts = open_.pop()
        outside, all_ = open_[-1]
        if backwards == outside:
            all_ += parts
        else:
            all_.append("".join(reversed(parts) if backwards else parts))

    for part in CONTROLS.split(line):
        if part in "\u202c\u2069" and part:
            if beyond:
                beyond -= 1
            elif len(open_) > 1:
                close()
        elif CONTROLS.fullmatch(part):
            if len(open_) > DEEPEST:
                beyond += 1
            else:
                open_.append((part == "\u202e" or (open_[-1][0] and part != "\u202d"), []))
        elif open_[-1][0] and not RIGHT_TO_LEFT.search(part):
            open_[-1][1].append("".join(reversed(CLUSTER.findall(part))))
        else:
            open_[-1][1].append(part)
    while len(open_) > 1:
        close()
    return "".join(open_[0][1])
