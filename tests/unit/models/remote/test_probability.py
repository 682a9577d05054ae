"""Probabilities of model servers as scores."""

from __future__ import annotations

import json
import math

import pytest

from moderation.models.remote.probability import Listed, answer_in, score_of
from moderation.types import Reason, Score


@pytest.mark.parametrize("probability", [0.001, 0.25, 0.5, 0.9, 0.999_9])
def test_the_margin_is_the_logit(probability: float) -> None:
    score = score_of(probability)
    assert score.probability == probability
    assert score.margin == pytest.approx(math.log(probability / (1 - probability)), abs=1e-9)
    assert score.mass is None
    assert score.sound


@pytest.mark.parametrize(("probability", "sign"), [(0, -1), (0.0, -1), (1e-9, -1), (1, 1), (1.0, 1), (1 - 1e-9, 1)])
def test_the_margin_of_certainty_is_bounded(probability: float, sign: int) -> None:
    score = score_of(probability)
    assert score.probability == float(probability)
    assert score.margin == pytest.approx(sign * math.log((1 - 1e-6) / 1e-6))
    assert score.sound


def test_a_mass_is_kept() -> None:
    assert score_of(0.5, mass=0.75).mass == 0.75


def test_a_sum_in_float32_may_exceed_one() -> None:
    assert score_of(1.000_000_119).probability == 1.0
    assert score_of(-0.000_000_119).probability == 0.0


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1.001", "-0.001", "2", "1e999", "1" + "0" * 400])
def test_other_numbers_are_no_probability(text: str) -> None:
    with pytest.raises(ValueError, match=r"^the probability is not in 0\.\.1$"):
        score_of(json.loads(text))


@pytest.mark.parametrize("value", [None, True, False, "0.5", "secret", [0.5], {"probability": 0.5}])
def test_what_is_no_number_is_refused_without_a_quote(value: object) -> None:
    with pytest.raises(ValueError, match=r"^the probability is no number$"):
        score_of(value)


def listed(**tokens: float) -> list[Listed]:
    return [Listed(token, None, math.log(share)) for token, share in tokens.items()]


def test_all_forms_of_both_words_count() -> None:
    forms = {" Yes": 0.2, "▁yes": 0.1, "ĠYES": 0.05, "Yes\n": 0.05, "no": 0.1, "<0x4E><0x6F>": 0.06, "\\x4e\\x6f": 0.04}
    others = {"Yeah": 0.1, "Not": 0.1, "Y": 0.1, "": 0.1}
    score = answer_in(listed(**forms, **others))
    assert isinstance(score, Score)
    assert score.probability == pytest.approx(0.4 / 0.6)
    assert score.mass == pytest.approx(0.6)
    assert score.margin == pytest.approx(math.log(2))


def test_two_tokens_with_one_spelling_both_count() -> None:
    score = answer_in([*listed(Yes=0.2), *listed(Yes=0.1), *listed(No=0.1)])
    assert isinstance(score, Score)
    assert score.probability == pytest.approx(0.75)


def test_the_bytes_of_a_token_say_its_text() -> None:
    entries = [Listed("?", b" Yes", math.log(0.5)), Listed("No", b"\xc3", math.log(0.2)), *listed(no=0.25)]
    score = answer_in(entries)
    assert isinstance(score, Score)
    assert score.probability == pytest.approx(0.5 / 0.75)


def test_a_word_that_is_not_listed_counts_zero() -> None:
    score = answer_in(listed(Yes=0.4))
    assert isinstance(score, Score)
    assert score.probability == 1.0
    assert score.mass == pytest.approx(0.4)
    assert score.margin == pytest.approx(math.log((1 - 1e-6) / 1e-6))


@pytest.mark.parametrize("entries", [[], listed(I=0.9, am=0.05), [Listed("Yes", None, -9999.0)]])
def test_without_either_word_there_is_no_answer(entries: list[Listed]) -> None:
    assert answer_in(entries) is Reason.NO_ANSWER


@pytest.mark.parametrize("logprobs", [(math.nan, -1.0), (0.5, -1.0), (math.inf, -1.0), (0.0, 0.0)])
def test_what_is_no_logprob_is_refused(logprobs: tuple[float, float]) -> None:
    yes, no = logprobs
    with pytest.raises(ValueError, match=r"above 0|more than all"):
        answer_in([Listed("Yes", None, yes), Listed("No", None, no)])
