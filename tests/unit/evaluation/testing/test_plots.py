"""Plots of figures: each draws what there is, also where there is next to nothing."""

from __future__ import annotations

import xml.etree.ElementTree as xml
from collections.abc import Callable

import pytest

from moderation.evaluation.posts.golden import Labelled
from moderation.evaluation.testing import plots
from moderation.evaluation.testing.figures import Case, Figures
from moderation.policies import finding_of
from moderation.types import Answer, Score, YesNo
from tests.support.builders import a_policy, a_post

POLICY = a_policy()
SURE, UNSURE = Score(0.999, 6.9, 0.9), Score(0.5, 0.0, 0.9)


def a_case(violates: bool, answer: Answer) -> Case:
    labelled = Labelled(1, a_post(), violates, "", "seed", "dev", {})
    return Case(labelled, finding_of(POLICY, [answer]))


CASES = {
    "nothing": (),
    "no score": (a_case(True, YesNo(True)),),
    "one": (a_case(True, SURE),),
    "one label": (a_case(False, SURE), a_case(False, UNSURE)),
    "both": (a_case(True, SURE), a_case(False, UNSURE)),
}
DRAWN: dict[str, Callable[[Figures], str]] = {
    "scores": lambda figures: plots.scores(figures, POLICY.thresholds),
    "precision_and_recall": lambda figures: plots.precision_and_recall(figures, POLICY.thresholds),
    "reliability": plots.reliability,
    "flagged": lambda figures: plots.flagged(figures, POLICY.thresholds),
}


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize("plot", DRAWN)
def test_a_plot_is_drawn_of_whatever_there_is(plot: str, cases: str) -> None:
    drawn = DRAWN[plot](Figures(CASES[cases]))
    assert xml.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314  our own


def test_plots_show_the_thresholds_and_the_figures() -> None:
    few, many = Figures(CASES["one"]), Figures(CASES["both"] * 3)
    for plot, draw in DRAWN.items():
        drawn = draw(many)
        assert drawn != draw(few)
        assert all(f">{name}<" in drawn for name in ("review", "remove")) is (plot != "reliability")


def test_the_same_figures_give_the_same_drawing() -> None:
    """So a page in version control changes with its figures only."""
    one, other = (DRAWN["flagged"](Figures(CASES["both"])) for _ in range(2))
    assert one == other
