"""Plots of a policy's figures, as inline SVG for a page.

A threshold flags what scores at or above it. So a value of a curve holds between two scores, up to the higher one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from moderation.evaluation import report
from moderation.evaluation.testing.figures import BINS, Figures
from moderation.policies import PolicyThresholds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (5.2, 3.0)  # inches
VIOLATING, ALLOWED, MARK = "#a40e26", "#0969da", "#57606a"
HALVES = 2 * BINS  # columns of a histogram


def scores(figures: Figures, thresholds: PolicyThresholds) -> Markup:
    """How many posts have which probability, by label."""
    figure = report.figure(*SIZE)
    axes = figure.subplots()
    by_label = [
        [score.probability for score, violates in figures.scored if violates is label] for label in (True, False)
    ]
    edges = [step / HALVES for step in range(HALVES + 1)]
    axes.hist(by_label, bins=edges, stacked=True, color=[VIOLATING, ALLOWED], label=["violates", "allowed"])
    _thresholds(axes, thresholds)
    axes.set(xlim=(0, 1), xlabel="probability", ylabel="posts")
    axes.locator_params(axis="y", integer=True)
    axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(0.1, 1))
    return report.svg(figure)


def precision_and_recall(figures: Figures, thresholds: PolicyThresholds) -> Markup:
    """Both, over the threshold."""
    figure = report.figure(*SIZE)
    axes = figure.subplots()
    curve = figures.curve()
    lines = {
        "precision": (VIOLATING, [(point.threshold, point.precision.rate) for point in curve]),
        "recall": (ALLOWED, [(point.threshold, point.recall.rate) for point in curve]),
    }
    for name, (colour, points) in lines.items():
        known = [(threshold, rate) for threshold, rate in points if rate is not None]
        axes.step(*_columns(known), where="pre", color=colour, label=name)
    _thresholds(axes, thresholds)
    axes.set(xlim=(0, 1), ylim=(-0.03, 1.03), xlabel="threshold")
    axes.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0.1, 0))
    return report.svg(figure)


def reliability(figures: Figures) -> Markup:
    """The share of violating posts, by probability, with exact intervals."""
    figure = report.figure(*SIZE)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=MARK, linewidth=0.8, linestyle="--")
    bins = figures.calibration.bins if figures.calibration else ()
    for bin in bins:
        ends = bin.violating.interval
        axes.plot([bin.mean, bin.mean], [ends.low, ends.high], color=ALLOWED, linewidth=1)
        axes.plot([bin.mean], [bin.violating.rate or 0.0], color=ALLOWED, marker="o", markersize=5)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.03, 1.03), xlabel="mean probability", ylabel="share that violates")
    return report.svg(figure)


def flagged(figures: Figures, thresholds: PolicyThresholds) -> Markup:
    """The share of posts that a threshold flags."""
    figure = report.figure(*SIZE)
    axes = figure.subplots()
    points = [(point.threshold, point.flagged / point.posts) for point in figures.curve() if point.posts]
    axes.step(*_columns(points), where="pre", color=MARK)
    _thresholds(axes, thresholds)
    axes.set(xlim=(0, 1), ylim=(-0.03, 1.03), xlabel="threshold", ylabel="share that is flagged")
    return report.svg(figure)


def _columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _thresholds(axes: Axes, thresholds: PolicyThresholds) -> None:
    """A line at each threshold."""
    for name in ("review", "remove"):
        value = getattr(thresholds, name)
        axes.axvline(value, color=MARK, linewidth=0.8, linestyle=":")
        axes.annotate(
            name,
            (value, 1),
            xycoords=("data", "axes fraction"),
            fontsize="x-small",
            color=MARK,
            rotation=90,
            xytext=(-8, -2),
            textcoords="offset points",
            va="top",
        )
