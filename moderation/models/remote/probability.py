"""Probabilities of model servers as scores."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from moderation.types import Reason, Score

SURE = 1e-6  # for its margin, a probability is at least this far from 0 and from 1
ROUNDING = 1e-6  # sums in float32 may exceed 1 by this much
LISTED_ROUNDING = 1e-2  # servers that compute in bfloat16 list logprobs with three digits


def score_of(probability: object, mass: float | None = None) -> Score:
    """The score of a probability of Yes. Raises ValueError if it is no number from 0 to 1.

    probability: as JSON had it. mass: share of the softmax that the answer tokens hold; None: the server does not say.
    """
    if isinstance(probability, bool) or not isinstance(probability, float | int):
        raise ValueError("the probability is no number")  # noqa: TRY004  servers' replies: see Wire
    if not -ROUNDING <= probability <= 1 + ROUNDING:  # NaN is refused, too
        raise ValueError("the probability is not in 0..1")
    bounded = min(1.0, max(0.0, float(probability)))
    inner = min(1 - SURE, max(SURE, bounded))
    return Score(bounded, math.log(inner) - math.log1p(-inner), mass)


@dataclass(frozen=True, slots=True)
class Listed:
    """A token that a server lists for a position."""

    token: str  # as the server spells it
    data: bytes | None  # its text in UTF-8, where the server tells
    logprob: float


# The forms of the answers in which a server is asked for ids: one token each, in most vocabularies.
FORMS = tuple(space + word for word in ("Yes", "yes", "YES", "No", "no", "NO") for space in ("", " "))
SPACES = str.maketrans({"▁": " ", "Ġ": " "})  # as SentencePiece, and as byte-level BPE spells a space
BYTES = re.compile(r"(?:<0x[0-9A-Fa-f]{2}>)+|(?:bytes:)?(?:\\x[0-9A-Fa-f]{2})+")  # tokens that are spelt as bytes


def answer_in(listed: Iterable[Listed]) -> Score | Reason:
    """The score that the first position of an answer gives; NO_ANSWER if it lists neither Yes nor No.

    P(Yes) is the share of the forms of Yes in those of Yes and No: any case, and with or without space around. A form
    that is not listed counts 0. The mass is what all of them hold. Raises ValueError for numbers that are no logprobs.
    """
    held = {"yes": 0.0, "no": 0.0}
    for entry in listed:
        if not entry.logprob <= LISTED_ROUNDING:  # NaN is refused, too
            raise ValueError("the logprob of a token is above 0")
        if (word := word_of(entry)) in held:
            held[word] += math.exp(entry.logprob)
    mass = held["yes"] + held["no"]
    if not mass:
        return Reason.NO_ANSWER
    if mass > 1 + LISTED_ROUNDING:
        raise ValueError("the tokens of a position hold more than all of the probability")
    return score_of(held["yes"] / mass, min(1.0, mass))


def word_of(entry: Listed) -> str:
    """The token's text without case and without space around."""
    text = entry.token
    try:
        if entry.data:
            text = entry.data.decode()
        elif BYTES.fullmatch(text):
            text = bytes.fromhex("".join(re.findall(r"x([0-9A-Fa-f]{2})", text))).decode()
    except UnicodeDecodeError:
        return ""  # a part of a character
    return text.translate(SPACES).strip().lower()
