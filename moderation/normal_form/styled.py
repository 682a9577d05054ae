"""Letters in another style: full width, mathematical, circled, squared, raised, and those of emoji."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import regex

# Signs that are letters in circles and squares, but not by their category.
CIRCLED = r"\u249c-\u24e9\U0001f110-\U0001f149\U0001f150-\U0001f169\U0001f170-\U0001f189"
SIGNS = rf"{CIRCLED}\u2160-\u217f\ufe0e\ufe0f"
BLOCKS = [  # the first and the last character
    ("\u00aa", "\u00ba"),
    ("\u02b0", "\u02e4"),
    ("\u1d2c", "\u1d6a"),
    ("\u1d78", "\u1d78"),
    ("\u1d9b", "\u1dbf"),
    ("\u2071", "\u209c"),
    ("\u2102", "\u2149"),
    ("\u2160", "\u217f"),
    ("\u249c", "\u24e9"),
    ("\u2c7c", "\u2c7d"),
    ("\ua7f2", "\ua7f9"),
    ("\uab5c", "\uab5f"),
    ("\ufb00", "\ufb06"),
    ("\uff10", "\uff5a"),
    ("\U0001d400", "\U0001d7ff"),
    ("\U0001f110", "\U0001f149"),
]
WHITE_ON_BLACK = [("\U0001f150", 26), ("\U0001f170", 26)]  # without a decomposition: the first, and how many
ROMAN = regex.compile(r"[\u2160-\u217f]")
WIDE = regex.compile(r"[\uff10-\uff5a]")
LIGATURES = regex.compile(r"[\ufb00-\ufb06]")
PRESENTED = regex.compile(r"[\ufb50-\ufbb1\ufbd3-\ufbff\ufe70-\ufefc]")  # Arabic letters by their form in a word
LETTER = regex.compile(rf"[[\p{{L}}{SIGNS}]--[\ufe0e\ufe0f]]", regex.V1)
ORDINAL = regex.compile(r"^\d+")  # as in 2ème with raised letters

FLAGS = regex.compile(r"[\U0001f1e6-\U0001f1ff]+")
CODES = (
    "AC AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ "
    "CA CC CD CF CG CH CI CK CL CM CN CO CP CQ CR CU CV CW CX CY CZ DE DG DJ DK DM DO DZ EA EC EE EG EH ER ES ET EU FI "
    "FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU IC ID IE IL IM IN IO IQ "
    "IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML "
    "MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS "
    "PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TA TC TD TF TG TH TJ TK "
    "TL TM TN TO TR TT TV TW TZ UA UG UM UN US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW"
)
REGIONS = frozenset(CODES.split())


def flags_as_letters(text: str) -> str:
    """The text with letters in place of the emoji that make flags, where they make none."""
    return FLAGS.sub(lambda run: _flags(run[0]), text)


def plain(word: str, wide: bool) -> str:
    """The word in plain letters, where it has others that are not ordinary there.

    wide: whether full-width letters are ordinary in the text.
    """
    if len(PRESENTED.findall(word)) > 1:
        word = PRESENTED.sub(lambda form: unicodedata.normalize("NFKC", form[0]).strip(), word)
    known = forms()
    found = [letter for letter in word if letter in known]
    if not found or not _disguised(word, found, wide):
        return word
    return "".join(known.get(letter, letter) for letter in word if letter not in "\ufe0e\ufe0f")


def _disguised(word: str, found: list[str], wide: bool) -> bool:
    """Whether the letters in another style are not those of an ordinary word."""
    letters = len(LETTER.findall(word))
    raised = sum(_is_raised(letter) for letter in found)
    roman = len(ROMAN.findall(word))
    in_width = [letter for letter in found if WIDE.match(letter)]
    other = len(found) - raised - roman - len(in_width)
    if LIGATURES.search(word):
        return True
    if in_width and not wide:
        return any(not letter.isdecimal() for letter in in_width) and letters > 1
    if wide and len({letter for letter in in_width if letter.islower()}) > 3:
        return True
    if raised > 2 and raised * 2 > letters and not ORDINAL.match(word):
        return True
    return letters > 1 and (other > 0 or roman > 3 or 0 < roman < letters)


def _flags(run: str) -> str:
    letters = "".join(chr(ord(sign) - 0x1F1E6 + ord("A")) for sign in run)
    pairs = {letters[at : at + 2] for at in range(0, len(letters), 2)}
    return run if pairs <= REGIONS else letters


def _is_raised(letter: str) -> bool:
    return unicodedata.decomposition(letter).startswith(("<super>", "<sub>"))


@lru_cache(maxsize=1)
def forms() -> dict[str, str]:
    """The plain form of each letter in another style."""
    found = {}
    for first, last in BLOCKS:
        for code in range(ord(first), ord(last) + 1):
            form = unicodedata.normalize("NFKC", chr(code)).strip("()")
            if unicodedata.decomposition(chr(code)) and form.isalnum():
                found[chr(code)] = form
    for first, count in WHITE_ON_BLACK:
        found |= {chr(ord(first) + place): chr(ord("A") + place) for place in range(count)}
    return found
