"""Probabilities of model servers as scores."""

from __future__ import annotations

import json
import math

import pytest

from moderation.models.remote.probability import score_of


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
