"""`moderation policies sample`: how many groups it draws unless it is told. Draws are tested in test_drawn.py."""

from __future__ import annotations

import pytest

from moderation.cli.policies.sample import SIZES, default_size
from moderation.evaluation.certifying.certification import Claim, smallest_n


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_the_strictest_threshold_of_a_grid_gets_labels_enough_to_pass(steps: int) -> None:
    """Each threshold lets about as many groups in as the one before, and the strictest is tested first."""
    assert default_size("remove", steps) // steps == smallest_n(3, Claim.at_least(0.95, 0.95)) == 153
    assert default_size("pool", steps) == SIZES["pool"]


def test_misses_have_no_grid() -> None:
    assert default_size("allow", 1) == smallest_n(0, Claim.at_most(0.01, 0.95)) == 299
