"""`moderation policies sample`: how many groups it draws unless it is told. Draws are tested in test_drawn.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moderation.cli.policies import sample as command
from moderation.cli.policies.sample import SIZES, default_size
from moderation.evaluation.certifying.certification import Claim, smallest_n
from moderation.settings import Settings
from tests.support.builders import a_policy


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_the_strictest_threshold_of_a_grid_gets_labels_enough_to_pass(steps: int) -> None:
    """Each threshold lets about as many groups in as the one before, and the strictest is tested first."""
    assert default_size("remove", steps) // steps == smallest_n(3, Claim.at_least(0.95, 0.95)) == 153
    assert default_size("pool", steps) == SIZES["pool"]


def test_misses_have_no_grid() -> None:
    assert default_size("allow", 1) == smallest_n(0, Claim.at_most(0.01, 0.95)) == 299


def test_a_seed_whose_labels_are_used_is_named_before_people_label(tmp_path: Path) -> None:
    policy, path = a_policy(), tmp_path / "no-lakes.golden.jsonl"
    plain = {"post": {"id": "a", "text": "x"}, "label": "violates"}
    used = {"split": "cert", "certificate": "0" * 16, "drawn": {"seed": 7, "group": "a" * 64}}
    said = [command._spent(policy, "no-lakes", tmp_path, 7, Settings())]
    path.write_text(f"{json.dumps(plain)}\n{json.dumps({**plain, 'post': {'id': 'b', 'text': 'y'}, **used})}\n")
    said += [command._spent(policy, "no-lakes", tmp_path, seed, Settings()) for seed in (8, 7)]
    said.append(command._spent(policy, str(tmp_path / "no-lakes.yaml"), Path("elsewhere"), 7, Settings()))
    assert said[:2] == ["", ""]
    assert said[2].startswith(f"{path}:2: the certificate {'0' * 16} has used labels of --seed 7:")
    assert said[3] == said[2]
