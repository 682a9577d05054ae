"""Letters that look like those of another script. Which do is Unicode's data, in the package confusable_homoglyphs."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import confusable_homoglyphs
import regex

LATIN, GREEK = "Latin", "Greek"
SCRIPTS = [LATIN, "Cyrillic", GREEK, "Armenian", "Hebrew", "Arabic", "Georgian", "Cherokee", "Coptic", "Lisu"]
SCRIPTS += ["Deseret", "Canadian_Aboriginal", "Tifinagh", "Osage", "Warang_Citi", "Vai", "Bamum", "Runic", "Thai"]
OTHER = "other"
# Scripts whose letters stand beside those of others in ordinary words.
APART = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Bopomofo}]"
WIDE = regex.compile(APART)
LETTERS = regex.compile(r"\p{L}")
WORD = re.compile(r"[^\W\d_]+")
SHORTEST, LONGEST = 3, 64  # letters of a word that is all look-alikes

# Look-alikes in many fonts, which Unicode's data gives to small capitals or to no single letter.
MORE = {
    **dict(zip("вкмнтпияь", "bkmhtnurb", strict=True)),
    **dict(zip("ИЯ", "UR", strict=True)),
    **dict(zip("εηκντχω", "enkvtxw", strict=True)),
}
KEPT = "μΩπ"  # of units and formulas


@dataclass(frozen=True, slots=True)
class LookAlikes:
    """Single letters that look alike, to the Latin script and back."""

    to_latin: dict[str, str]
    from_latin: dict[str, dict[str, str]]  # by script
    shared: frozenset[str]  # letters that have a look-alike in an alphabet in use


def main_script(text: str) -> str:
    """The script of most of the letters that have no look-alike; empty if all have one."""
    own: Counter[str] = Counter()
    for letter, count in Counter(text).items():
        if (script := script_of(letter)) and not is_shared(letter):
            own[script] += count
    return max(own, key=lambda script: own[script], default="")


def is_shared(letter: str) -> bool:
    """Whether a letter of another script looks like this one."""
    return letter in _look_alikes().shared


def is_odd(letter: str) -> bool:
    """Whether no alphabet has this Latin letter, which looks like one that alphabets have."""
    return letter in _look_alikes().to_latin and script_of(letter) == LATIN


def has_wide_script(text: str) -> bool:
    """Whether full-width letters are ordinary in the text."""
    return bool(WIDE.search(text))


def in_one_script(word: str, main: str) -> str:
    """A word that mixes scripts, with its look-alikes in one of them.

    That is the script into which most of the letters go. Among several, the text's main script, then the word's.
    """
    counts = _counts([word])
    if not counts.keys() - {LATIN}:
        return _plain_latin(word)
    if len(counts) == 1 or (GREEK in counts and sum(counts.values()) < SHORTEST):  # a formula
        return word
    tried = [(script, _in_script(word, script)) for script in counts if script != OTHER]
    costs = {
        script: (_strangers(form, script), script != main, _guesses(word, script), -counts[script])
        for script, form in tried
    }
    script, form = min(tried, key=lambda each: costs[each[0]], default=(OTHER, word))
    if script == OTHER or _strangers(form, script) * 2 > sum(counts.values()) - counts[script]:
        return word
    return _plain_latin(form) if script == LATIN else form


def whole_words(text: str, main: str) -> str:
    """A Latin text with words of another script in Latin letters, where all their letters are sure look-alikes.

    A neighbour in the same script makes such a word a quotation, unless the text has no Latin word at all.
    """
    if text.isascii() or main not in ("", LATIN):
        return text
    words = list(WORD.finditer(text))
    scripts = [_script_of(word[0]) if word.end() - word.start() <= LONGEST else "" for word in words]
    has_latin = LATIN in scripts
    parts, done = [], 0
    for place, (word, script) in enumerate(zip(words, scripts, strict=True)):
        neighbours = {*scripts[max(0, place - 1) : place], *scripts[place + 1 : place + 2]}
        if script in ("", OTHER, LATIN) or (script in neighbours and has_latin):
            continue
        form = _in_script(word[0], LATIN)
        if len(form) >= SHORTEST and not _strangers(form, LATIN) and not _guesses(word[0], LATIN):
            parts += [text[done : word.start()], form]
            done = word.end()
    return "".join([*parts, text[done:]]) if parts else text


def _plain_latin(word: str) -> str:
    """A Latin word without letters that no alphabet has, such as small capitals."""
    letters = _look_alikes().to_latin
    return "".join(letters.get(letter, letter) for letter in word)


def _in_script(word: str, script: str) -> str:
    known = _look_alikes()
    back = known.from_latin.get(script, {})
    form = []
    for letter in word:
        if script_of(letter) in ("", script):
            form.append(letter)
            continue
        latin = letter if script_of(letter) == LATIN else known.to_latin.get(letter, "")
        form.append((latin if script == LATIN else back.get(latin, "")) or letter)
    return "".join(form)


def _strangers(word: str, script: str) -> int:
    return sum(script_of(letter) not in ("", script) for letter in word)


def _guesses(word: str, script: str) -> int:
    """How many letters would go to the script by MORE."""
    if script == LATIN:
        return sum(letter in MORE for letter in word)
    back = _look_alikes().from_latin.get(script, {})
    return sum(back.get(letter, "") in MORE for letter in word)


@lru_cache(maxsize=1 << 14)
def _script_of(word: str) -> str:
    """The script of a word; empty if there are several."""
    counts = _counts([word])
    return next(iter(counts)) if len(counts) == 1 else ""


def _counts(words: Iterable[str]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for letter, count in Counter("".join(words)).items():
        if script := script_of(letter):
            counts[script] += count
    return counts


@lru_cache(maxsize=1 << 14)
def script_of(letter: str) -> str:
    """The script of a letter; empty for what belongs to all scripts, or is no letter."""
    if not LETTERS.match(letter) or letter in KEPT or _patterns()[0].match(letter):
        return ""
    return next(
        (script for script, pattern in zip(SCRIPTS, _patterns()[1:], strict=True) if pattern.match(letter)), OTHER
    )


@lru_cache(maxsize=1)
def _patterns() -> Sequence[regex.Pattern[str]]:
    return [regex.compile(rf"\p{{Script={script}}}") for script in ("Common", *SCRIPTS)]


@lru_cache(maxsize=1)
def _look_alikes() -> LookAlikes:
    source = resources.files(confusable_homoglyphs) / "confusables.json"
    data: dict[str, list[dict[str, str]]] = json.loads(source.read_text("utf-8"))
    to_latin: dict[str, str] = {}
    for letter, alike in data.items():
        if len(letter) == 1 and not letter.isascii() and _is_disguise(letter):
            ascii_ = [
                each["c"] for each in alike if len(each["c"]) == 1 and each["c"].isascii() and each["c"].isalpha()
            ]
            same_case = [each for each in ascii_ if each.isupper() == letter.isupper()]
            if ascii_:
                to_latin[letter] = (same_case or ascii_)[0]
    to_latin |= _small_capitals() | MORE
    from_latin: dict[str, dict[str, str]] = {}
    for letter in sorted(to_latin, key=lambda letter: (letter in MORE, ord(letter))):
        script = script_of(letter)
        if script not in ("", LATIN, OTHER) and _is_modern(letter):
            from_latin.setdefault(script, {}).setdefault(to_latin[letter], letter)
    sure = {latin for latin, letter in from_latin["Cyrillic"].items() if letter not in MORE}
    return LookAlikes(to_latin, from_latin, frozenset(to_latin.keys() | sure))


def _is_disguise(letter: str) -> bool:
    """Whether the letter is none of an alphabet in use, or of another script than Latin."""
    script = script_of(letter)
    if script != LATIN:
        return script != "" and not WIDE.match(letter)
    return not unicodedata.decomposition(letter) and letter not in "ıƁƊɣʋɩƖ"


def _is_modern(letter: str) -> bool:
    return "\u0370" <= letter <= "\u03ff" or "\u0410" <= letter <= "\u045f" or ord(letter) >= 0x530


def _small_capitals() -> dict[str, str]:
    names = {
        chr(code): unicodedata.name(chr(code), "")
        for code in (*range(0x250, 0x2B0), *range(0x1D00, 0x1D2C), *range(0xA720, 0xA800))
    }
    prefix = "LATIN LETTER SMALL CAPITAL "
    return {
        letter: name[-1].lower()
        for letter, name in names.items()
        if name.startswith(prefix) and len(name) == len(prefix) + 1
    }
