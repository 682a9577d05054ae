"""What kinds of characters a text has. One look at each distinct character decides that most texts have no disguise."""

from __future__ import annotations

from functools import lru_cache

from moderation.normal_form import invisible, look_alikes, marks, spelling, styled

# Kinds of characters, as bits: IntFlag takes ten times as long. From SCRIPT on, each script has a bit.
HIDDEN, FLAG, STYLED, MARK = 1, 2, 4, 8
ANY_MARK = 16  # of those for letters of any script
ODD = 32  # a Latin letter that no alphabet has
DIGIT = 64
OWN = 128  # a letter that looks like none of another script
SCRIPT = 256
BITS = {script: SCRIPT << place for place, script in enumerate([*look_alikes.SCRIPTS, look_alikes.OTHER])}
SUSPECT = STYLED | ANY_MARK | ODD


def of(text: str) -> int:
    """The kinds of all characters of the text, as bits of"""
    found = 0
    for letter in set(text):
        found |= _of(letter)
    return found


def may_be_disguised(text: str) -> bool:
    """Whether words of the text may have another normal form. False is certain."""
    kind = of(text)
    scripts = kind // SCRIPT  # as bits
    if kind & SUSPECT or scripts & (scripts - 1):  # more than one script
        return True
    if scripts > 1 and not kind & OWN:
        return True
    if kind & MARK and marks.STACKED.search(text):
        return True
    return bool(kind & DIGIT and spelling.SUSPECT.search(text))


@lru_cache(maxsize=1 << 14)
def _of(letter: str) -> int:
    kind = 0
    if invisible.ANY.match(letter):
        kind |= HIDDEN
    if styled.FLAGS.match(letter):
        kind |= FLAG
    if letter in styled.forms() or styled.PRESENTED.match(letter):
        kind |= STYLED
    if marks.MARK.match(letter):
        kind |= ANY_MARK if marks.MARKS.match(letter) else MARK
    if letter.isascii() and not letter.isalpha() and letter in f"0123456789{spelling.SIGNS}":
        kind |= DIGIT
    if script := look_alikes.script_of(letter):
        kind |= BITS[script] | (0 if look_alikes.is_shared(letter) else OWN)
        kind |= ODD if look_alikes.is_odd(letter) else 0
    return kind
