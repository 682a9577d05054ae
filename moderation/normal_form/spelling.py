"""Letters spaced out, and digits or signs in place of letters."""

from __future__ import annotations

import re
import unicodedata
from functools import partial
from itertools import pairwise

import regex

from moderation.normal_form import styled

# Single letters, and digits between them, with a gap after each but the last: k i l l, k-i-l-l.
CASED = rf"[\p{{Lu}}\p{{Ll}}\p{{Lt}}\p{{Hebrew}}\p{{Arabic}}{styled.CIRCLED}]"
GAP = r"(?:[\p{Zs}\t]{1,4}|(?:\r?\n){1,2}|[-_.*·•~]|[ ][-_.*·•~][ ])"
END = r"[\p{M}\ufe0f]*+(?![\p{L}\p{M}\p{N}'’])"
SPACED = regex.compile(
    rf"(?<![\p{{L}}\p{{M}}\p{{N}}'’@$]){CASED}{END}(?:{GAP}(?:{CASED}|[0-9@$!]){END}){{3,}}+", regex.V1
)
PIECES = regex.compile(rf"({CASED}|[0-9@$!])([\p{{M}}\ufe0f]*+)({GAP})?", regex.V1)
FEWEST = 4  # letters of a run that is closed, digits in place of letters included

LONGEST = 64  # characters of a word
SIGNS = "@$!"
LATIN = dict(zip("034567890@$!", "oeasgtbgoasi", strict=True))
CYRILLIC = dict(zip("0346@", "озчба", strict=True))
WEAK = "689"  # in a word of at least three letters
BETWEEN = r"[0-9@$!]{1,3}"
# The standard library's `re`: these two see every text, and it is faster.
SUSPECT = re.compile(rf"[^\W\d_]{BETWEEN}[^\W\d_]|(?<!\w)[0134579][^\W\d_]{{2}}|\w\$\$")
APART = re.compile(r"(?<![^\W_])[^\W\d_][\W_]{1,4}\w[\W_]{1,4}\w(?![^\W_])")  # three letters spaced out

RUNS = regex.compile(r"[0-9@$!]+")
LETTERS = regex.compile(r"\p{L}")
CYRILLIC_LETTER = regex.compile(r"\p{Cyrillic}")
ORDINARY = regex.compile(  # MP3s; 0xff; tod@s, of Spanish and Portuguese; names with the place behind them
    r"\p{L}{1,4}\d+s|0[xX]\p{L}+|\p{L}+@s?|\p{L}{4,}@\p{L}+"
)
POSTCODE = regex.compile(r"\p{Lu}{1,2}\d\p{Lu}")
CAMEL = regex.compile(r"\p{Ll}\d+\p{Lu}")  # iPhone15Pro
REPEATED = regex.compile(r"(.)\1")
VOWELS = "aeiouy"
CASED_ONLY = regex.compile(r"[\p{Lu}\p{Ll}]+")
# What stands behind a number: ordinals, units, times, endings of several languages.
ENDINGS = (
    "st nd rd th am pm bn mn mm cm dm km in ft yd mi kg mg lb oz ml cl dl kw kwh mw gw hz khz mhz ghz kb mb "
    "gb tb pb px pt fps dpi rpm mph kmh bar psi min sec hr hrs sek std uhr mth day yr yrs way wd up er era "
    "ere eme ers res nde re ra ro da do ta to va vo na no ma mo os as ten ter tes ste te de en et es fach mal "
    "tel jan feb mar apr mai may jun jul aug sep oct okt nov dec dez nya lu li inci ci go my ya yi oi ый ой "
    "ая го му ти ми шт лет год мин сек час руб тыс млн км см мм кг гр мл кв xl xs eur usd gbp kr zł kč ply "
    "pcs pax bit bits star all ish plus ki gi ti"
)
BEHIND_NUMBERS = frozenset(ENDINGS.split())


def closed(text: str) -> str:
    """The text without the gaps in words of four letters or more whose letters are spaced out."""
    return SPACED.sub(lambda run: _closed(run[0]), text)


def lettered(word: str) -> str:
    """The word with letters in place of digits and signs, if it mixes both as words in disguise do."""
    if len(word) > LONGEST or not SUSPECT.search(word):
        return word
    core = word.strip("@!")
    if not _is_disguised(core):
        return word
    first = LETTERS.search(core)
    table = CYRILLIC if first and CYRILLIC_LETTER.match(first[0]) else LATIN
    start = word.index(core)
    form = "".join(_letter(core, place, table) for place in range(len(core)))
    return word[:start] + form + word[start + len(core) :]


def _closed(run: str) -> str:
    pieces = [list(piece) for piece in PIECES.findall(run)]
    tail = ""
    while pieces and pieces[-1][0] in f"0123456789{SIGNS}":  # the number behind a word
        letter, marks, gap = pieces.pop()
        tail = letter + marks + gap + tail
        tail, pieces[-1][2] = pieces[-1][2] + tail, ""
    letters = [letter for letter, _, _ in pieces if LETTERS.match(letter) or not letter.isascii()]
    gaps = [gap for _, _, gap in pieces[:-1]]
    if len(pieces) < FEWEST or len(letters) < FEWEST - 1 or _is_ordinary(letters, gaps):
        return run
    usual = min(set(gaps), key=lambda gap: (len(gap), -gaps.count(gap)))
    return "".join(letter + marks + (" " if _ends_word(gap, usual) else "") for letter, marks, gap in pieces) + tail


def _ends_word(gap: str, usual: str) -> bool:
    """Whether a gap is more than the usual one of its run: longer, a new line, or a space among signs."""
    if len(gap) > len(usual):
        return True
    return ("\n" in gap and "\n" not in usual) or (gap.isspace() and not usual.isspace())


def _is_ordinary(letters: list[str], gaps: list[str]) -> bool:
    """Whether the letters are an abbreviation with full stops, all the same, or as in the alphabet."""
    if len(set(letters)) == 1:
        return True
    codes = [ord(letter) for letter in letters]
    if all(after - before == 1 for before, after in pairwise(codes)):
        return True
    return all("." in gap for gap in gaps) and all(letter.isupper() for letter in letters)


def _is_disguised(word: str) -> bool:
    letters = len(LETTERS.findall(word))
    runs = list(RUNS.finditer(word))
    inner = [run[0] for run in runs if run.start() > 0 and run.end() < len(word)]
    digits = sum(map(len, inner))
    if ORDINARY.fullmatch(word) or CAMEL.search(word) or letters < max(2, digits):
        return False
    if letters == digits and "1" in word:  # a11y
        return False
    table = f"1{''.join(CYRILLIC if CYRILLIC_LETTER.search(word) else LATIN)}"
    if any(sign not in table or (sign in WEAK and letters < 3) for run in inner for sign in run):
        return False
    if any(len(run) > 1 and not REPEATED.search(run) for run in inner):
        return False
    if word.isupper() and (POSTCODE.fullmatch(word) or (inner and letters < 3)):
        return False
    if word[0].isdecimal():
        return len(runs[0][0]) == 1 and word[0] in "0134579" and (bool(inner) or _is_word(word[1:], word[0]))
    return bool(inner) or word.endswith("$$")


def _is_word(rest: str, digit: str) -> bool:
    """Whether a digit and the rest make a word, and no number with what belongs to it."""
    if (
        not CASED_ONLY.fullmatch(rest)
        or _bare(rest) in BEHIND_NUMBERS
        or digit not in LATIN | {"1": "i"}
        or len(rest) < 2
    ):
        return False
    if len(rest) < 3 and not rest.islower():
        return False
    next_is_vowel = rest[0].lower() in VOWELS
    if digit in "57":
        return next_is_vowel or rest[0].lower() in ("chklmnptw" if digit == "5" else "hrw")
    return not next_is_vowel or digit == "1"


def _bare(word: str) -> str:
    """The word in lower case, without accents."""
    return "".join(letter[0] for letter in map(partial(unicodedata.normalize, "NFD"), word.lower()))


def _letter(word: str, place: int, table: dict[str, str]) -> str:
    """What the sign at this place stands for. The number behind a word stays."""
    sign = word[place]
    if sign not in table and (sign != "1" or table is CYRILLIC):
        return sign
    if place == len(word) - 1 and (sign in WEAK or word[place - 1].isdecimal()):
        return sign
    if not any(letter.isalpha() for letter in word[place:]) and len(word) - place > 1 and sign != "$":
        return sign
    form = table.get(sign) or _one(word, place)
    beside = word[place - 1 : place] + word[place + 1 : place + 2]
    return form.upper() if word.isupper() or (beside.isupper() and len(beside) > 1) else form


def _one(word: str, place: int) -> str:
    """The letter for which 1 stands: l where one is spelt so, i elsewhere."""
    before, after = word[place - 1 : place].lower() if place else "", word[place + 1 : place + 2].lower()
    if "1" in (before, after):
        return "l"
    if after and after in VOWELS and before in ("", *"bcfgps"):
        return "l"
    return "l" if before and before in VOWELS and after in ("", *"pfvkm") else "i"
