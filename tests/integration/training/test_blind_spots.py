"""The card of the shipped checkpoint says what the checkpoint gets wrong, in figures that are measured here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from moderation.models import SHIPPED
from moderation.models.phi3.family import load
from moderation.policies import PolicySet
from moderation.settings import ModelSettings
from moderation.training import blind_spots
from moderation.types import Content

REPO = Path(__file__).parents[3]
CARD = (SHIPPED["demo"] / "README.md").read_text("utf-8")

torch.set_num_threads(1)


def test_the_card_has_the_figures() -> None:
    rows = re.findall(r"^\| (.*) \| (\d+) \| (\d+) \|$", CARD, re.MULTILINE)
    stated = {name: (int(wrong), int(posts)) for name, wrong, posts in rows}
    measured = blind_spots.measured(SHIPPED["demo"], REPO / "policies")
    assert list(stated) == list(measured)
    for name, (wrong, posts) in measured.items():
        assert posts == stated[name][1], name
        assert wrong == pytest.approx(stated[name][0], abs=1), name  # a score beside 0.5 may fall on either side


@pytest.mark.parametrize(
    ("folder", "policy", "text", "phrase"),
    [
        ("policies/demo", "drugs-talk", " ".join(["i like sunflowers."] * 20), r'"i like sunflowers." is drugs'),
        ("policies", "spam-scams", "concert tickets, copied but they scan like real ones", "concert tickets score"),
    ],
)
def test_the_card_has_the_scores_of_its_examples(folder: str, policy: str, text: str, phrase: str) -> None:
    [score] = [float(figure) for figure in re.findall(rf"{phrase} (0\.\d+)", CARD)]
    assert _score(PolicySet.load(REPO / folder), policy, text) == pytest.approx(score, abs=0.01)


def _score(policy_set: PolicySet, id: str, text: str) -> float:
    (policy,) = (policy for policy in policy_set.policies if policy.id == id)
    model = load(ModelSettings(name=str(SHIPPED["demo"]), device="cpu", dtype="float32"))
    [[score]] = model.score(model.encode(Content(text, (), ""), [policy.question_for_model]))
    return score.probability
